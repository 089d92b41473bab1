"""Leakboard from Python: what the command does, as functions on the project that the current folder lies in.

    import leakboard

    for outcome in leakboard.check("submissions/attacks/mine.py"):
        print(outcome.name, outcome.state)
    results = leakboard.run(["mine"], protocol="digits-v2")
    board = leakboard.load_board("digits-v2")
    board.attacks["membership"], board.defenses  # pandas tables, ranked
    audited = leakboard.audit(model.predict_proba(x), y, members)  # of a model of your own
    audited.report.verdict.sentence
    audited = leakboard.audit_model(network, x, y, members, classes=10)  # of the network itself, a torch.nn.Module

Mistakes in what is given raise `leakboard.UserError` with the line that the command would print.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmark import __version__ as __version__
from benchmark.errors import UserError as UserError

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from numpy.typing import ArrayLike

    from benchmark.result import Result
    from benchmark.run.audit.canary_report import CanaryAudit
    from benchmark.run.checks import Check
    from leaderboard.ranking import Board
    from leakboard.audits import Audited

__all__ = [
    "Leaderboard", "UserError", "__version__", "audit", "audit_canaries", "audit_model", "audit_recipe", "check", "load_board",
    "run",
]  # fmt: skip


@dataclass(frozen=True)
class Leaderboard:
    """A published board: its results, and the tables that are ranked from them."""

    settings: Board
    """What the protocol requires of an entry before it is ranked, and what it ranks by."""
    results: list[Result]
    scenarios: pd.DataFrame
    """One row a result, with a column for each metric and cost (`leaderboard.ranking.scenarios`)."""
    defenses: pd.DataFrame
    """One row a defense, ranked ones first (`leaderboard.ranking.defense_table`)."""
    attacks: dict[str, pd.DataFrame]
    """One table for each kind of attack: membership, inversion, attribute, stealing. Each has one row an attack."""


def load_board(protocol: str) -> Leaderboard:
    """The published board of a protocol. Raises UserError where nothing is published or the files were changed."""
    from benchmark import places
    from benchmark.metrics import TASK_METRICS
    from leaderboard import publish, ranking
    from leaderboard.tables import board_of

    folder = places.board(protocol)
    try:
        results, settings = publish.load(folder), board_of(protocol)
    except ValueError as problem:
        raise UserError(str(problem)) from None
    if not results:
        raise UserError(f"{protocol}: expected a published board in {folder}, given none; leakboard publish makes one")
    frame = ranking.scenarios(results)
    attacks = {task: ranking.attack_table(frame, settings, task) for task in TASK_METRICS}
    return Leaderboard(settings, results, frame, ranking.defense_table(frame, settings), attacks)


def run(
    entries: Sequence[str] = (),
    protocol: str = "digits-v2",
    *,
    seeds: Sequence[int] = (),
    workers: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    trust: bool = False,
) -> list[Result]:
    """Score entries and return their results, stored ones included: what is stored is not computed again.

    entries: names, such as "lira" or "dp_sgd[noise_multiplier=1.1]"; by default all that the protocol requires.
    seeds: some of the protocol's; by default all. workers: processes; by default one a core, at most 8, or 1 on a GPU.
    trust: run code that nobody has reviewed in this process instead of a sandbox. Raises UserError for what is given
    wrongly, such as an unknown entry.
    """
    from benchmark import places
    from leakboard import score

    mode: Literal["never", "auto"] = "never" if trust else "auto"
    job = score.prepare(
        list(entries), protocol, places.submissions(), places.store(), device, list(seeds) or None, mode,
        places.baselines(),
    )  # fmt: skip
    return score.run(job, workers or score.default_workers(job.setting.device)).results


def check(file: str | Path, *, trust: bool = False) -> Iterator[Check]:
    """Check a submission against the contract; yields the outcome of each rule as soon as it is known.

    trust: as in `run`. Raises UserError where the file cannot be checked at all.
    """
    from benchmark import places
    from benchmark.run import checks

    mode: Literal["never", "auto"] = "never" if trust else "auto"
    yield from checks.check_file(Path(file), places.submissions(), places.store() / "check", mode, places.baselines())


def audit(
    answers: ArrayLike,
    labels: ArrayLike,
    members: ArrayLike,
    *,
    form: Literal["probabilities", "log-probabilities", "logits"] = "probabilities",
    ids: ArrayLike | None = None,
    groups: Mapping[str, ArrayLike] | None = None,
    inputs: ArrayLike | None = None,
    references: ArrayLike | None = None,
    reference_members: ArrayLike | None = None,
    title: str = "",
    seed: int = 0,
    fail_if: Sequence[str] = (),
) -> Audited:
    """Audit a model of your own by its answers to records: what `leakboard audit predictions` does.

    - answers: (n, k), of n records and k classes, in the form that `form` names. Logits hold the most digits.
    - labels: (n,), the true classes, whole numbers in [0, k).
    - members: (n,), true where the model was trained on the record.
    - ids: (n,), names of records, each once.
    - groups: subgroups (n,), by the name of what they are of, such as {"site": sites}.
    - inputs: (n, ...), numbers of the inputs, for the check that tells the sides apart without the model.
    - references: (m, n, k), answers of m reference models in the same form; attacks are calibrated by them.
    - reference_members: (m, n), true where a reference model was trained on the record; by default none was.
    - title: what the report calls the model.
    - seed: draws the known records, permutations and resamples. The same arrays and seed give the same numbers.
    - fail_if: conditions such as "tpr_at_fpr_0.01 > 0.05", decided in `report.gate`.

    Returns an `Audited`: its `report` holds the verdict and all numbers as typed objects, `exposed` the most exposed members,
    `html()` is the page, and `write(folder)` writes the files of the command. Raises `UserError`, in one line, for what can't be
    answers, labels or members.
    """
    from leakboard import audits

    return audits.arrays(
        answers, labels, members, form=form, ids=ids, groups=groups, inputs=inputs, references=references,
        reference_members=reference_members, title=title, seed=seed, fail_if=fail_if,
    )  # fmt: skip


def audit_model(
    network: torch.nn.Module,
    x: ArrayLike,
    y: ArrayLike,
    members: ArrayLike,
    classes: int,
    *,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    released: Literal["labels", "posteriors", "weights"] = "posteriors",
    title: str = "",
    seed: int = 0,
    fail_if: Sequence[str] = (),
    queries: int = 40_000,
    kinds: str = "",
    attribute: ArrayLike | None = None,
) -> Audited:
    """Audit a network itself: what `leakboard audit model` does, in this process, for the network is yours.

    - network: images -> logits (n, classes), as a tensor or as `logits` of an object, such as an image classifier of Hugging
      Face's transformers. A copy is asked, in float32 and eval mode, on the CPU.
    - x: images (n, c, h, w), (n, h, w) or (n, h, w, c), uint8 or in [0, 1], of the size that the network takes.
    - y: (n,), the true classes, whole numbers in [0, classes).
    - members: (n,), true where the network was trained on the image.
    - classes: how many classes it tells apart.
    - mean, std: a number a channel, where the network expects (x - mean) / std, such as `image_mean` and `image_std` of an image
      processor; by default pixels in [0, 1] go in as they are.
    - released: what others will get. Attacks that read more run too, and do not count for the verdict.
    - title, seed, fail_if: as for `audit`.
    - queries: what one attack may cost, in forward passes of one image. What costs more is measured on a part of the images.
    - kinds: of attack, joined by commas, as `--kinds`; by default membership, stealing and, with attributes, attribute.
    - attribute: (n,), whole numbers or texts, what attribute inference infers of members.

    White-box attacks on the last layer run where the logits are what the last `torch.nn.Linear` gives (or `head(embed(x))`, where
    the network has these); else `report.left` has them, with the reason. Returns an `Audited`, as `audit`. Raises `UserError`, in
    one line, for images that the network does not take, or answers that are not such logits.
    """
    from leakboard import model_audits

    return model_audits.module(
        network, x, y, members, classes, mean=mean, std=std, released=released, title=title, seed=seed, fail_if=fail_if,
        queries=queries, kinds=kinds, attribute=attribute,
    )  # fmt: skip


def audit_recipe(
    train: str | Path | None,
    x: ArrayLike,
    y: ArrayLike,
    members: ArrayLike,
    classes: int,
    *,
    protocol: str = "",
    defense: str = "",
    network: torch.nn.Module | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    references: int | None = None,
    hours: float | None = None,
    workers: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    trust: bool = False,
    released: Literal["labels", "posteriors", "weights"] = "posteriors",
    title: str = "",
    seed: int = 0,
    fail_if: Sequence[str] = (),
    queries: int = 40_000,
    kinds: str = "",
    attribute: ArrayLike | None = None,
) -> Audited:
    """Audit with reference models that are trained for it: what `leakboard audit recipe` does.

    - train: a file of yours with `def train(x, y, classes, seed)` (images float32 (n, c, h, w) in [0, 1], labels int64 (n,)) that
      returns a trained network, as `audit_model` takes it without `mean` and `std`. Each training has a process of its own.
    - x, y, members, classes: as for `audit_model`.
    - protocol: in the place of train, which is None then: models are trained by its recipe, on `device`, with a training `defense`,
      by default the protocol's baseline; trust: as in `run`.
    - network, mean, std: the audited network, as for `audit_model`; without it the recipe trains one on all members.
    - references: how many reference models, an even number; by default 16.
    - hours: instead: so many hours of training, those of earlier calls included.
    - workers: models that are trained at once; by default one, and by a protocol's recipe one a core.
    - released, title, seed, fail_if, queries, kinds, attribute: as for `audit_model`; other kinds need the network.

    Answers are kept in the project's store, so that a second call trains what is missing. Returns an `Audited`, whose
    `report.recipe` says what the reference models changed. Raises `UserError`, in one line, as where a training fails.
    """
    from leakboard import recipe_audits

    return recipe_audits.arrays(
        train, x, y, members, classes, protocol=protocol, defense=defense, network=network, mean=mean, std=std, references=references,
        hours=hours, workers=workers, device=device, trust=trust, released=released, title=title, seed=seed, fail_if=fail_if,
        queries=queries, kinds=kinds, attribute=attribute,
    )  # fmt: skip


def audit_canaries(
    answers: ArrayLike,
    labels: ArrayLike,
    secret: str | Path,
    *,
    form: Literal["probabilities", "log-probabilities", "logits"] = "probabilities",
    claimed_epsilon: float | None = None,
    delta: float = 1e-5,
    title: str = "",
) -> CanaryAudit:
    """Show how large the epsilon of a training is at least, by planted canaries: what `leakboard audit canaries` does.

    - answers: (m, k), of the trained model to all m canaries, in their order, in the form that `form` names.
    - labels: (m,), those that were planted.
    - secret: the file that `leakboard audit plant` wrote.
    - claimed_epsilon: the epsilon that the training is claimed to have.
    - delta: in [0, 1), that of the claim; 0 for pure epsilon.
    - title: what the report calls the model.

    Returns a typed `CanaryAudit`: `bounds`, each with what it rests on, `mu`, and `verdict`, whose state is "refuted" where a bound
    is above the claim. Raises `UserError`, in one line, for answers that are not those to these canaries.
    """
    from leakboard import canaries

    return canaries.arrays(answers, labels, secret, form, claimed_epsilon, delta, title)
