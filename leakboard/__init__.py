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
    """Audit a model of your own by its answers (n, k) to n records of k classes: what `leakboard audit predictions` does.

    labels: (n,) whole numbers in [0, k). members: (n,), true where the model was trained on the record. ids: (n,), each once.
    groups: subgroups (n,) by the name of what they are of. inputs: (n, ...), for the classifier that tells the sides apart
    without the model. references: answers (m, n, k) of reference models, in the same form; reference_members: (m, n), who was
    in whose training data, by default nobody. fail_if: conditions such as "tpr_at_fpr_0.01 > 0.05", decided in
    `report.gate`. The result has `report` (typed, with the verdict), `exposed` (rows of the most exposed members), `html()` and
    `write(folder)`. Raises UserError, in one line, for what can't be answers.
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
    released: Literal["labels", "posteriors", "weights"] = "posteriors",
    title: str = "",
    seed: int = 0,
    fail_if: Sequence[str] = (),
    queries: int = 40_000,
    kinds: str = "",
    attribute: ArrayLike | None = None,
) -> Audited:
    """Audit a network itself, images -> logits (n, k): what `leakboard audit model` does, in this process, for it is yours.

    x: images (n, c, h, w) (or (n, h, w[, c])), uint8 or in [0, 1], as the network takes them. y: labels (n,) in [0, classes).
    members: (n,), true where the network was trained on the image. released: what others get; attacks that read more do not
    count for the verdict. queries: what one attack may cost, in forward passes of one image. A copy is asked, in eval mode on the
    CPU. White-box attacks on the last layer need `embed(x)` and `head`, with logits `head(embed(x))`. kinds: of attack, joined by
    commas, as `--kinds`. attribute: (n,), whole numbers or texts, for attribute inference. Else as `audit`.
    """
    from leakboard import model_audits

    return model_audits.module(
        network, x, y, members, classes, released=released, title=title, seed=seed, fail_if=fail_if, queries=queries, kinds=kinds,
        attribute=attribute,
    )  # fmt: skip


def audit_recipe(
    train: str | Path,
    x: ArrayLike,
    y: ArrayLike,
    members: ArrayLike,
    classes: int,
    *,
    network: torch.nn.Module | None = None,
    references: int | None = None,
    hours: float | None = None,
    workers: int = 1,
    released: Literal["labels", "posteriors", "weights"] = "posteriors",
    title: str = "",
    seed: int = 0,
    fail_if: Sequence[str] = (),
    queries: int = 40_000,
    kinds: str = "",
    attribute: ArrayLike | None = None,
) -> Audited:
    """Audit with reference models that are trained for it: what `leakboard audit recipe` does.

    train: a file of yours with `def train(x, y, classes, seed)` (images float32 (n, c, h, w) in [0, 1], labels int64 (n,)) that
    returns a trained torch.nn.Module, images -> logits; each training runs in a process of its own. network: the model that is
    audited; None: one that the recipe trains on all members. references: an even number, 16 by default; or hours of training.
    workers: models that are trained at once. Answers are kept in the project's store, so that a second call trains what is missing.
    Else as `audit_model`.
    """
    from leakboard import recipe_audits

    return recipe_audits.arrays(
        train, x, y, members, classes, network=network, references=references, hours=hours, workers=workers, released=released,
        title=title, seed=seed, fail_if=fail_if, queries=queries, kinds=kinds, attribute=attribute,
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

    answers: (m, k) of the trained model to all canaries, in their order; labels: (m,), those that were planted. secret: the file
    that `leakboard audit plant` wrote. The result is typed: `bounds`, each with what it rests on, `mu`, and `verdict`, whose state is
    "refuted" where a bound is above the claim. Raises UserError, in one line, for answers that are not those to these canaries.
    """
    from leakboard import canaries

    return canaries.arrays(answers, labels, secret, form, claimed_epsilon, delta, title)
