"""The command `leakboard`. It alone knows the order in which the modules are called.

Exit codes: 0 all is well; 1 something that was asked for failed; 2 a mistake in what was given; 3 and 4 are `audit`'s: a gate
fails (or canaries refute a claim), or cannot tell; 130 Ctrl-C. With
`--json` stdout holds one JSON document, an object with `error` where the command came to nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import socket
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from benchmark import __version__, places
from benchmark.addresses import checked, shown
from benchmark.errors import UserError, printable
from leakboard import audits, console, datasets, model_audits, recipe_audits
from leakboard.console import answer, command_line, err, out, say, tell_next, track, wants_json

if TYPE_CHECKING:
    from benchmark.entries.registry import Entry, Registry
    from benchmark.result import Result
    from benchmark.sandbox.remote import Mode
    from leaderboard.claims import Finding
    from leaderboard.publish import Marking

app = typer.Typer(
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One judge for what trained image classifiers leak about their training data.",
    epilog="--project, --quiet and --debug may stand behind a command too. `leakboard run -h` explains a command.",
)


def _entry_names(incomplete: str) -> list[str]:
    """Completions of an entry's name, from file names alone: a shell must not wait for PyTorch."""
    *before, last = incomplete.split("+")
    folders = [f for f in (places.submissions(), places.baselines()) if f]
    names = {p.stem for f in folders for p in f.glob("*/*.py") if p.parent.name in ("attacks", "defenses")}
    return ["+".join((*before, name)) for name in sorted(names) if name.startswith(last)]


def _protocol_names(incomplete: str) -> list[str]:
    from benchmark import protocol

    folders = (protocol.FOLDER, protocol.FAMILIES, places.protocols())
    return sorted({p.stem for f in folders for p in f.glob("*.yaml") if p.stem.startswith(incomplete)})


app.add_typer(datasets.data, name="data")
app.add_typer(audits.audit, name="audit")
audits.audit.command("model")(model_audits.model)
audits.audit.command("recipe")(recipe_audits.recipe)
app.command()(datasets.pin)
Entries = Annotated[list[str] | None, typer.Argument(help="Attacks or defenses; default: all of the protocol.", autocompletion=_entry_names)]  # fmt: skip
Workers = Annotated[int | None, typer.Option("--workers", min=1, envvar="LEAKBOARD_WORKERS", help="Processes; default: the cores, at most 8; 1 on a GPU.")]  # fmt: skip
Port = Annotated[int, typer.Option(min=1, max=65535)]
Host = Annotated[str, typer.Option(help="The address to listen on; by default this machine alone can connect. 0.0.0.0: every interface.")]  # fmt: skip
ProtocolName = Annotated[str, typer.Option("--protocol", "-p", envvar="LEAKBOARD_PROTOCOL", help="A protocol's name, or its YAML file.", autocompletion=_protocol_names)]  # fmt: skip
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option("--device", envvar="LEAKBOARD_DEVICE", help="Where to compute; auto: on a GPU where there is one."),
]
Trust = Annotated[bool, typer.Option("--trust", help="Run files that you have read in the judge's process; the rows say so.")]  # fmt: skip
Isolation = Annotated[
    Literal["auto", "always"], typer.Option(help="auto: isolate all but reviewed files; always: isolate all.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")]


@app.callback(invoke_without_command=True)
def leakboard(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    project: Annotated[Path | None, typer.Option("--project", metavar="DIR", help="The folder with your submissions and results; default: the nearest one from here upwards.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors alone.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback where Leakboard itself fails.")] = False,
) -> None:  # fmt: skip
    if version:
        print(f"leakboard {__version__}")
        raise typer.Exit
    if quiet:
        console.be_quiet()
    if project is not None:
        console.use_project(project)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def submissions() -> Path:
    """The folder of the user's own submissions, which may be missing where baselines stand beside it."""
    root = places.submissions()
    if not root.is_dir() and places.baselines() is None:
        raise UserError(
            f"expected a folder {root}/ with attacks/ and defenses/, given none; leakboard new makes it, and "
            "LEAKBOARD_SUBMISSIONS names another"
        )
    return root


def registry() -> Registry:
    from benchmark.entries.registry import Registry

    return Registry(submissions(), places.baselines())


def _mode(isolation: Literal["auto", "always"], trust: bool) -> Mode:
    if trust and isolation == "always":
        raise UserError("--trust: expected it without --isolation always, given both")
    return "never" if trust else isolation


@app.command("list")
def list_entries(
    kind: Annotated[Literal["entries", "networks", "datasets"], typer.Argument(help="Submissions, networks with their sizes, or data sets with their views and terms.")] = "entries",
    image: Annotated[str, typer.Option(help="Networks on images of these channels, height and width, such as 1x28x28; default: 3x32x32, or the network's least.")] = "",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Every submission, with what it needs; every network, with its parameters and FLOPs; or every data set. Broken ones with their error."""
    from benchmark import protocol

    if kind == "networks":
        from leakboard import networks

        networks.show(image, as_json)
        return
    if image:
        raise UserError(f"--image: expected it with `list networks`, given {image!r} with `list {kind}`")
    if kind == "datasets":
        datasets.show(as_json)
        return
    project = places.project()
    with console.working("reading submissions"):
        entries = list(registry().entries.values())
    if as_json:
        answer({
            "project": {"folder": project.root, "why": project.how}, "protocols": [*protocol.names(), *protocol.own_names()], "families": protocol.families(),
            "entries": [_entry_record(e) for e in entries],
        })  # fmt: skip
        return
    table = Table("entry", "kind", "task, access, knowledge; or stage", "method", box=None, header_style="bold")
    table.columns[0].no_wrap = True
    good = [e for e in entries if not e.error]
    for title, mine in (
        ("yours", [e for e in good if not _is_baseline(e)]),
        ("baselines", list(filter(_is_baseline, good))),
    ):
        if mine:
            table.add_row(Text(title, style="bold"))
        for entry in mine:
            knows = [entry.task, entry.access, ", ".join(sorted(entry.needs)) or "none"]
            what = ", ".join(entry.stages) or ", ".join(knows)
            table.add_row(entry.id, entry.kind, what, escape(entry.card.title) if entry.card else "")
    console.show(table)
    for entry in entries:
        if entry.error:
            out.print(f"[red]broken[/red]  {escape(entry.error)}", soft_wrap=True)
    say(f"protocols: {', '.join([*protocol.names(), *protocol.own_names()])}", out)
    say(f"families of protocols: {', '.join(protocol.families())}", out)
    say(f"networks: {command_line('list', 'networks')}", out)
    say(f"data sets: {command_line('list', 'datasets')}", out)
    say(f"project: {project.root} ({project.how})")
    tell_next(command_line("run", "--protocol", "digits-v2"))


def _is_baseline(entry: Entry) -> bool:
    """Whether the entry comes with the package, unchanged."""
    packaged = places.baselines()
    return entry.reviewed or bool(packaged and packaged in entry.path.parents)


def _entry_record(entry: Entry) -> dict[str, object]:
    return {
        "id": entry.id, "kind": entry.kind, "path": entry.path, "from": "baseline" if _is_baseline(entry) else "own",
        "task": entry.task, "access": entry.access, "needs": sorted(entry.needs), "stages": entry.stages,
        "title": entry.card.title if entry.card else "", "error": entry.error,
    }  # fmt: skip


@app.command()
def new(
    kind: Literal["attack", "defense", "network", "dataset", "protocol"],
    name: str,
    dataset: Annotated[str | None, typer.Option(help="What a protocol is about: ID/VIEW of a prepared data set, digits or fashion_mnist; default: the only prepared one.")] = None,
    network: Annotated[str | None, typer.Option(help="The network of a protocol, one of `leakboard list networks`; default: small_cnn.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Write a submission, a network, a data set's file or a protocol that works as it is, to be changed."""
    import re

    from benchmark.entries.templates import NETWORK, TEMPLATES

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"name: expected a letter, then a-z, 0-9 and _, given {name!r}")
    if dataset is not None and kind != "protocol":
        raise UserError(f"--dataset: expected it with a protocol, given a new {kind}")
    if network is not None and kind != "protocol":
        raise UserError(f"--network: expected it with a protocol, given a new {kind}")
    if kind in ("dataset", "protocol"):
        if kind == "dataset":
            path, step = datasets.write_dataset(name)
        else:
            path, step = datasets.write_protocol(name, dataset, network or "small_cnn")
        _tell_written(path, step, as_json)
        return
    folders = [f / f"{known}s" for f in (places.submissions(), places.baselines()) if f for known in TEMPLATES]
    if kind == "network":
        from benchmark import networks

        folders = [places.networks()]
        if name in networks.NAMES and name not in networks.own_texts:
            raise UserError(f"name: expected one that no network of the package has, given {name!r}")
    if taken := [f / f"{name}.py" for f in folders if (f / f"{name}.py").exists()]:
        raise UserError(f"{taken[0]}: exists already; choose another name")
    path = (places.networks() if kind == "network" else places.submissions() / f"{kind}s") / f"{name}.py"
    variable = "LEAKBOARD_NETWORKS" if kind == "network" else "LEAKBOARD_SUBMISSIONS"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((TEMPLATES | {"network": NETWORK})[kind].replace("NAME", name), "utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: expected a folder {path.parent}/ that can be written, given {error.strerror}; "
            f"name another folder in {variable}"
        ) from None
    _tell_written(path, command_line("check", places.brief(path)), as_json)


def _tell_written(path: Path, step: str, as_json: bool) -> None:
    if as_json:
        answer({"path": path, "next": step})
        return
    say(f"wrote {places.brief(path)}", out)
    tell_next(step)


@app.command()
def check(
    files: list[Path],
    trust: Annotated[bool, typer.Option("--trust", help="Run code that nobody has reviewed in this process.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hold submissions to the contract, on a few digits and made-up images; and networks to theirs."""
    from dataclasses import asdict

    import torch

    from benchmark.run import checks, network_checks
    from benchmark.text import plain

    torch.set_num_threads(1)  # as in workers and sandboxes: the last digits of sums depend on the number of threads
    mode: Mode = "never" if trust else "auto"
    outcomes = []
    for path in files:
        results = []
        if network_checks.applies(path):
            found = network_checks.check_file(path)
        else:
            found = checks.check_file(path, submissions(), places.store() / "check", mode, places.baselines())
        for result in found:
            results.append(result)
            if as_json or result.after:  # rules that were not tried are listed in one line below
                continue
            detail = f": {result.detail}" if result.detail else ""
            out.print(f"{_MARKS[result.state]}  {escape(f'{path.stem}: {result.name}{detail}')}", soft_wrap=True)
            for line in result.log.splitlines()[-12:]:
                out.print(Text(f"          | {plain(line, 400)}", style="dim"), soft_wrap=True)
        outcomes += [(path, result) for result in results]
        if not as_json:
            for line in checks.not_tried(results):
                say(f"          {path.stem}: {line}", out)
    untried = sum(bool(result.after) for _, result in outcomes)
    failed = sum(not result.ok for _, result in outcomes) - untried
    steps = [] if failed else [step for path in files for step in _copy_commands(path)]
    names = [_unused_name(path) for path in files if not network_checks.applies(path)]
    trusted = ["--trust"] if trust else []
    last = (
        command_line("run", *names, "--protocol", "digits-v2", *trusted)
        if names
        else command_line("new", "protocol", f"with_{files[0].stem}", "--network", files[0].stem)
    )
    step = " && ".join([*steps, last])
    if as_json:
        answer({
            "checks": [{"file": path, "state": result.state, **asdict(result)} for path, result in outcomes], "failed": failed,
            "next": "" if failed else step,
        })  # fmt: skip
    if failed:
        untried_too = f", and {untried} could not be tried for it" if untried else ""
        page = "submissions/README.md" if names else "docs/networks.md"
        raise UserError(f"{failed} check(s) failed{untried_too}; {page} says what each of them means")
    tell_next(step)


_MARKS = {"ok": "[green]ok      [/green]", "failed": "[red]failed  [/red]", "left out": "left out"}


def _unused_name(path: Path) -> str:
    """The name under which a file can be a submission: its own; if another file has it, with a number behind it."""
    folders = [
        f / f"{kind}s" for f in (places.submissions(), places.baselines()) if f for kind in ("attack", "defense")
    ]
    if path.resolve().parent in [f.resolve() for f in folders]:
        return path.stem
    names = itertools.chain([path.stem], (f"{path.stem}_{n}" for n in itertools.count(2)))
    return next(n for n in names if not any((f / f"{n}.py").exists() for f in folders))


def _copy_commands(path: Path) -> list[str]:
    """The shell commands that copy a file into the folder of submissions; none where it lies there already."""
    from benchmark.run import network_checks
    from benchmark.run.checks import is_defense

    if network_checks.applies(path):
        folder = places.networks()
        if path.resolve().parent == folder.resolve():
            return []
        made = [] if folder.is_dir() else [shlex.join(["mkdir", "-p", places.brief(folder)])]
        return [*made, shlex.join(["cp", str(path), f"{places.brief(folder)}/"])]
    roots = [f for f in (places.submissions(), places.baselines()) if f]
    if path.resolve().parent in [(f / f"{kind}s").resolve() for f in roots for kind in ("attack", "defense")]:
        return []
    folder = places.submissions() / ("defenses" if is_defense(path, places.submissions()) else "attacks")
    target = (
        f"{places.brief(folder)}/" if (name := _unused_name(path)) == path.stem else f"{places.brief(folder / name)}.py"
    )
    made = [] if folder.is_dir() else [shlex.join(["mkdir", "-p", places.brief(folder)])]
    return [*made, shlex.join(["cp", str(path), target])]


@app.command()
def run(
    entries: Entries = None,
    protocol: ProtocolName = "digits-v2",
    workers: Workers = None,
    device: Device = "auto",
    seed: Annotated[list[int] | None, typer.Option(help="Only these seeds.")] = None,
    isolation: Isolation = "auto",
    trust: Trust = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is missing, and about how long it takes on a GPU.")] = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Go through the protocol on stand-in images; nothing is kept.")] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Score entries under a protocol; what is stored already is not computed again."""
    from leakboard import score

    mode = _mode(isolation, trust)
    if rehearse:
        from leakboard import rehearsals

        if entries or seed or dry_run:
            raise UserError("--rehearse: expected a protocol alone, given entries, --seed or --dry-run beside it")
        device_name = score.device_of(device)
        rehearsals.rehearse(protocol, submissions(), places.baselines(), device_name, mode, workers, as_json)
        return
    if dry_run and not entries and not score.pinned(protocol):
        from leakboard import rehearsals

        rehearsals.show_estimates(protocol, registry(), as_json)
        return
    with console.working("planning"):
        job = score.prepare(entries or [], protocol, submissions(), places.store(), device, seed, mode, places.baselines())  # fmt: skip
    plan = job.plan
    missing = plan.networks - plan.networks_stored
    say(
        f"{protocol}: {score.count(plan.scenarios(), 'scenario')} to score, {len(plan.done)} stored; "
        f"{score.count(missing, 'network')} to train, {plan.networks_stored} stored",
        out if dry_run else console.notes,
    )
    scored = job.artifacts.protocol
    if not scored.split.shadow_world and scored.thresholds == "shadow":
        say(
            f"split {scored.split.scheme} has no shadow world to set thresholds in: attacks without one of their own have AUC and TPR, no accuracy"
        )
    if dry_run:
        kinds: dict[str, int] = defaultdict(int)
        for planned in plan.jobs.values():
            kinds[planned.kind] += 1
        seeds = itertools.chain(*(("--seed", str(s)) for s in seed or ()))
        others = [*(["--isolation", isolation] if isolation != "auto" else []), *(["--trust"] if trust else [])]
        step = command_line("run", *(entries or []), "--protocol", protocol, *seeds, *others)
        if not plan.jobs:
            step = command_line("publish", "--protocol", protocol)
        from leakboard import rehearsals

        hours = None if entries else rehearsals.hours(job.artifacts.protocol, job.artifacts.registry)
        if as_json:
            answer({
                "gpu_hours": hours, "protocol": protocol, "scenarios": plan.scenarios(), "scenarios_stored": len(plan.done),
                "networks": missing, "networks_stored": plan.networks_stored, "jobs": kinds, "next": step,
            })  # fmt: skip
            return
        say("jobs: " + (", ".join(score.count(n, *_JOBS[k]) for k, n in kinds.items()) or "none"), out)
        if hours is not None:
            say(f"from scratch on one GPU: {rehearsals.in_words(hours)}", out)
        tell_next(step)
        return
    outcome = score.run(job, workers or score.default_workers(job.setting.device))
    if as_json:
        answer([json.loads(r.to_json()) for r in outcome.results])
    else:
        with console.working("reading the board"):
            rows = score.with_published(job, outcome, places.board(job.artifacts.protocol.name))
        score.print_board(job, outcome, *rows)
    failed = [r for r in outcome.results if r.status not in ("ok", "skipped")]
    for result in failed[:10]:
        where = f"{result.attack or 'utility'} on {result.defense}, seed {result.seed}"
        err.print(f"[red]{result.status}[/red] {escape(printable(f'{where}: {result.reason}', 1000))}", soft_wrap=True)
    score.print_summary(job, outcome)
    if failed:
        say(f"{score.count(len(failed), 'scenario')} failed; they are tried again by the next call")
        raise typer.Exit(1)


_JOBS = {
    "networks": ("group of networks", "groups of networks"), "guard": ("guard", "guards"),
    "answers": ("set of answers", "sets of answers"), "scenario": ("scenario", "scenarios"),
}  # fmt: skip
"""What the jobs of each kind make, singular and plural. The networks of one group train together."""


@app.command()
def tune(
    defense: Annotated[str, typer.Argument(help="A defense or a cascade; hyperparameters that you give stay fixed.", autocompletion=_entry_names)],
    protocol: ProtocolName = "digits-v2",
    trials: Annotated[int, typer.Option(min=1, help="Finished trials of the study, those of earlier calls included.")] = 20,
    workers: Workers = None,
    timeout: Annotated[float | None, typer.Option(min=1, help="Seconds after which no trial is begun.")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="What trials meet; default: the protocol's that need no reference models.")] = None,
    leakage: Annotated[Literal["auc", "tpr_at_fpr_0.01"], typer.Option(help="What is tuned against accuracy, over the worst of the attacks.")] = "auc",
    seeds: Annotated[int, typer.Option(min=1, help="Tuning splits a trial is scored on, in mirrored pairs; no board uses them.")] = 4,
    storage: Annotated[str, typer.Option(help="Where Optuna keeps the study: any database URL; default: LEAKBOARD_OPTUNA, or mlruns/optuna.db of the project.")] = "",
    paper_grid: Annotated[bool, typer.Option("--paper-grid", help="The grid of the paper instead of a search.")] = False,
    random: Annotated[bool, typer.Option("--random", help="Random trials, to see what the search is worth.")] = False,
    sampler_seed: Annotated[int, typer.Option(min=0, help="Seed of the search; another one is another study.")] = 0,
    device: Device = "auto",
    isolation: Isolation = "auto",
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Search a defense's hyperparameters for its privacy-utility curve; run the same command again to go on."""
    from benchmark.run import tuning
    from leakboard import score

    mode = _mode(isolation, trust)
    address = checked("--storage", storage) if storage else places.optuna()
    with console.working("planning"):
        job = score.prepare([defense], protocol, submissions(), places.store(), device, None, mode, places.baselines())
        study = tuning.start(
            job.artifacts, job.setting, defense, attack or [], leakage, seeds, address, paper_grid, random, sampler_seed
        )
    total = len(study.grid) or trials
    say(f"{study.name}: {len(study.finished())} of {total} trials finished")
    if others := study.others():
        say(
            f"{len(others)} earlier {'study' if len(others) == 1 else 'studies'} of this defense had other ranges, attacks, "
            "settings or code: left as it is, not mixed with this one"
        )
    say(f"searched: {', '.join(study.labels)}; against {', '.join(study.attacks)}")
    study.run(total, workers or score.default_workers(job.setting.device), timeout, console.progress)
    best = study.front()
    if not best:
        raise UserError(
            f"{defense}: expected a trial that reaches {study.floor:.0%} of the baseline's accuracy, given none; run more"
        )
    figure = study.finish(places.mlruns() / "tuning")
    volume = study.hypervolumes()[-1]
    step = command_line("run", *(p.defense for p in best), "--protocol", protocol)
    if as_json:
        answer({
            "study": study.name, "trials": len(study.finished()), "leakage": leakage, "attacks": study.attacks,
            "searched": study.labels, "front": [vars(p) for p in best], "hypervolume": volume, "figure": figure,
            "storage": shown(address), "next": step,
        })  # fmt: skip
        return
    table = Table("test accuracy", f"worst {leakage}", "decided by", "defense", box=None, header_style="bold")
    for point in best:
        table.add_row(f"{point.accuracy:.3f}", f"{point.leakage:.3f}", escape(point.decides), escape(point.defense))
    console.show(table)
    say(f"hypervolume of the front: {volume:.4f} (accuracy 0, leakage 1 as the reference)", out)
    say(f"figure: {places.brief(figure)}; study: {shown(address)}; MLflow: experiment {study.protocol}.tuning ({command_line('ui')})")  # fmt: skip
    say("these are tuning splits; the board takes what is scored on its own:")
    tell_next(step)


@app.command(hidden=True)
def review(files: list[Path]) -> None:
    """For maintainers: list files as reviewed, so that they may run in the judge's process."""
    from benchmark.entries.registry import REVIEWED, Registry
    from benchmark.entries.registry import review as list_as_reviewed

    entries = Registry(submissions(), places.baselines()).entries.values()
    chosen = [e for e in entries if e.path.resolve() in {f.resolve() for f in files} and not e.error]
    if len(chosen) != len(files):
        raise UserError(f"expected files of {submissions()}/ that can be read, given {', '.join(map(str, files))}")
    list_as_reviewed(chosen)
    say(f"listed in {REVIEWED}: {', '.join(e.id for e in chosen)}", out)
    tell_next(command_line("list"))


@app.command()
def publish(
    protocol: ProtocolName = "digits-v2",
    replace: Annotated[bool, typer.Option("--replace", help="Publish what your store holds and nothing else; default: published rows that it lacks stay.")] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Write your rows of a protocol, its tables and its page to leaderboard/published/ of the project."""
    from benchmark import protocol as protocols
    from benchmark.run import studies
    from leaderboard import publish as publishing
    from leaderboard.page import Notes
    from leakboard import score

    loaded, entries = protocols.load(protocol), registry()
    with console.working("reading the store"):
        results = score.stored_results(protocol, submissions(), places.store(), places.baselines(), entries)
    if not results:
        raise UserError(f"{protocol}: nothing is scored yet; run: {command_line('run', '--protocol', protocol)}")
    folder = publishing.edition_folder(results, places.board(loaded.name))
    before: list[Result] | None = None
    with contextlib.suppress(ValueError), console.working("reading what is published"):  # damaged files are replaced
        before = publishing.load(folder)
    dropped = publishing.count_other_editions(results, before or [])
    if dropped and not replace:
        raise UserError(
            f"{folder}: expected rows of this version of {loaded.name}, given {dropped} published ones of another, which share "
            "no table with yours: give your protocol a name of its own, or drop them with --replace"
        )
    try:
        tuned = studies.read(places.optuna(), loaded.name) if folder == places.board(loaded.name) else []
        # The first time, the project has no board of its own: `own_board` copies the package's.
        folder = publishing.edition_folder(results, places.own_board(loaded.name))
        curves = publishing.publish_studies(tuned, folder, loaded.name) if tuned else 0
        rows = results if replace else publishing.merge(results, before or [])
        with console.working("writing the tables"):
            written = publishing.publish(
                rows, score.board_of(loaded, entries), folder, Notes.of(loaded, entries.entries.values())
            )
    except (ValueError, OSError) as problem:  # ValueError also where the database of studies cannot be read
        raise UserError(f"{folder}: {problem}") from None
    levels = Counter(r.trust for r in written)
    behind_by_entry = publishing.rows_of_older_code(written, before or [])
    old = {r.key: r for r in before or []}
    unchanged = sum(old.get(r.key) == r for r in written)
    if as_json:
        answer({
            "folder": folder, "published": len(written), "changed": len(written) - unchanged, "stayed": unchanged, "gone": dropped,
            "trust": levels, "studies": curves, "several_versions": {name: len(rows) for name, rows in behind_by_entry.items()}, "next": command_line("board"),
        })  # fmt: skip
        return
    if before is None:
        say(f"{folder}: what was there could not be read, so none of it stays; git may have it still")
    if dropped:
        say(f"{dropped} rows that were there are gone: they are of another version of the protocol and share no table with yours")  # fmt: skip
    trust = ", ".join(f"{n} {level}" for level, n in sorted(levels.items()))
    also = f" and {curves} of Optuna's studies" if curves else ""
    say(f"published {len(written)} results{also} in {places.brief(folder)}/ ({trust}): {len(written) - unchanged} new or changed, {unchanged} that were there", out)  # fmt: skip
    for name, behind in behind_by_entry.items():
        say(f"{name}: {len(behind)} of its rows are of another version of its code than yours; to score them again, then publish: {publishing.rescoring_command(name, behind, protocol)}")  # fmt: skip
    if where := console.elsewhere():
        say(where)
    tell_next(command_line("board"))


@app.command()
def claims(as_json: AsJson = False) -> None:
    """What the papers say, held against what is published and what you scored: a difference and a verdict for each."""
    from benchmark import protocol as protocols
    from leaderboard import publish as publishing
    from leaderboard.claims import check, load
    from leaderboard.ranking import split_of
    from leakboard import score
    from leakboard.tables import print_claims

    with console.working("reading submissions"):
        entries, all_claims = registry(), load()
    names = sorted({s.protocol for c in all_claims for s in c.scores})

    def rows(protocol: str) -> Iterator[Result]:
        """Published rows of this version, then one's own, which replace them. Official rows are left out (RULES 26)."""
        version = protocols.load(protocol).measures
        yield from (r for r in publishing.load(places.board(protocol)) if r.protocol_digest == version)
        own = score.stored_results(protocol, submissions(), places.store(), places.baselines(), entries)
        yield from (r for r in own if split_of(r) == "public")

    try:
        results = {name: list(rows(name)) for name in track(names, "protocols", len(names))}
    except ValueError as problem:
        raise UserError(str(problem)) from None
    with console.working("testing the claims"):
        findings = check(all_claims, results.__getitem__)
    missing = dict.fromkeys(p for f in findings for p in f.missing)
    steps = [command_line("run", "--protocol", p) for p in missing] or [command_line("board")]
    if as_json:
        answer({"claims": [_finding_record(f) for f in findings], "next": steps})
        return
    print_claims(findings, out)
    tell_next(*steps)


def _finding_record(finding: Finding) -> dict[str, object]:
    estimates = {name: getattr(finding, name) for name in ("first", "second", "difference")}
    return {
        "id": finding.claim.id, "says": finding.claim.says, "should_be": finding.claim.expected,
        **{name: e and {"mean": e.mean, "low": e.low, "high": e.high} for name, e in estimates.items()},
        "p": finding.p, "alone": finding.alone, "verdict": finding.verdict, "missing": finding.missing,
        "note": finding.claim.note,
    }  # fmt: skip


@app.command()
def board(
    port: Port = 8501,
    host: Host = "127.0.0.1",
    public: Annotated[bool, typer.Option("--public", envvar="LEAKBOARD_PUBLIC", help="Rank only reproduced and official rows, unless a visitor chooses otherwise.")] = False,
    audit: Annotated[Path | None, typer.Option("--audit", metavar="DIR", envvar="LEAKBOARD_AUDIT", help="Also show this audit, and where its model would stand among the defenses: a folder that `leakboard audit` wrote.")] = None,
) -> None:  # fmt: skip
    """Open the leaderboard in the browser."""
    import leaderboard
    from benchmark.data import secret
    from leaderboard import audits as of_models

    if audit is not None:
        of_models.read(audit.expanduser())
        os.environ[of_models.VARIABLE] = str(audit.expanduser().absolute())

    secret.take()  # removes the secret from the environment, which the app inherits
    os.environ["LEAKBOARD_PUBLIC"] = "1" if public else "0"
    address = _address(host, port)
    os.environ[places.VARIABLE] = str(places.project().root)
    script = Path(leaderboard.__file__).parent / "app.py"
    say(f"the board: {address} (Ctrl-C ends it)", out)
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(script),
        "--server.address",
        host,
        "--server.port",
        str(port),
    ]
    os.execv(sys.executable, command)


@app.command()
def ui(port: Port = 5000, host: Host = "127.0.0.1") -> None:
    """Open MLflow on Leakboard's runs."""
    from benchmark.data import secret
    from benchmark.run import tracking

    secret.take()  # removes the secret from the environment, which MLflow inherits
    store = tracking.uri()
    if store.startswith("http"):
        say(f"MLflow runs at {shown(store)}", out)
        return
    try:
        pages = tracking.pages()
    except Exception as problem:  # MLflow and its stores raise many kinds
        text = printable(tracking.redacted_line(problem), 300)
        raise UserError(
            f"MLFLOW_TRACKING_URI: expected a database or a server of MLflow, given {shown(store)}: {text}"
        ) from None
    address = _address(host, port)
    say(f"MLflow on {shown(store)}: {address} (Ctrl-C ends it)", out)
    for name, page in pages.items():
        say(f"  {printable(name, 100)}: {address}/#{page}", out)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = store  # it may hold a password, and all users see the command line
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)]
    os.execv(sys.executable, command)


def _address(host: str, port: int) -> str:
    """The URL of a server on this host and port. Raises UserError for a taken port or an address that is not local."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as problem:
        raise UserError(
            f"--host {host} --port {port}: expected an address of this machine and a free port, given "
            f"{printable(problem.strerror or str(problem))}; choose another with --port"
        ) from None
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@app.command()
def reproduce(
    run_id: Annotated[str, typer.Argument(help="A scenario's run in MLflow.")] = "",
    protocol: Annotated[str, typer.Option("--protocol", "-p", help="Compare all that is published of it with what your store holds; beside a run: the file of its protocol, where it is from one.", autocompletion=_protocol_names)] = "",
    workers: Workers = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Score a logged run again from its record, from scratch, and compare; or mark the rows of a published board."""
    if not run_id and not protocol:
        raise UserError("reproduce: expected the id of a run or --protocol NAME, given neither")
    if run_id:
        _reproduce_run(run_id, protocol, workers, device)
    else:
        _reproduce_board(protocol)


def _reproduce_run(run_id: str, protocol: str, workers: int | None, device: str) -> None:
    from benchmark import protocol as protocols
    from benchmark.run import tracking
    from benchmark.text import plain
    from leaderboard.publish import compare
    from leakboard import score

    try:
        old = tracking.result_of(run_id)
    except tracking.Unreachable as problem:
        raise UserError(f"{problem}; MLFLOW_TRACKING_URI says where MLflow is") from None
    if old is None:
        where = shown(tracking.uri())
        raise UserError(f"run {run_id!r}: expected the id of a scenario's run, given one that {where} does not hold")
    if old.status != "ok":
        raise UserError(f"run {run_id!r}: expected a scored run, given status {old.status}: {plain(old.reason)}")
    try:
        protocols.load(protocol or old.protocol)
    except UserError as problem:
        hint = "" if protocol else "; a protocol of your own is named by its file: --protocol FILE"
        raise UserError(f"{problem}{hint}") from None
    title = plain(f"{old.attack or 'utility'} on {old.defense}, seed {old.seed}, {old.protocol}")
    say(f"reproducing {title}, from scratch")
    with tempfile.TemporaryDirectory(prefix="leakboard-") as folder:
        fresh = score.reproduce(
            old, protocol or old.protocol, submissions(), Path(folder), device, workers, places.baselines()
        )
    if fresh.status != "ok":
        raise UserError(f"the new run ended as {fresh.status}: {plain(fresh.reason)}")
    compared = compare(old, fresh)
    # Another device gives other last digits, so a number without an interval is shown but decides nothing.
    outside = sum(c.verdict == "OUTSIDE" for c in compared)
    names = ("attack_source", "defense_source", "libraries", "pretrained", "torch", "device")
    both = {n: [plain(str(r.provenance.get(n))) for r in (old, fresh)] for n in names}
    differs = {name: pair for name, pair in both.items() if pair[0] != pair[1]}
    named = ("--protocol", protocol or old.protocol)
    step = command_line("ui") if outside else f"{command_line('run', *named)} && {command_line('reproduce', *named)}"
    if wants_json():
        answer({
            "run": run_id, "scenario": title, "numbers": [c._asdict() for c in compared], "differs": differs,
            "outside": outside, "reproduced": not outside, "next": step,
        })  # fmt: skip
    else:
        for name, (then, now) in differs.items():
            say(f"{name} differs: {then} then, {now} now", out)
        table = Table("metric", "logged", "interval", "now", "verdict", box=None, header_style="bold")
        for c in compared:
            interval = f"{c.interval[0]:.4g} to {c.interval[1]:.4g}" if c.interval else "none"
            table.add_row(escape(plain(c.name)), f"{c.before:.4g}", interval, f"{c.now:.4g}", c.verdict)
        console.show(table)
        say(f"{outside} number(s) outside" if outside else "reproduced: every number lies in its interval", out)
    if outside:
        tell_next(step)
        raise typer.Exit(1)
    say("the next line marks every row of the published board that you can confirm; of what you published yourself: in another LEAKBOARD_STORE")  # fmt: skip
    tell_next(step)


def _reproduce_board(name: str) -> None:
    """Mark published rows as reproduced where a result with the same key in one's own store agrees."""
    import re

    from benchmark import protocol as protocols
    from benchmark.targets.store import Store
    from benchmark.text import plain
    from leaderboard import publish as publishing
    from leaderboard.page import Notes
    from leakboard import score

    loaded = protocols.load(name)
    folder, root = places.board(loaded.name), places.store()
    store = Store(root)
    try:
        with console.working("reading what is published"):
            rows = publishing.load(folder)
    except ValueError as problem:
        raise UserError(str(problem)) from None
    if not rows:
        raise UserError(
            f"{folder}: expected a published board, given none; run: {command_line('publish', '--protocol', name)}"
        )
    # A key becomes part of a path in the store, and these come from a file that anybody may have written.
    keys = [r.key for r in rows if re.fullmatch(r"[0-9a-f]{40}", r.key)]
    own = {k: mine for k in track(keys, "rows", len(keys)) if (mine := store.result(k)) is not None and mine.key == k}
    marking = publishing.mark(rows, own)
    count_compared = marking.agreed + len(marking.differing)
    if marking.marked:
        try:
            with console.working("writing the tables"):
                folder = places.own_board(loaded.name)
                known = registry()
                notes = Notes.of(loaded, known.entries.values())
                publishing.publish(marking.results, score.board_of(loaded, known), folder, notes)
        except (ValueError, OSError) as problem:
            raise UserError(f"{folder}: {problem}") from None
    other = "LEAKBOARD_STORE=another/folder " if marking.same else ""
    named = ("--protocol", name)
    step = (
        command_line("board", "--public")
        if count_compared
        else f"{other}{command_line('run', *named)} && {other}{command_line('reproduce', *named)}"
    )
    differing = [
        {"scenario": plain(f"{r.attack or 'utility'} on {r.defense}, seed {r.seed}"), "difference": plain(text)}
        for r, text in marking.differing
    ]
    if wants_json():
        answer({
            "protocol": loaded.name, "folder": folder, "rows": len(rows), "compared": count_compared, "agree": marking.agreed,
            "differ": differing, "same_scoring": marking.same, "alone": marking.alone, "marked": marking.marked, "next": step,
        })  # fmt: skip
    else:
        _print_marking(
            f"{loaded.name}: {count_compared} of {len(rows)} published rows compared with {places.brief(root)}", marking
        )
        for each in differing[:20]:
            say(f"  differs: {each['scenario']}: {each['difference']}", out)
        if len(differing) > 20:
            say(f"  and {len(differing) - 20} more", out)
        say(f"{marking.marked} rows newly marked as reproduced in {places.brief(folder)}/", out)
    tell_next(step)
    if marking.differing:
        raise typer.Exit(1)


def _print_marking(title: str, marking: Marking) -> None:
    say(f"{title}: {marking.agreed} agree, {len(marking.differing)} differ", out)
    if marking.same:
        say(f"  {marking.same} rows were published from this very scoring: they finished at the same time, so it is no second one", out)  # fmt: skip
    if marking.alone:
        say(f"  {marking.alone} rows have no counterpart of the same code, data, seeds and torch here; they stay as they are", out)  # fmt: skip


# --- The process ------------------------------------------------------------------------------------


def main() -> NoReturn:
    """The entry point. A user's mistake ends in one line and exit code 2, never in a traceback."""
    _restart_in_utf8()
    console.be_tolerant()
    arguments = _global_options_first(sys.argv[1:])
    with console.json_alone("--json" in arguments):
        code = _run(arguments)
    sys.exit(code)


def _restart_in_utf8() -> None:
    """Restart Python in UTF-8 mode where the locale has another encoding: libraries assume UTF-8 file names."""
    if sys.getfilesystemencoding().lower() == "utf-8":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:replace")  # the terminal keeps its own
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _global_options_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with the global options (--project, --quiet, --debug) in front: users may put them anywhere."""
    front, rest, left = [], [], iter(arguments)
    for argument in left:
        if argument == "--":
            rest += [argument, *left]
        elif argument == "--project":
            front += [argument, *itertools.islice(left, 1)]
        else:
            (front if argument in ("-q", "--quiet", "--debug") or argument.startswith("--project=") else rest).append(
                argument
            )
    return [*front, *rest]


def _run(arguments: list[str]) -> int:
    """Run the command and return its exit code; errors are printed, and are in the JSON with `--json`."""
    try:
        # Typer returns the code of an Exit, and 130 after Ctrl-C.
        code = int(app(arguments, prog_name="leakboard", standalone_mode=False) or 0)
    except UserError as error:
        where = console.elsewhere()
        return _failed(2, f"{error}{f' [{where}]' if where else ''}")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # the reader of stdout has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own usage errors have it
            return _failed(2, error.format_message())
        if "--debug" in arguments:
            raise
        return _failed(1, _crash_message(error))
    if code == 130:
        err.print("interrupted; run the same command again to go on")
        if wants_json():
            answer({"error": "interrupted"})
    return code


def _failed(code: int, message: str) -> int:
    message = printable(message, 2000)
    err.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)
    if wants_json():
        answer({"error": message})
    return code


def _crash_message(error: Exception) -> str:
    """The message where Leakboard itself failed: one line, and the path of a file with the traceback."""
    with tempfile.NamedTemporaryFile("w", prefix="leakboard-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write(shown("".join(traceback.format_exception(error))))
    what = shown(f"{type(error).__name__}: {error}")
    return f"a fault of Leakboard itself: {printable(what, 300)}; the traceback is in {file.name} (or add --debug)"
