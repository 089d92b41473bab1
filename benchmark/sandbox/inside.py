"""The sandbox's side: one fork does one piece of work of one entry, at the judge's calls.

The process holds nothing but what the judge sent. The submission may change any of it, but can only send frames: the
judge checks them and trusts nothing here.
"""

from __future__ import annotations

import io
import pickle
import random
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy.ctypeslib  # noqa: F401  safetensors imports it at the first reply: here once, instead of in every fork
import safetensors.torch
import torch
from torch import Tensor, nn

from benchmark import networks
from benchmark.api import Context, Predict, Samples, Target
from benchmark.errors import own_line, trace
from benchmark.networks import given, own, weights
from benchmark.networks.access import raw
from benchmark.networks.optimizers import as_asked
from benchmark.networks.training import TrainingRun
from benchmark.protocol import Recipe
from benchmark.sandbox.local import Attacker, Defender
from benchmark.sandbox.values import restore
from benchmark.sandbox.wire import QUERY_BYTES, QUERY_IMAGES, Channel, Closed, Message, Meta, RemoteError, Tensors

LARGEST_STATE = QUERY_BYTES // 2
"""Bytes of a frozen state from which on an attack is fitted anew for each target instead."""


def warm_up() -> None:
    """Run once for all forks what PyTorch sets up at a first call: kernels, autograd, an optimizer if it is loaded."""
    network = networks.build("small_cnn", 10, (1, 8, 8), 0)
    x, y = torch.rand(64, 1, 8, 8), torch.zeros(64).long()
    with torch.no_grad():
        answer = network(x).double().log_softmax(1)
        answer.sort(1), answer.logsumexp(1), answer.cumsum(0), answer.gather(1, y.unsqueeze(1))
    safetensors.torch.load(safetensors.torch.save({"x": x}))
    nn.functional.cross_entropy(network(x), y).backward()
    if "torch._dynamo" in sys.modules:
        for optimizer in (torch.optim.SGD, torch.optim.Adam):
            optimizer(network.parameters(), lr=0.0, fused=True).step()


def serve(stream: socket.socket) -> None:
    """Answer the judge's calls until it hangs up."""
    torch.seed()  # forks inherit one random state: unseeded draws must not repeat, or they would pass as reproducible
    random.seed()
    work = _Work(Channel(stream))
    channel = work.channel
    channel.locate = _locate
    while True:
        try:
            message, tensors = channel.receive()
        except Closed:
            return
        try:
            channel.answer(message, tensors)
        except Closed:
            return
        except BaseException as error:
            # SystemExit and KeyboardInterrupt too: like any error, they fail this piece of work alone.
            if not own_line(error)[0] and not isinstance(error, PermissionError | ValueError | RemoteError):
                traceback.print_exc()
                sys.stderr.flush()
            channel.fail(error)


def _locate(error: BaseException) -> tuple[str, str]:
    """The place in the entry's file where an error arose, and that line; the traceback is printed for the log."""
    if way := trace(error):
        print(way.encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)
    return own_line(error)


class RemoteTarget(Target):
    """Stand-in for a target that the judge holds. The judge enforces the attack's access."""

    def __init__(self, work: _Work, number: int) -> None:
        self._work, self._number = work, number

    def labels(self, x: Tensor) -> Tensor:
        return self._ask("labels", _images(x))

    def log_posteriors(self, x: Tensor) -> Tensor:
        return self._ask("log_posteriors", _images(x))

    def _ask(self, what: str, x: Tensor) -> Tensor:
        """Ask in pieces within the judge's limits on a message; usually it is one piece."""
        size = QUERY_BYTES // 2 // max(1, x[:1].numel() * x.element_size())
        pieces = x.split(max(1, min(QUERY_IMAGES, size))) if x.ndim else (x,)
        answers = [self._work.ask(what, {"target": self._number}, {"x": piece})["value"] for piece in pieces]
        return torch.cat(answers) if len(answers) > 1 else answers[0]

    def white_box(self) -> nn.Module:
        state = self._work.ask("white_box", {"target": self._number})
        network = self._work.build(0)
        network.load_state_dict(state)
        return network.eval().to(self._work.device)


class _Work:
    """One instance of the entry, and the handlers of the judge's calls (`_open`, `_fit`, ..., one for each name)."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.makers: list[Callable[..., Tensors]] = []
        """What the entry asked to have stored and has not made yet; the judge calls the last one back with `make`."""
        self.predict: Predict | None = None
        """What `query` asks: the served network, the guard, a stolen copy, or somebody's model."""
        names = (
            "networks", "model", "open", "fit", "answer", "choice", "freeze", "thaw", "train", "serve", "prepare", "guard", "claims", "query", "make",
        )  # fmt: skip
        channel.handlers.update({name: getattr(self, f"_{name}") for name in names})

    def ask(self, do: str, meta: Meta, tensors: Tensors | None = None) -> Tensors:
        return self.call(do, meta, tensors)[1]

    def call(self, do: str, meta: Meta, tensors: Tensors | None = None) -> Message:
        """Call the judge. Its refusals are raised as the exceptions that code in its own process would get."""
        try:
            return self.channel.call(do, meta, tensors)
        except RemoteError as error:
            kinds: dict[str, type[Exception]] = {"PermissionError": PermissionError, "ValueError": ValueError}
            raise kinds.get(error.kind, RuntimeError)(error.text) from None

    def build(self, seed: int, architecture: str | None = None) -> nn.Module:
        return networks.build(architecture or self.architecture, self.classes, self.shape, seed)

    def _networks(self, meta: Meta, _: Tensors) -> Message:
        """Know the user's own networks: none is run before it is built."""
        networks.use(meta["texts"])
        return {}, {}

    def _model(self, meta: Meta, tensors: Tensors) -> Message:
        """Load somebody's model in the place of an entry: a network's file with weights, or a file that is the whole model."""
        form, what, shape = meta["form"], meta["what"], tuple(meta["shape"])
        if form == "network":
            network: nn.Module = own.read(meta["name"], meta["text"])(meta["classes"], shape)
            weights.load(network, tensors, what)
        else:
            content = tensors["content"].numpy().tobytes()
            network = given.script(content) if form == "torchscript" else given.Onnx(content)
        given.check(network, meta["classes"], shape, what)
        self.predict = raw(network, torch.device("cpu"))
        return {"parameters": sum(p.numel() for p in network.parameters())}, {}

    def _open(self, meta: Meta, _: Tensors) -> Message:
        """Load the entry's source and create the one instance of its class."""
        self.device = torch.device(meta["device"])
        self.architecture, self.classes, self.shape = meta["architecture"], meta["classes"], tuple(meta["shape"])
        self.simple = meta["simple"]
        name = meta["module"]
        module = ModuleType(name)
        module.__file__ = meta["path"]
        module.__leakboard_text__ = meta["text"]  # type: ignore[attr-defined]
        sys.modules[name] = module
        exec(compile(meta["text"], meta["path"], "exec"), module.__dict__)
        cls = getattr(module, meta["class"])
        made = cls(cls.Params(**meta["params"]))
        self.attacker, self.defender = Attacker(made, self.device), Defender(made, self.device)
        return {}, {}

    # --- Attacks ---

    def _fit(self, meta: Meta, tensors: Tensors) -> Message:
        self.attacker.fit(*self._arguments(meta, tensors))
        return {}, {}

    def _answer(self, meta: Meta, tensors: Tensors) -> Message:
        result = self.attacker.answer(*self._arguments(meta, tensors))
        if isinstance(result, Tensor):
            return {}, {"value": result}
        self.predict = result
        return {"network": True}, {}

    def _choice(self, meta: Meta, _: Tensors) -> Message:
        return {"choice": self.attacker.choice(meta["name"])[:100]}, {}

    def _freeze(self, _: Meta, __: Tensors) -> Message:
        """The instance's state as bytes, which only this entry's own forks read; nothing where it can't be copied."""
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer)
        pickler.persistent_id = lambda value: "work" if value is self else None  # type: ignore[method-assign]
        try:
            pickler.dump(self.attacker.attack)
        except Exception:  # whatever an attack keeps, such as a generator or a function of its own
            return {}, {}
        content = buffer.getvalue()
        return {}, (
            {"state": torch.frombuffer(bytearray(content), dtype=torch.uint8)} if len(content) < LARGEST_STATE else {}
        )

    def _thaw(self, _: Meta, tensors: Tensors) -> Message:
        unpickler = pickle.Unpickler(io.BytesIO(tensors["state"].numpy().tobytes()))
        unpickler.persistent_load = lambda _: self  # type: ignore[method-assign]
        self.attacker = Attacker(unpickler.load(), self.device)
        return {}, {}

    def _arguments(self, meta: Meta, tensors: Tensors) -> list[Any]:
        return [restore(node, tensors, self._stand_in) for node in meta["arguments"]]

    def _stand_in(self, node: Meta) -> Any:
        if "target" in node:
            return RemoteTarget(self, node["target"])
        if "references" in node:
            return partial(self._references, node["references"])
        if "artifact" in node:
            return partial(self._stored, "artifact", {})
        return lambda architecture=None: self.build(node["builder"], architecture).to(self.device)

    def _references(self, models: int, x: Tensor) -> Tensor:
        """Answers (m, n, k) of the reference models, asked for in pieces whose answers fit into a message."""
        x = _images(x)
        size = min(QUERY_BYTES // 2 // max(1, x[:1].numel() * 4), QUERY_BYTES // (8 * models * self.classes))
        pieces = x.split(max(1, min(QUERY_IMAGES, size))) if x.ndim else (x,)
        return torch.cat([self.ask("references", {}, {"x": piece})["value"] for piece in pieces], 1)

    # --- Defenses ---

    def _train(self, meta: Meta, tensors: Tensors) -> Message:
        trainings = [self._training(training, tensors, i) for i, training in enumerate(meta["trainings"])]
        states = self.defender.train(trainings)
        return {}, {f"{i}.{name}": t for i, state in enumerate(states) for name, t in state.items()}

    def _serve(self, meta: Meta, tensors: Tensors) -> Message:
        state = {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}
        self.predict = self.defender.serve(self._training(meta["training"], tensors, 0), state)
        return {}, {}

    def _prepare(self, meta: Meta, tensors: Tensors) -> Message:
        return {}, self.defender.prepare(self._before, self._training(meta["training"], tensors, 0))

    def _guard(self, meta: Meta, tensors: Tensors) -> Message:
        context = Context(key=bytes.fromhex(meta["key"]), device=self.device, remember=self._remember)
        self.predict = self.defender.guard(self._before, tensors, context)
        return {}, {}

    def _claims(self, meta: Meta, tensors: Tensors) -> Message:
        claims = self.defender.claims(self._training(meta["training"], tensors, 0))
        return {name: value for name, value in vars(claims).items() if value is not None}, {}

    def _query(self, _: Meta, tensors: Tensors) -> Message:
        assert self.predict is not None
        value = self.predict(tensors["x"])
        if not isinstance(value, Tensor):
            raise ValueError(f"expected log-posteriors as a tensor, given {type(value).__name__}")
        return {}, {"value": value}

    def _make(self, meta: Meta, _: Tensors) -> Message:
        drawn = [torch.Generator().manual_seed(meta["seed"])] if "seed" in meta else []
        return {}, self.makers[-1](*drawn)

    def _training(self, meta: Meta, tensors: Tensors, number: int) -> TrainingRun:
        def samples(part: str) -> Samples:
            return Samples(tensors[f"{number}.{part}.x"], tensors[f"{number}.{part}.y"])

        run = TrainingRun(
            train=samples("train"),
            reference=samples("reference"),
            validation=samples("validation"),
            classes=self.classes,
            recipe=Recipe(**meta["recipe"]),
            architecture=self.architecture,
            simple=self.simple,
            seed=meta["seed"],
            uses=frozenset(meta["uses"]),
            device=self.device,
            artifact=partial(self._stored, "artifact", {"training": number}),
            pretrained=lambda name: self.call("pretrained", {"training": number, "name": name}),
        )
        return as_asked(run)

    def _before(self, x: Tensor) -> Tensor:
        return self.ask("before", {}, {"x": x})["value"]

    def _remember(self, name: str, x: Tensor, make: Callable[[], Tensor]) -> Tensor:
        return self._stored("remember", {}, name, lambda: {"value": make()}, {"x": x})["value"]

    def _stored(
        self, do: str, meta: Meta, name: str, make: Callable[..., Tensors], tensors: Tensors | None = None
    ) -> Tensors:
        """The tensors of this name in the judge's store. If there are none, the judge calls `make` back (`_make`)."""
        self.makers.append(make)
        try:
            return self.ask(do, {"name": name, **meta}, tensors)
        finally:
            self.makers.pop()


def _images(x: Any) -> Tensor:
    """Images in the form that a target in the judge's process takes: detached, float32, on the CPU.

    Raises ValueError.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"expected images (n, c, h, w), given {type(x).__name__}")
    return x.detach().to("cpu", torch.float32)
