"""Plans and workers: what is missing is done, once; what a submission does wrong stays with it; kills cost nothing."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark import execute, protocol
from benchmark.artifacts import Artifacts
from benchmark.plan import Job, Plan, make_plan, scenario_key
from benchmark.population import populate
from benchmark.registry import Registry
from benchmark.result import Result
from benchmark.store import Store
from benchmark.templates import TEMPLATES
from tests.conftest import SUBMISSIONS, Home, Inline, numbers

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# --- The plan ---------------------------------------------------------------------------------------


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(protocol.load("smoke"), Registry(SUBMISSIONS), Store(tmp_path / "store"), torch.device("cpu"))


def plan_of(artifacts: Artifacts, attacks: list[str], chains: list[str]) -> Plan:
    return make_plan(
        artifacts, [artifacts.registry.attack(a) for a in attacks], [artifacts.chain(c) for c in chains], [0]
    )


def ancestors(plan: Plan, id: str) -> set[str]:
    direct = plan.jobs[id].needs
    return set(direct).union(*(ancestors(plan, n) for n in direct))


def test_every_job_comes_after_what_it_needs(artifacts: Artifacts) -> None:
    loaded = protocol.load("digits-v1")
    plan = plan_of(artifacts, list(loaded.attacks), list(loaded.defenses))
    assert plan.scenarios() == (len(loaded.attacks) + 1) * len(loaded.defenses)
    order = list(plan.jobs)
    done: set[str] = set()
    waiting = dict(plan.jobs)
    while waiting:
        ready = [id for id, job in waiting.items() if not job.needs & waiting.keys()]
        assert ready, "no two jobs wait for each other"
        done.update(ready)
        waiting = {id: job for id, job in waiting.items() if id not in done}
    assert all(job.needs <= plan.jobs.keys() for job in plan.jobs.values())
    assert len(order) == len(set(order))


@pytest.mark.parametrize(
    ("attack", "roles"),
    [
        ("random_scores", {"target"}),
        ("loss", {"target", "shadow"}),  # the judge finds its threshold there
        ("lira", {"target", "online"}),
        ("lira_offline", {"target", "offline"}),
        ("fredrikson", {"target", "evaluator"}),
    ],
)
def test_a_scenario_waits_for_what_it_uses(artifacts: Artifacts, attack: str, roles: set[str]) -> None:
    artifacts.protocol = artifacts.protocol.model_copy(
        update={"recipe": artifacts.protocol.recipe.model_copy(update={"ensemble": 1})}
    )
    plan = plan_of(artifacts, [attack], ["undefended"])
    scenario = next(j for j in plan.jobs.values() if j.attack == attack)
    networks = [plan.jobs[n] for n in ancestors(plan, scenario.id) if plan.jobs[n].kind == "networks"]
    assert {str(model[0]) for job in networks for model in job.detail} == roles  # type: ignore[index]
    assert plan.networks == sum(len(j.detail) for j in plan.jobs.values() if j.kind == "networks")


def test_defenses_share_the_networks_of_one_training(artifacts: Artifacts) -> None:
    alone = plan_of(artifacts, ["loss"], ["undefended"])
    both = plan_of(artifacts, ["loss"], ["undefended", "memguard", "constant_output"])
    assert both.networks == alone.networks
    assert sum(j.kind == "networks" for j in both.jobs.values()) == sum(
        j.kind == "networks" for j in alone.jobs.values()
    )


def test_a_key_covers_all_that_makes_a_result(artifacts: Artifacts, tmp_path: Path) -> None:
    def key(attack: str = "nn_sorted", chain: str = "undefended", seed: int = 0, to: Artifacts = artifacts) -> str:
        return scenario_key(to, to.registry.attack(attack), to.chain(chain), seed)

    def other(**changes: Any) -> Artifacts:
        return Artifacts(
            artifacts.protocol.model_copy(update=changes), artifacts.registry, artifacts.store, artifacts.device
        )

    plain = key()
    assert key("nn_sorted[epochs=100]") == plain
    recipe = artifacts.protocol.recipe.model_copy(update={"epochs": 4})
    apart = [
        plain, key("nn_sorted[epochs=99]"), key("loss"), key(chain="memguard"), key(chain="label_smoothing"), key(seed=1),
        key(to=other(resamples=200)), key(to=other(recipe=recipe)), key(to=other(architecture="simple_cnn")),
        scenario_key(artifacts, None, artifacts.chain("undefended"), 0),
    ]  # fmt: skip
    assert len(set(apart)) == len(apart)
    assert key(to=other(attacks=("loss",), about="x")) == plain

    shutil.copytree(SUBMISSIONS, tmp_path / "submissions", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "submissions/attacks/nn_sorted.py"

    def edited(old: str, new: str) -> str:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        changed = Artifacts(artifacts.protocol, Registry(tmp_path / "submissions"), artifacts.store, artifacts.device)
        return key(to=changed)

    assert edited("Train on the shadow", "Learn on the shadow") == plain, "a docstring makes no number"
    assert edited("(64, 32)", "(64, 33)") != plain


# --- Running in this process ------------------------------------------------------------------------


def run(home: Home, *arguments: str, protocol: str = "smoke") -> tuple[int, str, dict[str, Result]]:
    ended = home.call("run", *arguments, "--protocol", protocol, "--workers", "1")
    return ended.code, ended.err + ended.out, home.results()


def test_a_run_scores_logs_and_is_not_done_twice(home: Home, smoke_store: Path, inline: None) -> None:
    code, said, results = run(home)
    assert code == 0
    assert "3 trained, 0 reused; 3 scenarios scored, 0 reused" in said
    assert {name: r.status for name, r in results.items()} == {
        "random_scores on undefended, 0": "ok", "loss on undefended, 0": "ok", " on undefended, 0": "ok",
    }  # fmt: skip
    reference = Home(smoke_store.parent, home.capture, home.patch).results()
    assert numbers(results) == numbers(reference)
    code, said, again = run(home)
    assert code == 0
    assert "0 trained, 3 reused; 0 scenarios scored, 3 reused" in said
    assert again == results


def test_the_record_says_what_was_run(scored: Home) -> None:
    results = scored.results()
    loss, utility = results["loss on undefended, 0"], results[" on undefended, 0"]
    assert (loss.task, loss.access, loss.knowledge, loss.null_row) == ("membership", "posterior", "none", False)
    assert results["random_scores on undefended, 0"].null_row
    assert 0 < loss.metrics["auc"] < 1 and loss.intervals["auc"][0] <= loss.metrics["auc"] <= loss.intervals["auc"][1]
    assert len(loss.null_auc) == 5
    assert loss.cost["queries"] > 0 and loss.cost["seconds"] >= 0
    assert {"test_accuracy", "train_accuracy", "ece"} <= utility.metrics.keys()
    assert utility.cost["train_seconds"] > 0 and utility.cost["ms_per_query"] > 0
    for name in ("commit", "torch", "python", "device", "data", "split", "defense_source"):
        assert loss.provenance[name]


def test_an_oracle_scores_one(scored: Home) -> None:
    """An attack that knows the labels: the judge pairs scores and labels in the right order."""
    population = populate(protocol.load("smoke"), 0)
    members = population.samples(population.candidates[population.members]).x
    torch.save(members, scored.folder / "members.pt")
    body = f"torch.tensor([float((torch.load({str(scored.folder / 'members.pt')!r}) == x).flatten(1).all(1).any()) for x in candidates.x]).double()"
    scored.attack("oracle", body)
    scored.attack("inverted", "-" + body)
    code, said, results = run(scored, "oracle", "inverted")
    assert code == 0, said
    assert results["oracle on undefended, 0"].metrics["auc"] == 1
    assert results["inverted on undefended, 0"].metrics["auc"] == 0


SICK = {
    "short": ("confidence[1:]", r"expected scores of shape \(\d+,\) or \(s, \d+\), given \(\d+,\)"),
    "nan": ("confidence / 0 * 0", "expected finite scores, given \\d+ that are NaN or infinite"),
    "infinite": ("confidence.fill_(float('inf'))", "expected finite scores"),
    "single": ("confidence.float()", "expected scores of dtype float64, given float32"),
    "numpy": ("confidence.numpy()", "expected scores as a tensor, given ndarray"),
    "cube": ("confidence.expand(1, 1, -1)", "expected scores of shape"),
    "raising": ("1 / 0", "ZeroDivisionError: division by zero"),
    "lines": ("(_ for _ in ()).throw(ValueError('one\\ntwo'))", "ValueError: one two"),
    "leaving": ("(_ for _ in ()).throw(SystemExit(3))", "SystemExit"),
    "greedy": ("target.white_box()", "PermissionError: the attack declares posterior access; it asked for the network"),
}


def test_sick_scores_fail_alone_in_one_line(scored: Home) -> None:
    for name, (body, _) in SICK.items():
        scored.attack(name, body)
    scored.attack("healthy")
    ended = scored.call("run", *SICK, "healthy", "--protocol", "smoke", "--workers", "1", "--json")
    assert ended.code == 1
    lines = {line.split()[1]: line for line in ended.err.splitlines() if line.startswith("failed ")}
    assert lines.keys() == SICK.keys()
    for name, (_, reason) in SICK.items():
        assert re.search(f"{name} on undefended, seed 0: .*{reason}", lines[name]), lines[name]
    assert "Traceback" not in ended.err
    assert f"{len(SICK)} scenario(s) failed; they are tried again by the next call" in ended.err
    assert "healthy on undefended, 0" in scored.results()
    (scored.submissions / "attacks" / "short.py").write_text(
        (scored.submissions / "attacks" / "healthy.py").read_text()
    )
    assert run(scored, "short")[0] == 0, "mended"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("(predict(x) / self.params.temperature).log_softmax(1)", "predict(x) * 2", "mine: expected posteriors that sum to 1"),
        ("(predict(x) / self.params.temperature).log_softmax(1)", "predict(x).float()", "float64, given (60, 10) torch.float32"),
        ("(predict(x) / self.params.temperature).log_softmax(1)", "predict(x)[:, :3]", "given (60, 3)"),
        ("return lambda", "raise KeyError('no')\n        return lambda", "KeyError"),
    ],
)  # fmt: skip
def test_a_sick_defense_fails_alone(scored: Home, old: str, new: str, reason: str) -> None:
    path = scored.submissions / "defenses" / "mine.py"
    path.write_text(TEMPLATES["defense"].replace(old, new))
    code, said, results = run(scored, "mine")
    assert code == 1, said
    assert said.count("failed ") >= 3 and reason in said
    assert "Traceback" not in said
    assert set(results) == {"random_scores on undefended, 0", "loss on undefended, 0", " on undefended, 0"}


@pytest.mark.parametrize("kind", ["networks", "answers", "result"])
def test_a_file_cut_in_half_is_made_again(scored: Home, kind: str) -> None:
    before = scored.results()
    damaged = []
    for path in (scored.store / kind).glob("*/*"):
        if path.suffix == ".safetensors" or (kind == "result" and path.suffix == ".json"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            damaged.append(path)
    assert damaged
    shutil.rmtree(scored.store / "result") if kind != "result" else None
    with pytest.warns(UserWarning, match="is damaged"):
        code, _, after = run(scored)
    assert code == 0
    assert numbers(after) == numbers(before)


def test_a_job_that_loses_its_worker_is_tried_again_three_times() -> None:
    jobs = [Job(name, "scenario", "undefended", 0) for name in "ab"]
    losses, waiting = {"a": execute._LOSSES - 1, "b": 0}, {"c": jobs[0]}
    assert execute._retry(jobs, losses, waiting) == jobs[:1]
    assert list(waiting) == ["c", "b"], "at the end of the queue"


class Breaking(Inline):
    """A pool that breaks at one moment: when a job is handed in, or while it is done."""

    moment = ""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        moment, Breaking.moment = Breaking.moment, ""
        if moment == "handed in":
            raise BrokenProcessPool
        if moment == "done":
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool())
            return future
        return super().submit(function, *arguments)


@pytest.mark.parametrize("moment", ["handed in", "done"])
def test_a_pool_that_breaks_is_replaced(scored: Home, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    before = scored.results()
    shutil.rmtree(scored.store / "result")
    monkeypatch.setattr(execute, "_pool", lambda setting, workers: Breaking(setting))
    monkeypatch.setattr(Breaking, "moment", moment)
    code, said, after = run(scored)
    assert code == 0, said
    assert numbers(after) == numbers(before)


# --- Running in processes of its own ----------------------------------------------------------------


def session(leader: int) -> dict[int, str]:
    """The living processes of a session, by id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = path.read_text().rpartition(")")[2].split()[:4]
            if int(sid) == leader and state != "Z":
                found[int(path.parent.name)] = (path.parent / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):
            continue
    return found


def workers_of(leader: int) -> list[int]:
    return [pid for pid, command in session(leader).items() if "spawn_main" in command]


def stored(home: Home) -> int:
    return len(list(home.store.rglob("*.json")))


def wait_for(count: Callable[[], int], process: subprocess.Popen[str], more_than: int = 0) -> None:
    end = time.monotonic() + 60
    while count() <= more_than and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def assert_nothing_survives(leader: int) -> None:
    end = time.monotonic() + 3
    while session(leader) and time.monotonic() < end:
        time.sleep(0.05)
    assert not session(leader)


@pytest.fixture
def longer(home: Home) -> str:
    """`smoke` with more to do: networks one by one, a bank, another attack."""
    shutil.copy(SUBMISSIONS / "attacks" / "lira.py", home.submissions / "attacks")
    recipe = protocol.load("smoke").recipe.model_dump() | {"ensemble": 1, "epochs": 30}
    return home.protocol(attacks=["random_scores", "loss", "lira"], recipe=recipe | {"milestones": []}, resamples=500)


@pytest.fixture
def reference(home: Home, longer: str, inline: None) -> dict[str, Any]:
    """The numbers of `longer`, undisturbed; computed here, stored elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAKBOARD_STORE", str(home.folder / "undisturbed"))
        assert home.call("run", "--protocol", longer).code == 0
    store = Store(home.folder / "undisturbed")
    found = [store.result(p.stem) for p in (store.root / "result").glob("*/*.json")]
    return numbers({f"{r.attack} on {r.defense}, {r.seed}": r for r in found if r})


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_number_of_workers_changes_nothing(home: Home, smoke_store: Path, workers: str) -> None:
    code, _, err = finish(home.start("run", "--protocol", "smoke", "--workers", workers))
    assert code == 0, err
    assert numbers(home.results()) == numbers(Home(smoke_store.parent, home.capture, home.patch).results())


@linux
@pytest.mark.slow
def test_killing_the_command_loses_nothing(home: Home, longer: str, reference: dict[str, Any]) -> None:
    draw = random.Random(time.time_ns())
    for repetition in range(2):
        process = home.start("run", "--protocol", longer, "--workers", "1")
        before = stored(home)
        wait_for(lambda: stored(home), process, more_than=before)
        pause = draw.uniform(0, 1.5)
        time.sleep(pause)
        process.kill()
        process.communicate()
        print(f"repetition {repetition}: killed {pause:.2f} s after the first file")
        assert_nothing_survives(process.pid)
    code, out, err = finish(home.start("run", "--protocol", longer, "--workers", "1"))
    assert code == 0, err
    assert "0 reused; " not in out.split(" scenarios scored")[0].rsplit("\n", 1)[-1], "work of the killed runs is used"
    assert numbers(home.results()) == reference
    assert not list(home.store.rglob(".tmp-*.safetensors"))


@linux
@pytest.mark.slow
def test_killing_a_worker_costs_a_retry(home: Home, longer: str, reference: dict[str, Any]) -> None:
    draw = random.Random(time.time_ns())
    process = home.start("run", "--protocol", longer, "--workers", "2")
    killed = 0
    for _ in range(2):
        before = stored(home)
        wait_for(lambda: stored(home), process, more_than=before)
        time.sleep(draw.uniform(0, 0.5))
        if workers := workers_of(process.pid):
            os.kill(draw.choice(workers), signal.SIGKILL)
            killed += 1
    code, _, err = finish(process)
    assert killed
    assert code == 0, err
    assert "Traceback" not in err
    assert numbers(home.results()) == reference
    assert_nothing_survives(process.pid)


@linux
@pytest.mark.slow
def test_ctrl_c_stops_everything_and_says_how_to_go_on(home: Home, longer: str) -> None:
    process = home.start("run", "--protocol", longer, "--workers", "2")
    wait_for(lambda: stored(home), process)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert err.splitlines()[-1] == "interrupted; run the same command again to go on"
    assert "Traceback" not in err
    assert_nothing_survives(process.pid)


@linux
@pytest.mark.slow
def test_an_attack_that_kills_its_worker_fails_alone(home: Home, smoke_store: Path) -> None:
    shutil.copytree(smoke_store, home.store)
    home.attack("deadly", "os.kill(os.getpid(), signal.SIGKILL)")
    home.attack("healthy")
    code, _, err = finish(home.start("run", "deadly", "healthy", "--protocol", "smoke", "--workers", "1"))
    assert code == 1, err
    assert "failed deadly on undefended, seed 0: " in err and "the worker died" in err
    assert "failed healthy" not in err
    assert "healthy on undefended, 0" in home.results()
