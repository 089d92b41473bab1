"""Scores one scenario: runs the attack on the target, then holds its scores against the labels.

The attack sees a target behind its access level, the knowledge that it declared, and shuffled
candidates. Membership labels, thresholds and metrics stay here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.api import Knowledge, Predict, World
from benchmark.api.terms import Make
from benchmark.data.population import digest_of, seed_of
from benchmark.entries.registry import Chain, Entry, Part
from benchmark.metrics import Floats
from benchmark.networks.access import GuardedTarget
from benchmark.protocol import OWN_GUARDS
from benchmark.result import Claim, Picture
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.served import ServedModel
from benchmark.targets.store import digest

OUT_OF_MODEL = "a guard is outside the threat model: the attack reads the raw network"
NO_STATE = "not applicable: no guard here holds anything of the target's world, so that the attack is its default"


MOVED = 1e-3
"""The largest change of a posterior that is allowed when a sample is queried again."""

ATTACK_SEEDS = 100
"""The most attack seeds, which are rows of scores: the judge resamples each of them."""

_VIEW_NOISE = 0.1
"""Standard deviation of the pixel noise in the noisy views on which labels are compared."""


class Skip(Exception):
    """The scenario does not apply; the message is the reason."""


@dataclass
class Measurements:
    """What was measured in a scenario.

    Each field becomes the field of this name in the `Result`; None leaves it out.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    cost: dict[str, float]
    roc: Any = None
    histogram: Any = None
    null_auc: tuple[float, ...] = ()
    null_tpr: tuple[float, ...] = ()
    claims: dict[Claim, str] | None = None
    pictures: dict[str, Picture] | None = None
    values: dict[str, tuple[float, ...]] | None = None
    null: bool | None = None
    """True where this run of an attack used nothing of the target: its row is a null row (`Result.null_row`)."""


@dataclass
class Scenario:
    """One attack on one defense, with one seed. A kind of attack is a subclass, in a module of `kinds/`.

    `full_chain` is the whole defense, `chain` the defense as the attack meets it (`Chain.facing`), on target `number`.
    """

    behind_guards: ClassVar[bool] = True
    """Whether it queries the target behind guards; else it reads the bare network, outside their threat model."""
    asks: ClassVar[tuple[str, ...]] = ()
    """Parts of the data on which it queries the target, besides target-train and target-test."""
    evaluator: ClassVar[bool] = False
    """Whether the judge needs evaluation classifiers of its own, trained on other data."""
    every_target: ClassVar[bool] = False
    """Whether it is scored on all targets of the protocol (`Experiment.targets`), or on target 0 alone."""

    artifacts: Artifacts
    attack: Part
    chain: Chain
    seed: int

    spared: float = field(init=False, default=0.0)
    """Seconds that stored artifacts of the attack took when they were made: part of what the attack costs."""

    def __post_init__(self) -> None:
        self.full_chain, self.population = self.chain, self.artifacts.population(self.seed)
        self._face(0)

    def score(self) -> Measurements:
        """Run the attack and judge it.

        Raises Skip where it does not apply; what the submission raises passes through.
        """
        entry = self.attack.entry
        if self.chain.guards and (entry.access == "white-box" or not self.behind_guards):
            raise Skip(OUT_OF_MODEL)
        if self.attack.adversary.guards == "target" and not any(guard.state() for guard in self._model().guards):
            raise Skip(NO_STATE)
        if self.chain.guards != self.full_chain.guards:
            same_labels(self.artifacts.served(self.full_chain, self.seed), self.full_chain)
        if entry.access == "white-box":
            self._network()
        if "certificate" in entry.needs and self._model().network.claims().certificate is None:
            raise Skip("the target carries no certificate")
        adversary = self.artifacts.protocol.adversary
        if entry.access == "white-box" and adversary and adversary.architecture:
            raise Skip("the shadow's network is not the target's: its weights say nothing of the target's")
        self._open()
        outcome = self.judge(self.artifacts.attacker(self.attack, self.seed))
        outcome.cost.setdefault("queries", float(self.target.queries))
        return outcome

    def judge(self, attack: Any) -> Measurements:
        """Run a new instance of the attack, and score what it returns against what it does not see."""
        raise NotImplementedError

    # --- What the attack is given ---

    def _face(self, number: int) -> None:
        """Have `chain` and `number` be those of the target of this number."""
        self.number, self.chain = number, self.full_chain.facing(self.attack, number)

    def _open(self, number: int = 0) -> None:
        """Set `target`, which the attack is going to query: the one of this number."""
        self._face(number)
        canaries = ["candidates"] if self.artifacts.protocol.canaries else []
        self.target = self._target("target", *self.asks, *canaries)

    def _model(self, role: str = "target") -> ServedModel:
        """The target, or the shadow model, behind the guards of `chain`."""
        return self.artifacts.served(self.chain, self.seed, role, self.number if role == "target" else 0)

    def _target(self, role: str, *asked: str) -> GuardedTarget:
        """The model of this role behind the attack's access level, with stored answers on its parts and on `asked`."""
        model, access = self._model(role), self.attack.entry.access
        known = model.known(*model.parts, *asked)
        return GuardedTarget(access, lambda x: model.predictor()(x), known, lambda: self._network(model))  # type: ignore[arg-type]

    def _network(self, model: ServedModel | None = None) -> nn.Module:
        """The target's network, or a model's, without guards and in the judge's architecture.

        Raises Skip where its weights don't fit.
        """
        network = (model or self._model()).network.judge_copy()
        if network is None:
            raise Skip("only the defense's own code can build this network")
        return network.to(self.artifacts.device)

    def _shadow(self) -> World:
        """The shadow model with its members and non-members."""
        return World(self._target("shadow"), *map(self.population.part, self._model("shadow").parts))

    def _knowledge(self, **more: Any) -> Knowledge:
        """The knowledge that the attack declared, and nothing else."""
        entry = self.attack.entry
        samples, data = self.population.samples, self.population.data
        partial = World(self.target, *map(samples, self.population.known(self.number)))
        return Knowledge(
            classes=data.classes,
            shape=data.shape,
            # Both variants of RULES 3 draw alike, so that they differ by nothing but the states of the guards.
            seed=seed_of("attack", self.seed, replace(self.attack, adversary=OWN_GUARDS).name, self.chain.name),
            device=self.artifacts.device,
            simple=data.simple,
            shadow=self._shadow() if entry.receives("shadow") else None,
            partial=partial if entry.receives("partial") else None,
            auxiliary=self.population.part("shadow-train") if entry.receives("auxiliary") else None,
            certificate=self._model().network.claims().certificate if entry.receives("certificate") else None,
            artifact=self._artifact
            if entry.needs == {"shadow"} and entry.receives("auxiliary")
            else Knowledge.artifact,
            **more,
        )

    def _artifact(self, name: str, make: Make) -> dict[str, Tensor]:
        """`Knowledge.artifact`: it serves the attacks of one file on all targets of a seed, so that nothing of a target may be in it.

        Its key covers all that the attack had been given before: the file, and the shadow world's training data.
        """
        artifacts = self.artifacts
        data = [artifacts.data_key(self.seed, "shadow"), digest_of(self.population.parts["shadow-train"])]
        stream = seed_of("artifact", name, self.seed, secret=artifacts.secret)
        key = digest("artifact", "attack", name, artifacts.source(self.attack), data, stream, artifacts.environment)

        def made() -> dict[str, Tensor]:
            self._refuse_if_asked()
            tensors = make(torch.Generator().manual_seed(stream))
            self._refuse_if_asked()
            return tensors

        self._refuse_if_asked()
        if artifacts.store.has("artifact", key):
            self.spared += float(artifacts.store.info("artifact", key)["seconds"])
        return artifacts.store.get("artifact", key, made)

    def _refuse_if_asked(self) -> None:
        if self.target.asked:
            raise PermissionError("artifact: expected to be called in fit, before the target is asked anything")


def asked_parts(asks: tuple[str, ...], entry: Entry) -> tuple[str, ...]:
    """Those of the parts `asks` (`Scenario.asks`) on which this attack queries the target.

    A null row asks nothing, and a white-box attack reads the network; who does not need the shadow world asks about none of it.
    """
    assert entry.card is not None
    if entry.card.null or entry.access == "white-box":
        return ()
    return tuple(part for part in asks if "shadow" in entry.needs or not part.startswith("shadow"))


def same_labels(target: ServedModel, chain: Chain, predict: Predict | None = None, x: Tensor | None = None) -> None:
    """Raises ValueError where guards that promise to keep labels (`keeps_labels`) change some.

    Label-only attacks query the target without these guards. Compared are the labels on target-train and target-test
    and, with `predict` and images x (n, c, h, w), those on noisy views of x.
    """
    by_label = chain.by_label()
    if by_label is chain:
        return
    plain = target.behind(len(by_label.guards))
    answers_by_part = {part: [model.answers(part) for model in (target, plain)] for part in target.parts}
    if predict is not None and x is not None:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed_of("noisy views", target.seed)))
        views = (x + _VIEW_NOISE * noise).clamp(0, 1)
        answers_by_part["noisy views"] = [predict(views), plain.predictor(stored=False)(views)]
    for part, (answer, bare) in answers_by_part.items():
        highest, second_highest = bare.exp().topk(2).values.unbind(1)
        # Where two classes are nearly equal, the label may depend on the batch, for float32 sums do.
        changed = int(((answer.argmax(1) != bare.argmax(1)) & (highest - second_highest > MOVED)).sum())
        if changed:
            raise ValueError(
                f"keeps_labels: expected the labels of {by_label.name}, given {changed} others of {len(bare)} in {part}; "
                "a guard that changes labels must not promise to keep them"
            )


def checked_scores(scores: Tensor, n: int) -> Floats:
    """Scores as an array (s, n).

    Raises ValueError unless they are finite float64, (n,) or (s, n) with s up to ATTACK_SEEDS.
    """
    if scores.dtype != torch.float64:
        raise ValueError(f"expected scores of dtype float64, given {str(scores.dtype).removeprefix('torch.')}")
    if scores.ndim not in (1, 2) or scores.shape[-1] != n or scores.shape[0] == 0:
        raise ValueError(f"expected scores of shape ({n},) or (s, {n}), given {tuple(scores.shape)}")
    if scores.ndim == 2 and len(scores) > ATTACK_SEEDS:
        raise ValueError(f"expected scores of at most {ATTACK_SEEDS} attack seeds, given {len(scores)}")
    if not torch.isfinite(scores).all():
        not_finite = int((~torch.isfinite(scores)).sum())
        raise ValueError(f"expected finite scores, given {not_finite} that are NaN or infinite")
    return scores.detach().cpu().reshape(-1, n).numpy()


def expect(value: Any, shape: tuple[int, ...], what: str) -> None:
    """Raises ValueError, which names the value `what`, unless it is a finite tensor of this shape."""
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        actual = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"expected {what} of shape {shape}, given {actual}")
    if not torch.isfinite(value.double()).all():
        raise ValueError(f"expected finite {what}, given NaN or infinite values")
