"""Audits a model, by a table of its answers or by itself: attacks, chance, checks, and the data of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark import __version__
from benchmark.data.population import seed_of
from benchmark.entries.registry import Part, Registry
from benchmark.errors import UserError
from benchmark.judge.risk import js_risk, margin
from benchmark.metrics import METRICS, Bools, Curve, Floats, auc_by_class, ece, thin_roc
from benchmark.run.audit import chance, question
from benchmark.run.audit.attacks import READS, Bench, Live, NotRun, Released, Scored, failed, pool
from benchmark.run.audit.parts import File
from benchmark.run.audit.predictions import Predictions
from benchmark.run.audit.report import (
    Attack,
    Audit,
    Finding,
    Group,
    Left,
    Model,
    Numbers,
    OtherKind,
    Precision,
    Recipe,
    Risk,
    Side,
    State,
    Verdict,
    Way,
    Without,
    WorstCase,
)  # fmt: skip
from benchmark.text import plain

METRIC_NAMES = ("tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "auc", "balanced_accuracy")
"""The metrics of a worst case, in the order of the report."""
PRIORS = (0.5, 0.1, 0.01)
GROUPS = 40
"""Subgroups and classes in the report at most: those with the largest AUC."""
_LEAST = 50
"""Members, and non-members, that a subgroup has at least."""
EXPOSED = 1000
"""Members in the local file of the most exposed, at most."""


class Exposed(NamedTuple):
    """Records of members, the most exposed first, with their score by the deciding attack, and that attack's name."""

    rows: NDArray[np.int64]
    """(r,): their rows in the arrays that were given; of files, in that of the members."""
    scores: Floats
    """(r,), the larger the more exposed"""
    attack: str


class Line(NamedTuple):
    """A published line from a JS distance to the balanced accuracy of an attack, with the error of what it predicts."""

    attack: str
    slope: float
    intercept: float
    error: float | None
    rows: int


THREADS = 2
"""Attacks that are run at once: each holds copies of the answers."""
Track = Callable[[Iterable[Any], str, int], Iterable[Any]]


def audit(
    given: Predictions,
    registry: Registry,
    *,
    when: str,
    seed: int = 0,
    title: str = "",
    command: str = "",
    lines: dict[str, Line] | None = None,
    track: Track = lambda items, what, total: items,
    live: Live | None = None,
    released: Released = "posteriors",
    checked: Sequence[question.Check] = (),
    recipe: Recipe | None = None,
    others: Callable[[Track], Sequence[OtherKind]] = lambda track: (),
) -> tuple[Audit, Exposed]:
    """Audit these answers, or the model that gave them. The same answers, model and seed give the same audit.

    registry: where the attacks of the pool are. when: the time that the report names. lines: by JS distance. track: shows
    progress. live: the model; None for answers alone. released: attacks that read more do not count for the verdict. checked:
    further checks. recipe: how the reference models were trained, if that was done for this audit. others: runs the other kinds of
    attack. Raises UserError where an attack's file was changed.
    """
    if released not in READS:
        raise UserError(f"released: expected one of {', '.join(READS)}, given {released!r}")
    bench = Bench(given, seed, live)
    parts, left = pool(registry, given, bench)
    draws = chance.Draws.of(given.members, bench.strata(parts), np.random.default_rng(seed_of("draws", seed)))

    def met(part: Part) -> tuple[Scored, chance.Drawn] | NotRun:
        try:
            outcome = bench.run(part)
        except UserError:
            raise
        except Exception as error:
            if live is None or part.entry.access != "white-box" or isinstance(error, InterruptedError):
                raise
            return failed(part, error)
        return outcome, chance.drawn(outcome, draws)

    met_by_name = dict(_all_met(parts, met, bench, track))
    done = [m for part in parts if not isinstance(m := met_by_name[part.name], NotRun)]
    left += [m for part in parts if isinstance(m := met_by_name[part.name], NotRun)]
    counting = [values for values in done if values[0].part.entry.access in READS[released]]
    scored, found = [outcome for outcome, _ in counting], [values for _, values in counting]
    outside = int((~given.members).sum())
    checked = [*question.checks(given, seed, chance.LEVEL), *checked]
    cases = {m: case for m in METRIC_NAMES if (case := chance.worst(found, m))}
    p = chance.chance(found, outside)
    deciding = cases["tpr_at_fpr_0.01" if outside >= 1000 else "auc"]
    attack = scored[deciding.attack]
    spread = _class_spread(attack, given, seed)
    exposed = _exposed(attack, given, deciding.reversed)
    worst = {m: _worst(case, scored) for m, case in cases.items()}
    if recipe is not None:
        recipe = recipe.model_copy(update={"without": _without(counting, checked, outside)})
    way: Way = "recipe" if recipe else "predictions" if live is None else "model"
    report = Audit(
        way=way, released=released, recipe=recipe,
        title=title or ((recipe.file if recipe else "A model's answers") if live is None else live.model.name), tool=__version__, when=when, command=command, seed=seed,
        files=[File(name=s.name, bytes=s.bytes, sha256=s.sha256) for s in given.sources],
        verdict=_verdict(worst, p, checked, scored, outside), model=_model(given, live),
        checks=[Finding(name=c.name, state=c.state, found=c.found, effect=c.effect) for c in checked],
        attacks=[_attack(s, d, given, released) for s, d in done],
        left=[Left(name=x.name, title=x.title, reason=x.reason) for x in left],
        worst=worst, **_band(int(given.members.sum()), outside, seed),
        precision=_precision(worst.get("tpr_at_fpr_0.01")), groups=_groups(attack, given, deciding.reversed, seed),
        class_spread=spread[0], class_spread_null=spread[1],
        risks=_risks(given, lines or {}, worst.get("balanced_accuracy"), seed), exposed=len(exposed.rows),
        others=list(others(track)),
    )  # fmt: skip
    return report, exposed


def _without(
    counting: Sequence[tuple[Scored, chance.Drawn]], checked: Sequence[question.Check], outside: int
) -> Without:
    """The outcome by the attacks that need no reference models."""
    scored, found = zip(*((s, d) for s, d in counting if not s.calibrated), strict=True)
    p = chance.chance(found, outside)
    state: State = "unclear" if any(question.broken(checked)) else "leaks" if p <= chance.LEVEL else "chance"
    cases = {m: case for m in METRIC_NAMES if (case := chance.worst(found, m))}
    return Without(state=state, p=p, worst={m: _worst(case, scored) for m, case in cases.items()})


def _all_met(
    parts: Sequence[Part], met: Callable[[Part], Any], bench: Bench, track: Track
) -> Iterable[tuple[str, tuple[Scored, chance.Drawn] | NotRun]]:
    """What became of each attack, by its name. Progress is shown by what they cost, the costliest first."""
    parts = sorted(parts, key=bench.passes, reverse=True)
    passes = max(1, sum(map(bench.passes, parts)))
    steps = [1 + 100 * bench.passes(part) // passes for part in parts]
    for part in parts:  # one after the other: a thread would find a module that another is still importing
        part.entry.load()
    model = bench.live.model if bench.live else None
    what, total = ("attacks" if model is None else "attacks, by cost"), sum(steps)

    def shown(results: Iterable[Any]) -> list[tuple[str, Any]]:
        done = (
            (part.name, result) if i == 0 else None
            for part, count, result in zip(parts, steps, results, strict=True)
            for i in range(count)
        )
        return [pair for pair in track(done, what, total) if pair]

    if (
        model is not None and model.isolation is not None
    ):  # a sandbox does one thing at a time, and ends with its thread
        return shown(map(met, parts))
    with ThreadPoolExecutor(THREADS) as executor:  # NumPy and PyTorch let go of the interpreter
        try:
            return shown(executor.map(met, parts))
        except BaseException:
            if model is not None:
                model.stop()
            raise


def _worst(case: chance.Worst, scored: Sequence[Scored]) -> WorstCase:
    return WorstCase(
        value=case.value, low=case.low, high=case.high, null=case.null, p=case.p, attack=scored[case.attack].part.name,
        reversed=case.reversed,
    )  # fmt: skip


def _attack(scored: Scored, drawn: chance.Drawn, given: Predictions, released: Released) -> Attack:
    members, card = given.members[scored.rows], scored.part.entry.card
    curves = [Curve.of(row, members, ~members) for row in scored.scores]
    curve = sorted(curves, key=lambda c: float(c.auc()))[len(curves) // 2]
    fpr, tpr = thin_roc(curve.fp / curve.fp[-1], curve.tp / curve.tp[-1])
    return Attack(
        name=scored.part.name, title=card.title if card else "", reference=card.reference if card else "",
        calibrated=scored.calibrated, learns=scored.fitted, access=scored.part.entry.access,  # type: ignore[arg-type]
        counts=scored.part.entry.access in READS[released], queries=scored.queries, members=int(members.sum()), nonmembers=int((~members).sum()),
        metrics={name: Numbers(**drawn.value(name)._asdict()) for name in drawn.observed if name != "auc_reversed"},
        fpr=fpr.tolist(), tpr=tpr.tolist(),
    )  # fmt: skip


def _verdict(
    worst: dict[str, WorstCase], p: float, checked: Sequence[question.Check], scored: Sequence[Scored], outside: int
) -> Verdict:
    """The sentence that the report begins with: of the metrics that were tested, the one that tells most about the outcome."""
    leaks, attacks = p <= chance.LEVEL, len(scored)
    tested = [m for m in ("tpr_at_fpr_0.01", "auc", "tpr_at_fpr_0.001") if m in worst and chance.tested(m, outside)]
    if leaks:
        clear = [m for m in tested if worst[m].p <= chance.LEVEL]
        metric = clear[0] if clear else min(tested, key=lambda m: worst[m].p)
    else:
        metric = max(tested, key=lambda m: worst[m].p)
    case, said = worst[metric], {"p": p, "level": chance.LEVEL}
    measured = _measured(metric, case)
    if (case.value > case.null) == leaks:
        measured += f"; by chance alone at most {_amount(metric, case.null)}"
    else:  # one metric alone looks otherwise than all together
        measured += f"; over all metrics together chance goes as far in {p:.1%} of audits"
    if bad := list(question.broken(checked)):
        which = "An attack tells" if leaks else "No attack tells"
        return Verdict(
            state="unclear", sentence=f"It is unclear what the model leaks: {bad[0].why}. "
            f"{which} members from non-members better than chance: {measured}.",
            more=" ".join(f"{c.name}: {c.found} {c.effect}" for c in bad), **said,
        )  # fmt: skip
    if leaks:
        verb = "reaches" if metric == "auc" else "finds"
        return Verdict(
            state="leaks", sentence=f"The model leaks who was in its training data: the attack {case.attack} {verb} {measured}.",
            more=f"Over all {attacks} attacks p is {p:.2g}. The strongest counts, and the interval allows for the choice. Better attacks may find more.", **said,
        )  # fmt: skip
    excluded = " and ".join(
        f"more than {worst[m].high:.1%} of the members found at {_RATES[m]} false alarms" if m in _RATES else f"an AUC above {worst[m].high:.3f}"
        for m in tested
    )  # fmt: skip
    stronger = "" if any(s.calibrated for s in scored) else ", such as ones with reference models,"
    return Verdict(
        state="chance", sentence=f"None of {attacks} attacks tells members from non-members better than chance: the strongest reaches {measured}.",
        more=f"Excluded (95 %, by these attacks): {excluded}. Stronger attacks{stronger} may find more.", **said,
    )  # fmt: skip


_RATES = {"tpr_at_fpr_0.01": "1 %", "tpr_at_fpr_0.001": "0.1 %"}


def _amount(metric: str, value: float) -> str:
    return f"{value:.{2 if metric == 'tpr_at_fpr_0.001' else 1}%}" if metric in _RATES else f"{value:.3f}"


def _measured(metric: str, case: WorstCase) -> str:
    value, low, high = (_amount(metric, v) for v in (case.value, case.low, case.high))
    what = f"{value} of the members at {_RATES[metric]} false alarms" if metric in _RATES else f"an AUC of {value}"
    return f"{what} (95 %: {low} to {high})"


def _model(given: Predictions, live: Live | None) -> Model:
    right = given.log_posteriors.argmax(1) == given.y
    loss = np.logaddexp(0, -margin(given.log_posteriors, given.y))
    inside, outside = (
        Side(count=int(side.sum()), accuracy=float(right[side].mean()), loss=float(min(np.median(loss[side]), 1e3)))
        for side in (given.members, ~given.members)
    )
    answers = given.log_posteriors[~given.members]
    itself: dict[str, Any] = {}
    if live is not None:
        model = live.model
        itself = {
            "network": plain(model.name, 120),
            "parameters": model.parameters,
            "shape": list(model.shape),
            "mean": list(model.mean),
            "std": list(model.std),
            "isolated": model.isolation is not None,
        }
    return Model(
        **itself, classes=given.classes, form=given.form, members=inside, nonmembers=outside, ece=ece(answers, given.y[~given.members]),
        references=0 if given.references is None else len(given.references),
    )  # fmt: skip


def _band(inside: int, outside: int, seed: int) -> dict[str, Any]:
    """The null band of a ROC curve: of the members above the (r + 1)-th non-member, where all orders are equally likely.

    The order statistic of uniform scores is a beta variable, and so many members above it a binomial one.
    """
    rates = np.unique(np.r_[np.geomspace(1 / outside, 1, 40).clip(max=1 - 1 / outside), 0.5])
    rng, limit = np.random.default_rng(seed_of("band", seed)), np.floor(rates * outside + 1e-9).astype(np.int64)
    above = rng.beta(limit + 1, outside - limit, (4000, len(rates)))
    tprs = rng.binomial(inside, above) / inside
    low, high = np.quantile(tprs, (chance.LEVEL / 2, 1 - chance.LEVEL / 2), axis=0)
    return {"band_fpr": rates.tolist(), "band_low": low.tolist(), "band_high": high.tolist()}


def _precision(case: WorstCase | None) -> list[Precision]:
    """Positive predictive values at 1 % FPR, by Bayes' rule."""
    if case is None or case.p > chance.LEVEL:
        return []  # what chance gives says nothing of an attacker
    values = {p: [p * t / (p * t + (1 - p) * 0.01) for t in (case.value, case.low, case.high)] for p in PRIORS}
    return [Precision(prior=p, value=v, low=low, high=high) for p, (v, low, high) in values.items()]


def _oriented(scored: Scored, reversed_: bool) -> Floats:
    """Scores (s, m), higher for members by the sign that was chosen."""
    return -scored.scores if reversed_ else scored.scores


def _groups(scored: Scored, given: Predictions, reversed_: bool, seed: int) -> list[Group]:
    """The AUC of an attack within each subgroup and each class that is large enough, the largest first."""
    members, scores = given.members[scored.rows], _oriented(scored, reversed_)
    kinds = [*given.groups.items(), ("class", given.y.astype(str))]  # a group may be named so, too
    found = []
    for of, values in kinds:
        names, codes = np.unique(values[scored.rows], return_inverse=True)
        inside, outside = np.bincount(codes, members), np.bincount(codes, ~members)
        for code in np.flatnonzero((inside >= _LEAST) & (outside >= _LEAST)):
            mine = codes == code
            aucs = [_auc_interval(row[mine], members[mine]) for row in scores]
            auc, half = np.mean(aucs, axis=0)
            found.append(Group(
                of=of, name=plain(str(names[code]), 60), members=int(inside[code]), nonmembers=int(outside[code]), auc=auc,
                low=max(0.0, auc - half), high=min(1.0, auc + half),
            ))  # fmt: skip
    return sorted(found, key=lambda g: (-g.auc, g.of, g.name))[:GROUPS]


def _auc_interval(scores: Floats, members: Bools) -> tuple[float, float]:
    """AUC and the half-width of its 95 % interval: the variance of placements (DeLong et al. 1988), for subgroups are many."""
    order = np.sort(scores[~members]), np.sort(scores[members])
    placed = [
        (np.searchsorted(other, mine, "left") + np.searchsorted(other, mine, "right")) / 2 / len(other)
        for mine, other in ((scores[members], order[0]), (scores[~members], order[1]))
    ]
    variance = sum(v.var(ddof=1) / len(v) for v in placed)
    return float(placed[0].mean()), 1.96 * float(np.sqrt(variance))


def _class_spread(scored: Scored, given: Predictions, seed: int) -> tuple[float | None, float | None]:
    """How the AUC spreads over the classes, and 95 % quantile where records are given to classes at random."""
    members, y = given.members[scored.rows], given.y[scored.rows]

    def spread(labels: NDArray[np.int64]) -> float:
        aucs = np.mean([auc_by_class(row, members, labels, given.classes) for row in scored.scores], axis=0)
        return float(np.nanstd(aucs, ddof=1)) if np.isfinite(aucs).sum() > 1 else float("nan")

    observed = spread(y)
    if not np.isfinite(observed):
        return None, None
    rng = np.random.default_rng(seed_of("classes", seed))
    return observed, float(np.quantile([spread(rng.permutation(y)) for _ in range(20)], 0.95))


def _risks(given: Predictions, lines: dict[str, Line], case: WorstCase | None, seed: int) -> list[Risk]:
    inside, rng = given.members, np.random.default_rng(seed_of("risk", seed))
    found = js_risk(given.log_posteriors[inside], given.y[inside], given.log_posteriors[~inside], given.y[~inside], rng)
    return [
        Risk(
            measure=METRICS[name].label, distance=found[name], null=found[f"{name}_null"], attack=line.attack,
            predicted=min(1.0, line.slope * found[name] + line.intercept), error=line.error, rows=line.rows,
            measured=case.value if case else None,
        )
        for name, line in lines.items()
    ]  # fmt: skip


def _exposed(scored: Scored, given: Predictions, reversed_: bool) -> Exposed:
    """The members whose scores lie above those of 99 % of the non-members, the highest first."""
    scores, members = _oriented(scored, reversed_).mean(0), given.members[scored.rows]
    limit = np.quantile(scores[~members], 0.99, method="higher")
    rows = np.flatnonzero(members & (scores > limit))
    rows = rows[np.argsort(-scores[rows], kind="stable")][:EXPOSED]
    return Exposed(scored.rows[rows], scores[rows], scored.part.name)
