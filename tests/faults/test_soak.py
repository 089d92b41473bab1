"""Half a minute of faults on the smallest protocol; `make soak` is ten minutes on digits-v2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.soak import soak


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_half_a_minute_of_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("LEAKBOARD_")]:
        monkeypatch.delenv(name)
    counts = soak("smoke", seconds=30, every=2, seed=0, folder=tmp_path / "soak")
    assert sum(counts.values()) >= 3
