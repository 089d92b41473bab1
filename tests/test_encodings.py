"""Files are UTF-8 wherever they are read: what a locale makes of them would be part of keys, and end commands."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.run import checks
from benchmark.sandbox import memory

ROOT = Path(__file__).resolve().parent.parent


def unsaid(path: Path) -> Iterator[str]:
    """Calls that read or write text in the encoding of the locale."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = {k.arg: k.value for k in node.keywords}
        mode = ast.unparse(words.get("mode", node.args[1] if len(node.args) > 1 else ast.Constant("r")))
        text = {
            "read_text": not node.args,
            "write_text": len(node.args) < 2,
            "open": isinstance(node.func, ast.Name) and "b" not in mode,
            "fdopen": "b" not in mode,
            "run": bool({"text", "universal_newlines"} & words.keys()),
            "Popen": bool({"text", "universal_newlines"} & words.keys()),
        }
        if text.get(name) and "encoding" not in words:
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:80]}"


def test_no_file_is_read_in_the_encoding_of_the_locale() -> None:
    files = [p for folder in ("benchmark", "leaderboard") for p in (ROOT / folder).rglob("*.py")]
    assert len(files) > 60
    assert [line for path in files for line in unsaid(path)] == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", [b"\xff\xfe", "\u2028RssAnon: 9".encode(), b"\xc2\x85RssAnon: x", b"a) S 1 1"])
def test_a_process_may_have_any_name(name: bytes) -> None:
    """What it uses is counted all the same: neither bytes that are no text nor lines of its own end or change it."""
    code = f"open('/proc/self/comm', 'wb').write({name!r}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert name[:15] in Path(f"/proc/{process.pid}/status").read_bytes()
        page = os.sysconf("SC_PAGE_SIZE")
        shared, resident = (int(Path(f"/proc/{process.pid}/statm").read_bytes().split()[i]) * page for i in (2, 1))
        assert memory.own(process.pid) == pytest.approx(resident - shared, abs=1 << 20)
        assert checks._memory_mb() > 0
        process.communicate(b"\n")
