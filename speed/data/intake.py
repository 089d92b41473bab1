"""Benchmark: intake against a plain loop of Pillow, and loading a prepared data set against torchvision's class.

Both make 32x32 arrays from the same JPEGs (178x218, as CelebA's are; drawn here from noise). The plain loop opens, crops, resizes and stacks
them in one process; intake also hashes, drops equal images, counts near duplicates, measures thickness and writes to disk, in two
processes. They take turns, each in a process of its own, and the best of each counts. Loading: the prepared CIFAR-10 (random pixels in
its own files) against `torchvision.datasets.CIFAR10`, to the first thousand images as a tensor. Memory is the growth of the peak
of the parent process. It takes five minutes on two idle cores; others at work on them hide the gain.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

N = 6_000
SIZE = (178, 218)
SOURCE = """from benchmark.data.layouts import class_folders
from benchmark.data.source import Source

source = Source(title="Noise", terms="none", get="drawn here", views={"32": (3, 32, 32)})
read = class_folders
"""


def draw(folder: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    for k in range(2):
        (folder / f"class{k}").mkdir(parents=True)
    for i in range(n):
        small = Image.fromarray(rng.integers(0, 256, (27, 22, 3), dtype=np.uint8))
        small.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"class{i % 2}" / f"{i:06d}.jpg", quality=90)


def plain(folder: Path) -> None:
    images = []
    for path in sorted(folder.rglob("*.jpg")):
        with Image.open(path) as image:
            decoded = image.convert("RGB")
        side = min(decoded.size)
        left, upper = (decoded.width - side) // 2, (decoded.height - side) // 2
        cut = decoded.resize((32, 32), Image.Resampling.BOX, (left, upper, left + side, upper + side))
        images.append(np.asarray(cut))
    np.stack(images)


def intake(folder: Path) -> None:
    from benchmark.data.intake import prepare
    from benchmark.data.source import find

    prepare(find("noise"), None, folder)


def ours(folder: Path) -> None:
    from benchmark import data

    data.load("cifar10/32").x[:1000].float()


def torchvisions(folder: Path) -> None:
    from torchvision.datasets import CIFAR10

    class Here(CIFAR10):
        """The files are random pixels, which have other checksums."""

        def _check_integrity(self) -> bool:
            return True

        def _load_meta(self) -> None:
            self.classes = []

    import torch

    torch.from_numpy(Here(str(folder)).data[:1000]).float()


def cifar(folder: Path) -> None:
    base = folder / "cifar-10-batches-py"
    base.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        batch = {
            "data": rng.integers(0, 256, (10_000, 3072), dtype=np.uint8),
            "labels": (np.arange(10_000) % 10).tolist(),
        }
        (base / name).write_bytes(pickle.dumps(batch, 2))


def _measured(run: Callable[[Path], None], folder: Path, queue: multiprocessing.Queue[tuple[float, float]]) -> None:
    import torchvision.datasets  # noqa: F401  neither side is charged for imports

    import benchmark.data.intake  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    run(folder)
    seconds = time.perf_counter() - start
    queue.put((seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def measure(run: Callable[[Path], None], folder: Path) -> tuple[float, float]:
    """Seconds, and MiB by which the peak grew, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[tuple[float, float]] = context.Queue()
    process = context.Process(target=_measured, args=(run, folder, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=N)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["LEAKBOARD_PROJECT"] = name
        (root / "data").mkdir()
        (root / "data/noise.py").write_text(SOURCE)
        draw(root / "pictures", given.images)
        found: dict[str, list[tuple[float, float]]] = {"plain": [], "intake": [], "torchvision": [], "prepared": []}
        for i in range(given.runs):
            os.environ["LEAKBOARD_PREPARED"] = f"{name}/prepared{i}"
            found["plain"].append(measure(plain, root / "pictures"))
            found["intake"].append(measure(intake, root / "pictures"))
        cifar(root)
        from benchmark.data.intake import prepare
        from benchmark.data.source import find

        prepare(find("cifar10"), None, root)
        for _ in range(given.runs):
            found["torchvision"].append(measure(torchvisions, root))
            found["prepared"].append(measure(ours, root))
    for one, other, what in (
        ("plain", "intake", f"{given.images} JPEGs"),
        ("torchvision", "prepared", "60,000 images"),
    ):
        (a, mib_a), (b, mib_b) = min(found[one]), min(found[other])
        print(
            f"{what}: {one} {a:.3f} s, {mib_a:.0f} MiB; {other} {b:.3f} s, {mib_b:.0f} MiB: {a / b:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
