"""The training loop of targets, shadow models and reference models.

All data lies in one tensor on the device; batches are indexed out of it and augmented as a whole. bfloat16 and
channels-last where the protocol says so. Small reference models can train as one vectorised network (`torch.func`).
Results depend on the number of threads: workers use one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from benchmark import networks
from benchmark.api import Samples, Training, bfloat16
from benchmark.api.augmentation import augment
from benchmark.protocol import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]
Cost = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
_CHUNK = 1000
"""Images in a forward pass on validation data."""
_AUGMENTED_IMAGES = 4096
"""About how many images are augmented together."""


class TrainingRun(Training):
    """The contract's `Training`, whose docstrings hold here, on samples in memory."""

    def __init__(
        self,
        *,
        train: Samples,
        reference: Samples,
        validation: Samples,
        classes: int,
        recipe: Recipe,
        architecture: str,
        simple: Mapping[str, Any],
        seed: int,
        device: torch.device,
        uses: Collection[str] = (),
        artifact: Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]] | None = None,
        pretrained: Callable[[str], tuple[dict[str, Any], dict[str, Tensor]]] | None = None,
    ) -> None:
        self.samples = {"train": train, "reference": reference, "validation": validation}
        self.classes, self.recipe, self.seed, self.device, self.uses = classes, recipe, seed, device, uses
        c, h, w = train.x.shape[1:]
        self.shape = (c, h, w)
        self._architecture, self._simple, self._artifact = architecture, simple, artifact
        self._pretrained = pretrained

    @property
    def train(self) -> Samples:  # type: ignore[override]
        return self.samples["train"]

    @property
    def reference(self) -> Samples:  # type: ignore[override]
        return self._declared("reference")

    @property
    def validation(self) -> Samples:  # type: ignore[override]
        return self._declared("validation")

    def _declared(self, name: str) -> Samples:
        if name not in self.uses:
            raise PermissionError(f"training.{name}: expected uses = frozenset({{{name!r}}}) in the class, given none")
        return self.samples[name]

    def build(self, architecture: str | None = None) -> nn.Module:
        name = architecture or self._architecture
        return networks.build(name, self.classes, self.shape, self.seed).to(self.device)

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return augment(x, self.recipe.augmentation, self._simple, generator)

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        if self.recipe.schedule == "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.recipe.epochs)
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, list(self.recipe.milestones), 0.1)

    def artifact(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return make() if self._artifact is None else self._artifact(name, make)

    def pretrained(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        if self._pretrained is None:
            raise PermissionError(f"training.pretrained: expected a model that a hyperparameter names, given {name!r}")
        return self._pretrained(name)

    def epochs(self, network: nn.Module) -> Iterator[int]:
        best = _Best()
        for epoch in range(self.recipe.epochs):
            yield epoch
            if self.recipe.early_stopping:
                state = {name: t.detach() for name, t in network.state_dict().items()}
                best.update(state, torch.tensor(self._validate(network)))
        if self.recipe.early_stopping:
            network.load_state_dict(best.state)

    @torch.no_grad()
    def _validate(self, network: nn.Module) -> float:
        """Accuracy in [0, 1] on validation data; leaves the network in the mode that it was in."""
        x, y = _validation(self)
        training = network.training
        network.eval()
        predictions = [network(part.to(self.device)).argmax(1).cpu() for part in x.split(_CHUNK)]
        network.train(training)
        return float((torch.cat(predictions) == y).double().mean())

    def fit(
        self,
        network: nn.Module,
        *,
        loss: Loss | None = None,
        cost: Cost | None = None,
        targets: Tensor | None = None,
        optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer] | None = None,
    ) -> nn.Module:
        if loss is not None and cost is not None:
            raise ValueError("expected loss or cost, given both")
        per_sample = loss or _cross_entropy
        recipe = self.recipe
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        network = network.to(self.device, memory_format=layout).train()  # type: ignore[call-overload]
        x = self.train.x.to(self.device, memory_format=layout)
        y = (self.train.y if targets is None else targets).to(self.device)
        if len(y) != len(x):
            raise ValueError(f"targets: expected one for each of {len(x)} training samples, given {len(y)}")
        parameters = list(network.parameters())
        update = optimizer(parameters) if optimizer else make_optimizer(parameters, recipe)
        schedule = self.schedule(update)
        order, views = self.generator("order"), self.generator("augmentation")
        model = _Bfloat16(network, self.device, layout) if recipe.precision == "bfloat16" else network
        for epoch in self.epochs(network):
            for xb, rows in self._batches(x, torch.randperm(len(y), generator=order), views):
                xb, yb = xb.contiguous(memory_format=layout), y[rows]
                value = cost(model, xb, yb, epoch) if cost else per_sample(model(xb), yb).mean()
                update.zero_grad(set_to_none=True)
                value.backward()
                update.step()
            schedule.step()
        return network.eval()

    def _batches(self, x: Tensor, order: Tensor, views: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented batches of x in this order, and their rows (on the device). Several batches are augmented in one call."""
        size = self.recipe.batch_size
        for rows in order.to(self.device).split(size * batches_at_once(self.recipe)):
            yield from zip(self.augment(x[rows], views).split(size), rows.split(size), strict=True)

    def fit_each(self, rows: Sequence[Tensor], name: str, *, loss: Loss | None = None) -> list[nn.Module]:
        trainings = []
        for i, part in enumerate(rows):
            training = copy.copy(self)
            training.seed = int(torch.randint(2**62, (), generator=self.generator(f"{name}-{i}")))
            training.samples = self.samples | {"train": Samples(self.train.x[part], self.train.y[part])}
            trainings.append(training)
        size, networks = self.recipe.ensemble, [t.build() for t in trainings]
        if size == 1 or any(next(n.buffers(), None) is not None for n in networks):
            return [t.fit(n, loss=loss) for t, n in zip(trainings, networks, strict=True)]
        fitted = []
        for i in range(0, len(trainings), size):
            fitted += fit_ensemble(trainings[i : i + size], networks[i : i + size], loss or _cross_entropy)
        return fitted


class _Bfloat16(nn.Module):
    """A network that computes in bfloat16, with outputs in float32."""

    def __init__(self, network: nn.Module, device: torch.device, layout: torch.memory_format) -> None:
        super().__init__()
        self.network, self._device, self._layout = network, device, layout

    def forward(self, x: Tensor) -> Tensor:
        with bfloat16(self._device):
            logits: Tensor = self.network(x.contiguous(memory_format=self._layout))
        return logits.float()

    def embed(self, x: Tensor) -> Tensor:
        with bfloat16(self._device):
            embedding: Tensor = self.network.embed(x)  # type: ignore[operator]
        return embedding.float()


class _Best:
    """The best weights so far, for early stopping; of m stacked networks, the best of each."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}
        self.score = torch.tensor(0.0)

    def update(self, state: dict[str, Tensor], score: Tensor) -> None:
        """Keep the weights where score, () or (m,), is higher than ever; of equal scores the earliest stay."""
        better = score > self.score if self.state else torch.ones_like(score, dtype=torch.bool)
        if not self.state:
            self.state = {name: t.clone() for name, t in state.items()}
            self.score = score.clone()
        for name, t in state.items():
            mask = better.to(t.device).view(better.shape + (1,) * (t.ndim - better.ndim))
            self.state[name] = torch.where(mask, t, self.state[name])
        self.score = torch.where(better, score, self.score)


def _validation(training: TrainingRun) -> tuple[Tensor, Tensor]:
    """Images and labels for early stopping. Raises ValueError where there are none."""
    held_out = training.samples["validation"]
    if not len(held_out):
        raise ValueError("early stopping: expected validation data, given none (a split with a reference part has it)")
    return held_out.x, held_out.y


def fit_ensemble(trainings: Sequence[TrainingRun], networks: Sequence[nn.Module], loss: Loss) -> list[nn.Module]:
    """Train networks of one architecture, each on its own training's data and seed, as one vectorised network.

    Network i sees the same batches as in `trainings[i].fit(networks[i], loss=loss)`; only the rounding of sums differs. Where
    training sets differ by one sample, each epoch of the larger ones leaves out a random one. Networks must have no buffers
    (no BatchNorm). Raises ValueError for training sets whose sizes differ by more than one.
    """
    first = trainings[0]
    recipe, device = first.recipe, first.device
    parameters, _ = stack_module_state(list(networks))  # type: ignore[arg-type]
    skeleton = copy.deepcopy(networks[0]).to("meta")
    sizes = [len(t.train) for t in trainings]
    least, most = min(sizes), max(sizes)
    if most - least > 1:
        raise ValueError(f"an ensemble: expected training sets of one size, given {least} to {most}")
    # Smaller training sets are padded with their first sample; `order` never indexes the padding.
    padded_rows = [torch.cat([torch.arange(n), torch.zeros(most - n, dtype=torch.int64)]) for n in sizes]
    x = torch.stack([t.train.x[rows] for t, rows in zip(trainings, padded_rows, strict=True)]).to(device)
    y = torch.stack([t.train.y[rows] for t, rows in zip(trainings, padded_rows, strict=True)]).to(device)
    network_index = torch.arange(len(trainings), device=device).unsqueeze(1)
    leaves = [p.detach().to(device).requires_grad_() for p in parameters.values()]
    stacked = dict(zip(parameters, leaves, strict=True))
    update = make_optimizer(leaves, recipe)
    schedule = first.schedule(update)
    orders, views = [t.generator("order") for t in trainings], [t.generator("augmentation") for t in trainings]
    best = _Best()

    def answer(weights: dict[str, Tensor], xb: Tensor) -> Tensor:
        with bfloat16(device, recipe.precision == "bfloat16"):
            logits = functional_call(skeleton, weights, (xb,))
        return logits.float()  # type: ignore[no-any-return]

    def mean_loss(weights: dict[str, Tensor], xb: Tensor, yb: Tensor) -> Tensor:
        return loss(answer(weights, xb), yb).mean()

    for _ in range(recipe.epochs):
        drawn = [torch.randperm(n, generator=g)[:least] for n, g in zip(sizes, orders, strict=True)]
        order = torch.stack(drawn).to(device)
        for rows in order.split(recipe.batch_size * batches_at_once(recipe), dim=1):
            images = x[network_index, rows]
            if recipe.augmentation != "none":
                images = torch.stack([t.augment(b, g) for b, t, g in zip(images, trainings, views, strict=True)])
            for xb, yb in zip(
                *(part.split(recipe.batch_size, dim=1) for part in (images, y[network_index, rows])), strict=True
            ):
                update.zero_grad(set_to_none=True)
                torch.vmap(mean_loss)(stacked, xb, yb).sum().backward()
                update.step()
        schedule.step()
        if recipe.early_stopping:
            held_out = [_validation(t) for t in trainings]
            with torch.no_grad():
                logits = torch.vmap(answer)(stacked, torch.stack([v for v, _ in held_out]).to(device))
            accuracy = (logits.argmax(2).cpu() == torch.stack([v for _, v in held_out])).double().mean(1)
            best.update({name: t.detach() for name, t in stacked.items()}, accuracy)
    for i, network in enumerate(networks):
        kept = best.state if recipe.early_stopping else stacked
        network.load_state_dict({name: value[i].detach() for name, value in kept.items()})
    return [n.eval() for n in networks]


def batches_at_once(recipe: Recipe) -> int:
    """How many batches are augmented in one call: an operation on thousands of images takes little longer than on hundreds."""
    return 1 if recipe.augmentation == "none" else max(1, _AUGMENTED_IMAGES // recipe.batch_size)


def make_optimizer(parameters: Sequence[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer: Adam, or SGD with momentum; weight decay in both."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, y, reduction="none")
