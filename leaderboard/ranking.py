"""Results -> ranked tables. Pure functions on numpy and pandas: no torch, no files, no clock.

A defense is ranked by its worst case over the membership attacks that the protocol requires (smaller is better), an
attack by its mean over the required defenses (larger is better), within its track: no entry moves another's row. Seeds
are shared by all entries, so that two entries are compared by their seed-paired differences. RULES 12, 14 to 21 and 26 bind here.
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
from leaderboard.comparison import Floats, interval, leave_one_out, nanmean, rank
from leaderboard.records import Records, null_lists, places
from leaderboard.records import split_of as split_of

TPR, AUC = "tpr_at_fpr_0.01", "auc"
WORST = (TPR, AUC)
"""The metrics that have a worst case (RULES 16)."""
SAID: tuple[Claim, ...] = ("extra_data", "attacked_by", "tuned")
"""What a defense's records say of it in words; columns of its table."""
FLAGS: tuple[Claim, ...] = ("alone",)
"""What the judge found of a defense and says beside its rank; columns of its table where it is said of any. What unranks it,
`lookup`, is its reason."""

PAIRINGS = 200
"""Ways in which permutations of one seed meet those of the others in a null worst case."""

RANKS = ("rank", "rank_low", "rank_high", "better_than", "worse_than")

TRUST: dict[Trust, str] = {
    "self-reported": "scored by whoever handed it in",
    "reproduced": "scored again from the same code, data and seeds, with the same numbers",
    "official": "scored on a secret split that no entry can be tuned to",
}
"""The levels of trust and what they mean, the weakest first."""

ISOLATION = {
    "trusted": "not isolated (--trust)",
    "": "not recorded",
    "reviewed": "reviewed code, in the judge's process",
    "bubblewrap": "isolated by bubblewrap",
}
"""Where the files of a row that nobody has reviewed ran, and what it means, the weakest first: what doesn't say may be
anything but --trust."""


@dataclass(frozen=True)
class Board:
    """What a protocol asks of an entry before it is ranked, and what ranks it."""

    required_attacks: tuple[str, ...]
    required_defenses: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    """The defense whose test accuracy the floor refers to, such as `undefended`."""
    utility_floor: float
    """A ranked defense keeps at least this share of the baseline's test accuracy."""
    rank_by: tuple[str, ...] = WORST
    """The first of these that the samples allow to be ranked is used (RULES 15)."""

    def __post_init__(self) -> None:
        if unknown := set(self.rank_by) - set(WORST):
            raise ValueError(f"rank_by knows {', '.join(WORST)}, not {', '.join(sorted(unknown))}")


# --- Results as a frame -----------------------------------------------------------------------------


def readable(result: Result) -> Result:
    """The record with every text that is shown made plain and short (`benchmark.text`); itself where it is so."""
    limits = {"attack": NAME, "defense": NAME, "dataset": NAME, "architecture": NAME, "access": NAME, "knowledge": NAME}
    limits |= {"protocol": NAME, "protocol_digest": NAME, "reason": LINE}
    texts: dict[str, object] = {name: plain(getattr(result, name), limit) for name, limit in limits.items()}
    texts["log"] = plain_log(result.log, LOG)
    texts["claims"] = {plain(k, NAME): plain(v, NAME) for k, v in result.claims.items()}
    changed = {name: text for name, text in texts.items() if text != getattr(result, name)}
    return result.model_copy(update=changed) if changed else result


def scenarios(results: Iterable[Result]) -> pd.DataFrame:
    """One row a result, with one column a metric and a cost; a rate that can't be resolved is NaN, texts are plain.

    Raises ValueError where results of two protocol versions or two splits meet, or one scenario is twice.
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
        if needed := _needed(metric):
            side = "members" if metric.startswith("tnr") else "nonmembers"
            frame[metric] = frame[metric].where(frame[side] >= needed)
    return frame


def with_defaults(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame, with an attack's default in place of its variant `guards=target` where that was skipped.

    A variant is skipped on a target whose guards hold nothing of its world: there it is the default, whose row it has
    then (RULES 3, 12). Where the default was not scored either, nothing changes.
    """
    variants = {a: d for a in frame.attack.unique() if (d := _default(a)) != a}
    if not variants:
        return frame
    rows = list(zip(frame.attack, frame.task, frame.defense, frame.seed, strict=True))
    scored = {rows[i]: i for i in np.flatnonzero((frame.status == "ok") & frame.attack.isin(list(variants.values())))}
    order = np.arange(len(frame))
    for i in np.flatnonzero((frame.status == "skipped") & frame.attack.isin(list(variants))):
        attack, *where = rows[i]
        order[i] = scored.get((variants[attack], *where), i)
    return frame.iloc[order].set_axis(frame.index).assign(attack=frame.attack, track=frame.track)


def _default(attack: str) -> str:
    """An attack's name without `guards=target`, which is the last of what a canonical name holds in brackets."""
    return attack.replace("[guards=target]", "").replace(",guards=target]", "]")


def _needed(metric: str) -> int:
    """Samples without which a rate is not shown (RULES 15); ten times as many, and it may be ranked."""
    found = re.match(r"t[pn]r_at_f[pn]r_([\d.]+)", metric)
    return round(1 / float(found[1])) if found else 0


def rank_metric(frame: pd.DataFrame, board: Board) -> str:
    """The first metric of `board.rank_by` that the smallest number of scored non-members allows."""
    least = frame.nonmembers[(frame.task == "membership") & (frame.status == "ok")].min()
    return next((m for m in board.rank_by if not _needed(m) or least >= 10 * _needed(m)), AUC)


class _Grid:
    """Rows by (defense, attack, seed), one a place; a row that has none there is left out."""

    def __init__(self, frame: pd.DataFrame, defenses: Sequence[str], attacks: Sequence[str], seeds: Sequence[int]):
        axes = {"defense": defenses, "attack": attacks, "seed": seeds}
        found = np.array([places(frame[axis], names) for axis, names in axes.items()], np.intp)
        inside = (found >= 0).all(0)
        self._rows, self._places = frame[inside], tuple(found[:, inside])
        self._ok = (self._rows.status == "ok").to_numpy()
        self._shape = len(defenses), len(attacks), len(seeds)
        self.attacks = attacks

    def values(self, column: str) -> Floats:
        """A column of the scenarios with status ok, (defenses, attacks, seeds); NaN where there is none."""
        found = np.full(self._shape, np.nan)
        found[self._places] = np.where(self._ok, self._rows[column].to_numpy(float), np.nan)
        return found

    def lists(self, column: str) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
        """A column of lists: their values in a row, where each begins and how long it is, (defenses, attacks, seeds).

        Where there is no row, the length is 0.
        """
        values, starts, lengths = null_lists(self._rows.result, column)
        found = np.zeros((2, *self._shape), np.int64)
        found[:, *self._places] = starts, lengths
        return values, found[0], found[1]

    def done(self) -> NDArray[np.bool_]:
        """Which places have a row that is ok or skipped."""
        found = np.zeros(self._shape, bool)
        found[self._places] = self._ok | (self._rows.status == "skipped").to_numpy()
        return found


def _missing(frame: pd.DataFrame, entry: str, wanted: Iterable[tuple[str, int]]) -> str:
    """Which (counterpart, seed) pairs of an entry lack a result, in words; skipped ones have one.

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


def _lacking(mine: pd.DataFrame, least: Trust, entry: str, wanted: Sequence[tuple[str, int]]) -> str:
    """What an entry with these rows lacks: results, else trust in those that it has; "" where it is nothing."""
    rows = _counted(mine, least)
    less = mine.drop(rows.index).trust
    return _missing(mine, entry, wanted) or (
        _missing(rows, entry, wanted) and f"only {min(less, key=list(TRUST).index)}"
    )


def _counted(frame: pd.DataFrame, least: Trust) -> pd.DataFrame:
    """The rows that may rank an entry: of this level of trust or a higher one."""
    levels = list(TRUST)
    enough = frame.trust.isin(levels[levels.index(least) :])
    return frame if enough.all() else frame[enough]


def _weakest(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The columns `trust` and `isolation` of each entry that rests on these rows. What was skipped ran nowhere.

    kind: the column with the entries' names, which are the index of what is returned.
    """
    found = {}
    for name, levels, mine in (
        ("trust", list(TRUST), rows),
        ("isolation", list(ISOLATION), rows[rows.status != "skipped"]),
    ):
        level = pd.DataFrame({"level": places(mine[name], levels), "entry": np.asarray(mine[kind])})
        found[name] = level.groupby("entry")["level"].min().map(dict(enumerate(levels)))
    return pd.DataFrame(found).fillna("")


# --- Defenses ---------------------------------------------------------------------------------------


def defense_table(
    results: Iterable[Result] | pd.DataFrame, board: Board, least: Trust = "self-reported"
) -> pd.DataFrame:
    """One row a defense, ranked ones first; `attrs` holds the ranking `metric` and the `pool` of attacks.

    A defense is ranked if every required scenario is ok or skipped and it keeps its utility. The pool is the membership
    attacks that the protocol requires, null rows apart; those that were skipped on a defense do not apply to it (RULES 12).
    What other attacks find stands beside it as best known. Rows that are trusted less than `least` count for nothing: not
    for a rank, the floor or the metric. A variant that was skipped for being its default has the default's rows
    (`with_defaults`).
    """
    frame = with_defaults(results if isinstance(results, pd.DataFrame) else scenarios(results))
    counted = _counted(frame, least)
    metric = rank_metric(counted, board)
    utility, membership = (frame[frame.task == task] for task in ("utility", "membership"))
    defenses = sorted(frame.defense.unique())
    kept = _utility(utility, defenses, board.seeds)
    kept["train_ratio"] = kept.train_seconds / kept.train_seconds.get(board.baseline, np.nan)
    trusted = counted[(counted.task == "utility") & (counted.defense == board.baseline) & (counted.status == "ok")]
    floor = board.utility_floor * trusted.test_accuracy[trusted.seed.isin(board.seeds)].mean()
    reasons = _lack(frame, least, "defense", defenses, list(dict.fromkeys(("", *board.required_attacks))), board.seeds)
    lookups = _looks_up(utility[utility.seed.isin(board.seeds)])
    for d, accuracy in zip(defenses, kept.test_accuracy, strict=True):
        reasons[d] = reasons[d] or lookups.get(d, "") or _collapsed(accuracy, floor, board.baseline)
    scored = sorted(
        membership.attack[~membership.null_row.astype(bool)].unique(), key=lambda a: (_default(a), a != _default(a))
    )
    pool = [a for a in scored if a in board.required_attacks]  # of equals the first decides: the default
    ranked = [d for d in defenses if not reasons[d]]
    grid = _Grid(membership, defenses, pool, board.seeds)
    applies = np.asarray(np.isfinite(grid.values(AUC)).all(-1))  # (defenses, attacks)
    for d in ranked:
        reasons[d] = "" if applies[defenses.index(d)].any() else "no required membership attack applies to it"
    ranked = [d for d in ranked if not reasons[d]]
    more = [a for a in scored if a not in pool]
    lacks = _lack(frame[frame.task == "membership"], least, "attack", more, board.required_defenses, board.seeds)
    beyond = _Grid(counted[counted.task == "membership"], defenses, [a for a in more if not lacks[a]], board.seeds)
    rests = frame[frame.index.isin(counted.index) | ~frame.defense.isin(ranked)]
    table = pd.DataFrame({"defense": defenses, "reason": [reasons[d] for d in defenses]}, index=pd.Index(defenses))
    parts, by_seed = [table, _weakest(rests, "defense").reindex(defenses, fill_value="")], {}
    tracks = dict(zip(zip(membership.defense, membership.attack, strict=True), membership.track, strict=True))
    for m in WORST:
        columns, by_seed[m] = _worst_case(grid, m, defenses, pool, tracks)
        columns |= _best_known(beyond, m, by_seed[m])
        parts.append(pd.DataFrame(columns, index=table.index))
    # By the attack that does best on the other seeds: a bound holds for an attack chosen beforehand (RULES 30). One
    # seed leaves none to choose it on. Of the seeds' bounds the least: each holds with 95 %, their mean with less.
    lower = leave_one_out(_applicable(grid.values("epsilon_lower")))[0].min(-1)
    lower = np.where(np.isfinite(lower) & (len(board.seeds) > 1), lower, np.nan)
    table = pd.concat([*parts, pd.Series(lower_bound(lower), table.index, name="epsilon_lower"), kept], axis=1)
    at = [defenses.index(d) for d in ranked]
    table["at_chance"] = table[f"worst_{metric}"] <= table[f"worst_{metric}_null_95"]
    values = by_seed[metric][at].reshape(len(ranked), 1, len(board.seeds))
    ranks = rank(values, larger_is_better=False, level=table.at_chance.to_numpy()[at])
    table = _with_ranks(table, ranks.set_index(pd.Index(ranked)))
    table.attrs = {"metric": metric, "pool": pool}
    return table


def _lack(
    frame: pd.DataFrame, least: Trust, kind: str, entries: Sequence[str], others: Sequence[str], seeds: Sequence[int]
) -> dict[str, str]:
    """What each entry lacks (`_lacking`) of its scenarios with `others`; kind: "defense" or "attack"."""
    counterpart = "attack" if kind == "defense" else "defense"
    axes = (entries, others) if kind == "defense" else (others, entries)
    both = [_Grid(rows, *axes, seeds).done() for rows in (frame, _counted(frame, least))]
    whole = np.asarray((both[0] & both[1]).all(axis=(1, 2) if kind == "defense" else (0, 2)))
    wanted = [(other, seed) for other in others for seed in seeds]
    short = frame[["attack", "defense", "seed", "status", "trust"]]
    return {
        entry: "" if done else _lacking(short[short[kind] == entry], least, counterpart, wanted)
        for entry, done in zip(entries, whole, strict=True)
    }


def _over_seeds(metric: str, values: Floats, name: str = "") -> dict[str, Floats]:
    """Columns of a metric's values (entries, seeds): the mean and its 95 % t-interval, cut to what the metric can be."""
    (mean, half), name = interval(values), name or metric
    low, high = np.maximum(mean - half, METRICS[metric].low), np.minimum(mean + half, METRICS[metric].high)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _claims(utility: pd.DataFrame) -> list[tuple[str, dict[Claim, str]]]:
    """The defense and the claims of each of these rows that claims something."""
    pairs = zip(utility.defense, utility.claims, strict=True)
    return [(defense, json.loads(text)) for defense, text in pairs if text != "{}"]


def _looks_up(utility: pd.DataFrame) -> dict[str, str]:
    """Why a defense that keeps a table of its members is not ranked; honest ones are not in it."""
    found: dict[str, str] = {}
    for defense, claims in _claims(utility):
        if "lookup" in claims:
            found.setdefault(defense, plain(claims["lookup"]))
    return found


def _collapsed(accuracy: float, floor: float, baseline: str) -> str:
    """Why a defense with this test accuracy is not ranked; "" where it keeps its utility."""
    if np.isnan(floor):
        return f"no test accuracy of the baseline {baseline}"
    return f"below the utility floor ({accuracy:.2f} < {floor:.2f})" if accuracy < floor else ""


def _utility(utility: pd.DataFrame, defenses: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """The columns of the defenses that come from their utility results, by defense."""
    grid = _Grid(utility, defenses, list(utility.attack.unique()), seeds)

    def over_seeds(column: str) -> Floats:
        return np.concatenate([*grid.values(column).transpose(1, 0, 2)] or [np.empty((len(defenses), 0))], axis=1)

    columns: dict[str, object] = {**_over_seeds("test_accuracy", over_seeds("test_accuracy"))}
    columns |= {
        m: nanmean(over_seeds(m), -1) for m in ("train_accuracy", "ece", "robust_accuracy", "certified_accuracy")
    }
    claims = _claims(utility[(utility.status == "ok") & utility.seed.isin(seeds)])
    said: dict[str, dict[str, dict[str, None]]] = {d: {} for d in defenses}
    for defense, mine in claims:
        texts = {"epsilon": epsilon_text(mine)} | {c: plain(mine[c]) for c in (*SAID, *FLAGS) if mine.get(c)}
        for name, text in texts.items():
            if text:
                said[defense].setdefault(name, {})[text] = None
    flags = [name for name in FLAGS if any(name in s for s in said.values())]
    columns |= {name: [" / ".join(said[d].get(name, ())) for d in defenses] for name in ("epsilon", *SAID, *flags)}
    # Medians: what ran beside a measurement slows single ones down.
    times = ("train_seconds", "ms_per_query", "ms_per_query_alone")
    columns |= {m: pd.DataFrame(over_seeds(m)).median(axis=1).to_numpy() for m in times}
    return pd.DataFrame(columns, index=pd.Index(defenses))


def epsilon_text(claims: Mapping[Any, str]) -> str:
    """Epsilon as it may be printed (RULES 29); the judge's own words pass as they are."""
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
    grid: _Grid, metric: str, defenses: Sequence[str], pool: Sequence[str], tracks: dict[tuple[str, str], str]
) -> tuple[dict[str, object], Floats]:
    """The defenses' columns for one metric, and their worst case on each seed (defenses, seeds).

    Reversing an attack's sign makes 1 - AUC of its AUC; its TPR is recorded.
    """
    values = grid.values(metric)
    by_seed, chosen = _strongest(grid, metric)
    whole = grid.done().all((1, 2)) & np.isfinite(by_seed).all(-1)
    by_seed[~whole] = np.nan
    names = [*pool, *(f"{a}, sign reversed" for a in pool)]
    deciding = [names[np.bincount(c).argmax()] if w else "" for c, w in zip(chosen, whole, strict=True)]
    null = _null_worst_case(grid, metric)
    name = f"worst_{metric}"
    columns: dict[str, object] = {
        **_over_seeds(metric, by_seed, name),
        f"{name}_attack": deciding,
        f"{name}_track": [
            tracks.get((d, a.removesuffix(", sign reversed")), "") for d, a in zip(defenses, deciding, strict=True)
        ],
        f"{name}_null": null[:, 0],
        f"{name}_null_95": null[:, 1],
        f"mean_{metric}": np.where(whole, nanmean(nanmean(values, 1), -1), np.nan),
    }
    if metric == AUC:
        columns["worst_auc_oracle"] = np.where(whole, _applicable(values).max(1, initial=-np.inf).mean(-1), np.nan)
    return columns, by_seed


def _applicable(values: Floats) -> Floats:
    """Values (..., attacks, seeds), with -inf for an attack that lacks a seed: it does not apply, and decides nothing."""
    return np.where(np.isfinite(values).all(-1, keepdims=True), values, -np.inf)


def _strongest(grid: _Grid, metric: str) -> tuple[Floats, NDArray[np.intp]]:
    """The worst case by seed (defenses, seeds), and the attack that gave it; of n attacks number n + i is i reversed.

    -inf where none applies; NaN where there is none.
    """
    values = grid.values(metric)
    reverse = 1 - values if metric == AUC else grid.values(f"{metric}_reversed")
    return leave_one_out(np.concatenate([_applicable(values), _applicable(reverse)], axis=1))


def _best_known(grid: _Grid, metric: str, worst: Floats) -> dict[str, object]:
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


def _null_worst_case(grid: _Grid, metric: str) -> Floats:
    """Mean and 95 % quantile of the worst case under permuted labels, chosen as the worst case is: (defenses, 2).

    The permutations of one target are the same for all attacks, those of the seeds are independent: draws of the seeds are
    put together in `PAIRINGS` ways, and in each the attack, for AUC its sign too, is chosen leaving one seed out (RULES 17).
    The record holds no permuted TPR of reversed scores: under a null they have the law of those that it holds, and other
    draws of these stand in.
    """
    draws, starts, lengths = grid.lists("null_auc" if metric == AUC else "null_tpr")
    defenses, _, seeds = starts.shape
    found = np.full((defenses, 2), np.nan)
    applies = np.asarray(np.isfinite(grid.values(metric)).all(-1))
    for d in range(defenses):
        mine = np.flatnonzero(applies[d])
        length = lengths[d, mine].min(initial=2**31) if len(mine) else 0
        if not length:
            continue
        pairings = _pairings(int(length), seeds, 1 if metric == AUC else 2)
        each = draws[starts[d, mine][..., None] + pairings[:, None]]  # (1 or 2, attacks, seeds, pairings)
        each = each.transpose(0, 3, 1, 2)
        reverse = 1 - each[0] if metric == AUC else each[1]
        highest = leave_one_out(np.concatenate([each[0], reverse], 1))[0].mean(-1)
        found[d] = highest.mean(), np.quantile(highest, 0.95)
    return found


@cache
def _pairings(length: int, seeds: int, times: int) -> NDArray[np.intp]:
    """Which of `length` draws of each seed meet: (times, seeds, pairings), each draw as often as the others or once more."""
    rng, each = np.random.default_rng(0), np.arange(max(PAIRINGS, length)) % length
    return np.stack([[rng.permutation(each) for _ in range(seeds)] for _ in range(times)])


# --- Attacks ----------------------------------------------------------------------------------------


def attack_table(
    results: Iterable[Result] | pd.DataFrame, board: Board, task: str = "membership", least: Trust = "self-reported"
) -> pd.DataFrame:
    """One row an attack of a task, by track, ranked ones first; `attrs` holds the ranking `metric`.

    A metric is averaged over the required defenses, then over seeds. Targets on which an attack was
    skipped don't count, but those on which a variant is its default do (`with_defaults`); two attacks are
    compared on the targets that both have. An attack with required rows that are trusted less than `least`
    is not ranked.
    """
    frame = with_defaults(results if isinstance(results, pd.DataFrame) else scenarios(results))
    metric = rank_metric(_counted(frame, least), board) if task == "membership" else TASK_METRICS[task][0]
    defenses = list(dict.fromkeys(board.required_defenses))
    frame = frame[(frame.task == task) & frame.defense.isin(defenses) & frame.seed.isin(board.seeds)]
    attacks = sorted(frame.attack.unique())
    grid = _Grid(frame, defenses, attacks, board.seeds)
    cubes = {m: grid.values(m) for m in TASK_METRICS[task]}
    by_attack = frame.groupby(np.asarray(frame.attack))
    null = by_attack.null_row.any()
    named = frame[frame.track != ""]
    ok = frame[frame.status == "ok"]
    scored = ok.groupby(np.asarray(ok.attack))
    lacks = _lack(frame, least, "attack", attacks, defenses, board.seeds)
    targets = scored.size().reindex(attacks, fill_value=0)
    why = {a: "; ".join(dict.fromkeys(frame.reason[frame.attack == a])) for a in attacks if not targets[a]}
    table = pd.DataFrame({
        "attack": attacks,
        "task": task,
        "track": named.track.astype(str).groupby(np.asarray(named.attack)).first().reindex(attacks, fill_value=""),
        "null_row": null,
        "reason": [
            "null row" if null[a] else lacks[a] or (f"skipped on every required defense: {why[a]}" if a in why else "")
            for a in attacks
        ],
    }, index=pd.Index(attacks))  # fmt: skip
    parts = [table, _weakest(frame, "attack").reindex(attacks, fill_value="")]
    for m, cube in cubes.items():
        parts.append(pd.DataFrame(_over_seeds(m, nanmean(cube, 0)), index=table.index))
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
    """The table with its ranks in front; sorted by the columns `first`, rank and name."""
    name = table.columns[0]
    ranks = ranks.reindex(table.index).astype(dict.fromkeys(RANKS, "Int64"))
    table = pd.concat([ranks, table], axis=1).reset_index(drop=True)
    return table.sort_values([*first, "rank", name], na_position="last", ignore_index=True)


def rank_interval(table: pd.DataFrame) -> pd.Series:
    """Rank intervals as text, such as 2–4; "chance" for what is not above it; "" for what is not ranked."""
    chance = table.get("at_chance", pd.Series(False, table.index))
    rows = zip(table.rank_low, table.rank_high, chance, strict=True)
    texts = ["" if pd.isna(a) else "chance" if c else f"{a}" if a == b else f"{a}–{b}" for a, b, c in rows]
    return pd.Series(texts, index=table.index, dtype=str)
