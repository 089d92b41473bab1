"""The way from a plan to a result: down through the rooms, each once, and up again only by what the contract hands out."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from benchmark.run.execute import execute, on_this_machine
from leakboard import score
from tests.conftest import ROOT, SUBMISSIONS

FLOORS = {
    "run": 7,
    "judge": 6,
    "targets": 5,
    "sandbox": 4,
    "data": 3,
    "networks": 3,
    "entries": 3,
    "submissions": 2,
    "api": 1,
}
"""Rooms from above; the vocabulary is everywhere."""
HANDED_OUT = {
    ("networks", "targets", "<lambda>"),  # a target behind its access level asks the model that is served
    ("api", "networks", "build"),  # the contract's defaults use the training that the judge hands in
    ("submissions", "networks", "log_posteriors"),  # an attack asks its target
}
"""Calls upwards or aside, from room to room: objects of the judge's that a submission, or a target, was given."""


def room(frame: FrameType) -> str:
    """The room of the code that runs; "" outside of the house."""
    try:
        parts = Path(frame.f_code.co_filename).relative_to(ROOT).parts
    except ValueError:
        return ""
    name = parts[1] if parts[0] == "benchmark" and len(parts) > 2 else parts[0]
    return name if name in FLOORS else ""


@pytest.mark.usefixtures("inline")
def test_a_result_is_made_on_one_way_down(tmp_path: Path) -> None:
    calls: set[tuple[str, str, str]] = set()
    reached: set[str] = set()

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not (here := room(frame)):
            return
        reached.add(here)
        caller = frame.f_back
        while caller is not None and not room(caller):
            caller = caller.f_back
        if caller is not None and room(caller) != here:
            calls.add((room(caller), here, frame.f_code.co_name))

    job = score.prepare(["loss"], "smoke", SUBMISSIONS, tmp_path, "cpu")
    sys.setprofile(look)
    try:
        results = list(execute(job.plan, job.setting, on_this_machine(job.setting, 1), lambda *_: None))
    finally:
        sys.setprofile(None)
    assert [r.status for r in results] == ["ok"] * 2, "a utility and a scenario"
    assert reached == FLOORS.keys()
    upwards = {call for call in calls if FLOORS[call[1]] >= FLOORS[call[0]]}
    assert upwards == HANDED_OUT, "nothing else calls a room that lies above or beside it"
