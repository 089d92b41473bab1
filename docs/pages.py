"""What the pages of the documentation hold that comes from the code: Markdown made of models, cards, registries and files."""

from __future__ import annotations

import ast
import io
import json
import posixpath
import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from docs import notebook, rooms

ROOT = Path(__file__).resolve().parent.parent
INCLUDED = {
    "submit.md": "submissions/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages that are files of the repository, by the name of the page."""
CODE = ("benchmark", "leaderboard", "leakboard", "speed", "submissions", "tests")
"""Folders whose Python and YAML files may cite rules and methods."""
CITATION = re.compile(r"\b(RULES|METHODS)(\s+)([A-E]?\d+(?:(?:,?\s+and\s+|\s*,\s*|\s+to\s+)[A-E]?\d+)*)")


# --- The repository ---------------------------------------------------------------------------------


@cache
def source() -> str:
    """Where the repository's files are shown in a browser, with a / at its end."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    return f"{urls['Repository']}/blob/main/"


def link(path: str) -> str:
    """A link to a file of the repository. Raises FileNotFoundError where there is none."""
    if not (ROOT / path).exists():
        raise FileNotFoundError(path)
    return f"[`{path}`]({source()}{path})"


def included(path: str, page: str, section: str = "") -> str:
    """A Markdown file of the repository as part of a page, or one section of it without its heading.

    Links to files that are pages here go to the pages, those to pictures in `docs/` to the pictures, all others to the
    repository.
    """
    text = (ROOT / path).read_text("utf-8")
    if section:
        found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
        if found is None:
            raise LookupError(f"{path}: no section {section!r}")
        text = found[1].strip()
    here = posixpath.dirname(page)

    def moved(match: re.Match[str]) -> str:
        target, hash_, anchor = match[2].partition("#")
        if re.match(r"[a-z]+:|#", match[2]):
            return match[0]
        at = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        pages = {file: name for name, file in INCLUDED.items()}
        if at in pages:
            to = posixpath.relpath(pages[at], here or ".")
        elif at.startswith("docs/") and (ROOT / at).is_file():
            to = posixpath.relpath(at.removeprefix("docs/"), here or ".")
        else:
            link(at)
            to = source() + at
        return f"{match[1]}({to}{hash_}{anchor})"

    return re.sub(r"(\[[^\]]*\])\(([^)\s]+)\)", moved, text)


# --- Citations --------------------------------------------------------------------------------------


def cited(text: str) -> Iterator[tuple[str, str]]:
    """What a text cites, as ("RULES", "12") or ("METHODS", "C6"); "RULES 14 to 16" cites three rules."""
    for match in CITATION.finditer(text):
        numbers = re.split(r"(\s+to\s+)|,?\s+and\s+|\s*,\s*", match[3])
        parts = [n for n in numbers if n]
        for i, number in enumerate(parts):
            if number.strip() == "to":
                yield from ((match[1], str(n)) for n in range(int(parts[i - 1]) + 1, int(parts[i + 1])))
            else:
                yield match[1], number


@cache
def citations() -> dict[tuple[str, str], list[str]]:
    """The files of the repository that cite each rule and each method."""
    found: dict[tuple[str, str], list[str]] = {}
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml") and path.is_file():
                for citation in dict.fromkeys(cited(path.read_text("utf-8"))):
                    found.setdefault(citation, []).append(path.relative_to(ROOT).as_posix())
    return found


def anchor(kind: str, number: str) -> str:
    """The page and the anchor that explain what is cited."""
    return f"rules.md#rule-{number}" if kind == "RULES" else f"methods/notes.md#{number.lower()}"


def with_citations(text: str, kind: str) -> str:
    """A page whose headings begin with a number, such as `## 12 Tracks`, with the files that cite it below each section."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    out = [parts[0]]
    for part in parts[1:]:
        number = part.split()[1]
        files = [f for f in citations().get((kind, number), []) if not f.startswith("tests/")]
        out.append(f"{part.rstrip()}\n\n")
        if files:
            out.append(f"Cited in {', '.join(map(link, files))}.\n{{ .cited }}\n\n")
    return "".join(out)


# --- Tables and text --------------------------------------------------------------------------------


def table(*columns: str, rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; cells are Markdown already. A column with a name and no values is left out."""
    body = [list(row) for row in rows]
    kept = [i for i, name in enumerate(columns) if not name or any(row[i] for row in body)]
    lines = [[row[i] for i in kept] for row in (columns, ["---"] * len(columns), *body)]
    return "\n".join(
        "| " + " | ".join(" ".join(str(c).split()).replace("|", "\\|") for c in row) + " |" for row in lines
    )


def prose(text: str) -> str:
    """Plain text of a docstring as Markdown: signs that mean something there are escaped, but for code spans and lists."""

    def escaped(piece: str) -> str:
        return re.sub(r"([\\*_<>\[\]#|])", r"\\\1", piece)

    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        pieces = re.split(r"(`[^`]+`)", paragraph)
        paragraphs.append("".join(p if p.startswith("`") and len(p) > 1 else escaped(p) for p in pieces))
    return "\n\n".join(paragraphs)


def code(value: object) -> str:
    return f"`{value}`"


def plain_code(value: object) -> str:
    """As a user writes it on the command line and in YAML."""
    words = {None: "null", True: "true", False: "false"}
    return code(words[value] if value is None or isinstance(value, bool) else value)


def type_of(annotation: Any) -> str:
    """A type as a reader of YAML thinks of it."""
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    arguments, origin = get_args(annotation), get_origin(annotation)
    if origin is None:
        return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(
            getattr(annotation, "__name__", ""), str(annotation)
        )
    if hasattr(annotation, "__metadata__"):
        return type_of(arguments[0])
    if "Literal" in str(origin):
        return ", ".join(map(plain_code, arguments))
    if origin is tuple:
        return f"list: {type_of(arguments[0])}"
    if origin is dict:
        return f"mapping: {type_of(arguments[0])} to {type_of(arguments[1])}"
    return " or ".join(map(type_of, arguments))  # a union


def bounds(metadata: Iterable[Any], annotation: Any = None) -> str:
    """The range of a field, in words and signs."""
    signs = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "multiple_of": "a multiple of {}"}
    found: list[str] = []
    for mark in metadata:
        for name, sign in signs.items():
            value = getattr(mark, name, None)
            if isinstance(value, int | float) and abs(value) != 2**63:  # what any whole number of 64 bits is
                found.append(sign.format(short(value)))
    for inner in get_args(annotation) if annotation is not None else ():
        found += [b for b in [bounds(getattr(inner, "__metadata__", ()), inner)] if b]
        for mark in getattr(inner, "__metadata__", ()):
            found += [b for b in [bounds(getattr(mark, "metadata", ()))] if b]
    return ", ".join(dict.fromkeys(found))


def short(number: float) -> str:
    """A number as it is read best."""
    return "10^9" if number == 10**9 else f"{number:,}" if isinstance(number, int) else f"{number:g}"


# --- Protocols --------------------------------------------------------------------------------------

FIELDS = {
    "Split.digests": "SHA-256 of each seed's split. What is drawn must have it.",
    "Axes.augmentation": "Another augmentation.",
    "Axes.early_stopping": "Whether training keeps its best epoch.",
    "Axes.epochs": "Another number of epochs.",
    "Axes.weight_decay": "Another weight decay.",
    "Recipe.optimizer": "The optimiser.",
    "Recipe.learning_rate": "The learning rate that the schedule begins with.",
    "Recipe.momentum": "Momentum of SGD.",
    "Recipe.weight_decay": "Weight decay.",
    "Recipe.schedule": "How the learning rate falls.",
    "Recipe.epochs": "Epochs of every network.",
    "Recipe.batch_size": "Samples a batch.",
    "Recipe.augmentation": "Augmentation of training images: `simple` is a crop after padding and a flip, by data set; `randaug` is RandAugment with N = 2, M = 10.",
    "Recipe.precision": "Numbers of training. Answers to queries are always float32.",
    "Recipe.channels_last": "The memory layout of images.",
    "Adversary.dataset": "Data of the shadow world.",
    "Adversary.data_digest": "SHA-256 of that data.",
    "Adversary.architecture": "Network of the shadow world.",
    "Adversary.learning_rate": "Learning rate of the shadow world.",
    "Adversary.batch_size": "Samples a batch in the shadow world.",
    "Adversary.epochs": "Epochs in the shadow world.",
    "Limits.processes": "Processes and threads at once.",
    "Limits.files": "Open files of a process.",
    "Limits.scratch_mb": "Scratch space.",
    "Limits.output_mb": "What may be printed.",
    "Limits.stored_mb": "What a defense may have the judge store.",
    "Protocol.about": "What it measures, in a sentence or two.",
    "Protocol.leaves_out": "What it does not measure.",
    "Protocol.split": "How the data is divided.",
    "Protocol.seeds": "The board's seeds. Each draws a split, trains a target and is one value of every statistic.",
    "Protocol.architecture": "Network of every target and reference model.",
    "Protocol.recipe": "How they are trained.",
    "Protocol.references": "How many reference models an attack on one target has.",
    "Protocol.costly": "What costs several times as much as the rest.",
    "Protocol.canaries": "Scores planted canaries in the place of ordinary samples.",
    "Protocol.adversary": "An adversary who lacks the target's data, network or recipe.",
    "Protocol.resamples": "Bootstrap resamples of an interval.",
    "Protocol.nulls": "Permutations of the labels for the null.",
    "Protocol.attacks": "The attacks that a defense has to meet before it is ranked.",
    "Protocol.defenses": "The defenses that an attack has to meet before it is ranked.",
    "Protocol.baseline": "The defense whose test accuracy the floor refers to, and that guards alone are put behind.",
    "Protocol.utility_floor": "Share of the baseline's test accuracy that a ranked defense keeps.",
    "Protocol.rank_by": "The metric of the worst case: the first one that the samples can rank.",
    "Protocol.limits": "What a submission may use.",
}
"""Words for the fields that have no docstring of their own in `benchmark/protocol.py`."""


def protocol_models() -> list[type[BaseModel]]:
    """The models of a protocol file, the outermost first, and what entries may change of one."""
    from benchmark import protocol

    found: list[type[BaseModel]] = [protocol.Protocol]
    for model in found:
        for field in model.model_fields.values():
            for kind in (field.annotation, *get_args(field.annotation)):
                if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in found:
                    found.append(kind)
    return [*found, protocol.Axes, protocol.AttackAxes]


def said_of_fields(path: Path) -> dict[str, str]:
    """The docstrings of fields, `Class.field`, and of classes, in a module."""
    found: dict[str, str] = {}
    for cls in ast.parse(path.read_text("utf-8")).body:
        if isinstance(cls, ast.ClassDef):
            found[cls.name] = ast.get_docstring(cls) or ""
            for field, after in zip(cls.body, cls.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    match after:
                        case ast.Expr(value=ast.Constant(value=str() as text)):
                            found[f"{cls.name}.{field.target.id}"] = " ".join(text.split())
    return found


def words_of_fields() -> dict[str, str]:
    """What is said of each field of a protocol, by `Class.field`."""
    said = said_of_fields(ROOT / "benchmark" / "protocol.py")
    names = [f"{model.__name__}.{field}" for model in protocol_models() for field in model.model_fields]
    return {name: said.get(name) or FIELDS.get(name, "") for name in names}


def protocol_fields() -> str:
    said, words = said_of_fields(ROOT / "benchmark" / "protocol.py"), words_of_fields()
    out = []
    for model in protocol_models():
        rows = []
        for name, field in model.model_fields.items():
            limits = bounds(field.metadata, field.annotation)
            if field.is_required():
                default = "required"
            elif isinstance(field.default, BaseModel) or field.default is PydanticUndefined:
                default = "its defaults"
            else:
                default = plain_code(list(field.default) if isinstance(field.default, tuple) else field.default)
            what = prose(words[f"{model.__name__}.{name}"])
            rows.append((code(name), type_of(field.annotation) + (f"; {limits}" if limits else ""), default, what))
        out.append(
            f"### {model.__name__}\n\n{prose(said[model.__name__])}\n\n"
            + table("field", "type", "default", "meaning", rows=rows)
        )
    return "\n\n".join(out)


def protocol_list() -> str:
    from benchmark import protocol

    out = []
    for name in protocol.names():
        p = protocol.load(name)
        size = p.split.size or "as many as go"
        facts = (
            ("data", f"`{p.dataset}`, {p.split.scheme}, samples a part: {size}"),
            ("network", f"`{p.architecture}`, {p.recipe.epochs} epochs"),
            ("seeds", ", ".join(map(str, p.seeds))),
            ("targets a seed", str(p.targets)),
            ("reference models", f"{p.references.online} online, {p.references.offline} offline"),
            ("required", f"{len(p.attacks)} attacks, {len(p.defenses)} defenses"),
            ("file", link(f"benchmark/protocols/{name}.yaml")),
        )
        out.append(
            f"### {name}\n\n{prose(p.about)}\n\n"
            + table("", "", rows=facts)
            + f"\n\nIt leaves out: {prose(p.leaves_out)}"
        )
    return "\n\n".join(out)


def family_list() -> str:
    from benchmark import protocol

    out = []
    for family in protocol.families():
        members = protocol.members(family)
        first = next(iter(members.values()))
        names = ", ".join(f"`{name.removeprefix(family)}`" for name in members)
        file = link(f"benchmark/protocols/families/{family}.yaml")
        out.append(
            f"### {family}\n\n{prose(first.about)}\n\nIt leaves out: {prose(first.leaves_out)}\n\n"
            f"{len(members)} protocols, seeds {', '.join(map(str, first.seeds))}, {file}: {names}"
        )
    return "\n\n".join(out)


def example(path: str) -> str:
    """A file of the repository as a block of code."""
    return f'```{Path(path).suffix.lstrip(".")} title="{path}"\n{(ROOT / path).read_text("utf-8").rstrip()}\n```'


# --- Metrics and entries ----------------------------------------------------------------------------


def metrics() -> str:
    from benchmark.metrics import METRICS

    def end(value: float) -> str:
        return "" if value >= 1e9 else f"{value:g}" if value == round(value, 3) else f"{value:.3f}"

    leaks = {"up": "more leakage", "down": "less leakage", "none": "–"}
    headings = {
        "membership": "Membership inference: the board's columns", "inversion": "Inversion",
        "attribute": "Attribute inference", "stealing": "Stealing", "": "On records, and on pages of the app",
    }  # fmt: skip
    out = []
    for kind in dict.fromkeys((*(m.table for m in METRICS.values() if m.table), "")):
        rows = [
            (code(m.name), m.label, m.help, f"{end(m.low)} to {end(m.high)}" if end(m.high) else f"from {end(m.low)}", leaks[m.leaks])
            for m in METRICS.values() if m.table == kind
        ]  # fmt: skip
        title = headings.get(kind, kind.capitalize())
        out.append(f"## {title}\n\n" + table("name", "label", "what it is", "range", "a larger value means", rows=rows))
    return "\n\n".join(out)


def networks() -> str:
    """A table of the package's networks, those of one family together."""
    from benchmark import networks

    known = {name: networks.about(name) for name in networks.PACKAGED}
    rows = [
        (
            code(n),
            about.title,
            about.paper,
            f"{about.least}x{about.least}",
            prose((about.__doc__ or "").partition("\n")[0]),
        )
        for n, about in sorted(known.items(), key=lambda item: (item[1].__module__, item[0]))
    ]
    return table("network", "title", "paper", "least image", "what it is", rows=rows)


def registry() -> Any:
    from benchmark.entries.registry import Registry

    return Registry(ROOT / "submissions")


GROUPS = {
    "attacks": (
        ("Membership, by posteriors", lambda e: (e.task, e.access) == ("membership", "posterior")),
        ("Membership, by labels alone", lambda e: (e.task, e.access) == ("membership", "label")),
        ("Membership, by the network", lambda e: (e.task, e.access) == ("membership", "white-box")),
        ("Other kinds", lambda e: e.task != "membership"),
    ),
    "defenses": (
        ("In training", lambda e: "training" in e.stages),
        ("Before inference", lambda e: "training" not in e.stages and "pre-inference" in e.stages),
        ("After inference", lambda e: not {"training", "pre-inference"} & {*e.stages}),
    ),
}
TITLES = {"attacks": "Attacks", "defenses": "Defenses"}


def methods(kind: str) -> str:
    """Every entry of a kind: what its docstring says, its source, what it declares and its hyperparameters."""
    entries = [e for e in registry().entries.values() if f"{e.kind}s" == kind]
    if broken := [e.error for e in entries if e.error]:
        raise ValueError("; ".join(broken))
    out = [
        f"# {TITLES[kind]}\n\nThis page is made of the files in [`submissions/{kind}/`]({source()}submissions/{kind}): what each says of "
        "its method, what it declares, and its hyperparameters with their defaults. "
        "A value is set in brackets: `NAME[hyperparameter=value]`. [Notes](notes.md) holds what several entries share."
    ]
    for title, belongs in GROUPS[kind]:
        if mine := [e for e in entries if belongs(e)]:
            out += [f"## {title}", *map(_entry, mine)]
    return "\n\n".join(out) + "\n"


def _entry(entry: Any) -> str:
    card = entry.card
    who = ", ".join(card.authors)
    first, _, rest = entry.doc.partition("\n\n")
    declared = [("reference", prose(f"{who}: {card.reference}" if who else card.reference))]
    if entry.kind == "attack":
        declared += [
            ("task", entry.task), ("access", entry.access),
            ("knows", ", ".join(sorted(entry.needs)) or "nothing but the target"),
        ]  # fmt: skip
        if entry.task == "membership":
            declared.append(
                (
                    "threshold",
                    {"shadow": "set on the shadow world", "own": "a rule of its own: score > 0", "none": "none"}[
                        entry.calibrate
                    ],
                )
            )
    else:
        declared.append(("stage", ", ".join(entry.stages)))
        uses = [name + (f" ({_where(where)})" if where else "") for name, where in entry.uses.items()]
        if uses:
            declared.append(("extra data", ", ".join(uses)))
        if entry.keeps_labels is not None:
            declared.append(("keeps labels", f"with {_where(entry.keeps_labels)}" if entry.keeps_labels else "yes"))
        if entry.adaptive_attack:
            declared.append(("known attack that is not here", prose(entry.adaptive_attack)))
    if card.null:
        declared.append(("null row", "it shows what a score is worth that uses nothing of the target"))
    declared.append(("file", link(f"submissions/{entry.kind}s/{entry.id}.py")))
    named = first.lower().startswith(card.title.lower())
    what = (
        f"**{prose(first[: len(card.title)])}**{prose(first[len(card.title) :])}"
        if named
        else f"**{prose(card.title)}**. {prose(first)}"
    )
    text = f"### {entry.id}\n\n{what}\n\n{prose(rest)}\n\n" + table("", "", rows=declared)
    return text + (f"\n\n{_settings(entry)}" if entry.params.model_fields else "")


def _where(values: Any) -> str:
    return ", ".join(f"`{name}` {' or '.join(map(plain_code, among))}" for name, among in values.items())


def _settings(entry: Any) -> str:
    from benchmark.api import Search

    rows = []
    for name, field in entry.params.model_fields.items():
        search = next((m for m in field.metadata if isinstance(m, Search)), None)
        tuned = f"{search.low:g} to {search.high:g}{', log' if search.log else ''}" if search else ""
        grid = ", ".join(f"{v:g}" for v in search.grid) if search else ""
        kind, limits = type_of(field.annotation), bounds(field.metadata, field.annotation)
        rows.append((code(name), plain_code(field.default), f"{kind}; {limits}" if limits else kind, tuned, grid))
    return table("hyperparameter", "default", "values", "searched by `tune`", "the paper's grid", rows=rows)


# --- Commands, the board, the rooms -----------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments and options, as `leakboard COMMAND -h` shows them."""
    from typer.main import get_command

    from leakboard.cli import app

    group: Any = get_command(app)

    def parameters(command: Any) -> str:
        rows = []
        for p in command.params:
            if getattr(p, "hidden", False) or p.name in ("install_completion", "show_completion"):
                continue
            option = p.param_type_name == "option"
            names = (
                ", ".join(map(code, (*p.opts, *p.secondary_opts))) if option else code((p.metavar or p.name).upper())
            )
            flag = bool(getattr(p, "is_flag", False))
            shown = (
                ""
                if p.default is None or flag or callable(p.default) or str(p.default).startswith("Sentinel")
                else plain_code(p.default)
            )
            variable = code(p.envvar) if p.envvar else ""
            rows.append((names, "required" if p.required else shown, variable, p.help or ""))
        return table("argument or option", "default", "variable", "meaning", rows=rows) if rows else ""

    out = [f"## For all commands\n\n{parameters(group)}"]
    for name, command in group.commands.items():
        below = {f"{name} {sub}": c for sub, c in getattr(command, "commands", {}).items()}
        for title, each in (below or {name: command}).items():
            if not each.hidden:
                out.append(f"## {title}\n\n{prose(each.help or '')}\n\n{parameters(each)}".rstrip())
    return "\n\n".join(out)


def audit_fields() -> str:
    """The fields of an audit's JSON file."""
    from benchmark.run.audit.report import Audit, schema

    definitions = {"Audit": schema(), **schema()["$defs"]}
    said = {"Audit": Audit.__doc__ or "", **{name: d.get("description", "") for name, d in schema()["$defs"].items()}}
    out = []
    for name, definition in definitions.items():
        rows = [
            (code(field), _json_type(what), prose(what.get("description", "")))
            for field, what in definition["properties"].items()
        ]
        out.append(f"### {name}\n\n{prose(said[name])}\n\n" + table("field", "type", "meaning", rows=rows))
    return "\n\n".join(out)


def _json_type(what: dict[str, Any]) -> str:
    """The type of a field of a JSON schema, in words."""
    if "$ref" in what:
        name = what["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in what:
        return " or ".join(map(_json_type, what["anyOf"]))
    if "enum" in what or "const" in what:
        return ", ".join(map(plain_code, what.get("enum", [what.get("const")])))
    if "prefixItems" in what:
        return f"pair: {' and '.join(map(_json_type, what['prefixItems']))}"
    if what.get("type") == "array":
        return f"list: {_json_type(what['items'])}"
    if what.get("type") == "object":
        return f"mapping: text to {_json_type(what['additionalProperties'])}"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    return words.get(what["type"], what["type"])


@cache
def quick() -> str:
    """The protocol that `make quickstart` scores."""
    found = re.search(r"leakboard run --protocol (\S+)", (ROOT / "Makefile").read_text("utf-8"))
    assert found
    return found[1]


def board() -> str:
    """The tables that `make quickstart` ends with, from the published rows of its protocol's own entries; "" where there are none."""
    from rich.console import Console

    from benchmark import protocol
    from leaderboard import publish
    from leaderboard.ranking import Board
    from leakboard.tables import print_tables

    folder = ROOT / "leaderboard" / "published" / quick()
    if not (folder / publish.SCENARIOS).is_file():
        return ""
    asked = protocol.load(quick())
    rows = [r for r in publish.load(folder) if r.defense in asked.defenses and r.attack in ("", *asked.attacks)]
    out = io.StringIO()
    print_tables(rows, Board(**asked.board()), Console(file=out, width=100, color_system=None, legacy_windows=False))
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return f"```text\n{text}\n```"


def picture() -> str:
    """The rooms, as an SVG that stands in the page, so that it has the page's colours."""
    return f'<figure class="rooms" markdown="0">\n{rooms.draw(rooms.uses())}\n</figure>'


# --- Pages ------------------------------------------------------------------------------------------

MADE = {
    "protocol_fields": protocol_fields,
    "protocol_list": protocol_list,
    "family_list": family_list,
    "metrics": metrics,
    "commands": commands,
    "networks": networks,
    "audit_fields": audit_fields,
    "board": board,
    "picture": picture,
}
"""What a page may hold as `<!-- make: NAME -->`, in a line of its own."""


def filled(text: str, page: str) -> str:
    """A hand-written page with what is made for it, and with what it includes: `<!-- include: FILE # SECTION -->`."""
    text = re.sub(r"^<!-- make: (\w+) -->$", lambda m: MADE[m[1]](), text, flags=re.MULTILINE)
    text = re.sub(r"^<!-- example: (\S+) -->$", lambda m: example(m[1]), text, flags=re.MULTILINE)
    text = re.sub(r"`repo:([^`]+)`", lambda m: link(m[1]), text)
    text = re.sub(r"^<!-- include: (\S+) # (.+) -->$", lambda m: included(m[1], page, m[2]), text, flags=re.MULTILINE)
    kind = {"rules.md": "RULES", "methods/notes.md": "METHODS"}.get(page)
    return with_citations(text, kind) if kind else text


def generated() -> dict[str, str]:
    """The pages that are made whole, by their names."""
    pages = {page: included(path, page) for page, path in INCLUDED.items()}
    pages |= {f"methods/{kind}.md": methods(kind) for kind in GROUPS}
    pages[notebook.PAGE] = notebook.markdown()
    return pages | {"audit.schema.json": json.dumps(_audit_schema(), indent=1) + "\n"}


def _audit_schema() -> dict[str, Any]:
    from benchmark.run.audit.report import schema

    return schema()
