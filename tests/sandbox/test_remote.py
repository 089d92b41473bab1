"""Remote: isolated and in-process runs are the same to the last bit, and what comes back is held to the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark import protocol
from benchmark.api import Context, Samples
from benchmark.entries.registry import Registry
from benchmark.errors import Fault, UserError
from benchmark.judge import kinds
from benchmark.networks.training import TrainingRun
from benchmark.protocol import Limits, Protocol
from benchmark.sandbox import remote
from benchmark.sandbox.host import Launcher
from benchmark.sandbox.remote import Isolation, RemoteDefender, Setup
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.store import Store
from tests.conftest import SUBMISSIONS

CPU = torch.device("cpu")
SMOKE = protocol.load("smoke")
LIMITS = Limits(seconds=120, memory_mb=3072)


def made(folder: Path, isolation: Isolation, submissions: Path = SUBMISSIONS, loaded: Protocol = SMOKE) -> Artifacts:
    return Artifacts(loaded, Registry(submissions), Store(folder), CPU, isolation)


@pytest.fixture(scope="module")
def everything(launcher: Launcher) -> Iterator[Isolation]:
    """Isolates all; at most as many sandboxes at once as a small machine holds."""
    isolation = Isolation("always", launcher, LIMITS)
    yield isolation
    isolation.close()


@pytest.fixture(scope="module")
def both(everything: Isolation, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifacts, Artifacts]:
    """The judge with all submissions in this process, and with all of them in sandboxes; each with its own store."""
    folder = tmp_path_factory.mktemp("both")
    return made(folder / "here", Isolation("auto")), made(folder / "there", everything)


# --- The same here and there ------------------------------------------------------------------------

ATTACKS = [
    "loss", "metric_corr", "ml_doctor_partial[epochs=20]", "lira[views=3]", "nn_augmented[views=2,epochs=5]", "grad_norm", "fredrikson[steps=20]",
    "attribute_mlp[epochs=20]", "attribute_mlp[embedding=untrained,epochs=20]", "attribute_posteriors[epochs=20]", "attribute_labels",
    "attribute_partial[epochs=20]", "steal_mse[epochs=10]", "steal_partial[epochs=10]", "steal_labels[epochs=10,architecture=simple_cnn]",
    "steal_posteriors[epochs=10,queries=30,choose=diverse]", "steal_no_data[epochs=10,queries=100]",
]  # fmt: skip
"""One of each access, knowledge and task; `leakboard check` does the same for every entry."""


def outcome(artifacts: Artifacts, attack: str, chain: str) -> dict[str, Any]:
    """All but the time that it took."""
    scenario = kinds.scenario(artifacts, artifacts.registry.attack(attack), artifacts.chain(chain), 0)
    try:
        found = vars(scenario.score())
    finally:
        artifacts.end_job()
    return found | {"cost": found["cost"]["queries"]}


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_scores_the_same_in_a_sandbox(both: tuple[Artifacts, Artifacts], attack: str) -> None:
    here, there = (outcome(artifacts, attack, "undefended") for artifacts in both)
    assert here == there
    asks = attack.split("[")[0] not in ("grad_norm", "fredrikson", "attribute_mlp", "attribute_partial")
    assert (here["cost"] > 0) == asks, "the queries are counted"


@pytest.mark.slow
def test_an_attack_with_the_targets_guards_scores_the_same_in_a_sandbox(both: tuple[Artifacts, Artifacts]) -> None:
    found = [
        outcome(artifacts, f"nn_sorted[epochs=5{guards}]", "memguard")
        for artifacts in both
        for guards in ("", ",guards=target")
    ]
    assert found[1] == found[3] != found[0]
    assert found[0] == found[2]


def same(here: dict[str, Tensor], there: dict[str, Tensor]) -> bool:
    return here.keys() == there.keys() and all(
        torch.equal(t, there[n]) and t.dtype == there[n].dtype for n, t in here.items()
    )


CHAINS = ["dp_sgd", "label_smoothing+diffence[n=1,timestep=20,train_steps=5]+memguard"]


@pytest.mark.slow
@pytest.mark.parametrize("spec", CHAINS)
def test_a_defense_trains_prepares_and_answers_the_same_in_a_sandbox(
    both: tuple[Artifacts, Artifacts], spec: str
) -> None:
    found = []
    for artifacts in both:
        target = artifacts.served(artifacts.chain(spec), 0)
        answers = {"target": target.predictor()(target.population.part("target-test").x)}
        states = [guard.state() for guard in target.guards]
        found.append((answers, states, target.network.states(), target.network.claims()))
        artifacts.end_job()
    here, there = found
    assert same(here[0], there[0]) and same(here[2], there[2]) and here[3] == there[3]
    assert all(map(same, here[1], there[1])) and len(here[1]) == len(there[1])
    assert here[0]["target"].exp().sum(1).allclose(torch.ones(60, dtype=torch.float64))


@pytest.mark.slow
def test_a_network_that_trains_alone_is_the_same_too(
    both: tuple[Artifacts, Artifacts], everything: Isolation, tmp_path: Path
) -> None:
    alone = SMOKE.model_copy(update={"recipe": SMOKE.recipe.model_copy(update={"ensemble": 1})})
    found = []
    for name, isolation in (("here", Isolation("auto")), ("there", everything)):
        artifacts = made(tmp_path / name, isolation, loaded=alone)
        found.append(artifacts.network(artifacts.chain("undefended").training, 0).states())
        artifacts.end_job()
    assert same(*found)


# --- What an attack may ask -------------------------------------------------------------------------

ASK = """
import gc
import torch
from benchmark.api import Attack, Card, Hyper, Literal


class Mine(Attack):
    card = Card(title="Mine", authors=("nobody",), reference="none", year=None)
    access = "label"
    calibrate = "none"

    class Params(Hyper):
        do: Literal[NAMES] = "labels"

    def score(self, target, candidates, references):
        x = candidates.x
        scores = (target.labels(x) == candidates.y).double()
        channel = next(o for o in gc.get_objects() if type(o).__name__ == "Channel")
        def do():
BODIES
        made = do()
        return scores if made is None else made
"""
WRONG: dict[str, tuple[str, str]] = {
    "posteriors": ("target.log_posteriors(x)", "PermissionError: the attack declares label access; it asked for posteriors"),
    "network": ("target.white_box()", "PermissionError: the attack declares label access; it asked for the network"),
    "other": ("channel.call('labels', {'target': 1}, {'x': x})", "PermissionError: expected a target that the judge has given"),
    "private": ("channel.call('labels', {'target': '__class__'}, {'x': x})", "expected a target that the judge has given"),
    "no_target": ("channel.call('labels', {}, {'x': x})", "expected a target that the judge has given"),
    "references": ("channel.call('references', {}, {'x': x})", "PermissionError: expected reference models that the judge has given"),
    "no_images": ("channel.call('labels', {'target': 0})", "expected an array 'x', given none"),
    "odd_images": ("target.labels(x[:, :, :3])", "x: expected nx1x8x8 torch.float32, given 60x1x3x8"),
    "store": ("channel.call('store', {})", "broke the protocol: expected one of artifact, labels, log_posteriors, references, white_box, given 'store'"),
    "before": ("channel.call('before', {}, {'x': x})", "broke the protocol: expected one of artifact, labels, log_posteriors, references"),
    "forged": ("channel._send({'done': {'network': True}}, {})", "expected a tensor from score, given network"),
    "list": ("return scores.tolist()", "expected a tensor from score, given list"),
    "half": ("return scores.half()", "expected scores of dtype float64, given float16"),
    "whole": ("return scores.long()", "expected scores of dtype float64, given int64"),
    "short": ("return scores[1:]", "expected scores of shape"),
    "square": ("return scores.expand(2, 3, -1)", "expected scores of shape"),
    "none_at_all": ("return scores.expand(0, -1)", "expected scores of shape"),
    "seeds": ("return scores.expand(101, -1)", "expected scores of at most 100 attack seeds, given 101"),
    "no_query": ("target.labels(x[:0])", "expected 1 to 100000 images at once, given 0"),
    "nan": ("return scores / 0 * 0", "expected finite scores, given 60 that are NaN or infinite"),
    "infinite": ("return scores / 0", "expected finite scores"),
}  # fmt: skip
FINE = {
    "labels": "pass",
    "double": "assert torch.equal(target.labels(x.double()), target.labels(x))",
    "caught": "import contextlib\nwith contextlib.suppress(PermissionError):\n    target.log_posteriors(x)",
    "requires_grad": "target.labels(x.clone().requires_grad_())",
    "three": "return scores.expand(3, -1)",
}


def text_of(template: str, bodies: dict[str, str]) -> str:
    lines = []
    for name, body in bodies.items():
        lines += [
            f"            if self.params.do == {name!r}:",
            *(f"                {line}" for line in body.splitlines()),
        ]
    return template.replace("NAMES", ", ".join(map(repr, bodies))).replace("BODIES", "\n".join(lines))


@pytest.fixture(scope="module")
def own(everything: Isolation, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """The judge with the submissions of this file, in sandboxes."""
    folder = tmp_path_factory.mktemp("own")
    for kind, name, text in (
        ("attacks", "mine", text_of(ASK, {**FINE, **{n: body for n, (body, _) in WRONG.items()}})),
        ("attacks", "thief", THIEF),
        ("defenses", "guard", text_of(GUARD, {**GOOD_GUARDS, **{n: body for n, (body, _) in BAD_GUARDS.items()}})),
        ("defenses", "undefended", (SUBMISSIONS / "defenses" / "undefended.py").read_text()),
    ):
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / f"{name}.py").write_text(text)
    return made(folder / "store", everything, folder)


@pytest.mark.parametrize("do", WRONG)
def test_what_an_attack_must_not_ask_or_answer_fails(own: Artifacts, do: str) -> None:
    with pytest.raises((Fault, ValueError), match=WRONG[do][1]) as error:
        outcome(own, f"mine[do={do}]", "undefended")
    assert getattr(error.value, "status", "failed") == "failed"


@pytest.mark.parametrize("do", FINE)
def test_what_an_attack_may_ask(own: Artifacts, do: str) -> None:
    found = outcome(own, f"mine[do={do}]", "undefended")
    assert 0 <= found["metrics"]["auc"] <= 1
    assert found["cost"] == 60 * {"double": 3, "requires_grad": 2}.get(do, 1), "what was refused is not counted"


THIEF = """
import torch
from torch import nn
from benchmark.api import Card, Hyper, Literal, StealingAttack


class Asking(nn.Module):
    def __init__(self, target, do):
        super().__init__()
        self.target, self.do, self.copy = target, do, None

    def forward(self, x):
        if self.do == "network":
            return self.target.white_box()(x)
        return self.target.log_posteriors(x)


class Thief(StealingAttack):
    card = Card(title="Thief", authors=("nobody",), reference="none", year=None)
    access = "white-box"
    needs = frozenset({"shadow"})

    class Params(Hyper):
        do: Literal["ask", "network", "early", "nothing"] = "ask"

    def steal(self, target, queries, build):
        if self.params.do == "nothing":
            return None
        return target.white_box() if self.params.do == "early" else Asking(target, self.params.do)
"""


@pytest.mark.parametrize("do", ["ask", "network"])
def test_a_stolen_copy_cannot_ask_the_target(own: Artifacts, do: str) -> None:
    with pytest.raises(Fault, match="the target answers no more: the attack has handed in its result"):
        outcome(own, f"thief[do={do}]", "undefended")


def test_what_was_had_before_may_be_used(own: Artifacts) -> None:
    assert outcome(own, "thief[do=early]", "undefended")["metrics"]["agreement"] == 1
    with pytest.raises(Fault, match=r"expected a network from steal, given NoneType"):
        outcome(own, "thief[do=nothing]", "undefended")


# --- What a defense may answer ----------------------------------------------------------------------

GUARD = """
import gc
import torch
from torch import nn
from benchmark.api import Card, Claims, Defense, Hyper, Literal


class Other(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class Guard(Defense):
    card = Card(title="Guard", authors=("nobody",), reference="none", year=None)
    stages = ("training", "post-inference")

    class Params(Hyper):
        do: Literal[NAMES] = "fine"

    def at(self, where, **given):
        def do():
            globals().update(given, where=where)
BODIES
        return do()

    def train(self, task):
        network = task.build()
        made = self.at("train", task=task, network=network)
        return network if made is None else made

    def prepare(self, predict, task):
        made = self.at("prepare", predict=predict, task=task)
        return {"x": torch.ones(2)} if made is None else made

    def guard(self, predict, state, context):
        def answer(x):
            made = self.at("guard", predict=predict, state=state, context=context, x=x)
            return predict(x) if made is None else made
        return answer

    def claims(self, task):
        made = self.at("claims", task=task)
        return Claims() if made is None else made
"""
BAD_GUARDS: dict[str, tuple[str, str]] = {
    "names": ("if where == 'train': return Other(network)", "expected weights of small_cnn: Error.* in loading state_dict"),
    "shapes": ("if where == 'train': return nn.Linear(3, 4)", "expected weights of small_cnn: Error.* in loading state_dict"),
    "no_network": ("if where == 'train': return 7", "expected a network from train, given int"),
    "nan_weights": (
        "if where == 'train':\n    [p.data.fill_(float('nan')) for p in network.parameters()]",
        "expected log-posteriors of at most 0, given NaN",
    ),
    "state": ("if where == 'prepare': return [torch.ones(1)]", "expected a dict of tensors from prepare, given list"),
    "state_of_texts": ("if where == 'prepare': return {'x': 'y'}", "expected a dict of tensors from prepare"),
    "single": ("if where == 'guard': return predict(x).float()", "expected 60x10 torch.float64, given 60x10 torch.float32"),
    "classes": ("if where == 'guard': return predict(x)[:, :3]", "expected 60x10 torch.float64, given 60x3"),
    "rows": ("if where == 'guard': return predict(x)[:3]", "expected 60x10 torch.float64, given 3x10"),
    "sum": ("if where == 'guard': return predict(x) - 1", "expected posteriors that sum to 1"),
    "positive": ("if where == 'guard': return -predict(x)", "given NaN or a positive value"),
    "nan": ("if where == 'guard': return predict(x) * float('nan')", "given NaN"),
    "none": ("if where == 'guard': return [1]", "expected log-posteriors as a tensor, given list"),
    "claim": ("if where == 'claims': return {'epsilon': 1}", "expected Claims from claims, given dict"),
    "claimed_text": ("if where == 'claims': return Claims(epsilon='small')", "expected claims of epsilon, delta"),
    "stored": (
        "if where == 'prepare': return task.artifact('a', lambda: {'x': torch.zeros(1 << 20)})",
        "wanted to store more than 1 MB",
    ),
    "remembered": (
        "if where == 'guard':\n    for i in range(30): context.remember(f'{i}', x, lambda: torch.zeros(1 << 14))",
        "wanted to store more than 1 MB",
    ),
    "name": ("if where == 'prepare': task.artifact('n' * 201, dict)", "a name of at most 200 characters"),
    "remember_nothing": ("if where == 'guard': context.remember('a', x, lambda: None)", "TypeError|expected a tensor"),
    "odd_query": ("if where == 'guard': predict(x[:, :, :2])", "x: expected nx1x8x8 torch.float32"),
}  # fmt: skip
GOOD_GUARDS = {
    "fine": "pass",
    "kept": (
        "if where == 'guard':\n    one, two = (context.remember('a', x, lambda v=v: torch.full((3,), v)) for v in (1.0, 2.0))\n"
        "    assert torch.equal(one, two), 'made once'\n"
        "    assert context.key and len(context.key) == 32"
    ),
    "pretrained": (
        "if where == 'prepare':\n    try:\n        task.pretrained('tiny')\n    except PermissionError as error:\n"
        "        assert '(none)' in str(error)\n    else:\n        raise AssertionError"
    ),
    "artifact": "if where == 'prepare': return {'x': task.artifact('b', lambda: {'x': torch.ones(3)})['x'] * 2}",
    "labels_stay": "if where == 'guard': return (predict(x) / 2).log_softmax(1)",
}  # fmt: skip


def asked(artifacts: Artifacts, do: str) -> Tensor:
    """The chain trained, prepared, asked for its claims and for its answers."""
    target = artifacts.served(artifacts.chain(f"guard[do={do}]"), 0)
    try:
        answer = target.predictor()(target.population.part("target-test").x)
        target.network.claims()
    finally:
        artifacts.end_job()
    return answer


@pytest.fixture
def small_store(own: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own.isolation, "limits", LIMITS.model_copy(update={"stored_mb": 1}))


@pytest.mark.usefixtures("small_store")
@pytest.mark.parametrize("do", BAD_GUARDS)
def test_what_a_defense_must_not_return_fails(own: Artifacts, do: str) -> None:
    with pytest.raises((Fault, ValueError), match=BAD_GUARDS[do][1]) as error:
        asked(own, do)
    assert getattr(error.value, "status", "failed") == "failed"


@pytest.mark.parametrize("do", GOOD_GUARDS)
def test_what_a_defense_may_do(own: Artifacts, do: str) -> None:
    assert torch.equal(asked(own, do).argmax(1), asked(own, "fine").argmax(1))


# --- Replies that no honest sandbox sends -----------------------------------------------------------


class Said:
    """A session whose other side says what the test wants."""

    def __init__(self, *replies: tuple[dict[str, Any], dict[str, Tensor]]) -> None:
        self.replies, self.handlers, self.closed = list(replies), {}, False  # type: ignore[var-annotated]

    def call(self, *_: object) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return self.replies.pop(0)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def defender() -> Callable[..., RemoteDefender]:
    def make(session: Said) -> RemoteDefender:
        isolation: Any = SimpleNamespace(open=lambda part, setup: session, limits=Limits(stored_mb=1))
        return RemoteDefender(isolation, None, Setup("small_cnn", 10, (1, 8, 8), {}, CPU))  # type: ignore[arg-type]

    return make


def tasks(n: int) -> list[TrainingRun]:
    none = Samples(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
    return [
        TrainingRun(
            train=none, reference=none, validation=none, classes=10, recipe=SMOKE.recipe, architecture="small_cnn",
            simple={}, seed=i, device=CPU,
        )
        for i in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["2.weight", "weight", "-1.weight", "x.weight", "", "1", "²3.weight", "\x1b[2J.x"])
def test_weights_of_networks_that_nobody_asked_for(defender: Callable[..., RemoteDefender], name: str) -> None:
    with pytest.raises(ValueError, match="expected weights of 2 networks, given '") as error:
        defender(Said(({}, {name: torch.zeros(1)}))).train(tasks(2))
    assert str(error.value).isprintable()


def test_weights_come_back_to_their_networks(defender: Callable[..., RemoteDefender]) -> None:
    session = Said(({}, {"0.a.b": torch.zeros(1), "1.a.b": torch.ones(1)}))
    assert [{n: t.item() for n, t in s.items()} for s in defender(session).train(tasks(2))] == [{"a.b": 0}, {"a.b": 1}]
    assert session.closed


@pytest.mark.parametrize(
    "values",
    [{"epsilon": "1"}, {"epsilon": True}, {"epsilon": [1]}, {"accountant": 3}, {"budget": 1}, {"\x1b[2J": 1}],
)  # fmt: skip
def test_claims_are_numbers_and_texts(defender: Callable[..., RemoteDefender], values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected claims of epsilon, delta, robust, certificate") as error:
        defender(Said((values, {}))).claims(tasks(1)[0])
    assert str(error.value).isprintable()


def test_claims_are_escaped(defender: Callable[..., RemoteDefender]) -> None:
    claims = defender(Said(({"epsilon": 2, "accountant": "\x1b[31m" + "x" * 500}, {}))).claims(tasks(1)[0])
    assert claims.epsilon == 2.0 and claims.accountant is not None
    assert claims.accountant.isprintable() and len(claims.accountant) <= 100


@pytest.mark.parametrize("number", [-1, 2, True, "0", None, 1.0])
def test_artifacts_are_those_of_its_own_tasks(defender: Callable[..., RemoteDefender], number: object) -> None:
    session = Said(({}, {}))
    defender(session).train(tasks(2))
    with pytest.raises(ValueError, match="expected one of 2 trainings"):
        session.handlers["artifact"]({"training": number, "name": "a"}, {})
    with pytest.raises(ValueError, match="a name of at most 200 characters"):
        session.handlers["artifact"]({"training": 0, "name": ["a"]}, {})


def test_a_guard_gets_nothing_but_what_it_is_given(defender: Callable[..., RemoteDefender]) -> None:
    session = Said(({}, {}), ({}, {"value": torch.zeros(2, 10)}), ({}, {"other": torch.zeros(1)}))
    context = Context(key=b"k" * 32, device=CPU, remember=lambda name, x, make: make())
    served = defender(session).guard(lambda x: x, {}, context)
    assert session.handlers.keys() == {"before", "remember"}
    with pytest.raises(ValueError, match=r"value: expected 2x10 torch.float64, given 2x10 torch.float32"):
        served(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="expected a tensor to remember"):
        session.handlers["remember"]({"name": "a"}, {"x": torch.zeros(1, 1, 8, 8)})
    del served
    assert session.closed, "nobody holds it any more"


# --- Where code runs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "reviewed", "where"),
    [
        ("auto", True, "reviewed"), ("auto", False, "bubblewrap"), ("always", True, "bubblewrap"),
        ("always", False, "bubblewrap"), ("never", True, "reviewed"), ("never", False, "trusted"),
    ],
)  # fmt: skip
def test_where_code_runs(mode: Any, reviewed: bool, where: str) -> None:
    entry: Any = SimpleNamespace(reviewed=reviewed)
    assert Isolation(mode).where(entry) == where


def test_isolation_is_looked_for_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(mode: str) -> Launcher:
        raise UserError("no bubblewrap")

    monkeypatch.setattr(remote, "launcher", none)
    known, new = (SimpleNamespace(reviewed=r) for r in (True, False))
    assert remote.require([known], "auto") is None  # type: ignore[list-item]
    assert remote.require([known, new], "never") is None  # type: ignore[list-item]
    for entries, mode in (([known, new], "auto"), ([known], "always")):
        with pytest.raises(UserError, match="no bubblewrap"):
            remote.require(entries, mode)  # type: ignore[arg-type]
