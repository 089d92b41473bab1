"""The privacy-utility view: points, the Pareto front, the reference, and Optuna's studies."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from benchmark.result import Result
from benchmark.run import studies
from leaderboard.comparison import estimate
from leaderboard.publish import publish, publish_studies
from leaderboard.ranking import AUC, Board, defense_table, scenarios
from leaderboard.views import tradeoff
from tests.leaderboard.conftest import app_page, texts

Toy = tuple[list[Result], Board]
REFERENCE = "claims differential privacy (reference)"
coordinates = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(coordinates)
def test_the_front_is_what_no_other_point_beats(pairs: list[tuple[int, int]]) -> None:
    points = pd.DataFrame(pairs, columns=["accuracy", "leakage"], dtype=float)
    kept = tradeoff.front(points.accuracy, points.leakage)
    beaten = {(a, b) for a, b in pairs for c, d in pairs if (c >= a and d <= b) and (c, d) != (a, b)}
    assert set(zip(points.accuracy[kept], points.leakage[kept], strict=True)) == set(pairs) - beaten
    assert kept.sum() == len(set(pairs) - beaten), "of equal points one is enough"


def points(made_up: Toy, summary: str, attack: str = "") -> pd.DataFrame:
    results, board = made_up
    frame = scenarios(results)
    found = tradeoff.points(frame, defense_table(frame, board), board, AUC, summary, attack)
    return found.set_index("defense", drop=False)


def test_the_worst_case_is_the_board_s(made_up: Toy) -> None:
    table = defense_table(*made_up).set_index("defense")
    found = points(made_up, "worst")
    for side in ("", "_low", "_high"):
        assert found.leakage.index.difference(table.index).empty
        pd.testing.assert_series_equal(
            found[f"leakage{side}"], table[f"worst_auc{side}"].reindex(found.index), check_names=False
        )
    assert found.kind["dp_sgd[noise=0.5]"] == REFERENCE
    assert found.kind["constant"] == "not ranked"
    assert not found.front["constant"]
    assert "hamp" not in found.index, "without lira on one seed it has no worst case"
    assert found.front["dp_sgd[noise=0.5]"], "nothing leaks less"


def test_one_attack_and_the_mean_come_with_intervals_over_seeds(made_up: Toy) -> None:
    values = {
        a: np.array([r.metrics[AUC] for r in made_up[0] if r.attack == a and r.defense == "selena"])
        for a in ("loss", "nn_sorted", "boundary")
    }
    one = points(made_up, "attack", "loss").loc["selena"]
    assert [one.leakage, one.leakage_low, one.leakage_high] == pytest.approx(list(estimate(values["loss"])))
    pool = defense_table(*made_up).attrs["pool"]
    assert set(values) < set(pool)
    rest = [[r.metrics[AUC] for r in made_up[0] if r.attack == a and r.defense == "selena"] for a in pool]
    mean = points(made_up, "mean").loc["selena"]
    assert [mean.leakage, mean.leakage_low, mean.leakage_high] == pytest.approx(list(estimate(np.mean(rest, axis=0))))


def test_the_mean_over_the_pool_keeps_defenses_on_which_a_variant_is_its_default(made_up: Toy) -> None:
    results, board = made_up
    of = [r for r in results if r.attack == "nn_sorted"]
    stronger = [r for r in of if "+" in r.defense]
    more = [
        r.model_copy(update={"attack": "nn_sorted[guards=target]", "metrics": r.metrics | {AUC: 0.9}})
        if r in stronger
        else r.model_copy(update={"attack": "nn_sorted[guards=target]", "status": "skipped", "metrics": {}})
        for r in of
    ]
    required = replace(board, required_attacks=(*board.required_attacks, "nn_sorted[guards=target]"))
    before, after = points(made_up, "mean"), points(([*results, *more], required), "mean")
    assert set(before.defense) == set(after.defense)
    assert after.leakage["selena+diffence[n=10]"] > before.leakage["selena+diffence[n=10]"]


def test_settings_of_the_reference_are_joined_by_epsilon(made_up: Toy) -> None:
    results, board = made_up
    other = []
    for r in results:
        if r.defense.startswith("dp_sgd"):
            claims = r.claims | {"epsilon": "2.5"} if r.claims else {}
            other.append(r.model_copy(update={"defense": "dp_sgd[noise=2]", "claims": claims, "key": f"2 {r.key}"}))
    found = points(([*results, *other], board), "worst")
    curve = found[found.curve != ""].sort_values("place")
    assert list(curve.defense) == ["dp_sgd[noise=2]", "dp_sgd[noise=0.5]"]
    assert set(curve.curve) == {"dp_sgd"}
    assert (points(made_up, "worst").curve == "").all(), "one setting is no curve"


def test_a_reference_has_an_epsilon(made_up: Toy) -> None:
    """Where it is void the row says why, and is held against nothing."""
    results, board = made_up
    void = [r.model_copy(update={"claims": r.claims | {"epsilon": "not valid for the cascade"}}) if r.claims else r for r in results]  # fmt: skip
    assert (points(made_up, "worst").kind == tradeoff.REFERENCE).any()
    found = points((void, board), "worst")
    assert not (found.kind == tradeoff.REFERENCE).any() and (found.kind == tradeoff.RANKED).any()


def test_what_an_attack_finds_below_chance_leaks(made_up: Toy) -> None:
    """An AUC of 0.3 is no protection (RULES 16): it counts as 0.7, as in the worst case."""
    results, board = made_up
    turned = [
        r.model_copy(update={"metrics": r.metrics | {"auc": 1 - r.metrics["auc"]}})
        if (r.task, r.attack, r.status) == ("membership", "lira", "ok") and "auc" in r.metrics else r
        for r in results
    ]  # fmt: skip
    for summary, attack in (("attack", "lira"), ("mean", "")):
        plain, other = (points((some, board), summary, attack).set_index("defense") for some in (results, turned))
        strong = plain.index[plain.leakage > 0.56]
        assert len(strong) and list(other.leakage[strong]) == pytest.approx(list(plain.leakage[strong]))


def study(folder: Path, name: str, leakage: str = AUC) -> None:
    """Three trials: two on the front, the last one beaten; and one that failed."""
    made = optuna.create_study(
        storage=f"sqlite:///{folder}/optuna.db", study_name=name, directions=["maximize", "minimize"]
    )
    made.set_user_attr("attacks", ["loss", "lira"])
    made.set_user_attr("leakage", leakage)
    for i, (accuracy, leak) in enumerate([(0.8, 0.6), (0.7, 0.55), (0.7, 0.58)]):
        known = {
            "defense": f"hamp[x={i}]",
            "decides": "lira",
            "test_accuracy": accuracy,
            "by_attack": {"loss": leak - 0.02, "lira": leak},
        }
        made.add_trial(create_trial(
            values=[accuracy, leak], user_attrs=known, params={"x": i}, distributions={"x": FloatDistribution(0, 9)}
        ))  # fmt: skip
    made.add_trial(create_trial(state=optuna.trial.TrialState.FAIL))


def test_studies_are_read_by_protocol(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    assert studies.read(url, "toy-v1") == []
    assert not list(tmp_path.iterdir()), "reading makes no database"
    for name in ("toy-v1 hamp abc", "toy-v12 hamp abc", "somebody else's"):
        study(tmp_path, name)
    found = studies.read(url, "toy-v1")
    assert [(s.name, s.defense, s.leakage, s.attacks) for s in found] == [
        ("toy-v1 hamp abc", "hamp", AUC, ("loss", "lira"))
    ]
    assert [t.accuracy for t in found[0].trials] == [0.8, 0.7, 0.7]
    assert found[0].trials[0].by_attack == {"loss": pytest.approx(0.58), "lira": 0.6}


def test_published_studies_are_those_that_were_read(tmp_path: Path) -> None:
    for name in ("toy-v1 hamp abc", "toy-v1 hamp def"):
        study(tmp_path, name)
    found = studies.read(f"sqlite:///{tmp_path}/optuna.db", "toy-v1")
    new = tmp_path / "published" / "toy-v1"
    assert studies.published(new, "toy-v1") == []
    assert publish_studies(found[:1], new, "toy-v1") == 1
    assert publish_studies(found[1:], new, "toy-v1") == 2, "those of another machine stay"
    assert studies.published(new, "toy-v1") == found
    assert studies.published(new, "toy-v2") == []
    trials = found[0].trials
    elsewhere = [replace(found[0], trials=(trials[0], trials[1]._replace(defense="hamp[x=9]")))]
    assert publish_studies(elsewhere, new, "toy-v1") == 2
    assert publish_studies([replace(found[1], trials=())], new, "toy-v1") == 2
    assert [[t.defense for t in s.trials] for s in studies.published(new, "toy-v1")] == [
        ["hamp[x=0]", "hamp[x=1]", "hamp[x=2]", "hamp[x=9]"],
        ["hamp[x=0]", "hamp[x=1]", "hamp[x=2]"],
    ], "two machines that ran one command: the trials of both, none twice"


def test_names_of_published_studies_are_made_fit_to_be_shown(tmp_path: Path) -> None:
    trial = studies.Trial("hamp\x1b[2J", 0.5, 0.5, "lo\nss", {"lo\nss": 0.5})
    (tmp_path / studies.PUBLISHED).write_bytes(
        studies.as_file([studies.Study("t a\n b", "a\n", AUC, ("\x07",), (trial,))])
    )
    (found,) = studies.published(tmp_path, "t")
    assert "".join([found.name, found.defense, *found.attacks, *found.trials[0].by_attack]).isprintable()
    assert "".join([found.trials[0].defense, found.trials[0].decides]).isprintable()


STUDY = '[{"name":"toy-v1 hamp a","defense":"hamp","leakage":"auc","attacks":["loss"],"trials":[["hamp",0.5,0.5,"loss",{"loss":0.5}]]}]'
HOSTILE_STUDIES = {
    "empty": "", "no list": "{}", "half": '[{"name": "toy-v1 x y"}]', "no JSON": "\xff" * 99, "NaN": STUDY.replace("0.5,0.5", "0.5,NaN"),
    "infinity": STUDY.replace("0.5,0.5", "0.5,1e999"), "beyond": STUDY.replace("0.5,0.5", "0.5,7"), "a text": STUDY.replace("0.5,0.5", '0.5,"0.5"'),
    "twice": STUDY.replace('{"loss":0.5}', '{"loss":0.5,"loss":0.9}'), "another measure": STUDY.replace('"auc"', '"zzz"'),
    "nested without end": "[" * 100_000, "long": STUDY.replace("hamp a", "hamp " + "a" * 3000), "large": " " * (5 << 20) + STUDY,
}  # fmt: skip


@pytest.mark.parametrize(
    "content", [pytest.param(text.encode("latin-1"), id=name) for name, text in HOSTILE_STUDIES.items()]
)
def test_a_damaged_file_of_studies_is_a_line_and_stays(folder: Path, made_up: Toy, content: bytes) -> None:
    publish(*made_up, folder / "toy-v1")
    path = folder / "toy-v1" / studies.PUBLISHED
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds no studies") as error:
        publish_studies([], folder / "toy-v1", "toy-v1")
    assert "\n" not in str(error.value) and path.read_bytes() == content
    app = app_page("tradeoff", metric="AUC").run()
    assert not app.exception
    assert "studies.json holds no studies" in texts(app)


def test_a_fresh_clone_draws_the_published_studies(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    study(folder, "toy-v1 hamp abc")
    publish_studies(studies.read(f"sqlite:///{folder}/optuna.db", "toy-v1"), folder / "toy-v1", "toy-v1")
    (folder / "optuna.db").unlink()
    app = app_page("tradeoff", metric="AUC").run()
    assert not app.exception
    table = app.dataframe[0].value
    assert list(table[table.reason == "tuning split"].defense) == ["hamp[x=0]", "hamp[x=1]"]


def test_an_unreadable_database_of_studies_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").touch()  # as a command that is about to make it leaves it
    assert studies.read(f"sqlite:///{tmp_path}/optuna.db", "toy-v1") == []
    content = b"not a database" * 99
    (tmp_path / "optuna.db").write_bytes(content)
    with pytest.raises(ConnectionError, match="can't be read") as error:
        studies.read(f"sqlite:///{tmp_path}/optuna.db", "toy-v1")
    assert "\n" not in str(error.value)
    assert (tmp_path / "optuna.db").read_bytes() == content


def test_the_page_draws_a_study_s_front_and_says_where_it_was_scored(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    study(folder, "toy-v1 hamp abc")
    study(folder, "toy-v1 hamp def", "tpr_at_fpr_0.01")
    app = app_page("tradeoff", metric="AUC").run()
    assert not app.exception
    table = app.dataframe[0].value
    tuned = table[table.reason == "tuning split"]
    assert list(tuned.defense) == ["hamp[x=0]", "hamp[x=1]"]
    assert list(tuned.leakage) == [0.6, 0.55]
    said = texts(app)
    assert "on tuning splits that no rank uses, against 2 attacks (the board's worst case: " in said
    assert "1 more study measures the other metric: choose it above." in said
    app.button_group(key="leakage").set_value("attack").run()
    app.selectbox(key="against").select("loss").run()
    table = app.dataframe[0].value
    assert list(table[table.reason == "tuning split"].leakage) == pytest.approx([0.58, 0.53])
    app.button_group(key="leakage").set_value("mean").run()
    table = app.dataframe[0].value
    assert list(table[table.reason == "tuning split"].leakage) == pytest.approx([0.59, 0.54])


def test_a_damaged_database_is_a_message_on_the_page(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    Path(os.environ["LEAKBOARD_OPTUNA"].removeprefix("sqlite:///")).write_text("not a database")
    app = app_page("tradeoff").run()
    assert not app.exception
    assert "can't be read" in texts(app)
    assert len(app.dataframe[0].value) >= 8
