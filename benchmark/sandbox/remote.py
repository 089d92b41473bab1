"""The judge's side of a sandbox: the two classes of `local.py` again, by calls to a process that runs the submission.

The submission's own calls are answered here, by the objects that the judge holds: targets behind their access level,
the stage before a guard, the store. Its results arrive as plain tensors, and the judge checks them against the contract
as it checks those of code that ran in its own process.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmark import networks
from benchmark.api import Claims, Context, Knowledge, Predict, References, Target
from benchmark.entries.registry import ATTACKS, Entry, Part
from benchmark.errors import Fault, printable
from benchmark.networks.access import CHUNK, raw
from benchmark.networks.training import TrainingRun
from benchmark.protocol import Limits
from benchmark.result import Isolation as Where
from benchmark.sandbox.hints import hint
from benchmark.sandbox.host import Launcher, Sandboxes, Session, launcher, most_warm
from benchmark.sandbox.local import Attacker, Defender
from benchmark.sandbox.values import flatten
from benchmark.sandbox.wire import QUERY_BYTES, QUERY_IMAGES, Message, Meta, Tensors, tensor

Mode = Literal["auto", "always", "never"]
"""Isolate the files that are not listed as reviewed; every file; or none (`--trust`)."""


@dataclass(frozen=True)
class Setup:
    """What a submission is told about its scenario: the network's architecture, the shape of the data, the device."""

    architecture: str
    classes: int
    shape: tuple[int, int, int]
    """Channels, height, width of an image."""
    simple: Mapping[str, Any]
    """The data set's augmentation "simple": {"pad": pixels, "flip": bool}."""
    device: torch.device
    networks: Mapping[str, str] = field(default_factory=dict)
    """Texts of networks, by name, that the submission's sandbox knows beside the package's and the project's."""


@dataclass(frozen=True)
class Builder:
    """Makes fresh networks of the target's architecture, all with the same weights."""

    setup: Setup
    seed: int

    def __call__(self) -> nn.Module:
        s = self.setup
        return networks.build(s.architecture, s.classes, s.shape, self.seed).to(s.device)


class AnyBuilder(Builder):
    """A builder that also makes networks of another architecture, by its name."""

    def __call__(self, architecture: str | None = None) -> nn.Module:
        """Raises UnknownArchitecture, and WrongShape for images that the network does not take."""
        other = self.setup if architecture is None else replace(self.setup, architecture=architecture)
        return Builder(other, self.seed)()


class Isolation:
    """Decides where each entry's code runs, and runs it there."""

    def __init__(
        self,
        mode: Mode = "auto",
        known_launcher: Launcher | None = None,
        limits: Limits | None = None,
        workers: int = 1,
    ) -> None:
        """`known_launcher` saves a probe of the machine; `workers`: how many processes share its memory."""
        self.mode, self.limits = mode, limits or Limits()
        self._launcher, self._workers = known_launcher, workers
        self._sandboxes: Sandboxes | None = None

    def where(self, entry: Entry) -> Where:
        """Where this entry's code runs: reviewed or trusted (in this process), or bubblewrap."""
        if self.mode == "never":
            return "reviewed" if entry.reviewed else "trusted"
        return "reviewed" if self.mode == "auto" and entry.reviewed else "bubblewrap"

    def defender(self, part: Part, setup: Setup) -> Defender | RemoteDefender:
        if self.where(part.entry) == "bubblewrap":
            return RemoteDefender(self, part, setup)
        return Defender(part.create(), setup.device)

    def attacker(self, part: Part, setup: Setup) -> Attacker | RemoteAttacker:
        if self.where(part.entry) == "bubblewrap":
            return RemoteAttacker(self, part, setup)
        return Attacker(part.create(), setup.device)

    def open(self, part: Part, setup: Setup) -> Session:
        """A fork of the entry's sandbox with one instance of its class. Raises UserError, Fault."""
        entry = part.entry
        session = self._warm(setup.device.type).session(f"{entry.kind}/{entry.id}/{entry.source}", _preloaded(entry))
        session.advise = lambda error: hint(error.kind, error.text, error.line, entry)
        if setup.networks:
            session.call("networks", {"texts": {**networks.own_texts, **setup.networks}})
        session.call(
            "open",
            {
                "module": f"submissions.{entry.kind}s.{entry.id}",
                "path": f"{entry.kind}s/{entry.id}.py",
                "text": entry.text,
                "class": entry.class_name,
                "params": part.params.model_dump(mode="json"),
                "architecture": setup.architecture,
                "classes": setup.classes,
                "shape": setup.shape,
                "simple": dict(setup.simple),
                "device": str(setup.device),
            },
        )
        return session

    def model(self, asked: Meta, tensors: Tensors, libraries: Sequence[str] = ()) -> tuple[Predict, int]:
        """Somebody's model, which runs in a sandbox of its own: its predictor, and how many parameters it says it has.

        `asked` and `tensors`: what `_Work._model` takes. Raises UserError, Fault.
        """
        session = self._warm("cpu").session(f"model/{asked['what']}", libraries)
        reply, _ = session.call("model", asked, tensors)
        parameters = reply.get("parameters")
        return _RemotePredictor(session, asked["classes"], 10 * CHUNK), parameters if type(parameters) is int else 0

    def _warm(self, device: str) -> Sandboxes:
        if self._sandboxes is None:
            way = self._launcher or launcher(self.mode)
            self._sandboxes = Sandboxes(way, self.limits, device, most_warm(self._workers))
        return self._sandboxes

    @property
    def starting(self) -> float:
        """Seconds that starts of sandboxes have taken so far. No submission is charged for them."""
        return self._sandboxes.starting if self._sandboxes else 0.0

    def end_sessions(self) -> None:
        if self._sandboxes is not None:
            self._sandboxes.end_sessions()

    def close(self) -> None:
        if self._sandboxes is not None:
            self._sandboxes.close()
            self._sandboxes = None


def _preloaded(entry: Entry) -> list[str]:
    """The slow modules that a sandbox imports once for all forks, besides PyTorch; forks import the quick ones.

    PyTorch imports its compiler, which takes a second, at the first step of an optimizer and in `torch.func`.
    """
    trains = "training" in entry.stages or re.search(r"\boptim\b|torch\.func|Perceptron|\.fit\(", entry.text)
    slow = [n for n in entry.libraries if n.split(".")[0] not in {*sys.stdlib_module_names, "torch", "numpy"}]
    few = [n for n in slow if len(n) <= 100][:100]  # a command line has a limited length
    return [*few, *(["torch._dynamo"] if trains else [])]


def require(entries: Sequence[Entry], mode: Mode) -> Launcher | None:
    """How to isolate, or None if none of these entries needs it. Raises UserError where it is needed and impossible."""
    isolation = Isolation(mode)
    return launcher(mode) if any(isolation.where(e) == "bubblewrap" for e in entries) else None


# --- Defenses ---------------------------------------------------------------------------------------


class RemoteDefender:
    """`Defender` in a sandbox. Each method call runs in a fork of its own."""

    def __init__(self, isolation: Isolation, part: Part, setup: Setup) -> None:
        self._isolation, self._part, self._setup = isolation, part, setup

    def train(self, trainings: Sequence[TrainingRun]) -> list[Tensors]:
        session, meta, tensors = self._with_trainings(trainings)
        states = session.call("train", {"trainings": meta}, tensors)[1]
        session.close()
        weights: list[Tensors] = [{} for _ in trainings]
        for name, value in states.items():
            index, dot, parameter = name.partition(".")
            if not dot or not index.isdecimal() or int(index) >= len(trainings):
                raise ValueError(f"expected weights of {len(trainings)} networks, given {printable(name, 60)!r}")
            weights[int(index)][parameter] = value
        return weights

    def serve(self, training: TrainingRun, state: Tensors) -> Predict:
        if self._part.entry.plain_network:  # the entry has no code of its own that answers: its weights suffice
            network = training.build()
            try:
                network.load_state_dict(state)
            except RuntimeError as error:
                raise ValueError(
                    f"expected weights of {self._setup.architecture}: {printable(str(error), 300)}"
                ) from None
            return raw(network, self._setup.device)
        session, meta, tensors = self._with_trainings([training])
        session.call("serve", {"training": meta[0]}, tensors | {f"state.{n}": t for n, t in state.items()})
        return _RemotePredictor(session, self._setup.classes, 10 * CHUNK)

    def prepare(self, predict: Predict, training: TrainingRun) -> Tensors:
        session, meta, tensors = self._with_trainings([training])
        session.handlers["before"] = self._before(predict)
        state = session.call("prepare", {"training": meta[0]}, tensors)[1]
        session.close()
        return state

    def guard(self, predict: Predict, state: Tensors, context: Context) -> Predict:
        session = self._isolation.open(self._part, self._setup)
        make = _maker(session, self._isolation.limits)

        def remember(meta: Meta, tensors: Tensors) -> Message:
            x = tensor(tensors, "x", torch.float32, (None, None, None, None))
            return {}, {"value": context.remember(_name(meta), x, lambda: _value(make()))}

        session.handlers |= {"before": self._before(predict), "remember": remember}
        session.call("guard", {"key": context.key.hex()}, state)
        return _RemotePredictor(session, self._setup.classes, None)

    def claims(self, training: TrainingRun) -> Claims:
        session, meta, tensors = self._with_trainings([training])
        values = session.call("claims", {"training": meta[0]}, tensors)[0]
        session.close()
        return _claims(values)

    def _with_trainings(self, trainings: Sequence[TrainingRun]) -> tuple[Session, list[Meta], Tensors]:
        """A session for these trainings, their JSON, and their samples: those of training i as `i.<part>.x`, `.y`."""
        session = self._isolation.open(self._part, self._setup)
        make = _maker(session, self._isolation.limits)

        def training_of(meta: Meta) -> TrainingRun:
            number = meta.get("training")
            if type(number) is not int or not 0 <= number < len(trainings):
                raise ValueError(f"expected one of {len(trainings)} trainings")
            return trainings[number]

        def artifact(meta: Meta, _: Tensors) -> Message:
            return {}, training_of(meta).artifact(_name(meta), make)

        def pretrained(meta: Meta, _: Tensors) -> Message:
            return training_of(meta).pretrained(_name(meta))

        session.handlers |= {"artifact": artifact, "pretrained": pretrained}
        meta: list[Meta] = []
        tensors: Tensors = {}
        for i, training in enumerate(trainings):
            recipe = training.recipe.model_dump(mode="json")
            meta.append({"recipe": recipe, "seed": training.seed, "uses": sorted(training.uses)})
            for name, samples in training.samples.items():
                tensors |= {f"{i}.{name}.x": samples.x, f"{i}.{name}.y": samples.y}
        return session, meta, tensors

    def _before(self, predict: Predict) -> Callable[[Meta, Tensors], Message]:
        """A handler by which a guard asks `predict`, the stage before it."""
        shape = self._setup.shape

        def before(_: Meta, tensors: Tensors) -> Message:
            return {}, {"value": predict(tensor(tensors, "x", torch.float32, (None, *shape)))}

        return before


def _maker(session: Session, limits: Limits) -> Callable[..., Tensors]:
    """A function that has the other side make what the store lacks, with a generator of this seed if one is given.

    Raises Fault beyond the entry's share of the store.
    """
    left = limits.stored_mb << 20

    def make(generator: torch.Generator | None = None) -> Tensors:
        nonlocal left
        made = session.call("make", {"seed": generator.initial_seed()} if generator else {})[1]
        left -= sum(t.numel() * t.element_size() for t in made.values())
        if left < 0:
            raise Fault("failed", f"wanted to store more than {limits.stored_mb} MB")
        return made

    return make


class _RemotePredictor:
    """A predictor whose code runs in a sandbox. The fork ends with this object.

    `chunk`: images a call; None for a guard, which is asked for all at once, as in the judge's process.
    """

    def __init__(self, session: Session, classes: int, chunk: int | None) -> None:
        self._session, self._classes, self._chunk = session, classes, chunk

    def __call__(self, x: Tensor) -> Tensor:
        x = x.detach().to("cpu", torch.float32)
        parts = [self._ask(p) for p in (x.split(self._chunk) if self._chunk and len(x) else (x,))]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _ask(self, x: Tensor) -> Tensor:
        reply = self._session.call("query", {}, {"x": x})[1]
        return tensor(reply, "value", torch.float64, (len(x), self._classes))

    def __del__(self) -> None:
        self._session.close()


def _name(meta: Meta) -> str:
    name = meta.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise ValueError("expected a name of at most 200 characters")
    return name


def _value(made: Tensors) -> Tensor:
    if "value" not in made:
        raise ValueError("expected a tensor to remember")
    return made["value"]


def _claims(values: Meta) -> Claims:
    numbers, texts = ("epsilon", "delta", "robust", "certificate"), ("accountant", "adjacency", "sampling")
    claims: dict[str, Any] = {}
    for name, value in values.items():
        if name in numbers and type(value) in (int, float):
            claims[name] = float(value)
        elif name in texts and isinstance(value, str):
            claims[name] = printable(value, 100)
        else:
            raise ValueError(f"expected claims of {', '.join(numbers + texts)}, given {printable(name, 60)!r}")
    return Claims(**claims)


# --- Attacks ----------------------------------------------------------------------------------------


class RemoteAttacker:
    """`Attacker` in a sandbox. One fork serves from `fit` to the last answer."""

    def __init__(self, isolation: Isolation, part: Part, setup: Setup) -> None:
        self._made_from = isolation, part, setup
        self._kind, self._shape, self._classes = ATTACKS[part.entry.task], setup.shape, setup.classes
        self._targets: list[Target] = []
        self._references: References | None = None
        self._session = isolation.open(part, setup)
        self._session.limit_payload(QUERY_BYTES)
        self._stored, self._make = Knowledge.artifact, _maker(self._session, isolation.limits)
        self._session.handlers |= {
            "labels": self._labels, "log_posteriors": self._log_posteriors, "white_box": self._white_box,
            "references": self._ask_references, "artifact": self._artifact,
        }  # fmt: skip

    def fit(self, knowledge: Knowledge) -> None:
        self._call("fit", knowledge)

    def answer(self, *arguments: Any) -> Any:
        meta, tensors = self._call("answer", *arguments)
        sent = "network" if meta.get("network") is True else "tensor" if "value" in tensors else "nothing"
        if sent != self._kind.returns:  # the other side may be anything
            raise ValueError(f"expected a {self._kind.returns} from {self._kind.answer}, given {sent}")
        return _RemotePredictor(self._session, self._classes, 10 * CHUNK) if sent == "network" else tensors["value"]

    def freeze(self) -> Callable[[], RemoteAttacker] | None:
        """Every copy is a fork of its own that restores the bytes which this one makes of its state, and reads alone."""
        state, targets = self._session.call("freeze")[1], self._targets
        self.close()  # before a copy begins: what is alone in its sandbox leaves nothing behind for the next

        def thaw() -> RemoteAttacker:
            other = RemoteAttacker(*self._made_from)
            other._targets = [*targets]  # under the numbers that the state has for them
            other._session.call("thaw", {}, state)
            return other

        return thaw if state else None

    def close(self) -> None:
        self._session.close()

    def choice(self, name: str) -> str:
        return str(self._session.call("choice", {"name": name})[0].get("choice"))

    def _call(self, do: str, *values: Any) -> Message:
        tensors: Tensors = {}
        nodes = [flatten(value, tensors, self._handle) for value in values]
        return self._session.call(do, {"arguments": nodes}, tensors)

    def _handle(self, value: Any) -> Meta:
        """JSON by which the other side names an object that stays here."""
        if isinstance(value, Target):
            if not any(held is value for held in self._targets):
                self._targets.append(value)
            return {"target": next(i for i, held in enumerate(self._targets) if held is value)}
        if isinstance(value, References):
            self._references = value
            return {"references": len(value.members)}
        if isinstance(value, Builder):
            return {"builder": value.seed}
        if callable(value):
            self._stored = value
            return {"artifact": True}
        raise TypeError(f"expected what the contract hands to attacks, given {type(value).__name__}")

    def _target(self, meta: Meta) -> Target:
        number = meta.get("target")
        if type(number) is not int or not 0 <= number < len(self._targets):
            raise PermissionError("expected a target that the judge has given")
        return self._targets[number]

    def _images(self, tensors: Tensors) -> Tensor:
        x = tensor(tensors, "x", torch.float32, (None, *self._shape))
        if not 0 < len(x) <= QUERY_IMAGES:
            raise ValueError(f"expected 1 to {QUERY_IMAGES} images at once, given {len(x)}")
        return x

    def _labels(self, meta: Meta, tensors: Tensors) -> Message:
        return {}, {"value": self._target(meta).labels(self._images(tensors))}

    def _log_posteriors(self, meta: Meta, tensors: Tensors) -> Message:
        return {}, {"value": self._target(meta).log_posteriors(self._images(tensors))}

    def _ask_references(self, _: Meta, tensors: Tensors) -> Message:
        if self._references is None:
            raise PermissionError("expected reference models that the judge has given")
        x = self._images(tensors)
        if 8 * len(self._references.members) * len(x) * self._classes > QUERY_BYTES:
            raise ValueError(
                f"expected a question whose answer is at most {QUERY_BYTES >> 20} MB, given {len(x)} images"
            )
        return {}, {"value": self._references.ask(x)}

    def _artifact(self, meta: Meta, _: Tensors) -> Message:
        return {}, self._stored(_name(meta), self._make)

    def _white_box(self, meta: Meta, _: Tensors) -> Message:
        return {}, dict(self._target(meta).white_box().state_dict())
