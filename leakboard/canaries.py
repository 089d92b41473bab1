"""The commands `leakboard audit plant` and `leakboard audit canaries`, and the latter from Python."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from benchmark import places
from benchmark.errors import UserError
from benchmark.text import plain
from leakboard import console
from leakboard.console import answer, out, say, tell_next, track

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from benchmark.run.audit.canary_report import CanaryAudit

PAGE, JSON = "canaries.html", "canaries-audit.json"
REFUTED = 3
"""The exit code of a claim that is refuted."""
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")]


def arrays(
    answers: ArrayLike, labels: ArrayLike, secret: str | Path, form: Any, claimed_epsilon: float | None, delta: float, title: str
) -> CanaryAudit:  # fmt: skip
    """`leakboard.audit_canaries`."""
    from benchmark.run.audit import canaries
    from benchmark.run.audit.canary_secret import read_secret
    from benchmark.run.audit.predictions import log_posteriors

    given = log_posteriors(answers, labels, form)
    planted = read_secret(Path(secret))
    return canaries.audit(*given, planted, delta=delta, claimed=claimed_epsilon, when=_now(), title=title)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def plant(
    data: Annotated[Path, typer.Option(metavar="DIR", help="The training data: a folder with one folder a class, or an .npz with images and labels.")],
    count: Annotated[int | None, typer.Option("--canaries", help="How many canaries; each is in the training set by a fair coin. Default: 1,000, or half of the images where they are fewer.")] = None,
    kind: Annotated[Literal["mislabelled", "noise"], typer.Option(help="Images taken out of the data, with a wrong label; or images of noise.")] = "mislabelled",
    share: Annotated[float, typer.Option("--guess", help="Share of the canaries whose inclusion will be guessed, fixed now. More can show a larger epsilon where a model leaks all.")] = 0.2,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where training set, canaries and secret are written: a new folder.")] = Path("planted"),
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Plant canaries into a model's training data, so that the training's epsilon can be held against its claim."""
    from benchmark.judge.bootstrap import DELTA
    from benchmark.run.audit import epsilon, planting
    from benchmark.run.audit.canary_report import down

    if not 0 < share <= 1:
        raise UserError(f"--guess: expected a share above 0 and at most 1, given {share:g}")

    def shown(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
        return track(items, what, total)

    done = planting.plant(data.expanduser(), count, folder.expanduser(), secrets.token_hex(32), kind, share, shown)
    count = len(done.secret.labels)
    best = epsilon.perfect(done.secret.included, done.secret.guesses)
    most = {
        "any mechanism": epsilon.any_mechanism(best, DELTA),
        "Gaussian curve": epsilon.gaussian_epsilon(epsilon.gaussian_mu(best), DELTA),
    }
    step = shlex.join(["leakboard", "audit", "canaries", "--secret", str(done.secret_file), "--answers", "answers.csv"])
    if as_json:
        answer({
            "train": done.train, "canaries": done.canaries, "secret": done.secret_file, "digest": done.secret.digest, "images": done.images,
            "count": count, "included": sum(done.secret.included), "guesses": done.secret.guesses, "most": most, "next": step,
        })  # fmt: skip
        return
    say(f"train     {places.brief(done.train)}: {done.images:,} images, those of included canaries among them", out)
    say(f"canaries  {places.brief(done.canaries)}: {count:,} {kind} images; ask the trained model about all of them, in order", out)  # fmt: skip
    say(f"secret    {places.brief(done.secret_file)}: who is in. It stays with you: whoever answers for the model must not see it", out)  # fmt: skip
    say(f"digest    {done.secret.digest} names the secret without telling it; publish it to show later that it was fixed now", out)  # fmt: skip
    say(f"{done.secret.guesses:,} guesses will be made. A model that gives all canaries away shows an epsilon of {down(most['any mechanism'])} "
        f"(delta {DELTA:g}; {down(most['Gaussian curve'])} under a Gaussian curve): no claim above can be refuted", out)  # fmt: skip
    tell_next(
        "train on the first, write the answers to the second into answers.csv (columns p_0 ..., label), and:", step
    )


def canaries(
    secret: Annotated[Path, typer.Option(metavar="FILE", help="The secret that `leakboard audit plant` wrote.")],
    answers: Annotated[Path, typer.Option(metavar="FILE", help="The trained model's answers to all canaries, in their order: .csv, .parquet or .npz, as `audit predictions` reads them.")],
    claimed: Annotated[float | None, typer.Option("--claimed-epsilon", help="The epsilon that the training is said to have; exit code 3 if it is refuted.")] = None,
    delta: Annotated[float, typer.Option(help="The delta of the claim; 0 for pure epsilon.")] = 1e-5,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where canaries.html and canaries-audit.json are written.")] = Path("audit"),
    title: Annotated[str, typer.Option(help="What the report calls the model.")] = "",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show how large epsilon is at least, by the answers to planted canaries, and hold a claim against it."""
    from benchmark.run.audit import canaries as by_canaries
    from benchmark.run.audit import predictions
    from benchmark.run.audit.canary_secret import read_secret
    from leaderboard.audit_page import canaries_as_html
    from leakboard import audit_runs

    by_canaries.check(delta, claimed)
    title = plain(title, 200)
    with console.working("reading answers"):
        planted = read_secret(secret.expanduser())
        log_posteriors, y, source = predictions.answers(answers.expanduser())
    arguments = ["--secret", str(secret), "--answers", str(answers)]
    arguments += ["--claimed-epsilon", f"{claimed:.12g}"] if claimed is not None else []
    arguments += ["--delta", f"{delta:.12g}"] + (["--title", title] if title else [])
    report = by_canaries.audit(
        log_posteriors, y, planted, delta=delta, claimed=claimed, when=_now(), title=title, sources=(source,),
        command=places.without_home(shlex.join(["leakboard", "audit", "canaries", *arguments])),
    )  # fmt: skip
    texts = {PAGE: canaries_as_html(report), JSON: report.as_json()}
    written = _write(folder, texts)
    if not as_json:
        _print(report)
        for path in written:
            say(f"wrote {places.brief(path)}", out)
    logged = audit_runs.log(report, texts)
    say(logged.line)
    if as_json:
        answer(report.model_dump(mode="json") | {"files_written": written, "run": logged.run or None})
    else:
        tell_next(shlex.join(["python", "-m", "webbrowser", str(folder / PAGE)]))
    if report.verdict.state == "refuted":
        raise typer.Exit(REFUTED)


def _write(folder: Path, texts: dict[str, str]) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, "utf-8", newline="")
    except OSError as error:
        raise UserError(f"{folder}: expected a folder that can be written, given {error.strerror}") from None
    return [folder / name for name in texts]


def _print(report: CanaryAudit) -> None:
    """The verdict, and each bound beside the claim, with what it rests on."""
    from benchmark.run.audit.canary_report import down

    say(report.verdict.sentence, out)
    say(report.verdict.more, out)
    table = Table("epsilon", "claimed", "shown", "at most", "delta", "assumes", box=None, header_style="bold")
    for bound in report.bounds:
        claimed = f"{report.claimed:g}" if bound.judges and report.claimed is not None else "-"
        table.add_row(bound.name, claimed, down(bound.epsilon), down(bound.most), f"{bound.delta:g}", bound.assumes)
    console.show(table)
    say(report.assumes, out)
