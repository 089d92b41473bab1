"""Benchmark: a sweep of copies of one target, whose answers are stored, against asking the target anew for every copy.

The sweep is over losses and architectures of the stealing attack by posteriors, on digits-v2. Times are CPU seconds on one
thread of whole scenarios: asking, training the copy, and scoring it. What is asked anew goes through the same guards, and nothing
of it is stored or remembered. The first scenario of the stored way pays for the answers. The promise is about a target behind
DIFFENCE with the 30 reconstructions of its paper: each answer takes as many evaluations of a UNet. The bare network and
MemGuard answer in less time than a copy takes to train, so that little can be saved; their ratios are shown beside it.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmark import protocol
from benchmark.judge import kinds
from benchmark.judge.kinds.stealing import Kind
from benchmark.networks.access import Answers, GuardedTarget
from benchmark.run.work import Setting
from benchmark.targets.artifacts import Artifacts

SUBMISSIONS = Path(__file__).resolve().parents[2] / "submissions"
LOSSES, NETWORKS = ("cross-entropy", "mse", "logits"), ("small_cnn", "simple_cnn")


def promise(what: str, kept: bool, promised: str, measured: str) -> None:
    print(f"{'kept  ' if kept else 'MISSED'} {what}: promised {promised}; {measured}", flush=True)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the CPU seconds of this process, which has one thread."""
    begin = time.process_time()
    result = work()
    return result, time.process_time() - begin


class Anew(Kind):
    """Asks the model for every answer, as if nothing were stored."""

    def _target(self, role: str, *asked: str) -> GuardedTarget:
        predict = self._model(role).predictor(stored=False)
        return GuardedTarget(self.attack.entry.access, predict, Answers())  # type: ignore[arg-type]


def sweep(artifacts: Artifacts, chain: str, kind: type[Kind], epochs: int) -> list[dict[str, float]]:
    """The metrics of a copy of each loss and architecture."""
    found = []
    for architecture in NETWORKS:
        for loss in LOSSES:
            attack = artifacts.registry.attack(
                f"steal_posteriors[epochs={epochs},architecture={architecture},loss={loss}]"
            )
            found.append(kind(artifacts, attack, artifacts.chain(chain), 0).score().metrics)
            artifacts.end_job()
    return found


def compare(artifacts: Artifacts, chain: str, epochs: int) -> tuple[float, str]:
    """How many times as fast the stored way is, and what was measured."""
    model = artifacts.served(artifacts.chain(chain), 0)
    model.answers("target-test")  # of the judge's own, and of every attack on this target
    stored, short = timed(lambda: sweep(artifacts, chain, kinds.KINDS["stealing"], epochs))  # type: ignore[arg-type]
    anew, long = timed(lambda: sweep(artifacts, chain, Anew, epochs))
    apart = max(abs(a["agreement"] - b["agreement"]) for a, b in zip(stored, anew, strict=True))
    asked = len(artifacts.population(0).parts["shadow-train"])
    return long / short, (
        f"{long / short:.1f} times ({short:.1f} and {long:.1f} s for {len(stored)} copies of {asked} queries each), "
        f"agreements at most {apart:.3f} apart"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="little of everything: does it run?")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    loaded = protocol.load("smoke" if options.quick else "digits-v2")
    with tempfile.TemporaryDirectory() as folder:
        artifacts = Setting(loaded, SUBMISSIONS, Path(folder), "cpu", "never").artifacts()
        epochs = 2 if options.quick else 50
        ratio, measured = compare(artifacts, "diffence[n=30,timestep=80,train_steps=200]", epochs)
        promise("a sweep of copies, DIFFENCE", ratio >= 1.5, "1.5 times as fast as asking anew", measured)
        for name, chain in (("MemGuard", "memguard[as_released=true]"), ("the bare network", "undefended")):
            print(f"  {name}: {compare(artifacts, chain, epochs)[1]}", flush=True)


if __name__ == "__main__":
    main()
