"""Plans and workers: what is missing is done, once; what a submission does wrong stays with it; kills cost nothing."""

from __future__ import annotations

import json
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

from benchmark import protocol
from benchmark.data.population import populate
from benchmark.entries.registry import Registry
from benchmark.entries.templates import TEMPLATES
from benchmark.judge import scenario
from benchmark.result import Result
from benchmark.run import execute, work
from benchmark.run.executors import Ended, Executor, How, pool
from benchmark.run.plan import AnswersJob, GuardJob, Job, NetworksJob, Plan, ScenarioJob, make_plan, scenario_key
from benchmark.run.work import Done, Setting, run_job
from benchmark.sandbox import host
from benchmark.sandbox.host import Launcher
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.store import Store
from leaderboard.ranking import Board, defense_table
from leakboard import score
from tests.conftest import ROOT, SUBMISSIONS, Home, Inline, alive, descendants, numbers, save_unet

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
    loaded = protocol.load("digits-v2")
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
        ("lira", {"target"}),
        ("lira_offline", {"target", "offline"}),
        ("fredrikson", {"target", "evaluator", "second-evaluator"}),
    ],
)
def test_a_scenario_waits_for_what_it_uses(artifacts: Artifacts, attack: str, roles: set[str]) -> None:
    artifacts.protocol = artifacts.protocol.model_copy(
        update={"recipe": artifacts.protocol.recipe.model_copy(update={"ensemble": 1})}
    )
    plan = plan_of(artifacts, [attack], ["undefended"])
    scenario = next(j for j in plan.jobs.values() if j.attack == attack)
    needed = [plan.jobs[n] for n in ancestors(plan, scenario.id)]
    networks = [j for j in needed if isinstance(j, NetworksJob)]
    assert {model[0] for job in networks for model in job.models} == roles
    assert plan.networks == sum(len(j.models) for j in plan.jobs.values() if isinstance(j, NetworksJob))


def test_a_label_is_asked_for_without_the_guards_that_keep_it(artifacts: Artifacts) -> None:
    plan = plan_of(artifacts, ["label_only_noise"], ["memguard"])
    scenario = next(j for j in plan.jobs.values() if j.attack == "label_only_noise")
    needed = [plan.jobs[id] for id in ancestors(plan, scenario.id)]
    asked = {(j.defense, j.parts) for j in needed if isinstance(j, AnswersJob)}
    target, shadow = ("target-train", "target-test"), ("shadow-train", "shadow-test")
    assert scenario.defense == "memguard"
    assert asked == {("undefended", target), ("undefended", shadow), ("memguard", target)}, "the last to compare labels"


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


def test_a_key_covers_the_versions_of_what_an_entry_imports(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> list[str]:
        return [
            scenario_key(artifacts, None, artifacts.chain(d), 0) for d in ("dp_sgd", "undefended", "dp_sgd+rounding")
        ]

    assert list(artifacts.registry.entry("defense", "dp_sgd").versions) == ["opacus", "scipy"]
    assert artifacts.registry.entry("defense", "undefended").versions == {}
    before = keys()
    monkeypatch.setattr("benchmark.entries.registry.version_of", lambda module: "0.0.1")
    assert [a == b for a, b in zip(before, keys(), strict=True)] == [False, True, False]


def test_what_a_defense_makes_and_remembers_is_of_its_libraries(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DIFFENCE's diffusion model and its reconstructions, after diffusers has changed; and views and networks of others."""

    def addresses(spec: str) -> list[object]:
        fresh = Artifacts(artifacts.protocol, artifacts.registry, Store(tmp_path / "addresses"), artifacts.device)
        chain, asked = fresh.chain(spec), list[object]()
        target = fresh.served(chain, 0)

        def get(kind: str, key: str, make: object) -> dict[str, torch.Tensor]:
            asked.append((kind, key))
            return {"value": torch.zeros(1)}

        monkeypatch.setattr(fresh.store, "get", get)
        part = chain.parts[-1]
        target.network.training_of(part).artifact("diffusion", dict)
        target._context(part, {}).remember("views", torch.zeros(1), lambda: torch.zeros(1))
        return [*asked, target.network.key]

    chains = ("diffence[n=2]", "undefended", "undefended[augmentation=randaug]")
    before = [addresses(c) for c in chains]
    assert before == [addresses(c) for c in chains]
    monkeypatch.setattr("benchmark.entries.registry.version_of", lambda module: "0.0.1")
    monkeypatch.setattr("benchmark.targets.network.version_of", lambda module: "0.0.1")
    after = [addresses(c) for c in chains]
    same = [[a == b for a, b in zip(x, y, strict=True)] for x, y in zip(before, after, strict=True)]
    assert same == [[False, False, True], [True, True, True], [True, True, False]]


def test_another_model_under_the_same_name_is_another_one(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all that it makes: results, the guard's state, what is stored with it, and what is remembered of it."""
    monkeypatch.setenv("LEAKBOARD_MODELS", str(tmp_path / "models"))

    def addresses(spec: str) -> list[object]:
        fresh = Artifacts(artifacts.protocol, artifacts.registry, Store(tmp_path / "addresses"), artifacts.device)
        chain = fresh.chain(spec)
        asked: list[object] = []

        def get(kind: str, key: str, make: object) -> dict[str, torch.Tensor]:
            asked.append((kind, key))
            return {"value": torch.zeros(1)}

        fresh.store.get = get  # type: ignore[method-assign]
        target, more = fresh.served(chain, 0), fresh.served(fresh.chain(f"{spec}+memguard"), 0)
        target.network.training_of(chain.guards[0]).artifact("a", dict)
        target._context(chain.guards[0], {}).remember("a", torch.zeros(1), lambda: torch.zeros(1))
        keys = [scenario_key(fresh, None, chain, 0), *(guard.key for guard in more.guards)]
        return [*asked, *keys, target.network.key]

    save_unet(tmp_path / "models" / "one")
    one = addresses("diffence[external=one]")
    assert addresses("diffence[external=one]") == one
    save_unet(tmp_path / "models" / "one", seed=1)
    two = addresses("diffence[external=one]")
    *mine, network = one
    assert all(a != b for a, b in zip(mine, two, strict=False)) and len(mine) == 5
    assert two[-1] == network, "the network knows nothing of its guard"
    assert addresses("diffence")[0] not in (one[0], two[0])
    plain = addresses("memguard")
    monkeypatch.setattr("benchmark.targets.experiment.reading_code", lambda: "read in another way")
    *read, network = addresses("diffence[external=one]")
    assert all(a != b for a, b in zip(read, two, strict=False)) and network == two[-1]
    assert addresses("memguard") == plain


def test_no_number_goes_under_a_key_that_was_planned_of_other_files(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKBOARD_MODELS", str(tmp_path / "models"))
    save_unet(tmp_path / "models" / "one")
    jobs = plan_of(artifacts, [], ["diffence[external=one]"]).jobs
    job = next(j for j in jobs.values() if j.kind == "scenario")
    save_unet(tmp_path / "models" / "one", seed=1)
    worker = Artifacts(artifacts.protocol, artifacts.registry, artifacts.store, artifacts.device)
    monkeypatch.setattr(work, "_artifacts", worker)
    monkeypatch.setattr(work, "_setting", object())
    done = run_job(job)
    assert done.error == "the code, a submission or a pretrained model changed while the run was going on; run again"
    assert done.result is None and artifacts.store.result(job.id) is None


def test_a_part_is_given_the_models_that_it_names_and_no_other(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKBOARD_MODELS", str(tmp_path / "models"))
    for name in ("one", "two"):
        save_unet(tmp_path / "models" / name)
    chain = artifacts.chain("diffence[external=one]")
    task = artifacts.network(chain.training, 0).training_of(chain.guards[0])
    config, weights = task.pretrained("one")
    assert config["unet"]["sample_size"] == 8 and weights["conv_in.bias"].shape == (8,)
    with pytest.raises(PermissionError, match=r"a model that a hyperparameter names \(one\), given 'two'"):
        task.pretrained("two")


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


def test_both_adversaries_of_rules_3_are_scored_and_ranked(home: Home, inline: None) -> None:
    """An ordinary entry: planned, scored, found again, and no reason to rank anything lower than before."""
    for kind, name in (("attacks", "nn_sorted"), ("defenses", "memguard")):
        shutil.copy(SUBMISSIONS / kind / f"{name}.py", home.submissions / kind)
    own = home.protocol(attacks=["loss", "nn_sorted[epochs=5]"], defenses=["undefended", "memguard"])
    name = "nn_sorted[epochs=5,guards=target]"
    code, said, results = run(home, name, protocol=own)
    assert code == 0, said
    bare, guarded = (results[f"{name} on {chain}, 0"] for chain in ("undefended", "memguard"))
    assert (bare.status, guarded.status) == ("skipped", "ok")
    assert bare.reason.startswith("not applicable: no guard here holds anything of the target's world")
    assert {r.track for r in (bare, guarded)} == {"posterior/shadow+guards"}
    run(home, protocol=own)
    run(home, "nn_sorted", "nn_sorted[guards=target]", protocol=own)
    stored = score.stored_results(own, home.submissions, home.store)
    assert {r.attack for r in stored} == {
        "",
        "loss",
        "nn_sorted",
        "nn_sorted[epochs=5]",
        "nn_sorted[guards=target]",
        name,
    }
    required = ("loss", "nn_sorted[epochs=5]", name)
    table = defense_table(stored, Board(required, ("undefended", "memguard"), (0,), "undefended", 0.0, ("auc",)))
    assert table.attrs["pool"] == list(required)
    assert set(table.reason) == {""}


def test_an_attack_by_labels_scores_the_same_behind_a_guard_that_keeps_them(
    home: Home, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(SUBMISSIONS / "defenses" / "memguard.py", home.submissions / "defenses")
    shutil.copy(SUBMISSIONS / "attacks" / "metric_corr.py", home.submissions / "attacks")
    own = home.protocol(attacks=["metric_corr"], defenses=["memguard", "undefended"])
    asked = []
    whole = scenario.Scenario.score
    monkeypatch.setattr(
        "benchmark.judge.scenario.Scenario.score", lambda s: asked.append(s.full_chain.name) or whole(s)
    )
    code, said, results = run(home, protocol=own)
    assert code == 0, said
    assert sorted(asked) == ["memguard", "undefended"], "nothing to take it from yet"
    bare, guarded = (results[f"metric_corr on {chain}, 0"] for chain in ("undefended", "memguard"))
    assert guarded.metrics == bare.metrics and guarded.key != bare.key

    # What is known of the target without the guard is not asked for again.
    (stored,) = home.store.joinpath("result").rglob(f"{guarded.key}.json")
    stored.unlink()
    asked.clear()
    taken = run(home, protocol=own)[2]["metric_corr on memguard, 0"]
    assert not asked
    parts = {"finished", "provenance", "cost"}
    assert taken.model_dump(exclude=parts) == guarded.model_dump(exclude=parts)
    assert {**taken.provenance, "run_id": ""} == {**guarded.provenance, "run_id": ""}

    # The slow way, through the guard, finds the same.
    monkeypatch.setattr("benchmark.entries.registry.Chain.by_label", lambda chain: chain)
    job = score.prepare([], own, home.submissions, home.store.parent / "slow", "cpu")
    slow = {f"{r.attack} on {r.defense}": r for r in score.run(job, 1).results}
    assert slow["metric_corr on memguard"].metrics == pytest.approx(guarded.metrics, abs=1e-6)  # as stored


@pytest.mark.parametrize("where", ["target-", "noisy views"])
def test_a_guard_that_breaks_its_promise_to_keep_labels_gets_no_row(home: Home, inline: None, where: str) -> None:
    text = (ROOT / "tests" / "fixtures" / "broken" / "changes_a_label.py").read_text()
    if where == "noisy views":  # it keeps the labels of images in 8 bits, and of no other
        between = "((x * 255 % 1 - 0.5).abs() < 0.4).flatten(1).any(1, keepdim=True)"
        text = text.replace('context.uniform("swap", x, 1) < 0.2', between)
        assert between in text
    (home.submissions / "defenses" / "changes_a_label.py").write_text(text)
    shutil.copy(SUBMISSIONS / "attacks" / "metric_corr.py", home.submissions / "attacks")
    own = home.protocol(attacks=["metric_corr"])
    code, said, results = run(home, "changes_a_label", "--trust", protocol=own)
    assert code == 1
    assert re.search(rf"keeps_labels: expected the labels of undefended, given \d+ others of \d+ in {where}", said), (
        said
    )
    assert " on changes_a_label, 0" not in results
    assert ("metric_corr on changes_a_label, 0" in results) == (where == "noisy views")


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


@pytest.mark.slow
def test_a_pretrained_model_is_on_the_record(scored: Home, launcher: Launcher) -> None:
    """In this process, in a sandbox with the same numbers, and anew when another model lies under its name."""
    scored.patch.setenv("LEAKBOARD_MODELS", str(scored.folder / "models"))
    save_unet(scored.folder / "models" / "tiny")
    shutil.copy(SUBMISSIONS / "defenses" / "diffence.py", scored.submissions / "defenses")
    entry = "diffence[n=2,external=tiny]"
    code, said, results = run(scored, entry)
    assert code == 0 and "0 trained" in said, said
    utility, loss = results[f" on {entry}, 0"], results[f"loss on {entry}, 0"]
    assert utility.claims["extra_data"] == "external model tiny", "scenario 1 alone reads the reference part"
    models = Artifacts(
        protocol.load("smoke"), Registry(scored.submissions), Store(scored.store), torch.device("cpu")
    ).models(*Registry(scored.submissions).chain(entry, "undefended").parts)
    assert utility.provenance["pretrained"] == loss.provenance["pretrained"] == f"tiny {models['tiny'][:16]}"
    assert not [k for k in scored.store.glob("artifact/*/*") if k.is_file()], "no diffusion model was trained"

    elsewhere = scored.folder / "elsewhere"
    scored.patch.setenv("LEAKBOARD_STORE", str(elsewhere))
    assert run(scored, entry, "--isolation", "always")[0] == 0
    store = Store(elsewhere)
    there = {
        r.attack: r for p in elsewhere.glob("result/*/*.json") if (r := store.result(p.stem)) and r.defense == entry
    }
    assert (there[""].metrics, there["loss"].metrics) == (utility.metrics, loss.metrics)
    assert there["loss"].isolation == "bubblewrap"

    scored.patch.setenv("LEAKBOARD_STORE", str(scored.store))
    save_unet(scored.folder / "models" / "tiny", seed=1)
    code, said, _ = run(scored, entry)
    assert code == 0 and "3 scenarios scored" in said


def test_an_oracle_scores_one(scored: Home) -> None:
    """An attack that knows the labels: the judge pairs scores and labels in the right order."""
    population = populate(protocol.load("smoke"), 0)
    members = population.samples(population.candidates[population.members]).x
    torch.save(members, scored.folder / "members.pt")
    body = f"torch.tensor([float((torch.load({str(scored.folder / 'members.pt')!r}) == x).flatten(1).all(1).any()) for x in candidates.x]).double()"
    scored.attack("oracle", body)
    scored.attack("inverted", "-" + body)
    code, said, results = run(scored, "oracle", "inverted", "--trust")  # a sandbox could not read the file
    assert code == 0, said
    assert results["oracle on undefended, 0"].metrics["auc"] == 1
    assert results["inverted on undefended, 0"].metrics["auc"] == 0


SICK = {
    "short": ("confidence[1:]", r"expected scores of shape \(\d+,\) or \(s, \d+\), given \(\d+,\)"),
    "nan": ("confidence / 0 * 0", "expected finite scores, given \\d+ that are NaN or infinite"),
    "infinite": ("confidence.fill_(float('inf'))", "expected finite scores"),
    "single": ("confidence.float()", "expected scores of dtype float64, given float32"),
    "numpy": ("confidence.numpy()", "expected a tensor from score, given ndarray"),
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
    ended = scored.call("run", *SICK, "healthy", "--protocol", "smoke", "--workers", "1", "--json", "--trust")
    assert ended.code == 1
    lines = {line.split()[1]: line for line in ended.err.splitlines() if line.startswith("failed ")}
    assert lines.keys() == SICK.keys()
    for name, (_, reason) in SICK.items():
        assert re.search(f"{name} on undefended, seed 0: .*{reason}", lines[name]), lines[name]
    assert "Traceback" not in ended.err
    assert f"{len(SICK)} scenarios failed; they are tried again by the next call" in ended.err
    assert "healthy on undefended, 0" in scored.results()
    (scored.submissions / "attacks" / "short.py").write_text(
        (scored.submissions / "attacks" / "healthy.py").read_text()
    )
    assert run(scored, "short", "--trust")[0] == 0, "mended"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("(predict(x) / self.params.temperature).log_softmax(1)", "predict(x) * 2", "mine: expected posteriors that sum to 1"),
        ("(predict(x) / self.params.temperature).log_softmax(1)", "predict(x).float()", ", 10) torch.float32"),
        ("(predict(x) / self.params.temperature).log_softmax(1)", "predict(x)[:, :3]", ", 3) torch.float64"),
        ("return lambda", "raise KeyError('no')\n        return lambda", "KeyError"),
    ],
)  # fmt: skip
def test_a_sick_defense_fails_alone(scored: Home, old: str, new: str, reason: str) -> None:
    path = scored.submissions / "defenses" / "mine.py"
    path.write_text(TEMPLATES["defense"].replace(old, new))
    code, said, results = run(scored, "mine", "--trust")
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


# --- Where and how it ran ---------------------------------------------------------------------------

LAST_WORDS = """
    def train(self, task):
        \"\"\"What the test puts here.\"\"\"
        print("\\x1b[31mlast words")
        ENDS

    def other("""
ENDS = {
    "os._exit(3)": ("failed", "its process ended with exit code 3"),
    "raise MemoryError": ("out-of-memory", "MemoryError"),
    "raise KeyError('no')": ("failed", "KeyError: 'no'"),
}


@pytest.mark.usefixtures("launcher")
@pytest.mark.parametrize("ends", ENDS)
def test_what_training_died_of_is_on_every_row_that_waited_for_it(scored: Home, ends: str) -> None:
    text = TEMPLATES["defense"].replace("    def guard(", LAST_WORDS.strip("\n").replace("ENDS", ends))
    text = text.replace('("post-inference",)', '("training",)').replace("from torch", "import os\n\nfrom torch")
    (scored.submissions / "defenses" / "mine.py").write_text(text)
    ended = scored.call("run", "mine", "--protocol", "smoke", "--workers", "1", "--json")
    assert ended.code == 1
    rows = [r for r in map(Result.model_validate, json.loads(ended.out)) if r.defense == "mine"]
    assert {r.attack for r in rows} == {"", "random_scores", "loss"}
    status, reason = ENDS[ends]
    for row in rows:
        assert (row.status, row.isolation) == (status, "bubblewrap"), "this file ran isolated; the attacks are reviewed"
        assert row.reason.startswith("networks of mine: ") and reason in row.reason
        assert "\\x1b[31mlast words" in row.log and "\x1b" not in row.log
    assert ended.err.count(f"{status} ") >= 3


def test_memory_that_ran_out_in_the_judges_process_is_a_status_too(scored: Home) -> None:
    scored.attack("hungry", "(_ for _ in ()).throw(RuntimeError('CUDA out of memory. Tried to allocate 2 GiB'))")
    ended = scored.call("run", "hungry", "--protocol", "smoke", "--workers", "1", "--json", "--trust")
    (row,) = (r for r in map(Result.model_validate, json.loads(ended.out)) if r.attack == "hungry")
    assert (row.status, row.isolation) == ("out-of-memory", "trusted")
    assert row.log.startswith("hungry.py, line ") and " (hungry.py, line " in row.reason


@pytest.mark.usefixtures("launcher")
def test_a_row_says_where_the_weakest_of_its_unreviewed_files_ran(scored: Home) -> None:
    scored.attack("mine")
    assert {r.isolation for r in scored.results().values()} == {"reviewed"}
    shutil.rmtree(scored.store / "result")
    ended = scored.call("run", "--protocol", "smoke", "--workers", "1", "--isolation", "always")
    assert ended.code == 0 and {r.isolation for r in scored.results().values()} == {"bubblewrap"}
    where = {}
    for arguments in ([], ["--trust"]):
        ended = scored.call("run", "mine", "--protocol", "smoke", "--workers", "1", "--json", *arguments)
        assert ended.code == 0, ended.err
        (row,) = (r for r in map(Result.model_validate, json.loads(ended.out)) if r.attack == "mine")
        where[row.isolation] = row
    assert set(where) == {"bubblewrap", "trusted"}, "the target's training is reviewed, and says nothing of this file"
    assert where["bubblewrap"].key != where["trusted"].key, "what ran unwatched is scored again"
    assert where["bubblewrap"].metrics == where["trusted"].metrics
    assert {r.trust for r in scored.results().values()} == {"self-reported"}


def test_without_bubblewrap_nothing_starts_and_the_way_out_is_named(
    scored: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "probe", lambda: host.Unable("bubblewrap is not installed", "install it"))
    assert run(scored)[0] == 0, "reviewed files need none"
    scored.attack("mine")
    code, said, results = run(scored, "mine")
    assert code == 2 and "add --trust" in said
    assert "mine on undefended, 0" not in results
    assert run(scored, "mine", "--trust")[0] == 0
    assert run(scored, "--isolation", "always")[0] == 0, "all is stored"
    shutil.rmtree(scored.store / "result")
    assert run(scored, "--isolation", "always")[0] == 2


# --- Workers ----------------------------------------------------------------------------------------


class Team(Executor[Job, Done]):
    """Workers that take jobs and do nothing until they are told how one ends."""

    def __init__(self, workers: int = 2) -> None:
        self.workers, self.have = workers, [list[Job]() for _ in range(workers)]
        self.deaf: set[int] = set()
        self.next: list[Ended[Job, Done]] = []
        self.stopped = False

    def at_hand(self, worker: int) -> list[Job]:
        return self.have[worker]

    def submit(self, worker: int, work: Job) -> bool:
        if worker in self.deaf:
            self.deaf.remove(worker)
            return False
        self.have[worker].append(work)
        return True

    def ended(self, timeout: float) -> list[Ended[Job, Done]]:
        found, self.next = self.next, []
        return found

    def stop(self, *, kill: bool = False) -> None:
        self.stopped = True

    @property
    def names(self) -> list[list[str]]:
        return [[j.id for j in jobs] for jobs in self.have]


KINDS = {"scenario": ScenarioJob, "networks": NetworksJob, "guard": GuardJob, "answers": AnswersJob}


def job(name: str, attack: str = "", defense: str = "undefended", kind: str = "scenario", needs: str = "") -> Job:
    more: dict[str, Any] = {
        "networks": {"models": ()}, "guard": {"place": 0, "prepared": ("target", 0)},
        "answers": {"prepared": ("target", 0), "parts": (), "models": ()},
    }.get(kind, {})  # fmt: skip
    return KINDS[kind](id=name, defense=defense, seed=0, attack=attack, needs=frozenset(needs), **more)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(protocol.load("smoke"), SUBMISSIONS, tmp_path / "store", "cpu")


def test_jobs_are_handed_out_in_the_order_of_the_plan() -> None:
    """Whatever their kind and entry, and no worker is without one while there are any."""
    waiting = {n: job(n, a) for n, a in zip("abcde", ("loss", "lira", "loss", "lira", "loss"), strict=True)}
    team = Team()
    execute._hand_out(team, waiting)
    assert team.names == [["a", "c"], ["b", "d"]] and list(waiting) == ["e"]
    team.have[1].clear()
    execute._hand_out(team, waiting)
    assert team.names[1] == ["e"] and not waiting


def test_no_worker_waits_for_what_another_makes_while_there_is_other_work() -> None:
    """What a guard keeps in the store serves every chain with it: whoever asks at the same time waits for it."""
    waiting = {
        n: job(n, defense=d, kind=k)
        for n, d, k in (
            ("a", "diffence[n=10]", "guard"),
            ("b", "hamp+diffence[n=2]", "answers"),
            ("c", "diffence[n=10]", "networks"),
            ("d", "diffence", "answers"),
            ("e", "hamp", "guard"),
        )
    }
    waiting["f"] = job("f", "loss", "diffence")
    team = Team()
    execute._hand_out(team, waiting)
    assert team.names == [["a", "b"], ["c", "f"]]
    team.have[1].clear()
    waiting.pop("e")
    execute._hand_out(team, waiting)
    assert team.names[1] == ["d"], "no worker rests"


def test_no_job_is_handed_out_before_what_it_needs() -> None:
    waiting = {"a": job("a", kind="networks"), "b": job("b", "loss", needs="a"), "c": job("c", "lira", needs="a")}
    team = Team()
    execute._hand_out(team, waiting)
    assert team.names == [["a"], []] and list(waiting) == ["b", "c"]
    execute._hand_out(team, waiting)
    assert list(waiting) == ["b", "c"], "it is not finished"
    team.have[0].clear()
    execute._hand_out(team, waiting)
    assert not waiting


def test_what_a_worker_does_not_take_another_one_does() -> None:
    team = Team()
    team.deaf.add(0)
    waiting = {"a": job("a", "loss"), "b": job("b", "lira")}
    execute._hand_out(team, waiting)
    assert not waiting and sorted(name for names in team.names for name in names) == ["a", "b"]


class Losing(Team):
    """One worker that ends every job in the same way, but for those that only stand behind it."""

    def __init__(self, how: How) -> None:
        super().__init__(1)
        self.how, self.seen = how, list[str]()

    def ended(self, timeout: float) -> list[Ended[Job, Done]]:
        first, *others = self.have[0]
        self.have[0].clear()
        self.seen.append(first.id)
        if first.id != "a":
            return [Ended(first, "made", Done(first.id, 0.0)), *(Ended(o, "not begun") for o in others)]
        return [Ended(first, self.how), *(Ended(o, "not begun") for o in others)]


@pytest.mark.parametrize(
    ("how", "attempts", "status", "error"),
    [("lost", execute.LOSSES, "failed", execute.DIED), ("hung", 1, "timeout", "more than 120 s")],
)
def test_a_job_that_loses_its_worker_is_tried_again_three_times_and_one_that_hangs_is_not(
    setting: Setting, how: How, attempts: int, status: str, error: str
) -> None:
    plan, team = Plan(jobs={name: job(name, "loss") for name in "abc"}), Losing(how)
    ended: dict[str, Done] = {}
    results = list(execute.execute(plan, setting, team, lambda j, done, _: ended.update({j.id: done})))
    assert team.stopped and team.seen.count("a") == attempts
    assert team.seen.count("b") == team.seen.count("c") == 1, "who stood behind it is not blamed"
    assert (ended["a"].status, ended["a"].error) == (status, error) and not ended["b"].error
    assert [(r.key, r.status) for r in results] == [("a", status)]


class Hanging(Inline):
    """A pool in which some jobs never end."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        if arguments[0].attack == "endless":
            return Future()
        return super().submit(function, *arguments)


def test_a_hang_in_the_judges_process_ends_as_a_timeout(scored: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    scored.attack("endless")
    scored.attack("healthy")
    monkeypatch.setattr(pool, "process", lambda setting, workers: Hanging(setting))
    monkeypatch.setattr(execute, "_GRACE", 0.5 - protocol.load("smoke").limits.seconds)
    ended = scored.call(
        "run", "endless", "healthy", "--protocol", "smoke", "--workers", "1", "--json", "--trust"
    )  # fmt: skip
    rows = {r.attack: r for r in map(Result.model_validate, json.loads(ended.out))}
    assert (rows["endless"].status, rows["endless"].reason) == ("timeout", "more than 120 s")
    assert rows["healthy"].status == "ok"


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
    monkeypatch.setattr(pool, "process", lambda setting, workers: Breaking(setting))
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
    """`smoke` with more to do: networks one by one, reference models, another attack."""
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
    pause = random.Random(time.time_ns()).uniform(0, 1.5)
    process = home.start("run", "--protocol", longer, "--workers", "1")
    wait_for(lambda: stored(home), process)
    time.sleep(pause)
    process.kill()
    process.communicate()
    print(f"killed {pause:.2f} s after the first file")
    assert_nothing_survives(process.pid)
    code, out, err = finish(home.start("run", "--protocol", longer, "--workers", "1"))
    assert code == 0, err
    assert "0 reused; " not in out.split(" scenarios scored")[0].rsplit("\n", 1)[-1], "work of the killed run is used"
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
@pytest.mark.usefixtures("launcher")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_sandbox_outlives_the_command(home: Home, smoke_store: Path, how: signal.Signals) -> None:
    shutil.copytree(smoke_store, home.store)
    home.attack("sleepy", "__import__('time').sleep(600)")
    process = home.start("run", "sleepy", "--protocol", "smoke", "--workers", "1")

    def below_workers() -> int:
        return max((len(descendants(pid)) for pid in workers_of(process.pid)), default=0)

    wait_for(below_workers, process, more_than=3)  # bubblewrap twice, the zygote, its fork
    everything = descendants(process.pid)
    assert len(everything) >= 5
    os.kill(process.pid, how)
    code, _, err = finish(process)
    assert code == (130 if how == signal.SIGINT else -signal.SIGKILL), err
    end = time.monotonic() + 5
    while any(map(alive, everything)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in everything if alive(pid)]


@linux
@pytest.mark.slow
def test_an_attack_that_kills_its_worker_fails_alone(home: Home, smoke_store: Path) -> None:
    shutil.copytree(smoke_store, home.store)
    home.attack("deadly", "os.kill(os.getpid(), signal.SIGKILL)")
    home.attack("healthy")
    arguments = ["run", "deadly", "healthy", "--protocol", "smoke", "--workers", "1", "--json"]
    code, _, err = finish(home.start(*arguments, "--trust"))
    assert code == 1, err
    assert "failed deadly on undefended, seed 0: " in err and "the worker died" in err
    assert "failed healthy" not in err
    assert "healthy on undefended, 0" in home.results()
