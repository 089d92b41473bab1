"""Scores one scenario: runs the attack on the target, then holds its scores against the labels.

The attack sees a target behind its access level, the knowledge that it declared, and shuffled
candidates. Labels, thresholds and metrics stay here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.api import Knowledge, Predict, World
from benchmark.data.population import seed_of
from benchmark.entries.registry import Chain, Part
from benchmark.metrics import Floats
from benchmark.networks.access import GuardedTarget
from benchmark.protocol import OWN_GUARDS
from benchmark.result import Claim, Picture
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.served import ServedModel

OUT_OF_MODEL = "a guard is outside the threat model: the attack reads the raw network"
NO_STATE = "not applicable: no guard here holds anything of the target's world, so that the attack is its default"


MOVED = 1e-3
"""By what a posterior may move when a sample is asked again."""

ATTACK_SEEDS = 100
"""Rows of scores: the judge resamples each of them."""

_NOISE = 0.1
"""Standard deviation of pixels in the noisy views on which labels are compared."""


class Skip(Exception):
    """The scenario does not apply; the message says why."""


@dataclass
class Outcome:
    """What a scenario gave: metrics, intervals, curves and cost, as the record wants them."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    cost: dict[str, float]
    roc: Any = None
    histogram: Any = None
    null_auc: tuple[float, ...] = ()
    null_tpr: tuple[float, ...] = ()
    claims: dict[Claim, str] | None = None
    pictures: dict[str, Picture] | None = None
    null: bool | None = None
    """True where this run of an attack used nothing of the target."""


@dataclass
class Scenario:
    """One attack, one target. A kind of attack is a subclass, in a module of `kinds/`."""

    behind_guards: ClassVar[bool] = True
    """Whether it asks the target as it is served; else it reads the raw network, and a guard is outside its model."""
    asks: ClassVar[tuple[str, ...]] = ()
    """Parts that it asks the target about, besides the target's own."""
    evaluator: ClassVar[bool] = False
    """Whether the judge needs a classifier of its own, trained on other data."""

    artifacts: Artifacts
    attack: Part
    chain: Chain
    seed: int

    def __post_init__(self) -> None:
        self.served = self.chain
        self.chain = self.chain.facing(self.attack)

    def score(self) -> Outcome:
        """Run and judge. Raises Skip; whatever the submission raises passes through."""
        entry = self.attack.entry
        if self.chain.guards and (entry.access == "white-box" or not self.behind_guards):
            raise Skip(OUT_OF_MODEL)
        if self.attack.adversary.guards == "target" and not any(guard.state() for guard in self._model().guards):
            raise Skip(NO_STATE)
        if self.chain.guards != self.served.guards:
            same_labels(self.artifacts.served(self.served, self.seed), self.served)
        self._open()
        if entry.access == "white-box":
            self._network()
        if "certificate" in entry.needs and self._model().network.claims().certificate is None:
            raise Skip("the target carries no certificate")
        adversary = self.artifacts.protocol.adversary
        if entry.access == "white-box" and adversary and adversary.architecture:
            raise Skip("the shadow's network is not the target's: its weights say nothing of the target's")
        attack = self.artifacts.attacker(self.attack, self.seed)
        outcome = self.judge(attack)
        outcome.cost["queries"] = float(self.target.queries)
        return outcome

    def judge(self, attack: Any) -> Outcome:
        """Run the attack, and hold what it returns against what it does not see."""
        raise NotImplementedError

    # --- What the attack is given ---

    def _open(self) -> None:
        self.population = self.artifacts.population(self.seed)
        canaries = ["candidates"] if self.artifacts.protocol.canaries else []
        self.target = self._target("target", *self.asks, *canaries)

    def _model(self, role: str = "target", number: int = 0) -> ServedModel:
        return self.artifacts.served(self.chain, self.seed, role, number)

    def _target(self, role: str, *asked: str) -> GuardedTarget:
        model, access = self._model(role), self.attack.entry.access
        known = model.known(*model.parts, *asked)
        return GuardedTarget(access, lambda x: model.predictor()(x), known, lambda: self._network(role))  # type: ignore[arg-type]

    def _network(self, role: str = "target") -> nn.Module:
        """The bare network in the judge's architecture. Raises Skip where it does not fit."""
        network = self._model(role).network.judges()
        if network is None:
            raise Skip("only the defense's own code can build this network")
        return network.to(self.artifacts.device)

    def _shadow(self) -> World:
        return World(self._target("shadow"), *map(self.population.part, self._model("shadow").parts))

    def _knowledge(self, **more: Any) -> Knowledge:
        entry = self.attack.entry
        samples, data = self.population.samples, self.population.data
        known = World(self.target, samples(self.population.known_members), samples(self.population.known_nonmembers))
        return Knowledge(
            classes=data.classes,
            shape=data.shape,
            # Both variants of RULES 3 draw alike: what they differ by is what the target's guards tell.
            seed=seed_of("attack", self.seed, replace(self.attack, adversary=OWN_GUARDS).name, self.chain.name),
            device=self.artifacts.device,
            simple=data.simple,
            shadow=self._shadow() if entry.given("shadow") else None,
            partial=known if entry.given("partial") else None,
            auxiliary=self.population.part("shadow-train") if entry.given("auxiliary") else None,
            certificate=self._model().network.claims().certificate if entry.given("certificate") else None,
            **more,
        )


def same_labels(target: ServedModel, chain: Chain, predict: Predict | None = None, x: Tensor | None = None) -> None:
    """Guards that promise to keep labels must: attacks by labels ask without them. Raises ValueError.

    Held to it are all answers on target-train and target-test and, for a predictor, those on noisy views of x.
    """
    before = chain.by_label()
    if before is chain:
        return
    plain = target.behind(len(before.guards))
    both = {part: [model.answers(part) for model in (target, plain)] for part in target.parts}
    if predict is not None and x is not None:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed_of("noisy views", target.seed)))
        views = (x + _NOISE * noise).clamp(0, 1)
        both["noisy views"] = [predict(views), plain.predictor(stored=False)(views)]
    for where, (answer, bare) in both.items():
        first, second = bare.exp().topk(2).values.unbind(1)
        # Where two classes are level, the batch decides: float32 sums depend on it.
        moved = int(((answer.argmax(1) != bare.argmax(1)) & (first - second > MOVED)).sum())
        if moved:
            raise ValueError(
                f"keeps_labels: expected the labels of {before.name}, given {moved} others of {len(bare)} in {where}; "
                "a guard that changes labels must not promise to keep them"
            )


def checked_scores(scores: Any, n: int) -> Floats:
    """Hold scores to the contract: (n,) or (s, n), float64, finite. Returns (s, n)."""
    if not isinstance(scores, Tensor):
        raise ValueError(f"expected scores as a tensor, given {type(scores).__name__}")
    if scores.dtype != torch.float64:
        raise ValueError(f"expected scores of dtype float64, given {str(scores.dtype).removeprefix('torch.')}")
    if scores.ndim not in (1, 2) or scores.shape[-1] != n or scores.shape[0] == 0:
        raise ValueError(f"expected scores of shape ({n},) or (s, {n}), given {tuple(scores.shape)}")
    if scores.ndim == 2 and len(scores) > ATTACK_SEEDS:
        raise ValueError(f"expected scores of at most {ATTACK_SEEDS} attack seeds, given {len(scores)}")
    if not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).sum())
        raise ValueError(f"expected finite scores, given {bad} that are NaN or infinite")
    return scores.detach().cpu().reshape(-1, n).numpy()


def expect(value: Any, shape: tuple[int, ...], what: str) -> None:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"expected {what} of shape {shape}, given {given}")
    if not torch.isfinite(value.double()).all():
        raise ValueError(f"expected finite {what}, given NaN or infinite values")
