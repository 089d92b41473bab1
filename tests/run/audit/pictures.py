"""A small network that has learnt half of the digits it is audited with, its weights as files, and the digits as files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from benchmark import networks
from benchmark.metrics import Bools
from benchmark.networks import Network
from benchmark.run.audit.predictions import Ints

SHAPE = (1, 8, 8)
SIDE = 60
"""Members, and non-members."""


@cache
def digits() -> tuple[np.ndarray, Ints, Bools]:
    """x (n, 8, 8) uint8, no two equal, y (n,), members (n,): the first half."""
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8) / 16 * 255).round().astype(np.uint8)
    first = np.sort(np.unique(x.reshape(len(x), -1), axis=0, return_index=True)[1])[: 2 * SIDE]
    rows = np.random.default_rng(0).permutation(first)
    return x[rows], y[rows].astype(np.int64), np.arange(2 * SIDE) < SIDE


@cache
def trained(name: str = "small_cnn", epochs: int = 40) -> Network:
    """A network of the package that has learnt the members by heart."""
    x, y, members = digits()
    images, labels = torch.from_numpy(x[members]).float().unsqueeze(1) / 255, torch.from_numpy(y[members])
    network = networks.build(name, 10, SHAPE, 0)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(epochs):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.eval()


def files(folder: Path) -> list[str]:
    """Options of `leakboard audit model` for the trained network and the digits, whose files lie in this folder."""
    x, y, members = digits()
    save_file(trained().state_dict(), folder / "model.safetensors")
    for name, side in (("members", members), ("non-members", ~members)):
        np.savez(folder / f"{name}.npz", x=x[side], y=y[side])
    sides = ["--members", "members.npz", "--non-members", "non-members.npz"]
    return ["--weights", "model.safetensors", "--network", "small_cnn", "--classes", "10", *sides]


OWN = '''"""Two layers of one's own."""

from torch import nn

from benchmark.networks import Architecture, Network

network = Architecture("Two layers", least=4)


def build(classes, shape):
    TRIES
    c, h, w = shape
    return Network(nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 16), nn.ReLU()), width=16, classes=classes)
'''


def own(folder: Path, tries: str = "pass") -> list[str]:
    """The options again, with a network's file of one's own, which first does what it `tries`."""
    options = files(folder)
    text = OWN.replace("TRIES", "pass")
    space: dict[str, object] = {}
    exec(text, space)
    torch.manual_seed(0)
    network = space["build"](10, SHAPE)  # type: ignore[operator]
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "mine.py").write_text(OWN.replace("TRIES", tries.replace("\n", "\n    ")), "utf-8")
    return [*options[:2], "--network", "mine.py", *options[4:]]
