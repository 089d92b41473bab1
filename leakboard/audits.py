"""The command `leakboard audit`, and audits from Python."""

from __future__ import annotations

import csv
import io
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from benchmark import places
from benchmark.errors import UserError
from benchmark.text import plain
from leakboard import canaries as canary_commands
from leakboard import console
from leakboard.console import answer, out, say, track

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from benchmark.run.audit.canary_report import CanaryAudit
    from benchmark.run.audit.parts import File
    from benchmark.run.audit.predicted import Exposed
    from benchmark.run.audit.predictions import Predictions
    from benchmark.run.audit.report import Audit

PAGE, JSON, RECORDS = "report.html", "audit.json", "exposed.csv"
FAILS, CANNOT_TELL = 3, 4
"""Exit codes of a gate that fails, and of one that cannot tell."""
audit = typer.Typer(help="What a model of your own gives away about its training data.", no_args_is_help=True)
for _command in (canary_commands.plant, canary_commands.canaries):
    audit.command()(_command)


# fmt: off
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where report.html, audit.json and exposed.csv are written.")]
Title = Annotated[str, typer.Option(help="What the report calls the model.")]
FailIf = Annotated[list[str] | None, typer.Option("--fail-if", metavar="CONDITION", help="A gate, such as 'tpr_at_fpr_0.01 > 0.05'; exit code 3 if it fails, 4 if it cannot tell.")]
Canaries = Annotated[Path | None, typer.Option("--canaries", metavar="FILE", help="canaries-audit.json of `leakboard audit canaries`: the report then has the epsilon that was claimed and shown.")]
Seed = Annotated[int, typer.Option(min=0, help="Draws the known records, permutations and resamples.")]
AsJson = Annotated[bool, typer.Option("--json", help="The audit as one JSON document on stdout, and nothing else there.")]
# fmt: on
"""Options that the ways of an audit share."""


@dataclass(frozen=True)
class Audited:
    """An audit: the data of its report, and the most exposed records, which the report does not hold."""

    report: Audit
    """All that the report says: `verdict`, `worst`, `attacks`, `left`, `checks`, `gate` and the rest, which docs/audit.md lists."""
    exposed: Exposed
    """Rows of members, the most exposed first, with their scores by the deciding attack."""
    given: Predictions
    """The answers, labels and memberships that were audited."""

    def __repr__(self) -> str:
        return f"Audited({self.report.verdict.sentence!r})"

    def html(self) -> str:
        """The report as one HTML file."""
        from leaderboard.audit_page import as_html

        return as_html(self.report, RECORDS if self.report.exposed else "")

    def write(self, folder: str | Path) -> list[Path]:
        """Write report.html, audit.json and exposed.csv, and return their paths. Raises UserError where that can't be done."""
        folder = Path(folder)
        texts = {PAGE: self.html(), JSON: self.report.as_json(), RECORDS: self._records()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                (folder / name).write_text(text, "utf-8", newline="")
        except OSError as error:
            raise UserError(f"{folder}: expected a folder that can be written, given {error.strerror}") from None
        return [folder / name for name in texts]

    def _records(self) -> str:
        """The most exposed members as CSV. `record` counts from 1 in the file of members, or in the one of both sides."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["rank", "record", "id", "label", "score", "attack"])
        for rank, (row, score) in enumerate(zip(self.exposed.rows, self.exposed.scores, strict=True), 1):
            id = "" if self.given.ids is None else cell(str(self.given.ids[row]))
            writer.writerow([rank, int(row) + 1, id, int(self.given.y[row]), f"{score:.6g}", self.exposed.attack])
        return stream.getvalue()


def cell(text: str) -> str:
    """A foreign text as a cell that no spreadsheet takes for a formula: such a one gets an apostrophe in front."""
    shown = plain(text, 200)
    first = unicodedata.normalize("NFKC", shown.lstrip()[:1])  # some read a full-width sign as the sign
    formula = first in ("=", "+", "-", "@", "|", "%") or (text[:1] in "\t\r\n" and text)
    return f"'{shown}" if formula else shown


def arrays(
    answers: ArrayLike,
    labels: ArrayLike,
    members: ArrayLike,
    *,
    form: Any = "probabilities",
    ids: ArrayLike | None = None,
    groups: Mapping[str, ArrayLike] | None = None,
    inputs: ArrayLike | None = None,
    references: ArrayLike | None = None,
    reference_members: ArrayLike | None = None,
    title: str = "",
    seed: int = 0,
    fail_if: Sequence[str] = (),
) -> Audited:
    """`leakboard.audit`."""
    from benchmark.run.audit.predictions import predictions

    given = predictions(
        answers, labels, members, form=form, ids=ids, groups=groups, inputs=inputs, references=references,
        reference_members=reference_members,
    )  # fmt: skip
    return _audited(given, title, seed, fail_if, "", show=False)


def _audited(
    given: Predictions, title: str, seed: int, fail_if: Sequence[str], command: str, *, show: bool = True, **more: Any
) -> Audited:
    """`more`: what `predicted.audit` takes for a model."""
    from benchmark.entries.registry import Registry
    from benchmark.run.audit import gate, predicted
    from leaderboard import lines

    conditions, title = [gate.condition(text) for text in fail_if], plain(title, 200)
    known = {
        name: predicted.Line(*(line[f] for f in predicted.Line._fields)) for name, line in lines.published().items()
    }

    def shown(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
        return track(items, what, total) if show else items

    report, exposed = predicted.audit(
        given, Registry(places.PACKAGED / "submissions"), when=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        seed=seed, title=title, command=command, lines=known, track=shown, **more,
    )  # fmt: skip
    decided = [gate.decide(report, asked) for asked in conditions]
    return Audited(report.model_copy(update={"gate": decided}), exposed, given)


@audit.callback()
def about() -> None:
    """What a model of your own gives away about its training data."""


@audit.command()
def predictions(
    members: Annotated[Path, typer.Option("--members", metavar="FILE", help="The model's answers on its training data: .csv, .parquet or .npz; or on both sides, with a column `member`.")],
    nonmembers: Annotated[Path | None, typer.Option("--non-members", metavar="FILE", help="Its answers on data of the same origin that it was not trained on.")] = None,
    folder: Out = Path("audit"),
    title: Title = "",
    fail_if: FailIf = None,
    canaries: Canaries = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Audit a model by its answers alone: no model, no images. docs/audit.md says what the files hold."""
    import torch

    from benchmark.run.audit import gate
    from benchmark.run.audit.predictions import load

    torch.set_num_threads(1)  # as in workers: the last digits of sums depend on the number of threads
    for text in fail_if or []:
        gate.condition(text)  # before the work
    shown = shown_by(canaries)
    command = repeated(
        "predictions",
        {
            "--members": members,
            "--non-members": nonmembers,
            "--canaries": canaries,
            "--title": title,
            "--seed": seed or None,
        },
        fail_if,
    )
    with console.working("reading answers"):
        given = load(members.expanduser(), nonmembers.expanduser() if nonmembers else None)
    conclude(_audited(given, title, seed, fail_if or [], command), folder, as_json, shown)


def repeated(way: str, options: Mapping[str, object], fail_if: Sequence[str] | None) -> str:
    """The command that makes an audit again. options: by name; None and "" are left out, True is a flag."""
    given = {name: value for name, value in options.items() if value is not None and value is not False and value != ""}
    arguments = [part for name, value in given.items() for part in ((name,) if value is True else (name, str(value)))]
    arguments += [part for text in fail_if or [] for part in ("--fail-if", text)]
    return places.without_home(shlex.join(["leakboard", "audit", way, *arguments]))


Shown = tuple["CanaryAudit", "File"] | None
"""What canaries showed before, and the file that says so."""


def shown_by(canaries: Path | None) -> Shown:
    """What the file of `--canaries` holds; None without one. Raises UserError."""
    from benchmark.run.audit.canary_report import read

    return None if canaries is None else read(canaries.expanduser())


def conclude(done: Audited, folder: Path, as_json: bool, shown: Shown = None) -> None:
    """Write, print and log an audit, with what canaries showed. Raises typer.Exit where a gate fails or cannot tell."""
    from leakboard import audit_runs

    if shown is not None:
        canaries, file = shown
        done = replace(done, report=done.report.model_copy(update={"canaries": canaries, "files": [*done.report.files, file]}))  # fmt: skip
    written = done.write(folder)
    if not as_json:
        _print(done.report)
        for path in written:
            say(f"wrote {places.brief(path)}", out)
    logged = audit_runs.log(
        done.report, {path.name: path.read_text("utf-8") for path in written if path.name != RECORDS}
    )
    say(logged.line)
    if as_json:
        answer(done.report.model_dump(mode="json") | {"files_written": written, "run": logged.run or None})
    else:
        page = shlex.join(["python", "-m", "webbrowser", str(folder / PAGE)])
        console.tell_next(page, console.command_line("board", "--audit", str(folder)))
    outcomes = {decision.outcome for decision in done.report.gate}
    if "fails" in outcomes:
        raise typer.Exit(FAILS)
    if "cannot tell" in outcomes:
        raise typer.Exit(CANNOT_TELL)


def _print(report: Audit) -> None:
    """The verdict, the worst cases, warnings and the gate on one screen."""
    from benchmark.metrics import METRICS

    out.print(f"[bold]{escape(report.verdict.sentence)}[/bold]", soft_wrap=True)
    say(report.verdict.more, out)
    table = Table("metric", "worst", "95 %", "chance (99 %)", "attack", box=None, header_style="bold")
    for metric, case in report.worst.items():
        sign = ", low scores" if case.reversed else ""
        table.add_row(
            METRICS[metric].label, f"{case.value:.4f}", f"{case.low:.4f} to {case.high:.4f}", f"{case.null:.4f}",
            escape(case.attack + sign),
        )  # fmt: skip
    console.show(table)
    for kind in report.others:
        if kind.attacks:
            say(kind.sentence, out)
    for check in report.checks:
        if check.state in ("warning", "broken"):
            say(f"{check.state}: {check.name}: {check.found} {check.effect}", out)
    for decision in report.gate:
        say(f"gate: {decision.condition}: {decision.outcome}; {decision.reason}", out)
