"""Hints for common errors of submissions: an undeclared need, a missing module, a file, the network, a device."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping

from benchmark.entries.registry import ATTACKS, Entry
from benchmark.errors import error_line, message_of, module_of, own_line

LIBRARIES = "torch, torchvision, numpy, scipy, sklearn, timm, opacus, diffusers"
_FIELDS = {
    "target": ("shadow", "partial"),
    "nonmembers": ("shadow", "partial"),
    "members": ("shadow", "partial", "references"),
    "log_posteriors": ("references",),
    "ask": ("references",),
    "attribute": ("embeddings",),
    "x": ("embeddings", "auxiliary"),
    "y": ("embeddings", "auxiliary"),
}
"""By attribute: the fields of `Knowledge`, and the argument `references`, that have it and may be None."""
_NETWORK_ERRORS = "gaierror|URLError|HTTPError|Connect|MaxRetry|LocalEntryNotFound"
_OFFLINE = r"(?i)urlopen|name resolution|getaddrinfo|max retries|connection (refused|error|reset)|couldn't connect"
_DEVICE = r"(?i)\bcuda\b|nvidia driver|same device|\bmps\b"


def described(problem: BaseException, entries: Mapping[tuple[str, str], Entry]) -> str:
    """An error that a submission raised in this process, as one line: error, place in the submission, hint."""
    at, line = own_line(problem)
    kind, id = module_of(problem)
    entry = entries.get((kind, id))
    name, text = type(problem).__name__, message_of(problem)
    return error_line(name, text, at, hint(name, text, line, entry) if entry else "")


def hint(kind: str, text: str, line: str, entry: Entry) -> str:
    """A hint, or "".

    `kind` and `text`: class and message of the error; `line`: the submission's line. All may be any text.
    """
    if "NoneType" in text or (kind == "AssertionError" and not text):
        return _undeclared(text, line, entry)
    if missing := re.fullmatch(r"No module named '([^\W\d]\w{0,60})(\.[\w.]{0,200})?'", text):
        return _module(missing[1], entry)
    if re.search(_NETWORK_ERRORS, kind) or re.search(_OFFLINE, text) or text == "[Errno 1] Operation not permitted":
        return "a sandbox has no network and no sockets (a DataLoader needs num_workers=0)"
    if re.match(r"\[Errno (1|2|13|17|20|21|30)\]", text):
        return "a sandbox has no files: a submission uses what it is handed, and may write to /tmp, which is wiped"
    if re.search(_DEVICE, text):
        here = "knowledge.device" if entry.kind == "attack" else "training.device or context.device"
        return f"name no device, and use {here}"
    return ""


def _undeclared(text: str, line: str, entry: Entry) -> str:
    """A hint that names the argument that is None because the entry did not declare it in `needs`; or "".

    Named is one that the error's attribute fits, that the file reads, and if possible that stands in `line`.
    """
    if entry.kind != "attack":
        return ""
    declared = {name: entry.receives(name) for name in ("shadow", "partial", "certificate", "embeddings", "auxiliary")}
    declared["references"] = bool(entry.needs & {"references-online", "references-offline"})
    attribute = re.search(r"'NoneType' object has no attribute '(\w{1,60})'", text)
    suspects = _FIELDS.get(attribute[1], ()) if attribute else declared
    nodes = list(ast.walk(ast.parse(entry.text)))
    names = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    names |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)} & {"references"}
    missing = [name for name in suspects if not declared[name] and (name in names or suspects == ("references",))]
    if not text:  # a bare assertion has no message: its line alone names the argument
        missing = [name for name in missing if re.search(rf"\b{name}\b", line)]
    missing = [n for n in missing if re.search(rf"\b{n}\b", line)] or missing
    if not missing:
        return ""
    name = missing[0]
    if name == "references":
        return 'references is None, for `needs` names none: add "references-offline" or "references-online" to `needs`'
    shadow_field = ATTACKS[entry.task].from_shadow
    if name in ("shadow", "embeddings", "auxiliary") and name != shadow_field:
        who = " or ".join(cls.__name__ for cls in ATTACKS.values() if cls.from_shadow == name)
        return f"knowledge.{name} is None: {who} alone is given it; {ATTACKS[entry.task].__name__} has knowledge.{shadow_field}"
    need_name = "shadow" if name == shadow_field else name
    return f'knowledge.{name} is None, for `needs` does not name it: add "{need_name}" to `needs`'


def _module(name: str, entry: Entry) -> str:
    """A hint for a module that could not be imported. It is looked up, never imported."""
    folder = entry.path.parent
    if (folder / f"{name}.py").exists() or (folder / name).is_dir():
        return f"a submission is one file: put what it needs of {name} into it"
    if importlib.util.find_spec(name) is not None:
        return f"a sandbox is shown installed packages alone ({LIBRARIES}, ...); {name} is not among them"
    return f"{name} is not installed: install it where Leakboard is, or use what is there ({LIBRARIES}, ...)"
