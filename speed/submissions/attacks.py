"""Benchmark: attacks against plain implementations of the same, and the growth of their memory with the candidates.

Times are CPU seconds on one thread, except for the boundary walk. That is timed on a target of fashion-mini-v2 against
HopSkipJump of the Adversarial Robustness Toolbox: the same network and images, and as many queries a sample as the
toolbox took on average, counting noise images but not padding of batches. The toolbox ends on a step, not on the
boundary, so its distances are also shown after a bisection. The promise is about elapsed seconds with PyTorch on all
cores for both. On one thread, which is also shown, nine tenths of the walk are the network itself, which both have to
query.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import networks, protocol
from benchmark.api import Candidates, Knowledge, References, Samples, Target, World, best_thresholds
from benchmark.entries.registry import Registry
from benchmark.networks.access import Answers, GuardedTarget, raw
from benchmark.run.executors.pool import one_thread
from benchmark.run.work import Setting

SUBMISSIONS = Path(__file__).resolve().parents[2] / "submissions"
CPU = torch.device("cpu")
CLASSES = 10


def promise(what: str, kept: bool, promised: str, measured: str) -> None:
    print(f"{'kept  ' if kept else 'MISSED'} {what}: promised {promised}; {measured}", flush=True)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the CPU seconds of this process, which has one thread."""
    begin = time.process_time()
    result = work()
    return result, time.process_time() - begin


def waited(work: Callable[[], Any], threads: int) -> tuple[Any, float]:
    """The result and the elapsed seconds with this number of PyTorch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        begin = time.perf_counter()
        return work(), time.perf_counter() - begin
    finally:
        torch.set_num_threads(before)


def fastest(work: Callable[[], Any], rounds: int = 5) -> tuple[Any, float]:
    runs = [timed(work) for _ in range(rounds)]
    return runs[0][0], min(seconds for _, seconds in runs)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made_up(n: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> Samples:
    g = generator(seed)
    return Samples(torch.rand(n, *shape, generator=g), torch.randint(CLASSES, (n,), generator=g))


# --- The boundary -----------------------------------------------------------------------------------


def trained(epochs: int | None) -> tuple[nn.Module, Samples]:
    """The undefended target of fashion-mini-v2, seed 0, and its candidates; epochs: None: the recipe's."""
    setting = protocol.load("fashion-mini-v2")
    if epochs:
        setting = setting.model_copy(update={"recipe": setting.recipe.model_copy(update={"epochs": epochs})})
    with tempfile.TemporaryDirectory() as folder:
        artifacts = Setting(setting, SUBMISSIONS, Path(folder), "cpu").artifacts()
        network = artifacts.network(artifacts.chain(setting.baseline).training, 0).judge_copy()
        population = artifacts.population(0)
        assert network is not None
        return network, population.samples(population.candidates)


class Bare(Target):
    """A target that is the network alone, as for the toolbox; it counts its queries."""

    def __init__(self, network: nn.Module):
        self.predict, self.queries = raw(network, CPU), 0

    def labels(self, x: Tensor) -> Tensor:
        self.queries += len(x)
        return self.predict(x).argmax(1)


def boundary(samples: int, steps: int, epochs: int | None) -> None:
    from art.attacks.evasion import HopSkipJump  # it takes seconds to import
    from art.estimators.classification import PyTorchClassifier

    network, pool = trained(epochs)
    target = Bare(network)
    right = (target.labels(pool.x) == pool.y).nonzero().squeeze(1)[:samples]
    x, y = pool.x[right], pool.y[right]
    shape = (x.shape[1], x.shape[2], x.shape[3])
    peer = PyTorchClassifier(network, nn.CrossEntropyLoss(), shape, CLASSES, clip_values=(0.0, 1.0), device_type="cpu")
    asked, predict = 0, peer.predict

    def counted(images: Any, **options: Any) -> Any:
        nonlocal asked
        asked += len(images)
        return predict(images.astype(np.float32), **options)  # under NumPy 2 the toolbox makes them float64

    peer.predict = counted
    registry = Registry(SUBMISSIONS)
    for norm, order in (("l2", 2), ("linf", np.inf)):
        for threads in sorted({1, os.cpu_count() or 1}):
            np.random.seed(0)  # the toolbox draws from it  # noqa: NPY002
            asked = 0
            walk = HopSkipJump(peer, norm=order, max_iter=steps, verbose=False)
            adversarial, slow = waited(lambda walk=walk: walk.generate(x.numpy()), threads)  # type: ignore[misc]
            queries = asked / len(x)
            # The same budget: our 250 noise images are asked for once, for all samples together.
            share = int(queries - 250 / len(x))
            attack = registry.attack(f"label_only_boundary[norm={norm},queries={share}]").create()
            attack.fit(Knowledge(CLASSES, shape, 0, CPU))
            target.queries = 0
            ours, fast = waited(lambda attack=attack: attack.score(target, Candidates(x, y, right), None), threads)  # type: ignore[misc]
            print(
                f"  {norm}, {threads} threads: {len(x)} samples, the toolbox {queries:.0f} queries each in {slow:.1f} s, "
                f"here {target.queries / len(x):.0f} in {fast:.1f} s: {slow / fast:.1f} times"
            )
        theirs = distances(torch.tensor(adversarial) - x, norm)
        reached = theirs > 0  # 0: it returns the image itself where no noise image has another label
        print(f"  {norm}: the toolbox found no start for {int((~reached).sum())}")
        bisected = bisect(target, x, y, torch.tensor(adversarial), norm)
        medians = [float(d[reached].median()) for d in (ours, theirs, bisected)]
        promise(f"boundary {norm}, speed", slow / fast >= 5, "5 times as fast", f"{slow / fast:.1f} times")
        promise(
            f"boundary {norm}, median distance", medians[0] <= medians[1], "no larger",
            f"{medians[0]:.4f}, the toolbox {medians[1]:.4f}, after a bisection {medians[2]:.4f}",
        )  # fmt: skip


def distances(difference: Tensor, norm: str) -> Tensor:
    flat = difference.flatten(1).double()
    return flat.norm(dim=1) if norm == "l2" else flat.abs().amax(1)


def bisect(target: Target, x: Tensor, y: Tensor, far: Tensor, norm: str) -> Tensor:
    """Distances (n,) after 20 bisections of the lines from x to the toolbox's images `far`."""
    low, high = torch.zeros(len(x), 1, 1, 1), torch.ones(len(x), 1, 1, 1)
    for _ in range(20):
        middle = (low + high) / 2
        outside = (target.labels(torch.lerp(x, far, middle)) != y).view(-1, 1, 1, 1)
        low, high = torch.where(outside, low, middle), torch.where(outside, middle, high)
    return distances(torch.lerp(x, far, high) - x, norm)


# --- Thresholds, RMIA, LiRA -------------------------------------------------------------------------


def thresholds(n: int) -> None:
    """Thresholds against Song & Mittal's released code, which tries every value of a class on all of its values."""
    g = generator()
    y, member = torch.randint(CLASSES, (n,), generator=g), torch.rand(n, generator=g) < 0.5
    signal = torch.randn(n, generator=g, dtype=torch.float64) + member

    def naive() -> list[float]:
        best = []
        for label in range(CLASSES):
            inside, outside = (signal[(y == label) & side].numpy() for side in (member, ~member))
            values = np.concatenate([inside, outside])
            gains = [(inside >= v).mean() - (outside >= v).mean() for v in values]
            best.append(values[int(np.argmax(gains))])
        return best

    slow, long = timed(naive)
    fast, quick = fastest(lambda: best_thresholds(signal, y, member, CLASSES))
    rows = [(signal > fast[c], signal >= slow[c], y == c) for c in range(CLASSES)]
    same = all(bool((a == b)[here].all()) for a, b, here in rows)
    promise(
        f"class-wise thresholds, {n:,} samples", long / quick >= 100 and same,
        "100 times as fast, equal decisions",
        f"{long / quick:.0f} times ({long:.2f} s, {1e3 * quick:.1f} ms), decisions {'equal' if same else 'DIFFER'}",
    )  # fmt: skip


class Table(Target):
    """A target that answers with row i of a table, where i is the image's first pixel."""

    def __init__(self, answers: Tensor):
        self.answers = answers

    def log_posteriors(self, x: Tensor) -> Tensor:
        return self.answers[x[:, 0, 0, 0].long()]


def answers(*size: int, seed: int = 0) -> Tensor:
    return (3 * torch.randn(*size, CLASSES, generator=generator(seed), dtype=torch.float64)).log_softmax(-1)


def rmia(n: int) -> None:
    """RMIA against computing the whole n x |Z| matrix of ratios; n candidates, |Z| = n."""
    x = torch.arange(2.0 * n).view(-1, 1, 1, 1)
    y = torch.randint(CLASSES, (2 * n,), generator=generator())
    target, shadow = Table(answers(2 * n, seed=1)), Table(answers(2 * n, seed=2))
    population, candidates = Samples(x[n:], y[n:]), Candidates(x[:n], y[:n], torch.arange(n))
    attack = Registry(SUBMISSIONS).attack("rmia_offline").create()
    attack.fit(Knowledge(CLASSES, (1, 1, 1), 0, CPU, shadow=World(shadow, population, population)))
    references = References(torch.zeros(2, n, dtype=torch.bool), answers(2, n, seed=3))
    gamma, temperature, a = attack.params.gamma, attack.params.temperature, attack.params.a

    def confidence(log_posteriors: Tensor, y: Tensor) -> Tensor:
        return (log_posteriors / temperature).softmax(-1).gather(-1, y.expand(log_posteriors.shape[:-1]).unsqueeze(-1))

    def ratio(own: Tensor, others: Tensor) -> Tensor:
        return (own / (((1 + a) * others.mean(0) + 1 - a) / 2)).squeeze(1)

    def matrix() -> Tensor:
        inside, others = (s.y for s in (candidates, population))
        of_x = ratio(confidence(target.answers[:n], inside), confidence(references.log_posteriors, inside))
        of_z = ratio(confidence(target.answers[n:], others), confidence(shadow.answers[n:].unsqueeze(0), others))
        return torch.cat([(part.unsqueeze(1) / of_z > gamma).double().mean(1) for part in of_x.split(1000)])

    fast, quick = fastest(lambda: attack.score(target, candidates, references))
    slow, long = timed(matrix)
    apart = float((fast - slow).abs().max())
    # A ratio that equals gamma up to rounding may count either way.
    promise(
        f"RMIA of {n:,} x {n:,}", long / quick >= 100 and apart < 1.5 / n, "100 times as fast, equal scores",
        f"{long / quick:.0f} times ({long:.2f} s, {1e3 * quick:.1f} ms), scores at most {apart:.1e} apart",
    )  # fmt: skip


def lira() -> None:
    n, m = 10_000, 64
    x, y = torch.arange(float(n)).view(-1, 1, 1, 1), torch.randint(CLASSES, (n,), generator=generator())
    references = References(torch.rand(m, n, generator=generator()).argsort(0) < m // 2, answers(m, n))
    attack = Registry(SUBMISSIONS).attack("lira").create()
    attack.fit(Knowledge(CLASSES, (1, 1, 1), 0, CPU))
    target = Table(answers(n, seed=1))
    _, seconds = fastest(lambda: attack.score(target, Candidates(x, y, torch.arange(n)), references))
    promise("LiRA, 10,000 candidates x 64 models", seconds < 0.5, "under 0.5 s", f"{seconds:.2f} s")


# --- Memory -----------------------------------------------------------------------------------------


def peak(name: str, n: int, answer: Connection) -> None:
    """In a process of its own: send how many bytes `score` adds to the peak memory, or the text of an error."""
    try:
        torch.set_num_threads(1)
        entry = Registry(SUBMISSIONS).entry("attack", name)
        few = {"queries": 200, "copies": 25, "shift": 1, "epochs": 1}  # cheap settings, which do not change the peak
        params = {key: few[key] for key in few if key in entry.params.model_fields}
        cls = entry.load()
        attack = cls(cls.Params(**params))  # type: ignore[attr-defined]
        network = networks.build("small_cnn", CLASSES, (1, 8, 8), 0).eval()
        target = GuardedTarget("white-box", raw(network, CPU), Answers(), lambda: network)
        world = World(target, made_up(500, seed=1), made_up(500, seed=2))
        attack.fit(Knowledge(CLASSES, (1, 8, 8), 0, CPU, shadow=world, partial=world))
        s = made_up(n)
        if "label" in entry.access:
            s = Samples(s.x, target.labels(s.x))  # correct labels, so that no sample is skipped
        references = References(torch.rand(4, n, generator=generator()).argsort(0) < 2, answers(4, n))
        given_references = references if any("references" in need for need in entry.needs) else None
        ctypes.CDLL(None).malloc_trim(0)  # memory freed earlier would be used without being counted
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        attack.score(target, Candidates(s.x, s.y, torch.arange(n)), given_references)
        answer.send(resident("VmHWM") - before)
    except Exception as error:  # it is printed, and the other attacks go on
        answer.send(f"{type(error).__name__}: {error}")


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def memory(only: list[str], sizes: tuple[int, int, int]) -> None:
    """Check that peak memory grows linearly: the slope between the larger sizes may be twice that between the smaller
    ones.

    With n squared it would be 5.5 times as large, from 10,000 to 50,000 as against 1,000 to 10,000.
    """
    registry = Registry(SUBMISSIONS)
    chosen = [e for e in registry.entries.values() if e.kind == "attack" and e.task == "membership" and not e.error]
    # A fresh process for each: memory that one attack freed would be used by the next without being counted.
    context = get_context("spawn")
    for entry in chosen:
        if only and entry.id not in only:
            continue
        peaks: list[Any] = []
        for n in sizes:
            here, there = context.Pipe(False)
            process = context.Process(target=peak, args=(entry.id, n, there))
            process.start()
            there.close()
            try:
                peaks.append(here.recv())
            except EOFError:
                peaks.append("the process died")
            process.join()
        failed = [p for p in peaks if isinstance(p, str)]
        if failed:
            promise(f"memory of {entry.id}", False, "linear", failed[0])
            continue
        # Slopes below 1 kB a candidate are within the buffers of fixed size that libraries allocate at their first
        # call.
        first, second = ((peaks[i + 1] - peaks[i]) / (sizes[i + 1] - sizes[i]) for i in (0, 1))
        kept = second <= 2 * max(first, 1000)
        figures = ", ".join(f"{p / 2**20:.0f} MB at {n:,}" for p, n in zip(peaks, sizes, strict=True))
        promise(f"memory of {entry.id}", kept, "linear", f"{figures}; {first:.0f} then {second:.0f} bytes a candidate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="*", choices=("boundary", "thresholds", "rmia", "lira", "memory"))
    parser.add_argument("--attack", nargs="*", default=[], help="memory of these alone")
    parser.add_argument("--quick", action="store_true", help="little of everything: does it run?")
    options = parser.parse_args()
    one_thread()  # sets environment variables that a process reads when it starts
    worker = multiprocessing.get_context("spawn").Process(
        target=run, args=(options.only, options.attack, options.quick)
    )
    worker.start()
    worker.join()
    raise SystemExit(worker.exitcode)


def run(only: list[str], attack: list[str], quick: bool) -> None:
    """Run the benchmarks on one thread, as in a worker of the judge."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    parts: dict[str, Callable[[], None]] = {
        "boundary": lambda: boundary(20 if quick else 500, 2 if quick else 5, 2 if quick else None),
        "thresholds": lambda: thresholds(2000 if quick else 100_000),
        "rmia": lambda: rmia(1000 if quick else 20_000),
        "lira": lira,
        "memory": lambda: memory(attack, (100, 200, 400) if quick else (1000, 10_000, 50_000)),
    }
    for name, part in parts.items():
        if not only or name in only:
            part()


if __name__ == "__main__":
    main()
