"""Benchmark: a whole job against a researcher's plain script, both from their command lines.

The job: 17 networks of small_cnn on halves of 4,000 Fashion-MNIST images, then LiRA and RMIA of the first by the other
16, on all cores. Ours: `leakboard run` with an empty store; it scores with intervals and nulls and logs to MLflow. Plain:
a script such as papers release: float32, a DataLoader, PyTorch's own threads, one network after another, and the attacks
in NumPy. Beside both stands a step of training, and what its bare layers take. It takes about three minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmark import networks, protocol
from benchmark.api import Samples
from benchmark.data.population import populate
from benchmark.networks.training import TrainingRun

MODELS, PROMISE = 17, 2.0
Floats = NDArray[np.float64]


def plain(epochs: int) -> dict[str, float]:
    """Train and attack as a plain script does; AUCs."""
    loaded = protocol.load("fashion-mini-v2")
    population, recipe = populate(loaded, 0), loaded.recipe
    pool = population.part("candidates")
    half, n = len(pool) // 2, len(pool)
    members, confidences = np.zeros((MODELS, n), bool), np.zeros((MODELS, n))
    for i in range(MODELS):
        torch.manual_seed(i)
        rows = torch.randperm(n)[:half]
        members[i, rows] = True
        network = networks.build("small_cnn", 10, (1, 28, 28), i)
        loader = DataLoader(TensorDataset(pool.x[rows], pool.y[rows]), recipe.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(
            network.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        network.train()
        for _ in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                cross_entropy(network(x), y).backward()
                optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            answer = torch.cat([network(x) for x in pool.x.split(500)]).double().softmax(1)
        confidences[i] = answer[torch.arange(n), pool.y].clamp(1e-12, 1 - 1e-12).numpy()
    own, theirs, inside = confidences[0], confidences[1:], members[1:]
    return {
        "lira": float(roc_auc_score(members[0], lira(own, theirs, inside))),
        "rmia": float(roc_auc_score(members[0], rmia(own, theirs, inside))),
    }


def lira(own: Floats, theirs: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Likelihood ratios of one's own confidence (n,) by Gaussians of theirs (m, n), inside and out."""
    logits = np.log(theirs / (1 - theirs))
    asked = np.log(own / (1 - own))
    scores = np.zeros(len(own))
    for j in range(len(own)):
        sides = [logits[side, j] for side in (inside[:, j], ~inside[:, j])]
        likely = [norm.logpdf(asked[j], side.mean(), side.std() + 1e-30) for side in sides]
        scores[j] = likely[0] - likely[1]
    return scores


def rmia(own: Floats, theirs: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Ratios of one's own confidence (n,) to the mean of theirs (m, n), inside and out."""
    means = [np.where(side, theirs, 0).sum(0) / np.maximum(side.sum(0), 1) for side in (inside, ~inside)]
    return np.asarray(own / (sum(means) / 2))


def ours(epochs: int, folder: Path) -> None:
    """`leakboard run` of the same job in a new project."""
    source = Path(protocol.__file__).parent / "protocols" / "fashion-mini-v2.yaml"
    content = yaml.safe_load(source.read_text())
    content |= {"name": "whole", "attacks": ["lira", "rmia"], "defenses": ["undefended"], "seeds": [0]}
    content |= {"references": {"online": 16, "offline": 2}, "targets": 1, "costly": None}
    content["recipe"]["epochs"] = epochs
    file = folder / "whole.yaml"
    file.write_text(yaml.safe_dump(content))
    command = [str(Path(sys.executable).with_name("leakboard")), "run", "--protocol", str(file)]
    subprocess.run(
        command, cwd=folder, env=os.environ | {"LEAKBOARD_PROJECT": str(folder)}, check=True, stdout=subprocess.DEVNULL
    )


def step_ms(steps: int = 400) -> tuple[float, float]:
    """Milliseconds of a step of our loop, and of forward and backward through its layers alone, in bfloat16."""
    torch.set_num_threads(1)
    recipe = protocol.load("fashion-mini-v2").recipe
    size = recipe.batch_size
    x, y = torch.rand(32 * size, 1, 28, 28), torch.arange(32 * size) % 10
    train = Samples(x, y)
    training = TrainingRun(
        train=train, reference=train, validation=train, classes=10, recipe=recipe.model_copy(update={"epochs": steps // 32}),
        architecture="small_cnn", simple={}, seed=0, device=torch.device("cpu"),
    )  # fmt: skip
    training.fit(training.build())  # the first steps of a process choose kernels: two seconds
    network = training.build()
    start = time.perf_counter()
    training.fit(network)
    whole = (time.perf_counter() - start) / (steps // 32 * 32)
    bare = training.build().to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = x[:size].bfloat16().contiguous(memory_format=torch.channels_last)
    start = time.perf_counter()
    for _ in range(steps):
        bare.zero_grad(set_to_none=True)
        cross_entropy(bare(batch).float(), y[:size]).backward()
    return 1e3 * whole, 1e3 * (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two epochs: does it run?")
    parser.add_argument("--plain", type=int, metavar="EPOCHS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        print(plain(options.plain))
        return
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    epochs, ratios = 2 if options.quick else protocol.load("fashion-mini-v2").recipe.epochs, []
    for _ in range(options.rounds):
        start = time.perf_counter()
        subprocess.run([sys.executable, __file__, "--plain", str(epochs)], check=True)
        middle = time.perf_counter()
        folder = Path(tempfile.mkdtemp())
        try:
            ours(epochs, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        seconds = middle - start, time.perf_counter() - middle
        ratios.append(seconds[0] / seconds[1])
        print(f"  plain {seconds[0]:.1f} s, ours {seconds[1]:.1f} s", flush=True)
    ratio = statistics.median(ratios)
    print(f"  {ratio:.2f} times as fast, promised {PROMISE}: {'kept' if ratio >= PROMISE else 'MISSED'}")
    whole, bare = step_ms()
    print(f"  a step of training: {whole:.2f} ms, its bare layers {bare:.2f} ms")


if __name__ == "__main__":
    main()
