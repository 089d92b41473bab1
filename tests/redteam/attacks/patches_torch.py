"""Replace torch's and safetensors' functions, so that labels come back with what is sent."""

import importlib

import torch
from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the judge's own process: what runs here changes nothing there"
STATUS = ("failed",)
REASON = "finite scores"


class Hostile(Attack):
    """See above."""

    card = Card(title="Patches torch", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        wire = importlib.import_module("benchmark.sandbox.wire")
        wire.check_header = wire.tensor = lambda *arguments: None
        torch.isfinite = lambda x: torch.ones_like(x, dtype=torch.bool)
        return torch.full((len(candidates),), float("nan"), dtype=torch.float64)
