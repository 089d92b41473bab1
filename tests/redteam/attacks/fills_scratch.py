"""Fill /tmp and /dev/shm, with whole files and with sparse ones."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "sized scratch, and the limit on file sizes"
STATUS = ("failed",)
REASON = "File too large.*No space left on device.*File too large.*No space left"


class Hostile(Attack):
    """See above."""

    card = Card(title="Fills scratch", authors=(), reference="tests/redteam", year=None)
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        said = []
        for folder in ("/tmp", "/dev/shm"):
            try:
                with open(f"{folder}/sparse", "wb") as file:
                    file.truncate(1 << 40)
            except OSError as error:
                said.append(error.strerror)
            try:
                for i in range(1 << 20):
                    with open(f"{folder}/{i}", "wb") as file:
                        file.write(bytes(1 << 20))
            except OSError as error:
                said.append(error.strerror)
        raise RuntimeError(repr(said))
