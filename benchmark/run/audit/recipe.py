"""Trains reference models by a recipe, on random halves of the audited records, and keeps what each of them answers.

Model 2j is trained on a random half of members and non-members together, model 2j + 1 on the other half: every record is in
exactly half of the models, and their number tells nobody's membership (Carlini et al. 2022, section V, train theirs alike). Answers
are stored as soon as a model has them, under a key of all that made them: a call that was stopped goes on, and one that asks
for more trains the rest alone.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmark.data.population import digest_of, seed_of
from benchmark.errors import UserError, printable
from benchmark.metrics import Bools, Floats
from benchmark.run.audit.images import Images
from benchmark.run.audit.predictions import NUMBERS, Ints
from benchmark.run.audit.question import Check
from benchmark.run.audit.trainer import Trainer
from benchmark.targets.store import Store, Tensors, digest, tensor_digest

_KIND = "audit"
_SIZES = 0.1
"""How far, as a share of the target's, the training size of reference models may lie from it without a warning."""
_ACCURACY = 0.1
"""How far the reference models' accuracy on unseen records may lie from the target's without a warning."""


class Trained(NamedTuple):
    """What m reference models answer, (m, n, k) log-posteriors, who was in whose training data, (m, n), and all their seconds."""

    answers: Floats
    members: Bools
    seconds: float


class Budget(NamedTuple):
    """How many reference models: a number, or as many as `seconds` of training give, earlier calls included."""

    models: int | None
    seconds: float | None

    def pairs(self, done: int, seconds: float) -> int:
        """Pairs to train in all, where `done` pairs took so many seconds: at least one, which is timed."""
        if self.models is not None:
            return self.models // 2
        assert self.seconds is not None
        return 1 if not done else max(done, int(self.seconds * done / max(seconds, 1e-9)))


Told = Callable[[int, int, float, float], None]
"""Is told of each pair: models that are there and that will be, and the seconds that one takes and that are left."""


@dataclass(frozen=True, eq=False)
class Trainings:
    """The trainings by a recipe on the records of an audit. `workers`: models that are trained at once, each in a process."""

    trainer: Trainer
    images: Images
    classes: int
    seed: int
    store: Store
    workers: int = 1
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set, repr=False)
    _stopped: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        if len(self) * self.classes * 3 > NUMBERS:
            raise UserError(
                f"expected at most {NUMBERS // (3 * self.classes):,} records, given {len(self):,}; take a part of them"
            )

    def __len__(self) -> int:
        return len(self.images.y)

    @property
    def most(self) -> int:
        """Reference models at most: so many as an audit takes answers of."""
        return (NUMBERS // (len(self) * self.classes) - 1) // 2 * 2

    def rows(self, number: int) -> Ints:
        """The records, ascending, that reference model `number` is trained on."""
        order = np.random.default_rng(seed_of("half", self.seed, number // 2)).permutation(len(self))
        half = len(self) // 2
        return np.sort(order[:half] if number % 2 == 0 else order[half:])

    def _key(self, name: str, rows: Ints) -> str:
        return digest(
            "recipe answers", self.trainer.key, self._data, self.classes, self.seed, name, digest_of(rows),
            f"torch {torch.__version__}",
        )  # fmt: skip

    @cached_property
    def _data(self) -> str:
        return tensor_digest(self.images.x, torch.from_numpy(self.images.y))

    def stored(self, number: int) -> bool:
        """Whether the answers of a reference model are there already."""
        return self.store.has(_KIND, self._key(f"reference {number}", self.rows(number)))

    def target(self) -> Floats:
        """Log-posteriors (n, k) of a model that is trained on all members."""
        rows = np.flatnonzero(self.images.members)
        with self._data_file() as data:
            return self._answers("target", rows, data)[0]

    def references(self, budget: Budget, told: Told = lambda *_: None) -> Trained:
        """Train reference models, or take those that are stored. Raises UserError where a training fails."""
        found: list[tuple[Floats, float]] = []
        at_once = math.ceil(self.workers / 2)
        with self._data_file() as data, ThreadPoolExecutor(self.workers) as executor:

            def model(number: int) -> tuple[Floats, float]:
                return self._answers(f"reference {number}", self.rows(number), data)

            def total() -> int:
                return min(budget.pairs(len(found) // 2, sum(s for _, s in found) / self.workers), self.most // 2)

            try:
                while (wanted := total()) > (pairs := len(found) // 2):
                    numbers = range(2 * pairs, 2 * min(wanted, pairs + at_once))
                    futures = [executor.submit(model, number) for number in numbers]
                    for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                        future.result()
                    found += [future.result() for future in futures]
                    each = sum(s for _, s in found) / len(found)
                    more = 2 * total()
                    missing = sum(not self.stored(number) for number in range(len(found), more))
                    told(len(found), more, each, missing * each / self.workers)
            except BaseException:  # a failure, or Ctrl-C: trainings that run beside it would be waited for
                executor.shutdown(wait=False, cancel_futures=True)
                self._stop()
                raise
        members = np.zeros((len(found), len(self)), bool)
        for number in range(len(found)):
            members[number, self.rows(number)] = True
        return Trained(np.stack([a for a, _ in found]), members, sum(s for _, s in found))

    def _answers(self, name: str, rows: Ints, data: Path) -> tuple[Floats, float]:
        """Answers (n, k) of a model trained on these records, and the seconds that it took."""
        key = self._key(name, rows)
        seed = seed_of("recipe", self.seed, name) % 2**31  # NumPy's global generator takes no larger one

        def make() -> Tensors:
            return {"answers": in_a_process(self, data, rows, seed)}

        found = self.store.get(_KIND, key, make)["answers"]
        return found.numpy(), float(self.store.info(_KIND, key)["seconds"])

    @contextmanager
    def _data_file(self) -> Iterator[Path]:
        """A temporary file of the records, as the processes read them."""
        with tempfile.TemporaryDirectory(prefix="leakboard-recipe-") as folder:
            path = Path(folder) / "data.safetensors"
            save_file({"x": self.images.x.contiguous(), "y": torch.from_numpy(self.images.y)}, path)
            yield path

    def _stop(self) -> None:
        self._stopped.set()
        for process in [*self._running]:
            process.kill()


_numbers = itertools.count()
_START = "import sys; sys.path.append(sys.argv.pop(1)); from benchmark.run.audit.process import main; main()"
_TRAINER = (sys.executable, "-P", "-c", _START, str(Path(__file__).parents[3]))
"""The process that trains. -P: a folder `benchmark` of the user's, in the current one, is not this package."""


def in_a_process(trainings: Trainings, data: Path, rows: Ints, seed: int) -> torch.Tensor:
    """Log-posteriors (n, k) to all records of a model that is trained on these ones in a process of its own.

    Raises UserError where the recipe fails, or its process dies.
    """
    name, folder = trainings.trainer.name, data.parent
    files = {what: folder / f"{next(_numbers)}-{what}" for what in ("rows", "answers", "error", "log")}
    save_file({"rows": torch.from_numpy(rows)}, files["rows"])
    asked: dict[str, object] = {what: str(path) for what, path in files.items()} | {
        "trainer": trainings.trainer.asked, "key": trainings.trainer.key, "data": str(data), "classes": trainings.classes,
        "seed": seed, "order": seed_of("records", trainings.seed),
    }  # fmt: skip
    with files["log"].open("wb") as log:
        code = _run(trainings, [*_TRAINER, json.dumps(asked)], log)
    if files["error"].exists():
        raise UserError(files["error"].read_text("utf-8"))
    if code:
        printed = files["log"].read_text("utf-8", "replace").strip().splitlines()
        last = f"; it printed last: {printable(printed[-1], 160)}" if printed else ""
        why = f"by signal {-code}" + (", as when memory runs out" if code == -9 else "") if code < 0 else f"code {code}"
        raise UserError(f"{name}: expected a training that ends, given a process that ended {why}{last}")
    return load_file(files["answers"])["answers"]


def _run(trainings: Trainings, command: list[str], log: IO[bytes]) -> int:
    """Run a process whose standard input ends with this one, and return its exit status."""
    cores = os.cpu_count() or 1
    environment = {**os.environ}
    if trainings.workers > 1:  # at once they share the cores
        environment |= {
            name: str(max(1, cores // trainings.workers)) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        }
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment) as process:
        trainings._running.add(process)
        try:
            if trainings._stopped.is_set():
                process.kill()
            return process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            trainings._running.discard(process)


def checks(trainings: Trainings, trained: Trained, right: Bools) -> list[Check]:
    """Checks of reference models beside the target, with whether (n,) the target is right about the records."""
    members = trainings.images.members
    mine, theirs = int(members.sum()), len(trainings) // 2
    far = abs(theirs - mine) > _SIZES * mine
    found = [Check(
        "Training size of the reference models", "warning" if far else "ok",
        f"Each was trained on {theirs:,} records; {mine:,} members of the audited model are known.",
        "Models of another size are surer, or less sure, of what they learn, and calibrated attacks find less: give as many non-members "
        "as members." if far else "",
    )]  # fmt: skip
    _, unseen = accuracies(trainings, trained)
    own = float(right[~members].mean())
    unlike = abs(unseen - own) > _ACCURACY
    found.append(Check(
        "Reference models like the audited one", "warning" if unlike else "ok",
        f"On records that they were not trained on, they are right in {unseen:.1%}; the audited model is on {own:.1%} of the non-members.",
        "The recipe may not be the one that the model was trained by: calibrated attacks then find less." if unlike else "",
    ))  # fmt: skip
    return found


def accuracies(trainings: Trainings, trained: Trained) -> tuple[float, float]:
    """Accuracy of the reference models on records that they were trained on, and on the others."""
    right = trained.answers.argmax(2) == trainings.images.y
    return float(right[trained.members].mean()), float(right[~trained.members].mean())
