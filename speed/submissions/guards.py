"""Benchmark: guards. MemGuard against a loop over posteriors, and DIFFENCE in batches against single images.

MemGuard works on 2,000 answers of a target of fashion-mini-v2, half of them to members. The loop is algorithm 1 as in
the released code: one posterior at a time, with a call of the classifier and a gradient in every step. It runs on some
of the answers, and its seconds are scaled to all; our own code with one posterior at a time is timed too. DIFFENCE's
network and UNet are untrained, since weights do not matter for time; images have Fashion-MNIST's size. Times are CPU
seconds on one thread. The last part counts how many reconstructions DIFFENCE needs until one lies in its interval.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark import networks, protocol
from benchmark.api import Context
from benchmark.entries.registry import Registry
from benchmark.networks.access import raw
from benchmark.run.work import Setting

SUBMISSIONS = Path(__file__).resolve().parents[2] / "submissions"
CPU = torch.device("cpu")
SHAPE = (1, 28, 28)


def promise(what: str, kept: bool, promised: str, measured: str) -> None:
    print(f"{'kept  ' if kept else 'MISSED'} {what}: promised {promised}; {measured}", flush=True)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the CPU seconds of this process, which has one thread."""
    begin = time.process_time()
    result = work()
    return result, time.process_time() - begin


def module(name: str) -> Any:
    """The module of a defense, as the registry loads it."""
    return sys.modules[Registry(SUBMISSIONS).entry("defense", name).load().__module__]


def posteriors(n: int, epochs: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-posteriors (n, 10) of the undefended target of fashion-mini-v2, seed 0, and MemGuard's state there."""
    setting = protocol.load("fashion-mini-v2")
    if epochs:
        setting = setting.model_copy(update={"recipe": setting.recipe.model_copy(update={"epochs": epochs})})
    with tempfile.TemporaryDirectory() as folder:
        artifacts = Setting(setting, SUBMISSIONS, Path(folder), "cpu", "never").artifacts()
        target = artifacts.served(artifacts.chain("memguard"), 0)
        state = target.guards[0].state()
        x = torch.cat([artifacts.population(0).part(part).x[: n // 2] for part in ("target-train", "target-test")])
        return target.behind(0).predictor()(x), state


def one_by_one(clean: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Algorithm 1 of Jia et al. 2019 written plainly, for one answer: log-posteriors (k,) -> log-posteriors (k,)."""
    mean, scale = state["mean"], state["scale"]
    layers = [(state[f"weight{i}"], state[f"bias{i}"]) for i in range(4)]

    def g(log_posteriors: Tensor) -> Tensor:
        hidden = (log_posteriors.sort().values - mean) / scale
        for i, (weight, bias) in enumerate(layers):
            hidden = torch.nn.functional.linear(hidden if i == 0 else hidden.relu(), weight, bias)
        return hidden[0]

    start, order = clean.clamp_min(-50).sort()
    side, noisy, weight = float(g(start)), start, 0.1
    # Computed as below, so that the L1 norm has slope 0 at the start and not the sign of a rounding error.
    law = start.log_softmax(0).exp()

    def done(logits: Tensor) -> bool:
        return float(g(logits.log_softmax(0))) * side <= 0 and bool(logits[:-1].max() <= logits[-1])

    while weight < 2e5 and abs(1 / (1 + math.exp(-side)) - 0.5) > 1e-5:
        logits = start.clone()
        for _ in range(300):
            if done(logits):
                break
            z = logits.requires_grad_()
            log_posteriors = z.log_softmax(0)
            cost = g(log_posteriors).abs() + 10 * (z[:-1].max() - z[-1]).relu()
            cost = cost + weight * (log_posteriors.exp() - law).abs().sum()
            (gradient,) = torch.autograd.grad(cost, z)
            logits = (logits - 0.1 * gradient / gradient.norm()).detach()
        if not done(logits):
            break
        noisy, weight = logits.log_softmax(0), weight * 10
        if float((noisy.exp() - law).abs().sum()) <= 0.01:
            break
    if abs(float(g(noisy))) >= abs(side):
        return clean
    return torch.empty_like(clean).scatter_(0, order, noisy)


def memguard(n: int, sample: int, epochs: int | None) -> None:
    code = module("memguard")
    clean, state = posteriors(n, epochs)
    code.add_noise(clean[:2], state)  # warm-up
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:sample]
    slow, long = timed(lambda: torch.stack([one_by_one(clean[i], state) for i in rows.tolist()]))
    own, single = timed(lambda: torch.cat([code.add_noise(clean[i : i + 1], state) for i in rows.tolist()]))
    runs = [timed(lambda: torch.cat([code.add_noise(part, state) for part in clean.split(code.CHUNK)])) for _ in "123"]
    fast, quick = runs[0][0], min(seconds for _, seconds in runs)
    long, single = long * n / sample, single * n / sample
    apart = max(float((fast[rows].exp() - each.exp()).abs().max()) for each in (slow, own))
    noisy = float((fast != clean).any(1).double().mean())
    promise(
        f"MemGuard, {n:,} posteriors", long / quick >= 50 and apart < 1e-9, "50 times as fast as a loop, equal outputs",
        f"{long / quick:.0f} times ({quick:.1f} s, {1e3 * quick / n:.1f} ms each; the loop {long:.0f} s, scaled from {sample}; "
        f"our own code one at a time {single:.0f} s), "
        f"posteriors at most {apart:.0e} apart, {noisy:.0%} of them with noise",
    )  # fmt: skip


def diffence(n: int, batch: int, alone: int) -> None:
    code = module("diffence")
    passes: list[int] = []
    forward = code.Denoiser.forward
    code.Denoiser.forward = lambda self, x, t: (passes.append(len(x)), forward(self, x, t))[1]
    torch.manual_seed(0)
    network = raw(networks.build("small_cnn", 10, SHAPE, 0), CPU)
    x = (torch.rand(batch, *SHAPE) * 255).round() / 255
    weights = code.build_unet(SHAPE).state_dict()
    for scenario in (3, 1):
        state = weights | ({code.INTERVAL: torch.tensor([0.0, 2.0], dtype=torch.float64)} if scenario == 1 else {})
        context = Context(b"key", CPU, lambda name, x, make: make())  # stores nothing
        guard = code.Diffence(code.Diffence.Params(n=n, scenario=scenario)).guard(network, state, context)
        guard(x[:2])
        passes.clear()
        _, together = timed(lambda guard=guard: guard(x))
        evaluations = sum(passes) / batch
        _, one = timed(lambda guard=guard: [guard(x[i : i + 1]) for i in range(alone)])
        _, bare = timed(lambda: network(x))
        promise(
            f"DIFFENCE, scenario {scenario}, N = {n}", evaluations == n, "N evaluations of the UNet a query",
            f"{evaluations:g}",
        )  # fmt: skip
        ratio = (one / alone) / (together / batch)
        promise(
            f"DIFFENCE, scenario {scenario}, batches of {batch}", ratio >= 3, "3 times the throughput of one at a time",
            f"{ratio:.1f} times ({1e3 * together / batch:.1f} and {1e3 * one / alone:.1f} ms a query, "
            f"the network alone {1e3 * bare / batch:.2f})",
        )  # fmt: skip


def retries(n: int, samples: int, epochs: int | None) -> None:
    """How many reconstructions it takes until one lies in scenario 1's interval (Peng et al. 2025, figure 10)."""
    code = module("diffence")
    setting = protocol.load("fashion-mini-v2")
    if epochs:
        setting = setting.model_copy(update={"recipe": setting.recipe.model_copy(update={"epochs": epochs})})
    with tempfile.TemporaryDirectory() as folder:
        artifacts = Setting(setting, SUBMISSIONS, Path(folder), "cpu", "never").artifacts()
        chain = artifacts.chain(f"diffence[n={n},scenario=1]")
        target = artifacts.served(chain, 0)
        state, network = target.guards[0].state(), target.behind(0).predictor()
        x = artifacts.population(0).part("target-train").x[:samples]
    low, high = state.pop(code.INTERVAL).tolist()
    unet = code.build_unet(SHAPE)
    unet.load_state_dict(state)
    step, g = chain.guards[0].params.model_dump()["timestep"], torch.Generator().manual_seed(0)
    made = [code.reconstruct(unet.eval(), x, torch.randn(x.shape, generator=g), step) for _ in range(n)]
    known = code.candidates(network(x), torch.stack([network(r) for r in made]))
    inside = code.distance(known, low, high) == 0
    reached = (inside.cumsum(0) > 0).double().mean(1)
    first = float(inside[0].double().mean())
    # The share if all tries of all samples succeeded independently with the probability of the first try.
    alike = 1 - (1 - first) ** n
    shares = ", ".join(f"{float(reached[k - 1]):.1%} after {k}" for k in (1, 2, 5, 10, 20, 50) if k <= n)
    promise(
        f"DIFFENCE, tries until inside [{low:.2f}, {high:.2f}], {samples:,} members", float(reached[-1]) < alike,
        "what is outside at first stays outside longer than by chance", f"{shares}; by chance {alike:.1%} after {n}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="*", choices=("memguard", "diffence", "retries"))
    parser.add_argument("--quick", action="store_true", help="little of everything: does it run?")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    quick = options.quick
    parts: dict[str, Callable[[], None]] = {
        "memguard": lambda: memguard(200 if quick else 2000, 10 if quick else 100, 2 if quick else None),
        "diffence": lambda: diffence(3 if quick else 30, 32 if quick else 256, 4 if quick else 32),
        "retries": lambda: retries(3 if quick else 50, 50 if quick else 1000, 2 if quick else None),
    }
    for name, run in parts.items():
        if not options.only or name in options.only:
            run()


if __name__ == "__main__":
    main()
