"""Benchmark: training 16 reference models the protocol's way, against one by one in one process.

The protocol's way: two worker processes of one thread each and, where its recipe says so, networks that train
as one `torch.func` ensemble. Every way trains the same networks for all epochs of the recipe, through the judge's
own code and an empty store. The clock starts when all workers have loaded the data and trained once.
It needs two idle cores: on busy ones two threads wait for each other and two workers gain nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from benchmark import protocol
from benchmark.protocol import Protocol
from benchmark.run.executors.pool import one_thread
from benchmark.run.work import Setting
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.experiment import NetworkId

SUBMISSIONS = Path(__file__).resolve().parents[2] / "submissions"
REFERENCES: list[NetworkId] = [("target", k) for k in range(2, 18)]
PROMISE = 1.8
"""Least speedup of the protocol's way over one by one in one process."""
STARTING = 300
"""Seconds to wait for workers to start."""


@dataclass(frozen=True)
class Way:
    """A way of training: processes, threads of each, and how many networks train as one ensemble."""

    processes: int
    threads: int
    ensemble: int

    def __str__(self) -> str:
        processes = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{processes}, {threads}, {f'ensembles of {self.ensemble}' if self.ensemble > 1 else 'one by one'}"


_artifacts: Artifacts  # set in each worker process


def start(setting: Protocol, store: Path, threads: int, group: list[NetworkId], ready: Barrier) -> None:
    """Start a worker: load the data, train a group for one epoch as a warm-up, then wait for the others."""
    global _artifacts
    torch.set_num_threads(threads)
    _artifacts = Setting(setting, SUBMISSIONS, store / str(os.getpid()), "cpu").artifacts()
    _artifacts.population(0)
    brief = setting.model_copy(update={"recipe": setting.recipe.model_copy(update={"epochs": 1})})
    make(dataclasses.replace(_artifacts, protocol=brief), group)  # the copy shares the loaded population
    ready.wait(STARTING)


def make(artifacts: Artifacts, group: list[NetworkId]) -> None:
    network = artifacts.network(artifacts.chain(artifacts.protocol.baseline).training, 0, *group[0])
    network.group = group
    network.states()


def train(group: list[NetworkId]) -> None:
    make(_artifacts, group)


def seconds(setting: Protocol, way: Way) -> float:
    """Elapsed seconds to train the reference models once, in fresh processes."""
    groups = [REFERENCES[i : i + way.ensemble] for i in range(0, len(REFERENCES), way.ensemble)]
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(way.processes + 1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (setting, Path(folder), way.threads, groups[0], ready)
        with ProcessPoolExecutor(way.processes, context, initializer=start, initargs=arguments) as pool:
            done = [pool.submit(train, group) for group in groups]  # submitting starts the processes
            ready.wait(STARTING)
            begin = time.perf_counter()
            for future in done:
                future.result()
            return time.perf_counter() - begin


def compare(setting: Protocol, rounds: int) -> None:
    """Time all ways in turns and print ratios to one process with one thread, one by one, within each round."""
    size = setting.recipe.ensemble
    one, fixed = Way(1, 1, 1), Way(2, 1, size)
    ways = [one, Way(1, 2, 1), *([Way(1, 1, size)] if size > 1 else []), fixed]
    times: dict[Way, list[float]] = {way: [] for way in ways}
    print(
        f"{setting.name}: {len(REFERENCES)} reference models, {setting.recipe.epochs} epochs, {setting.recipe.precision}"
    )
    for _ in range(rounds):
        for way in ways:
            times[way].append(seconds(setting, way))
            print(f"  {way}: {times[way][-1]:.2f} s", flush=True)
    for fast, slow in [(way, one) for way in ways[1:]] + [(fixed, way) for way in ways[1:-1]]:
        print(f"  {fast}: {summary(times[slow], times[fast])} as {slow}")
    ratio = statistics.median(ratios(times[one], times[fixed]))
    print(f"  promised {PROMISE} for two workers over one process with one thread: {ratio:.2f}, ", end="")
    print("kept" if ratio >= PROMISE else "MISSED")


def ratios(slow: list[float], fast: list[float]) -> list[float]:
    return [a / b for a, b in zip(slow, fast, strict=True)]


def summary(slow: list[float], fast: list[float]) -> str:
    each = ratios(slow, fast)
    return f"{statistics.median(each):.2f} times ({min(each):.2f} to {max(each):.2f}) as fast"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--protocol", choices=("digits-v2", "fashion-mini-v2"), help="default: both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of two epochs: does it run?")
    options = parser.parse_args()
    one_thread()  # environment variables as in the judge's workers, for every way
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in [options.protocol] if options.protocol else ["digits-v2", "fashion-mini-v2"]:
        setting = protocol.load(name)
        if options.quick:
            setting = setting.model_copy(update={"recipe": setting.recipe.model_copy(update={"epochs": 2})})
        compare(setting, 1 if options.quick else options.rounds)


if __name__ == "__main__":
    main()
