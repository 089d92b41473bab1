"""The axes of a protocol beyond data, network and recipe: canaries, another adversary, fewer candidates for labels.

And what an attack changes of its adversary: whose guards stand before the models that he trains.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

from benchmark import data, metrics, protocol
from benchmark.api import Context
from benchmark.data import pins
from benchmark.data.intake import prepare
from benchmark.data.source import find
from benchmark.errors import UserError
from benchmark.judge import kinds
from benchmark.judge.scenario import Measurements, Skip
from benchmark.networks.training import TrainingRun
from benchmark.protocol import Adversary, Canaries, Protocol, WorldName
from benchmark.run import work
from benchmark.run.plan import AnswersJob, make_plan, scenario_key
from benchmark.targets.artifacts import Artifacts
from leakboard import score
from tests.conftest import SUBMISSIONS, artifacts_in

SMOKE = protocol.load("smoke")
ALONE = SMOKE.recipe.model_copy(update={"ensemble": 1})


def changed(**axes: Any) -> Protocol:
    return Protocol.model_validate(SMOKE.model_dump() | axes)


def outcome(artifacts: Artifacts, attack: str, chain: str = "undefended") -> Measurements:
    return kinds.scenario(artifacts, artifacts.registry.attack(attack), artifacts.chain(chain), 0).score()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return artifacts_in(tmp_path_factory.mktemp("plain"), SMOKE)


# --- Attributes -------------------------------------------------------------------------------------


@pytest.fixture
def toned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Artifacts]:
    """On images whose tone of three is as bright as they are, and is likelier in some classes than in others."""
    monkeypatch.setenv("LEAKBOARD_PROJECT", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.py").write_text(
        "import numpy as np\nfrom benchmark.data.source import Item, Source\n\n"
        'source = Source(title="Mine", terms="none", get="by hand", views={"8": (1, 8, 8)}, attributes={"tone": 3})\n\n\n'
        "def read(folder):\n"
        "    rng = np.random.default_rng(0)\n"
        "    for i in range(600):\n"
        "        tone = int(rng.choice(3, p=[[0.7, 0.2, 0.1], [0.1, 0.7, 0.2]][i % 2]))\n"
        "        image = rng.integers(0, 90, (8, 8)) + 80 * tone\n"
        '        yield Item(image.astype(np.uint8), i % 2, {"tone": tone})\n'
    )
    prepare(find("mine"), None, tmp_path)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(SMOKE.model_dump(mode="json") | {
        "dataset": {"id": "mine", "view": "8", "digest": ""}, "split": {"scheme": "six-way", "digests": {}},
        "attribute": "tone",
    }).replace("data_digest: " + SMOKE.data_digest + "\n", ""))  # fmt: skip
    pins.pin(tmp_path / "own.yaml")
    yield artifacts_in(tmp_path / "store", protocol.load(str(tmp_path / "own.yaml")))
    monkeypatch.undo()
    data.refresh()


def test_attributes_of_the_source_are_inferred_and_stand_beside_guesses_by_frequency(toned: Artifacts) -> None:
    pins.check(toned.protocol)
    population = toned.population(0)
    tone, parts = population.data.attributes["tone"].numpy(), population.parts  # type: ignore[attr-defined]
    truth, y = tone[parts["target-test"]], population.data.y.numpy()[parts["target-test"]]
    names = "attribute_null[guess=majority]", "attribute_null", "attribute_mlp[embedding=untrained]"
    majority, label, untrained = (outcome(toned, name) for name in names)
    assert majority.null and label.null and untrained.null
    commonest = np.bincount(tone[parts["shadow-train"]]).argmax()
    assert majority.metrics["attribute_accuracy"] == pytest.approx((truth == commonest).mean())
    assert majority.metrics["attribute_balanced_accuracy"] == pytest.approx(1 / 3)
    assert label.metrics["attribute_accuracy"] == pytest.approx(
        (truth == y).mean()
    )  # class 0: mostly 0, class 1: mostly 1
    accuracy = [m.metrics["attribute_balanced_accuracy"] for m in (majority, label, untrained)]
    assert accuracy == sorted(accuracy) and accuracy[2] > accuracy[1] + 0.1


def test_an_attribute_that_the_data_lack_is_refused_before_any_work(toned: Artifacts) -> None:
    for loaded, message in (
        (changed(attribute="tone"), "smoke: attribute: expected an attribute of digits, which has 0, given 'tone'"),
        (toned.protocol.model_copy(update={"attribute": "tine"}), "which has 1, given 'tine'; did you mean 'tone'"),
    ):
        with pytest.raises(UserError, match=message):
            pins.check(loaded)


def test_classes_that_leak_more_are_told_apart(toned: Artifacts) -> None:
    """An attack that finds the members of class 0 alone: its spread is above what classes drawn at random have."""
    scenario: Any = kinds.scenario(toned, toned.registry.attack("loss"), toned.chain("undefended"), 0)
    population = toned.population(0)
    members, y = population.members, population.labels[torch.from_numpy(population.candidates)].numpy()
    rng = np.random.default_rng(0)
    scores = np.where(y == 0, members, 0.5) + 0.1 * rng.random(len(y))
    found = scenario._report([(scores[None], None)])
    aucs = [roc_auc_score(members[y == k], scores[y == k]) for k in (0, 1)]
    assert found.values["class_auc"] == pytest.approx(aucs) and aucs[0] == 1
    assert found.metrics["class_auc"] == pytest.approx(np.mean(aucs))
    assert found.metrics["class_auc_sd"] == pytest.approx(np.std(aucs, ddof=1))
    assert found.metrics["class_auc_sd"] > found.metrics["class_auc_sd_null"]
    alike = scenario._report([(rng.random((1, len(y))), None)]).metrics
    assert alike["class_auc_sd"] < found.metrics["class_auc_sd"] / 2


def test_an_attribute_is_part_of_what_a_protocol_measures(toned: Artifacts) -> None:
    without = toned.protocol.model_copy(update={"attribute": None})
    assert without.measures != toned.protocol.measures and changed(attribute=None).measures == SMOKE.measures


# --- Thresholds -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """Thresholds from known samples, on two targets of the population."""
    return artifacts_in(
        tmp_path_factory.mktemp("known"),
        changed(thresholds="partial", targets=2, references={"online": 2, "offline": 2}),
    )


@pytest.mark.parametrize("attack", ["loss", "metric_ent[thresholds=global]"])
def test_thresholds_are_set_on_the_known_samples_of_each_target(known: Artifacts, attack: str) -> None:
    """What is known is not scored."""
    population, chain = known.population(0), known.chain("undefended")
    found = outcome(known, attack).values
    assert found is not None
    for k in range(2):
        model = known.served(chain, 0, "target", k)
        samples = [population.samples(rows) for rows in (*population.known(k), population.candidates)]
        answers = [model.answers_to(s.x) for s in samples]
        if attack == "loss":
            scores = [a.gather(1, s.y[:, None])[:, 0].numpy() for a, s in zip(answers, samples, strict=True)]
        else:
            scores = [(a.exp() * a).sum(1).numpy() for a in answers]
        sides, pooled = scores[:2], np.concatenate(scores[:2])
        members = np.arange(len(pooled)) < len(sides[0])
        threshold = metrics.best_threshold(pooled, members)
        called, inside = scores[2] >= threshold, population.members_of("target", k)
        expected = (called[inside].mean() + (~called[~inside]).mean()) / 2
        assert found["balanced_accuracy"][k] == pytest.approx(expected, abs=1e-9)
        assert not np.isin(population.candidates, np.concatenate(population.known(k))).any()


def test_known_samples_stand_for_the_shadow_world(known: Artifacts, plain: Artifacts) -> None:
    """Nobody asks the shadow model, and rows are of the track of partial knowledge."""
    attacks = [known.registry.attack(name) for name in ("loss", "metric_ment", "nn_sorted", "lira")]
    for artifacts, asked in ((known, {"target", "online"}), (plain, {"target", "online", "shadow"})):
        jobs = make_plan(artifacts, attacks, [artifacts.chain("undefended")], [0]).jobs.values()
        assert {role for job in jobs if isinstance(job, AnswersJob) for role, _ in job.models} == asked
    rows = [work.knowledge_of(attack, known.protocol) for attack in attacks]
    assert rows == ["none", "partial", "partial", "references-online"]
    assert work.knowledge_of(attacks[2], SMOKE) == "shadow"
    both = known.registry.attack("rmia_offline[guards=target]")
    assert work.knowledge_of(both, known.protocol) == "partial+references-offline+guards"


# --- Epochs -----------------------------------------------------------------------------------------


def test_with_a_constant_rate_fewer_epochs_are_an_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit: so entries by `epochs` are leakage along one training."""
    recipe = ALONE.model_dump() | {"schedule": "constant", "epochs": 2}
    artifacts = artifacts_in(tmp_path, changed(recipe=recipe, references={"online": 2, "offline": 2}))
    epochs, checkpoints = TrainingRun.epochs, []

    def watched(run: TrainingRun, network: torch.nn.Module) -> Iterator[int]:
        for epoch in epochs(run, network):
            if epoch == 1:
                checkpoints.append({name: value.clone() for name, value in network.state_dict().items()})
            yield epoch

    monkeypatch.setattr(TrainingRun, "epochs", watched)
    ended = [
        artifacts.network(artifacts.chain(name).training, 0, "target", 0).judge_copy().state_dict()  # type: ignore[union-attr]
        for name in ("undefended", "undefended[epochs=1]")
    ]
    assert len(checkpoints) == 1
    for name, value in checkpoints[0].items():
        assert torch.equal(value, ended[1][name])
    assert not torch.equal(ended[0]["head.weight"], ended[1]["head.weight"])


# --- Canaries ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """Trained long enough to learn 120 wrong labels by heart."""
    recipe = ALONE.model_dump() | {"epochs": 60, "learning_rate": 0.1, "weight_decay": 0.0}
    loaded = changed(recipe=recipe, canaries={"count": 120}, references={"online": 8, "offline": 2})
    return artifacts_in(tmp_path_factory.mktemp("planted"), loaded)


def test_learnt_canaries_are_found(planted: Artifacts) -> None:
    """What is scored are the canaries: targets that learnt them by heart give them away, and epsilon is large."""
    for attack in ("loss", "lira"):
        found = outcome(planted, attack)
        assert found.metrics["members"] + found.metrics["nonmembers"] == 120
        assert found.metrics["auc"] > 0.95
        assert 1.9 < found.metrics["epsilon_lower"] < 2.017, "24 right guesses of 24, less what delta takes"
        assert "balanced_accuracy" not in found.metrics or attack == "lira", (
            "no threshold from a world without canaries"
        )


def test_what_knows_nothing_finds_no_canary(planted: Artifacts) -> None:
    for attack, chain in (("random_scores", "undefended"), ("loss", "constant_output")):
        found = outcome(planted, attack, chain)
        assert found.metrics["epsilon_lower"] < 0.3 and abs(found.metrics["auc"] - 0.5) < 0.2


class Scores:
    """An attack that returns what it is told to, call by call."""

    def __init__(self, *rows: torch.Tensor) -> None:
        self.rows = list(rows)

    def fit(self, knowledge: object) -> None:
        pass

    def answer(self, *_: object) -> torch.Tensor:
        return self.rows.pop(0)


def test_of_several_attack_seeds_the_least_bound_counts(planted: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds end at 0: a mean of three would exceed the truth more often than one time in twenty."""
    members = torch.from_numpy(planted.population(0).members).double()
    guess = torch.rand(2, len(members), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(planted, "attacker", lambda *_: Scores(torch.cat([members[None], guess])))
    assert outcome(planted, "loss").metrics["epsilon_lower"] < 0.3


def test_an_attack_has_as_many_seeds_everywhere(plain: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row against three thresholds would be scored as three seeds."""
    n = len(plain.population(0).candidates)
    monkeypatch.setattr(plain, "attacker", lambda *_: Scores(torch.rand(1, n).double(), torch.rand(3, 120).double()))
    with pytest.raises(ValueError, match=r"as many attack seeds as where its thresholds are set \(3\), given 1"):
        outcome(plain, "loss")


def test_canaries_do_not_change_what_utility_is_measured_on(planted: Artifacts) -> None:
    population = planted.population(0)
    assert len(planted.population(0).part("target-test")) == len(population.parts["target-test"])
    assert not set(population.candidates) & set(population.parts["target-test"])


def test_networks_with_canaries_are_other_networks(planted: Artifacts) -> None:
    """Of one recipe and seed; and as many canaries under other labels are other canaries."""
    training = planted.chain("undefended").training
    bare = artifacts_in(planted.store.root, planted.protocol.model_copy(update={"canaries": None}))
    fewer = artifacts_in(planted.store.root, planted.protocol.model_copy(update={"canaries": Canaries(count=119)}))
    keys = {a.network(training, 0).key for a in (planted, bare, fewer)}
    assert len(keys) == 3


def test_canaries_need_networks_that_train_alone() -> None:
    with pytest.raises(ValueError, match=r"canaries: expected recipe.ensemble 1"):
        changed(recipe=ALONE.model_dump() | {"ensemble": 8}, canaries={"count": 20})


# --- Another adversary ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "axes",
    [
        {"architecture": "simple_cnn"},
        {"learning_rate": 0.02, "batch_size": 16, "epochs": 5},
        {"dataset": "synthetic-2x1", "data_digest": data.load("synthetic-2x1").digest},
    ],
    ids=["network", "recipe", "data"],
)
def test_another_adversary_has_another_shadow_and_the_same_target(
    axes: dict[str, Any], plain: Artifacts, tmp_path: Path
) -> None:
    other = artifacts_in(tmp_path, changed(adversary=axes, recipe=ALONE.model_dump()))
    same = artifacts_in(tmp_path, changed(recipe=ALONE.model_dump()))
    training = plain.chain("undefended").training
    for role, alike in (("target", True), ("shadow", False), ("offline", False)):
        keys = {a.network(training, 0, role, 2 * (role == "target")).key for a in (other, same)}
        assert (len(keys) == 1) == alike, role
    found = [outcome(a, "nn_top3[epochs=10]").metrics["auc"] for a in (other, same)]
    assert found[0] != found[1] and np.isfinite(found).all()
    shadow = other.network(training, 0, "shadow").judge_copy()
    assert shadow is not None and shadow.head.in_features == (128 if "architecture" in axes else 64)


def test_ensembles_do_not_mix_the_worlds_of_another_adversary() -> None:
    loaded = changed(adversary={"epochs": 2}, recipe=ALONE.model_dump() | {"ensemble": 8})
    artifacts = artifacts_in(Path("nowhere"), loaded)
    for group in artifacts.groups(artifacts.chain("undefended").training):
        assert len({role == "target" for role, _ in group}) == 1


def test_white_box_attacks_are_left_out_where_the_shadow_has_another_network(tmp_path: Path) -> None:
    other = artifacts_in(tmp_path, changed(adversary={"architecture": "simple_cnn"}, recipe=ALONE.model_dump()))
    with pytest.raises(Exception, match="the shadow's network is not the target's"):
        outcome(other, "ml_doctor_white_box_shadow[epochs=1]")


def test_an_unknown_network_of_the_adversary_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(SMOKE.model_dump(mode="json") | {"adversary": {"architecture": "simple_cn"}}))
    with pytest.raises(UserError, match=r"adversary.architecture: unknown architecture 'simple_cn'; did you mean"):
        score.prepare([], str(path), SUBMISSIONS, tmp_path / "store", "cpu")


def test_data_comes_with_its_digest() -> None:
    with pytest.raises(ValueError, match="dataset and data_digest: expected both or neither"):
        Adversary(dataset="digits")


# --- Fewer candidates -------------------------------------------------------------------------------


def test_attacks_that_see_labels_are_scored_on_fewer(plain: Artifacts, tmp_path: Path) -> None:
    fewer = artifacts_in(tmp_path, changed(label_only=20))
    few, all_ = outcome(fewer, "metric_corr"), outcome(plain, "metric_corr")
    assert few.metrics["members"] == few.metrics["nonmembers"] == 10
    assert few.cost["queries"] < all_.cost["queries"]
    assert outcome(fewer, "loss").metrics == outcome(plain, "loss").metrics, "who sees posteriors is scored on all"


# --- Whose guards the adversary holds -----------------------------------------------------------------

MARKED = """
import torch
from benchmark.api import Card, Defense


class Marked(Defense):
    card = Card(title="Marked", authors=("nobody",), reference="none", year=None)
    stages = ("post-inference",)

    def prepare(self, predict, task):
        return {"mark": MARK}

    def guard(self, predict, state, context):
        def answer(x):
            p = predict(x).exp() / 2
            p[:, 0] += state["mark"] / 4
            p[:, 1] += context.uniform("mark", x, 1)[:, 0] / 4
            return (p / p.sum(1, keepdim=True)).log()

        return answer
"""
"""A guard whose answers give away its state and its noise."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """With two guards of the tests: `marked` holds the mean pixel of its world's training set, `alike` a constant."""
    root = tmp_path_factory.mktemp("guarded")
    shutil.copytree(SUBMISSIONS, root / "submissions", ignore=shutil.ignore_patterns("__pycache__"))
    for name, mark in (("marked", "task.train.x.mean().double()"), ("alike", "torch.tensor(0.5, dtype=torch.float64)")):
        (root / "submissions" / "defenses" / f"{name}.py").write_text(MARKED.replace("MARK", mark))
    return artifacts_in(root / "store", SMOKE, root / "submissions")


@pytest.mark.parametrize("world", ["target", "shadow"])
@pytest.mark.parametrize("role", ["shadow", "online", "offline", "target"])
def test_models_answer_behind_the_state_of_one_world_and_their_own_noise(
    guarded: Artifacts, role: str, world: WorldName
) -> None:
    model = guarded.served(replace(guarded.chain("marked"), prepared=(world, 0)), 0, role, 2 * (role == "online"))
    part = {"shadow": "shadow-test", "target": "target-test"}.get(role, "candidates")
    x = guarded.population(0).part(part).x
    prepared = "target" if role == "target" else world
    keyed = "target" if role == "target" else "shadow"
    context = Context(guarded.noise_key(0, keyed), guarded.device, lambda name, x, make: make())
    p = model.network.predictor()(x).exp() / 2
    p[:, 0] += guarded.population(0).part(f"{prepared}-train").x.mean().double() / 4
    p[:, 1] += context.uniform("mark", x, 1)[:, 0] / 4
    expected = p / p.sum(1, keepdim=True)
    for answers in (model.answers(part), model.predictor()(x)):
        torch.testing.assert_close(answers.exp(), expected, rtol=0, atol=1e-6)
    states = [guarded.served(guarded.chain("marked"), 0, w).guards[0].state()["mark"] for w in ("target", "shadow")]
    assert abs(states[0] - states[1]) > 1e-4, "else nothing was shown"


def test_what_depends_on_the_states_has_a_key_of_its_own_and_nothing_else(guarded: Artifacts) -> None:
    def keys(spec: str, role: str) -> list[object]:
        chain = guarded.chain(spec)
        return [
            guarded.served(replace(chain, prepared=(w, 0)), 0, role, 2 * (role == "online")).key
            for w in ("shadow", "target")
        ]

    for role in ("shadow", "online", "offline"):
        own, other = keys("memguard", role)
        assert own != other
        own, other = keys("undefended", role)
        assert own == other
    own, other = keys("memguard", "target")
    assert own == other, "the target is the same target to every adversary"
    chain = guarded.chain("memguard")
    named = [guarded.registry.attack(f"nn_sorted{g}") for g in ("", "[guards=shadow]", "[guards=target]")]
    found = [scenario_key(guarded, part, chain, 0) for part in named]
    assert found[0] == found[1] != found[2]


ADAPTIVE = [
    "nn_sorted[epochs=5{}]",
    "metric_ment{}",
    "lira{}",
    "lira_offline{}",
    "rmia_offline{}",
    "label_only_noise{}",
]


def variants(attack: str) -> tuple[str, str]:
    """An attack with the adversary's own guards, and with the target's."""
    given = ",guards=target" if "[" in attack else "[guards=target]"
    return attack.format(""), attack.format(given)


@pytest.mark.parametrize("attack", ADAPTIVE)
def test_equal_states_make_equal_adversaries(guarded: Artifacts, attack: str) -> None:
    """To the last digit, the draws of neural attacks included."""
    own, other = (vars(outcome(guarded, spec, "alike")) for spec in variants(attack))
    assert {**own, "cost": 0} == {**other, "cost": 0}


@pytest.mark.parametrize("attack", ["nn_sorted[epochs=5{}]", "lira{}"])
def test_other_states_make_another_adversary(guarded: Artifacts, attack: str) -> None:
    own, other = (outcome(guarded, spec, "marked") for spec in variants(attack))
    assert own.histogram != other.histogram


@pytest.mark.parametrize("chain", ["undefended", "label_smoothing", "label_smoothing+rounding", "temperature+top_k"])
def test_where_no_guard_holds_anything_the_variant_does_not_apply(guarded: Artifacts, chain: str) -> None:
    with pytest.raises(Skip, match="not applicable: no guard here holds anything of the target's world"):
        outcome(guarded, "nn_sorted[guards=target]", chain)


@pytest.mark.parametrize("attack", ["nn_sorted[epochs=5,guards=target]", "rmia_offline[guards=target]"])
def test_all_that_a_scenario_reads_was_made_by_the_jobs_that_it_waits_for(
    guarded: Artifacts, attack: str, tmp_path: Path
) -> None:
    artifacts = artifacts_in(tmp_path, SMOKE, guarded.registry.root)
    chain, part = artifacts.chain("temperature+memguard"), artifacts.registry.attack(attack)
    plan = make_plan(artifacts, [artifacts.registry.attack("nn_sorted[epochs=5]"), part], [chain], [0])
    scenario = next(job for job in plan.jobs.values() if job.attack == part.name)

    done: set[str] = set()

    def wait_for(ids: frozenset[str]) -> None:
        for id in ids - done:
            done.add(id)
            wait_for(plan.jobs[id].needs)
            plan.jobs[id].make(artifacts)

    wait_for(scenario.needs)
    artifacts.store.made.clear()
    kinds.scenario(artifacts, part, chain, 0).score()
    assert not artifacts.store.made


# --- What a protocol measures -----------------------------------------------------------------------


def test_absent_axes_leave_the_digest_of_a_protocol_alone() -> None:
    assert protocol.load("digits-v2").measures.startswith("92d8b04bfb")
    digests = {changed(**a, recipe=ALONE.model_dump()).measures for a in ({}, {"label_only": 20}, {"canaries": {"count": 20}}, {"adversary": {"epochs": 2}})}  # fmt: skip
    assert len(digests) == 4
