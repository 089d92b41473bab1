"""The digests that a protocol pins: of its data and of each seed's split. `check` compares them, `pin` writes them into the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmark import data as datasets
from benchmark import protocol as protocols
from benchmark.data.dataset import Data, DataError
from benchmark.data.prepared import named_attribute
from benchmark.data.source import find
from benchmark.data.splits import draw, indices_digest
from benchmark.errors import UserError, printable
from benchmark.protocol import Protocol, Split

SPAN = tuple[int, int]


def check(protocol: Protocol) -> None:
    """Compare the data and the splits with the pinned digests. Raises UserError with both digests, whole, and DataError for missing data.

    Raises UserError with the commands that prepare and pin the data where nobody has pinned them.
    """
    if not protocol.pinned:
        raise UserError(f"{protocol.name}: its data are not pinned; {'; '.join(steps(protocol))}")
    datasets.refresh()
    data = _checked(protocol, "data_digest", protocol.dataset, protocol.data_digest)
    all_data = [data]
    if protocol.adversary and protocol.adversary.dataset:
        digest = str(protocol.adversary.data_digest)
        all_data.append(_checked(protocol, "adversary.data_digest", protocol.adversary.dataset, digest))
    if protocol.attribute is not None:
        values = {each.name: _values(protocol, each, protocol.attribute) for each in all_data}
        if len(set(values.values())) > 1:
            given = ", ".join(f"{k} in {name}" for name, k in values.items())
            raise UserError(f"{protocol.name}: attribute: expected as many values in both data sets, given {given}")
    for seed in set(protocol.seeds) & set(protocol.split.digests):
        try:
            given = indices_digest(draw(protocol.split, data, seed))
        except ValueError as error:
            raise UserError(f"{protocol.name}: split: {error}") from None
        _compare(protocol, f"split.digests.{seed}", protocol.split.digests[seed], "a split", given)


def steps(protocol: Protocol) -> list[str]:
    """The commands that prepare the data of a protocol and pin it, each with what it is for."""
    other = protocol.adversary.dataset if protocol.adversary else None
    names = [protocol.dataset, *([other] if other else [])]
    prepare = [
        f"prepare {name}: `{_prepare_command(name)}`" for name in names if "/" in name and name not in datasets.names()
    ]
    return [*prepare, f"pin it: `leakboard pin {protocols.file_name(protocol.name)}`"]


def _prepare_command(name: str) -> str:
    id, _, view = name.partition("/")
    source = find(id).source
    return f"leakboard data prepare {id} --view {view}{'' if source and source.installed else ' --from DIR'}"


def _checked(protocol: Protocol, field: str, name: str, pinned: str) -> Data:
    try:
        data = datasets.load(name)
    except DataError as error:
        id, _, view = name.partition("/")
        if not view:
            raise
        known = find(id)  # raises where there is none of this id
        raise DataError(
            f"{protocol.name}: {error}"
            if name in datasets.names()
            else f"{protocol.name}: {name} is not prepared: `{_prepare_command(name)}`. How to get it: {known.source.get if known.source else ''}"
        ) from None
    _compare(protocol, field, pinned, f"data {name}", data.digest)
    return data


def _values(protocol: Protocol, data: Data, attribute: str) -> int:
    """How many values the attribute has in the data."""
    try:
        return named_attribute(data, attribute)[1]
    except DataError as error:
        raise DataError(f"{protocol.name}: {error}") from None


def _compare(protocol: Protocol, field: str, pinned: str, what: str, given: str) -> None:
    if given != pinned:
        raise UserError(
            f"{protocol.name}: {field}: expected {pinned}, given {what} with {given}; this is not what the protocol was pinned on. "
            "`leakboard pin FILE` pins a protocol of your own on what is here"
        )


def pin(path: Path, target: Path | None = None) -> dict[str, str]:
    """Fill in the digests of data and splits in a protocol's file, in one step; all other text stays as it is.

    Of a family, those of the data sets that are prepared. target: where to write it; None: the file itself. Gives the digests
    by field. Raises UserError for a file that is no protocol but for its digests, and leaves it as it was.
    """
    text, content = path.read_bytes().decode(), protocols.read(str(path))
    datasets.refresh()
    digests: dict[str, str] = {}
    edits: list[tuple[SPAN, str]] = []
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if "datasets" in content:
        variants = _value(root, "datasets")
        for name, own in content["datasets"].items() if isinstance(content["datasets"], dict) else ():
            try:
                edits += _edits(
                    path, _value(variants, name), protocols.merged(content, own), own, f"datasets.{name}.", digests
                )
            except DataError as missing:
                digests[f"datasets.{name}"] = f"left as it is: {missing}"
        if not edits:
            raise UserError(
                f"{path}: expected a data set of the family that is prepared, given {'; '.join(digests.values())}"
            )
    else:
        edits = _edits(path, root, content, content, "", digests)
    for (start, end), new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    written = target or path
    draft = written.with_name(f".{written.stem}-{os.getpid()}.yaml")
    try:
        written.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, "utf-8", newline="")
        protocols.members(str(draft))  # raises where anything else is wrong with it
        os.replace(draft, written)
    except UserError as error:
        raise UserError(str(error).replace(str(draft), str(path))) from None
    except OSError as error:
        raise UserError(f"{written}: expected a file that can be written, given {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
    return digests


def _edits(
    path: Path,
    root: yaml.Node | None,
    content: dict[str, Any],
    own: dict[str, Any],
    prefix: str,
    digests: dict[str, str],
) -> list[tuple[SPAN, str]]:
    """The edits that pin one protocol, whose own fields are in the mapping `root`; `content` has those of its family too.

    Enters the digests by field, with this prefix.
    """
    edits: list[tuple[SPAN, str]] = []
    found: dict[str, str] = {}
    for owner, fields, at in ((root, own, ""), (_value(root, "adversary"), own.get("adversary"), "adversary.")):
        if not isinstance(fields, dict) or not isinstance(owner, yaml.MappingNode) or "dataset" not in fields:
            continue
        given = fields["dataset"]
        mapping = isinstance(given, dict)
        if mapping and not {"id", "view"} <= set(given):
            raise UserError(
                f"{path}: {prefix}{at}dataset: expected id and view, given {', '.join(map(str, given)) or 'nothing'}"
            )
        loaded = datasets.load(f"{given['id']}/{given['view']}" if mapping else str(given))
        found[f"{prefix}{at}dataset.digest" if mapping else f"{prefix}{at}data_digest"] = loaded.digest
        if mapping:
            edits.append(_set(_value(owner, "dataset"), "digest", loaded.digest))
        else:
            edits.append(_set(owner, "data_digest", loaded.digest))
        if not at:
            data = loaded
    parts, seeds = content.get("split"), content.get("seeds")
    if not found or not isinstance(parts, dict) or not isinstance(seeds, list) or "scheme" not in parts:
        raise UserError(
            f"{path}: expected dataset, seeds, and split with a scheme, given {', '.join(map(str, content))}"
        )
    try:
        pinned = dict(parts.get("digests") or {})
        asked = Split.model_construct(**{"size": None, **parts})
        for seed in seeds:
            pinned[seed] = indices_digest(draw(asked, data, seed))
            found[f"{prefix}split.digests.{seed}"] = pinned[seed]
    except (ValueError, TypeError) as error:
        raise UserError(printable(f"{path}: {prefix}split: {error}")) from None
    digests |= found
    flow = "{" + ", ".join(f"{seed}: {digest}" for seed, digest in pinned.items()) + "}"
    node = _value(root, "split")
    if not isinstance(node, yaml.MappingNode):
        return [*edits, _set(root, "split", f"{{digests: {flow}}}")]
    indent = " " * (node.value[0][0].start_mark.column + 2) if node.value else ""
    block = "".join(f"\n{indent}{seed}: {digest}" for seed, digest in pinned.items())
    return [*edits, _set(node, "digests", flow if node.flow_style else block)]


def _pairs(node: yaml.Node | None) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from node.value


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """The node of a key's value in a mapping."""
    return next((value for name, value in _pairs(node) if name.value == key), None)


def _end(node: yaml.Node) -> int:
    """Where the text of a node ends: a block's own mark lies behind the comments and blank lines that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _set(node: yaml.Node | None, key: str, new: str) -> tuple[SPAN, str]:
    """The edit that gives a key of a mapping this value: a text to be written over a span of the file."""
    assert isinstance(node, yaml.MappingNode)
    value_text = f":{'' if new.startswith(chr(10)) else ' '}{new}"
    for name, value in _pairs(node):
        if name.value == key:
            return (name.end_mark.index, _end(value)), value_text
    at = _end(node.value[-1][1])
    before = ", " if node.flow_style else "\n" + " " * node.value[0][0].start_mark.column
    return (at, at), f"{before}{key}{value_text}"
