"""Digests of code are the same wherever the code is read: keys are made of them, and published rows hold keys."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.digests import code_digest

ROOT = Path(__file__).resolve().parent.parent
DIGESTS = {
    "tests/fixtures/digests/expressions.py": "b249c47cacdeb93d7055b1d3f67eda02548ce268",
    "tests/fixtures/digests/statements.py": "f08267ef7561ac4a7b2d1bdd8b03baf6ccdb7c91",
    "submissions/attacks/loss.py": "defbca40b22aa97d77616d2ffeffcba43d7a272e",
    "submissions/attacks/quantile_regression.py": "e3f7bd3f91d984bb55573782595f9f8fb7df283b",
    "submissions/defenses/diffence.py": "e9fd226bb5d242bf0ada5463d6c4ffeb5e2a839a",
    "submissions/defenses/undefended.py": "419a4a869dd96ef6b8f33e733b705297f7a21a42",
}
"""As Python 3.11 has always given them."""
OTHERS = sorted(
    {str(Path(p).resolve()) for m in range(11, 20) if (p := shutil.which(f"python3.{m}")) and "shims" not in p}
    | {str(path.resolve()) for path in Path.home().glob(".pyenv/versions/3.1[1-9]*/bin/python")}
)
CODE = """
import json, sys
from pathlib import Path
from benchmark.digests import code_digest
print(json.dumps({name: code_digest(Path(name)) for name in sys.argv[1:]}))
"""


@pytest.mark.parametrize("name", DIGESTS)
def test_digests_of_code_stay_as_they_are(name: str) -> None:
    assert code_digest(ROOT / name) == DIGESTS[name]


@pytest.mark.parametrize("python", [sys.executable, *OTHERS])
def test_every_python_gives_the_same_digests(python: str) -> None:
    """Of each version that is installed here, on the standard library alone, where texts are not UTF-8 by default."""
    environment = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    command = [python, "-S", "-W", "ignore", "-c", CODE, *DIGESTS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout) == DIGESTS
