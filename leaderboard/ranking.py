"""Results -> ranked tables. Pure functions on numpy and pandas: no torch, no files, no clock.

A defense is ranked by its worst case over a pool of membership attacks (smaller is better), an attack by
its mean over the required defenses (larger is better), within its track. Seeds are shared by all entries,
so that two entries are compared by their seed-paired differences. RULES 12, 14 to 21 and 26 bind here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmark.metrics import METRICS
from benchmark.result import Result, Trust
from benchmark.text import LINE, LOG, NAME, plain, plain_log
from leaderboard.comparison import Floats, estimate, leave_one_out, nanmean, rank

TPR, AUC = "tpr_at_fpr_0.01", "auc"
WORST = (TPR, AUC)
"""The metrics that have a worst case (RULES 16)."""

TASK_METRICS = {
    "membership": (TPR, AUC, "balanced_accuracy"),
    "inversion": ("evaluator_accuracy", "mse_to_class_mean", "ssim_to_class_mean"),
    "attribute": ("attribute_accuracy", "attribute_balanced_accuracy", "attribute_majority"),
    "stealing": ("agreement", "stolen_accuracy"),
}
"""The columns of each task's table of attacks; outside membership the first one ranks."""

RANKS = ("rank", "rank_low", "rank_high", "tie")

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
"""Where submissions ran and what it means, the weakest first: what doesn't say may be anything but --trust."""


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


def split_of(result: Result) -> str:
    """Official rows lie on a secret split, all others on the public one (RULES 26)."""
    return "official" if result.trust == "official" else "public"


def scenarios(results: Iterable[Result]) -> pd.DataFrame:
    """One row a result, with one column a metric and a cost; a rate that can't be resolved is NaN, texts are plain.

    Raises ValueError where results of two protocol versions or two splits meet, or one scenario is twice.
    """
    results = [readable(r) for r in results]
    for what, seen in (
        ("protocol versions", {f"{r.protocol} {r.protocol_digest}" for r in results}),
        ("splits", {split_of(r) for r in results}),
    ):
        if len(seen) > 1:
            raise ValueError(f"results of different {what} never share a table: {' and '.join(sorted(seen))}")
    columns = ("task", "attack", "defense", "seed", "status", "reason", "track", "null_row", "trust", "isolation")
    # The record's own fields come last: no cost or metric of that name takes their place.
    rows = [{**r.cost, **r.metrics, **{c: getattr(r, c) for c in columns}, "result": r} for r in results]
    wanted = [*columns, "result", "seconds", "queries", "train_seconds", "members", "nonmembers", *METRICS]
    frame = pd.DataFrame(rows).reindex(columns=list(dict.fromkeys(wanted)))
    twice = frame[frame.duplicated(["task", "attack", "defense", "seed"])]
    if len(twice):
        raise ValueError("one scenario is there twice: {task} {attack} {defense} seed {seed}".format(**twice.iloc[0]))
    for metric in METRICS:
        if needed := _needed(metric):
            side = "members" if metric.startswith("tnr") else "nonmembers"
            frame[metric] = frame[metric].where(frame[side] >= needed)
    return frame


def _needed(metric: str) -> int:
    """Samples without which a rate is not shown (RULES 15); ten times as many, and it may be ranked."""
    found = re.match(r"t[pn]r_at_f[pn]r_([\d.]+)", metric)
    return round(1 / float(found[1])) if found else 0


def rank_metric(frame: pd.DataFrame, board: Board) -> str:
    """The first metric of `board.rank_by` that the smallest number of scored non-members allows."""
    scored = frame[(frame.task == "membership") & (frame.status == "ok")]
    least = scored.nonmembers.min()
    return next((m for m in board.rank_by if not _needed(m) or least >= 10 * _needed(m)), AUC)


def _cube(
    frame: pd.DataFrame, column: str, defenses: Sequence[str], attacks: Sequence[str], seeds: Sequence[int]
) -> Floats:
    """The values of one task's scenarios with status ok, (defenses, attacks, seeds); NaN where there is none."""
    index = pd.MultiIndex.from_product([defenses, attacks, seeds])
    values = frame[frame.status == "ok"].set_index(["defense", "attack", "seed"])[column].reindex(index)
    return values.to_numpy(float).reshape(len(defenses), len(attacks), len(seeds))


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
    return _missing(mine, entry, wanted) or (_missing(rows, entry, wanted) and min(less, key=list(TRUST).index))


def _counted(frame: pd.DataFrame, least: Trust) -> pd.DataFrame:
    """The rows that may rank an entry: of this level of trust or a higher one."""
    levels = list(TRUST)
    return frame[frame.trust.isin(levels[levels.index(least) :])]


def _weakest(rows: pd.DataFrame) -> dict[str, object]:
    """The columns `trust` and `isolation` of an entry that rests on these rows. What was skipped ran nowhere."""
    ran = rows[rows.status != "skipped"]
    return {
        "trust": min(rows.trust, key=list(TRUST).index, default=""),
        "isolation": min(ran.isolation, key=list(ISOLATION).index, default=""),
    }


# --- Defenses ---------------------------------------------------------------------------------------


def defense_table(
    results: Iterable[Result] | pd.DataFrame, board: Board, least: Trust = "self-reported"
) -> pd.DataFrame:
    """One row a defense, ranked ones first; `attrs` holds the ranking `metric` and the `pool` of attacks.

    A defense is ranked if every required scenario is ok or skipped and it keeps its utility. The pool is
    every membership attack, null rows apart, that is ok on each ranked defense and seed (RULES 12). Rows
    that are trusted less than `least` count for nothing: not for a rank, the pool, the floor or the metric.
    """
    frame = results if isinstance(results, pd.DataFrame) else scenarios(results)
    counted = _counted(frame, least)
    metric = rank_metric(counted, board)
    utility, membership = (frame[frame.task == task] for task in ("utility", "membership"))
    defenses = sorted(frame.defense.unique())
    kept = pd.DataFrame([_utility(utility, d, board.seeds) for d in defenses], index=defenses)
    if len(kept):
        kept["train_ratio"] = kept.train_seconds / kept.train_seconds.get(board.baseline, np.nan)
    trusted = counted[(counted.task == "utility") & (counted.defense == board.baseline) & (counted.status == "ok")]
    floor = board.utility_floor * trusted.test_accuracy[trusted.seed.isin(board.seeds)].mean()
    wanted = [(a, s) for a in ("", *board.required_attacks) for s in board.seeds]
    reasons = {
        d: _lacking(frame[frame.defense == d], least, "attack", wanted)
        or _looks_up(utility[(utility.defense == d) & utility.seed.isin(board.seeds)])
        or _collapsed(kept.test_accuracy[d], floor, board.baseline)
        for d in defenses
    }
    ranked = [d for d in defenses if not reasons[d]]
    attacks = sorted(membership[~membership.null_row.astype(bool)].attack.unique())
    ran = np.isfinite(_cube(counted[counted.task == "membership"], AUC, ranked, attacks, board.seeds))
    pool = [a for i, a in enumerate(attacks) if ranked and ran[:, i].all()]
    if not pool:
        reasons |= dict.fromkeys(ranked, "no attack ran on every ranked defense")
        ranked = []
    worst = {m: _cube(membership, m, defenses, pool, board.seeds) for m in WORST}
    lower = _cube(membership, "epsilon_lower", defenses, pool, board.seeds)
    rows, by_seed = [], {}
    for i, defense in enumerate(defenses):
        mine = membership[membership.defense == defense]
        row: dict[str, object] = {"defense": defense, "reason": reasons[defense]}
        rests = frame if reasons[defense] else counted
        row |= _weakest(rests[rests.defense == defense])
        for m in WORST:
            columns, by_seed[defense, m] = _worst_case(mine, m, worst[m][i], pool, board)
            row |= columns
        # By the attack that does best on the other seeds: a bound holds for an attack chosen beforehand (RULES 30).
        row["epsilon_lower"] = leave_one_out(lower[i])[0].mean() if pool else np.nan
        rows.append(row | kept.loc[defense].to_dict())
    names = list(rows[0]) if rows else ["defense", "reason", "trust", "isolation"]
    table = pd.DataFrame(rows, columns=names).set_index("defense", drop=False)
    values = np.array([by_seed[d, metric] for d in ranked]).reshape(len(ranked), 1, len(board.seeds))
    table = _with_ranks(table, rank(values, larger_is_better=False).set_index(pd.Index(ranked)))
    table.attrs = {"metric": metric, "pool": pool}
    return table


def _looks_up(utility: pd.DataFrame) -> str:
    """Why a defense that keeps a table of its members is not ranked; "" for an honest one."""
    return next((plain(r.claims["lookup"]) for r in utility.result if "lookup" in r.claims), "")


def _collapsed(accuracy: float, floor: float, baseline: str) -> str:
    """Why a defense with this test accuracy is not ranked; "" where it keeps its utility."""
    if np.isnan(floor):
        return f"no test accuracy of the baseline {baseline}"
    return f"below the utility floor ({accuracy:.2f} < {floor:.2f})" if accuracy < floor else ""


def _utility(utility: pd.DataFrame, defense: str, seeds: Sequence[int]) -> dict[str, object]:
    """The columns of a defense that come from its utility results."""
    mine = utility[(utility.defense == defense) & (utility.status == "ok") & utility.seed.isin(seeds)]
    test = estimate(mine.test_accuracy.to_numpy(float))
    texts = dict.fromkeys(epsilon_text(r.claims) for r in mine.result)
    return {
        "test_accuracy": test.mean,
        "test_accuracy_low": test.low,
        "test_accuracy_high": test.high,
        "train_accuracy": mine.train_accuracy.mean(),
        "ece": mine.ece.mean(),
        "robust_accuracy": mine.robust_accuracy.mean(),
        "certified_accuracy": mine.certified_accuracy.mean(),
        "epsilon": " / ".join(t for t in texts if t),
        "extra_data": _said(mine, "extra_data"),
        "tuned": _said(mine, "tuned"),
        "train_seconds": mine.train_seconds.mean(),
        "ms_per_query": mine.ms_per_query.mean(),
        "ms_per_query_alone": mine.ms_per_query_alone.mean(),
    }


def _said(utility: pd.DataFrame, claim: str) -> str:
    return " / ".join(dict.fromkeys(plain(t) for r in utility.result if (t := r.claims.get(claim))))


def epsilon_text(claims: dict[str, str]) -> str:
    """Epsilon as it may be printed (RULES 29); the judge's own words pass as they are."""
    text = claims.get("epsilon", "")
    try:
        value = float(text)
    except ValueError:
        return text
    named = [claims.get(k, "") for k in ("delta", "adjacency", "accountant")]
    if not all(named) or claims.get("sampling", "").lower() != "poisson":
        return "claim incomplete"
    if not value <= 100:
        return "no meaningful guarantee"
    return f"{value:.3g} (δ {named[0]}, {named[1]}, {named[2]})"


def _worst_case(
    mine: pd.DataFrame, metric: str, values: Floats, pool: Sequence[str], board: Board
) -> tuple[dict[str, object], Floats]:
    """One defense's columns for one metric, and its worst case on each seed.

    values (attacks, seeds). Reversing an attack's sign makes 1 - AUC of its AUC; its TPR is recorded.
    """
    name = f"worst_{metric}"
    one = [mine.defense.iloc[0]] if len(mine) else [""]
    reverse = 1 - values if metric == AUC else _cube(mine, f"{metric}_reversed", one, pool, board.seeds)[0]
    known = [i for i in range(len(pool)) if np.isfinite(reverse[i]).all()]
    by_seed, chosen = leave_one_out(np.concatenate([values, reverse[known]]))
    names = [*pool, *(f"{pool[i]}, sign reversed" for i in known)]
    whole = bool(pool) and bool(np.isfinite(values).all())
    if not whole:
        by_seed = np.full(len(board.seeds), np.nan)
    deciding = names[np.bincount(chosen).argmax()] if whole else ""
    tracks = dict(zip(mine.attack, mine.track, strict=True))
    null = _null_worst_case(mine, metric, pool, board.seeds)
    worst = estimate(by_seed)
    columns: dict[str, object] = {
        name: worst.mean,
        f"{name}_low": worst.low,
        f"{name}_high": worst.high,
        f"{name}_attack": deciding,
        f"{name}_track": tracks.get(deciding.removesuffix(", sign reversed"), ""),
        f"{name}_null": null[0],
        f"{name}_null_95": null[1],
        f"mean_{metric}": values.mean() if whole else np.nan,
    }
    if metric == AUC:
        columns["worst_auc_oracle"] = values.max(0).mean() if whole else np.nan
    return columns, by_seed


def _null_worst_case(mine: pd.DataFrame, metric: str, pool: Sequence[str], seeds: Sequence[int]) -> tuple[float, float]:
    """Mean and 95 % quantile of the pool's maximum under permuted labels, averaged over seeds.

    The permutations of one target are the same for all attacks, so the maximum is taken draw by draw,
    for AUC over both signs. (The record holds no permuted TPR of reversed scores.)
    """
    found = {(r.attack, r.seed): r.null_auc if metric == AUC else r.null_tpr for r in mine.result}
    summaries = []
    for seed in seeds:
        draws = [found.get((a, seed), ()) for a in pool]
        if not draws or not all(draws):
            return np.nan, np.nan
        each = np.array([d[: min(map(len, draws))] for d in draws])
        highest = (np.maximum(each, 1 - each) if metric == AUC else each).max(0)
        summaries.append((highest.mean(), np.quantile(highest, 0.95)))
    mean, high = np.mean(summaries, axis=0)
    return float(mean), float(high)


# --- Attacks ----------------------------------------------------------------------------------------


def attack_table(
    results: Iterable[Result] | pd.DataFrame, board: Board, task: str = "membership", least: Trust = "self-reported"
) -> pd.DataFrame:
    """One row an attack of a task, by track, ranked ones first; `attrs` holds the ranking `metric`.

    A metric is averaged over the required defenses, then over seeds. Targets on which an attack was
    skipped don't count; two attacks are compared on the targets that both have. An attack with required
    rows that are trusted less than `least` is not ranked.
    """
    frame = results if isinstance(results, pd.DataFrame) else scenarios(results)
    metric = rank_metric(_counted(frame, least), board) if task == "membership" else TASK_METRICS[task][0]
    frame = frame[(frame.task == task) & frame.defense.isin(board.required_defenses) & frame.seed.isin(board.seeds)]
    attacks = sorted(frame.attack.unique())
    cubes = {m: _cube(frame, m, board.required_defenses, attacks, board.seeds) for m in TASK_METRICS[task]}
    wanted = [(d, s) for d in board.required_defenses for s in board.seeds]
    rows = []
    for i, attack in enumerate(attacks):
        mine = frame[frame.attack == attack]
        ok = mine[mine.status == "ok"]
        null = bool(mine.null_row.any())
        nothing = "" if len(ok) else f"skipped everywhere: {mine.reason.iloc[0]}"
        row: dict[str, object] = {"attack": attack, "task": task, "track": next(filter(None, mine.track), "")}
        lacking = "null row" if null else _lacking(mine, least, "defense", wanted) or nothing
        row |= {"null_row": null, "reason": lacking} | _weakest(mine)
        for m in TASK_METRICS[task]:
            value = estimate(nanmean(cubes[m][:, i], axis=0))
            row |= {m: value.mean, f"{m}_low": value.low, f"{m}_high": value.high}
        row |= {"seconds": ok.seconds.mean(), "queries": ok.queries.mean(), "targets": len(ok)}
        rows.append(row)
    columns = list(rows[0]) if rows else ["attack", "task", "track", "null_row", "reason", "trust", "isolation"]
    table = pd.DataFrame(rows, columns=columns).set_index("attack", drop=False)
    ranks = [rank(np.empty((0, 1, 1)), larger_is_better=True)]
    for _, entries in table[table.reason == ""].groupby("track"):
        values = cubes[metric][:, [attacks.index(a) for a in entries.attack]].transpose(1, 0, 2)
        ranks.append(rank(values, METRICS[metric].leaks == "up").set_index(entries.index))
    table = _with_ranks(table, pd.concat(ranks), "track")
    table.attrs = {"metric": metric}
    return table


def _with_ranks(table: pd.DataFrame, ranks: pd.DataFrame, *first: str) -> pd.DataFrame:
    """The table with its ranks in front; sorted by the columns `first`, rank and name."""
    name = table.columns[0]
    ranks = ranks.reindex(table.index).astype(dict.fromkeys(RANKS[:3], "Int64"))
    ranks["tie"] = ranks.tie.astype(object).fillna("").astype(str)
    table = pd.concat([ranks, table], axis=1).reset_index(drop=True)
    return table.sort_values([*first, "rank", name], na_position="last", ignore_index=True)
