"""The wheel, installed elsewhere: every command works from an empty folder, whatever its name and the locale."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip wheel .` packs, unpacked: the wheel holds nothing that an installer would change."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("benchmark", "leaderboard", "leakboard", "submissions", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name  # a copy, for building leaves files behind
        if source.is_dir():
            shutil.copytree(source, folder / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / "tree")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w"]
    subprocess.run([*command, folder, folder / "tree"], check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


class Shell:
    """The command in an empty folder, with the wheel and nothing of the checkout, from a locale that is not UTF-8."""

    def __init__(self, site: Path, folder: Path) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LEAKBOARD_", "MLFLOW_", "LC_", "LANG"))}
        own = {"PYTHONPATH": str(site), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8", "COLUMNS": "120"}
        self.environment = kept | own | {"OMP_NUM_THREADS": "1", "LEAKBOARD_WORKERS": "1"}
        self.folder = folder

    def run(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "leakboard", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    @property
    def files(self) -> set[str]:
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def shell(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """`smoke` is scored, with an attack of the user's own."""
    folder = tmp_path_factory.mktemp("home") / "un projét"
    folder.mkdir()
    shell = Shell(site, folder)
    assert "random_scores" in shell.run("list") and shell.files == set(), "listing writes nothing"
    shell.run("new", "attack", "mine")
    assert shell.files == {"submissions/attacks/mine.py"}
    shell.run("run", "mine", "--protocol", "smoke", "--trust")
    return shell


def test_the_package_itself_is_used(site: Path, shell: Shell) -> None:
    command = "import benchmark, leaderboard; from benchmark import places; print(benchmark.__file__, leaderboard.__file__, places.baselines())"
    done = subprocess.run([sys.executable, "-c", command], cwd=shell.folder, env=shell.environment, capture_output=True, check=True, encoding="utf-8")  # fmt: skip
    assert done.stdout.split() == [f"{site}/benchmark/__init__.py", f"{site}/leaderboard/__init__.py", f"{site}/submissions"]  # fmt: skip


def test_an_entry_of_ones_own_meets_the_baselines(shell: Shell) -> None:
    again = shell.run("run", "--protocol", "smoke")
    assert re.search(r"\d trained|\d reused", again) and "loss" in again
    (found,) = (shell.folder / "submissions").rglob("*.py")
    assert found.name == "mine.py", "baselines stay with the package"


def test_publish_joins_what_comes_with_the_package_and_reproduce_finds_it(site: Path, shell: Shell) -> None:
    before = {p: p.read_bytes() for p in site.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    shell.run("publish", "--protocol", "smoke")
    assert "leaderboard/published/smoke/scenarios.parquet" in shell.files
    assert "published rows compared" in shell.run("reproduce", "--protocol", "smoke")
    assert "published rows compared" in shell.run("reproduce", "--protocol", "digits-v2")
    after = {p: p.read_bytes() for p in site.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert after == before, "nothing is written beside the package"


def test_a_moved_project_is_found_whole(shell: Shell, tmp_path: Path) -> None:
    """Moved and begun in a folder below: nothing is scored again, nothing is written where it was."""
    moved = tmp_path / "moved"
    shutil.copytree(shell.folder, moved)
    (moved / "below").mkdir()
    before = shell.files
    there = Shell(Path(shell.environment["PYTHONPATH"]), moved / "below")
    assert re.search(r": 0 scenarios to score", there.run("run", "mine", "--protocol", "smoke", "--dry-run", "--trust"))
    there.run("publish", "--protocol", "smoke")
    assert (moved / "leaderboard" / "published" / "smoke").is_dir()
    assert shell.files == before and not there.files


@pytest.fixture
def board(shell: Shell) -> Iterator[str]:
    """The app as `leakboard board` starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "leakboard", "board", "--port", str(port)]
    process = subprocess.Popen(command, cwd=shell.folder, env=shell.environment, stdout=subprocess.DEVNULL)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


def test_the_board_opens(board: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{board}/_stcore/health", timeout=2) as answer:
                assert answer.read() == b"ok"
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_the_theme_lies_where_streamlit_looks(shell: Shell, site: Path) -> None:
    look = "from streamlit import config; config._main_script_path = PATH; print(config.get_option('theme.baseRadius'))"
    command = [sys.executable, "-c", look.replace("PATH", repr(str(site / "leaderboard" / "app.py")))]
    done = subprocess.run(command, cwd=shell.folder, env=shell.environment, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "small"
