"""Benchmark: the cost of isolation: starting a sandbox, a fork, each scenario, and a whole protocol.

The same command runs in turns without and with `--isolation always`, each time in an empty store, with two
workers. Promised: at most 5 s for an entry (starting its sandbox) plus 10 % for each scenario, the whole at most 30 %
longer, and the same numbers to the last digit. It needs two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmark import protocol
from benchmark.entries.registry import Registry
from benchmark.sandbox.host import launcher
from benchmark.sandbox.remote import Isolation, Setup

ROOT = Path(__file__).resolve().parents[2]
PROMISE, START = 1.30, 5.0


def starts() -> dict[str, tuple[float, float]]:
    """For each entry the seconds to open its first session, which starts a sandbox, and its second, which forks it."""
    isolation = Isolation("always", launcher())
    registry = Registry(ROOT / "submissions")
    setup = Setup("small_cnn", 10, (1, 8, 8), {"pad": 1, "flip": False}, torch.device("cpu"))
    times = {}
    for kind, id in registry.entries:
        part = registry.attack(id) if kind == "attack" else registry.chain(id, "undefended").parts[-1]
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            isolation.open(part, setup)
            seconds.append(time.perf_counter() - start)
            isolation.end_sessions()
        times[f"{kind} {id}"] = (seconds[0], seconds[1])
    isolation.close()
    return times


def run(name: str, arguments: list[str]) -> tuple[float, list[dict[str, Any]]]:
    """Seconds and records of one run of the command in an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"LEAKBOARD_STORE": f"{folder}/store", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        command = [sys.executable, "-m", "leakboard", "run", "--protocol", name, "--workers", "2", "--json", *arguments]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=os.environ | own, stdout=subprocess.PIPE, text=True, check=True)
        return time.perf_counter() - start, json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--protocol", default="digits-v2")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    times = starts()
    for entry, (first, second) in times.items():
        print(f"{entry:28} start {first:5.2f} s, fork {second * 1000:6.0f} ms")
    seed = ["--seed", str(protocol.load(arguments.protocol).seeds[0])] if arguments.quick else []
    plain, isolated = [], []
    for _ in range(arguments.rounds):
        plain.append(run(arguments.protocol, seed))
        isolated.append(run(arguments.protocol, [*seed, "--isolation", "always"]))
    key = ("attack", "defense", "seed")
    before, after = ({tuple(r[k] for k in key): r for r in rounds[0][1]} for rounds in (plain, isolated))
    same = sum(all(before[k][n] == after[k][n] for n in ("metrics", "intervals", "roc", "null_auc")) for k in before)
    ratios = [statistics.median(x[0] for x in rounds) for rounds in (plain, isolated)]
    extra = [
        after[k]["cost"]["seconds"] - before[k]["cost"]["seconds"] for k in before if "seconds" in before[k]["cost"]
    ]
    spent = sum(r["cost"].get("seconds", 0.0) for r in before.values())
    print(f"{same} of {len(before)} records are identical")
    print(
        f"attacks themselves: {spent:.1f} s in process, {sum(extra):+.1f} s isolated ({sum(extra) / len(extra) * 1000:+.0f} ms each)"
    )
    print(
        f"{arguments.protocol}: {ratios[0]:.1f} s in process, {ratios[1]:.1f} s isolated: {ratios[1] / ratios[0]:.2f} times"
    )
    kept = ratios[1] / ratios[0] <= PROMISE and max(f for f, _ in times.values()) <= START and same == len(before)
    print("kept" if kept else f"NOT KEPT: promised {PROMISE:.2f} times, {START:.0f} s a start, identical records")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
