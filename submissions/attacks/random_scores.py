"""Random scores: what chance looks like under this protocol. The null row of every membership table.

A uniform number is drawn from the hash of each image and the scenario's seed, so that it depends
neither on the order nor on the number of the candidates.
"""

import hashlib

import torch
from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Knowledge, References, Target


class RandomScores(Attack):
    """Membership without any knowledge and without a query: the AUC is 0.5 within its interval."""

    card = Card(title="Random scores", authors=("Leakboard",), reference="Chance level", year=None, null=True)
    access = "label"
    needs = frozenset()
    calibrate = "none"

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the seed."""
        self.key = knowledge.seed.to_bytes(16, "little", signed=True)

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Uniform scores (n,) in [0, 1)."""
        images = candidates.x.cpu().contiguous().numpy()
        words = [hashlib.blake2b(image.tobytes(), key=self.key, digest_size=6).digest() for image in images]
        return torch.tensor([int.from_bytes(w, "little") / 2**48 for w in words], dtype=torch.float64)
