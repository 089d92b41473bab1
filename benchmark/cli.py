"""The command `leakboard`. It alone knows the order in which the modules are called."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from benchmark import places
from benchmark.addresses import checked
from benchmark.errors import UserError, printable

if TYPE_CHECKING:
    from benchmark.remote import Mode
    from benchmark.result import Result

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One judge for what trained image classifiers leak about their training data.",
)
out = Console()
err = Console(stderr=True)

Workers = Annotated[int | None, typer.Option("--workers", min=1, envvar="LEAKBOARD_WORKERS", help="Processes; default: the cores, at most 8; 1 on a GPU.")]  # fmt: skip
Port = Annotated[int, typer.Option(min=1, max=65535)]
ProtocolName = Annotated[str, typer.Option("--protocol", "-p", envvar="LEAKBOARD_PROTOCOL", help="A protocol's name, or its YAML file.")]  # fmt: skip
Device = Annotated[str, typer.Option("--device", envvar="LEAKBOARD_DEVICE", help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")]


def say(line: str, console: Console = out) -> None:
    """A line as it is: Rich would take `[power=2]` for markup, and break a command where the terminal ends."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def store_root() -> Path:
    return places.store()


def submissions() -> Path:
    root = places.submissions()
    if not root.is_dir() and places.baselines() is None:
        raise UserError(f"LEAKBOARD_SUBMISSIONS: expected a folder {root}/ with attacks/ and defenses/, given none")
    return root


@app.command("list")
def list_entries() -> None:
    """Every submission, with what it needs; broken ones with their error."""
    from benchmark import protocol
    from benchmark.registry import Registry

    entries = Registry(submissions(), places.baselines()).entries.values()
    table = Table(box=None)
    widest = max((len(e.id) for e in entries if not e.error), default=0)  # names are typed again: none is cut
    table.add_column("entry", no_wrap=True, min_width=widest)
    for column in ("kind", "task or stage", "access", "knowledge", "method"):
        table.add_column(column, overflow="fold")
    broken = []
    for entry in entries:
        if entry.error:
            broken.append(entry)
            continue
        card = entry.card
        table.add_row(
            entry.id, entry.kind, ", ".join(entry.stages) or entry.task, entry.access,
            ("+".join(sorted(entry.needs)) or "none") if entry.kind == "attack" else "",
            escape(card.title) if card else "",
        )  # fmt: skip
    out.print(table)
    for entry in broken:
        out.print(f"[red]broken[/red]  {escape(entry.error)}", soft_wrap=True)
    out.print(f"protocols: {', '.join(protocol.names())}")
    out.print("next: leakboard run --protocol digits-v1")


@app.command()
def new(kind: Annotated[str, typer.Argument(help="attack or defense")], name: str) -> None:
    """Write a submission that works as it is, to be changed."""
    import re

    from benchmark.templates import TEMPLATES

    if kind not in TEMPLATES:
        raise UserError(f"kind: expected attack or defense, given {kind!r}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"name: expected a letter, then a-z, 0-9 and _, given {name!r}")
    paths = {known: submissions() / f"{known}s" / f"{name}.py" for known in TEMPLATES}
    roots = [root for root in (submissions(), places.baselines()) if root]
    if taken := [path for root in roots for known in TEMPLATES if (path := root / f"{known}s" / f"{name}.py").exists()]:
        raise UserError(f"{taken[0]}: exists already; choose another name")
    path = paths[kind]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TEMPLATES[kind].replace("NAME", name), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: expected a folder {path.parent}/ that can be written, given {error.strerror}; "
            "make it, or name another folder in LEAKBOARD_SUBMISSIONS"
        ) from None
    say(f"wrote {places.brief(path)}")
    say(f"next: leakboard check {shlex.quote(places.brief(path))}")


@app.command()
def check(
    files: list[Path],
    trust: Annotated[bool, typer.Option("--trust", help="Run code that nobody has reviewed in this process.")] = False,
) -> None:
    """Hold submissions to the contract, on a few digits and made-up images."""
    import torch

    from benchmark import checks
    from benchmark.text import plain

    torch.set_num_threads(1)  # as in workers and sandboxes: the last digits depend on it
    failed = untried = 0
    marks = {"ok": "[green]ok      [/green]", "failed": "[red]failed  [/red]", "left out": "left out"}
    for path in files:
        results = []
        for result in checks.check_file(
            path, submissions(), store_root() / "check", "never" if trust else "auto", places.baselines()
        ):
            results.append(result)
            if result.after:  # told in one line below
                untried += 1
                continue
            out.print(f"{marks[result.state]}  {escape(path.stem)}: {escape(result.name)}{escape(': ' + result.detail if result.detail else '')}", soft_wrap=True)  # fmt: skip
            for line in result.log.splitlines()[-12:]:
                out.print(Text(f"          | {plain(line, 400)}", style="dim"), soft_wrap=True)
            failed += not result.ok
        for line in checks.not_tried(results):
            say(f"          {path.stem}: {line}")
    if failed:
        untried_too = f", and {untried} could not be tried for it" if untried else ""
        raise UserError(f"{failed} check(s) failed{untried_too}; submissions/README.md says what each of them means")
    steps = [step for path in files if (step := _into_submissions(path))]
    say(f"next: {''.join(steps)}leakboard run {shlex.join(path.stem for path in files)} --protocol digits-v1")


def _into_submissions(path: Path) -> str:
    """What brings a file among the submissions, in words; "" where it is."""
    from benchmark.checks import is_defense

    folders = [submissions() / f"{kind}s" for kind in ("attack", "defense")]
    if path.resolve().parent in [folder.resolve() for folder in folders]:
        return ""
    taken = [folder / path.name for folder in folders if (folder / path.name).exists()]
    name = f" under another name (there is {taken[0]})" if taken else ""
    return f"copy {path} to {folders[is_defense(path, submissions())]}/{name}, then "


@app.command()
def run(
    entries: Annotated[
        list[str] | None, typer.Argument(help="Attacks or defenses; default: all of the protocol.")
    ] = None,
    protocol: ProtocolName = "digits-v1",
    workers: Workers = None,
    device: Device = "auto",
    seed: Annotated[list[int] | None, typer.Option(help="Only these seeds.")] = None,
    isolation: Annotated[str, typer.Option(help="auto: isolate all but reviewed files; always: isolate all.")] = "auto",
    trust: Annotated[
        bool, typer.Option("--trust", help="Run files that you have read in the judge's process; the rows say so.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is missing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score entries under a protocol; what is stored already is not computed again."""
    from benchmark import runs

    console = err if as_json else out
    if isolation not in ("auto", "always"):
        raise UserError(f"--isolation: expected auto or always, given {isolation!r}")
    if trust and isolation == "always":
        raise UserError("--trust: expected it without --isolation always, given both")
    mode: Mode = "never" if trust else "always" if isolation == "always" else "auto"
    job = runs.prepare(entries or [], protocol, submissions(), store_root(), device, seed, mode)
    plan = job.plan
    say(
        f"{protocol}: {plan.scenarios()} scenarios to score, {len(plan.done)} stored; "
        f"{plan.networks - plan.networks_stored} networks to train, {plan.networks_stored} stored",
        console,
    )
    if dry_run:
        kinds: dict[str, int] = defaultdict(int)
        for planned in plan.jobs.values():
            kinds[planned.kind] += 1
        say("jobs: " + (", ".join(f"{n} {k}" for k, n in kinds.items()) or "none"), console)
        say(f"next: {shlex.join(['leakboard', 'run', *(entries or []), '--protocol', protocol])}", console)
        return
    outcome = runs.run(job, workers or runs.default_workers(job.setting.device), err)
    if as_json:
        print(json.dumps([json.loads(r.to_json()) for r in outcome.results]))
    else:
        runs.print_board(job, outcome, out)
    failed = [r for r in outcome.results if r.status not in ("ok", "skipped")]
    for result in failed[:10]:
        where = f"{result.attack or 'utility'} on {result.defense}, seed {result.seed}"
        err.print(f"[red]{result.status}[/red] {escape(printable(f'{where}: {result.reason}', 1000))}", soft_wrap=True)
    runs.print_summary(job, outcome, console)
    if failed:
        console.print(f"{len(failed)} scenario(s) failed; they are tried again by the next call")
        raise typer.Exit(1)


@app.command()
def tune(
    defense: Annotated[str, typer.Argument(help="A defense or a cascade; hyperparameters that you give stay fixed.")],
    protocol: ProtocolName = "digits-v1",
    trials: Annotated[int, typer.Option(min=1, help="Finished trials of the study, those of earlier calls included.")] = 20,
    workers: Workers = None,
    timeout: Annotated[float | None, typer.Option(min=1, help="Seconds after which no trial is begun.")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="What trials meet; default: the protocol's that need no bank.")] = None,
    leakage: Annotated[str, typer.Option(help="auc or tpr_at_fpr_0.01, over the worst of the attacks.")] = "auc",
    seeds: Annotated[int, typer.Option(min=1, help="Tuning splits a trial is scored on, in mirrored pairs; no board uses them.")] = 4,
    storage: Annotated[str, typer.Option(envvar="LEAKBOARD_OPTUNA", help="Where Optuna keeps the study: any database URL.")] = "",
    paper_grid: Annotated[bool, typer.Option("--paper-grid", help="The grid of the paper instead of a search.")] = False,
    random: Annotated[bool, typer.Option("--random", help="Random trials, to see what the search is worth.")] = False,
    sampler_seed: Annotated[int, typer.Option(min=0, help="Seed of the search; another one is another study.")] = 0,
    device: Device = "auto",
    isolation: Annotated[str, typer.Option(help="auto: isolate all but reviewed files; always: isolate all.")] = "auto",
    trust: Annotated[bool, typer.Option("--trust", help="Run files that you have read in the judge's process.")] = False,
) -> None:  # fmt: skip
    """Search a defense's hyperparameters for its privacy-utility curve; run the same command again to go on."""
    from benchmark import runs, tuning
    from benchmark.tracking import without_password

    if isolation not in ("auto", "always"):
        raise UserError(f"--isolation: expected auto or always, given {isolation!r}")
    if leakage not in ("auc", "tpr_at_fpr_0.01"):
        raise UserError(f"--leakage: expected auc or tpr_at_fpr_0.01, given {leakage!r}")
    mode: Mode = "never" if trust else "always" if isolation == "always" else "auto"
    storage = checked("--storage", storage) if storage else places.optuna()
    job = runs.prepare([defense], protocol, submissions(), store_root(), device, None, mode)
    study = tuning.start(
        job.artifacts, job.setting, defense, attack or [], leakage, seeds, storage, paper_grid, random, sampler_seed
    )
    total = len(study.grid) or trials
    say(f"{study.name}: {len(study.finished())} of {total} trials finished")
    if others := study.others():
        say(
            f"{len(others)} earlier {'study' if len(others) == 1 else 'studies'} of this defense had other ranges, attacks, "
            "settings or code: left as it is, not mixed with this one"
        )
    say(f"searched: {', '.join(study.labels)}; against {', '.join(study.attacks)}")
    study.run(total, workers or runs.default_workers(job.setting.device), timeout, err)
    best = study.front()
    if not best:
        raise UserError(
            f"{defense}: expected a trial that reaches {study.floor:.0%} of the baseline's accuracy, given none; run more"
        )
    table = Table("test accuracy", f"worst {leakage}", "decided by", "defense", box=None)
    for point in best:
        table.add_row(f"{point.accuracy:.3f}", f"{point.leakage:.3f}", escape(point.decides), escape(point.defense))
    out.print(table)
    say(f"hypervolume of the front: {study.hypervolumes()[-1]:.4f} (accuracy 0, leakage 1 as the reference)")
    say(
        f"figure: {study.finish(places.mlruns() / 'tuning')}; study: {without_password(storage)}; MLflow: experiment {study.protocol}.tuning (leakboard ui)"
    )
    say("these are tuning splits; the board takes what is scored on its own:")
    say(f"next: {shlex.join(['leakboard', 'run', *(p.defense for p in best), '--protocol', protocol])}")


@app.command(hidden=True)
def review(files: list[Path]) -> None:
    """For maintainers: list files as reviewed, so that they may run in the judge's process."""
    from benchmark.registry import REVIEWED, Registry
    from benchmark.registry import review as list_as_reviewed

    registry = Registry(submissions(), places.baselines())
    chosen = [e for e in registry.entries.values() if e.path.resolve() in {f.resolve() for f in files} and not e.error]
    if len(chosen) != len(files):
        raise UserError(f"expected files of {submissions()}/ that can be read, given {', '.join(map(str, files))}")
    list_as_reviewed(chosen)
    say(f"listed in {REVIEWED}: {', '.join(e.id for e in chosen)}")
    out.print("next: leakboard list")


@app.command()
def publish(
    protocol: ProtocolName = "digits-v1",
    replace: Annotated[bool, typer.Option("--replace", help="Publish what your store holds and nothing else; default: published rows that it lacks stay.")] = False,
) -> None:  # fmt: skip
    """Write your rows of a protocol, and its tables, to leaderboard/published/."""
    from benchmark import protocol as protocols
    from benchmark import runs, studies
    from benchmark.registry import Registry
    from leaderboard import publish as publishing

    loaded = protocols.load(protocol)
    results = runs.stored_results(protocol, submissions(), store_root())
    if not results:
        raise UserError(f"{protocol}: nothing is scored yet; run: leakboard run --protocol {protocol}")
    folder = publishing.edition_folder(results, places.board(loaded.name))
    before: list[Result] | None = None
    with contextlib.suppress(ValueError):  # damaged: publishing is what mends it
        before = publishing.load(folder)
    strange = publishing.strangers(results, before or [])
    if strange and not replace:
        raise UserError(
            f"{folder}: expected rows of this version of {loaded.name}, given {strange} published ones of another, which share "
            "no table with yours: give your protocol a name of its own, or drop them with --replace"
        )
    try:
        tuned = studies.read(studies.address(), loaded.name) if folder == places.board(loaded.name) else []
        folder = publishing.edition_folder(results, places.own_board(loaded.name))
        curves = publishing.publish_studies(tuned, folder, loaded.name) if tuned else 0
        rows = results if replace else publishing.merge(results, before or [])
        written = publishing.publish(rows, runs.board_of(loaded, Registry(submissions(), places.baselines())), folder)
    except (ValueError, OSError) as problem:  # an unreadable database of studies is one, too
        raise UserError(f"{folder}: {problem}") from None
    if before is None:
        say(f"{folder}: what was there could not be read, so none of it stays; git may have it still")
    if strange:
        say(f"{strange} rows that were there are gone: they are of another version of the protocol and share no table with yours")  # fmt: skip
    levels = Counter(r.trust for r in written)
    trust = ", ".join(f"{n} {level}" for level, n in sorted(levels.items()))
    also = f" and {curves} of Optuna's studies" if curves else ""
    old = {r.key: r for r in before or []}
    stayed = sum(old.get(r.key) == r for r in written)
    say(f"published {len(written)} results{also} in {folder}/ ({trust}): {len(written) - stayed} new or changed, {stayed} that were there")  # fmt: skip
    for name, older in publishing.left_behind(written, before or []).items():
        say(f"{name}: {len(older)} of its rows are of another version of its code than yours; to score them again, then publish: {publishing.again(name, older, protocol)}")  # fmt: skip
    say("next: leakboard board")


@app.command()
def claims() -> None:
    """What the papers say, held against what is published and what you scored: a difference and a verdict for each."""
    from benchmark import protocol as protocols
    from benchmark import runs
    from leaderboard import publish as publishing
    from leaderboard.claims import check, load
    from leaderboard.ranking import split_of
    from leaderboard.terminal import print_claims

    def known(protocol: str) -> list[Result]:
        """One's own rows take the place of published ones; official ones lie on another split, and none is paired (RULES 26)."""
        version = protocols.load(protocol).measures
        published = [r for r in publishing.load(places.board(protocol)) if r.protocol_digest == version]
        own = runs.stored_results(protocol, submissions(), store_root())
        return [*published, *(r for r in own if split_of(r) == "public")]

    try:
        findings = check(load(), known)
    except ValueError as problem:
        raise UserError(str(problem)) from None
    print_claims(findings, out)
    missing = dict.fromkeys(p for f in findings for p in f.missing)
    steps = [f"leakboard run --protocol {p}" for p in missing] or ["leakboard board"]
    out.print("next: " + "\n      ".join(steps), highlight=False)


@app.command()
def board(
    port: Port = 8501,
    public: Annotated[bool, typer.Option("--public", envvar="LEAKBOARD_PUBLIC", help="Rank only reproduced and official rows, unless a visitor chooses otherwise.")] = False,
) -> None:  # fmt: skip
    """Open the leaderboard in the browser."""
    import leaderboard
    from benchmark import secret

    secret.take()  # out of the environment: what shows the board must not hold it
    os.environ["LEAKBOARD_PUBLIC"] = "1" if public else "0"
    script = Path(leaderboard.__file__).parent / "app.py"
    out.print(f"the board: http://127.0.0.1:{port} (Ctrl-C ends it)")
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.port", str(port)]
    os.execv(sys.executable, command)


@app.command()
def ui(port: Port = 5000) -> None:
    """Open MLflow on Leakboard's runs."""
    from benchmark import secret, tracking

    secret.take()  # it must not stay in the environment of what is started here
    address = tracking.uri()
    shown = tracking.without_password(address)
    if address.startswith("http"):
        say(f"MLflow runs at {shown}")
        return
    try:
        pages = tracking.pages()
    except Exception as problem:  # MLflow and its stores raise many kinds
        text = printable(tracking.said(problem), 300)
        raise UserError(
            f"MLFLOW_TRACKING_URI: expected a database or a server of MLflow, given {shown}: {text}"
        ) from None
    say(f"MLflow on {shown}: http://127.0.0.1:{port} (Ctrl-C ends it)")
    for name, page in pages.items():
        say(f"  {printable(name, 100)}: http://127.0.0.1:{port}/#{page}")
    os.environ["MLFLOW_BACKEND_STORE_URI"] = address  # the command line, which everybody can read, has no password
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port)]
    os.execv(sys.executable, command)


@app.command()
def reproduce(
    run_id: Annotated[str, typer.Argument(help="A scenario's run in MLflow.")] = "",
    protocol: Annotated[str, typer.Option("--protocol", "-p", help="Compare all that is published of it with what your store holds; beside a run: the file of its protocol, where it is from one.")] = "",
    workers: Workers = None,
    device: Device = "auto",
) -> None:  # fmt: skip
    """Score a logged run again from its record, from scratch, and compare; or mark the rows of a published board."""
    if not run_id and not protocol:
        raise UserError("reproduce: expected the id of a run or --protocol NAME, given neither")
    if run_id:
        _reproduce_run(run_id, protocol, workers, device)
    else:
        _reproduce_board(protocol)


def _reproduce_run(run_id: str, protocol: str, workers: int | None, device: str) -> None:
    import tempfile

    from benchmark import protocol as protocols
    from benchmark import runs, tracking
    from benchmark.text import plain
    from leaderboard.publish import compare

    try:
        old = tracking.result_of(run_id)
    except tracking.Unreachable as problem:
        raise UserError(f"{problem}; MLFLOW_TRACKING_URI says where MLflow is") from None
    if old is None:
        where = tracking.without_password(tracking.uri())
        raise UserError(f"run {run_id!r}: expected the id of a scenario's run, given one that {where} does not hold")
    if old.status != "ok":
        raise UserError(f"run {run_id!r}: expected a scored run, given status {old.status}: {plain(old.reason)}")
    try:
        protocols.load(protocol or old.protocol)
    except UserError as problem:
        hint = "" if protocol else "; a protocol of your own is named by its file: --protocol FILE"
        raise UserError(f"{problem}{hint}") from None
    title = plain(f"{old.attack or 'utility'} on {old.defense}, seed {old.seed}, {old.protocol}")
    out.print(f"reproducing {title}, from scratch", markup=False)
    with tempfile.TemporaryDirectory(prefix="leakboard-") as folder:
        fresh = runs.reproduce(old, protocol or old.protocol, submissions(), Path(folder), device, workers, err)
    if fresh.status != "ok":
        raise UserError(f"the new run ended as {fresh.status}: {plain(fresh.reason)}")
    table = Table("metric", "logged", "interval", "now", "verdict", box=None)
    compared = compare(old, fresh)
    for c in compared:
        interval = f"{c.interval[0]:.4g} to {c.interval[1]:.4g}" if c.interval else "none"
        table.add_row(escape(plain(c.name)), f"{c.before:.4g}", interval, f"{c.now:.4g}", c.verdict)
    for name in ("attack_source", "defense_source", "libraries", "pretrained", "torch", "device"):
        then, now = (plain(str(r.provenance.get(name))) for r in (old, fresh))
        if then != now:
            out.print(f"{name} differs: {then} then, {now} now", markup=False)
    out.print(table)
    # Another device gives other last digits: a number without an interval is shown, and decides nothing here.
    if outside := sum(c.verdict == "OUTSIDE" for c in compared):
        out.print(f"{outside} number(s) outside")
        out.print("next: leakboard ui")
        raise typer.Exit(1)
    out.print("reproduced: every number lies in its interval")
    named = shlex.join(["--protocol", protocol or old.protocol])
    out.print(
        f"next: leakboard run {named} && leakboard reproduce {named} "
        "(marks every row of the published board that you can confirm; of what you published yourself: in another LEAKBOARD_STORE)",
        soft_wrap=True, markup=False,
    )  # fmt: skip


def _reproduce_board(name: str) -> None:
    """Mark the published rows that agree with a scoring of the same key in one's own store."""
    import re

    from benchmark import protocol as protocols
    from benchmark import runs
    from benchmark.registry import Registry
    from benchmark.store import Store
    from benchmark.text import plain
    from leaderboard import publish as publishing

    loaded = protocols.load(name)
    folder, root = places.board(loaded.name), store_root()
    store = Store(root)
    try:
        rows = publishing.load(folder)
    except ValueError as problem:
        raise UserError(str(problem)) from None
    if not rows:
        raise UserError(f"{folder}: expected a published board, given none; run: leakboard publish --protocol {name}")
    # A key is part of a path in the store, and these come from a file that anybody may have written.
    keys = [r.key for r in rows if re.fullmatch(r"[0-9a-f]{40}", r.key)]
    own = {key: mine for key in keys if (mine := store.result(key)) is not None and mine.key == key}
    found = publishing.mark(rows, own)
    compared = found.agreed + len(found.differing)
    say(f"{loaded.name}: {compared} of {len(rows)} published rows compared with {root}: {found.agreed} agree, {len(found.differing)} differ")  # fmt: skip
    for row, difference in found.differing[:20]:
        where = f"{row.attack or 'utility'} on {row.defense}, seed {row.seed}"
        say(f"  differs: {plain(where)}: {plain(difference)}")
    if len(found.differing) > 20:
        say(f"  and {len(found.differing) - 20} more")
    if found.same:
        say(f"  {found.same} rows were published from this very scoring: they finished at the same time, so it is no second one")  # fmt: skip
    if found.alone:
        say(
            f"  {found.alone} rows have no counterpart of the same code, data, seeds and torch here; they stay as they are"
        )
    if found.marked:
        try:
            folder = places.own_board(loaded.name)
            publishing.publish(
                found.results, runs.board_of(loaded, Registry(submissions(), places.baselines())), folder
            )
        except (ValueError, OSError) as problem:
            raise UserError(f"{folder}: {problem}") from None
    say(f"{found.marked} rows newly marked as reproduced in {folder}/")
    elsewhere = "LEAKBOARD_STORE=another/folder " if found.same else ""
    say("next: " + ("leakboard board --public" if compared else f"{elsewhere}leakboard run --protocol {name}, then {elsewhere}leakboard reproduce --protocol {name}"))  # fmt: skip
    if found.differing:
        raise typer.Exit(1)


def main() -> NoReturn:
    """Entry point: a user's mistake is one line and exit code 2, never a traceback."""
    _in_utf8()
    try:
        code = app(standalone_mode=False)  # typer returns the code of an Exit, and 130 after Ctrl-C
    except UserError as error:
        code = _mistake(str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's own usage errors have it
            raise
        code = _mistake(error.format_message())
    if code == 130:
        err.print("interrupted; run the same command again to go on")
    sys.exit(code or 0)


def _in_utf8() -> None:
    """Begin anew in UTF-8 mode where the locale has another encoding: libraries take the names of files for UTF-8."""
    if sys.getfilesystemencoding().lower() == "utf-8":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:replace")  # the terminal is what it was
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _mistake(message: str) -> int:
    err.print(f"[red]error:[/red] {escape(printable(message, 2000))}", soft_wrap=True)
    return 2
