"""Write the scores into attributes, times and mode of /tmp itself, which wiping would leave."""

import os

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, Knowledge, References, Target

STOPPED_BY = "a folder of root's; or, in a user namespace, set back with the wipe"
STATUS = ("ok",)
TWICE = True


class Hostile(Attack):
    """See above."""

    card = Card(title="Leaves attributes", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def fit(self, knowledge: Knowledge) -> None:
        self.seed = knowledge.seed

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        left = [os.getxattr("/tmp", name).decode() for name in os.listxattr("/tmp") if name.startswith("user.")]
        if left or os.stat("/tmp").st_mode & 0o777 != 0o777:
            raise RuntimeError(f"carried over: {left} BITS")
        raise_later = os.stat("/dev/shm").st_mtime_ns
        if raise_later > 4e18:
            raise RuntimeError(f"carried over: {raise_later}")
        said = []
        for act in (
            lambda: os.setxattr("/tmp", "user.scores", str(self.seed).encode()),
            lambda: os.utime("/dev/shm", ns=(self.seed, self.seed)),
            lambda: os.chmod("/tmp", 0o1707),
        ):
            try:
                act()
            except OSError as error:
                said.append(error.strerror)
        return target.log_posteriors(candidates.x)[:, 0]
