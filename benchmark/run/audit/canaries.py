"""Holds a claimed epsilon against the one that canaries show: guesses, bounds and verdict, as data of a report."""

from __future__ import annotations

import math

import numpy as np

from benchmark import __version__
from benchmark.errors import UserError
from benchmark.judge.bootstrap import DELTA, LEVEL
from benchmark.judge.risk import margin
from benchmark.metrics import Floats
from benchmark.run.audit import epsilon as bounds
from benchmark.run.audit.canary_report import Bound, CanaryAudit, CanaryVerdict, down
from benchmark.run.audit.canary_secret import LEAST, Secret
from benchmark.run.audit.parts import File
from benchmark.run.audit.predictions import Ints, Source

DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Deltas at which the Gaussian curve's epsilon is shown."""
ANY, PURE, GAUSSIAN = "any mechanism", "pure epsilon", "Gaussian curve"
ALL_ASSUME = (
    "Each canary was included by a fair coin of its own, whoever answered for the model did not know which, and the claim is for "
    "adding or removing one record."
)
"""What all bounds rest on."""
ASSUMES = {
    ANY: "nothing but (epsilon, delta)-DP",
    GAUSSIAN: "a trade-off curve no lower than a Gaussian mechanism's: exact for DP-SGD on full batches, approximate on subsampled ones",
    PURE: "epsilon-DP with delta 0",
}
"""What each bound rests on besides."""
SOURCES = {
    ANY: "Steinke, Nasr, Jagielski 2023, theorem 5.2",
    PURE: "Steinke, Nasr, Jagielski 2023, theorem 5.2 with delta 0",
    GAUSSIAN: "Mahloujifar, Melis, Chaudhuri 2025, algorithm 3; Dong, Roth, Su 2022, corollary 2.13",
}


def audit(
    log_posteriors: Floats,
    y: Ints,
    secret: Secret,
    *,
    delta: float = DELTA,
    claimed: float | None = None,
    when: str = "",
    title: str = "",
    command: str = "",
    sources: tuple[Source, ...] = (),
) -> CanaryAudit:
    """Audit a model by its log-posteriors (m, k) on the canaries, and their labels (m,), in the order of the planted files.

    delta: of the claim, in [0, 1). claimed: the epsilon, above 0. The score of a canary is the log-odds of its planted label, which
    sort as the losses do. Raises UserError, in one line, for answers that are not those to these canaries.
    """
    where = f"{sources[0].name}: " if sources else ""
    planted = np.array(secret.labels, np.int64)
    check(delta, claimed)
    if len(y) != len(planted):
        raise UserError(
            f"{where}expected answers to {len(planted):,} canaries, as the secret has, given {len(y):,}; is it the secret of these?"
        )
    if len(y) < LEAST:
        raise UserError(f"{where}expected at least {LEAST} canaries, given {len(y)}: fewer show nothing")
    if len(other := np.flatnonzero(y != planted)):
        raise UserError(
            f"{where}expected the canaries' labels in the order in which they were written, given {y[other[0]]} for "
            f"{planted[other[0]]} in record {other[0] + 1} ({len(other):,} like it); is it the secret of these?"
        )
    included = np.array(secret.included, bool)
    found = bounds.guess(margin(log_posteriors, y), included, secret.guesses)
    best = bounds.perfect(included, secret.guesses)
    mu = bounds.gaussian_mu(found)
    shown = []
    if delta:
        epsilon, most = (bounds.any_mechanism(g, delta) for g in (found, best))
        shown.append(_bound(ANY, delta, epsilon, most, judges=True))
        epsilon, most = (bounds.gaussian_epsilon(m, delta) for m in (mu, bounds.gaussian_mu(best)))
        shown.append(_bound(GAUSSIAN, delta, epsilon, most, judges=True))
    epsilon, most = (bounds.any_mechanism(g, 0.0) for g in (found, best))
    shown.append(_bound(PURE, 0.0, epsilon, most, judges=not delta))
    return CanaryAudit(
        title=title or "A model's canaries", tool=__version__, when=when, command=command,
        files=[File(name=s.name, bytes=s.bytes, sha256=s.sha256) for s in sources], secret=secret.digest, kind=secret.kind,
        canaries=found.canaries, included=int(included.sum()), guesses=found.made, right=found.right, confidence=LEVEL,
        assumes=ALL_ASSUME, delta=delta, claimed=claimed, p=None if claimed is None else bounds.p_value(found, claimed, delta), bounds=shown, mu=mu,
        curve=[(d, bounds.gaussian_epsilon(mu, d)) for d in DELTAS], verdict=_verdict(shown, found, claimed, delta),
    )  # fmt: skip


def check(delta: float, claimed: float | None) -> None:
    """Raises UserError for a claim that is none: before the work."""
    if not 0 <= delta < 1:
        raise UserError(f"--delta: expected 0 or more and below 1, given {delta:g}")
    if claimed is not None and not 0 < claimed < math.inf:
        raise UserError(f"--claimed-epsilon: expected a number above 0, given {claimed:g}")


def _bound(name: str, delta: float, epsilon: float, most: float, *, judges: bool) -> Bound:
    return Bound(
        name=name, source=SOURCES[name], assumes=ASSUMES[name], delta=delta, epsilon=epsilon, most=most, judges=judges
    )


def _verdict(shown: list[Bound], found: bounds.Guesses, claimed: float | None, delta: float) -> CanaryVerdict:
    judging = [b for b in shown if b.judges]
    plain, highest = judging[0], max(judging, key=lambda b: b.epsilon)
    at = f"(delta {delta:g}, {100 * LEVEL:g} % confidence)"
    right = f"{found.right:,} of {found.made:,} guesses are right"
    both = f"{down(plain.epsilon)} for any mechanism" + (f", {down(highest.epsilon)} under a Gaussian curve" if highest is not plain else "")  # fmt: skip
    if claimed is None:
        return CanaryVerdict(
            state="shown", sentence=f"Epsilon is at least {both} {at}: {right}.",
            more="Better attacks and more canaries may show more. Nothing here is an upper bound.",
        )  # fmt: skip
    if highest.epsilon > claimed:
        under = "" if plain.epsilon > claimed else " under a Gaussian curve"
        shows = plain if not under else highest
        return CanaryVerdict(
            state="refuted",
            sentence=f"Refuted{under}: epsilon is claimed to be {claimed:g} and shown to be at least {down(shows.epsilon)} {at}.",
            more=f"{right[0].upper() + right[1:]}; shown: {both}. " + (
                "For any other curve the claim stands." if under else "The proof, the accounting or the code of the training is wrong, or the coins were not fair."
            ),
        )  # fmt: skip
    more = f"{right[0].upper() + right[1:]}; shown: {both}. That is no proof of the claim: better attacks and more canaries may show more."
    if max(b.most for b in judging) <= claimed:
        more = (
            f"These canaries could not have refuted it: a model that gives all of them away would show {down(max(b.most for b in judging))} at most. "
            + (
                f"At least {bounds.needed(claimed):,} guesses are needed without a Gaussian curve. "
                if claimed < 30
                else "No audit can. "
            )
            + more
        )
    return CanaryVerdict(
        state="not refuted",
        sentence=f"Not refuted: epsilon is claimed to be {claimed:g} and shown to be at least {both} {at}.",
        more=more,
    )
