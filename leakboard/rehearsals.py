"""What `leakboard run --rehearse` prints, and `--dry-run` of what cannot be run yet: hours on a GPU, and what this machine lacks."""

from __future__ import annotations

import time
from pathlib import Path

import typer
from rich.markup import escape
from rich.table import Table

from benchmark import protocol as protocols
from benchmark.data import pins
from benchmark.entries.registry import Registry
from benchmark.errors import UserError, printable
from benchmark.protocol import Protocol
from benchmark.run import rehearsal
from benchmark.run.estimate import LARGE, SMALL, estimate
from benchmark.run.rehearsal import Rehearsed
from benchmark.run.work import Setting
from benchmark.sandbox.remote import Mode, require
from leakboard import console
from leakboard.console import answer, command_line, out, say, tell_next

WORKERS = 2
SHOWN = 5
"""Failures of a protocol that are printed."""


def hours(protocol: Protocol, registry: Registry) -> tuple[float, float] | None:
    """Hours on one GPU of training and of attacks, estimated; None where nothing is known of the data."""
    try:
        return estimate(protocol, registry).hours()
    except UserError:
        return None


def in_words(both: tuple[float, float]) -> str:
    """An estimate of `hours`, and what it rests on."""
    training, attacks = both
    return (
        f"about {training:.3g} h to train and {attacks:.3g} h of queries, estimated from FLOPs at {SMALL / 1e12:.0f} TFLOP/s, "
        f"{LARGE / 1e12:.0f} where an image takes more than a GFLOP; guards, perceptrons and diffusion models are not in it"
    )


def show_estimates(name: str, registry: Registry, as_json: bool) -> None:
    """The hours of a protocol, or of each of a family, and what has to be done before it can run."""
    found = protocols.members(name)
    rows = {member: estimate(p, registry) for member, p in found.items()}
    steps = list(dict.fromkeys(step for p in found.values() if not p.pinned for step in pins.steps(p)))
    steps.sort(key=lambda step: step.startswith("pin"))
    total = tuple(sum(row.hours()[i] for row in rows.values()) for i in (0, 1))
    if as_json:
        answer({
            "protocols": {m: vars(row) | {"gpu_hours": row.hours(), "flops_per_second": row.throughput} for m, row in rows.items()}, "gpu_hours": total,
            "before": steps,
        })  # fmt: skip
        return
    table = Table("protocol", "networks", "scenarios", "samples", "FLOPs an image", "training h", "queries h", box=None, header_style="bold")  # fmt: skip
    for member, row in rows.items():
        training, attacks = row.hours()
        table.add_row(
            escape(member), f"{row.networks:,}", f"{row.scenarios:,}", f"{row.samples:,}", f"{row.multiply_adds / 1e6:,.0f} M",
            f"{training:,.1f}", f"{attacks:,.1f}",
        )  # fmt: skip
    console.show(table)
    say(
        f"{name}, all seeds, on one GPU: {in_words((total[0], total[1]))}. Networks that protocols share are trained once",
        out,
    )
    for step in steps:
        say(f"first: {step}", out)
    tell_next(command_line("run", "--protocol", name, "--rehearse"))


def rehearse(
    name: str,
    submissions: Path,
    baselines: Path | None,
    device: str,
    isolation: Mode,
    workers: int | None,
    as_json: bool,
) -> None:
    """Rehearse a protocol, or all of a family, and say what failed, what is lacking and what is too large. Exits with 1 for a failure."""
    found = list(protocols.members(name).values())
    registry = Registry(submissions, baselines)
    entries = [registry.attack(a).entry for p in found for a in p.attacks]
    entries += [part.entry for p in found for d in p.defenses for part in registry.chain(d, p.baseline).parts]
    launcher = require(entries, isolation)
    setting = Setting(
        found[0], submissions.absolute(), Path("unused"), device, isolation, launcher,
        baselines=baselines and baselines.absolute(),
    )  # fmt: skip
    count = workers or WORKERS
    start, done = time.perf_counter(), 0

    def report(made: Rehearsed) -> None:
        nonlocal done
        done += 1
        state = f"{len(made.failures)} FAILED" if made.failures else "ok"
        last = done == len(found) or bool(made.failures)
        console.redraw(f"{done}/{len(found)} {made.name}: {made.jobs} jobs, {made.seconds:.0f} s, {state}", last=last)
        for line in made.failures[:SHOWN]:
            console.err.print(f"[red]failed[/red] {escape(printable(f'{made.name}: {line}', 1000))}", soft_wrap=True)

    results = list(rehearsal.rehearse(found, setting, count, report))
    lacking = list(dict.fromkeys(line for p in found for line in rehearsal.lacking(p, registry)))
    large = {p.name: lines for p in found if (lines := rehearsal.too_large(p, count, device))}
    failures = {r.name: r.failures for r in results if r.failures}
    seconds = time.perf_counter() - start
    if as_json:
        answer({"protocols": [vars(r) for r in results], "seconds": seconds, "lacking": lacking, "too_large": large})
    else:
        jobs, networks = sum(r.jobs for r in results), sum(r.networks for r in results)
        say(
            f"{name}: {len(results)} protocols, {jobs:,} jobs, {networks:,} networks of stand-in images in {seconds:.0f} s; nothing is kept",
            out,
        )
        for line in lacking:
            say(f"this machine lacks {line}", out)
        for member, lines in large.items():
            for line in lines:
                say(f"this machine does not hold {member}: {line}", out)
    if failures:
        say(f"{sum(map(len, failures.values()))} failures in {len(failures)} of {len(results)} protocols")
        raise typer.Exit(1)
    if not as_json:
        tell_next(command_line("run", "--protocol", name, "--dry-run"))
