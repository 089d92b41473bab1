"""Memory of a tree of processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmark.sandbox import memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MB = 1 << 20

FORKS = """
import os, sys
hoard = bytearray(os.urandom(1)) * (200 << 20)
children = []
for _ in range(3):
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    children.append(child)
print(*children, flush=True)
input()
"""


def test_memory_that_forks_share_counts_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        children = [int(child) for child in process.stdout.readline().split()]
        pids = list(memory.tree(process.pid))
        assert pids[0] == process.pid and sorted(pids[1:]) == sorted(children)
        assert 200 * MB < sum(map(memory.share, pids)) < 300 * MB
        assert sum(map(memory.own, pids)) > 750 * MB, "the quick sum is an upper bound"
        process.communicate("\n")


def test_a_process_that_has_ended_uses_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert list(memory.tree(process.pid)) == [process.pid]
    assert memory.own(process.pid) == memory.share(process.pid) == 0


def test_the_tree_of_this_process_starts_with_it() -> None:
    assert next(iter(memory.tree(os.getpid()))) == os.getpid()
    assert memory.own(os.getpid()) >= memory.share(os.getpid()) > 0
