"""The registry of metrics (name, direction, range, help text), and the ROC curve and other functions that compute them.

The names here are the names in records, MLflow, tables and the app; column help is `METRICS[name].help`.

n scores, higher for members; `members` (n,) bool says which samples are members. No threshold separates equal scores,
so they are always called members together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Metric:
    """leaks "up": a larger value means more leakage; "down": less; "none": utility or neutral.

    A record with a value outside [low, high] is refused (`result.Result.from_json`). Where a metric has no largest value, `high`
    is far beyond all that can be measured. `main`: the app compares entries by it. `whole`: it is a whole number. `table`: the
    kind of attack whose table has it as a column, in the order of the registry; outside membership the first one ranks.
    """

    name: str
    label: str
    leaks: Literal["up", "down", "none"]
    low: float
    high: float
    help: str
    main: bool = False
    whole: bool = False
    table: str = ""


def _registry() -> dict[str, Metric]:
    rows = [
        Metric("tpr_at_fpr_0.01", "TPR at 1 % FPR", "up", 0, 1,
               "Share of members found while at most 1 % of non-members are called members. "
               "Needs 100 non-members; ranked from 1,000.", True, table="membership"),
        Metric("auc", "AUC", "up", 0, 1, "Area under the ROC curve; 0.5 is chance.", True, table="membership"),
        Metric("tpr_at_fpr_0.001", "TPR at 0.1 % FPR", "up", 0, 1,
               "As TPR at 1 % FPR, at 0.1 %. Needs 1,000 non-members; ranked from 10,000."),
        Metric("tpr_at_fpr_0.01_reversed", "TPR at 1 % FPR, sign reversed", "up", 0, 1,
               "TPR at 1 % FPR of the negated scores: AUC under 0.5 is leakage too."),
        Metric("tnr_at_fnr_0.001", "TNR at 0.1 % FNR", "up", 0, 1,
               "Share of non-members cleared while at most 0.1 % of members are cleared."),
        Metric("balanced_accuracy", "Balanced accuracy", "up", 0, 1,
               "Mean of TPR and TNR at the attack's threshold, found on the shadow world (or on known samples), or the attack's own rule.", table="membership"),
        Metric("balanced_accuracy_oracle", "Best balanced accuracy (oracle)", "up", 0.5, 1,
               "Best over all thresholds on the evaluated data: an upper bound that no attacker reaches."),
        Metric("advantage", "Inference advantage", "up", -1, 1,
               "TPR minus FPR at the attack's threshold (Yeom et al. 2018)."),
        Metric("precision", "Precision", "up", 0, 1,
               "Share of true members among those called members, at the attack's threshold."),
        Metric("recall", "Recall", "up", 0, 1, "Share of members called members, at the attack's threshold."),
        Metric("f1", "F1", "up", 0, 1, "Harmonic mean of precision and recall, at the attack's threshold."),
        Metric("auc_seed_sd", "AUC spread over attack seeds", "none", 0, 1,
               "Standard deviation of the AUC over the attack's own seeds on one target."),
        Metric("auc_references", "AUC over reference models", "up", 0, 1,
               "Mean AUC with every reference model as the target in turn; interval by a two-way bootstrap "
               "over models and samples."),
        Metric("class_auc", "AUC within classes", "up", 0, 1,
               "Mean over the classes of the AUC among candidates of one class; the record has each class's."),
        Metric("class_auc_sd", "Spread over classes", "none", 0, 1,
               "Standard deviation over the classes of the AUC within a class (He et al.: classes differ)."),
        Metric("class_auc_sd_null", "Spread over classes, null", "none", 0, 1,
               "95 % quantile of that spread where samples are given to the classes at random: below it is chance."),
        Metric("epsilon_lower", "Epsilon at least", "up", 0, 100,
               "Lower bound (95 %, delta 1e-5) on the epsilon of the training, from canaries of one run "
               "(Steinke et al. 2023): a claimed epsilon below it is wrong. 0 says nothing."),
        Metric("evaluator_accuracy", "Evaluation accuracy", "up", 0, 1,
               "Share of reconstructions that a separate classifier (another network, other data) "
               "gives the class asked for.", True, table="inversion"),
        Metric("second_evaluator_accuracy", "Second evaluation accuracy", "up", 0, 1,
               "Share that another separate classifier (a third network, on data of its own) gives the class asked for. Where "
               "one evaluator is far above the other, it is fooled.", table="inversion"),
        Metric("both_evaluators", "Both evaluators", "up", 0, 1,
               "Share that both classifiers give the class asked for.", table="inversion"),
        Metric("both_evaluators_members", "Both evaluators, members", "none", 0, 1,
               "Share of the target's real members that both classifiers give their class: what perfect reconstructions get."),
        *(Metric(f"{name}_top5", f"{label}, top 5", "up", 0, 1,
                 "Share of reconstructions whose class is among the five that the classifier finds likeliest. For data of more "
                 "than ten classes.")
          for name, label in (("evaluator", "Evaluation accuracy"), ("second_evaluator", "Second evaluation accuracy"))),
        Metric("nearest_is_member", "Nearer to a member", "up", 0, 1,
               "Share of reconstructions that are nearer to a member of their class than to any of as many non-members. 0.5: "
               "they show the class, and no member.", table="inversion"),
        Metric("nearest_member_distance", "Distance to a member", "down", 0, 1,
               "Root mean square pixel error in [0, 1] between a reconstruction and the nearest member of its class.",
               table="inversion"),
        Metric("nearest_nonmember_distance", "Distance to a non-member", "none", 0, 1,
               "The same to the nearest of as many non-members of its class.", table="inversion"),
        Metric("mse_to_class_mean", "MSE to the class mean", "down", 0, 1,
               "Pixel error in [0, 1] between a reconstruction and its class's mean image, averaged "
               "over classes.", True, table="inversion"),
        Metric("ssim_to_class_mean", "SSIM to the class mean", "up", -1, 1,
               "Structural similarity of a reconstruction and its class's mean image, averaged over classes.", table="inversion"),
        Metric("frechet_distance", "Frechet distance", "down", 0, 1e9,
               "Squared Frechet distance between Gaussians of the evaluation classifier's features of reconstructions and of "
               "members, covariances shrunk. Features have no unit: compare within a seed.", table="inversion"),
        Metric("frechet_distance_null", "Frechet distance, real images", "none", 0, 1e9,
               "The same of non-members, as many of each class as there are reconstructions: what real images of the classes get."),
        Metric("feature_distance", "Feature distance to a member", "down", 0, 1e9,
               "Distance in the evaluation classifier's features between a reconstruction and the nearest member of its class "
               "(Zhang et al.: KNN distance)."),
        Metric("attribute_accuracy", "Attribute accuracy", "up", 0, 1,
               "Share of target-test samples whose attribute is inferred.", True, table="attribute"),
        Metric("attribute_balanced_accuracy", "Attribute balanced accuracy", "up", 0, 1,
               "Mean over the attribute's values of the share inferred: always guessing one value has 1 / their number.",
               table="attribute"),
        Metric("attribute_macro_f1", "Attribute macro F1", "up", 0, 1,
               "Mean over the attribute's values of F1, the harmonic mean of precision and recall, as ML-DOCTOR prints it."),
        Metric("attribute_majority", "Majority guess", "none", 0, 1,
               "Accuracy of always guessing the commoner value.", table="attribute"),
        Metric("agreement", "Agreement", "up", 0, 1,
               "Share of target-test samples on which the stolen copy and the target agree.", True, table="stealing"),
        Metric("stolen_accuracy", "Accuracy of the copy", "up", 0, 1, "Test accuracy of the stolen copy.", table="stealing"),
        Metric("agreement_on_errors", "Agreement where the target errs", "up", 0, 1,
               "Share of the target-test samples that the target gets wrong to which the stolen copy gives the target's very label: "
               "what a network of its own that learns the same task does not repeat. Missing where the target errs nowhere.",
               table="stealing"),
        Metric("train_accuracy", "Train accuracy", "none", 0, 1, "Accuracy of the served target on its members."),
        Metric("test_accuracy", "Test accuracy", "none", 0, 1, "Accuracy of the served target on target-test.", True),
        Metric("robust_accuracy", "Robust accuracy", "none", 0, 1,
               "Share of target-test (1,000 samples at most) on which the network, without guards, stays right under PGD: "
               "20 steps in the ball of the radius that its training aimed at."),
        Metric("robust_train_accuracy", "Robust train accuracy", "none", 0, 1,
               "As robust accuracy, on members (1,000 at most)."),
        Metric("certified_accuracy", "Certified accuracy", "none", 0, 1,
               "Share of target-test on which interval bounds prove that no image in the ball of the certified radius "
               "changes the network's right label."),
        Metric("ece", "ECE", "none", 0, 1,
               "Expected calibration error, 10 equal bins of the largest posterior, on target-test."),
        *(row for name, label in (("entropy", "entropy"), ("cross_entropy", "cross-entropy")) for row in (
            Metric(f"js_{name}", f"JS distance of {label}", "up", 0, math.sqrt(math.log(2)),
                   f"Jensen-Shannon distance (nats, 20 pooled bins) between the {label} of the target's answers on members "
                   "and on target-test: risk without an attack (He et al.)."),
            Metric(f"js_{name}_null", f"JS distance of {label}, null", "none", 0, math.sqrt(math.log(2)),
                   "95 % quantile of that distance under permuted membership: below it is chance."))),
        Metric("sensitivity", "Sensitivity", "up", 0, 1,
               "How much more confident in its label the target is of a sample that it was trained on than without it: root mean "
               "square over the samples, from pairs of targets trained on complementary halves (Song et al., figure 2, by "
               "one retraining a sample). 0 is none, whatever the accuracy."),
        Metric("near_duplicate_gap", "Near-duplicate gap", "none", -2, 2,
               "How much more an answer moves (total variation) between an image and a near-duplicate, one grey level "
               "away, than between two near-duplicates: at members less at non-members. 0 is honest, also with keyed "
               "noise; a defense that looks its members up jumps at them alone."),
        Metric("near_duplicate_order", "Near-duplicate order", "none", -1, 1,
               "Share of images at which each step to a near-duplicate moves the answer farther than each step between "
               "near-duplicates does, however little: of members less of non-members, measured in the way that tells most. "
               "0 is honest."),
        Metric("near_duplicate_members", "Near-duplicates of members", "none", 0, 1,
               "How far the answer moves (total variation) from a member to its near-duplicate."),
        Metric("near_duplicate_nonmembers", "Near-duplicates of non-members", "none", 0, 1,
               "How far the answer moves (total variation) from a non-member to its near-duplicate."),
        *(Metric(f"left_alone_{side}", f"Answers left alone, {words}", "none", 0, 1,
                 f"Share of {words} whose answer the guards leave as the network gave it: DIFFENCE does where no "
                 "reconstruction keeps the label. A difference between members and non-members leaks.")
          for side, words in (("members", "members"), ("nonmembers", "non-members"))),
        Metric("members", "Members", "none", 0, 1e9, "Members scored.", whole=True),
        Metric("nonmembers", "Non-members", "none", 0, 1e9, "Non-members scored.", whole=True),
        Metric("ms_per_query", "ms per query", "none", 0, 1e9,
               "Milliseconds that the served target takes to answer one query, in a batch of 256 where there are as many."),
        Metric("ms_per_query_alone", "ms per query alone", "none", 0, 1e9,
               "Milliseconds that the served target takes to answer one query that comes alone."),
    ]  # fmt: skip
    return {m.name: m for m in rows}


METRICS = _registry()

BY_TARGET = ("auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.01_reversed", "balanced_accuracy")
"""Metrics whose value is kept for each target: entries are compared on the targets that both have met."""

TASK_METRICS = {
    task: tuple(m.name for m in METRICS.values() if m.table == task)
    for task in dict.fromkeys(m.table for m in METRICS.values() if m.table)
}
"""The metrics that are columns in the table of each kind of attack, by the kind's name."""

COSTS = ("seconds", "queries", "peak_mb", "train_seconds", "ms_per_query", "ms_per_query_alone")
"""The names that a record's `cost` may hold. Tables look for a column first in a record's metrics, then in its costs."""


def sensitivity(confidences: Floats, members: Bools) -> float:
    """Root mean square over samples of how much the confidence rises, on average over networks, when a sample is trained on.

    confidences: (m, n) p_y of n samples by m networks, at least four; members: (m, n). Networks 2j and 2j + 1 are a pair: each sample is in
    the training set of one of them. The differences of two pairs have independent errors, so that the mean of their products estimates
    the square without bias, where the square of a difference would count the chance of training as well. 0 where it is negative.

    Song et al. 2019, section 5.2.1, leave one sample out; here, as in Feldman & Zhang 2020 (arXiv:2008.03703), half of all are left out.
    Raises ValueError for fewer networks, or pairs that are not complementary.
    """
    first, second = members[0::2], members[1::2]
    if len(members) < 4 or len(members) % 2 or not (first ^ second).all():
        raise ValueError(
            f"expected at least two pairs of networks trained on complementary halves, given {len(members)} networks"
        )
    rise = np.where(first, 1, -1) * (confidences[0::2] - confidences[1::2])
    pairs = len(rise)
    products = (rise.sum(0) ** 2 - (rise**2).sum(0)) / (pairs * (pairs - 1))
    return math.sqrt(max(0.0, float(products.mean())))


def auc_by_class(scores: Floats, members: Bools, y: NDArray[np.int64], classes: int) -> Floats:
    """Area under the ROC curve within each class (classes,), ties one half; NaN where a class lacks members or non-members.

    scores (n,), members (n,) bool, y (n,) in [0, classes).
    """
    order = np.lexsort((scores, y))
    scores, members, y = scores[order], members[order], y[order]
    begins = np.r_[True, (scores[1:] != scores[:-1]) | (y[1:] != y[:-1])]  # of a run of equal scores of one class
    run, of_run = np.cumsum(begins) - 1, y[begins]
    inside, outside = np.bincount(run, members), np.bincount(run, ~members)
    by_class = np.bincount(of_run, inside, classes), np.bincount(of_run, outside, classes)
    below = np.cumsum(outside) - outside - (np.cumsum(by_class[1]) - by_class[1])[of_run]
    wins = np.bincount(of_run, inside * (below + outside / 2), classes)
    with np.errstate(invalid="ignore"):
        areas: Floats = wins / (by_class[0] * by_class[1])
    return areas


# --- The ROC curve, for one set of samples or many resampled ones -----------------------------------


@dataclass(frozen=True)
class Curve:
    """The ROC curve as counts: true positives tp and false positives fp, (..., g + 1), at each of g + 1 thresholds.

    `values` (g,) are the distinct scores, falling. Corner 0 calls nobody a member; corner i calls those
    who score values[i - 1] or more. Leading dimensions are resamples of the same samples.
    """

    values: Floats
    tp: Floats
    fp: Floats

    @classmethod
    def of(cls, scores: ArrayLike, members: Floats | Bools, nonmembers: Floats | Bools) -> Curve:
        """From scores (n,) and how often each sample counts as a member and as a non-member, (..., n): bools, or bootstrap counts.

        Raises ValueError where a score is NaN or a side is empty.
        """
        scores = np.asarray(scores, np.float64)
        if np.isnan(scores).any():
            raise ValueError("a score is NaN")
        order = np.argsort(-scores, kind="stable")
        sorted_scores = scores[order]
        ends = np.append(np.flatnonzero(sorted_scores[1:] != sorted_scores[:-1]), len(scores) - 1)
        tp, fp = (_cumulative(counts, order, ends) for counts in (members, nonmembers))
        if not (tp[..., -1].all() and fp[..., -1].all()):
            raise ValueError("the ROC curve needs members and non-members")
        return cls(sorted_scores[ends], tp, fp)

    def negated(self) -> Curve:
        """The curve of the negated scores."""
        tp, fp = (counts[..., -1:] - counts[..., ::-1] for counts in (self.tp, self.fp))
        return Curve(-self.values[::-1], tp, fp)

    def auc(self) -> Floats:
        """Area under the curve (...): the chance that a member outscores a non-member, ties one half."""
        doubled = np.einsum("...i,...i", np.diff(self.fp), self.tp[..., 1:] + self.tp[..., :-1])
        area: Floats = doubled / (2 * self.tp[..., -1] * self.fp[..., -1])
        return area

    def tpr_at(self, rate: float) -> Floats:
        """Largest TPR (...) of a corner whose FPR is at most `rate`; corners only, no interpolation."""
        limit = np.floor(rate * self.fp[..., -1:] + 1e-9)  # a count; in floating point 0.29 * 100 is below 29
        last = np.count_nonzero(self.fp <= limit, axis=-1, keepdims=True) - 1
        return (np.take_along_axis(self.tp, last, -1) / self.tp[..., -1:])[..., 0]

    def tnr_at(self, rate: float) -> Floats:
        """Largest TNR (...) of a corner whose FNR is at most `rate`."""
        negated = self.negated()
        return Curve(negated.values, negated.fp, negated.tp).tpr_at(rate)

    def balanced_accuracies(self) -> Floats:
        """Mean of TPR and TNR at each corner, (..., g + 1)."""
        return (1 + self.tp / self.tp[..., -1:] - self.fp / self.fp[..., -1:]) / 2

    def decisions(self, threshold: float) -> dict[str, Floats]:
        """Metrics (...) of the rule that scores >= threshold are members.

        Precision is 0 where nobody is called a member.
        """
        corner = np.count_nonzero(self.values >= threshold)
        tp, fp = self.tp[..., corner], self.fp[..., corner]
        positives, negatives = self.tp[..., -1], self.fp[..., -1]
        advantage = tp / positives - fp / negatives
        return {
            "balanced_accuracy": (1 + advantage) / 2,
            "advantage": advantage,
            "precision": tp / np.maximum(tp + fp, 1),
            "recall": tp / positives,
            "f1": 2 * tp / (positives + tp + fp),
        }


def _cumulative(counts: Floats | Bools, order: NDArray[np.intp], ends: NDArray[np.intp]) -> Floats:
    cumulative = np.cumsum(np.take(counts, order, -1), axis=-1, dtype=np.float64)
    if len(ends) < len(order):
        cumulative = cumulative[..., ends]
    return np.concatenate([np.zeros_like(cumulative[..., :1]), cumulative], -1)


# --- Metrics of one attack on one target -------------------------------------------------------------


def curve(scores: ArrayLike, members: ArrayLike) -> Curve:
    """The ROC curve of scores (n,) with membership labels members (n,) bool. Raises ValueError as `Curve.of` does."""
    members = np.asarray(members, bool)
    return Curve.of(scores, members, ~members)


def resolves(samples: int, rate: float) -> bool:
    """Whether so many samples resolve a rate: with fewer than 1 / rate, a single one exceeds it (RULES 15)."""
    return samples * rate >= 1 - 1e-9


def best_threshold(scores: ArrayLike, members: ArrayLike) -> float:
    """The threshold with the best balanced accuracy of the rule that scores >= threshold are members (RULES 14).

    It lies midway between the lowest score called a member and the next one below; of equally good
    thresholds it is the highest. Where it is best to call everybody a member, it is the lowest score.
    """
    roc = curve(scores, members)
    # Counts over a common denominator are integers, so that equally good corners compare equal.
    best = int(np.argmax((roc.tp * roc.fp[-1] - roc.fp * roc.tp[-1])[1:]))
    value = float(roc.values[best])
    if best + 1 == len(roc.values):
        return value
    below = float(roc.values[best + 1])
    middle = value / 2 + below / 2
    return middle if middle > below and math.isfinite(middle) else value


def thin_roc(fpr: Floats, tpr: Floats, *, logarithmic: int = 61, linear: int = 38) -> tuple[Floats, Floats]:
    """At most 1 + logarithmic + linear = 100 corners of a curve: all of them, or (0, 0), (1, 1) and what a plot shows.

    Rates spaced evenly on a logarithmic axis (1e-4 to 1) and on a linear one each keep the last corner
    that does not exceed them: the corner that `tpr_at` reports at 0.1 %, 1 % and 10 %.
    """
    if len(fpr) <= 1 + logarithmic + linear:
        return fpr, tpr
    rates = np.concatenate([np.geomspace(1e-4, 1, logarithmic), np.linspace(0, 1, linear)])
    kept = np.unique(np.append(0, np.searchsorted(fpr, rates + 1e-9, side="right") - 1))
    return fpr[kept], tpr[kept]


# --- Bounds as they are printed ---------------------------------------------------------------------


def upper_text(bound: float, digits: int = 3) -> str:
    """An upper bound in `digits` significant digits, rounded up, so that the printed bound holds, too."""
    if not math.isfinite(bound):
        return f"{bound:g}"
    # Rounds the shortest decimal of the float: 0.1 stays 0.1, though its binary value is slightly larger.
    rounded = Context(prec=digits, rounding=ROUND_CEILING).create_decimal(repr(float(bound)))
    return f"{float(rounded):.{digits}g}"


def epsilon_lacks(claims: Mapping[Any, Any], samples: int | None = None) -> list[str]:
    """The conditions of RULES 29 that the claims of an epsilon do not meet. Arguments as those of `epsilon_fault`."""
    delta = claims.get("delta")
    bound = f"delta below 1/n = {1 / samples:.2g}" if samples else "delta"
    conditions = {
        bound: delta not in (None, "") and (not samples or delta < 1 / samples),
        "accountant": claims.get("accountant"),
        "adjacency": claims.get("adjacency"),
        'sampling="Poisson"': claims.get("sampling") == "Poisson",
    }
    return [name for name, met in conditions.items() if not met]


def epsilon_fault(
    epsilon: float, claims: Mapping[Any, Any], samples: int | None = None, *, alone: bool = True, tuned: bool = False
) -> str:
    """Why an epsilon must not be printed (RULES 29); "" where it holds.

    `claims`: its delta, accountant, adjacency and sampling by name. `samples`: the size of the training set, where it is known.
    `alone`: no guard reads training data. `tuned`: hyperparameters were selected on private data.
    """
    if tuned:
        return "not valid: hyperparameters were selected on private data"
    if epsilon_lacks(claims, samples):
        return "not valid: needs delta below 1/n, accountant, adjacency and Poisson sampling"
    if not alone:
        return "not valid for the cascade: a guard reads training data"
    return "" if 0 <= epsilon <= 100 else "no meaningful guarantee"


def lower_bound(bound: ArrayLike, decimals: int = 3) -> Floats:
    """Lower bounds (...) to `decimals` decimals, rounded down, so that the printed bounds hold, too."""
    scale = 10.0**decimals
    lower: Floats = np.floor(np.asarray(bound, np.float64) * scale + 1e-9) / scale  # 0.29 * 100 is below 29
    return lower


# --- Utility -----------------------------------------------------------------------------------------


def ece(log_posteriors: ArrayLike, y: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error in [0, 1] of log-posteriors (n, k) with labels y (n,).

    Samples are binned by their largest posterior into equal bins (a, b]; the gap between accuracy and
    mean confidence is averaged over the samples (Guo et al. 2017, equation 3; 10 bins as Peng et al.).
    """
    log_posteriors = np.asarray(log_posteriors, np.float64)
    top = log_posteriors.argmax(1)
    confidence = np.exp(log_posteriors[np.arange(len(top)), top])
    bin_of = np.searchsorted(np.arange(1, bins) / bins, confidence, side="left")
    gaps = np.bincount(bin_of, (top == np.asarray(y)) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(top))


def hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """The share in [0, 1] of the unit square that points (accuracy, leakage) dominate: higher accuracy at lower leakage is better.

    The reference point is accuracy 0 at leakage 1, the worst of all, so that all fronts can be compared.
    """
    area, lowest = 0.0, 1.0
    for accuracy, leakage in sorted(points, key=lambda p: (-p[0], p[1])):
        area += accuracy * max(0.0, lowest - leakage)
        lowest = min(lowest, leakage)
    return area
