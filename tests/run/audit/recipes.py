"""A recipe's file that learns digits by heart, and a stand-in for the process that runs it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmark.data.population import seed_of
from benchmark.run.audit import images, recipe, trainer
from benchmark.run.audit.predictions import Ints
from benchmark.run.audit.recipe import Budget, Trained, Trainings
from benchmark.targets.store import Store
from tests.run.audit import pictures

TRAIN = '''"""The recipe of `pictures.trained`. Each training is noted in a file."""

import os
from pathlib import Path

import torch

from benchmark import networks

notes = Path(__file__).with_name("trained.txt")


def train(x, y, classes, seed):
    with notes.open("a") as file:
        print(len(x), file=file)
    FIRST
    network = networks.build("small_cnn", classes, tuple(x.shape[1:]), seed)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network
'''


def write(folder: Path, first: str = "pass", text: str = TRAIN) -> Path:
    """The recipe's file, which first does this."""
    (folder / "train.py").write_text(text.replace("FIRST", first.replace("\n", "\n    ")), "utf-8")
    return folder / "train.py"


def trained(folder: Path) -> list[int]:
    """The sizes of the training sets of all trainings so far."""
    notes = folder / "trained.txt"
    return [int(line) for line in notes.read_text("utf-8").split()] if notes.exists() else []


def here(trainings: Trainings, data: Path, rows: Ints, seed: int) -> torch.Tensor:
    """`recipe.in_a_process` in this one, which saves the start of another."""
    order = seed_of("records", trainings.seed)
    return trainings.trainer.answers(load_file(data), torch.from_numpy(rows), trainings.classes, seed, order)


def trainings(path: Path, data: images.Images | None = None, store: str = "store", **more: int) -> Trainings:
    """The trainings by this file on the digits; answers go into a store beside it."""
    records = data or images.of_arrays(*pictures.digits())
    return Trainings(trainer.read(path), records, 10, 0, Store(path.parent / store), **more)


def train_here(folder: str, models: int) -> Trained:
    """Train, or take, so many reference models in this process."""
    recipe.in_a_process = here  # type: ignore[assignment]
    torch.set_num_threads(1)
    return trainings(Path(folder) / "train.py").references(Budget(models, None))
