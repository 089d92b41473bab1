"""Runs a protocol under a random fault every few seconds, again and again; a clean call must then end as if none had been.

    python -m tests.faults.soak [--protocol digits-v2] [--seconds 600] [--every 4] [--seed N] [--folder DIR]

A clean run in a store of its own is the measure. Then `leakboard run` works against a real MLflow server while
processes are killed or stopped, bytes of the store flipped, the store made read-only, the server killed, and
second runs started beside the first; a run that completes is compared and starts over in a fresh store. In the
end, with all faults over, one call completes what is there. Every record (all metrics, intervals, curves, nulls)
and every table must equal the clean run's, and MLflow must hold each scenario once. Linux; with the right to
mount, the read-only store is a read-only file system.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmark.result import Result
from benchmark.run import tracking
from benchmark.targets.store import Store
from tests.faults.servers import Server, free_port

ROOT = Path(__file__).resolve().parents[2]
COSTS = ("seconds", "train_seconds", "train_ratio", "peak_mb", "ms_per_query", "ms_per_query_alone")
APART = {"cost", "finished", "provenance"}


@dataclass
class Place:
    """A store, an MLflow and the processes that use them, in one folder."""

    folder: Path
    protocol: str
    server: Server | None = None
    runs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def environment(self) -> dict[str, str]:
        address = self.server.uri if self.server else f"sqlite:///{self.folder}/mlflow.db"
        names = {
            "STORE": str(self.store),
            "PUBLISHED": str(self.folder / "published"),
            "SUBMISSIONS": str(ROOT / "submissions"),
        }
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
        own = {f"LEAKBOARD_{name}": value for name, value in names.items()} | threads
        return os.environ | own | {"MLFLOW_TRACKING_URI": address, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "leakboard", "run", "--protocol", self.protocol, "--workers", "2"]
        with (self.folder / "run.log").open("ab") as log:
            run = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.runs.append(run)
        return run

    def call(self, *arguments: str) -> str:
        """One call from start to end; it must succeed."""
        command = [sys.executable, "-m", "leakboard", *arguments, "--protocol", self.protocol]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode or "are kept" in done.stdout:
            raise AssertionError(
                f"{' '.join(arguments)}: code {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
            )
        return done.stdout

    def end(self) -> None:
        """Kill whatever still runs."""
        for run in self.runs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGCONT)
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        self.runs.clear()

    def records(self) -> dict[tuple[str, str, int], Result]:
        """Every stored result by attack, defense and seed."""
        paths = self.store.glob("result/*/*.json")
        return {(r.attack, r.defense, r.seed): r for p in paths if (r := Store(self.store).result(p.stem))}

    def tables(self) -> dict[str, pd.DataFrame]:
        """The published tables, without what they cost."""
        self.call("publish")
        found = sorted((self.folder / "published" / self.protocol).glob("*.csv"))
        return {p.name: pd.read_csv(p).drop(columns=list(COSTS), errors="ignore") for p in found}

    def logged(self) -> list[Any]:
        """MLflow's runs of scenarios that have succeeded or are unfinished."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", self.environment["MLFLOW_TRACKING_URI"])
            client = tracking.connect()
            experiment = client.get_experiment_by_name(self.protocol).experiment_id
            query = "tags.`leakboard.kind` = 'scenario' and attributes.status != 'FAILED'"
            found, token = [], None
            while True:
                page = client.search_runs([experiment], query, max_results=500, page_token=token)
                found, token = [*found, *page], page.token
                if not token:
                    return found


def check(clean: Place, place: Place) -> None:
    """Records, tables and MLflow's runs of a completed place against the clean one's. Raises AssertionError."""
    wanted, given = clean.records(), place.records()
    assert wanted.keys() == given.keys(), wanted.keys() ^ given.keys()
    for name, result in wanted.items():
        assert result.model_dump(exclude=APART) == given[name].model_dump(exclude=APART), name
    tables = place.tables()
    for name, table in clean.tables().items():
        pd.testing.assert_frame_equal(table, tables[name], obj=name)
    runs = place.logged()
    assert {r.info.status for r in runs} == {"FINISHED"}
    keys = Counter(r.data.tags["leakboard.key"] for r in runs)
    assert keys == Counter(r.key for r in wanted.values()), keys - Counter(r.key for r in wanted.values())
    for run in runs:
        result = Result.from_json(run.data.tags[tracking.RECORD])
        stored = given[result.attack, result.defense, result.seed]
        held = stored.model_copy(update={"pictures": {}})  # MLflow has them as images
        assert result.model_dump(exclude=APART) == held.model_dump(exclude=APART), result.key


class Faults:
    """What may go wrong; each method is one fault, and leaves a machine that works again."""

    def __init__(self, place: Place, draw: random.Random, mounting: bool) -> None:
        self.place, self.draw, self.mounting = place, draw, mounting

    def kill_run(self) -> str:
        """The command alone: its workers must end by themselves."""
        run = self.draw.choice(self.place.runs)
        run.kill()
        return f"process {run.pid}"

    def kill_worker(self) -> str:
        return self._kill(1)

    def kill_child_of_a_worker(self) -> str:
        return self._kill(2)

    def pause_worker(self) -> str:
        victims = self._below(1)
        if not victims:
            return "none there"
        victim = self.draw.choice(victims)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGSTOP)
            time.sleep(self.draw.uniform(0.5, 2))
            os.kill(victim, signal.SIGCONT)
        return f"process {victim}"

    def flip_byte(self) -> str:
        files = sorted(p for p in self.place.store.rglob("*") if p.is_file())
        if not files:
            return "none there"
        path = self.draw.choice(files)
        with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
            size = path.stat().st_size
            if size:
                file.seek(self.draw.randrange(size))
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 1 << self.draw.randrange(8)]))
        return str(path.relative_to(self.place.store))

    def read_only_store(self) -> str:
        with read_only(self.place.store, self.mounting) as done:
            time.sleep(self.draw.uniform(0.5, 3))
        return done

    def kill_mlflow(self) -> str:
        assert self.place.server
        self.place.server.kill()
        time.sleep(self.draw.uniform(0, 3))
        self.place.server.start()
        return self.place.server.uri

    def second_run(self) -> str:
        if sum(run.poll() is None for run in self.place.runs) > 1:
            return "runs already"
        return f"process {self.place.start().pid}"

    def _kill(self, depth: int) -> str:
        victims = self._below(depth) or self._below(1)
        if not victims:
            return "none there"
        victim = self.draw.choice(victims)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        return f"process {victim}"

    def _below(self, depth: int) -> list[int]:
        """Processes that many generations below the runs."""
        parents = parents_of()
        level = {run.pid for run in self.place.runs if run.poll() is None}
        for _ in range(depth):
            level = {pid for pid, parent in parents.items() if parent in level}
        return sorted(level)


def parents_of() -> dict[int, int]:
    """The parent of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return found


@contextlib.contextmanager
def read_only(folder: Path, mounting: bool) -> Iterator[str]:
    """Nobody can write below the folder; with `mounting`, not even root. Yields what was done, in words."""
    if not mounting:
        folders = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
        for each in folders:
            each.chmod(0o500)
        try:
            yield "without the right to write, which root does not need" if os.geteuid() == 0 else "no right to write"
        finally:
            for each in folders:
                each.chmod(0o700)
        return

    def remount(how: str) -> bool:
        command = ["mount", "-o", f"remount,bind,{how}", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    # Linux refuses while a file is open for writing, a lock for one: look for a gap.
    end = time.monotonic() + 5
    while not (done := remount("ro")) and time.monotonic() < end:
        time.sleep(0.005)
    try:
        yield "mounted read-only" if done else "busy: locks were held for five seconds"
    finally:
        remount("rw")


@contextlib.contextmanager
def fresh(folder: Path, protocol: str, template: Path) -> Iterator[tuple[Place, bool]]:
    """An empty store on a mount of its own, where that is allowed, and a running server with an empty database."""
    folder.mkdir()
    shutil.copy(template, folder / "server.db")
    place = Place(folder, protocol, Server(folder, free_port()))
    place.store.mkdir()
    bound = subprocess.run(["mount", "--bind", place.store, place.store], capture_output=True, check=False)
    mounting = not bound.returncode
    assert place.server
    place.server.start()
    try:
        yield place, mounting
    finally:
        place.end()
        place.server.kill()
        if mounting:
            subprocess.run(["umount", "--lazy", place.store], check=False)


def soak(
    protocol: str,
    seconds: float,
    every: float,
    seed: int,
    folder: Path,
    tell: Callable[[str], None] = print,
    least: int = 0,
) -> Counter[str]:
    """Faults by name and how often each struck, and "completed": runs that ended well. Raises AssertionError.

    It goes on for `seconds`, and until `least` faults have struck: on a busy machine the restart of a server alone takes half a minute.
    """
    draw, start, counts = random.Random(seed), time.monotonic(), Counter[str]()
    tell(f"protocol {protocol}, seed {seed}, a fault every {every:g} s for {seconds:g} s, in {folder}")
    clean = Place(folder / "clean", protocol)
    clean.folder.mkdir(parents=True)
    template = folder / "empty.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{template}")
        tracking.connect().search_experiments()
    clean.call("run")
    tell(f"{time.monotonic() - start:6.1f} s  clean run: {len(clean.records())} records")
    names = [name for name in vars(Faults) if not name.startswith("_")]
    start = time.monotonic()
    generation = 0

    def going() -> bool:
        return time.monotonic() - start < seconds or counts.total() - counts["completed"] < least

    while going():
        generation += 1
        with fresh(folder / f"soak-{generation}", protocol, template) as (place, mounting):
            faults = Faults(place, draw, mounting)
            place.start()
            completed = False
            while going() and not completed:
                time.sleep(draw.uniform(0, 2 * every))
                name = draw.choice(names)
                counts[name] += 1
                tell(f"{time.monotonic() - start:6.1f} s  {name}: {getattr(faults, name)()}")
                for run in [r for r in place.runs if r.poll() is not None]:
                    place.runs.remove(run)
                    tell(f"{time.monotonic() - start:6.1f} s  process {run.pid} ended with code {run.returncode}")
                    assert run.returncode in (0, 1, 2, -signal.SIGKILL), last_lines(place)
                    completed |= run.returncode == 0
                if not place.runs and not completed:
                    place.start()
            place.end()
            place.call("run")
            check(clean, place)
            assert "Traceback" not in own_lines(place), last_lines(place)
            counts["completed"] += completed
            tell(
                f"{time.monotonic() - start:6.1f} s  store {generation}: {len(place.records())} records, as in the clean run"
            )
    tell(f"{sum(counts.values()) - counts['completed']} faults, {counts['completed']} runs completed under them: "
         f"{', '.join(f'{n} {k}' for k, n in sorted(counts.items()))}")  # fmt: skip
    return counts


def own_lines(place: Place) -> str:
    """What the runs said, without the complaints of Python's resource tracker.

    It is a child of the run, so it is killed too; the one that Python then starts doesn't know what the first had
    noted, and prints a KeyError for each semaphore that is let go.
    """
    text = (place.folder / "run.log").read_text(errors="replace")
    return re.sub(
        r"Traceback [^\n]+\n  File \"[^\"\n]+/resource_tracker\.py\"[^\n]+\n[^\n]+\nKeyError: '/[^\n]+\n", "", text
    )


def last_lines(place: Place) -> str:
    return (place.folder / "run.log").read_text(errors="replace")[-4000:]


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", default="digits-v2")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--every", type=float, default=4, help="mean seconds between two faults")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else int(time.time())
    folder = given.folder or Path(tempfile.mkdtemp(prefix="leakboard-soak-"))
    soak(given.protocol, given.seconds, given.every, seed, folder, lambda line: print(line, flush=True))
    if given.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
