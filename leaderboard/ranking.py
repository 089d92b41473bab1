"""Results -> ranked tables. Pure functions on numpy and pandas: no torch, no files, no clock.

A defense is ranked by its worst case over the membership attacks that the protocol requires (smaller is better), an
attack by its mean over the required defenses (larger is better), within its track: no entry moves another's row. All
entries have the same seeds, so two entries are compared by their seed-paired differences. RULES 12, 14 to 21 and 26 are
applied here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.metrics import METRICS, TASK_METRICS, epsilon_fault, lower_bound, upper_text
from benchmark.result import Claim, Result, Trust
from benchmark.text import LINE, LOG, NAME, plain, plain_log
from leaderboard.comparison import Floats, compare, false_discovery_rates, interval, leave_one_out, nanmean, rank
from leaderboard.records import Records, lists, positions
from leaderboard.records import split_of as split_of

TPR, AUC = "tpr_at_fpr_0.01", "auc"
WORST = (TPR, AUC)
"""The metrics that have a worst case (RULES 16)."""
CLAIM_COLUMNS: tuple[Claim, ...] = ("extra_data", "attacked_by", "tuned")
"""Claims of a defense that are columns of its table, as text."""
FLAGS: tuple[Claim, ...] = ("alone",)
"""Findings of the judge on a defense that stay beside its rank: columns of the table if any defense has them. The
finding `lookup` takes the rank away, and is the reason."""

DISCOVERY_RATE = 0.05
"""The false discovery rate that marks a pair of defenses (Benjamini and Hochberg 1995)."""

PAIRINGS = 200
"""How many combinations of one permutation a seed the null worst case is computed on."""

RANKS = ("rank", "rank_low", "rank_high", "better_than", "worse_than")

TRUST: dict[Trust, str] = {
    "self-reported": "scored by whoever handed it in",
    "reproduced": "scored again from the same code, data and seeds, with the same numbers",
    "official": "scored on a secret split that no entry can be tuned to",
}
"""The levels of trust and their meaning, the weakest first."""

ISOLATION = {
    "trusted": "not isolated (--trust)",
    "": "not recorded",
    "reviewed": "reviewed code, in the judge's process",
    "bubblewrap": "isolated by bubblewrap",
}
"""Where the unreviewed files of a row ran, and the meaning, the weakest first. "" may be any but --trust."""


@dataclass(frozen=True)
class Board:
    """What a protocol requires of an entry before it is ranked, and what it is ranked by.

    Raises ValueError for a metric in `rank_by` that has no worst case.
    """

    required_attacks: tuple[str, ...]
    required_defenses: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    """The defense whose test accuracy the floor refers to, such as `undefended`."""
    utility_floor: float
    """The least share of the baseline's test accuracy that a ranked defense has."""
    rank_by: tuple[str, ...] = WORST
    """The ranking metric is the first of these for which there are enough samples (RULES 15)."""

    def __post_init__(self) -> None:
        if unknown := set(self.rank_by) - set(WORST):
            raise ValueError(f"rank_by knows {', '.join(WORST)}, not {', '.join(sorted(unknown))}")


# --- Results as a frame -----------------------------------------------------------------------------


def readable(result: Result) -> Result:
    """The record with all texts that are shown made plain and short (`benchmark.text`); itself if they are already."""
    limits = {"attack": NAME, "defense": NAME, "dataset": NAME, "architecture": NAME, "access": NAME, "knowledge": NAME}
    limits |= {"protocol": NAME, "protocol_digest": NAME, "reason": LINE}
    texts: dict[str, object] = {name: plain(getattr(result, name), limit) for name, limit in limits.items()}
    texts["log"] = plain_log(result.log, LOG)
    texts["claims"] = {plain(k, NAME): plain(v, NAME) for k, v in result.claims.items()}
    changed = {name: text for name, text in texts.items() if text != getattr(result, name)}
    return result.model_copy(update=changed) if changed else result


def scenarios(results: Iterable[Result]) -> pd.DataFrame:
    """One row a result, with a column for each metric and cost. Rates that the sample can't resolve are NaN (RULES 15).

    Raises ValueError for results of different protocol versions or splits, and for two results of one scenario.
    """
    records = results if isinstance(results, Records) else Records.of(map(readable, results))
    for what, seen in (
        ("protocol versions", {" ".join(v) for v in records.distinct("protocol", "protocol_digest")}),
        ("splits", {split for (split,) in records.distinct("split")}),
    ):
        if len(seen) > 1:
            raise ValueError(f"results of different {what} never share a table: {' and '.join(sorted(seen))}")
    frame = records.frame.copy(deep=False)
    twice = frame[frame.duplicated(["task", "attack", "defense", "seed"])]
    if len(twice):
        raise ValueError("one scenario is there twice: {task} {attack} {defense} seed {seed}".format(**twice.iloc[0]))
    for metric in METRICS:
        if needed := _samples_needed(metric):
            side = "members" if metric.startswith("tnr") else "nonmembers"
            frame[metric] = frame[metric].where(frame[side] >= needed)
    return frame


def with_defaults(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame, with the default attack's row in place of each skipped row of its variant `guards=target`.

    The variant is skipped on targets whose guards hold nothing trained or drawn in the target's world: there it is the
    default attack, so it has its scores (RULES 3, 12). Where the default was not scored either, nothing changes.
    """
    variants = {a: d for a in frame.attack.unique() if (d := default_variant(a)) != a}
    if not variants:
        return frame
    rows = list(zip(frame.attack, frame.task, frame.defense, frame.seed, strict=True))
    scored = {rows[i]: i for i in np.flatnonzero((frame.status == "ok") & frame.attack.isin(list(variants.values())))}
    order = np.arange(len(frame))
    for i in np.flatnonzero((frame.status == "skipped") & frame.attack.isin(list(variants))):
        attack, *where = rows[i]
        order[i] = scored.get((variants[attack], *where), i)
    return frame.iloc[order].set_axis(frame.index).assign(attack=frame.attack, track=frame.track)


def default_variant(attack: str) -> str:
    """An attack's name without `guards=target`, which is always the last hyperparameter of a canonical name."""
    return attack.replace("[guards=target]", "").replace(",guards=target]", "]")


def defaults_first(attacks: Iterable[str]) -> list[str]:
    """The attacks by name, a default before its variant `guards=target`: of equally strong ones the first decides."""
    return sorted(attacks, key=lambda a: (default_variant(a), a != default_variant(a)))


def _samples_needed(metric: str) -> int:
    """Least number of samples for a rate to be shown, 1/rate; with ten times as many it may be ranked (RULES 15)."""
    rate = re.match(r"t[pn]r_at_f[pn]r_([\d.]+)", metric)
    return round(1 / float(rate[1])) if rate else 0


def rank_metric(frame: pd.DataFrame, board: Board) -> str:
    """The first metric of `board.rank_by` for which the smallest sample of non-members is large enough, else AUC.

    Only what the protocol requires counts (where there is some): no other entry's sample changes what everybody is ranked by.
    """
    scored = frame[(frame.task == "membership") & (frame.status == "ok")]
    required = scored.attack.isin(board.required_attacks) & scored.defense.isin(board.required_defenses)
    least = scored.nonmembers[required if required.any() else slice(None)].min()
    return next((m for m in board.rank_by if not _samples_needed(m) or least >= 10 * _samples_needed(m)), AUC)


class Grid:
    """Rows arranged by (defense, attack, seed), at most one in each place; rows with other names are left out."""

    def __init__(self, frame: pd.DataFrame, defenses: Sequence[str], attacks: Sequence[str], seeds: Sequence[int]):
        axes = {"defense": defenses, "attack": attacks, "seed": seeds}
        indices = np.array([positions(frame[axis], names) for axis, names in axes.items()], np.intp)
        inside = (indices >= 0).all(0)
        self._rows, self._places = frame[inside], tuple(indices[:, inside])
        self._ok = (self._rows.status == "ok").to_numpy()
        self._shape = len(defenses), len(attacks), len(seeds)
        self.attacks = attacks

    def values(self, column: str) -> Floats:
        """A column as (defenses, attacks, seeds); NaN without a row of status ok."""
        values = np.full(self._shape, np.nan)
        values[self._places] = np.where(self._ok, self._rows[column].to_numpy(float), np.nan)
        return values

    def lists(self, column: str) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
        """A column of lists: all values one after another (v,), then start and length of each (defenses, attacks,
        seeds).

        Where there is no row, the length is 0.
        """
        values, starts, lengths = lists(self._rows.result, column)
        starts_and_lengths = np.zeros((2, *self._shape), np.int64)
        starts_and_lengths[:, *self._places] = starts, lengths
        return values, starts_and_lengths[0], starts_and_lengths[1]

    def by_target(self, metric: str) -> Floats:
        """A metric as (defenses, attacks, targets, seeds); NaN where a row was not scored on a target, or is not there.

        Rows with no value for each target were scored on the first one alone.
        """
        values, (found, starts, lengths) = self.values(metric), self.lists(f"values_{metric}")
        targets = np.arange(max(1, int(lengths.max(initial=1))))
        places = starts[..., None] + np.minimum(targets, np.maximum(lengths, 1)[..., None] - 1)
        listed = np.append(found, np.nan)[np.minimum(places, len(found))]
        listed = np.where(targets < lengths[..., None], listed, np.nan)
        alone = np.where(targets == 0, values[..., None], np.nan)
        cube = np.where(lengths[..., None] > 0, np.where(np.isfinite(values)[..., None], listed, np.nan), alone)
        return np.asarray(cube.transpose(0, 1, 3, 2))

    def done(self) -> NDArray[np.bool_]:
        """Whether there is a row of status ok or skipped, (defenses, attacks, seeds)."""
        done = np.zeros(self._shape, bool)
        done[self._places] = self._ok | (self._rows.status == "skipped").to_numpy()
        return done


def missing(frame: pd.DataFrame, entry: str, wanted: Iterable[tuple[str, int]]) -> str:
    """In words, which of the `wanted` (counterpart, seed) pairs of an entry have no row of status ok or skipped.

    frame: the entry's rows, with the counterpart (attack or defense) in the column `entry`.
    """
    status = dict(zip(zip(frame[entry], frame.seed, strict=True), frame.status, strict=True))
    lacking: dict[str, list[str]] = {}
    for name, seed in wanted:
        state = status.get((name, seed), "missing")
        if state not in ("ok", "skipped"):
            lacking.setdefault(f"{name or 'utility'} {state}", []).append(str(seed))
    parts = [f"{what} (seed {', '.join(seeds)})" for what, seeds in lacking.items()]
    return "; ".join(parts[:3]) + (f"; and {len(parts) - 3} more" if len(parts) > 3 else "")


def _what_it_lacks(mine: pd.DataFrame, least: Trust, entry: str, wanted: Sequence[tuple[str, int]]) -> str:
    """In words, what an entry with these rows lacks to be ranked: results, else trusted results; "" if nothing."""
    rows = trusted(mine, least)
    less_trusted = mine.drop(rows.index).trust
    return missing(mine, entry, wanted) or (
        missing(rows, entry, wanted) and f"only {min(less_trusted, key=list(TRUST).index)}"
    )


def trusted(frame: pd.DataFrame, least: Trust) -> pd.DataFrame:
    """The rows of this level of trust or a higher one."""
    levels = list(TRUST)
    enough = frame.trust.isin(levels[levels.index(least) :])
    return frame if enough.all() else frame[enough]


def _weakest_levels(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The weakest trust and isolation among the rows of each entry, as columns `trust` and `isolation`, by entry.

    kind: the column with the entries' names. Skipped rows have no isolation, for nothing ran.
    """
    columns = {}
    for name, levels, mine in (
        ("trust", list(TRUST), rows),
        ("isolation", list(ISOLATION), rows[rows.status != "skipped"]),
    ):
        level = pd.DataFrame({"level": positions(mine[name], levels), "entry": np.asarray(mine[kind])})
        columns[name] = level.groupby("entry")["level"].min().map(dict(enumerate(levels)))
    return pd.DataFrame(columns).fillna("")


# --- Defenses ---------------------------------------------------------------------------------------


def defense_table(
    results: Iterable[Result] | pd.DataFrame, board: Board, least: Trust = "self-reported"
) -> pd.DataFrame:
    """One row a defense, ranked ones first; `attrs` holds the ranking `metric` and the `pool` of attacks.

    A defense is ranked if all required scenarios are ok or skipped and it keeps its utility. The pool is the membership
    attacks that the protocol requires, except null rows; an attack that was skipped on a defense does not apply to it
    (RULES 12). What a stronger attack from outside of the pool finds is in the columns `best_known_*`, and ranks nobody.
    Rows with less trust than `least` are not used for ranks, utility floor or the choice of the metric. Skipped variants
    have the rows of their default (`with_defaults`). Raises ValueError as `scenarios` does.
    """
    return _ranked_defenses(results, board, least)[0]


def pair_table(results: Iterable[Result] | pd.DataFrame, board: Board, least: Trust = "self-reported") -> pd.DataFrame:
    """Every ordered pair of ranked defenses, in the order of `defense_table`: the difference by which the ranks are told.

    Columns first, second; difference, low, high: first - second of the worst case (the metric that ranks), the mean over
    seeds with its 95 % t-interval, on the targets that both met; p: of the paired t-test, two-sided; discovery: whether
    it is among the differences that Benjamini and Hochberg (1995) call at a false discovery rate of 5 %, each
    unordered pair counted once; verdict: "less" (the first leaks clearly less), "more", or "". Between two defenses that
    are not above chance there is no order: p is 1 and the verdict "". With one seed there are no intervals and p is 1.
    """
    table, by_target = _ranked_defenses(results, board, least)
    ranked = table[table.reason == ""]
    names, chance = list(ranked.defense), ranked.at_chance.to_numpy(bool)
    values = by_target[positions(ranked.defense, sorted(table.defense))]
    mean, half, p = compare(values, chance)
    first, second = np.nonzero(~np.eye(len(names), dtype=bool))
    discovery = np.zeros_like(p, bool)
    once = np.triu_indices(len(names), 1)
    discovery[once] = false_discovery_rates(p[once]) <= DISCOVERY_RATE
    discovery |= discovery.T
    low, high = mean - half, mean + half
    ordered = ~(chance[:, None] & chance)
    verdict = np.where(ordered & (high < 0), "less", np.where(ordered & (low > 0), "more", ""))
    return pd.DataFrame({
        "first": [names[i] for i in first], "second": [names[i] for i in second],
        **{n: v[first, second] for n, v in (
            ("difference", mean), ("low", low), ("high", high), ("p", p), ("discovery", discovery), ("verdict", verdict)
        )},
    })  # fmt: skip


def _ranked_defenses(
    results: Iterable[Result] | pd.DataFrame, board: Board, least: Trust
) -> tuple[pd.DataFrame, Floats]:
    """`defense_table`, and the worst case by which it ranks as (defenses by name, targets, seeds)."""
    frame = with_defaults(results if isinstance(results, pd.DataFrame) else scenarios(results))
    counted = trusted(frame, least)
    metric = rank_metric(counted, board)
    utility, membership = (frame[frame.task == task] for task in ("utility", "membership"))
    defenses = sorted(frame.defense.unique())
    utility_columns = _utility_columns(utility, defenses, board.seeds)
    utility_columns["train_ratio"] = utility_columns.train_seconds / utility_columns.train_seconds.get(
        board.baseline, np.nan
    )
    baseline = counted[(counted.task == "utility") & (counted.defense == board.baseline) & (counted.status == "ok")]
    floor = board.utility_floor * baseline.test_accuracy[baseline.seed.isin(board.seeds)].mean()
    reasons = _lacking_by_entry(
        frame, least, "defense", defenses, list(dict.fromkeys(("", *board.required_attacks))), board.seeds
    )
    lookups = _lookup_reasons(utility[utility.seed.isin(board.seeds)])
    for d, accuracy in zip(defenses, utility_columns.test_accuracy, strict=True):
        reasons[d] = reasons[d] or lookups.get(d, "") or _utility_reason(accuracy, floor, board.baseline)
    not_null = membership.attack[~membership.null_row.astype(bool)].unique()
    attacks = defaults_first(not_null)
    pool = [a for a in attacks if a in board.required_attacks]
    grid = Grid(membership, defenses, pool, board.seeds)
    applies = np.asarray(np.isfinite(grid.values(AUC)).all(-1).any(-1))
    for d, any_applies in zip(defenses, applies, strict=True):
        reasons[d] = reasons[d] or ("" if any_applies else "no required membership attack applies to it")
    ranked = [d for d in defenses if not reasons[d]]
    others = [a for a in attacks if a not in pool]
    lacks = _lacking_by_entry(
        membership, least, "attack", others, list(dict.fromkeys(board.required_defenses)), board.seeds
    )
    complete = [a for a in others if not lacks[a]]  # an attack that met a few defenses moves no row
    others_grid = Grid(counted[counted.task == "membership"], defenses, complete, board.seeds)
    rows_that_count = frame[frame.index.isin(counted.index) | ~frame.defense.isin(ranked)]
    table = pd.DataFrame({"defense": defenses, "reason": [reasons[d] for d in defenses]}, index=pd.Index(defenses))
    parts, by_target = [table, _weakest_levels(rows_that_count, "defense").reindex(defenses, fill_value="")], {}
    tracks = dict(zip(zip(membership.defense, membership.attack, strict=True), membership.track, strict=True))
    for m in WORST:
        columns, by_seed, by_target[m] = _worst_case(grid, m, defenses, pool, tracks)
        columns |= _best_known(others_grid, m, by_seed)
        parts.append(pd.DataFrame(columns, index=table.index))
    # The bound of the attack that does best on the other seeds, for it holds only for an attack chosen beforehand
    # (RULES 30); with one seed there are no others. The least of the seeds' bounds: their mean would not hold with 95
    # %.
    lower = leave_one_out(applicable(grid.values("epsilon_lower")))[0].min(-1)
    lower = np.where(np.isfinite(lower) & (len(board.seeds) > 1), lower, np.nan)
    table = pd.concat(
        [*parts, pd.Series(lower_bound(lower), table.index, name="epsilon_lower"), utility_columns], axis=1
    )
    table["at_chance"] = table[f"worst_{metric}"] <= table[f"worst_{metric}_null_95"]
    rows = [defenses.index(d) for d in ranked]
    ranks = rank(by_target[metric][rows], larger_is_better=False, level=table.at_chance.to_numpy()[rows])
    table = _with_ranks(table, ranks.set_index(pd.Index(ranked)))
    table.attrs = {"metric": metric, "pool": pool}
    return table, by_target[metric]


def as_in_papers(frame: pd.DataFrame, board: Board) -> pd.DataFrame:
    """A defense's leakage as papers report it, which is biased upwards, by defense; NaN where an attack is missing.

    one_target_auc: the best required attack by AUC on the first target of each seed alone, chosen on the data it is
    reported on, the mean over seeds. oracle_balanced_accuracy: so for the balanced accuracy at the best threshold, which is
    chosen on the labels, over all targets. `defense_table` has the same AUC over all targets (`worst_auc_oracle`).
    """
    frame = with_defaults(frame)
    membership = frame[(frame.task == "membership") & ~frame.null_row.astype(bool)]
    defenses = sorted(frame.defense.unique())
    grid = Grid(
        membership, defenses, [a for a in board.required_attacks if (membership.attack == a).any()], board.seeds
    )
    complete = np.asarray(grid.done().all((1, 2)))

    def best(values: Floats) -> Floats:
        found = applicable(values).max(1, initial=-np.inf).mean(-1)
        return np.where(complete & np.isfinite(found), found, np.nan)

    one = grid.by_target(AUC)[:, :, 0]
    return pd.DataFrame(
        {"one_target_auc": best(one), "oracle_balanced_accuracy": best(grid.values("balanced_accuracy_oracle"))},
        index=pd.Index(defenses),
    )


def _lacking_by_entry(
    frame: pd.DataFrame, least: Trust, kind: str, entries: Sequence[str], others: Sequence[str], seeds: Sequence[int]
) -> dict[str, str]:
    """`_what_it_lacks` for each entry, of the scenarios with `others` on the seeds; kind: "defense" or "attack"."""
    counterpart = "attack" if kind == "defense" else "defense"
    axes = (entries, others) if kind == "defense" else (others, entries)
    of_all, of_trusted = (Grid(rows, *axes, seeds).done() for rows in (frame, trusted(frame, least)))
    complete = np.asarray((of_all & of_trusted).all(axis=(1, 2) if kind == "defense" else (0, 2)))
    wanted = [(other, seed) for other in others for seed in seeds]
    short = frame[["attack", "defense", "seed", "status", "trust"]]
    return {
        entry: "" if done else _what_it_lacks(short[short[kind] == entry], least, counterpart, wanted)
        for entry, done in zip(entries, complete, strict=True)
    }


def mean_and_interval(metric: str, values: Floats, name: str = "") -> dict[str, Floats]:
    """The columns mean, _low and _high of values (entries, seeds): 95 % t-intervals, cut to the metric's range."""
    (mean, half), name = interval(values), name or metric
    low, high = np.maximum(mean - half, METRICS[metric].low), np.minimum(mean + half, METRICS[metric].high)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _claims_of_rows(utility: pd.DataFrame) -> list[tuple[str, dict[Claim, str]]]:
    """Defense and claims of each of these rows that has claims."""
    pairs = zip(utility.defense, utility.claims, strict=True)
    return [(defense, json.loads(text)) for defense, text in pairs if text != "{}"]


def _lookup_reasons(utility: pd.DataFrame) -> dict[str, str]:
    """The judge's findings on defenses that look their members up, which are not ranked, by defense."""
    reasons: dict[str, str] = {}
    for defense, claims in _claims_of_rows(utility):
        if "lookup" in claims:
            reasons.setdefault(defense, plain(claims["lookup"]))
    return reasons


def _utility_reason(accuracy: float, floor: float, baseline: str) -> str:
    """Why a defense with this test accuracy is not ranked; "" if it is not below the utility floor."""
    if np.isnan(floor):
        return f"no test accuracy of the baseline {baseline}"
    return f"below the utility floor ({accuracy:.2f} < {floor:.2f})" if accuracy < floor else ""


def _utility_columns(utility: pd.DataFrame, defenses: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """The columns of the defenses' table that come from utility results, by defense."""
    grid = Grid(utility, defenses, list(utility.attack.unique()), seeds)

    def over_seeds(column: str) -> Floats:
        return np.concatenate([*grid.values(column).transpose(1, 0, 2)] or [np.empty((len(defenses), 0))], axis=1)

    columns: dict[str, object] = {**mean_and_interval("test_accuracy", over_seeds("test_accuracy"))}
    columns |= {
        m: nanmean(over_seeds(m), -1) for m in ("train_accuracy", "ece", "robust_accuracy", "certified_accuracy")
    }
    claims = _claims_of_rows(utility[(utility.status == "ok") & utility.seed.isin(seeds)])
    texts_of: dict[str, dict[str, dict[str, None]]] = {d: {} for d in defenses}
    for defense, mine in claims:
        texts = {"epsilon": epsilon_text(mine)} | {c: plain(mine[c]) for c in (*CLAIM_COLUMNS, *FLAGS) if mine.get(c)}
        for name, text in texts.items():
            if text:
                texts_of[defense].setdefault(name, {})[text] = None
    flags = [name for name in FLAGS if any(name in s for s in texts_of.values())]
    columns |= {
        name: [" / ".join(texts_of[d].get(name, ())) for d in defenses] for name in ("epsilon", *CLAIM_COLUMNS, *flags)
    }
    # Medians: other processes on the machine slow single measurements down.
    times = ("train_seconds", "ms_per_query", "ms_per_query_alone")
    columns |= {m: pd.DataFrame(over_seeds(m)).median(axis=1).to_numpy() for m in times}
    return pd.DataFrame(columns, index=pd.Index(defenses))


def epsilon_text(claims: Mapping[Any, str]) -> str:
    """Epsilon as it may be printed, or why it may not (RULES 29). A claim that is text is returned unchanged."""
    text: str = claims.get("epsilon", "")
    try:
        value = float(text)
    except ValueError:
        return text
    if fault := epsilon_fault(value, claims, tuned=bool(claims.get("tuned"))):
        return fault
    noise = f"; {plain(claims['noise'], 100)}" if claims.get("noise") else ""
    return f"{upper_text(value)} (δ {claims['delta']}, {claims['adjacency']}, {claims['accountant']}{noise})"


def _worst_case(
    grid: Grid, metric: str, defenses: Sequence[str], pool: Sequence[str], tracks: dict[tuple[str, str], str]
) -> tuple[dict[str, object], Floats, Floats]:
    """The columns of one metric's worst case, and the worst case (defenses, seeds) and (defenses, targets, seeds).

    Candidates are the attacks of the pool with both signs (RULES 16). With its sign reversed an attack has 1 - AUC; its
    TPR is in the record. tracks: by (defense, attack).
    """
    values = grid.values(metric)
    by_seed, chosen = _strongest(grid, metric)
    complete = np.asarray(grid.done().all((1, 2)) & np.isfinite(by_seed).all(-1))
    by_target = _on_targets(grid, metric, chosen)
    by_seed[~complete] = by_target[~complete] = np.nan
    names = [*pool, *(f"{a}, sign reversed" for a in pool)]
    deciding = [names[np.bincount(c).argmax()] if w else "" for c, w in zip(chosen, complete, strict=True)]
    null = _null_worst_case(grid, metric)
    name = f"worst_{metric}"
    columns: dict[str, object] = {
        **mean_and_interval(metric, by_seed, name),
        f"{name}_attack": deciding,
        f"{name}_track": [
            tracks.get((d, a.removesuffix(", sign reversed")), "") for d, a in zip(defenses, deciding, strict=True)
        ],
        f"{name}_null": null[:, 0],
        f"{name}_null_95": null[:, 1],
        f"mean_{metric}": np.where(complete, nanmean(nanmean(values, 1), -1), np.nan),
    }
    if metric == AUC:
        columns["worst_auc_oracle"] = np.where(complete, applicable(values).max(1, initial=-np.inf).mean(-1), np.nan)
    return columns, by_seed, by_target


def _on_targets(grid: Grid, metric: str, chosen: NDArray[np.intp]) -> Floats:
    """The values (defenses, targets, seeds) of the attacks that decide, as `_strongest` numbers them."""
    values = grid.by_target(metric)
    both = np.concatenate([values, 1 - values if metric == AUC else grid.by_target(f"{metric}_reversed")], axis=1)
    if not both.shape[1]:
        return np.full((len(values), *values.shape[2:]), np.nan)
    return np.take_along_axis(both, chosen[:, None, None, :], 1)[:, 0]


def applicable(values: Floats) -> Floats:
    """Values (..., attacks, seeds), with -inf for an attack that lacks a seed: it does not apply, and decides nothing."""
    return np.where(np.isfinite(values).all(-1, keepdims=True), values, -np.inf)


def _strongest(grid: Grid, metric: str) -> tuple[Floats, NDArray[np.intp]]:
    """The worst case by seed (defenses, seeds), and the attack that gave it; of n attacks number n + i is i reversed.

    -inf where none applies; NaN where there is none.
    """
    values = grid.values(metric)
    reverse = 1 - values if metric == AUC else grid.values(f"{metric}_reversed")
    return leave_one_out(np.concatenate([applicable(values), applicable(reverse)], axis=1))


def _best_known(grid: Grid, metric: str, worst: Floats) -> dict[str, object]:
    """The columns of the strongest attack outside of the pool, where it finds more than the worst case (defenses, seeds).

    `excess`: by how much, with a t-interval over seeds: what includes 0 may be chance.
    """
    by_seed, chosen = _strongest(grid, metric)
    mean, half = interval(np.where(np.isfinite(by_seed), by_seed - worst, np.nan))
    more = np.asarray(mean > 0)
    names = [*grid.attacks, *(f"{a}, sign reversed" for a in grid.attacks)]
    deciding = [names[np.bincount(c).argmax()] if m else "" for c, m in zip(chosen, more.tolist(), strict=True)]
    name = f"best_known_{metric}"
    with np.errstate(invalid="ignore"):
        numbers = {
            name: by_seed.mean(-1),
            f"{name}_excess": mean,
            f"{name}_excess_low": mean - half,
            f"{name}_excess_high": mean + half,
        }
    return {f"{name}_attack": deciding} | {n: np.where(more, v, np.nan) for n, v in numbers.items()}


def _null_worst_case(grid: Grid, metric: str) -> Floats:
    """Mean and 95 % quantile (defenses, 2) of the worst case under permuted labels, chosen as the worst case is.

    On one target all attacks have the same permutations; those of different seeds are independent. So draws of the
    seeds are combined in `PAIRINGS` ways, and in each the attack and its sign are chosen leaving one seed out (RULES
    17). The record holds no permuted TPRs of reversed scores: under the null they have the same distribution as those
    of the scores, of which other draws stand in.
    """
    draws, starts, lengths = grid.lists("null_auc" if metric == AUC else "null_tpr")
    defenses, _, seeds = starts.shape
    null = np.full((defenses, 2), np.nan)
    applies = np.asarray(np.isfinite(grid.values(metric)).all(-1))
    for d in range(defenses):
        mine = np.flatnonzero(applies[d])
        length = lengths[d, mine].min(initial=2**31) if len(mine) else 0
        if not length:
            continue
        pairings = _pairings(int(length), seeds, 1 if metric == AUC else 2)
        drawn = draws[starts[d, mine][..., None] + pairings[:, None]]  # (1 or 2, attacks, seeds, pairings)
        drawn = drawn.transpose(0, 3, 1, 2)
        reverse = 1 - drawn[0] if metric == AUC else drawn[1]
        highest = leave_one_out(np.concatenate([drawn[0], reverse], 1))[0].mean(-1)
        null[d] = highest.mean(), np.quantile(highest, 0.95)
    return null


@cache
def _pairings(length: int, seeds: int, times: int) -> NDArray[np.intp]:
    """Which of the `length` draws of each seed are combined: (times, seeds, pairings), all about equally often."""
    rng, each = np.random.default_rng(0), np.arange(max(PAIRINGS, length)) % length
    return np.stack([[rng.permutation(each) for _ in range(seeds)] for _ in range(times)])


# --- Attacks ----------------------------------------------------------------------------------------


def attack_table(
    results: Iterable[Result] | pd.DataFrame, board: Board, task: str = "membership", least: Trust = "self-reported"
) -> pd.DataFrame:
    """One row an attack of a task, by track, ranked ones first; `attrs` holds the ranking `metric`.

    A metric is averaged over the required defenses, then over seeds. Targets on which an attack was
    skipped don't count; a skipped variant has its default's rows (`with_defaults`). Two attacks are compared
    on the targets that both have. An attack with a required row of less trust than `least` is not ranked.
    Raises ValueError as `scenarios` does.
    """
    frame = with_defaults(results if isinstance(results, pd.DataFrame) else scenarios(results))
    metric = rank_metric(trusted(frame, least), board) if task == "membership" else TASK_METRICS[task][0]
    defenses = list(dict.fromkeys(board.required_defenses))
    frame = frame[(frame.task == task) & frame.defense.isin(defenses) & frame.seed.isin(board.seeds)]
    attacks = sorted(frame.attack.unique())
    grid = Grid(frame, defenses, attacks, board.seeds)
    cubes = {m: grid.values(m) for m in TASK_METRICS[task]}
    by_attack = frame.groupby(np.asarray(frame.attack))
    null = by_attack.null_row.any()
    with_track = frame[frame.track != ""]
    ok = frame[frame.status == "ok"]
    scored = ok.groupby(np.asarray(ok.attack))
    lacks = _lacking_by_entry(frame, least, "attack", attacks, defenses, board.seeds)
    targets = scored.size().reindex(attacks, fill_value=0)
    skip_reasons = {a: "; ".join(dict.fromkeys(frame.reason[frame.attack == a])) for a in attacks if not targets[a]}
    table = pd.DataFrame({
        "attack": attacks,
        "task": task,
        "track": with_track.track.astype(str).groupby(np.asarray(with_track.attack)).first().reindex(attacks, fill_value=""),
        "null_row": null,
        "reason": [
            "null row" if null[a] else lacks[a] or (f"skipped on every required defense: {skip_reasons[a]}" if a in skip_reasons else "")
            for a in attacks
        ],
    }, index=pd.Index(attacks))  # fmt: skip
    parts = [table, _weakest_levels(frame, "attack").reindex(attacks, fill_value="")]
    for m, cube in cubes.items():
        parts.append(pd.DataFrame(mean_and_interval(m, nanmean(cube, 0)), index=table.index))
    costs = scored[["seconds", "queries"]].mean().reindex(attacks)
    table = pd.concat([*parts, costs, targets.rename("targets")], axis=1)
    ranks = [rank(np.empty((0, 1, 1)), larger_is_better=True)]
    for _, entries in table[table.reason == ""].groupby("track"):
        values = cubes[metric][:, [attacks.index(a) for a in entries.attack]].transpose(1, 0, 2)
        ranks.append(rank(values, larger_is_better=True).set_index(entries.index))
    table = _with_ranks(table, pd.concat(ranks), "track")
    table.attrs = {"metric": metric}
    return table


def _with_ranks(table: pd.DataFrame, ranks: pd.DataFrame, *first: str) -> pd.DataFrame:
    """The table with its ranks as first columns, sorted by the columns `first`, then rank and name."""
    name = table.columns[0]
    ranks = ranks.reindex(table.index).astype(dict.fromkeys(RANKS, "Int64"))
    table = pd.concat([ranks, table], axis=1).reset_index(drop=True)
    return table.sort_values([*first, "rank", name], na_position="last", ignore_index=True)


def measured(table: pd.DataFrame, task: str) -> list[str]:
    """The metrics of a kind of attack that some row of its table has, and the first of them in any case."""
    first, *others = TASK_METRICS[task]
    return [first, *(m for m in others if table[m].notna().any())]


def by_strength(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of `attack_table` by track, the track of the strongest attack first; null rows at the foot."""
    null = table.null_row.astype(bool)
    ranked = table[metric].where((table.reason == "") & ~null)
    strongest = ranked.groupby(table.track).transform("max").fillna(-1.0)
    order = pd.DataFrame(
        {"null": null, "track": -strongest, "name": table.track, "rank": table["rank"], "attack": table.attack}
    )
    return table.loc[order.sort_values([str(name) for name in order], na_position="last").index]


def rank_interval(table: pd.DataFrame) -> pd.Series:
    """Rank intervals as text, such as 2–4; "chance" for what is not above it; "" for what is not ranked."""
    chance = table.get("at_chance", pd.Series(False, table.index))
    rows = zip(table.rank_low, table.rank_high, chance, strict=True)
    texts = ["" if pd.isna(a) else "chance" if c else f"{a}" if a == b else f"{a}–{b}" for a, b, c in rows]
    return pd.Series(texts, index=table.index, dtype=str)


def apart(table: pd.DataFrame) -> pd.Series:
    """How many entries each is clearly better and worse than, as text; "" for what is not ranked."""
    rows = zip(table.better_than, table.worse_than, strict=True)
    texts = ["" if pd.isna(b) else f"better than {b}, worse than {w}" for b, w in rows]
    return pd.Series(texts, index=table.index, dtype=str)


def best_known(table: pd.DataFrame, metric: str) -> pd.Series:
    """What the strongest attack finds that the protocol does not require, as text; "" where it is no more than the rest."""
    name = f"best_known_{metric}"
    rows = zip(table[name], table[f"{name}_attack"], table[f"{name}_excess_low"], strict=True)
    texts = ["" if pd.isna(v) else f"{v:.3f} by {a}{', clearly more' * bool(low > 0)}" for v, a, low in rows]
    return pd.Series(texts, index=table.index, dtype=str)
