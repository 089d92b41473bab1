"""What a served target is worth and costs, and what its answers say without any attack."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from benchmark import metrics
from benchmark.api import Claims, Predict
from benchmark.data.population import seed_of
from benchmark.entries.registry import Chain
from benchmark.judge import reports, robustness
from benchmark.judge.probes import IMAGES, LookupGap, lookup_gap, near_duplicates, walk
from benchmark.judge.risk import js_risk
from benchmark.judge.scenario import MOVED, Outcome, same_labels
from benchmark.networks.access import exact_float32
from benchmark.result import Claim
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.network import Network
from benchmark.targets.served import ServedModel

PUBLIC_NOISE = "holds on a secret split: here anybody can draw the noise again"
"""Said beside an epsilon on a public split."""

_TIMED = 256
"""Queries in the call that is timed."""

_WAVER = 0.05
"""The share of samples whose answer may move by more than `MOVED` when they are asked again."""

_ALONE = 5
"""Queries of one image that are timed; the median counts."""

_ATTACKED = 1000
"""Samples of a part on which robust accuracy is measured; a larger part is drawn from."""


def utility(artifacts: Artifacts, chain: Chain, seed: int) -> Outcome:
    """What the served target is worth, on all of target-train and target-test, and what it costs."""
    target = artifacts.served(chain, seed)
    parts, population = target.parts, target.population
    members, others = ((target.answers(part).numpy(), population.part(part).y.numpy()) for part in parts)
    found, intervals = reports.utility_metrics(*members, *others, np.random.default_rng(seed_of("bootstrap", seed)))
    uneven = reports.worse_at_members(*members, *others)
    if chain.guards:
        bare = target.behind(0)
        rates, moved = reports.moved_answers(*(m.answers(part).numpy() for part in parts for m in (target, bare)))
        found |= rates
        uneven = "; ".join(filter(None, (uneven, moved)))
    found |= js_risk(*members, *others, np.random.default_rng(seed_of("js", seed)))
    # From here on the target is asked as attacks ask it: by the same way, in calls of the same sizes.
    predict = target.predictor(kept=False)
    near = _lookup(target, predict)
    rng = np.random.default_rng(seed_of("again", seed, secret=artifacts.secret))
    x = torch.cat([population.part(part).x for part in parts])
    fresh = near_duplicates(x[torch.from_numpy(rng.permutation(len(x))[:_TIMED])], _generator(rng))
    same_labels(target, chain, predict, fresh)
    cost = {"train_seconds": target.network.seconds(), "ms_per_query": _milliseconds(predict, fresh)}
    alone = near_duplicates(fresh[:_ALONE], _generator(rng)).split(1)
    cost["ms_per_query_alone"] = float(np.median([_milliseconds(predict, image) for image in alone]))
    said = target.network.claims()
    claims = _claims(target.network, chain, said)
    shares, bounds = _robustness(target.network, said)
    found |= shares
    intervals |= bounds
    found |= near.metrics
    intervals["near_duplicate_gap"] = near.interval
    if near.looks_up:
        claims["lookup"] = f"members get answers that their near-duplicates don't get ({near})"
    if uneven:
        claims["alone"] = uneven
    return Outcome(found, intervals, cost, claims=claims)


def _milliseconds(predict: Predict, x: Tensor) -> float:
    """What a query takes when these images (n, c, h, w) come in one call. They are new: nothing of them is stored."""
    start = time.perf_counter()
    predict(x)
    return (time.perf_counter() - start) * 1000 / len(x)


def _same_again(stored: Tensor, again: Tensor) -> None:
    """A target must not answer by what it was asked before, or how often. Raises ValueError."""
    moved = (stored.exp() - again.exp()).abs().amax(1)
    # A guard that picks one of its own reconstructions may waver on a rare sample, for float32 sums depend on the batch.
    if float((moved > MOVED).double().mean()) > _WAVER:
        raise ValueError(
            f"expected the same answer to the same query, given posteriors that move by {float(moved.max()):.3g} "
            "when samples are asked again in another order; a guard must not depend on what it was asked before"
        )


def _lookup(target: ServedModel, predict: Predict) -> LookupGap:
    """Walk from members and non-members, drawn from all: a defense knows the order of its training set.

    Originals must be answered as they are in the store, which is what attacks are given, and the walk begins there.
    """
    rng = np.random.default_rng(seed_of("lookup", target.seed, secret=target.experiment.secret))
    images, stored = [], []
    for part in target.parts:
        x = target.population.part(part).x
        rows = torch.from_numpy(rng.permutation(len(x))[:IMAGES])
        images.append(x[rows])
        stored.append(target.answers(part)[rows])
    answers = walk(predict, torch.cat(images), rng)
    _same_again(torch.cat(stored), answers[0])
    answers[0] = torch.cat(stored)
    return lookup_gap(answers, len(images[0]))


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**63)))


def _robustness(bare: Network, claims: Claims) -> reports.Report:
    """Robust and certified accuracy of the bare network, where its defense names a radius and the judge can build it."""
    radius, certificate = claims.robust, claims.certificate
    network = bare.judges() if radius is not None or certificate is not None else None
    if network is None:
        return {}, {}
    network = network.to(bare.experiment.device)
    right: dict[str, Tensor] = {}
    own = seed_of("robustness", bare.seed, secret=bare.experiment.secret)
    with exact_float32():
        if radius is not None:
            rng, starts = np.random.default_rng(own), torch.Generator().manual_seed(own)
            for name, part in (("robust_accuracy", "target-test"), ("robust_train_accuracy", "target-train")):
                samples = bare.population.part(part)
                rows = torch.from_numpy(rng.permutation(len(samples))[:_ATTACKED])
                right[name] = robustness.robust(network, samples.x[rows], samples.y[rows], radius, starts)
        if certificate is not None:
            test = bare.population.part("target-test")
            right["certified_accuracy"] = robustness.certified(network, test.x, test.y, certificate)
    rng = np.random.default_rng(seed_of("bootstrap", bare.seed))
    return reports.shares({name: each.double().numpy() for name, each in right.items()}, rng)


def _extra_data(network: Network, chain: Chain) -> str:
    """What the defense reads besides the training set, such as "320 reference images, external model NAME"; "" for nothing."""
    reference, validation = network.population.reference("target")
    sizes = {"reference": len(reference), "validation": len(validation)}
    used = {name for part in chain.parts for name in part.uses}
    if network.experiment.recipe(network.training, "target").early_stopping:
        used.add("validation")
    models = dict.fromkeys(name for part in chain.parts for name in part.pretrained)
    images = [f"{sizes[name]} {name} images" for name in sorted(used)]
    return ", ".join([*images, *(f"external model {name}" for name in models)])


def _claims(network: Network, chain: Chain, claims: Claims) -> dict[Claim, str]:
    """What may be printed: epsilon (RULES 29), radii, the data that it reads besides the training set (RULES 6), and
    that no attack is made for it where one is known (RULES 13)."""
    printed: dict[Claim, str] = {}
    if missing := [part.entry.adaptive_attack for part in chain.parts if part.entry.adaptive_attack]:
        printed["attacked_by"] = f"standard attacks only: no {', no '.join(missing)}"
    given: dict[Claim, float | str | None] = {"robust": claims.robust, "certificate": claims.certificate}
    if claims.epsilon is not None:
        n, alone = len(network.population.parts["target-train"]), all(g.entry.data_independent for g in chain.guards)
        fault = metrics.epsilon_fault(claims.epsilon, vars(claims), n, alone=alone)
        printed["epsilon"] = fault or metrics.upper_text(claims.epsilon)
        if not fault and network.experiment.secret is None:
            # Its generator is seeded from names that everybody knows (RULES 29).
            printed["noise"] = PUBLIC_NOISE
        given |= {"delta": claims.delta, "accountant": claims.accountant, "adjacency": claims.adjacency}
        given |= {"sampling": claims.sampling}
    printed |= {name: f"{v:g}" if isinstance(v, float) else str(v) for name, v in given.items() if v is not None}
    if extra := _extra_data(network, chain):
        printed["extra_data"] = extra
    return printed
