"""Carry what one target answered to the next one: in memory, in files, in a process that stays."""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Knowledge, References, Target

STOPPED_BY = "every target is met by a fork that holds the fitted state alone, in an emptied sandbox"
STATUS = ("ok",)
TARGETS = 4
MET: list[float] = []
PLACES = [Path("/tmp/met"), Path("/dev/shm/met")]


class Hostile(Attack):
    """See above."""

    card = Card(title="Remembers targets", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "shadow"

    def fit(self, knowledge: Knowledge) -> None:
        self.met: list[float] = []

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        places = [path for path in PLACES if path.exists()]
        if self.met or MET or places or hasattr(torch, "met") or "met" in sys.modules or "MET" in os.environ:
            raise RuntimeError(f"carried over: {self.met} {MET} {places} BITS")
        answers = target.log_posteriors(candidates.x)
        self.met.append(float(answers[0, 0]))
        MET.append(float(answers[0, 0]))
        torch.met = sys.modules["met"] = MET
        os.environ["MET"] = str(MET)
        for path in PLACES:
            path.write_text(str(MET))
        if os.fork() == 0:
            for path in PLACES * 1000:
                path.write_text(str(MET))
            os._exit(0)
        return answers[:, 0]
