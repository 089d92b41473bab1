"""Benchmark: training defenses against plain implementations of the same, in one process of one thread.

SELENA: its sub-models as `torch.func` ensembles against one by one, on digits-v2. DP-SGD: ours against Opacus's
PrivacyEngine with its default per-sample gradients; network, data, noise, batches an epoch and epochs are the same, so
epsilon is too. Accounting: once for all reference models. Times are CPU seconds.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmark import protocol
from benchmark.data.population import populate
from benchmark.entries.registry import Registry
from benchmark.networks import training
from benchmark.networks.training import TrainingRun

SUBMISSIONS = Registry(Path(__file__).resolve().parents[2] / "submissions")
CPU = torch.device("cpu")


def made(name: str, **chosen: Any) -> Any:
    """A defense of the registry with these hyperparameters."""
    entry = SUBMISSIONS.entry("defense", name)
    return entry.load()(entry.load().Params(**chosen))  # type: ignore[attr-defined]


def promise(what: str, kept: bool, promised: str, measured: str) -> None:
    print(f"{'kept  ' if kept else 'MISSED'} {what}: promised {promised}; {measured}", flush=True)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the CPU seconds of this process, which has one thread."""
    begin = time.process_time()
    result = work()
    return result, time.process_time() - begin


def side_by_side(ways: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, Any], dict[str, float]]:
    """The result of each way and the seconds of its fastest round. Ways take turns, after one warm-up round."""
    results = {name: work() for name, work in ways.items()}
    fastest = dict.fromkeys(ways, float("inf"))
    for number in range(rounds):
        for name, work in ways.items():
            fastest[name] = min(fastest[name], timed(work)[1])
        print(f"  round {number + 1}, best so far: {', '.join(f'{n} {s:.2f} s' for n, s in fastest.items())}")
    return results, fastest


def task_of(name: str, images: int | None, **recipe: Any) -> TrainingRun:
    """Training of the target under a protocol, seed 0; images: only the first so many. recipe: fields to change."""
    setting = protocol.load(name)
    population = populate(setting, 0)
    train, none = (population.samples(population.parts["target-train"][:n]) for n in (images, 0))
    architecture = recipe.pop("architecture", setting.architecture)
    return TrainingRun(
        train=train, reference=none, validation=none, classes=population.data.classes,
        recipe=setting.recipe.model_copy(update=recipe), architecture=architecture, simple=population.data.simple,
        seed=0, device=CPU,
    )  # fmt: skip


# --- SELENA -----------------------------------------------------------------------------------------


def selena(epochs: int | None, rounds: int) -> None:
    changes = {"epochs": epochs} if epochs else {}
    tasks = {
        "ensembles": task_of("digits-v2", None, **changes),
        "one by one": task_of("digits-v2", None, ensemble=1, **changes),
    }
    defense, groups, fit_ensemble = made("selena"), [], training.fit_ensemble

    def watched(tasks: Sequence[TrainingRun], *rest: Any) -> Any:
        groups.append(len(tasks))
        return fit_ensemble(tasks, *rest)

    training.fit_ensemble = watched
    try:
        ways: dict[str, Callable[[], Any]] = {n: lambda task=t: defense.train(task) for n, t in tasks.items()}  # type: ignore[misc]
        _, seconds = side_by_side(ways, rounds)
    finally:
        training.fit_ensemble = fit_ensemble
    size = tasks["ensembles"].recipe.ensemble
    kept = groups == (rounds + 1) * [min(size, 25 - i) for i in range(0, 25, size)]
    promise(
        "SELENA's 25 sub-models and student on digits", kept, "sub-models of a small network train as ensembles",
        f"in groups of {', '.join(map(str, groups[: -(-25 // size)]))}; {seconds['ensembles']:.2f} s beside "
        f"{seconds['one by one']:.2f} s one by one: {seconds['one by one'] / seconds['ensembles']:.2f} times as fast",
    )  # fmt: skip


# --- DP-SGD -----------------------------------------------------------------------------------------


def opacus(task: TrainingRun, defense: Any, network: nn.Module) -> float:
    """Train with Opacus as in its tutorials; returns epsilon."""
    from opacus import PrivacyEngine

    noise, _, _, delta = defense.run(task)
    recipe = task.recipe
    engine = PrivacyEngine(accountant="rdp")
    model, optimizer, loader = engine.make_private(
        module=network.train(),
        optimizer=torch.optim.SGD(
            network.parameters(), recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        ),
        data_loader=DataLoader(TensorDataset(task.train.x, task.train.y), batch_size=recipe.batch_size),
        noise_multiplier=noise,
        max_grad_norm=defense.params.max_grad_norm,
    )
    for _ in range(recipe.epochs):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return float(engine.get_epsilon(delta))


def dp(images: int, epochs: int, rounds: int) -> None:
    # Opacus rounds the number of batches an epoch down; here it is a whole number.
    task = task_of("fashion-mini-v2", images, architecture="simple_cnn", epochs=epochs, precision="float32",
                   channels_last=False, batch_size=50)  # fmt: skip
    defense = made("dp_sgd")
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: defense.train(task),
        "Opacus": lambda: opacus(task, defense, defense.network(task)),
    }
    results, seconds = side_by_side(ways, rounds)
    ratio, epsilon = seconds["Opacus"] / seconds["ours"], defense.claims(task).epsilon or 0.0
    equal = abs(epsilon - results["Opacus"]) < 1e-6 * epsilon
    promise(
        f"DP-SGD on simple_cnn, {images:,} images, {epochs} epochs", ratio >= 1 and equal,
        "no slower than Opacus at equal epsilon",
        f"{ratio:.2f} times as fast ({seconds['ours']:.2f} s, {seconds['Opacus']:.2f} s), "
        f"epsilon {epsilon:.4f} and {results['Opacus']:.4f}",
    )  # fmt: skip


def accounting() -> None:
    from opacus.accountants import RDPAccountant

    calls, plain = 0, RDPAccountant.get_epsilon

    def counted(self: Any, delta: float) -> Any:
        nonlocal calls
        calls += 1
        return plain(self, delta)

    RDPAccountant.get_epsilon = counted
    try:
        defense, noises = made("dp_sgd", target_epsilon=8.0), []
        for seed in range(16):
            task = task_of("digits-v2", None)
            task.seed = seed
            noises.append(defense.run(task)[0])
            if not seed:
                first = calls
    finally:
        RDPAccountant.get_epsilon = plain
    kept = calls == first and len(set(noises)) == 1
    promise("accounting of 16 DP reference models", kept, "once", f"{first} calls for the first, {calls} for all")


def main() -> None:
    parts = ("selena", "dp", "accounting")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="*", choices=parts, default=parts)
    parser.add_argument("--quick", action="store_true", help="little of everything: does it run?")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="opacus")
    warnings.filterwarnings("ignore", message="Full backward hook")
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if "selena" in options.only:
        selena(2 if options.quick else None, 1 if options.quick else 3)
    if "dp" in options.only:
        dp(200 if options.quick else 2000, 1 if options.quick else 2, 1 if options.quick else 3)
    if "accounting" in options.only:
        accounting()


if __name__ == "__main__":
    main()
