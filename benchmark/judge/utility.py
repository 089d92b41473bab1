"""Utility and cost of a target as it is served, and what is measured of its leakage without an attack."""

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
from benchmark.judge.scenario import MOVED, Measurements, same_labels
from benchmark.networks.access import exact_float32
from benchmark.result import Claim
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.network import Network
from benchmark.targets.served import ServedModel

PUBLIC_NOISE = "holds on a secret split: here anybody can draw the noise again"
"""Printed beside an epsilon on a public split."""

_TIMED_IMAGES = 256
"""Images in the call that is timed."""

_MAX_MOVED_SHARE = 0.05
"""The largest share of samples whose posteriors may move by more than `MOVED` when they are queried again."""

_TIMED_SINGLES = 5
"""Calls with one image that are timed; the median counts."""

_ATTACKED = 1000
"""The most samples of a part on which robust accuracy is measured; from a larger part as many are drawn."""


def utility(artifacts: Artifacts, chain: Chain, seed: int) -> Measurements:
    """Accuracy, risk, robustness, cost and claims of a defense, on all of target-train and target-test.

    Raises ValueError where the target breaks the contract: other answers to the same query, labels that are not kept.
    """
    target = artifacts.served(chain, seed)
    parts, population = target.parts, target.population
    members, nonmembers = ((target.answers(part).numpy(), population.part(part).y.numpy()) for part in parts)
    values, intervals = reports.utility_metrics(
        *members, *nonmembers, np.random.default_rng(seed_of("bootstrap", seed))
    )
    faults = reports.worse_at_members(*members, *nonmembers)
    if chain.guards:
        stages = target, target.behind(0)
        rates, guard_faults = reports.moved_answers(*(m.answers(part).numpy() for part in parts for m in stages))
        values |= rates
        faults = "; ".join(filter(None, (faults, guard_faults)))
    values |= js_risk(*members, *nonmembers, np.random.default_rng(seed_of("js", seed)))
    if len(numbers := asked_targets(artifacts, chain)) > 1:
        values["sensitivity"] = _sensitivity([artifacts.served(chain, seed, "target", k) for k in numbers])
    # From here on the target is queried like attacks query it, in calls of the same sizes, so that it can't tell.
    predict = target.predictor(kept=False)
    lookup = _lookup(target, predict)
    rng = np.random.default_rng(seed_of("again", seed, secret=artifacts.secret))
    x = torch.cat([population.part(part).x for part in parts])
    fresh = near_duplicates(x[torch.from_numpy(rng.permutation(len(x))[:_TIMED_IMAGES])], _generator(rng))
    same_labels(target, chain, predict, fresh)
    cost = {"train_seconds": target.network.seconds(), "ms_per_query": _milliseconds(predict, fresh)}
    singles = near_duplicates(fresh[:_TIMED_SINGLES], _generator(rng)).split(1)
    cost["ms_per_query_alone"] = float(np.median([_milliseconds(predict, image) for image in singles]))
    claims = target.network.claims()
    printed = _claims(target.network, chain, claims)
    robust_values, robust_intervals = _robustness(target.network, claims)
    values |= robust_values
    intervals |= robust_intervals
    values |= lookup.metrics
    intervals["near_duplicate_gap"] = lookup.interval
    if lookup.looks_up:
        printed["lookup"] = f"members get answers that their near-duplicates don't get ({lookup})"
    if faults:
        printed["alone"] = faults
    return Measurements(values, intervals, cost, claims=printed)


def asked_targets(artifacts: Artifacts, chain: Chain) -> range:
    """The numbers of the targets whose answers utility reads: the first; and, for sensitivity, all others where there are two pairs."""
    numbers = artifacts.targets(chain)
    return numbers if artifacts.protocol.pair == 2 and len(numbers) >= 4 else range(1)


def _sensitivity(targets: list[ServedModel]) -> float:
    """How much more confident in its label a target is of a sample for having been trained on it (`metrics.sensitivity`)."""
    population, parts = targets[0].population, targets[0].parts
    y = torch.cat([population.part(part).y for part in parts]).unsqueeze(1)
    rows = np.concatenate([population.rows(part) for part in parts])
    answers = [torch.cat([target.answers(part) for part in parts]) for target in targets]
    confidences = np.stack([each.gather(1, y).squeeze(1).exp().numpy() for each in answers])
    members = np.stack([np.isin(rows, population.indices("target", target.network.number)) for target in targets])
    return metrics.sensitivity(confidences, members)


def _milliseconds(predict: Predict, x: Tensor) -> float:
    """Milliseconds per image of one call with images (n, c, h, w); new ones, for known answers are stored."""
    start = time.perf_counter()
    predict(x)
    return (time.perf_counter() - start) * 1000 / len(x)


def _same_again(stored: Tensor, again: Tensor) -> None:
    """Raises ValueError where answers (n, k) to the same images differ: they must not depend on earlier queries."""
    moved = (stored.exp() - again.exp()).abs().amax(1)
    # A guard that picks one of its own reconstructions may pick another one on a rare sample: float32 sums depend on
    # the batch.
    if float((moved > MOVED).double().mean()) > _MAX_MOVED_SHARE:
        raise ValueError(
            f"expected the same answer to the same query, given posteriors that move by {float(moved.max()):.3g} "
            "when samples are asked again in another order; a guard must not depend on what it was asked before"
        )


def _lookup(target: ServedModel, predict: Predict) -> LookupGap:
    """The lookup gap of walks from random members and non-members: not the first ones, whose order a defense may know.

    Raises ValueError where originals are answered differently from the stored answers, which attacks get. The walks
    begin at the stored answers.
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


def _robustness(bare: Network, claims: Claims) -> reports.Estimates:
    """Robust and certified accuracy of the network without guards, by the radii that its defense claims.

    Nothing where it claims none, or where the judge cannot build the network.
    """
    radius, certificate = claims.robust, claims.certificate
    network = bare.judge_copy() if radius is not None or certificate is not None else None
    if network is None:
        return {}, {}
    network = network.to(bare.experiment.device)
    correct: dict[str, Tensor] = {}
    seed = seed_of("robustness", bare.seed, secret=bare.experiment.secret)
    with exact_float32():
        if radius is not None:
            rng, start_rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
            for name, part in (("robust_accuracy", "target-test"), ("robust_train_accuracy", "target-train")):
                samples = bare.population.part(part)
                rows = torch.from_numpy(rng.permutation(len(samples))[:_ATTACKED])
                correct[name] = robustness.robust(network, samples.x[rows], samples.y[rows], radius, start_rng)
        if certificate is not None:
            test = bare.population.part("target-test")
            correct["certified_accuracy"] = robustness.certified(network, test.x, test.y, certificate)
    rng = np.random.default_rng(seed_of("bootstrap", bare.seed))
    return reports.shares({name: rows.double().numpy() for name, rows in correct.items()}, rng)


def _extra_data(network: Network, chain: Chain) -> str:
    """Data that a defense reads besides its training set, "320 reference images, external model NAME"; "" for none."""
    reference, validation = network.population.reference("target")
    sizes = {"reference": len(reference), "validation": len(validation)}
    used = {name for part in chain.parts for name in part.uses}
    if network.experiment.recipe(network.training, "target").early_stopping:
        used.add("validation")
    models = dict.fromkeys(name for part in chain.parts for name in part.pretrained)
    images = [f"{sizes[name]} {name} images" for name in sorted(used)]
    return ", ".join([*images, *(f"external model {name}" for name in models)])


def _claims(network: Network, chain: Chain, claims: Claims) -> dict[Claim, str]:
    """What the row says in words: epsilon, or why none is valid (RULES 29), radii, extra data (RULES 6), and the
    adaptive attack that is known against the defense and is not here (RULES 13)."""
    printed: dict[Claim, str] = {}
    if missing_attacks := [part.entry.adaptive_attack for part in chain.parts if part.entry.adaptive_attack]:
        printed["attacked_by"] = f"standard attacks only: no {', no '.join(missing_attacks)}"
    verbatim: dict[Claim, float | str | None] = {"robust": claims.robust, "certificate": claims.certificate}
    if claims.epsilon is not None:
        n = len(network.population.parts["target-train"])
        guards_read_no_data = all(g.entry.data_independent for g in chain.guards)
        fault = metrics.epsilon_fault(claims.epsilon, vars(claims), n, alone=guards_read_no_data)
        printed["epsilon"] = fault or metrics.upper_text(claims.epsilon)
        if not fault and network.experiment.secret is None:
            # Its generator is seeded from names that everybody knows (RULES 29).
            printed["noise"] = PUBLIC_NOISE
        verbatim |= {"delta": claims.delta, "accountant": claims.accountant, "adjacency": claims.adjacency}
        verbatim |= {"sampling": claims.sampling}
    printed |= {name: f"{v:g}" if isinstance(v, float) else str(v) for name, v in verbatim.items() if v is not None}
    if extra := _extra_data(network, chain):
        printed["extra_data"] = extra
    return printed
