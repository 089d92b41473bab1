"""Hints: a crash names the submission's own line and what helps, in a sandbox and in the judge's process alike."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmark import protocol
from benchmark.entries.registry import Registry
from benchmark.errors import error_line, own_line, trace
from benchmark.judge import kinds
from benchmark.run import work
from benchmark.run.plan import ScenarioJob
from benchmark.sandbox.host import Launcher
from benchmark.sandbox.remote import Isolation
from benchmark.targets.artifacts import Artifacts
from benchmark.targets.store import Store
from tests.conftest import SUBMISSIONS

FILE = """
import torch
from benchmark.api import {base}, Card


class Mine({base}):
    card = Card(title="Mine", authors=("nobody",), reference="none", year=None)
    access = "posterior"
    {declared}

    def fit(self, knowledge):
        self.knowledge = knowledge

    def {method}:
        knowledge = self.knowledge
{body}
        return torch.zeros(len(candidates.y), dtype=torch.float64)
"""
SCORE = "score(self, target, candidates, references)"
NO_SHADOW = 'knowledge.shadow is None, for `needs` does not name it: add "shadow" to `needs`'
NO_REFERENCES = 'references is None, for `needs` names none: add "references-offline" or "references-online" to `needs`'
FILES = "a sandbox has no files: a submission uses what it is handed"
BOTH = {
    "shadow": ("knowledge.shadow.target.labels(candidates.x)", NO_SHADOW),
    "shadow by another name": ("world = knowledge.shadow\nworld.nonmembers", NO_SHADOW),
    "shadow asserted": ("assert knowledge.shadow is not None", NO_SHADOW),
    "shadow taken apart": ("members, others = knowledge.shadow", NO_SHADOW),
    "partial": ("len(knowledge.partial.members)", 'add "partial" to `needs`'),
    "references": ("references.log_posteriors.mean(0)", NO_REFERENCES),
    "references asked": ("(lambda b: b.ask)(references)", NO_REFERENCES),
    "references counted": ("len(references)", NO_REFERENCES),
    "their members": ("references.members[0]", NO_REFERENCES),
    "certificate": ("candidates.x + knowledge.certificate", 'add "certificate" to `needs`'),
    "auxiliary": ("knowledge.auxiliary.x", "knowledge.auxiliary is None: InversionAttack or StealingAttack alone"),
    "embeddings": ("knowledge.embeddings.attribute", "knowledge.embeddings is None: AttributeAttack alone"),
    "no file": ("open('weights.pt')", FILES),
    "no file of torch": ("torch.load('weights.pt')", FILES),
    "no folder": ("import os\nos.listdir('data')", FILES),
    "sibling": ("import helper", "a submission is one file: put what it needs of helper into it"),
    "sibling package": ("from helpers.deep import thing", "a submission is one file: put what it needs of helpers into it"),
    "not installed": ("import no_such_module", "no_such_module is not installed: install it where Leakboard is, or use what is there (torch,"),
}  # fmt: skip
INSIDE = {
    "device": ("candidates.x.cuda()", "name no device, and use knowledge.device"),
    "device named": ("torch.zeros(1, device='cuda')", "name no device, and use knowledge.device"),
    "file of the host": ("open('/etc/passwd')", FILES),
    "read-only": ("open('/leakboard/x', 'w')", FILES),
    "socket": ("import socket\nsocket.socket()", "a sandbox has no network and no sockets"),
    "download": ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/')", "a sandbox has no network"),
    "module of the host": ("import leakboard_on_the_path", "a sandbox is shown installed packages alone"),
}
NONE = {
    "its own None": "x = None\nx.shape",
    "its own attribute": "x = None\nx.members_of",
    "its own error": "{}['shadow']",
    "an assertion": "assert 1 > 2",
}


@pytest.fixture(scope="module")
def judge(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Runs a body as an attack's `score`, in a sandbox or here; returns the failure as its row would say it."""
    folder = tmp_path_factory.mktemp("hints")
    for kind in ("attacks", "defenses"):
        (folder / kind / "helpers").mkdir(parents=True)
    (folder / "attacks" / "helper.py").write_text("x = 1")
    (folder / "attacks" / "helpers" / "deep.py").write_text("thing = 1")
    (folder / "path").mkdir()
    (folder / "path" / "leakboard_on_the_path.py").write_text("x = 1")
    text = (SUBMISSIONS / "defenses" / "undefended.py").read_text()
    (folder / "defenses" / "undefended.py").write_text(text)
    modes = {m: Isolation(m, launcher) for m in ("always", "never")}  # type: ignore[arg-type]

    def run(body: str, mode: str, declared: str = "", base: str = "Attack", method: str = SCORE) -> work.Done:
        body = textwrap.indent(body, " " * 8)
        path = folder / "attacks" / "mine.py"
        path.write_text(FILE.format(base=base, declared=declared, method=method, body=body))
        registry = Registry(folder)
        artifacts = Artifacts(
            protocol.load("smoke"), registry, Store(folder / "store"), torch.device("cpu"), modes[mode]
        )
        try:
            with pytest.raises((Exception, SystemExit)) as error:
                kinds.scenario(artifacts, registry.attack("mine"), artifacts.chain("undefended"), 0).score()
        finally:
            artifacts.end_job()
        return work._failed(ScenarioJob(id="x", defense="undefended", seed=0), error.value, registry)

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "path")
        yield run
    for isolation in modes.values():
        isolation.close()


def line_of(body: str) -> str:
    return f"(mine.py, line {16 + body.count(chr(10))}, in score)"


@pytest.mark.parametrize("mode", ["always", "never"])
@pytest.mark.parametrize("case", BOTH)
def test_a_crash_names_its_line_and_what_helps(judge: Any, case: str, mode: str) -> None:
    body, wanted = BOTH[case]
    done = judge(body, mode)
    assert wanted in done.error, done.error
    assert line_of(body) in done.error or "lambda" in body
    last = body.splitlines()[-1]
    assert re.match(rf"mine\.py, line \d+, in score: {re.escape(last)}\n", done.log), done.log
    assert "benchmark/" not in done.log, "none of the judge's frames"


@pytest.mark.parametrize("case", INSIDE)
def test_what_a_sandbox_lacks_is_said(judge: Any, case: str) -> None:
    body, wanted = INSIDE[case]
    done = judge(body, "always")
    assert wanted in done.error and line_of(body) in done.error, done.error


@pytest.mark.parametrize("mode", ["always", "never"])
@pytest.mark.parametrize("case", NONE)
def test_other_errors_get_their_line_and_no_hint(judge: Any, case: str, mode: str) -> None:
    assert judge(NONE[case], mode).error.endswith(line_of(NONE[case]))


@pytest.mark.parametrize("mode", ["always", "never"])
def test_what_is_declared_is_not_asked_for(judge: Any, mode: str) -> None:
    done = judge("(knowledge.shadow, None)[1].members", mode, declared='needs = frozenset({"shadow"})')
    assert done.error.endswith(line_of(""))


def test_a_defense_is_told_of_its_own_device() -> None:
    from benchmark.sandbox.hints import hint

    entry: Any = SimpleNamespace(kind="defense")
    assert hint("AssertionError", "Torch not compiled with CUDA enabled", "", entry).endswith(
        "use training.device or context.device"
    )
    assert hint("AttributeError", "'NoneType' object has no attribute 'members'", "", entry) == ""


@pytest.mark.parametrize("text", ["No module named '__import__(1)'", "No module named '../x'", "No module named 'a b'"])
def test_no_text_of_a_submission_is_looked_up_but_a_name(text: str) -> None:
    from benchmark.sandbox.hints import hint

    assert hint("ModuleNotFoundError", text, "", SimpleNamespace(kind="attack")) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["always", "never"])
def test_the_way_through_libraries_is_short(judge: Any, mode: str) -> None:
    body = "def deeper(n):\n    return deeper(n - 1) if n else torch.nn.functional.cross_entropy(candidates.x, candidates.y[:1])\ndeeper(30)"
    done = judge(body, mode)
    lines = done.log.splitlines()
    assert lines[0] == "mine.py, line 18, in score: deeper(30)" and len(lines) == 9 and "calls" in lines[4]
    assert "(mine.py, line 17, in deeper)" in done.error


@pytest.mark.parametrize("mode", ["always", "never"])
@pytest.mark.parametrize(
    "raised",
    [
        r"raise ValueError('\udcff\udc80 ' + '\x1b[2J')",
        r"raise ValueError(b'\xff\xfe'.decode('utf-8', 'surrogateescape'))",
        "class Odd(Exception):\n    def __str__(self): return 1\nraise Odd",
        "class Odd(Exception):\n    def __str__(self): raise KeyError\nraise Odd",
        r"exec(compile('1 / 0', '\udcff\x1b[2J.py', 'exec'), globals())",
        "globals()['__leakboard_text__'] = '\\x1b[2J\\n' * 99\nraise ValueError",
        "globals()['__name__'] = '\\x1b[2J'\nraise ValueError",
        "raise SystemExit(b'\\xff')",
    ],
)
def test_messages_that_are_no_text_harm_nobody(judge: Any, raised: str, mode: str) -> None:
    done = judge(raised, mode)
    assert done.status == "failed" and done.error.isprintable() and 0 < len(done.error) <= 500
    assert all(c.isprintable() or c == "\n" for c in done.log)


def test_only_the_submissions_lines_count() -> None:
    with pytest.raises(KeyError) as error:
        raise KeyError("x")
    assert own_line(error.value) == ("", "") and trace(error.value) == ""
    assert error_line("KeyError", "'x'") == "KeyError: 'x'"
    assert error_line("MemoryError", "") == "MemoryError"
