"""The commands about data sets: `leakboard data prepare`, `list datasets` and `pin`; and what `new` writes for them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from benchmark import places
from benchmark.errors import UserError, suggest
from leakboard import console
from leakboard.console import answer, command_line, out, say, tell_next, track

if TYPE_CHECKING:
    from benchmark.data.intake import Summary

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")]
data = typer.Typer(help="Prepare data sets.", no_args_is_help=True)


def _ids(incomplete: str) -> list[str]:
    """Completions, from file names alone."""
    folders = (Path(places.__file__).parent / "data" / "sources", places.sources())
    return sorted({p.stem for f in folders for p in f.glob("[a-z]*.py") if p.stem.startswith(incomplete)})


@data.command()
def prepare(
    id: Annotated[str, typer.Argument(help="The data set: one of `leakboard list datasets`.", autocompletion=_ids)],
    view: Annotated[str | None, typer.Option(help="Which view of it; default: the only one.")] = None,
    folder: Annotated[Path | None, typer.Option("--from", metavar="DIR", help="The folder, or the .npz or .parquet file, that holds it.")] = None,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="Leave out images that can't be decoded, and count them.")] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Decode, crop and resize a data set's images into plain arrays; run it again to go on where it stopped."""
    from benchmark.data import intake
    from benchmark.data.source import find

    def shown(items: Iterable[int], what: str, total: int) -> Iterable[int]:
        return track(items, what, total)

    given = None if folder is None else Path.cwd() / folder.expanduser()
    summary = intake.prepare(find(id), view, given, skip_damaged=skip_damaged, track=shown)
    step = command_line("new", "protocol", "mine", "--dataset", summary.name)
    if as_json:
        answer(
            {"name": summary.name, "folder": summary.folder, "fresh": summary.fresh, **summary.manifest, "next": step}
        )
        return
    _print_summary(summary)
    tell_next(step)


def _print_summary(summary: Summary) -> None:
    """One screen about a prepared data set."""
    m = summary.manifest
    channels, height, width = m["shape"]
    size = m["images"] * channels * height * width
    counts = sorted(m["per_class"])
    rows = {
        "data": f"{summary.name}: {m['title']}" + ("" if summary.fresh else " (was prepared already)"),
        "images": f"{m['images']:,} of {height}x{width}, {'RGB' if channels == 3 else 'grey'}, {size / 2**20:,.1f} MiB",
        "classes": f"{len(counts)}, {counts[0]:,} to {counts[-1]:,} images each: {_few(m['classes'])}",
        "left out": f"{m['duplicates']:,} equal to an earlier one, {len(m['damaged']):,} damaged{': ' if m['damaged'] else ''}{_few(m['damaged'])}",
        "near duplicates": f"{m['near_duplicates']:,} share a difference hash with an earlier image, and stay",
        "modes": ", ".join(f"{n:,} {mode}" for mode, n in sorted(m["modes"].items())),
        "attributes": "; ".join(f"{a}: {', '.join(map(str, c))}" for a, c in m["attribute_counts"].items()) or "none",
        "parts": ", ".join(f"{p or 'none'} {n:,}" for p, n in zip(m["parts"], m["per_part"], strict=True)),
        "terms": m["terms"],
        "preview": places.brief(summary.folder / "preview.png"),
        "digest": m["digest"],
    }  # fmt: skip
    for name, text in rows.items():
        say(f"{name:<15} {text}", out)


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def show(as_json: bool) -> None:
    """Every data set: its views, its terms, what is prepared, and how to get it."""
    from benchmark.data.prepared import found
    from benchmark.data.source import plugins

    prepared, known = found(), plugins().values()
    records: list[dict[str, Any]] = [
        {
            "id": p.id, "from": "own" if p.own else "package", "path": p.path, "error": p.error,
            "prepared": [name.partition("/")[2] for name in prepared if name.startswith(f"{p.id}/")],
            **({"title": p.source.title, "views": p.source.views, "attributes": p.source.attributes, "terms": p.source.terms, "get": p.source.get,
                "installed": p.source.installed} if p.source else {}),
        }
        for p in known
    ]  # fmt: skip
    if as_json:
        answer({"datasets": records})
        return
    table = Table("data set", "views", "prepared", "title; terms; how to get it", box=None, header_style="bold")
    table.columns[0].no_wrap = True
    for r in records:
        if r["error"]:
            continue
        views = ", ".join(f"{v} ({c}x{h}x{w})" for v, (c, h, w) in r["views"].items())
        about = f"{r['title']}; {r['terms']}; {r['get']}"
        table.add_row(escape(r["id"]), escape(views), escape(", ".join(r["prepared"]) or "-"), escape(about))
    console.show(table)
    for r in records:
        if r["error"]:
            out.print(f"[red]broken[/red]  {escape(r['error'])}", soft_wrap=True)
    say("digits and fashion_mnist need no preparing: a protocol names them alone, without a view")
    tell_next(command_line("data", "prepare", "ID", "--view", "VIEW", "--from", "DIR"))


def pin(
    file: Annotated[Path, typer.Argument(help="The YAML file of a protocol of your own.")],
    as_json: AsJson = False,
) -> None:
    """Fill in the digests of data and splits in a protocol's file."""
    from benchmark import protocol
    from benchmark.data import pins

    path = file if file.suffix in (".yaml", ".yml") else protocol.path_of(str(file))
    target = None
    if path.parent.resolve() == protocol.FAMILIES.resolve():
        target = places.protocols() / path.name  # a family of the package leaves the data to its users
    elif path.parent.resolve() == protocol.FOLDER.resolve():
        raise UserError(f"{file}: expected a protocol of your own, given one of the package, whose digests are fixed")
    with console.working("hashing"):
        digests = pins.pin(path, target)
    if target:
        say(f"written to {places.brief(target)}, which is read from now on")
    step = command_line("run", "--protocol", str(file))
    if as_json:
        answer({"path": target or path, "digests": digests, "next": step})
        return
    for name, digest in digests.items():
        say(f"{name}: {digest}", out)
    tell_next(step)


def write_dataset(name: str) -> tuple[Path, str]:
    """Write the file of a data set of the user's own; gives it and the next step."""
    from benchmark.data.source import PACKAGED
    from benchmark.data.templates import DATASET

    path = places.sources() / f"{name}.py"
    if (PACKAGED / path.name).exists() or path.exists():
        raise UserError(f"{path if path.exists() else name}: exists already; choose another name")
    _write(path, DATASET.replace("NAME", name))
    return path, command_line("data", "prepare", name, "--view", "32", "--from", "DIR")


def write_protocol(name: str, dataset: str | None, network: str) -> tuple[Path, str]:
    """Write a protocol for a prepared data set (or for digits or fashion_mnist) and a network, with its digests; gives it and the next step."""
    from benchmark import data as datasets
    from benchmark import networks, protocol
    from benchmark.data import pins
    from benchmark.data.templates import protocol_text

    path = places.protocols() / f"{name}.yaml"
    if path.exists() or (protocol.FOLDER / path.name).exists():
        raise UserError(f"{path if path.exists() else name}: exists already; choose another name")
    networks.discover()
    if network not in networks.NAMES:
        raise UserError(f"--network: unknown network {network!r}{suggest(network, networks.NAMES)}")
    datasets.refresh()
    prepared = sorted(n for n in datasets.names() if "/" in n)
    if dataset is None:
        if len(prepared) > 1:
            raise UserError(f"--dataset: expected one of {', '.join(prepared)}, given none")
        dataset = prepared[0] if prepared else "digits"
    found = datasets.load(dataset)
    _write(path, protocol_text(name, dataset, found, network))
    try:
        pins.pin(path)
    except BaseException:
        path.unlink()
        raise
    return path, command_line("run", protocol.load(str(path)).baseline, "--protocol", name)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"{path}: expected a folder that can be written, given {error.strerror}") from None
