"""Networks that somebody else wrote: one of timm's by name, any module, and whole models as TorchScript or ONNX files.

A model's file is code of whoever made it: `script` and `onnx` are called in a sandbox alone.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError, printable, suggest
from benchmark.networks.architecture import Shape

TIMM = "timm:"
"""What a name begins with that is timm's."""
Logits = Callable[[Tensor], Tensor]
"""Images (n, c, h, w) to logits (n, k), both float32."""


class Adapted(nn.Module):
    """Somebody's network as the project's are: images in [0, 1] -> logits (n, k), with `embed` and `head`.

    A normalisation stands in front. Where the network answers with an object that holds the logits, as those of Hugging Face's
    transformers do (`ImageClassifierOutput`), they are taken out. `embed` and `head` are right where `embeds` says so.
    """

    def __init__(self, network: nn.Module, mean: Tensor | None = None, std: Tensor | None = None) -> None:
        """mean, std: (c,), of a network that expects normalised images; by default pixels go in as they are."""
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", (torch.zeros(1) if mean is None else mean).reshape(-1, 1, 1))
        self.register_buffer("std", (torch.ones(1) if std is None else std).reshape(-1, 1, 1))

    def normalise(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        answer = self.network(self.normalise(x))
        logits: Tensor = getattr(answer, "logits", answer)
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings (n, d), the input of the last linear layer."""
        inputs: list[Tensor] = []
        with _taking(self.head, inputs):
            self(x)
        return inputs[-1]

    @property
    def head(self) -> nn.Module:
        """The linear layer that is named last. Raises AttributeError where there is none."""
        layers = [layer for layer in self.network.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise AttributeError(f"{type(self.network).__name__} has no linear layer")
        return layers[-1]


@contextlib.contextmanager
def _taking(layer: nn.Module, inputs: list[Tensor]) -> Iterator[None]:
    """What the layer is given is added to `inputs` meanwhile."""
    hook = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        yield
    finally:
        hook.remove()


def from_timm(name: str, classes: int, shape: Shape) -> nn.Module:
    """timm's network of this name (without `timm:`), with random weights. Raises UserError for an unknown name.

    Nothing is fetched: names of timm that begin with a place, such as hf-hub:, are unknown here.
    """
    import timm

    known = timm.list_models()
    if not re.fullmatch(r"[a-z0-9_]{1,100}", name) or name not in known:
        raise UserError(f"--network: unknown network of timm {printable(name, 60)!r}{_near(name, known)}")
    settings: dict[str, Any] = {"pretrained": False, "num_classes": classes, "in_chans": shape[0]}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network: nn.Module = timm.create_model(name, **settings)
        if getattr(network, "default_cfg", {}).get("fixed_input_size"):  # a vision transformer is built for one size
            network = timm.create_model(name, **settings, img_size=shape[1:])
    return network


def _near(name: str, known: list[str]) -> str:
    near = suggest(name, known)
    return near if "did you mean" in near else "; python -c 'import timm; print(timm.list_models())' lists them"


def embeds(network: Any, x: Tensor) -> bool:
    """Whether `head(embed(x))` are the logits of images x, as attacks on the last layer need it."""
    try:
        with torch.no_grad():
            logits, embedding = network(x), network.embed(x)
            return bool(
                isinstance(network.head, nn.Linear)
                and embedding.ndim == 2
                and torch.allclose(network.head(embedding), logits, atol=1e-4)
            )
    except Exception:  # somebody's network may have neither, or no linear layer
        return False


def check(network: nn.Module, classes: int, shape: Shape, what: str) -> None:
    """Ask a network about one black image. Raises ValueError, in the name of `what`, unless it answers with logits (1, classes)."""
    try:
        with torch.no_grad():
            answer = network.eval()(torch.zeros(1, *shape))
    except Exception as error:
        raise ValueError(
            f"{what}: expected a network that takes float32 images (n, {', '.join(map(str, shape))}), given "
            f"{type(error).__name__}: {printable(str(error), 160)}; --view and --channels say what the images are"
        ) from None
    if not isinstance(answer, Tensor) or answer.ndim != 2 or not answer.is_floating_point():
        given = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(
            f"{what}: expected logits (n, {classes}) of n images, as a tensor or as `logits` of an object, given {given}"
        )
    if answer.shape[1] != classes:
        raise ValueError(
            f"{what}: expected logits of {classes} classes, given {answer.shape[1]}; --classes says how many"
        )


# --- In a sandbox -----------------------------------------------------------------------------------


def script(content: bytes) -> nn.Module:
    """The model of a TorchScript file, in eval mode."""
    module: nn.Module = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
    return module.eval()


class Onnx(nn.Module):
    """The model of an ONNX file with one input of images: its first output are the logits."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(f"expected a model of one input, given {len(inputs)}")
        size = inputs[0].shape[0] if inputs[0].shape else None
        self.input = inputs[0].name
        # A file that was exported for a number of images takes no other: the last batch is padded.
        self.batch = size if isinstance(size, int) and size > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        parts = [self._run(part) for part in x.split(self.batch or len(x))]
        return torch.cat(parts)

    def _run(self, x: Tensor) -> Tensor:
        full = torch.cat([x, x[:1].expand((self.batch or len(x)) - len(x), -1, -1, -1)])
        return torch.from_numpy(self.session.run(None, {self.input: full.numpy()})[0])[: len(x)]
