"""Benchmark: the app with 1,000, 10,000 and 100,000 results: opening it, filters, and new runs in MLflow.

Results are made up: 39 membership attacks and the utility of each defense on 5 seeds. MLflow's database holds as many
runs, copies of one that was really logged. Promised, each size in a process of its own: the first page from a cached
table under 2 s, a filter under 0.5 s, 1,000 new runs under 5 s, memory under 1 GB, and growth no worse than linear.
It needs an idle core; CPU seconds are printed too, which depend less on other load.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.metrics import TASK_METRICS
from benchmark.result import Result
from leaderboard import tables
from leaderboard.publish import publish
from leaderboard.ranking import Board, attack_table, defense_table, scenarios

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL, ATTACKS, SEEDS, NEW = "speed-v1", [f"attack_{i:02d}" for i in range(39)], tuple(range(5)), 1000
PROMISES = {"first page": 2.0, "filter": 0.5, "1,000 new runs": 5.0, "memory, GB": 1.0}


def made(count: int, first: int = 0) -> Iterator[Result]:
    """Made-up results, numbers `first` to `first + count - 1`, defense by defense."""
    random = np.random.default_rng(first)
    curve = tuple(np.geomspace(1e-3, 1, 40).round(6).tolist())
    for i in range(first, first + count):
        defense, rest = divmod(i, len(SEEDS) * (1 + len(ATTACKS)))
        seed, number = divmod(rest, 1 + len(ATTACKS))
        shared: dict[str, Any] = {
            "key": f"{i:040x}", "protocol": PROTOCOL, "protocol_digest": "0" * 40, "dataset": "made-up", "seed": seed,
            "defense": f"defense_{defense:04d}[strength={defense / 8}]", "architecture": "small_cnn", "status": "ok",
            "provenance": {"commit": "0" * 40, "device": "cpu", "run_id": f"{i:032x}", "experiment_id": "1"},
            "isolation": "bubblewrap", "finished": 1.7e9 + i,
        }  # fmt: skip
        if number == 0:
            utility = {"test_accuracy": 0.8 + 0.01 * random.random(), "train_accuracy": 0.99, "ece": 0.05}
            yield Result(task="utility", attack="", metrics=utility, cost={"train_seconds": 12.0}, **shared)
            continue
        leak = float(random.random() / 5)
        rates = {"auc": 0.5 + leak, "tpr_at_fpr_0.01": 0.01 + leak, "balanced_accuracy": 0.5 + leak / 2, "f1": 0.6}
        yield Result(
            task="membership", attack=ATTACKS[number - 1], access="posterior", knowledge="none",
            metrics=rates | {"members": 1000.0, "nonmembers": 1000.0, "tpr_at_fpr_0.01_reversed": 0.01},
            intervals={name: (value - 0.02, value + 0.02) for name, value in rates.items()}, roc=(curve, curve),
            null_auc=tuple(random.normal(0.5, 0.01, 20).tolist()), null_tpr=tuple(random.uniform(0, 0.02, 20).tolist()),
            cost={"seconds": 1.5, "queries": 2000.0}, **shared,
        )  # fmt: skip


def prepare(folder: Path, count: int) -> dict[str, float]:
    """Make a small published board, a cached table of all results and a database of as many runs; the peak memory."""
    from benchmark.run.tracking import Tracker

    defenses = tuple({r.defense: None for r in made(count)})
    board = Board(tuple(ATTACKS), defenses, SEEDS, defenses[0], 0.7)
    publish(list(made(200)), board, folder / "published" / PROTOCOL)
    Tracker(folder / "logged").log(next(made(2, 1)))
    copy(folder / "mlflow.db", count, ended=time.time() - 86_400, results=None)
    path, fetch = tables.table_path(PROTOCOL), lambda *_: made(count - 200, 200)
    source = tables.Source(PROTOCOL, folder / "published", fetch, path=path, tracking=tables.tracking_id())
    source.refresh()
    if len(source.results) != count or source.message:
        raise SystemExit(f"expected {count} results, given {len(source.results)}: {source.message}")
    return {"first fill: memory, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def copy(database: Path, count: int, ended: float, results: list[Result] | None) -> None:
    """Insert copies of the logged run into MLflow's tables; `results`: their records, if given, one for each copy."""
    connection = sqlite3.connect(database)
    (model,) = connection.execute("SELECT run_uuid FROM tags WHERE value = 'scenario' LIMIT 1").fetchone()
    ids = [(uuid.uuid4().hex if results else f"{i:032x}",) for i in range(count)]
    connection.execute("CREATE TEMP TABLE fresh (id TEXT PRIMARY KEY)")
    connection.executemany("INSERT INTO fresh VALUES (?)", ids)
    for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        values = ["fresh.id" if n == "run_uuid" else str(int(ended * 1000)) if n == "end_time" else n for n in names]
        connection.execute(
            f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} FROM {table}, fresh "
            f"WHERE run_uuid = '{model}' ORDER BY fresh.id"
        )
    for (run,), result in zip(ids, results or [], strict=False):
        connection.execute(
            "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = 'leakboard.record'", (result.to_json(), run)
        )
    connection.commit()
    connection.close()


class Clock:
    """Elapsed seconds of named pieces of work, and CPU seconds under "NAME (CPU)"; the longest of equal names."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        start, spent = time.perf_counter(), time.process_time()
        done = work()
        for kind, seconds in (("", time.perf_counter() - start), (" (CPU)", time.process_time() - spent)):
            self.seconds[name + kind] = max(self.seconds.get(name + kind, 0), seconds)
        return done


def measure_tables(folder: Path, count: int) -> dict[str, float]:
    """Seconds of the steps that make the first page."""
    timed = Clock()
    results = timed("  table read", lambda: tables.source(PROTOCOL).results)
    board = tables.board_of(PROTOCOL)
    frame = timed("  columns", lambda: scenarios(results))
    timed("  ranked", lambda: [defense_table(frame, board), *(attack_table(frame, board, t) for t in TASK_METRICS)])
    return timed.seconds


def measure_app(folder: Path, count: int) -> dict[str, float]:
    """Seconds of opening, filtering and refreshing the app, and the peak memory of the process in GB."""
    from streamlit.testing.v1 import AppTest

    from benchmark.run import tracking

    timed = Clock()
    page = str(ROOT / "leaderboard" / "app.py")
    empty = AppTest.from_file(page, default_timeout=600)
    empty.query_params["protocol"] = "smoke"
    timed("imports, empty page", empty.run)
    tables.source.cache_clear()
    app = AppTest.from_file(page, default_timeout=600)
    timed("first page", app.run)
    rows = sum(len(table.value) for table in app.dataframe)
    timed("filter", app.text_input(key="search").set_value("defense_0001").run)
    if app.exception or not rows or not 0 < sum(len(table.value) for table in app.dataframe) < rows:
        raise SystemExit(f"expected a page whose filter finds a defense, given {app.exception} and {rows} rows")
    app.text_input(key="search").set_value("").run()
    timed("filter", app.button_group(key="trust").set_value(["reproduced"]).run)

    source = tables.source(PROTOCOL)
    timed("MLflow imported", tracking.connect)
    source._look_at = 0
    source.refresh()
    source._look_at = 0
    timed("look without news", source.refresh)
    copy(folder / "mlflow.db", NEW, time.time(), list(made(NEW, count)))
    source._look_at, source._written = 0, -1e9
    timed("1,000 new runs", source.refresh)
    if source.message or len(source.results) != count + NEW:
        raise SystemExit(f"expected {count + NEW} results, given {len(source.results)}: {source.message}")
    return timed.seconds | {"memory, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


STEPS = {"prepare": prepare, "tables": measure_tables, "app": measure_app}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--step", choices=list(STEPS), help="used by the script itself")
    arguments = parser.parse_args()
    if arguments.step:
        folder, count = Path.cwd(), arguments.sizes[0]
        print(json.dumps(STEPS[arguments.step](folder, count)))
        return 0
    figures: dict[int, dict[str, float]] = {}
    for count in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            own = {
                "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "LEAKBOARD_PUBLISHED": f"{folder}/published",
                "PYTHONPATH": str(ROOT), "LEAKBOARD_PUBLIC": "",
            }  # fmt: skip
            for step in STEPS:
                command = [sys.executable, __file__, "--sizes", str(count), "--step", step]
                done = subprocess.run(
                    command, cwd=folder, env=os.environ | own, stdout=subprocess.PIPE, text=True, check=True
                )
                figures.setdefault(count, {}).update(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'results':26}" + "".join(f"{count:>12,}" for count in figures))
    for name in next(iter(figures.values())):
        print(f"{name:26}" + "".join(f"{numbers[name]:12.3f}" for numbers in figures.values()))
    kept = all(numbers[name] <= most for numbers in figures.values() for name, most in PROMISES.items())
    sizes = sorted(figures)
    linear = all(
        figures[large][name] <= figures[small][name] * large / small
        for small, large in pairwise(sizes)
        for name in PROMISES
    )
    print("kept" if kept and linear else f"NOT KEPT: promised {PROMISES}, and growth no worse than linear")
    return 0 if kept and linear else 1


if __name__ == "__main__":
    sys.exit(main())
