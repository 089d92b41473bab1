"""Inside the sandbox: a fork answers the judge's calls with one instance of one entry; here in a thread."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark import networks
from benchmark.api import Candidates, Knowledge, References, Samples, Target, World
from benchmark.entries.templates import TEMPLATES
from benchmark.networks.access import raw
from benchmark.protocol import load
from benchmark.sandbox import inside
from benchmark.sandbox.values import flatten
from benchmark.sandbox.wire import Channel, Closed, RemoteError

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)


@pytest.fixture
def judge() -> Iterator[Channel]:
    """The judge's end of a fork."""
    mine, its = socket.socketpair()
    mine.settimeout(20)
    before = set(sys.modules)
    thread = threading.Thread(target=inside.serve, args=(its,), daemon=True)
    thread.start()
    with mine:
        yield Channel(mine)
        mine.shutdown(socket.SHUT_RDWR)
    thread.join(20)
    assert not thread.is_alive(), "it ends when the judge hangs up"
    its.close()
    for name in set(sys.modules) - before:
        if name.startswith("submissions."):
            del sys.modules[name]


def open_entry(judge: Channel, text: str, kind: str = "attack", **params: Any) -> None:
    judge.call(
        "open",
        {
            "module": f"submissions.{kind}s.mine", "path": f"{kind}s/mine.py", "text": text, "class": "Submission",
            "params": params, "architecture": "small_cnn", "classes": 10, "shape": list(SHAPE), "simple": {"pad": 1},
            "device": "cpu",
        },
    )  # fmt: skip


def images(n: int = 12) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0))


def training_as_sent(seed: int = 3, n: int = 12) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A task as it crosses."""
    recipe = load("smoke").recipe.model_dump(mode="json")
    y = torch.arange(n) % 10
    sides = {f"0.{s}": (images(n), y) for s in ("train", "reference", "validation")}
    return {"recipe": recipe, "seed": seed, "uses": ["reference", "validation"]}, {
        f"{s}.{k}": v for s, xy in sides.items() for k, v in zip("xy", xy, strict=True)
    }


CANDIDATES = Candidates(images(), torch.zeros(12, dtype=torch.int64), torch.arange(12))


class Numbered(Target):
    """A target that stays with the judge."""

    def __init__(self, number: int) -> None:
        self.number = number


def call(channel: Channel, do: str, *given: Any) -> Any:
    def stay(value: Any) -> Any:
        return {"references": len(value.members)} if isinstance(value, References) else {"target": value.number}

    tensors: dict[str, Tensor] = {}
    arguments = [flatten(value, tensors, stay) for value in given]
    return channel.call(do, {"arguments": arguments}, tensors)[1].get("value")


def score(
    channel: Channel, number: int, candidates: Candidates = CANDIDATES, references: References | None = None
) -> Any:
    return call(channel, "answer", Numbered(number), candidates, references)


def test_an_attack_scores_what_the_judge_answers(judge: Channel) -> None:
    asked: list[dict[str, Any]] = []
    x, y = images(), torch.arange(12) % 10
    answers = torch.randn(12, 10, dtype=torch.float64).log_softmax(1)

    def answer(meta: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
        asked.append(meta | tensors)
        return {}, {"value": answers}

    judge.handlers["log_posteriors"] = answer
    open_entry(judge, TEMPLATES["attack"], power=2.0)
    call(judge, "fit", Knowledge(10, SHAPE, 1, CPU))
    got = score(judge, 7, Candidates(x, y, torch.arange(12)))
    assert torch.equal(got, 2 * answers.gather(1, y.unsqueeze(1)).squeeze(1))
    assert len(asked) == 1 and asked[0]["target"] == 7 and torch.equal(asked[0]["x"], x)


KNOWLEDGE = """
from torch import Tensor
import torch
from benchmark.api import Attack, Card

class Submission(Attack):
    def fit(self, knowledge):
        self.known = knowledge

    def score(self, target, candidates, references):
        k = self.known
        assert k.classes == 10 and k.shape == (1, 8, 8) and k.seed == 5 and k.device == torch.device("cpu")
        assert k.shadow is not None and k.partial is None and k.embeddings is None and k.certificate == 0.1
        assert len(k.shadow.members) == 3 and len(k.shadow.nonmembers) == 2 and len(k.auxiliary) == 4
        assert references.members.dtype == torch.bool and references.log_posteriors.shape == (2, 12, 10)
        return k.shadow.target.log_posteriors(k.shadow.members.x).sum(1)[:1].expand(12)
"""


def test_knowledge_and_references_arrive_whole(judge: Channel) -> None:
    judge.handlers["log_posteriors"] = lambda meta, t: (
        {}, {"value": torch.full((len(t["x"]), 10), float(meta["target"] == 1), dtype=torch.float64)}
    )  # fmt: skip
    open_entry(judge, KNOWLEDGE)

    def samples(n: int) -> Samples:
        return Samples(images(n), torch.zeros(n, dtype=torch.int64))

    shadow = World(Numbered(1), samples(3), samples(2))
    call(judge, "fit", Knowledge(10, SHAPE, 5, CPU, shadow=shadow, auxiliary=samples(4), certificate=0.1))
    references = References(torch.ones(2, 12, dtype=torch.bool), torch.zeros(2, 12, 10, dtype=torch.float64))
    assert score(judge, 0, references=references).tolist() == [10.0] * 12


def test_a_white_box_arrives_as_the_network_that_it_is(judge: Channel) -> None:
    network = networks.build("small_cnn", 10, SHAPE, 9)
    judge.handlers["white_box"] = lambda *_: ({}, dict(network.state_dict()))
    text = TEMPLATES["attack"].replace(
        "target.log_posteriors(candidates.x)", "target.white_box()(candidates.x).detach().double().log_softmax(1)"
    )
    open_entry(judge, text)
    y = torch.arange(12) % 10
    got = score(judge, 0, Candidates(images(), y, y))
    assert torch.equal(got, raw(network, CPU)(images()).gather(1, y.unsqueeze(1)).squeeze(1))


def test_a_refusal_arrives_as_the_exception_that_it_is(judge: Channel) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError("the attack declares label access")

    judge.handlers |= {"log_posteriors": refuse, "labels": lambda m, t: ({}, {"value": torch.zeros(12)})}
    asked = "target.log_posteriors(candidates.x)"
    assert asked in TEMPLATES["attack"]
    text = TEMPLATES["attack"].replace(
        f"        log_posteriors = {asked}",
        f"        try:\n            {asked}\n        except PermissionError:\n            return target.labels(candidates.x)\n        log_posteriors = 0",
    )
    open_entry(judge, text)
    assert score(judge, 0).tolist() == [0.0] * 12


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        ("raise SystemExit(3)", "SystemExit", "3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("raise ValueError('odd')", "ValueError", "odd"),
        ("raise MemoryError", "MemoryError", ""),
        ("return None", "ValueError", "expected a tensor from score, given NoneType"),
        ("1 / 0", "ZeroDivisionError", "division by zero"),
        ("raise type('x' * 500, (Exception,), {})('y' * 9000)", "x" * 100, "y" * 2000),
    ],
)
def test_whatever_it_raises_is_an_answer_and_it_serves_on(judge: Channel, raised: str, kind: str, text: str) -> None:
    open_entry(
        judge, TEMPLATES["attack"].replace("log_posteriors = target", f"{raised}\n        log_posteriors = target")
    )
    for _ in range(2):
        with pytest.raises(RemoteError) as error:
            score(judge, 0)
        assert (error.value.kind, error.value.text) == (kind, text)


def test_its_own_line_is_sent_and_the_way_there_is_printed(judge: Channel, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RemoteError, match="NameError") as error:
        open_entry(judge, "def f():\n    return undefined_name\nf()\n")
    assert (error.value.at, error.value.line) == ("mine.py, line 2, in f", "return undefined_name")
    printed = capfd.readouterr().err.splitlines()
    assert printed[:2] == ["mine.py, line 3, in <module>: f()", "mine.py, line 2, in f: return undefined_name"]
    assert len(printed) == 3 and printed[2].startswith("NameError: name 'undefined_name'")


def test_what_is_not_its_own_fault_has_the_whole_traceback(judge: Channel, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RemoteError, match="AttributeError") as error:
        open_entry(judge, "x = 1\n")
    assert error.value.at == "" and "benchmark/sandbox/inside.py" in capfd.readouterr().err


@pytest.mark.parametrize("text", ["class Submission(", "x = 1\n", "import no_such_module"])
def test_a_file_that_does_not_load_is_an_error(judge: Channel, text: str) -> None:
    with pytest.raises(RemoteError, match=r"SyntaxError|AttributeError|ModuleNotFoundError"):
        open_entry(judge, text)


def test_a_call_that_there_is_not_is_refused(judge: Channel) -> None:
    for name in ("build", "ask", "_open", "__init__", "query"):
        with pytest.raises(RemoteError):
            judge.call(name)


def test_a_defense_trains_serves_prepares_and_guards(judge: Channel) -> None:
    open_entry(judge, TEMPLATES["defense"], "defense", temperature=2.0)
    meta, tensors = training_as_sent()
    trained = judge.call("train", {"trainings": [meta]}, tensors)[1]
    network = networks.build("small_cnn", 10, SHAPE, 0)
    network.load_state_dict({name.removeprefix("0."): t for name, t in trained.items()})
    state = {f"state.{name.removeprefix('0.')}": t for name, t in trained.items()}
    judge.call("serve", {"training": meta}, tensors | state)
    answer = judge.call("query", {}, {"x": images()})[1]["value"]
    assert torch.equal(answer, raw(network, CPU)(images()))
    assert judge.call("prepare", {"training": meta}, tensors) == ({}, {})
    assert judge.call("claims", {"training": meta}, tensors) == ({}, {})
    judge.handlers["before"] = lambda _, t: ({}, {"value": raw(network, CPU)(t["x"])})
    judge.call("guard", {"key": "00" * 32}, {})
    guarded = judge.call("query", {}, {"x": images()})[1]["value"]
    assert torch.equal(guarded, (answer / 2).log_softmax(1))


STORING = """
import torch
from benchmark.api import Card, Defense

class Submission(Defense):
    def prepare(self, predict, task):
        inner = task.artifact("outer", lambda: {"x": task.artifact("inner", lambda: {"y": torch.ones(2)})["y"] + 1})
        return {"state": inner["x"], "again": task.artifact("stored", lambda: 1 / 0)["z"]}

    def guard(self, predict, state, context):
        return lambda x: context.remember("name", x, lambda: state["state"].double())
"""


def test_what_is_stored_is_made_when_the_store_asks(judge: Channel) -> None:
    """Artifacts within artifacts: each is made by its own maker."""
    asked: list[tuple[str, Any]] = []

    def store(meta: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
        asked.append((meta["name"], meta.get("training")))
        return ({}, {"z": torch.zeros(1)}) if meta["name"] == "stored" else judge.call("make")

    judge.handlers |= {"artifact": store, "remember": store}
    open_entry(judge, STORING, "defense")
    meta, tensors = training_as_sent()
    state = judge.call("prepare", {"training": meta}, tensors)[1]
    assert {n: t.tolist() for n, t in state.items()} == {"state": [2.0, 2.0], "again": [0.0]}
    assert asked == [("outer", 0), ("inner", 0), ("stored", 0)]
    judge.call("guard", {"key": "00"}, state)
    assert judge.call("query", {}, {"x": images()})[1]["value"].tolist() == [2.0, 2.0]
    assert asked[-1] == ("name", None)


def test_it_ends_without_a_word_when_the_judge_hangs_up_in_a_call() -> None:
    mine, its = socket.socketpair()
    thread = threading.Thread(target=inside.serve, args=(its,), daemon=True)
    thread.start()
    channel = Channel(mine)
    channel.handlers["log_posteriors"] = lambda *_: (_ for _ in ()).throw(KeyError("the judge's own"))
    open_entry(channel, TEMPLATES["attack"])
    with pytest.raises(KeyError, match="the judge's own"):
        score(channel, 0)
    mine.close()
    thread.join(20)
    assert not thread.is_alive()
    with pytest.raises(Closed):
        Channel(its).call("late")
    its.close()
