"""Tuning: what is searched, on which splits, what the front is, and that a killed command goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from rich.console import Console

from benchmark import protocol as protocols
from benchmark.entries.registry import Registry
from benchmark.errors import UserError
from benchmark.metrics import hypervolume
from benchmark.run import studies, tuning, work
from benchmark.run.executors import Ended
from benchmark.run.tuning import (
    Scored,
    Tuning,
    defaults,
    enqueue,
    paper_grid,
    propose,
    space,
    tuning_attacks,
    tuning_protocol,
    with_choices,
)
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.store import Store
from tests.conftest import Home, save_unet

ROOT = Path(__file__).resolve().parents[2]
SMOKE = protocols.load("smoke")

DEFENSE = """
from benchmark.api import Annotated, Card, Defense, Field, Hyper, Literal, Search

class Mine(Defense):
    card = Card(title="Mine", authors=(), reference="a test", year=None)
    stages = ("STAGE",)

    class Params(Hyper):
        strength: Annotated[float, Field(ge=0), Search(0.1, 10, log=True, grid=(0.05, 1, 2))] = 1.0
        count: Annotated[int, Field(ge=1), Search(1, 9)] = 3
        rate: Annotated[float | None, Field(gt=0), Search(0.01, 1)] = None
        kind: Literal["soft", "hard"] = "soft"
        as_released: bool = False
        fixed: float = 2.0
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """`mine` trains, `after` guards with the same hyperparameters, and the tree's own entries."""
    for kind in ("attacks", "defenses"):
        (tmp_path / kind).mkdir()
        for path in (ROOT / "submissions" / kind).glob("*.py"):
            (tmp_path / kind / path.name).symlink_to(path)
    (tmp_path / "defenses" / "mine.py").write_text(DEFENSE.replace("STAGE", "training"))
    guard = "\n    def guard(self, predict, state, context):\n        return predict\n"
    (tmp_path / "defenses" / "after.py").write_text(DEFENSE.replace("STAGE", "post-inference") + guard)
    return Registry(tmp_path)


def searched(registry: Registry, spec: str) -> list[str]:
    return [d.label for d in space(registry.chain(spec, "undefended"), SMOKE)]


def test_what_is_searched(registry: Registry) -> None:
    names = ["strength", "count", "rate", "kind"]
    assert searched(registry, "mine") == [f"0.{n}" for n in names], "neither switches nor what has no range"
    assert searched(registry, "mine[strength=1,kind=soft]") == ["0.count", "0.rate"], "what is given stays"
    assert searched(registry, "mine[count=2]+after") == ["0.strength", "0.rate", "0.kind", *(f"1.{n}" for n in names)]
    assert searched(registry, "after") == [f"1.{n}" for n in names], "guards alone: what they guard is not tuned"
    assert searched(registry, "undefended") == ["0.epochs", "0.weight_decay", "0.early_stopping"]
    chain = Registry(ROOT / "submissions").chain("diffence[external=mine,scenario=3]", "undefended")
    assert [d.name for d in space(chain, SMOKE)] == ["n", "timestep"], (
        "nothing is trained: what says how is not searched"
    )
    assert searched(registry, "undefended[epochs=2,weight_decay=0]") == ["0.early_stopping"]


def test_the_first_trial_is_the_papers_own(registry: Registry) -> None:
    chain = registry.chain("mine+after[count=4]", "undefended")
    dimensions = space(chain, SMOKE)
    study = optuna.create_study(directions=["maximize", "minimize"])
    enqueue(study, dimensions, defaults(dimensions))
    chosen = propose(study.ask(), dimensions)
    assert with_choices(chain, chosen, registry, "undefended") == chain.name == "mine+after[count=4]"
    for _ in range(20):
        chosen = propose(study.ask(), dimensions)
        assert chosen.keys() == {0, 1} and len(chosen[0]) == 4 and len(chosen[1]) == 3, "a search varies everything"
        name = with_choices(chain, chosen, registry, "undefended")
        read = registry.chain(name, "undefended")
        assert read.name == name and read.guards[0].params.count == 4, "names are read back"  # type: ignore[attr-defined]
        assert 0.1 <= read.training.params.strength <= 10  # type: ignore[attr-defined]
        assert name.count("=") <= 9 and len(name) < 120, "and short"


@pytest.mark.parametrize("spec", ["distillation", "undefended", "dp_sgd"])
def test_none_may_be_the_papers_own_choice(tmp_path: Path, registry: Registry, spec: str) -> None:
    """Distillation without a teacher of another architecture; what the recipe says of epochs, rates and batches."""
    study = made(tmp_path, registry, spec=spec)
    assert study._ask()[1] == study.chain.name == spec


def test_the_papers_grid(registry: Registry) -> None:
    chain = registry.chain("mine", "undefended")
    dimensions = space(chain, SMOKE, grid=True)
    grid = paper_grid(dimensions)
    study = optuna.create_study()
    enqueue(study, dimensions, grid[0])
    name = with_choices(chain, propose(study.ask(), dimensions), registry, "undefended")
    assert name == "mine[strength=0.05]", "below the range of a search"
    assert [t["0.strength"] for t in grid] == [0.05, 1, 2]
    assert all({k: v for k, v in t.items() if k != "0.strength"}.items() <= defaults(dimensions).items() for t in grid)
    with pytest.raises(UserError, match="expected a defense whose Search"):
        paper_grid(space(registry.chain("mine[strength=1]", "undefended"), SMOKE))


def test_tuning_splits_are_no_boards(registry: Registry) -> None:
    from benchmark.data.population import populate

    attacks = tuning_attacks(protocols.load("digits-v2"), registry)
    needs = [registry.attack(a).entry.needs for a in attacks]
    assert attacks and not any(n.startswith("references") for need in needs for n in need)
    assert "random_scores" not in attacks, "null rows tell nothing"
    assert tuning_protocol(SMOKE, attacks, 4).seeds == (10_000, -10_000, 10_001, -10_001), "in mirrored pairs"
    own = tuning_protocol(SMOKE, attacks, 2)
    assert not set(own.seeds) & set(SMOKE.seeds) and own.name != SMOKE.name
    parts = [
        set(populate(p, s).parts["target-train"].tolist())
        for p, s in ((own, own.seeds[0]), (own, own.seeds[1]), (SMOKE, 0))
    ]
    assert parts[0] != parts[1] != parts[2] != parts[0]


def made(tmp_path: Path, registry: Registry, spec: str = "mine", **changes: Any) -> Tuning:
    chain = registry.chain(spec, "undefended")
    setting: Any = SimpleNamespace(protocol=tuning_protocol(SMOKE, ("loss",), 1), store=tmp_path / "store")
    settings: dict[str, Any] = {"leakage": "auc", "floor": 0.0, "url": f"sqlite:///{tmp_path}/optuna.db", "grid": []}
    return Tuning(chain, space(chain, SMOKE), setting, registry, **(settings | changes))


def proposal(spec: str) -> tuning.Proposal:
    return tuning.Proposal(0, spec, "auc", 0.0, {})


def test_the_front_is_what_nothing_beats(tmp_path: Path, registry: Registry) -> None:
    study = made(tmp_path, registry)
    values = [(0.9, 0.6), (0.8, 0.7), (0.8, 0.5), (0.95, 0.9), (0.9, 0.65), (0.7, 0.5), (0.9, 0.6)]
    for i, value in enumerate(values):
        trial = study.study.ask()
        for name, attribute in {"defense": f"d{min(i, 5)}", "decides": "loss", "test_accuracy": value[0]}.items():
            trial.set_user_attr(name, attribute)
        study.study.tell(trial, list(value))
    beaten = {v for v in values if any(a >= v[0] and b <= v[1] and (a, b) != v for a, b in values)}
    front = study.front()
    assert {(p.accuracy, p.leakage) for p in front} == set(values) - beaten == {(0.95, 0.9), (0.9, 0.6), (0.8, 0.5)}
    assert [p.accuracy for p in front] == sorted((p.accuracy for p in front), reverse=True)


def test_a_random_search_and_another_seed_are_studies_of_their_own(tmp_path: Path, registry: Registry) -> None:
    plain, blind, other = (made(tmp_path, registry, **k) for k in ({}, {"random": True}, {"seed": 1}))
    assert len({plain.name, blind.name, other.name}) == 3
    drawn = []
    for one in (blind, made(tmp_path, registry, random=True, seed=2)):
        one._ask()  # the paper's own setting comes first in each
        drawn.append(one._ask()[1])
    assert drawn[0] != drawn[1]


def test_the_same_command_goes_on_and_another_makes_its_own(tmp_path: Path, registry: Registry) -> None:
    first = made(tmp_path, registry)
    assert first.study.trials[0].state == TrialState.WAITING
    assert len(made(tmp_path, registry).study.trials) == 1, "the first trial is not queued again"
    others = [
        made(tmp_path, registry, **c).name
        for c in ({"leakage": "tpr_at_fpr_0.01"}, {"floor": 0.5}, {"spec": "mine[count=1]"})
    ]
    assert len({first.name, *others}) == 4
    with pytest.raises(UserError, match="--storage: expected a database"):
        made(tmp_path, registry, url="nonsense://x")


def test_whoever_comes_second_to_an_empty_database_looks_again(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, asked = optuna.create_study, 0

    def late(**options: Any) -> optuna.Study:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise RuntimeError("Key (version_num)=(v3.2.0.a) already exists. (postgresql://me:secret@host/optuna)")
        return create(**options)

    monkeypatch.setattr(tuning.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(optuna, "create_study", late)
    assert made(tmp_path, registry).study.trials and asked == 3
    monkeypatch.setattr(tuning, "_OPENINGS", 2)
    asked = 0
    with pytest.raises(UserError, match=r"already exists.*postgresql://me:\*\*\*@host/optuna"):
        made(tmp_path, registry)


ADDRESSES = [
    "sqlite:///o.db?timeout=60", "sqlite+pysqlite:///below/o.db", "sqlite:///a%20b/o.db?timeout=60",
    "sqlite:////TMP/é 50%25/o.db", "sqlite:///file:below/o.db?uri=true",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_study_is_found_at_whatever_address_it_is_kept(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Driver, query, escapes, relative or not: who tunes and who publishes read the address alike."""
    monkeypatch.chdir(tmp_path)
    url = address.replace("/TMP", str(tmp_path))
    assert studies.read(url, "smoke") == []
    assert not list(tmp_path.rglob("*.db*")), "and nothing is made by looking"
    before = os.umask(0o002)
    try:
        study = made(tmp_path, registry, url=url)
    finally:
        os.umask(before)
    assert [s.trials for s in studies.read(url, "smoke")] == [()]
    trial, spec = study._ask()
    study._tell(trial, Ended(proposal(spec), "made", Scored(0.9, 0.6, "loss", {"loss": 0.6})))
    (found,) = studies.read(url, "smoke")
    assert found.trials == ((spec, 0.9, 0.6, "loss", {"loss": 0.6}),) and found.attacks == ("loss",)
    (file,) = [p for p in tmp_path.rglob("*.db*") if p.is_file()]
    assert stat.S_IMODE(file.stat().st_mode) == 0o664, "the umask says who else may tune"


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be one" * 100, None], ids=["text", "folder"]
)
@pytest.mark.parametrize("address", ["sqlite:///o.db", "sqlite:///o.db?timeout=60", "sqlite+pysqlite:////TMP/o.db"])
def test_publish_says_which_studies_it_cannot_read(scored: Home, address: str, content: bytes | None) -> None:
    path = scored.folder / "o.db"
    path.mkdir() if content is None else path.write_bytes(content)
    scored.patch.setenv("LEAKBOARD_OPTUNA", address.replace("/TMP", str(scored.folder)))
    ended = scored.call("publish", "--protocol", "smoke")
    assert ended.code == 2 and "Traceback" not in ended.err
    assert "Optuna's studies at sqlite" in ended.err and "can't be read" in ended.err


SECRETS = [
    "postgresql://judge:Tr0ub@dor77@127.0.0.1:1/db", "postgresql://judge:Tr0ub/dor77@127.0.0.1:1/db",
    "postgresql+psycopg://judge:Tr0ub%40dor77@127.0.0.1:1/db", "postgresql+psycopg://judge@127.0.0.1:1/db?password=Tr0ub@dor77",
    "nonsense://judge:Tr0ubdor77@h/db", "mysql+none://judge:Tr0ub:dor77@h/db", "Tr0ub@dor77",
]  # fmt: skip


@pytest.mark.parametrize("url", SECRETS)
def test_no_password_of_a_database_is_shown(tmp_path: Path, registry: Registry, url: str) -> None:
    with pytest.raises(ConnectionError) as read:
        studies.read(url, "smoke")
    with pytest.raises(UserError) as opened:
        made(tmp_path, registry, url=url)
    for error in map(str, (read.value, opened.value)):
        assert "Tr0ub" not in error and "dor77" not in error and "\n" not in error, error


def test_a_database_that_another_user_may_only_read_is_one_line(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = made(tmp_path, registry)
    read_only = study.url.replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true"
    idle = SimpleNamespace(at_hand=lambda _: [], stop=lambda **_: None)
    monkeypatch.setattr(tuning, "Pool", lambda *_: idle)
    with pytest.raises(UserError, match=r"expected a database that this user may write to, given .*readonly") as told:
        made(tmp_path, registry, url=read_only).run(1, 1, None, Console())
    assert "\n" not in str(told.value)


def test_another_pretrained_model_makes_a_study_of_its_own(tmp_path: Path, registry: Registry) -> None:
    names = {made(tmp_path, registry, models=m).name for m in ({}, {"tiny": "0123"}, {"tiny": "4567"})}
    assert len(names) == 3


def test_no_trial_is_scored_on_another_model_than_its_study(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKBOARD_MODELS", str(tmp_path / "models"))
    save_unet(tmp_path / "models" / "tiny")
    worker = Artifacts(SMOKE, registry, Store(tmp_path / "store"), torch.device("cpu"))
    monkeypatch.setattr(work, "_artifacts", worker)
    monkeypatch.setattr(work, "_setting", SimpleNamespace(protocol=SMOKE))
    monkeypatch.setattr(tuning, "_accuracy", lambda _, chain: float(chain.name == "undefended"))
    spec = "diffence[external=tiny]"
    models = worker.models(*worker.chain(spec).parts)
    assert tuning.score_trial(tuning.Proposal(0, spec, "auc", 0.5, models)) == tuning.Scored(0.0, None)
    with pytest.raises(RuntimeError, match="a pretrained model changed since the study was opened"):
        tuning.score_trial(tuning.Proposal(0, spec, "auc", 0.5, {"tiny": "0123"}))


@pytest.mark.parametrize(("accuracy", "attacked"), [(0.41, False), (0.43, True)])
def test_the_floor_is_a_share_of_what_the_baseline_reaches(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, accuracy: float, attacked: bool
) -> None:
    """As on a board: 0.7 of 0.6 is 0.42."""
    worker = SimpleNamespace(protocol=SMOKE, registry=registry, models=lambda *_: {})
    monkeypatch.setattr(work, "_artifacts", worker)
    monkeypatch.setattr(work, "_setting", worker)
    monkeypatch.setattr(tuning, "_accuracy", lambda _, chain: 0.6 if chain.name == "undefended" else accuracy)
    monkeypatch.setattr(tuning, "_run", lambda *_: SimpleNamespace(status="ok", metrics={"auc": 0.4}))
    scored = tuning.score_trial(tuning.Proposal(0, "mine", "auc", 0.7, {}))
    assert scored.test_accuracy == accuracy
    assert scored.leakage == (pytest.approx(0.6) if attacked else None)


@pytest.mark.parametrize("code", ["tuning_code", "judge_code", "training_code"])
def test_other_code_makes_a_study_of_its_own(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """What folds the scenarios of a trial into its value too: values of two ways never meet on one front."""
    old = made(tmp_path, registry).name
    monkeypatch.setattr(tuning, code, lambda *_: "another")
    assert made(tmp_path, registry).name != old


@pytest.mark.parametrize("file", ["attacks/loss.py", "defenses/undefended.py", "defenses/mine.py"])
def test_another_attack_or_baseline_makes_a_study_of_its_own(tmp_path: Path, registry: Registry, file: str) -> None:
    """What attacks a trial, and what sets its floor."""
    old = made(tmp_path, registry).name
    path = tmp_path / file
    text = path.read_text()
    path.unlink()  # a link to the tree's
    path.write_text(text + "\nMORE = 1\n")
    assert made(tmp_path, Registry(tmp_path)).name != old


def test_all_that_was_tried_is_marked_as_it_is_tried(tmp_path: Path, registry: Registry) -> None:
    """A study that is interrupted has shown its trials; the paper's own setting, and what a protocol asks for, is nobody's choice."""
    study = made(tmp_path, registry)
    store = Store(study.setting.store)

    def tell(failure: bool = False) -> str:
        trial, spec = study._ask()
        problem, made = (RuntimeError("no"), None) if failure else (None, Scored(0.9, 0.6, "loss", {"loss": 0.6}))
        study._tell(trial, Ended(proposal(spec), "raised" if failure else "made", made, problem))
        return spec

    first, second, third = tell(), tell(), tell(failure=True)
    assert (
        first == "mine"
        and not store.tuned_path("smoke", first).exists()
        and not store.tuned_path("smoke", third).exists()
    )
    assert store.tuned_path("smoke", second).read_text() == "2 trials on other splits, against loss"


def test_changed_ranges_make_a_study_of_their_own(tmp_path: Path, registry: Registry) -> None:
    """The old study stays as it is: its trials lie in other ranges and are none of the new one's."""
    old = made(tmp_path, registry)
    old.study.tell(old.study.ask(), [0.9, 0.6])
    source = tmp_path / "defenses" / "mine.py"
    source.write_text(source.read_text().replace("Search(0.1, 10,", "Search(0.1, 20,"))
    new = made(tmp_path, Registry(tmp_path))
    assert new.name != old.name and [t.state for t in new.study.trials] == [TrialState.WAITING]
    assert [t.state for t in old.study.get_trials()] == [TrialState.COMPLETE]
    assert new.others() == [old.name] and old.others() == [new.name]
    assert made(tmp_path, registry, spec="label_smoothing").others() == []


def killed(trial: optuna.Trial) -> None:
    """Let the command that has a trial in hand be one that is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    trial.set_user_attr("pid", gone.pid)


def test_a_trial_of_a_killed_command_is_done_again(tmp_path: Path, registry: Registry) -> None:
    study = made(tmp_path, registry)
    lost, _ = study._ask()
    killed(lost)
    elsewhere, _ = study._ask()
    elsewhere.set_user_attr("host", "another machine")
    study._take_back()
    states = [t.state for t in study.study.trials]
    assert states == [TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]
    trial, spec = study._ask()
    assert (trial.number, spec) == (2, "mine"), "the paper's own setting, with what it leaves to the recipe"
    assert study.study.trials[2].system_attrs["fixed_params"] == study.study.trials[0].params


def test_two_commands_begun_at_once_take_a_trial_back_once(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made(tmp_path, registry)
    killed(one._ask()[0])
    other = made(tmp_path, registry)
    seen = one.study.get_trials(states=(TrialState.RUNNING,))
    other._take_back()
    read = one.study.get_trials
    monkeypatch.setattr(
        one.study, "get_trials", lambda **k: seen if k.get("states") == (TrialState.RUNNING,) else read(**k)
    )
    one._take_back()
    assert [t.state for t in read()] == [TrialState.FAIL, TrialState.WAITING]


def test_two_commands_that_take_back_at_once_take_turns(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite both may find a trial unfinished and end it: nobody is told that the other has done so."""
    one = made(tmp_path, registry)
    killed(one._ask()[0])
    other = threading.Thread(target=made(tmp_path, registry)._take_back)
    tell = one.study.tell

    def late(*given: Any, **state: Any) -> None:
        other.start()
        other.join(1)
        with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
            tell(*given, **state)

    monkeypatch.setattr(one.study, "tell", late)
    one._take_back()
    other.join()
    assert [t.state for t in one.study.get_trials()] == [TrialState.FAIL, TrialState.WAITING]


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("known", [1, 12])
def test_two_commands_begun_at_once_propose_other_trials(
    tmp_path: Path, registry: Registry, random: bool, known: int
) -> None:
    """Before a guided search has learnt anything, and after."""
    first = made(tmp_path, registry, random=random)
    for i in range(known):
        first.study.tell(first._ask()[0], [0.9 - i / 100, 0.6 - i / 100])
    one, other = (made(tmp_path, registry, random=random) for _ in range(2))
    drawn = [study._ask()[1] for _ in range(3) for study in (one, other)]
    assert len(set(drawn)) == len(drawn)


def test_of_a_grid_what_failed_or_was_killed_is_tried_again_and_nothing_else(
    tmp_path: Path, registry: Registry
) -> None:
    grid = paper_grid(space(registry.chain("mine", "undefended"), SMOKE))
    study = made(tmp_path, registry, grid=grid)
    done, failed, lost = (study._ask()[0] for _ in grid)
    study.study.tell(done, [0.9, 0.6])
    study.study.tell(failed, state=TrialState.FAIL)
    killed(lost)
    assert not study._more(len(grid), 0), "no trial of a search takes the place of one that failed"
    study._take_back()
    for _ in grid[1:]:
        assert study._more(len(grid), 0)
        study.study.tell(study._ask()[0], [0.9, 0.6])
    assert not study._more(len(grid), 0)
    study._take_back()
    assert not study._more(len(grid), 0)
    scored = [t.params["0.strength"] for t in study.study.trials if t.state == TrialState.COMPLETE]
    assert scored == [point["0.strength"] for point in grid]


def leakboard(folder: Path, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    own = {
        "LEAKBOARD_STORE": str(folder / "store"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "LEAKBOARD_OPTUNA": f"sqlite:///{folder}/optuna.db", "LEAKBOARD_SUBMISSIONS": str(ROOT / "submissions"),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-m", "leakboard", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


@pytest.mark.slow
def test_a_study_from_start_to_board(tmp_path: Path) -> None:
    """Killed on the way, gone on with; trials are in MLflow, apart; what is scored afterwards says it was tuned."""
    from benchmark.run import tracking

    tune = (
        "tune",
        "label_smoothing",
        "-p",
        "smoke",
        "--trials",
        "4",
        "--workers",
        "2",
        "--attack",
        "loss",
        "--attack",
        "metric_conf",
    )
    first = leakboard(tmp_path, *tune, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (tmp_path / "optuna.db").exists():
        time.sleep(0.2)
    time.sleep(6)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    second = leakboard(tmp_path, *tune)
    out, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert "4/4 trials" in err and "next: leakboard run" in out
    assert list((tmp_path / "mlruns" / "tuning").glob("smoke-label_smoothing-*.png"))
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/optuna.db")
    done = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(done) == 4 and "label_smoothing" in {t.user_attrs["defense"] for t in done}, "the paper's own among them"

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/mlflow.db"
    try:
        client = tracking.connect()
        experiment = client.get_experiment_by_name("smoke.tuning")
        runs = client.search_runs([experiment.experiment_id])
        parents = [r for r in runs if r.data.tags["leakboard.kind"] == "study"]
        trials = [r for r in runs if r.data.tags["leakboard.kind"] == "trial"]
        assert len(parents) == 1 and len(trials) == 4
        assert {r.data.tags["mlflow.parentRunId"] for r in trials} == {parents[0].info.run_id}
        curve = client.get_metric_history(parents[0].info.run_id, "hypervolume")
        assert sorted(m.step for m in curve) == [1, 2, 3, 4]
        assert max(m.value for m in curve) == pytest.approx(hypervolume([tuple(t.values) for t in done]))
        assert f"hypervolume of the front: {max(m.value for m in curve):.4f}" in out
        by_number = {int(r.data.tags["leakboard.trial"]): r for r in trials}
        for t in done:
            assert by_number[t.number].data.metrics["test_accuracy"] == pytest.approx(t.values[0])
            assert by_number[t.number].data.metrics["worst_case"] == pytest.approx(t.values[1])
        assert tracking.fetch_results("smoke") == [], "no trial is on the board"
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]

    tuned = next(t.user_attrs["defense"] for t in study.best_trials if t.user_attrs["defense"] != "label_smoothing")
    scored = leakboard(tmp_path, "run", tuned, "-p", "smoke", "--json")
    out, err = scored.communicate(timeout=300)
    rows = [r for r in json.loads(out) if r["defense"] == tuned]
    assert rows and all(r["claims"]["tuned"] == "4 trials on other splits, against loss, metric_conf" for r in rows), (
        err
    )
    assert all("tuned" not in r["claims"] for r in json.loads(out) if r["defense"] != tuned)
    seeds = {r["seed"] for r in rows}
    assert seeds == set(SMOKE.seeds) and not seeds & {tuning.FIRST_SEED}
    assert Store(tmp_path / "store").root.is_dir()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("constant_output",), "expected a hyperparameter with Search"),
        (("label_smoothing", "--leakage", "mse"), "is not one of 'auc', 'tpr_at_fpr_0.01'"),
        (("label_smoothing", "--attack", "fredrikson"), "expected membership attacks, given fredrikson"),
        (("label_smooth",), "label_smoothing"),
        (("diffence[external=none]",), "mlruns/models/none: expected a folder that save_pretrained of diffusers wrote"),
        (("label_smoothing[epsilon=0.5]",), "that is not fixed, given none"),
        (("undefended", "--paper-grid"), "expected a defense whose Search"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    process = leakboard(tmp_path, "tune", *arguments, "-p", "smoke")
    _, err = process.communicate(timeout=120)
    text = " ".join(err.split())
    assert process.returncode == 2 and says in text and "Traceback" not in text
    assert not (tmp_path / "store" / "networks").exists()
