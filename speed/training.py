"""How fast our training loop is, beside the loop that everybody writes.

Ours: `TrainingTask.fit` with bfloat16 and channels_last. Theirs: float32, a DataLoader over a TensorDataset,
torch's defaults. Both train the same initial weights on the same Fashion-MNIST images for the same epochs, with
the same SGD, batch size, schedule and threads, in one process and in turns. A pair shares its seed, and tests on
images that no other pair tests on, so that pooled accuracies are shares of independent images.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from benchmark import protocol
from benchmark.access import raw
from benchmark.api import Samples
from benchmark.population import populate
from benchmark.protocol import Recipe
from benchmark.training import TrainingTask

CPU = torch.device("cpu")
INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
"""Without them bfloat16 is emulated, and all that is promised is not to be slower than float32."""


@dataclass(frozen=True)
class Setup:
    """What is trained for how long, how many images test it in all, and the ratio promised."""

    architecture: str
    images: int
    epochs: int
    tests: int
    promise: float


SETUPS = (Setup("simple_cnn", 2000, 8, 2000, 2.0), Setup("resnet18", 256, 2, 500, 1.8))
QUICK = (Setup("simple_cnn", 500, 2, 500, 2.0), Setup("resnet18", 64, 1, 50, 1.8))


def ours(task: TrainingTask, network: nn.Module) -> nn.Module:
    return task.fit(network)


def plain(task: TrainingTask, network: nn.Module) -> nn.Module:
    recipe, data = task.recipe, TensorDataset(task.train.x, task.train.y)
    # What `shuffle=True` does, from a generator that gives both loops the same batches.
    shuffle = RandomSampler(data, generator=task.generator("order"))
    loader = DataLoader(data, batch_size=recipe.batch_size, sampler=shuffle)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    network.train()
    for _ in range(recipe.epochs):
        for x, y in loader:
            optimizer.zero_grad()
            cross_entropy(network(x), y).backward()
            optimizer.step()
        schedule.step()
    return network.eval()


LOOPS: dict[str, Callable[[TrainingTask, nn.Module], nn.Module]] = {"ours": ours, "plain": plain}


def make_task(setup: Setup, recipe: Recipe, train: Samples, seed: int) -> TrainingTask:
    return TrainingTask(
        train=train, reference=train, validation=train, classes=10, recipe=recipe, architecture=setup.architecture,
        simple={}, seed=seed, device=CPU,
    )  # fmt: skip


def compare(setup: Setup, pairs: int, train: Samples, test: Samples) -> tuple[list[float], dict[str, int]]:
    """Ratios plain/ours of seconds, one a pair, and how many test images each loop's networks got right."""
    recipe = protocol.load("fashion-mini-v1").recipe.model_copy(
        update={"precision": "bfloat16", "channels_last": True, "augmentation": "none", "epochs": setup.epochs}
    )
    train = Samples(train.x[: setup.images], train.y[: setup.images])
    warm = Samples(train.x[: recipe.batch_size], train.y[: recipe.batch_size])
    for loop in LOOPS.values():
        task = make_task(setup, recipe.model_copy(update={"epochs": 1}), warm, 0)
        loop(task, task.build())

    ratios, right = [], dict.fromkeys(LOOPS, 0)
    questions = zip(test.x[: setup.tests].chunk(pairs), test.y[: setup.tests].chunk(pairs), strict=True)
    for pair, (x, y) in enumerate(questions):
        seconds = {}
        for name, loop in LOOPS.items():
            task = make_task(setup, recipe, train, pair)
            network = task.build()
            start = time.perf_counter()
            loop(task, network)
            seconds[name] = time.perf_counter() - start
            right[name] += int((raw(network, CPU)(x).argmax(1) == y).sum())
        ratios.append(seconds["plain"] / seconds["ours"])
        print(f"  pair {pair + 1}: plain {seconds['plain']:.2f} s, ours {seconds['ours']:.2f} s", flush=True)
    return ratios, right


def report(setup: Setup, ratios: list[float], right: dict[str, int], native: bool) -> None:
    bounds = {}
    for name, hits in right.items():
        bounds[name] = binomtest(hits, setup.tests).proportion_ci(0.95)
        low, high = bounds[name]
        print(f"  test accuracy, {name}: {hits / setup.tests:.3f} ({low:.3f} to {high:.3f})")
    equal = max(b.low for b in bounds.values()) <= min(b.high for b in bounds.values())
    ratio, promise = statistics.median(ratios), setup.promise if native else 1.0
    print(
        f"  {setup.architecture}: {ratio:.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}), promised "
        f"{promise}: {'kept' if ratio >= promise else 'MISSED'}; accuracies {'equal' if equal else 'DIFFER'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=1, help="of both loops (default 1)")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few images and epochs: does it run?")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    native = any(name in flags for name in INSTRUCTIONS)
    found = ", ".join(name for name in INSTRUCTIONS if name in flags) or "none: ours need only not be slower"
    print(f"torch {torch.__version__}, {platform.machine()}, {options.threads} threads, load {os.getloadavg()[0]:.1f}")
    print(f"bfloat16 instructions: {found}")
    population = populate(protocol.load("fashion-mini-v1"), 0)
    train, test = (population.samples(population.parts[part]) for part in ("target-train", "target-test"))
    for setup in QUICK if options.quick else SETUPS:
        print(f"{setup.architecture}: {setup.images} images, {setup.epochs} epochs, batches of 64")
        report(setup, *compare(setup, options.pairs, train, test), native)


if __name__ == "__main__":
    main()
