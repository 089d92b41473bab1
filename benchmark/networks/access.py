"""How attacks and the judge query networks: batches, float32 inference, access levels, and answers that are stored."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.api import Access, Predict, Target

CHUNK = 500
"""Images in a forward pass at most. Changing it changes numbers: the last digits of a convolution depend on the batch size."""


def calls(n: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Indices of n queries in random order, in calls of 1 to CHUNK.

    The sizes are such as attacks ask in, so that a defense cannot tell the judge's queries by them. One call in four has a
    size that is uniform on a logarithmic scale; the others are large and hold most of the queries.
    """
    order, largest = rng.permutation(n), min(n, CHUNK)
    batches: list[NDArray[np.int64]] = []
    while len(order):
        share = largest ** (rng.uniform() - 1) if rng.uniform() < 0.25 else rng.uniform(0.1, 1)
        size = math.ceil(largest * share)
        batches.append(order[:size])
        order = order[size:]
    return batches


def ask(predict: Predict, x: Tensor, rng: np.random.Generator) -> Tensor:
    """Answers (n, k) to images (n, c, h, w), queried in the batches that `calls` draws, in the order of the images."""
    batches = calls(len(x), rng)
    answers = torch.cat([predict(x[torch.from_numpy(rows)]) for rows in batches])
    return answers[torch.from_numpy(np.concatenate(batches).argsort())]


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Convolutions and matrix products in IEEE float32: by default PyTorch rounds convolutions to TF32 on CUDA (RULES 24)."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def raw(network: nn.Module, device: torch.device) -> Predict:
    """The network without guards: images -> log-posteriors float64 on the CPU, by inference in float32 and eval mode.

    Never in bfloat16, for what tells members lies in the last digits. Never in training mode, in which queries would update
    the statistics of BatchNorm.
    """
    network = network.to(device, torch.float32).eval()

    @torch.no_grad()
    @exact_float32()
    def predict(x: Tensor) -> Tensor:
        parts = [network(chunk.to(device)).double().log_softmax(1).cpu() for chunk in x.split(CHUNK)]
        return torch.cat(parts) if parts else torch.zeros(0, 0, dtype=torch.float64)

    return predict


class Answers:
    """Log-posteriors that were computed before, looked up by the pixels of the image.

    An attack may ask in any order and in any batch, and always gets the same digits. No two images of the data are equal.
    """

    def __init__(self) -> None:
        self._rows: dict[bytes, int] = {}
        self._table = torch.zeros(0, 0, dtype=torch.float64)

    @staticmethod
    def _image_keys(x: Tensor) -> Iterator[bytes]:
        """A hash of 16 bytes for each image (n, c, h, w), so that images need not be kept."""
        return (hashlib.blake2b(image, digest_size=16).digest() for image in x.contiguous().numpy())

    def add(self, x: Tensor, log_posteriors: Tensor) -> None:
        self._rows.update(zip(self._image_keys(x), itertools.count(len(self._table)), strict=False))
        self._table = torch.cat([self._table, log_posteriors]) if len(self._table) else log_posteriors

    def find(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Answers (n, k) to images (n, c, h, w), of any digits where none is stored; and the positions of these, (m,)."""
        rows = torch.tensor([self._rows.get(key, -1) for key in self._image_keys(x)])
        missing = (rows < 0).nonzero().squeeze(1)
        if len(missing) == len(x):
            return self._table[:0], missing
        return self._table[rows], missing


class GuardedTarget(Target):
    """The contract's Target. Counts the images that are asked for, and refuses what the attack did not declare.

    Images in `answers` get their stored answers, others go through `predict`. `copy_network` makes the white-box copy.
    """

    def __init__(
        self, access: Access, predict: Predict, answers: Answers, copy_network: Callable[[], nn.Module] | None = None
    ) -> None:
        self._access, self._predict, self._answers, self._copy = access, predict, answers, copy_network
        self.queries = 0
        self.asked = False
        """Whether anything of the target has been told: an answer, or its network."""
        self._closed = False

    def __deepcopy__(self, _: object) -> GuardedTarget:
        """The same target: copies of an attack ask the one that counts its queries."""
        return self

    def close(self) -> None:
        """Answer no more queries: a stolen copy must predict without the target's help."""
        self._closed = True

    def labels(self, x: Tensor) -> Tensor:
        return self._ask(x).argmax(1)

    def log_posteriors(self, x: Tensor) -> Tensor:
        if self._access == "label":
            raise PermissionError("the attack declares label access; it asked for posteriors")
        return self._ask(x)

    def white_box(self) -> nn.Module:
        if self._access != "white-box" or self._copy is None:
            raise PermissionError(f"the attack declares {self._access} access; it asked for the network")
        if self._closed:
            raise PermissionError("the target answers no more: the attack has handed in its result")
        self.asked = True
        return self._copy()

    def _ask(self, x: Tensor) -> Tensor:
        if self._closed:
            raise PermissionError("the target answers no more: the attack has handed in its result")
        if not isinstance(x, Tensor) or x.ndim != 4 or len(x) == 0:
            raise ValueError(f"expected images (n, c, h, w), given {tuple(getattr(x, 'shape', ()))}")
        x = x.detach().to("cpu", torch.float32).contiguous()
        self.queries += len(x)
        self.asked = True
        rows, missing = self._answers.find(x)
        if len(missing) == len(x):
            return self._predict(x)
        if len(missing):
            rows[missing] = self._predict(x[missing])
        return rows


def check_log_posteriors(answer: Tensor, n: int, classes: int, who: str) -> Tensor:
    """The answer, if it is what the contract asks for: log-posteriors (n, classes) float64 of probabilities that sum to 1.

    Raises ValueError, in the name of `who`, for a wrong shape or type, NaN, positive values and other sums.
    """
    if answer.shape != (n, classes) or answer.dtype != torch.float64:
        raise ValueError(
            f"{who}: expected log-posteriors ({n}, {classes}) float64, given {tuple(answer.shape)} {answer.dtype}"
        )
    if torch.isnan(answer).any() or (answer > 1e-9).any():
        raise ValueError(f"{who}: expected log-posteriors of at most 0, given NaN or a positive value")
    total = answer.exp().sum(1)
    if ((total - 1).abs() > 1e-4).any():
        raise ValueError(
            f"{who}: expected posteriors that sum to 1, given a sum of {total[(total - 1).abs().argmax()]:.6g}"
        )
    return answer
