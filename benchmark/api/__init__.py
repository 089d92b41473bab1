"""The contract: everything that a submission may import, and nothing else.

An attack or a defense is one class in one file of `submissions/`. It declares a literal `card`, its hyperparameters
(`Params`) and what it needs. The judge reads these without importing the file, and gives the class what it declared and
nothing else.

Shapes: n samples, k classes, c x h x w pixels, d embedding width, m reference models, s attack seeds. Images are float32 in
[0, 1]; labels int64 in [0, k); log-posteriors float64 (n, k), natural logarithm. Everything is computed from log-posteriors,
because posteriors saturate at 0 and 1, and what tells members lies in their last digits. Normalisation is part of the
network: images are never normalised beforehand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.api.augmentation import views
from benchmark.api.bounds import interval_bounds
from benchmark.api.copies import certain, copy_by_asking, train_copy
from benchmark.api.declared import Card, Hyper, Pretrained, Search
from benchmark.api.perceptron import Perceptron
from benchmark.api.precision import bfloat16
from benchmark.api.signals import best_thresholds, logit_margin
from benchmark.api.terms import Access, Calibrate, Extra, Make, Need, Predict, ShadowField, Stage

__all__ = [
    "Access", "Annotated", "Attack", "AttributeAttack", "Calibrate", "Candidates", "Card", "Claims", "Context",
    "Defense", "Embeddings", "Extra", "Field", "Hyper", "InversionAttack", "Knowledge", "Literal", "Need",
    "Perceptron", "Predict", "Pretrained", "References", "Samples", "Search", "Stage", "StealingAttack", "Target",
    "Training", "World", "best_thresholds", "bfloat16", "certain", "copy_by_asking", "interval_bounds", "logit_margin",
    "train_copy",
]  # fmt: skip

# --- What an attack is given ------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """Labelled images: x (n, c, h, w) float32 in [0, 1], y (n,) int64."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


class Target:
    """A trained model, served at the access level that the attack declared; asking for more raises `PermissionError`."""

    def labels(self, x: Tensor) -> Tensor:
        """Predicted labels (n,) int64 of images (n, c, h, w)."""
        raise NotImplementedError

    def log_posteriors(self, x: Tensor) -> Tensor:
        """Log-posteriors (n, k) float64 of images (n, c, h, w), as all guards leave them."""
        raise NotImplementedError

    def white_box(self) -> nn.Module:
        """A copy of the network without guards (eval mode, float32): images -> logits (n, k) float32.

        Besides `forward` it has `embed(x)` (n, d), the input of its last linear layer `head`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class World:
    """A trained model with samples that are known to be in its training set, and others that are known not to be."""

    target: Target
    members: Samples
    nonmembers: Samples


@dataclass(frozen=True)
class Embeddings:
    """Embeddings x (n, d) float32 of samples, their class labels y (n,) int64, and their attribute (n,) int64 in [0, values)."""

    x: Tensor
    y: Tensor
    attribute: Tensor
    values: int = 2


@dataclass(frozen=True)
class Candidates:
    """Members and non-members to tell apart, shuffled: x (n, c, h, w), y (n,), and ids (n,) int64 that are drawn at random."""

    x: Tensor
    y: Tensor
    id: Tensor

    def __len__(self) -> int:
        return len(self.y)


def _not_stored(name: str, make: Make) -> dict[str, Tensor]:
    raise PermissionError("artifact: only attacks that learn from auxiliary data alone have tensors stored")


def _candidates_only(x: Tensor) -> Tensor:
    raise PermissionError("these reference models answer for the candidates alone")


@dataclass(frozen=True)
class References:
    """Models trained like the target on other data (RULES 4), and their answers to the candidates.

    members (m, n) bool: whether candidate j was in the training set of model i; all False for offline models.
    log_posteriors (m, n, k) float64, through guards of the same kind as the target's.
    """

    members: Tensor
    log_posteriors: Tensor
    ask: Predict = field(default=_candidates_only, repr=False)
    """The models' log-posteriors (m, n, k) of other images (n, c, h, w), such as views of the candidates."""


@dataclass(frozen=True)
class Knowledge:
    """All that an attack may learn from before it sees the candidates. What `needs` does not name is None."""

    classes: int
    shape: tuple[int, int, int]
    seed: int
    device: torch.device
    simple: Mapping[str, Any] = field(default_factory=lambda: {"pad": 0, "flip": False})
    """The data set's simple augmentation: {"pad": pixels, "flip": bool}."""
    shadow: World | None = None
    partial: World | None = None
    embeddings: Embeddings | None = None
    auxiliary: Samples | None = None
    """For inversion and stealing, the shadow world's training data, where `needs` names "shadow"."""
    certificate: float | None = None
    """Radius of the L-infinity ball, on the scale of pixels in [0, 1], that the target is certified for."""
    artifact: Callable[[str, Make], dict[str, Tensor]] = field(default=_not_stored, repr=False)
    """artifact(name, make): what make(generator) computes from `auxiliary`, once for all targets of a seed, and stored.

    `name` must hold all hyperparameters that `make` reads; its random numbers come from the generator alone. For attacks that need
    nothing but "shadow", in `fit`: once the target was asked anything, it raises `PermissionError`.
    """

    def generator(self, name: str) -> torch.Generator:
        """A fresh generator on the CPU, seeded by this scenario's seed and `name` alone."""
        return _generator(self.seed, name)

    def views(self, x: Tensor, count: int) -> Tensor:
        """`count` views (count, n, c, h, w) of images under the data set's simple augmentation.

        The draw is a function of each image's pixels, so that a sample always has the same views.
        """
        return views(x, self.simple, count)


# --- Attacks ----------------------------------------------------------------------------------------


class AnyAttack:
    """What all kinds of attack share. A kind is a subclass with one method of its own, which the judge calls."""

    task: ClassVar[str]
    """The kind's name, and that of the module in `judge/kinds/` that scores it."""
    answer: ClassVar[str]
    """The name of that method."""
    returns: ClassVar[Literal["tensor", "network"]] = "tensor"
    """What that method returns."""
    from_shadow: ClassVar[ShadowField]
    """Which field of `Knowledge` the need "shadow" fills for attacks of this kind."""

    card: ClassVar[Card]
    access: ClassVar[Access]
    needs: ClassVar[frozenset[Need]] = frozenset()

    class Params(Hyper):
        """No hyperparameters."""

    def __init__(self, params: Any) -> None:
        self.params = params

    def fit(self, knowledge: Knowledge) -> None:
        """Learn from auxiliary knowledge. Called once, before the method that `answer` names."""


class Attack(AnyAttack):
    """Membership inference."""

    task: ClassVar[str] = "membership"
    answer: ClassVar[str] = "score"
    from_shadow: ClassVar[ShadowField] = "shadow"
    calibrate: ClassVar[Calibrate] = "shadow"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Scores (n,) float64, higher for members; or (s, n), one row for each of s attack seeds.

        A score must not depend on the order or the number of candidates: statistics over data belong in `fit` (RULES 14).
        """
        raise NotImplementedError


class InversionAttack(AnyAttack):
    """Reconstruct what a class looks like in the training data."""

    task: ClassVar[str] = "inversion"
    answer: ClassVar[str] = "reconstruct"
    from_shadow: ClassVar[ShadowField] = "auxiliary"

    def reconstruct(self, target: Target, classes: Sequence[int]) -> Tensor:
        """Images in [0, 1] of the classes asked for, (len(classes), c, h, w); or several of each, (len(classes), m, c, h, w), the best first."""
        raise NotImplementedError


class AttributeAttack(AnyAttack):
    """Infer an attribute of a sample from its embedding, or from the target's answer to it, without its image (RULES 7)."""

    task: ClassVar[str] = "attribute"
    answer: ClassVar[str] = "predict"
    from_shadow: ClassVar[ShadowField] = "embeddings"

    @property
    def embedding(self) -> Literal["target", "untrained", "posteriors", "predicted", "label"]:
        """What is read of a sample, as far as `access` goes: the embedding by the bare target, or by its architecture with random
        weights (white-box); the target's log-posteriors (n, k) or predicted labels, one-hot, behind its guards; or the true labels."""
        return "target"

    def predict(self, embeddings: Tensor) -> Tensor:
        """Attribute labels (n,) int64 in [0, `Embeddings.values`), from embeddings (n, d)."""
        raise NotImplementedError


class StealingAttack(AnyAttack):
    """Train a copy of the target from its answers."""

    task: ClassVar[str] = "stealing"
    answer: ClassVar[str] = "steal"
    returns: ClassVar[Literal["tensor", "network"]] = "network"
    from_shadow: ClassVar[ShadowField] = "auxiliary"

    def steal(self, target: Target, queries: Samples, build: Callable[..., nn.Module]) -> nn.Module:
        """The copy, a network: images -> logits (n, k). `build()` makes a fresh network of the target's architecture, `build(name)` of another."""
        raise NotImplementedError


# --- Defenses ---------------------------------------------------------------------------------------


class Training:
    """What a training defense works with: data, recipe and tools. Checkpoints may be chosen on `validation` alone.

    `reference` and `validation` raise `PermissionError` unless the defense's `uses` names them.
    """

    train: Samples
    reference: Samples
    validation: Samples
    classes: int
    shape: tuple[int, int, int]
    recipe: Any
    """The protocol's recipe: optimizer, learning_rate, momentum, weight_decay, epochs, batch_size, ..."""
    seed: int
    device: torch.device

    def build(self, architecture: str | None = None) -> nn.Module:
        """A fresh network of the protocol's architecture, or of a named one, with weights drawn from the training's seed."""
        raise NotImplementedError

    def fit(
        self,
        network: nn.Module,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        cost: Callable[[nn.Module, Tensor, Tensor, int], Tensor] | None = None,
        targets: Tensor | None = None,
        optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer] | None = None,
    ) -> nn.Module:
        """Train by the protocol's recipe and return the network in eval mode.

        loss(logits (n, k), y) -> (n,) float32, of which the mean over the batch is minimised. Where that is not enough,
        cost(network, x, y, epoch) -> the scalar to minimise on a batch; epochs count from 0. `targets` (len(train), ...)
        replace the labels as y. Raises ValueError for both loss and cost, and for targets of another length.
        """
        raise NotImplementedError

    def fit_each(
        self, rows: Sequence[Tensor], name: str, *, loss: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> list[nn.Module]:
        """Fresh networks in eval mode, number i trained by the recipe on the samples rows[i] (int64) of `train`.

        Their seeds come from `name` and i. Where the recipe trains ensembles, they train together, and the numbers of samples may
        differ by one at most.
        """
        raise NotImplementedError

    def epochs(self, network: nn.Module) -> Iterator[int]:
        """The recipe's epochs, 0, 1, ..., for a training loop of one's own.

        With early stopping, the network gets the weights of its best epoch on `validation` after the last one.
        """
        raise NotImplementedError

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The recipe's augmentation of a batch (n, c, h, w); x itself where the recipe has none."""
        raise NotImplementedError

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """The recipe's learning-rate schedule; step it once an epoch. Makes an Adam AMSGrad where the recipe asks for it."""
        raise NotImplementedError

    def generator(self, name: str) -> torch.Generator:
        """A fresh generator on the CPU, seeded by this training's seed and `name` alone."""
        return _generator(self.seed, name)

    def artifact(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors that `make` computes from this world's data and seed, but from no network; computed once and stored.

        `name` identifies them: it must hold all hyperparameters that `make` reads.
        """
        raise NotImplementedError

    def pretrained(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The model that a hyperparameter marked `Pretrained` names: its configuration and its float32 weights.

        The configuration has two parts: "unet", of a diffusers `UNet2DModel` that predicts the noise of images of this
        shape; and "scheduler", of its 1000 noise levels ({}: those of Ho et al. 2020). Any other name raises
        `PermissionError`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Claims:
    """Guarantees that a defense claims. An epsilon needs delta, accountant, adjacency and sampling (RULES 29)."""

    epsilon: float | None = None
    delta: float | None = None
    accountant: str | None = None
    adjacency: str | None = None
    sampling: str | None = None
    robust: float | None = None
    """Radius of the L-infinity ball, on the scale of pixels in [0, 1], that training aimed at: robust accuracy is measured there."""
    certificate: float | None = None
    """Radius within which interval bounds can prove that a prediction stays: certified accuracy is measured there."""


@dataclass(frozen=True)
class Context:
    """What a guard may use while it answers. `key` is a secret of the world of the model that it guards (RULES 3)."""

    key: bytes = field(repr=False)
    device: torch.device
    remember: Callable[[str, Tensor, Callable[[], Tensor]], Tensor] = field(repr=False)
    """remember(name, x, make): the tensor that make() returns, computed once for each name, guard state, key and x, and stored.

    For what depends on the query but on no network, such as DIFFENCE's reconstructions. Tensors of the state whose
    names begin with "_" are not part of that key: `make` must not read them, and cascades that differ in them alone share.
    """

    def uniform(self, name: str, x: Tensor, width: int) -> Tensor:
        """Uniform numbers (n, width) float64 in (0, 1), a pure function of key, name and the query rounded to 8 bits.

        The same query gets the same numbers, alone or in any batch (RULES 8).
        """
        pixels = (x.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8).flatten(1).numpy()
        salt = hashlib.blake2b(name.encode(), digest_size=16).digest()
        stream = b"".join(
            hashlib.shake_256(hashlib.blake2b(image.tobytes(), key=self.key, salt=salt).digest()).digest(4 * width)
            for image in pixels
        )
        words = torch.frombuffer(bytearray(stream), dtype=torch.int32).view(len(x), width)
        return (words.to(torch.float64) + (2.0**31 + 0.5)) / 2.0**32

    def normal(self, name: str, x: Tensor) -> Tensor:
        """Standard normal numbers of the shape and type of x, a pure function as `uniform` is."""
        return torch.special.ndtri(self.uniform(name, x, x[0].numel())).view(x.shape).to(x)  # type: ignore[no-any-return]


class Defense:
    """A change to training, to queries before inference, to answers after it, or to several of these.

    The part that acts around inference is called a guard. The judge trains the network by `train`, calls `prepare` for each
    world, and serves the network through `guard`.
    """

    card: ClassVar[Card]
    stages: ClassVar[tuple[Stage, ...]]
    data_independent: ClassVar[bool] = False
    """Whether the guard reads no training data. A guard that reads some voids the epsilon of its cascade (RULES 29)."""
    uses: ClassVar[frozenset[Extra] | Mapping[Extra, Mapping[str, Collection[Any]]]] = frozenset()
    """Extra data that it reads. In a mapping: only where one of these hyperparameters has one of these values."""
    keeps_labels: ClassVar[bool | Mapping[str, Collection[Any]]] = False
    """A promise that the guard changes no predicted label. A mapping: only where all these hyperparameters have one of these values."""
    adaptive_attack: ClassVar[str] = ""
    """A published attack on this defense that no entry implements: the rows say "standard attacks only" (RULES 13)."""

    class Params(Hyper):
        """No hyperparameters."""

    def __init__(self, params: Any) -> None:
        self.params = params

    def network(self, training: Training) -> nn.Module:
        """The network to train. It must be built the same way every time: stored weights are loaded into a new one."""
        return training.build()

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Losses (n,) of logits (n, k) with labels y (n,). A defense that changes this alone trains reference models as one ensemble."""
        return nn.functional.cross_entropy(logits, y, reduction="none")

    def train(self, training: Training) -> nn.Module:
        """Train and return the network. Of it only the `state_dict` is kept."""
        return training.fit(self.network(training), loss=self.loss)

    def prepare(self, predict: Predict, training: Training) -> dict[str, Tensor]:
        """The guard's state, computed once for each world and stored. `predict` is the model with the stages before this guard."""
        return {}

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        """The predictor with this guard on it. Answers must be a pure function of the query; nothing is trained here."""
        return predict

    def claims(self, training: Training) -> Claims:
        """The guarantees of this training, which are printed beside the row."""
        return Claims()


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
