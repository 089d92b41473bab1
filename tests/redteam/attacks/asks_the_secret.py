"""Ask the judge's modules for the split secret, on an official run."""

import gc
import importlib
import os
import re

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "the secret never reaches a child process"
STATUS = ("failed",)
REASON = r"\[\] 0 objects"
OFFICIAL = True
CONTROL = True


def found(text: bytes) -> list[str]:
    """The host's canaries in what was read."""
    return sorted({m.decode() for m in re.findall(rb"canary-[0-9a-f]{16}", text)})


class Hostile(Attack):
    """See above."""

    card = Card(title="Asks the secret", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        secret = importlib.import_module("benchmark.data.secret").take()
        objects = [
            o for o in gc.get_objects() if getattr(type(o), "__name__", "") in ("Setting", "Artifacts", "Population")
        ]
        text = repr((secret, os.environ, objects, [vars(o) for o in objects]))
        raise RuntimeError(f"{found(text.encode())} {len(objects)} objects of the judge")
