"""Benchmark: the judge's training loop against a plain PyTorch loop.

Ours: `TrainingRun.fit` with bfloat16 and channels_last. Plain: float32, a DataLoader over a TensorDataset, PyTorch's
defaults. Both train the same initial weights on the same batches of Fashion-MNIST for the same epochs, with the same
SGD, schedule and threads, in turns in one process that is set up as the judge's workers are. Every pair of runs has its
own seed and its own test images, so that pooled accuracies are shares of independent images. It takes under three
minutes on an idle core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

from benchmark import protocol
from benchmark.api import Samples
from benchmark.data.population import populate
from benchmark.networks.access import raw
from benchmark.networks.training import TrainingRun
from benchmark.protocol import Recipe
from benchmark.run.executors.pool import one_thread

CPU, PAIRS = torch.device("cpu"), 5
INSTRUCTIONS = ("avx512_bf16", "amx_bf16")  # without them the loop is only promised to be no slower


@dataclass(frozen=True)
class Setup:
    """A network, training images, epochs, test images over all pairs, and the promised speedup."""

    architecture: str
    images: int
    epochs: int
    tests: int
    promise: float


SETUPS = (Setup("simple_cnn", 2000, 5, 2000, 2.0), Setup("resnet18", 256, 2, 500, 1.8))
QUICK = (Setup("simple_cnn", 500, 2, 500, 2.0), Setup("resnet18", 64, 1, 50, 1.8))


def plain(task: TrainingRun, network: nn.Module) -> nn.Module:
    recipe, data, orders = task.recipe, TensorDataset(task.train.x, task.train.y), task.generator("order")
    lr, momentum, decay = recipe.learning_rate, recipe.momentum, recipe.weight_decay
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    network.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(data), generator=orders).tolist()  # shuffled, in the same order as in our loop
        for x, y in DataLoader(data, batch_size=recipe.batch_size, sampler=order):
            optimizer.zero_grad()
            cross_entropy(network(x), y).backward()
            optimizer.step()
        schedule.step()
    return network.eval()


LOOPS: dict[str, Callable[[TrainingRun, nn.Module], nn.Module]] = {"ours": TrainingRun.fit, "plain": plain}


def make_training(setup: Setup, recipe: Recipe, train: Samples, seed: int) -> TrainingRun:
    return TrainingRun(
        train=train, reference=train, validation=train, classes=10, recipe=recipe, architecture=setup.architecture,
        simple={}, seed=seed, device=CPU,
    )  # fmt: skip


def compare(setup: Setup, train: Samples, test: Samples) -> tuple[list[float], dict[str, int]]:
    """Ratios plain / ours of seconds, one for each pair, and how many test images each loop's networks got right."""
    recipe = protocol.load("fashion-mini-v2").recipe.model_copy(
        update={"precision": "bfloat16", "channels_last": True, "augmentation": "none", "epochs": setup.epochs}
    )
    train = Samples(train.x[: setup.images], train.y[: setup.images])
    warm = Samples(train.x[: recipe.batch_size], train.y[: recipe.batch_size])
    for loop in LOOPS.values():
        task = make_training(setup, recipe, warm, 0)
        loop(task, task.build())

    ratios, right = [], dict.fromkeys(LOOPS, 0)
    questions = zip(test.x[: setup.tests].chunk(PAIRS), test.y[: setup.tests].chunk(PAIRS), strict=True)
    for pair, (x, y) in enumerate(questions):
        seconds = {}
        for name, loop in LOOPS.items():
            task = make_training(setup, recipe, train, pair)
            network = task.build()
            start = time.perf_counter()
            loop(task, network)
            seconds[name] = time.perf_counter() - start
            update_bn([train.x], network)  # after few steps BatchNorm's own statistics are still near their start
            right[name] += int((raw(network, CPU)(x).argmax(1) == y).sum())
        ratios.append(seconds["plain"] / seconds["ours"])
        print(f"  pair {pair + 1}: plain {seconds['plain']:.2f} s, ours {seconds['ours']:.2f} s", flush=True)
    return ratios, right


def report(setup: Setup, ratios: list[float], right: dict[str, int], *, native: bool) -> None:
    bounds = {name: binomtest(hits, setup.tests).proportion_ci(0.95) for name, hits in right.items()}
    for name, (low, high) in bounds.items():
        print(f"  test accuracy, {name}: {right[name] / setup.tests:.3f} ({low:.3f} to {high:.3f})")
    equal = max(b.low for b in bounds.values()) <= min(b.high for b in bounds.values())
    ratio, promise = statistics.median(ratios), setup.promise if native else 1.0
    print(
        f"  {setup.architecture}: {ratio:.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}), promised "
        f"{promise}: {'kept' if ratio >= promise else 'MISSED'}; accuracies {'equal' if equal else 'DIFFER'}"
    )


def run(setups: tuple[Setup, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    info = Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.exists() else []
    supported = [name for name in INSTRUCTIONS if name in flags]
    print(f"bfloat16 instructions: {', '.join(supported) or 'none, so ours need only be no slower'}")
    population = populate(protocol.load("fashion-mini-v2"), 0)
    train, test = (population.samples(population.parts[part]) for part in ("target-train", "target-test"))
    for setup in setups:
        print(f"{setup.architecture}: {setup.images} images, {setup.epochs} epochs")
        report(setup, *compare(setup, train, test), native=bool(supported))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=1, help="of both loops (default 1)")
    parser.add_argument("--quick", action="store_true", help="few images and epochs: does it run?")
    options = parser.parse_args()
    one_thread()  # sets environment variables that a process reads when it starts
    print(f"torch {torch.__version__}, {options.threads} threads, load {os.getloadavg()[0]:.1f}")
    arguments = (QUICK if options.quick else SETUPS, options.threads)
    worker = multiprocessing.get_context("spawn").Process(target=run, args=arguments)
    worker.start()
    worker.join()
    raise SystemExit(worker.exitcode)


if __name__ == "__main__":
    main()
