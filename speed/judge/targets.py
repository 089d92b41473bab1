"""Benchmark: what ten targets a seed cost instead of one, and all attacks by posteriors in shares of the training time.

One seed of a protocol, undefended, in this process with one thread, from answers that are stored. Each attack runs on
one target and on all of them, in turns. Promised: ten targets cost at most twice what one does, and the attacks on
them at most 15 % of the time in which the networks train. It needs an idle core.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmark import protocol
from benchmark.judge import kinds
from benchmark.run.plan import NetworksJob, ScenarioJob, make_plan
from benchmark.run.work import Setting
from benchmark.targets.artifacts import Artifacts

SUBMISSIONS = Path(__file__).resolve().parents[2] / "submissions"
TIMES, SHARE = 2.0, 0.15


def prepared(name: str, targets: int | None, folder: Path) -> tuple[Artifacts, list[str], float]:
    """The judge with all that the required attacks by posteriors read, their names, and the seconds of training."""
    loaded = protocol.load(name)
    if targets is not None:
        loaded = loaded.model_copy(update={"targets": targets})
    artifacts = Setting(loaded, SUBMISSIONS, folder, "cpu", "never").artifacts()
    parts = [artifacts.registry.attack(attack) for attack in loaded.attacks]
    chosen = [
        p for p in parts if p.entry.task == "membership" and p.entry.access == "posterior" and not p.adversary.chosen
    ]
    chain = artifacts.chain(loaded.baseline)
    plan, training = make_plan(artifacts, chosen, [chain], [loaded.seeds[0]]), 0.0
    for job in plan.jobs.values():
        start = time.perf_counter()
        if not isinstance(job, ScenarioJob):
            job.make(artifacts)
        training += (time.perf_counter() - start) * isinstance(job, NetworksJob)
    return artifacts, [part.name for part in chosen], training


def seconds(artifacts: Artifacts, attack: str) -> float:
    """Seconds of one scenario, the judging included."""
    chain, seed = artifacts.chain(artifacts.protocol.baseline), artifacts.protocol.seeds[0]
    start = time.perf_counter()
    kinds.scenario(artifacts, artifacts.registry.attack(attack), chain, seed).score()
    artifacts.end_job()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--protocol", default="digits-v2")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        one, names, _ = prepared(options.protocol, 1, Path(folder) / "one")
        all_of_them, _, training = prepared(options.protocol, None, Path(folder) / "all")
        total = {1: 0.0, all_of_them.protocol.targets: 0.0}
        for name in names:
            rounds = [(seconds(one, name), seconds(all_of_them, name)) for _ in range(options.rounds)]
            first, every = (statistics.median(column) for column in zip(*rounds, strict=True))
            attack, chain = all_of_them.registry.attack(name), all_of_them.chain(all_of_them.protocol.baseline)
            met = len(all_of_them.targets(chain, attack))
            print(f"  {name}: {first:.3f} s on one target, {every:.3f} s on {met}", flush=True)
            total[1] += first
            total[all_of_them.protocol.targets] += every
    few, many = total.values()
    print(f"  all: {few:.2f} s and {many:.2f} s; training {training:.1f} s")
    for said, value, promise in (
        ("times one target's", many / few, TIMES),
        ("of the training time", many / training, SHARE),
    ):
        print(f"  {value:.2f} {said}, promised {promise}: {'kept' if value <= promise else 'MISSED'}")


if __name__ == "__main__":
    main()
