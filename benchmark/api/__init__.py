"""The contract: everything that a submission may import, and nothing else.

An attack or a defense is one class in one file of `submissions/`. It declares a literal `card`, its hyperparameters
(`Params`) and what it needs; the judge reads these without importing the file, and gives it what it declared alone.

Shapes: n samples, k classes, c x h x w pixels, d embedding width, m reference models, s attack seeds. Images are float32 in
[0, 1]; labels int64 in [0, k); log-posteriors float64 (n, k), natural logarithm. Log-posteriors are the one currency,
because posteriors saturate and leakage lives in their last digits. Normalisation belongs to the network, not the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from benchmark.api.augmentation import views
from benchmark.api.bounds import interval_bounds
from benchmark.api.perceptron import Perceptron
from benchmark.api.signals import best_thresholds, logit_margin

__all__ = [
    "Access", "Annotated", "Attack", "AttributeAttack", "Calibrate", "Candidates", "Card", "Claims", "Context",
    "Defense", "Embeddings", "Extra", "Field", "Hyper", "InversionAttack", "Knowledge", "Literal", "Need",
    "Perceptron", "Predict", "Pretrained", "References", "Samples", "Search", "Stage", "StealingAttack", "Target",
    "Training", "World", "best_thresholds", "interval_bounds", "logit_margin",
]  # fmt: skip

Access = Literal["label", "posterior", "white-box"]
"""What a target answers: the predicted label; also its posteriors; also its network."""

Need = Literal["shadow", "partial", "references-online", "references-offline", "certificate"]
"""Auxiliary knowledge: a shadow world, known members and non-members, reference models that were trained on halves of the
population that the candidates come from, reference models trained on shadow data alone, the radius that the target is certified
for (where there is none, the attack does not apply)."""

ShadowField = Literal["shadow", "embeddings", "auxiliary"]
"""A field of `Knowledge`: the shadow model with its members and non-members, embeddings of its training data, or this data."""

Calibrate = Literal["shadow", "own", "none"]
"""The decision threshold: found by the judge on the shadow world, or the attack's own, 0, or none (no accuracy then)."""

Stage = Literal["training", "pre-inference", "post-inference"]

Extra = Literal["reference", "validation"]
"""Data that a defense reads besides the training set (RULES 6)."""

Predict = Callable[[Tensor], Tensor]
"""Images (n, c, h, w) float32 in [0, 1] -> log-posteriors (n, k) float64."""


# --- What a file says about itself ------------------------------------------------------------------


@dataclass(frozen=True)
class Card:
    """Who made a method and where it is described. Every argument must be a literal."""

    title: str
    authors: tuple[str, ...]
    reference: str
    year: int | None
    null: bool = False
    """A null row: it shows what a score is worth that uses nothing of the target."""


@dataclass(frozen=True)
class Search:
    """The closed range that tuning searches, and the paper's own grid; they lie inside the valid range of `Field`."""

    low: float
    high: float
    log: bool = False
    grid: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pretrained:
    """Marks a hyperparameter that names a diffusion model of the user's, for `training.pretrained`; None names none.

    The judge reads the model before any work starts. The hyperparameters `instead_of` stay at their defaults with it.
    """

    instead_of: tuple[str, ...] = ()


class Hyper(BaseModel):
    """Base of every `Params`: unknown names and values out of range are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


# --- What an attack is given ------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """Labelled images: x (n, c, h, w) float32 in [0, 1], y (n,) int64."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


class Target:
    """A trained model behind an access level; more than the attack declared raises `PermissionError`."""

    def labels(self, x: Tensor) -> Tensor:
        """Predicted labels (n,) int64 of images (n, c, h, w)."""
        raise NotImplementedError

    def log_posteriors(self, x: Tensor) -> Tensor:
        """Log-posteriors (n, k) float64 of images (n, c, h, w), through every guard."""
        raise NotImplementedError

    def white_box(self) -> nn.Module:
        """A copy of the raw network (eval mode, float32): images -> logits (n, k) float32.

        Besides `forward` it has `embed(x)` (n, d), the input of its last linear layer `head`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class World:
    """A model together with samples that are known to be, and not to be, in its training set."""

    target: Target
    members: Samples
    nonmembers: Samples


@dataclass(frozen=True)
class Embeddings:
    """Embeddings x (n, d) float32 with class labels y (n,) and the attribute (n,), 0 or 1."""

    x: Tensor
    y: Tensor
    attribute: Tensor


@dataclass(frozen=True)
class Candidates:
    """What is to be judged, in the judge's shuffle: x (n, c, h, w), y (n,) and meaningless ids (n,)."""

    x: Tensor
    y: Tensor
    id: Tensor

    def __len__(self) -> int:
        return len(self.y)


def _no_more(x: Tensor) -> Tensor:
    raise PermissionError("these reference models answer for the candidates alone")


@dataclass(frozen=True)
class References:
    """Models trained like the target on other halves of the data, queried on the candidates.

    members (m, n) bool: whether candidate j was in the training set of model i (all False offline).
    log_posteriors (m, n, k) float64, through the target's own kind of guards.
    """

    members: Tensor
    log_posteriors: Tensor
    ask: Predict = field(default=_no_more, repr=False)
    """What all models say of other images, such as views of the candidates: (n, c, h, w) -> (m, n, k)."""
    whole: int | None = None
    """How many there were in all. Where one of them is the target, it and its pair are left out of m; `whole` stays."""


@dataclass(frozen=True)
class Knowledge:
    """All that an attack may learn from before it sees the candidates. Absent kinds are None."""

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
    """Inversion and stealing: the shadow world's training data, where `needs` names "shadow"."""
    certificate: float | None = None
    """Radius of the L-infinity ball, in pixels of [0, 1], for which the target is certified."""

    def generator(self, name: str) -> torch.Generator:
        """A generator on the CPU that depends on this scenario's seed and on `name` alone."""
        return _generator(self.seed, name)

    def views(self, x: Tensor, count: int) -> Tensor:
        """`count` simply augmented views (count, n, c, h, w) of images, drawn for each from its own pixels.

        A sample has the same views wherever and whenever it is asked about.
        """
        return views(x, self.simple, count)


# --- Attacks ----------------------------------------------------------------------------------------


class AnyAttack:
    """What all kinds of attack share. A kind is a subclass with one method of its own, which the judge asks."""

    task: ClassVar[str]
    """The kind's name; on the judge's side `judge/kinds/` has a module of this name."""
    answer: ClassVar[str]
    """The name of its one method."""
    from_shadow: ClassVar[ShadowField]
    """What the need "shadow" gives to attacks of this kind."""

    card: ClassVar[Card]
    access: ClassVar[Access]
    needs: ClassVar[frozenset[Need]] = frozenset()

    class Params(Hyper):
        """No hyperparameters."""

    def __init__(self, params: Any) -> None:
        self.params = params

    def fit(self, knowledge: Knowledge) -> None:
        """Learn from auxiliary knowledge. Called once, before anything is scored."""


class Attack(AnyAttack):
    """Membership inference."""

    task: ClassVar[str] = "membership"
    answer: ClassVar[str] = "score"
    from_shadow: ClassVar[ShadowField] = "shadow"
    calibrate: ClassVar[Calibrate] = "shadow"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Scores (n,) float64, higher for members; or (s, n), one row for each of s attack seeds.

        A score must not depend on the order or the number of candidates: pool over data in `fit`.
        """
        raise NotImplementedError


class InversionAttack(AnyAttack):
    """Reconstruct what a class looks like in the training data."""

    task: ClassVar[str] = "inversion"
    answer: ClassVar[str] = "reconstruct"
    from_shadow: ClassVar[ShadowField] = "auxiliary"

    def reconstruct(self, target: Target, classes: Sequence[int]) -> Tensor:
        """Images (len(classes), c, h, w) in [0, 1], one for each class asked for."""
        raise NotImplementedError


class AttributeAttack(AnyAttack):
    """Infer an attribute of a sample from its embedding; the image is never seen."""

    task: ClassVar[str] = "attribute"
    answer: ClassVar[str] = "predict"
    from_shadow: ClassVar[ShadowField] = "embeddings"

    @property
    def embedding(self) -> Literal["target", "untrained"]:
        """Which network embeds: the target, or one with the same architecture and random weights."""
        return "target"

    def predict(self, embeddings: Tensor) -> Tensor:
        """Attribute labels (n,) int64, 0 or 1, from embeddings (n, d)."""
        raise NotImplementedError


class StealingAttack(AnyAttack):
    """Train a copy of the target from its answers."""

    task: ClassVar[str] = "stealing"
    answer: ClassVar[str] = "steal"
    from_shadow: ClassVar[ShadowField] = "auxiliary"

    def steal(self, target: Target, queries: Samples, build: Callable[[], nn.Module]) -> nn.Module:
        """A network, images -> logits (n, k). `build` makes a fresh one of the target's architecture."""
        raise NotImplementedError


# --- Defenses ---------------------------------------------------------------------------------------


class Training:
    """What a training defense works with. A checkpoint may be chosen on `validation` alone.

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
        """A fresh network of the protocol's architecture, or of a named one; its weights are drawn from the seed."""
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

        loss(logits (n, k), y) -> (n,) float32; or, for what is more than that, cost(network, x, y, epoch) -> the
        scalar to descend, epochs counted from 0. `targets` (len(train), ...) take the labels' place as y.
        """
        raise NotImplementedError

    def fit_each(
        self, rows: Sequence[Tensor], name: str, *, loss: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> list[nn.Module]:
        """Fresh networks, number i trained by the recipe on the samples rows[i] (int64) of `train`, seeded by `name`.

        They train together where the recipe trains ensembles; sizes may differ by one then.
        """
        raise NotImplementedError

    def epochs(self, network: nn.Module) -> Iterator[int]:
        """The recipe's epochs, for a training loop of one's own: 0, 1, ...

        With early stopping, the network has the weights of its best epoch on `validation` when they end.
        """
        raise NotImplementedError

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The recipe's augmentation of a batch (n, c, h, w); x itself where the recipe has none."""
        raise NotImplementedError

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """The recipe's learning-rate schedule; step it once an epoch."""
        raise NotImplementedError

    def generator(self, name: str) -> torch.Generator:
        """A generator on the CPU that depends on this training's seed and on `name` alone."""
        return _generator(self.seed, name)

    def artifact(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors of this world's data and seed and of no network, made once; `name` holds all hyperparameters read."""
        raise NotImplementedError

    def pretrained(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A model that a hyperparameter marked `Pretrained` names: its configuration and its float32 weights.

        The configuration is that of a diffusers `UNet2DModel` for images of this shape, which predicts the noise, under
        "unet", and that of its 1000 steps under "scheduler" ({}: those of Ho et al. 2020). Any other name raises
        `PermissionError`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Claims:
    """What a defense says of itself. Epsilon needs delta, accountant, adjacency and sampling."""

    epsilon: float | None = None
    delta: float | None = None
    accountant: str | None = None
    adjacency: str | None = None
    sampling: str | None = None
    robust: float | None = None
    """Radius of the L-infinity ball, in pixels of [0, 1], that training aimed at: robust accuracy is measured there."""
    certificate: float | None = None
    """Radius for which interval bounds on the network prove something: certified accuracy is measured there."""


@dataclass(frozen=True)
class Context:
    """What a guard may use while it answers. `key` is a secret of the target's world."""

    key: bytes = field(repr=False)
    device: torch.device
    remember: Callable[[str, Tensor, Callable[[], Tensor]], Tensor] = field(repr=False)
    """remember(name, x, make): make() once for each name, guard state, key and x, and store it.

    For what depends on the query but on no network, such as DIFFENCE's reconstructions. Tensors of the state whose
    names begin with "_" don't count as state here: `make` must not read them, and chains that differ in them share.
    """

    def uniform(self, name: str, x: Tensor, width: int) -> Tensor:
        """Uniform numbers (n, width) float64 in (0, 1), a pure function of key, name and 8-bit query.

        Asking the same query twice, alone or in any batch, gives the same numbers (RULES 8).
        """
        pixels = (x.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8).flatten(1).numpy()
        salt = hashlib.blake2b(name.encode(), digest_size=16).digest()
        stream = b"".join(
            hashlib.shake_256(hashlib.blake2b(p.tobytes(), key=self.key, salt=salt).digest()).digest(4 * width)
            for p in pixels
        )
        words = torch.frombuffer(bytearray(stream), dtype=torch.int32).view(len(x), width)
        return (words.to(torch.float64) + (2.0**31 + 0.5)) / 2.0**32

    def normal(self, name: str, x: Tensor) -> Tensor:
        """Standard normal numbers of the shape of x, float32, drawn as `uniform` draws."""
        return torch.special.ndtri(self.uniform(name, x, x[0].numel())).view(x.shape).to(x)  # type: ignore[no-any-return]


class Defense:
    """A change to training, to queries before inference, to answers after it, or to several of these."""

    card: ClassVar[Card]
    stages: ClassVar[tuple[Stage, ...]]
    data_independent: ClassVar[bool] = False
    """A guard that reads no training data; any other voids a claimed epsilon (RULES 29)."""
    uses: ClassVar[frozenset[Extra] | Mapping[Extra, Mapping[str, Collection[Any]]]] = frozenset()
    """In a mapping, an extra is read where one of these hyperparameters has one of these values."""
    keeps_labels: ClassVar[bool | Mapping[str, Collection[Any]]] = False
    """No answer has another label than without this guard (a mapping: where hyperparameters have these values)."""
    adaptive_attack: ClassVar[str] = ""
    """What is known to be made against this defense, where no entry is: its rows say "standard attacks only"."""

    class Params(Hyper):
        """No hyperparameters."""

    def __init__(self, params: Any) -> None:
        self.params = params

    def network(self, training: Training) -> nn.Module:
        """The network to train; structure only, for its trained weights are stored and loaded into it."""
        return training.build()

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Losses (n,) of logits (n, k). Where only this differs, reference models can train as one ensemble."""
        return nn.functional.cross_entropy(logits, y, reduction="none")

    def train(self, training: Training) -> nn.Module:
        """Train and return the network. Only its `state_dict` is kept."""
        return training.fit(self.network(training), loss=self.loss)

    def prepare(self, predict: Predict, training: Training) -> dict[str, Tensor]:
        """What the guard needs, made once a world and stored. `predict` is the stage before it."""
        return {}

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        """The guarded predictor. Pure, and it must not train."""
        return predict

    def claims(self, training: Training) -> Claims:
        """What may be printed beside the row."""
        return Claims()


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
