"""What stands between an attack and a target: the access level, the guards, and the stored answers."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.api import Access, Predict, Target

CHUNK = 500
"""Images at a time. Fixed: the last digits of a convolution depend on the batch."""


def calls(n: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """n queries in shuffled calls of 1 to CHUNK: of the sizes in which attacks ask, so that none says who asks.

    One call in four is small (its size is even on a logarithmic scale), the others hold most of the queries.
    """
    order, largest = rng.permutation(n), min(n, CHUNK)
    found: list[NDArray[np.int64]] = []
    while len(order):
        share = largest ** (rng.uniform() - 1) if rng.uniform() < 0.25 else rng.uniform(0.1, 1)
        size = math.ceil(largest * share)
        found.append(order[:size])
        order = order[size:]
    return found


def ask(predict: Predict, x: Tensor, rng: np.random.Generator) -> Tensor:
    """Answers (n, k) to images (n, c, h, w), asked for in `calls`."""
    order = calls(len(x), rng)
    answers = torch.cat([predict(x[torch.from_numpy(rows)]) for rows in order])
    return answers[torch.from_numpy(np.concatenate(order).argsort())]


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Convolutions and matrix products in IEEE float32: by default PyTorch rounds convolutions to TF32 on CUDA (RULES 24)."""
    places: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        yield
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed


def raw(network: nn.Module, device: torch.device) -> Predict:
    """The network alone: float32, eval mode, log-posteriors in float64 on the CPU.

    Queries never run in bfloat16 and never in training mode: leakage lives in the last digits, and
    batch statistics would be updated by the attack.
    """
    network = network.to(device, torch.float32).eval()

    @torch.no_grad()
    @exact_float32()
    def predict(x: Tensor) -> Tensor:
        parts = [network(chunk.to(device)).double().log_softmax(1).cpu() for chunk in x.split(CHUNK)]
        return torch.cat(parts) if parts else torch.zeros(0, 0, dtype=torch.float64)

    return predict


class Answers:
    """Log-posteriors that were computed once, found again by the image itself.

    The data holds no two equal images, so an image is its own address, and an attack may ask in any
    order and in any batch: it always gets the same digits.
    """

    def __init__(self) -> None:
        self._rows: dict[bytes, Tensor] = {}

    @staticmethod
    def _addresses(x: Tensor) -> list[bytes]:
        """16 bytes an image: a large one need not be kept to be known again."""
        return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in x.numpy()]

    def add(self, x: Tensor, log_posteriors: Tensor) -> None:
        self._rows.update(zip(self._addresses(x), log_posteriors, strict=True))

    def find(self, x: Tensor) -> tuple[list[Tensor | None], list[int]]:
        """Stored rows, and the positions that are not stored."""
        rows = [self._rows.get(address) for address in self._addresses(x)]
        return rows, [i for i, row in enumerate(rows) if row is None]


class GuardedTarget(Target):
    """The contract's Target. Counts images asked for; refuses what the attack did not declare."""

    def __init__(
        self, access: Access, predict: Predict, answers: Answers, copy_network: Callable[[], nn.Module] | None = None
    ) -> None:
        self._access, self._predict, self._answers, self._copy = access, predict, answers, copy_network
        self.queries = 0
        self._closed = False

    def close(self) -> None:
        """Answer no more: what an attack made must stand for itself."""
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
        return self._copy()

    def _ask(self, x: Tensor) -> Tensor:
        if self._closed:
            raise PermissionError("the target answers no more: the attack has handed in its result")
        if not isinstance(x, Tensor) or x.ndim != 4 or len(x) == 0:
            raise ValueError(f"expected images (n, c, h, w), given {tuple(getattr(x, 'shape', ()))}")
        x = x.detach().to("cpu", torch.float32).contiguous()
        self.queries += len(x)
        rows, missing = self._answers.find(x)
        if len(missing) == len(x):
            return self._predict(x)
        if missing:
            fresh = self._predict(x[missing])
            for i, row in zip(missing, fresh, strict=True):
                rows[i] = row
        return torch.stack([r for r in rows if r is not None])


def check_log_posteriors(answer: Tensor, n: int, classes: int, who: str) -> Tensor:
    """Hold a guard's answer to the contract. Raises ValueError: shape, type, range, sum."""
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
