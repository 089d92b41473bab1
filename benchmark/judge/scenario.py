"""Scores one scenario: runs the attack on the target, then holds its scores against the labels.

The attack sees a target behind its access level, the knowledge that it declared, and shuffled
candidates. Labels, thresholds and metrics stay here.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import metrics, networks
from benchmark.api import Bank, Candidates, Claims, Embeddings, Knowledge, Predict, Samples, World
from benchmark.data.population import seed_of
from benchmark.entries.registry import Chain, Part
from benchmark.errors import Fault, printable
from benchmark.judge import reports, robustness
from benchmark.judge.bootstrap import bank_auc, epsilon_lower_bound, membership_report
from benchmark.judge.probes import IMAGES, LookupGap, lookup_gap, near_duplicates, walk
from benchmark.judge.risk import js_risk
from benchmark.metrics import Floats
from benchmark.networks.access import Answers, GuardedTarget, exact_float32
from benchmark.protocol import OWN_GUARDS
from benchmark.result import Picture
from benchmark.targets.artifacts import Artifacts

PUBLIC_NOISE = "holds on a secret split: here anybody can draw the noise again"
"""Said beside an epsilon on a public split."""
OUT_OF_MODEL = "a guard is outside the threat model: the attack reads the raw network"
NO_STATE = "not applicable: no guard here holds anything of the target's world, so that the attack is its default"


_MOVED, _WAVER = 1e-3, 0.05
"""By what a posterior may move when a sample is asked again, and the share of samples that may move by more."""

_TIMED = 256
"""Queries in the call that is timed."""

_NOISE = 0.1
"""Standard deviation of pixels in the noisy views on which labels are compared."""

_ALONE = 5
"""Queries of one image that are timed; the median counts."""

_SHOWN = 10
"""Classes of which the record keeps a reconstruction."""

_ATTACKED = 1000
"""Samples of a part on which robust accuracy is measured; a larger part is drawn from."""


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
    claims: dict[str, str] | None = None
    pictures: dict[str, Picture] | None = None
    null: bool | None = None
    """True where this run of an attack used nothing of the target."""


@dataclass
class Scenario:
    """One attack, one target."""

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
        if self.chain.guards and (entry.access == "white-box" or entry.task in ("inversion", "attribute")):
            raise Skip(OUT_OF_MODEL)
        if self.attack.adversary.guards == "target" and not self._states():
            raise Skip(NO_STATE)
        if self.chain.guards != self.served.guards:
            same_labels(self.artifacts, self.served, self.seed)
        self._open()
        if entry.access == "white-box" and self._judges(("target", 0)) is None:
            raise Skip("only the defense's own code can build this network")
        if "certificate" in entry.needs and self._certificate() is None:
            raise Skip("the target carries no certificate")
        adversary = self.artifacts.protocol.adversary
        if entry.access == "white-box" and adversary and adversary.architecture:
            raise Skip("the shadow's network is not the target's: its weights say nothing of the target's")
        attack = self.artifacts.attacker(self.attack, self.seed)
        judged = {
            "membership": self._membership,
            "inversion": self._inversion,
            "attribute": self._attribute,
            "stealing": self._stealing,
        }[entry.task]
        outcome = judged(attack)
        outcome.cost["queries"] = float(self.target.queries)
        return outcome

    # --- What the attack is given ---

    def _states(self) -> bool:
        """Whether a guard holds anything that was made in the target's world."""
        guards = range(len(self.chain.guards))
        return any(self.artifacts.guard_state(self.chain, i, self.seed, "target") for i in guards)

    def _open(self) -> None:
        self.population = self.artifacts.population(self.seed)
        canaries = ["candidates"] if self.artifacts.protocol.canaries else []
        self.target = self._target(("target", 0), ["target-train", "target-test", "shadow-train", *canaries])

    def _judges(self, model: tuple[str, int]) -> nn.Module | None:
        return self.artifacts.judges_network(self.chain.training, self.seed, model)

    def _target(self, model: tuple[str, int], parts: list[str]) -> GuardedTarget:
        # Stealing and partial knowledge ask outside the parts that every target has answered: those load on demand.
        if self.attack.entry.task != "stealing" and model[0] == "target":
            parts = [p for p in parts if p != "shadow-train"]
        known = self.artifacts.known_answers(self.chain, self.seed, model, parts)

        def predict(x: Tensor) -> Tensor:
            return self.artifacts.predictor(self.chain, self.seed, model)(x)

        def copy_network() -> nn.Module:
            network = self._judges(model)
            if network is None:
                raise Skip("only the defense's own code can build this network")
            return network.to(self.artifacts.device)

        return GuardedTarget(self.attack.entry.access, predict, known, copy_network)  # type: ignore[arg-type]

    def _shadow(self) -> World:
        target = self._target(("shadow", 0), ["shadow-train", "shadow-test"])
        return World(
            target, self.artifacts.part(self.seed, "shadow-train"), self.artifacts.part(self.seed, "shadow-test")
        )

    def _knowledge(self, **more: Any) -> Knowledge:
        needs = self.attack.entry.needs
        classes, shape = self.artifacts.shape(self.seed)
        samples = self.population.samples
        membership = self.attack.entry.task == "membership"
        known = World(self.target, samples(self.population.known_members), samples(self.population.known_nonmembers))
        return Knowledge(
            classes=classes,
            shape=shape,
            # Both variants of RULES 3 draw alike: what they differ by is what the target's guards tell.
            seed=seed_of("attack", self.seed, replace(self.attack, adversary=OWN_GUARDS).name, self.chain.name),
            device=self.artifacts.device,
            simple=self.population.data.simple,
            shadow=self._shadow() if membership and "shadow" in needs else None,
            partial=known if "partial" in needs else None,
            auxiliary=self.artifacts.part(self.seed, "shadow-train") if not membership and "shadow" in needs else None,
            certificate=self._certificate() if "certificate" in needs else None,
            **more,
        )

    def _certificate(self) -> float | None:
        return self.artifacts.claims(self.chain, self.seed).certificate

    # --- The four tasks ---

    def _prepare(self) -> tuple[Candidates, Bank | None, Knowledge]:
        access = self.attack.entry.access
        role = next((n.removeprefix("bank-") for n in sorted(self.attack.entry.needs) if n.startswith("bank-")), None)
        bank = self.artifacts.bank(self.chain, self.seed, role) if role else None
        if bank is not None:
            rows = torch.from_numpy(self.population.scored(access))
            bank = replace(bank, members=bank.members[:, rows], log_posteriors=bank.log_posteriors[:, rows])
        return self.population.presented(access), bank, self._knowledge()

    def fitted(self) -> tuple[Any, Candidates, Bank | None]:
        """A fitted membership attack, and what it is to score; for the contract checks."""
        self._open()
        attack = self.artifacts.attacker(self.attack, self.seed)
        candidates, bank, knowledge = self._prepare()
        attack.fit(knowledge)
        return attack, candidates, bank

    def _membership(self, attack: Any) -> Outcome:
        # What an attack reads from the store is not its own time.
        candidates, bank, knowledge = self._prepare()
        start = time.perf_counter()
        attack.fit(knowledge)
        scores = checked_scores(attack.score(self.target, candidates, bank), len(candidates))
        seconds = time.perf_counter() - start
        thresholds = self._thresholds(attack, bank)
        threshold = None if thresholds is None else float(thresholds[0])
        if thresholds is not None and len(thresholds) not in (1, len(scores)):
            raise ValueError(
                f"score: expected as many attack seeds as on the shadow world ({len(thresholds)}), given {len(scores)}"
            )
        if thresholds is not None and len(thresholds) > 1:  # each attack seed has a scale of its own
            scores, threshold = scores - thresholds[:, None], 0.0
        members = self.population.members[self.population.scored(self.attack.entry.access)]
        report = membership_report(
            scores,
            members,
            threshold,
            rng=np.random.default_rng(seed_of("bootstrap", self.seed)),
            resamples=self.artifacts.protocol.resamples,
            nulls=self.artifacts.protocol.nulls,
            null_rng=np.random.default_rng(seed_of("null", self.seed)),
        )
        cost = {"seconds": seconds}
        outcome = Outcome(
            report.metrics, report.intervals, cost, report.roc, report.histogram, report.null_auc, report.null_tpr
        )
        if self.artifacts.protocol.canaries:
            # Of several attack seeds the least: bounds end at 0, so that a mean would exceed it more often than one.
            outcome.metrics["epsilon_lower"] = min(epsilon_lower_bound(row, members) for row in scores)
        self._every_bank_model(candidates, bank, outcome)
        return outcome

    def _thresholds(self, attack: Any, bank: Bank | None) -> Floats | None:
        """Where each attack seed decides: on the shadow world, at 0 by the attack's own rule, or nowhere."""
        calibrate = self.attack.entry.calibrate
        if calibrate == "own":
            return np.array([np.nextafter(0.0, 1.0)])  # the rule is score > 0
        if calibrate == "none" or bank is not None or self.artifacts.protocol.canaries:
            return None  # the shadow world knows nothing of mislabelled samples
        shadow = self._shadow()
        few = self.artifacts.protocol.label_only if self.attack.entry.access == "label" else None
        sides = [
            s if few is None else Samples(s.x[: few // 2], s.y[: few // 2]) for s in (shadow.members, shadow.nonmembers)
        ]
        order = np.random.default_rng(seed_of("shadow candidates", self.seed)).permutation(sum(map(len, sides)))
        x, y = (torch.cat(both)[torch.from_numpy(order)] for both in ([s.x for s in sides], [s.y for s in sides]))
        candidates = Candidates(x, y, self.population.ids(len(y)))
        scores = checked_scores(attack.score(shadow.target, candidates, None), len(y))
        members = order < len(sides[0])
        return np.array([metrics.best_threshold(row, members) for row in scores])

    def _every_bank_model(self, candidates: Candidates, bank: Bank | None, outcome: Outcome) -> None:
        """Where a bank of the population serves the attack, each of its models is a target too (RULES 21)."""
        if bank is None or not bank.members.any():
            return
        if self.chain.guards:
            # The bank shares the shadow world's noise: as a target it would face an attacker who knows its secret.
            return
        m, rows = len(bank.members), []
        for i in range(m):
            # A fresh instance: one that has seen the whole bank would know each model by its answers.
            self.artifacts.end_job()
            attack = self.artifacts.attacker(self.attack, self.seed)
            attack.fit(self._knowledge())
            others = torch.from_numpy(self.population.apart(i, m))
            answers = Answers()
            answers.add(candidates.x, bank.log_posteriors[i])
            target = GuardedTarget(self.attack.entry.access, self._bank_model(i), answers)  # type: ignore[arg-type]
            rest = Bank(bank.members[others], bank.log_posteriors[others], _some(bank.ask, others), bank.whole)
            try:
                rows.append(checked_scores(attack.score(target, candidates, rest), len(candidates)))
            except (PermissionError, Fault) as problem:
                # No bank model gives its network away.
                if isinstance(problem, Fault) and not problem.refused:
                    raise
                return
        rng = np.random.default_rng(seed_of("bank", self.seed))
        of_seeds = [bank_auc(s, bank.members.numpy(), rng, resamples=200) for s in np.stack(rows, axis=1)]
        auc, low, high = np.mean(of_seeds, axis=0)
        outcome.metrics["auc_bank"], outcome.intervals["auc_bank"] = float(auc), (float(low), float(high))

    def _bank_model(self, k: int) -> Predict:
        return lambda x: self.artifacts.asked(self.chain, self.seed, ("online", k), x)

    def _inversion(self, attack: Any) -> Outcome:
        classes, shape = self.artifacts.shape(self.seed)
        knowledge = self._knowledge()
        start = time.perf_counter()
        attack.fit(knowledge)
        images = attack.reconstruct(self.target, list(range(classes)))
        seconds = time.perf_counter() - start
        _expect(images, (classes, *shape), "images")
        images = images.detach().to("cpu", torch.float32)
        if images.min() < 0 or images.max() > 1:
            raise ValueError(f"expected images in [0, 1], given {images.min():.4g} to {images.max():.4g}")
        train = self.artifacts.part(self.seed, "target-train")
        means = torch.stack([train.x[train.y == c].mean(0) for c in range(classes)])
        baseline = self.artifacts.chain(self.artifacts.protocol.baseline).training
        evaluator = self.artifacts.served(baseline, self.seed, ("evaluator", 0))
        found = reports.inversion_metrics(images, means)
        found["evaluator_accuracy"] = float((evaluator(images).argmax(1) == torch.arange(classes)).double().mean())
        shown = {"reconstructions": images, "class_means": means}
        pictures = {name: Picture.of(x[:_SHOWN].numpy()) for name, x in shown.items()}
        return Outcome(found, {}, {"seconds": seconds}, pictures=pictures)

    def _attribute(self, attack: Any) -> Outcome:
        network = self._judges(("target", 0))
        if network is None:
            raise Skip("only the defense's own code can build this network")
        classes, shape = self.artifacts.shape(self.seed)
        if (embedding := attack.embedding) not in ("target", "untrained"):
            raise ValueError(f"expected an embedding of target or untrained, given {printable(embedding, 40)!r}")
        if embedding == "untrained":
            protocol = self.artifacts.protocol
            network = networks.build(protocol.architecture, classes, shape, seed_of("untrained", self.seed)).eval()
        shadow, test = (self._embed(network, p) for p in ("shadow-train", "target-test"))
        knowledge = self._knowledge(embeddings=shadow)
        start = time.perf_counter()
        attack.fit(knowledge)
        guess = attack.predict(test.x)
        seconds = time.perf_counter() - start
        _expect(guess, (len(test.y),), "attribute labels")
        found, intervals = reports.attribute_metrics(
            guess.cpu().numpy(), test.attribute.numpy(), np.random.default_rng(seed_of("bootstrap", self.seed))
        )
        return Outcome(found, intervals, {"seconds": seconds}, null=embedding == "untrained" or None)

    def _embed(self, network: nn.Module, part: str) -> Embeddings:
        samples = self.artifacts.part(self.seed, part)
        network = network.to(self.artifacts.device)
        with torch.no_grad(), exact_float32():
            parts = [network.embed(x.to(self.artifacts.device)).cpu() for x in samples.x.split(500)]  # type: ignore[operator]
        rows = torch.from_numpy(self.population.parts[part])
        return Embeddings(torch.cat(parts), samples.y, self.population.data.attribute[rows])

    def _stealing(self, attack: Any) -> Outcome:
        knowledge = self._knowledge()
        queries = self.artifacts.part(self.seed, "shadow-train")
        classes, _ = self.artifacts.shape(self.seed)
        start = time.perf_counter()
        attack.fit(knowledge)
        predict = attack.steal(self.target, queries, self.artifacts.builder(self.seed))
        seconds = time.perf_counter() - start
        self.target.close()  # the copy answers for itself
        test = self.artifacts.part(self.seed, "target-test")
        copy = predict(test.x)
        _expect(copy, (len(test), classes), "the copy's answers")
        truth = self.artifacts.answers(self.chain, self.seed, ("target", 0), "target-test")
        found, intervals = reports.stealing_metrics(
            copy.argmax(1).numpy(),
            truth.argmax(1).numpy(),
            test.y.numpy(),
            np.random.default_rng(seed_of("bootstrap", self.seed)),
        )
        return Outcome(found, intervals, {"seconds": seconds})


def utility(artifacts: Artifacts, chain: Chain, seed: int) -> Outcome:
    """What the served target is worth, on all of target-train and target-test, and what it costs."""
    answers = {p: artifacts.answers(chain, seed, ("target", 0), p) for p in ("target-train", "target-test")}
    labels = {p: artifacts.part(seed, p).y for p in answers}
    found, intervals = reports.utility_metrics(
        *(answers["target-train"].numpy(), labels["target-train"].numpy()),
        *(answers["target-test"].numpy(), labels["target-test"].numpy()),
        np.random.default_rng(seed_of("bootstrap", seed)),
    )
    sides = [a for p in answers for a in (answers[p].numpy(), labels[p].numpy())]
    uneven = reports.worse_at_members(*sides)
    if chain.guards:
        bare = {p: artifacts.answers(replace(chain, guards=()), seed, ("target", 0), p) for p in answers}
        rates, moved = reports.moved_answers(*(v.numpy() for p in answers for v in (answers[p], bare[p])))
        found |= rates
        uneven = "; ".join(filter(None, (uneven, moved)))
    found |= js_risk(
        *(answers["target-train"].numpy(), labels["target-train"].numpy()),
        *(answers["target-test"].numpy(), labels["target-test"].numpy()),
        np.random.default_rng(seed_of("js", seed)),
    )
    group = artifacts.group_of(chain.training, ("target", 0))
    info = artifacts.store.info("networks", artifacts.networks_key(chain.training, seed, group))
    # From here on the target is asked as attacks ask it: by the same way, in calls of the same sizes.
    predict = artifacts.predictor(chain, seed, ("target", 0), kept=False)
    near = _lookup(artifacts, chain, predict, seed)
    rng = np.random.default_rng(seed_of("again", seed, secret=artifacts.secret))
    x = torch.cat([artifacts.part(seed, p).x for p in answers])
    fresh = near_duplicates(x[torch.from_numpy(rng.permutation(len(x))[:_TIMED])], _generator(rng))
    same_labels(artifacts, chain, seed, predict, fresh)
    cost = {"train_seconds": info["seconds"] / len(group), "ms_per_query": _milliseconds(predict, fresh)}
    cost["ms_per_query_alone"] = float(
        np.median(
            [_milliseconds(predict, image) for image in near_duplicates(fresh[:_ALONE], _generator(rng)).split(1)]
        )
    )
    said = artifacts.claims(chain, seed)
    claims = _claims(artifacts, chain, seed, said)
    shares, bounds = _robustness(artifacts, chain, seed, said)
    found |= shares
    intervals |= bounds
    found |= near.metrics
    intervals["near_duplicate_gap"] = near.interval
    if near.looks_up:
        claims["lookup"] = f"members get answers that their near-duplicates don't get ({near})"
    if uneven:
        claims["alone"] = uneven
    return Outcome(found, intervals, cost, claims=claims)


def same_labels(
    artifacts: Artifacts, chain: Chain, seed: int, predict: Predict | None = None, x: Tensor | None = None
) -> None:
    """Guards that promise to keep labels must: attacks by labels ask without them. Raises ValueError.

    Held to it are all answers on target-train and target-test and, for a predictor, those on noisy views of x.
    """
    before, model = chain.by_label(), ("target", 0)
    if before is chain:
        return
    both = {p: [artifacts.answers(c, seed, model, p) for c in (chain, before)] for p in ("target-train", "target-test")}
    if predict is not None and x is not None:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed_of("noisy views", seed)))
        views = (x + _NOISE * noise).clamp(0, 1)
        both["noisy views"] = [predict(views), artifacts.predictor(before, seed, model, stored=False)(views)]
    for where, (answer, bare) in both.items():
        first, second = bare.exp().topk(2).values.unbind(1)
        # Where two classes are level, the batch decides: float32 sums depend on it.
        moved = int(((answer.argmax(1) != bare.argmax(1)) & (first - second > _MOVED)).sum())
        if moved:
            raise ValueError(
                f"keeps_labels: expected the labels of {before.name}, given {moved} others of {len(bare)} in {where}; "
                "a guard that changes labels must not promise to keep them"
            )


def _milliseconds(predict: Predict, x: Tensor) -> float:
    """What a query takes when these images (n, c, h, w) come in one call. They are new: nothing of them is stored."""
    start = time.perf_counter()
    predict(x)
    return (time.perf_counter() - start) * 1000 / len(x)


def _same_again(stored: Tensor, again: Tensor) -> None:
    """A target must not answer by what it was asked before, or how often. Raises ValueError."""
    moved = (stored.exp() - again.exp()).abs().amax(1)
    # A guard that picks one of its own reconstructions may waver on a rare sample, for float32 sums depend on the batch.
    if float((moved > _MOVED).double().mean()) > _WAVER:
        raise ValueError(
            f"expected the same answer to the same query, given posteriors that move by {float(moved.max()):.3g} "
            "when samples are asked again in another order; a guard must not depend on what it was asked before"
        )


def _lookup(artifacts: Artifacts, chain: Chain, predict: Predict, seed: int) -> LookupGap:
    """Walk from members and non-members, drawn from all: a defense knows the order of its training set.

    Originals must be answered as they are in the store, which is what attacks are given, and the walk begins there.
    """
    rng = np.random.default_rng(seed_of("lookup", seed, secret=artifacts.secret))
    images, stored = [], []
    for part in ("target-train", "target-test"):
        x = artifacts.part(seed, part).x
        rows = torch.from_numpy(rng.permutation(len(x))[:IMAGES])
        images.append(x[rows])
        stored.append(artifacts.answers(chain, seed, ("target", 0), part)[rows])
    answers = walk(predict, torch.cat(images), rng)
    _same_again(torch.cat(stored), answers[0])
    answers[0] = torch.cat(stored)
    return lookup_gap(answers, len(images[0]))


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**63)))


def _robustness(artifacts: Artifacts, chain: Chain, seed: int, claims: Claims) -> reports.Report:
    """Robust and certified accuracy of the bare network, where its defense names a radius and the judge can build it."""
    radius, certificate = claims.robust, claims.certificate
    network = None
    if radius is not None or certificate is not None:
        network = artifacts.judges_network(chain.training, seed, ("target", 0))
    if network is None:
        return {}, {}
    network = network.to(artifacts.device)
    right: dict[str, Tensor] = {}
    own = seed_of("robustness", seed, secret=artifacts.secret)
    with exact_float32():
        if radius is not None:
            rng, starts = np.random.default_rng(own), torch.Generator().manual_seed(own)
            for name, part in (("robust_accuracy", "target-test"), ("robust_train_accuracy", "target-train")):
                samples = artifacts.part(seed, part)
                rows = torch.from_numpy(rng.permutation(len(samples))[:_ATTACKED])
                right[name] = robustness.robust(network, samples.x[rows], samples.y[rows], radius, starts)
        if certificate is not None:
            test = artifacts.part(seed, "target-test")
            right["certified_accuracy"] = robustness.certified(network, test.x, test.y, certificate)
    rng = np.random.default_rng(seed_of("bootstrap", seed))
    return reports.shares({name: each.double().numpy() for name, each in right.items()}, rng)


def _extra_data(artifacts: Artifacts, chain: Chain, seed: int) -> str:
    """What the defense reads besides the training set, such as "320 reference images, external model NAME"; "" for nothing."""
    reference, validation = artifacts.population(seed).reference("target")
    sizes = {"reference": len(reference), "validation": len(validation)}
    used = {name for part in chain.parts for name in part.uses}
    if artifacts.protocol.recipe_of("target", chain.training.axes).early_stopping:
        used.add("validation")
    models = dict.fromkeys(name for part in chain.parts for name in part.pretrained)
    return ", ".join(
        [*(f"{sizes[name]} {name} images" for name in sorted(used)), *(f"external model {name}" for name in models)]
    )


def _claims(artifacts: Artifacts, chain: Chain, seed: int, claims: Claims) -> dict[str, str]:
    """What may be printed: epsilon (RULES 29), radii, the data that it reads besides the training set (RULES 6), and
    that no attack is made for it where one is known (RULES 13)."""
    printed: dict[str, str] = {}
    if missing := [part.entry.adaptive_attack for part in chain.parts if part.entry.adaptive_attack]:
        printed["attacked_by"] = f"standard attacks only: no {', no '.join(missing)}"
    if claims.epsilon is not None:
        n = len(artifacts.population(seed).parts["target-train"])
        named = claims.accountant is not None and claims.adjacency is not None and claims.sampling == "Poisson"
        if not named or claims.delta is None or claims.delta >= 1 / n:
            printed["epsilon"] = "not valid: needs delta below 1/n, accountant, adjacency and Poisson sampling"
        elif not all(g.entry.data_independent for g in chain.guards):
            printed["epsilon"] = "not valid for the cascade: a guard reads training data"
        elif claims.epsilon > 100 or not math.isfinite(claims.epsilon):
            printed["epsilon"] = "no meaningful guarantee"
        else:
            printed["epsilon"] = metrics.upper_text(claims.epsilon)
            if artifacts.secret is None:
                # Its generator is seeded from names that everybody knows (RULES 29).
                printed["noise"] = PUBLIC_NOISE
        parts = {"delta": claims.delta, "accountant": claims.accountant, "adjacency": claims.adjacency}
        given = {**parts, "sampling": claims.sampling}
        printed |= {k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in given.items() if v is not None}
    radii = {"robust": claims.robust, "certificate": claims.certificate}
    printed |= {name: f"{radius:g}" for name, radius in radii.items() if radius is not None}
    if extra := _extra_data(artifacts, chain, seed):
        printed["extra_data"] = extra
    return printed


def checked_scores(scores: Any, n: int) -> Floats:
    """Hold scores to the contract: (n,) or (s, n), float64, finite. Returns (s, n)."""
    if not isinstance(scores, Tensor):
        raise ValueError(f"expected scores as a tensor, given {type(scores).__name__}")
    if scores.dtype != torch.float64:
        raise ValueError(f"expected scores of dtype float64, given {str(scores.dtype).removeprefix('torch.')}")
    if scores.ndim not in (1, 2) or scores.shape[-1] != n or scores.shape[0] == 0:
        raise ValueError(f"expected scores of shape ({n},) or (s, {n}), given {tuple(scores.shape)}")
    if not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).sum())
        raise ValueError(f"expected finite scores, given {bad} that are NaN or infinite")
    return scores.detach().cpu().reshape(-1, n).numpy()


def _expect(value: Any, shape: tuple[int, ...], what: str) -> None:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"expected {what} of shape {shape}, given {given}")
    if not torch.isfinite(value.double()).all():
        raise ValueError(f"expected finite {what}, given NaN or infinite values")


def _some(ask: Predict, models: Tensor) -> Predict:
    """What some models of a bank answer."""
    return lambda x: ask(x)[models]
