"""Benchmark: the cost of robust training relative to plain training by the same recipe.

Each defense trains the same initial weights on the same images of Fashion-MNIST for the same epochs as `undefended`, in
turns in one process that is set up as the judge's workers are. Training with an attack of m steps may cost (m + 1.3)
times as much. Times are CPU seconds. In the smallest network the gradient in the pixels, which plain training does not
need, costs most: the first convolution, of one channel, is the slowest part of a step. It takes about a minute on an
idle core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark import protocol
from benchmark.api import Defense, Samples
from benchmark.data.population import populate
from benchmark.entries.registry import Registry
from benchmark.networks.training import TrainingRun
from benchmark.run.executors.pool import one_thread

CPU, PAIRS = torch.device("cpu"), 5
SUBMISSIONS = Path(__file__).resolve().parents[2] / "submissions"
ATTACKING = ("pgd_training", "wrm", "trades")


@dataclass(frozen=True)
class Setup:
    """A network, number of images, epochs, and the defenses that are timed."""

    architecture: str
    images: int
    epochs: int
    defenses: tuple[str, ...]


SETUPS = (
    Setup("small_cnn", 600, 2, (*ATTACKING, "ibp")),
    Setup("simple_cnn", 320, 1, (*ATTACKING, "ibp")),
    Setup("resnet18", 64, 1, ATTACKING),
)
QUICK = (Setup("small_cnn", 200, 2, (*ATTACKING, "ibp")), Setup("resnet18", 16, 1, ATTACKING[:1]))


def seconds(setup: Setup, defense: Defense, train: Samples, seed: int) -> float:
    recipe = protocol.load("fashion-mini-v2").recipe.model_copy(update={"epochs": setup.epochs})
    task = TrainingRun(
        train=train, reference=train, validation=train, classes=10, recipe=recipe, architecture=setup.architecture,
        simple={}, seed=seed, device=CPU,
    )  # fmt: skip
    start = time.process_time()  # CPU time of one thread: other load on the machine hardly matters
    defense.train(task)
    return time.process_time() - start


def compare(setup: Setup, train: Samples) -> None:
    """Time each defense and plain training in turns, and print the ratios of their seconds."""
    train = Samples(train.x[: setup.images], train.y[: setup.images])
    registry = Registry(SUBMISSIONS)
    defenses = {name: registry.chain(name, "undefended").training.create() for name in ("undefended", *setup.defenses)}
    for defense in defenses.values():
        seconds(setup, defense, Samples(train.x[:16], train.y[:16]), 0)
    taken = [{name: seconds(setup, d, train, pair) for name, d in defenses.items()} for pair in range(PAIRS)]
    plain = statistics.median(times["undefended"] for times in taken)
    print(f"{setup.architecture}: {setup.images} images, {setup.epochs} epochs, plain {plain:.2f} s", flush=True)
    for name in setup.defenses:
        ratios = [times[name] / times["undefended"] for times in taken]
        ratio, steps = statistics.median(ratios), getattr(defenses[name].params, "steps", None)
        verdict = ""
        if steps:
            verdict = f", promised at most {steps + 1.3:.1f}: {'kept' if ratio <= steps + 1.3 else 'MISSED'}"
        print(
            f"  {name}: {ratio:.2f} times plain training ({min(ratios):.2f} to {max(ratios):.2f}){verdict}", flush=True
        )


def run(setups: tuple[Setup, ...]) -> None:
    torch.set_num_threads(1)
    population = populate(protocol.load("fashion-mini-v2"), 0)
    train = population.samples(population.parts["target-train"])
    for setup in setups:
        compare(setup, train)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="few images and epochs: does it run?")
    options = parser.parse_args()
    one_thread()  # sets environment variables that a process reads when it starts
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    worker = multiprocessing.get_context("spawn").Process(target=run, args=(QUICK if options.quick else SETUPS,))
    worker.start()
    worker.join()
    raise SystemExit(worker.exitcode)


if __name__ == "__main__":
    main()
