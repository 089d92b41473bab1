"""The protocol that `leakboard new protocol` writes works as it is, whatever the number of classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from benchmark.data.dataset import Data
from benchmark.data.templates import protocol_text
from benchmark.entries.registry import Registry

REGISTRY = Registry(Path(__file__).parents[2] / "submissions")


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 100])
def test_its_losses_take_so_many_classes(classes: int) -> None:
    x, y = torch.zeros(600, 1, 8, 8, dtype=torch.uint8), torch.arange(600) % classes
    data = Data("own/8", x, y, y % 2, classes, {"pad": 1, "flip": False}, 0)
    written = yaml.safe_load(protocol_text("own", "own/8", data, "small_cnn"))
    logits, labels = torch.randn(20, classes), torch.arange(20) % classes
    for name in written["defenses"]:
        for part in REGISTRY.chain(name, written["baseline"]).parts:
            assert torch.isfinite(part.create().loss(logits, labels)).all()
