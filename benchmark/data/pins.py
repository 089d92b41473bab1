"""The digests that a protocol pins: of its data and of each seed's split. `check` compares them, `pin` writes them into the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmark import data as datasets
from benchmark import protocol as protocols
from benchmark.data.dataset import Data, DataError
from benchmark.data.prepared import named_attribute
from benchmark.data.source import find
from benchmark.data.splits import indices_digest, split
from benchmark.errors import UserError, printable
from benchmark.protocol import Protocol

SPAN = tuple[int, int]


def check(protocol: Protocol) -> None:
    """Compare the data and the splits with the pinned digests. Raises UserError with both digests, whole, and DataError for missing data."""
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
            given = indices_digest(split(protocol.split.scheme, len(data), seed, protocol.split.size))
        except ValueError as error:
            raise UserError(f"{protocol.name}: split: {error}") from None
        _compare(protocol, f"split.digests.{seed}", protocol.split.digests[seed], "a split", given)


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
            else f"{protocol.name}: {name} is not prepared: `leakboard data prepare {id} --view {view}"
            f"{'' if known.source and known.source.installed else ' --from DIR'}`. How to get it: {known.source.get if known.source else ''}"
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


def pin(path: Path) -> dict[str, str]:
    """Fill in the digests of data and splits in a protocol's file, in one step; all other text stays as it is.

    Gives the digests by field. Raises UserError for a file that is no protocol but for its digests, and leaves it as it was.
    """
    text, content = path.read_bytes().decode(), protocols.read(str(path))
    datasets.refresh()
    digests: dict[str, str] = {}
    edits: list[tuple[SPAN, str]] = []
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for owner, fields, at in ((root, content, ""), (_value(root, "adversary"), content.get("adversary"), "adversary.")):
        if not isinstance(fields, dict) or not isinstance(owner, yaml.MappingNode) or "dataset" not in fields:
            continue
        given = fields["dataset"]
        mapping = isinstance(given, dict)
        if mapping and not {"id", "view"} <= set(given):
            raise UserError(
                f"{path}: {at}dataset: expected id and view, given {', '.join(map(str, given)) or 'nothing'}"
            )
        loaded = datasets.load(f"{given['id']}/{given['view']}" if mapping else str(given))
        digests[f"{at}dataset.digest" if mapping else f"{at}data_digest"] = loaded.digest
        if mapping:
            edits.append(_set(_value(owner, "dataset"), "digest", loaded.digest))
        else:
            edits.append(_set(owner, "data_digest", loaded.digest))
        if not at:
            samples = len(loaded)
    parts, seeds = content.get("split"), content.get("seeds")
    if not digests or not isinstance(parts, dict) or not isinstance(seeds, list) or "scheme" not in parts:
        raise UserError(
            f"{path}: expected dataset, seeds, and split with a scheme, given {', '.join(map(str, content))}"
        )
    pinned = dict(parts.get("digests") or {})
    for seed in seeds:
        try:
            pinned[seed] = indices_digest(split(parts["scheme"], samples, seed, parts.get("size")))
        except (ValueError, TypeError) as error:
            raise UserError(printable(f"{path}: split: {error}")) from None
        digests[f"split.digests.{seed}"] = pinned[seed]
    flow = "{" + ", ".join(f"{seed}: {digest}" for seed, digest in pinned.items()) + "}"
    block = "".join(f"\n    {seed}: {digest}" for seed, digest in pinned.items())
    node = _value(root, "split")
    edits.append(_set(node, "digests", flow if isinstance(node, yaml.MappingNode) and node.flow_style else block))
    for (start, end), new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    draft = path.with_name(f".{path.stem}-{os.getpid()}.yaml")
    try:
        draft.write_text(text, "utf-8", newline="")
        protocols.load(str(draft))  # raises where anything else is wrong with it
        os.replace(draft, path)
    except UserError as error:
        raise UserError(str(error).replace(str(draft), str(path))) from None
    except OSError as error:
        raise UserError(f"{path}: expected a file that can be written, given {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
    return digests


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
