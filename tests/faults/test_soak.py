"""A few faults on the smallest protocol; `make soak` is ten minutes of them on digits-v2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.soak import soak


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_few_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("LEAKBOARD_")]:
        monkeypatch.delenv(name)
    counts = soak("smoke", seconds=0, every=2, seed=0, folder=tmp_path / "soak", least=4)
    assert counts.total() - counts["completed"] >= 4
