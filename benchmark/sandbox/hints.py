"""What helps where a submission failed for a reason that many meet: a need that it did not declare, a file, a device."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping

from benchmark.entries.registry import ATTACKS, Entry
from benchmark.errors import module_of, own_line, said, words

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
"""What has an attribute of this name and may be None."""
_NETWORK = "gaierror|URLError|HTTPError|Connect|MaxRetry|LocalEntryNotFound"
_OFFLINE = r"(?i)urlopen|name resolution|getaddrinfo|max retries|connection (refused|error|reset)|couldn't connect"
_DEVICE = r"(?i)\bcuda\b|nvidia driver|same device|\bmps\b"


def described(problem: BaseException, entries: Mapping[tuple[str, str], Entry]) -> str:
    """What a submission raised in this process, in one line: the error, the submission's own line, and what helps."""
    at, line = own_line(problem)
    kind, id = module_of(problem)
    entry = entries.get((kind, id))
    name, text = type(problem).__name__, words(problem)
    return said(name, text, at, hint(name, text, line, entry) if entry else "")


def hint(kind: str, text: str, line: str, entry: Entry) -> str:
    """What helps, or "". `kind` and `text` are the error's, `line` is the submission's own line: any text may stand there."""
    if "NoneType" in text or (kind == "AssertionError" and not text):
        return _undeclared(text, line, entry)
    if missing := re.fullmatch(r"No module named '([^\W\d]\w{0,60})(\.[\w.]{0,200})?'", text):
        return _module(missing[1], entry)
    if re.search(_NETWORK, kind) or re.search(_OFFLINE, text) or text == "[Errno 1] Operation not permitted":
        return "a sandbox has no network and no sockets (a DataLoader needs num_workers=0)"
    if re.match(r"\[Errno (1|2|13|17|20|21|30)\]", text):
        return "a sandbox has no files: a submission uses what it is handed, and may write to /tmp, which is wiped"
    if re.search(_DEVICE, text):
        here = "knowledge.device" if entry.kind == "attack" else "training.device or context.device"
        return f"name no device, and use {here}"
    return ""


def _undeclared(text: str, line: str, entry: Entry) -> str:
    """What is None because the entry did not declare it, where the error and the file speak of it."""
    if entry.kind != "attack":
        return ""
    given = {name: entry.given(name) for name in ("shadow", "partial", "certificate", "embeddings", "auxiliary")}
    given["references"] = bool(entry.needs & {"references-online", "references-offline"})
    attribute = re.search(r"'NoneType' object has no attribute '(\w{1,60})'", text)
    among = _FIELDS.get(attribute[1], ()) if attribute else given
    nodes = list(ast.walk(ast.parse(entry.text)))
    read = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    read |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)} & {"references"}
    missing = [name for name in among if not given[name] and (name in read or among == ("references",))]
    if not text:  # an assertion says what it is about in its line alone
        missing = [name for name in missing if re.search(rf"\b{name}\b", line)]
    missing = [n for n in missing if re.search(rf"\b{n}\b", line)] or missing
    if not missing:
        return ""
    name = missing[0]
    if name == "references":
        return 'references is None, for `needs` names none: add "references-offline" or "references-online" to `needs`'
    own = ATTACKS[entry.task].from_shadow
    if name in ("shadow", "embeddings", "auxiliary") and name != own:
        who = " or ".join(cls.__name__ for cls in ATTACKS.values() if cls.from_shadow == name)
        return f"knowledge.{name} is None: {who} alone is given it; {ATTACKS[entry.task].__name__} has knowledge.{own}"
    need = "shadow" if name == own else name
    return f'knowledge.{name} is None, for `needs` does not name it: add "{need}" to `needs`'


def _module(name: str, entry: Entry) -> str:
    """`name` is an identifier: it is looked for, never imported."""
    folder = entry.path.parent
    if (folder / f"{name}.py").exists() or (folder / name).is_dir():
        return f"a submission is one file: put what it needs of {name} into it"
    if importlib.util.find_spec(name) is not None:
        return f"a sandbox is shown installed packages alone ({LIBRARIES}, ...); {name} is not among them"
    return f"{name} is not installed: install it where Leakboard is, or use what is there ({LIBRARIES}, ...)"
