"""What is published can be read back, recomputed, and not be tampered with unnoticed."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pandas as pd
import pytest

from benchmark.result import Result
from leaderboard.publish import (
    all_attacks,
    as_csv,
    compare,
    count_other_editions,
    edition_folder,
    load,
    mark,
    merge,
    provenance,
    publish,
    rescoring_command,
    rows_of_older_code,
    several_versions,
)
from leaderboard.ranking import Board, defense_table, scenarios
from tests.leaderboard.conftest import hostile, make_board, make_result

MadeUp = tuple[list[Result], Board]


def test_tables_recomputed_from_the_scenarios_equal_the_csvs(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    publish(results, board, tmp_path)
    frame = scenarios(load(tmp_path))
    for name, table in (("defenses.csv", defense_table(frame, board)), ("attacks.csv", all_attacks(frame, board))):
        assert table.to_csv(index=False) == (tmp_path / name).read_text()
        assert len(pd.read_csv(tmp_path / name)) == len(table) > 5


def test_results_come_back_to_six_digits(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    publish(results, board, tmp_path)
    loaded = {r.key: r for r in load(tmp_path)}
    assert loaded == {r.key: Result.from_json(r.to_json()) for r in results}


def test_provenance_counts(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    publish(results, board, tmp_path)
    found = json.loads((tmp_path / "provenance.json").read_text())
    assert found["results"] == len(results)
    assert found["seeds"] == [0, 1, 2]
    assert found["statuses"]["skipped"] == 6
    assert found["protocol"] == "toy-v1"
    assert found["protocol_digest"] == "d1"
    assert found["seen"]["device"] == ["cpu"]
    assert "run_id" not in found["seen"]
    assert Board(**{k: tuple(v) if isinstance(v, list) else v for k, v in found["board"].items()}) == board


@pytest.mark.parametrize("damage", ["half", "byte", "other", "text", "alone"])
def test_a_damaged_file_is_one_line(made_up: MadeUp, tmp_path: Path, damage: str) -> None:
    results, board = made_up
    publish(results, board, tmp_path)
    path = tmp_path / "scenarios.parquet"
    data = path.read_bytes()
    changed = bytes([data[len(data) // 2] ^ 1])
    if damage == "alone":
        (tmp_path / "provenance.json").unlink()
    elif damage == "other":
        pd.read_parquet(path).assign(metrics='{"auc":0.5}').to_parquet(path)
    else:
        path.write_bytes(
            {
                "half": data[:1000],
                "byte": data[: len(data) // 2] + changed + data[len(data) // 2 + 1 :],
                "text": b"no Parquet",
            }[damage]
        )
    with pytest.raises(ValueError, match=r"scenarios\.parquet") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_matching_digest_does_not_make_records_of_anything(tmp_path: Path) -> None:
    import hashlib

    pd.DataFrame({"key": ["x"]}).to_parquet(tmp_path / "scenarios.parquet")
    digest = hashlib.sha256((tmp_path / "scenarios.parquet").read_bytes()).hexdigest()
    (tmp_path / "provenance.json").write_text(json.dumps({"sha256": digest}))
    with pytest.raises(ValueError, match="holds no results") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file(made_up: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, board = made_up
    publish(results, board, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        publish(results[:50], board, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_nothing_and_mixtures_are_not_published(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    with pytest.raises(ValueError, match="no results"):
        publish([], board, tmp_path)
    with pytest.raises(ValueError, match="versions"):
        publish([*results, results[0].model_copy(update={"protocol_digest": "d2"})], board, tmp_path)
    assert load(tmp_path) == []
    assert provenance(tmp_path) == {}


@pytest.mark.parametrize(
    "text",
    ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-", "=1,2", "=HYPERLINK(1)"],
)
def test_a_spreadsheet_computes_nothing_of_a_text(text: str) -> None:
    table = pd.DataFrame(
        {
            "name": ["a", text],
            "kind": pd.Categorical([text, "a"]),
            "value": [-1.5, float("nan")],
            "n": [-1, 2],
            "words": ["-0.5", "+1e-3"],
        }
    )
    rows = list(csv.reader(io.StringIO(as_csv(table), newline="")))
    assert rows[0] == list(table)
    shown = "'" + text.replace("\r", " ")
    assert rows[1:] == [["a", shown, "-1.5", "-1", "-0.5"], [shown, "a", "", "2", "+1e-3"]]


def test_published_tables_hold_no_formula(tmp_path: Path) -> None:
    results, board = make_board()
    publish(hostile(results), board, tmp_path)
    for name in ("defenses.csv", "attacks.csv"):
        with open(tmp_path / name, newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert any(cell.startswith("'=1 ") for cell in cells) and not any(cell.startswith("=") for cell in cells)


# --- Marks ------------------------------------------------------------------------------------------


def second(results: list[Result], **changes: object) -> dict[str, Result]:
    """A second scoring with the same numbers, a minute later."""
    return {r.key: r.model_copy(update={"finished": r.finished + 60} | changes) for r in results}


def scored(**changes: object) -> Result:
    base = make_result("membership", "a", "p", 0, intervals={"auc": (0.55, 0.65)})
    changes = {"metrics": {"auc": 0.6, "balanced_accuracy_oracle": 0.58}} | changes
    return base.model_copy(update=changes)


def test_a_second_scoring_with_the_same_numbers_marks(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    publish(results, board, tmp_path)
    rows = load(tmp_path)
    own = second([Result.from_json(r.to_json()) for r in results[:50]], isolation="bubblewrap")
    found = mark(rows, own)
    assert (found.agreed, found.marked, found.same, found.alone) == (50, 50, 0, len(rows) - 50)
    publish(found.results, board, tmp_path)
    marked = {r.key for r in load(tmp_path) if r.trust == "reproduced"}
    assert marked == set(own)
    assert all(r.isolation == "" for r in load(tmp_path)), "a mark changes nothing else"
    assert provenance(tmp_path)["trust"] == {"reproduced": 50, "self-reported": len(rows) - 50}


def test_one_scoring_is_not_two() -> None:
    row = scored()
    found = mark([row], {row.key: row})
    assert (found.same, found.agreed, found.results) == (1, 0, [row])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"metrics": {"auc": 0.66, "balanced_accuracy_oracle": 0.58}}, "auc 0.6 (0.55 to 0.65), here 0.66"),
        ({"metrics": {"auc": 0.6, "balanced_accuracy_oracle": 0.58002}}, "balanced_accuracy_oracle 0.58, here 0.58002"),
        ({"metrics": {"auc": 0.6}}, "balanced_accuracy_oracle 0.58, here nan"),
        ({"metrics": scored().metrics | {"f1": 0.5}}, "f1 nan, here 0.5"),
        ({"status": "skipped", "metrics": {}}, "status ok, here skipped"),
        ({"claims": {"epsilon": "1"}}, "claims {}, here"),
        ({"defense": "q"}, "defense p, here q"),
        ({"null_auc": (0.5, 0.6)}, "another null_auc"),
        ({"null_tpr": (0.01,)}, "another null_tpr"),
        ({"intervals": {"auc": (0.3, 0.65)}}, "another intervals"),
        ({"roc": ((0.0, 0.1, 1.0), (0.0, 0.9, 1.0))}, "another roc"),
        # The published value lies in its own, ever so wide interval; but not in the one found here.
        ({"intervals": {"auc": (0.61, 0.65)}, "metrics": {"auc": 0.63, "balanced_accuracy_oracle": 0.58}}, "auc 0.6, here 0.63 (0.61 to 0.65)"),
    ],
)  # fmt: skip
def test_what_differs_is_told_and_not_marked(changes: dict[str, object], word: str) -> None:
    row = scored()
    found = mark([row], second([row], **changes))
    assert found.results == [row]
    ((where, difference),) = found.differing
    assert where == row
    assert word in difference


def test_a_roc_on_other_points_is_the_same_curve() -> None:
    """Also where one more non-member comes first: the corner at FPR 0 falls by a third."""
    row = scored(roc=((0.0, 0.0, 0.2, 1.0), (0.0, 0.3, 0.6, 1.0)))
    assert mark([row], second([row], roc=((0.0, 0.001, 0.1, 0.2, 1.0), (0.0, 0.3, 0.45, 0.61, 1.0)))).marked == 1


def test_draws_of_a_null_are_compared_by_what_tables_take_of_them() -> None:
    row = scored(null_auc=(0.5, 0.52, 0.48, 0.51))
    assert mark([row], second([row], null_auc=(0.51, 0.48, 0.52, 0.5))).marked == 1
    assert mark([row], second([row], null_auc=(0.5, 0.62, 0.48, 0.51))).marked == 0


def test_a_tuned_row_can_be_reproduced_where_nothing_was_tuned() -> None:
    row = scored(claims={"epsilon": "1", "tuned": "30 trials on other splits, against loss"})
    found = mark([row], second([row], claims={"epsilon": "1"}))
    assert found.marked == 1 and found.results[0].claims == row.claims, "and stays marked as tuned"


def test_a_tuned_defense_stays_tuned_whoever_scores_it_again(made_up: MadeUp) -> None:
    results, _ = made_up
    said = {"tuned": "30 trials"}
    before = [r.model_copy(update={"claims": r.claims | said}) if r.defense == "selena" else r for r in results]
    merged = merge(results, before)
    assert {r.defense for r in merged if r.claims.get("tuned") == "30 trials"} == {"selena"}
    mine = [r.model_copy(update={"claims": {"tuned": "40 trials"}}) for r in results if r.defense == "selena"]
    assert {r.claims["tuned"] for r in merge(mine, before) if r.defense == "selena"} == {"40 trials"}


@pytest.mark.parametrize("auc", [0.55, 0.65, 0.6499, 0.550001])
def test_inside_the_interval_is_enough(auc: float) -> None:
    metrics = {"auc": auc, "balanced_accuracy_oracle": 0.580005}
    assert mark([row := scored()], second([row], metrics=metrics)).marked == 1


def test_nothing_is_lowered() -> None:
    rows = [scored(trust="official", key="o"), scored(trust="reproduced", key="r")]
    found = mark(rows, second(rows, trust="self-reported"))
    assert found.results == rows
    assert (found.agreed, found.marked) == (2, 0)
    other = mark(rows, second(rows, metrics={}))
    assert other.results == rows
    assert len(other.differing) == 2


def test_compare_names_every_verdict() -> None:
    new = scored(metrics={"auc": 0.7, "balanced_accuracy_oracle": 0.5})
    assert [c.verdict for c in compare(scored(), new)] == ["OUTSIDE", "different"]
    assert {c.verdict for c in compare(scored(), scored())} == {"inside", "equal"}


def test_publishing_anew_keeps_the_marks_of_what_is_unchanged(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    results = [r.model_copy(update={"trust": "reproduced"}) for r in results]
    publish(results, board, tmp_path)
    fresh = [r.model_copy(update={"trust": "self-reported", "finished": r.finished + 9, "cost": {}}) for r in results]
    fresh[0] = fresh[0].model_copy(update={"metrics": fresh[0].metrics | {"test_accuracy": 0.5}})
    fresh[1] = fresh[1].model_copy(update={"key": "of other code"})
    written = publish(fresh, board, tmp_path)
    lost = {r.key for r in load(tmp_path) if r.trust == "self-reported"}
    assert lost == {fresh[0].key, "of other code"} == {r.key for r in written if r.trust == "self-reported"}


def test_rows_of_two_versions_of_an_entry_are_told(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    made = {"defense_source": "aaaa", "attack_source": "bbbb"}
    rows = [r.model_copy(update={"provenance": made}) for r in results]
    assert several_versions(rows) == several_versions(results) == []
    i = next(i for i, r in enumerate(rows) if (r.attack, r.defense) == ("lira", "selena"))
    rows[i] = rows[i].model_copy(update={"provenance": made | {"attack_source": "cccc"}})
    assert several_versions(rows) == ["lira"]
    publish(rows, board, tmp_path)
    assert provenance(tmp_path)["several_versions"] == ["lira"]


def test_who_brings_another_version_is_told_what_to_score_again(made_up: MadeUp, tmp_path: Path) -> None:
    """And nobody is told of entries that were mixed before, or that an attack of one's own merely met."""
    results, board = made_up

    def of(rows: list[Result], attack: str = "a1", defense: str = "d1", **changes: object) -> list[Result]:
        made = {"attack_source": attack, "defense_source": defense}
        return [r.model_copy(update={"provenance": made, "key": f"{r.key} {attack} {defense}"} | changes) for r in rows]

    mixed = [*of(results[::2]), *of(results[1::2], defense="d2", attack="a2")]
    before = publish(mixed, board, tmp_path)
    assert len(several_versions(before)) > 3 and rows_of_older_code(before, before) == {}
    mine = [r.model_copy(update={"attack": "mine"}) for r in results if r.attack == "loss"]
    written = publish(merge(of(mine, defense="d2"), before), board, tmp_path)
    assert rows_of_older_code(written, before) == {}, "the defenses that it met were mixed before"
    other = [r for r in mine if r.defense in ("hamp", "selena") and r.seed == 0]
    rest = [
        r for r in written if r.attack == "mine" and (r.defense, r.seed) not in {(o.defense, o.seed) for o in other}
    ]
    again_written = publish(merge(of(other, "a9", "d2", finished=9e8 * 2), written), board, tmp_path)
    found = rows_of_older_code(again_written, written)
    assert found.keys() == {"mine"} and {r.key for r in found["mine"]} == {r.key for r in rest}
    assert rescoring_command("mine", rest, "toy-v1") == "leakboard run mine --protocol toy-v1"
    some = [r for r in rest if r.defense in ("hamp", "selena+diffence[n=10]")]
    assert (
        rescoring_command("mine", some, "toy-v1") == "leakboard run mine hamp 'selena+diffence[n=10]' --protocol toy-v1"
    )


def test_official_rows_have_a_folder_of_their_own(made_up: MadeUp, tmp_path: Path) -> None:
    results, board = made_up
    official = [r.model_copy(update={"trust": "official", "protocol_digest": "secret"}) for r in results]
    for rows in (results, official):
        publish(rows, board, edition_folder(rows, tmp_path))
    assert {r.trust for r in load(tmp_path)} == {"self-reported"}
    assert {r.trust for r in load(tmp_path / "official")} == {"official"}
    with pytest.raises(ValueError, match="never share a table"):
        publish([*results, *official], board, tmp_path)


def test_who_scored_one_attack_publishes_one_attack(made_up: MadeUp, tmp_path: Path) -> None:
    """Rows that the store lacks stay as they are, marks included; its own take their places."""
    results, board = made_up
    marked = [r.model_copy(update={"trust": "reproduced"}) for r in results]
    before = publish(marked, board, tmp_path)
    other = [r for r in results if r.attack == results[-1].attack]
    mine = [r.model_copy(update={"key": f"{r.key}'", "metrics": {}, "status": "skipped"}) for r in other]
    assert 0 < len(mine) < len(results)
    publish(merge(mine, before), board, tmp_path)
    after = load(tmp_path)
    assert len(after) == len(results)
    assert {r.key for r in after if r.trust == "self-reported"} == {r.key for r in mine}


@pytest.mark.parametrize(
    "changes", [{"protocol_digest": "d0"}, {"protocol": "toy-v0"}, {"trust": "official"}], ids=lambda c: next(iter(c))
)
def test_rows_that_share_no_table_are_not_merged(made_up: MadeUp, changes: dict[str, str]) -> None:
    results, _ = made_up
    strange = [r.model_copy(update=changes) for r in results]
    assert merge(results[:5], strange) == results[:5]
    assert (
        count_other_editions(results[:5], strange) == len(strange) and count_other_editions(results[:5], results) == 0
    )
