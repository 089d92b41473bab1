"""Where an audited model would stand on a board: the plot without a rank for it, and what may be compared."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from leaderboard import standing
from leaderboard.forest import forest_beside
from leaderboard.ranking import AUC, TPR, defense_table, scenarios
from tests.leaderboard.conftest import EVIL, make_audit, make_board

RESULTS, BOARD = make_board()
FRAME = scenarios(RESULTS)
TABLE = defense_table(FRAME, BOARD)


def facts(**changes: Any) -> standing.Facts:
    return standing.Facts(**(vars(standing.facts(FRAME, TABLE, BOARD, canaries=False)) | changes))


def rows(html: str) -> list[tuple[str, str]]:
    """Rank and name of each row, from top to bottom."""
    found = re.findall(
        r'<li class="lb-row.*?"><span class="lb-rank"[^>]*>(.*?)</span><span class="lb-name"><b title="(.*?)">',
        html,
        re.DOTALL,
    )
    return [(re.sub("<.*?>.*?</.*?>", "", rank), unescape(name)) for rank, name in found]


def test_what_a_board_rests_on() -> None:
    found = facts()
    assert (found.dataset, found.architecture, found.seeds) == ("toy", "tiny", 3)
    assert found.classes == 3, "as many as a record has AUCs within classes"
    assert (found.members, found.nonmembers) == (1000, 1000)
    assert found.tracks["lira"] == "posterior/references-online" and "random" not in found.tracks


@pytest.mark.parametrize("metric", [AUC, TPR])
@pytest.mark.parametrize("value", [0.001, 0.5, 0.999])
def test_the_model_stands_by_its_value_and_has_no_rank(metric: str, value: float) -> None:
    case = make_audit().worst[metric].model_copy(update={"value": value, "low": value, "high": value, "null": 0.0})
    mine = standing.beside(make_audit(worst={metric: case.model_dump()}), metric)
    html = forest_beside(TABLE, metric, mine, "toy", BOARD.baseline, {}, BOARD.required_defenses)
    names = [name for _, name in rows(html)]
    ranked = TABLE[TABLE.reason == ""].set_index("defense")[f"worst_{metric}"].sort_values(kind="stable")
    expected = [*ranked.index[ranked < value], "Mine", *ranked.index[ranked >= value]]
    assert names == expected, "one setting of each defense is there"
    assert [name for rank, name in rows(html) if rank == "audit"] == ["Mine"]
    assert html.count('lb-mine"') == 1 and html.count("lb-dot") - html.split("</style>")[0].count("lb-dot") == len(
        names
    )


@pytest.mark.parametrize(
    ("null", "said"),
    [
        (0.6, r"\(95 %: 0\.55\d* to 0\.61\d*\), not above chance\. It has no rank among the \d defenses\."),
        (0.53, r"\), above \S+ \(0\.\d+\) and below \S+ \(0\.\d+\)\. It has no rank"),
    ],
)
def test_what_is_not_above_chance_has_no_neighbours(null: float, said: str) -> None:
    case = make_audit().worst[AUC].model_copy(update={"null": null})
    mine = standing.beside(make_audit(worst={AUC: case.model_dump()}), AUC)
    html = forest_beside(TABLE, AUC, mine, "toy", BOARD.baseline)
    lead = re.search(r'<p class="lb-lead">(.*?)</p>', html)
    assert lead and re.search(said, unescape(lead[1])), lead
    assert ("lb-row lb-chance lb-mine" in html) == (null > 0.58)


def test_a_metric_is_shown_where_both_have_it() -> None:
    assert standing.metrics(make_audit(), TABLE)[0] == TABLE.attrs["metric"]
    assert {*standing.metrics(make_audit(), TABLE)} == {AUC, TPR}, "a balanced accuracy is no worst case of a board"
    auc = {AUC: make_audit().worst[AUC].model_dump()}
    assert standing.metrics(make_audit(worst=auc), TABLE) == [AUC]
    assert standing.metrics(make_audit(), TABLE.assign(reason="no")) == []


def test_when_the_two_do_not_compare() -> None:
    audit = make_audit()
    assert standing.verdict(audit, facts(classes=10))[0] and standing.verdict(audit, facts(classes=None))[0]
    assert "only if the model was trained on toy" in standing.verdict(audit, facts(classes=10))[1]
    unclear = audit.model_copy(update={"verdict": audit.verdict.model_copy(update={"state": "unclear"})})
    for given, known, why in (
        (unclear, facts(classes=10), "the audit is unclear"),
        (audit, facts(classes=10, canaries=True), "planted canaries"),
        (audit, facts(), "other data. It tells 10 classes apart; toy has 3"),
    ):
        fits, said = standing.verdict(given, known)
        assert not fits and why in said


def test_what_differs_is_counted() -> None:
    said = " ".join(standing.differences(make_audit(), facts()))
    assert "500 members and 400 non-members here, 1,000 and 1,000 of each model there" in said
    assert "of the 4 that decide there, 1 ran and count here (not boundary, lira, nn_sorted)" in said
    assert "Reference models: none here; 1 of the attacks there have some" in said and "3 seeds" in said
    silent = make_audit().attacks[0].model_copy(update={"counts": False})
    assert "4 that decide there, 0 ran" in " ".join(
        standing.differences(make_audit(attacks=[silent.model_dump()]), facts())
    )
    without = facts(tracks={"loss": "posterior/none"})
    assert "Reference models" not in " ".join(standing.differences(make_audit(), without))


def test_foreign_texts_are_text() -> None:
    case = make_audit().worst[AUC].model_dump() | {"attack": EVIL}
    mine = standing.beside(make_audit(title=EVIL, worst={AUC: case}), AUC)
    html = forest_beside(TABLE, AUC, mine, EVIL, BOARD.baseline)
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;" in html
