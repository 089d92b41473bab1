"""A model that is audited itself: its answers to images, and, where its layers can be rebuilt, copies for white-box attacks.

What a model's owner gives is foreign. Weights are read as plain tensors. With them a network of the project's list or of timm runs
in this process, for then data alone is foreign. A network's file, TorchScript and ONNX are code: they run in a sandbox, and
white-box attacks on a network's file run in one beside it.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import networks, reading
from benchmark.api import Predict
from benchmark.digests import digest
from benchmark.entries.registry import Part, version_of
from benchmark.errors import Fault, UserError, printable
from benchmark.networks import given, own, weights
from benchmark.networks.access import check_log_posteriors, raw
from benchmark.networks.architecture import Shape, WrongShape
from benchmark.protocol import Limits
from benchmark.run.audit.predictions import Source
from benchmark.sandbox.local import Attacker
from benchmark.sandbox.remote import Isolation, RemoteAttacker, Setup
from benchmark.text import plain

SCRIPTS, ONNX = (".ts", ".torchscript"), (".onnx",)
_CPU = torch.device("cpu")
_DAY = 24 * 3600
"""Seconds that a model, or an attack beside one, may work in its sandbox: an audit is one piece of work."""
LARGEST_SENT = 1 << 30
"""Bytes of a model that is sent into a sandbox at most."""


@dataclass(eq=False)
class Model:
    """A model of k classes for images (c, h, w)."""

    name: str
    classes: int
    shape: Shape
    key: str
    """Digest of all that its answers depend on; "" where it is not known."""
    ask: Predict = field(repr=False)
    parameters: int | None = None
    copy: Callable[[], Any] | None = field(default=None, repr=False)
    """Makes a white-box copy; None where the layers cannot be read."""
    no_copy: str = ""
    """Why it makes none."""
    embeds: bool = False
    """Whether copies have `embed` and `head`."""
    isolation: Isolation | None = field(default=None, repr=False)
    """Where it runs, if that is a sandbox."""
    setup: Setup | None = field(default=None, repr=False)
    """What white-box attacks beside it are told."""
    sources: tuple[Source, ...] = ()
    mean: tuple[float, ...] = ()
    """Subtracted from pixels in [0, 1], one a channel, before the model gets them; () where they go in as they are."""
    std: tuple[float, ...] = ()
    """What they are divided by then."""
    _stopped: threading.Event = field(default_factory=threading.Event, repr=False)

    def predict(self, x: Tensor) -> Tensor:
        """Log-posteriors (n, k) float64 of images. Raises UserError where the model fails, or answers with NaN."""
        if self._stopped.is_set():
            raise InterruptedError("the audit was stopped")
        try:
            answers = self.ask(x)
        except Fault as fault:
            raise UserError(f"{self.name}: expected answers, given that the model {fault.status}: {fault}") from None
        except Exception as error:  # a module of anybody's
            raise UserError(
                f"{self.name}: expected answers, given {type(error).__name__}: {printable(str(error), 160)}"
            ) from None
        if answers.shape != (len(x), self.classes):
            raise UserError(
                f"{self.name}: expected answers ({len(x)}, {self.classes}) every time, given {tuple(answers.shape)}"
            )
        if bad := int(torch.isnan(answers).any(1).sum()):
            raise UserError(
                f"{self.name}: expected finite logits, given NaN or infinite ones for {bad} of {len(x)} images"
            )
        return check_log_posteriors(answers, len(x), self.classes, self.name)

    def attacker(self, part: Part) -> Attacker | RemoteAttacker:
        """One instance of an attack: in this process, or in a sandbox where it reads a network whose code is foreign."""
        if self.setup is not None and part.entry.access == "white-box":
            assert self.isolation is not None
            return RemoteAttacker(self.isolation, part, self.setup)
        return Attacker(part.create(), _CPU)

    def stop(self) -> None:
        """Answer no more: attacks that run in threads end at their next question."""
        self._stopped.set()

    def close(self) -> None:
        if self.isolation is not None:
            self.isolation.close()


def of_module(
    module: nn.Module, classes: int, shape: Shape, name: str = "", *, mean: Sequence[float] = (), std: Sequence[float] = ()
) -> Model:  # fmt: skip
    """The model that is a module of the caller's own. A copy is audited. Raises UserError where it does not take the images.

    It answers with logits (n, k), or with an object that has them as `logits`. mean, std: as for `load`.
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"model: expected a torch.nn.Module, images -> logits, given {type(module).__name__}")
    normalise = _normalisation(mean, std, shape)
    network = copy.deepcopy(module).to(_CPU, torch.float32).eval()
    if normalise or not given.embeds(network, _probe(shape)):
        network = given.Adapted(network, *(normalise or ()))
    model = _in_process(network, name or type(module).__name__, "", classes, shape, ())
    model.mean, model.std = (*mean,), (*std,)
    return model


def whole(path: Path) -> bool:
    """Whether a file is a whole model by its name, which needs no network's."""
    return path.suffix.lower() in SCRIPTS + ONNX


def load(
    path: Path,
    network: str,
    classes: int,
    shape: Shape,
    *,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    torchscript: bool = False,
) -> Model:
    """The model of a file of weights and the name (or the file) of its network; or of a file that is a whole model.

    network: a name of `networks.NAMES`, `timm:NAME`, a path that ends in .py, or "" for TorchScript and ONNX. mean, std: a number a
    channel, for a model that expects normalised images. Raises UserError, in one line, for what does not fit.
    """
    normalise = _normalisation(mean, std, shape)
    suffix = path.suffix.lower()
    form = "torchscript" if torchscript or suffix in SCRIPTS else "onnx" if suffix in ONNX else "network"
    if form != "network" and network:
        raise UserError(f"--network: expected none, for {path.name} is a whole model ({form}), given {network!r}")
    if form == "network" and not network:
        raise UserError(
            f"{path.name}: expected --network with it, a name (leakboard list networks; timm:NAME) or a file NAME.py, given none"
        )
    if form == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        raise UserError(
            f"{path.name}: expected onnxruntime for an ONNX file, given none; python -m pip install 'leakboard[onnx]'"
        )
    file = weights.read(path)
    source = Source(file.name, len(file.content), file.sha256)
    environment = [classes, shape, mean, std, form, network, file.sha256, f"torch {torch.__version__}"]
    if form != "network":
        library = ["onnxruntime"] if form == "onnx" else []
        key = digest("model", *environment, *(version_of(name) for name in library))
        content = {"content": torch.frombuffer(bytearray(file.content), dtype=torch.uint8)}
        asked = {"form": form, "what": file.name, "classes": classes, "shape": shape}
        title = "TorchScript" if form == "torchscript" else "ONNX"
        model = _isolated(title, key, asked, content, (source,), library)
        model.no_copy = f"needs the network's layers, and {title} is run as it is"
        if normalise:
            plain_ask, (m, s) = model.ask, normalise
            model.ask = lambda x: plain_ask((x - m.view(-1, 1, 1)) / s.view(-1, 1, 1))
            model.mean, model.std = (*mean,), (*std,)
        return model
    tensors = weights.tensors(file)
    if network.endswith(".py"):
        return _of_file(Path(network), tensors, source, environment, normalise)
    if network.startswith(given.TIMM):
        made = given.Adapted(
            _built(lambda: given.from_timm(network.removeprefix(given.TIMM), classes, shape), network, shape),
            *(normalise or ()),
        )
        inner, code = made.network, [version_of("timm")]
    else:
        if normalise:
            raise UserError(_NORMALISES)
        inner = made = _built(lambda: networks.build(network, classes, shape, 0), network, shape)
        code = [networks.code(network), *(version_of(name) for name in networks.libraries(network))]
    try:
        weights.load(inner, tensors, f"{file.name}, {network}")
    except ValueError as problem:
        raise UserError(f"{problem}{_of_timm(network, tensors, classes, shape)}") from None
    model = _in_process(made, network, digest("model", *environment, *code), classes, shape, (source,))
    model.mean, model.std = (*mean,), (*std,)
    return model


_NORMALISES = "--mean: expected none, for networks of this form normalise their images themselves (Network.normalise); leave it out"


def _of_timm(network: str, tensors: dict[str, Tensor], classes: int, shape: Shape) -> str:
    """A hint where timm has a network of this name whose tensors are called as these are; else ""."""
    try:
        names = given.from_timm(network, classes, shape).state_dict().keys()
    except Exception:  # timm has none of this name, or refuses the shape by one of many kinds of error
        return ""
    own, theirs = ({n for n in all if not n.endswith("num_batches_tracked")} for all in (tensors, names))
    return f"; its tensors have the names of timm's: --network {given.TIMM}{network}" if own == theirs else ""


def _built(build: Callable[[], Any], name: str, shape: Shape) -> Any:
    try:
        return build()
    except UserError as problem:
        if isinstance(problem, WrongShape):
            raise UserError(f"{problem}; --view is the height and width of the images") from None
        raise UserError(f"--network: {problem}" if not str(problem).startswith("--") else str(problem)) from None
    except Exception as problem:  # timm refuses shapes and numbers of channels by many kinds of error
        shown = printable(f"{type(problem).__name__}: {problem}", 160)
        raise UserError(f"{name}: expected a network for images {'x'.join(map(str, shape))}, given {shown}") from None


def _normalisation(mean: Sequence[float], std: Sequence[float], shape: Shape) -> tuple[Tensor, Tensor] | None:
    if bool(mean) != bool(std):
        raise UserError("--mean: expected --mean and --std together, given one of them")
    if not mean:
        return None
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, shape[0]):
            raise UserError(f"--{name}: expected 1 or {shape[0]} numbers, one a channel, given {len(values)}")
    if not all(math.isfinite(v) for v in (*mean, *std)) or min(std) < 1e-6:
        raise UserError(
            f"--mean, --std: expected finite numbers, those of --std above 0, given {', '.join(f'{v:g}' for v in (*mean, *std))}"
        )
    m, s = (torch.tensor([float(v) for v in values]).expand(shape[0]).clone() for values in (mean, std))
    return m, s


def _probe(shape: Shape) -> Tensor:
    """Two images."""
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))


def _in_process(
    network: nn.Module, name: str, key: str, classes: int, shape: Shape, sources: tuple[Source, ...]
) -> Model:
    network = network.eval().requires_grad_(True)
    try:
        given.check(network, classes, shape, name)
    except ValueError as problem:
        raise UserError(str(problem)) from None
    return Model(
        name, classes, shape, key, raw(network, _CPU), sum(p.numel() for p in network.parameters()),
        lambda: copy.deepcopy(network), embeds=given.embeds(network, _probe(shape)), sources=sources,
    )  # fmt: skip


class _Weights:
    """Stands for a network that is rebuilt in a sandbox."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    def state_dict(self) -> dict[str, Tensor]:
        return self._tensors


def _of_file(
    path: Path, tensors: dict[str, Tensor], source: Source, environment: list[Any], normalise: object
) -> Model:
    """The model of a network's file (docs/networks.md) and these weights."""
    if normalise:
        raise UserError(_NORMALISES)
    text = reading.text(path, own.LARGEST, "a network's file")
    name, classes, shape = path.stem, environment[0], environment[1]
    if name in networks.PACKAGED:
        raise UserError(
            f"{path.name}: expected a file name that no network of the package has, given {name!r}; rename it"
        )
    about = own.read(name, text)
    if min(shape[1:]) < about.least:
        raise UserError(
            f"{path.name}: expected images of at least {about.least}x{about.least} pixels, given {shape[1]}x{shape[2]}; --view "
            "is the height and width of the images"
        )
    what = f"{source.name}, {path.name}"
    asked = {"form": "network", "name": name, "text": text, "what": what, "classes": classes, "shape": shape}
    model = _isolated(path.name, digest("model", *environment, text), asked, tensors, (source,))
    model.copy, model.embeds = (lambda: _Weights(tensors)), True
    model.setup = Setup(name, classes, shape, {"pad": 0, "flip": False}, _CPU, {name: text})
    return model


def _isolated(
    name: str, key: str, asked: dict[str, Any], tensors: dict[str, Tensor], sources: tuple[Source, ...],
    libraries: Sequence[str] = (),
) -> Model:  # fmt: skip
    if (size := sum(t.numel() * t.element_size() for t in tensors.values())) > LARGEST_SENT:
        raise UserError(f"{asked['what']}: expected at most {LARGEST_SENT:,} bytes for a sandbox, given {size:,}")
    isolation = Isolation("always", limits=Limits(seconds=_DAY))
    try:
        ask, parameters = isolation.model(asked, tensors, libraries)
    except Fault as fault:
        isolation.close()
        kind, _, text = str(fault).partition(": ")
        raise UserError(
            text if kind in ("ValueError", "Unreadable") else f"{asked['what']}: {plain(str(fault), 300)}"
        ) from None
    except BaseException:
        isolation.close()
        raise
    return Model(
        name, asked["classes"], asked["shape"], key, ask, parameters or None, isolation=isolation, sources=sources
    )
