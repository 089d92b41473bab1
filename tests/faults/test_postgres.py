"""PostgreSQL, started here on loopback, behind MLflow's server and Optuna: processes that score and tune at once."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from benchmark.run import tracking
from benchmark.run.tracking import fetch_results
from leaderboard import tables
from tests.conftest import SUBMISSIONS, Home
from tests.faults.servers import Server, free_port

pytestmark = pytest.mark.slow

PASSWORD = "loopback"
ATTACKS = ("random_scores", "loss", "metric_conf", "metric_corr", "metric_ment")
TRIALS = 5


def programs() -> Path:
    """The folder of PostgreSQL's newest programs; without them the test is skipped."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    other = shutil.which("initdb")
    if not found and not other:
        pytest.skip("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    return (found[-1] if found else Path(str(other))).parent


@pytest.fixture
def postgres() -> Iterator[str]:
    """Its address without a database's name. It never runs as root, so its folder lies where others may look."""
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    own: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="leakboard-postgres-"))
    try:
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            own = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(folder, user.pw_uid, user.pw_gid)
        bin, port = programs(), free_port()
        secret = folder / "password"
        secret.write_text(PASSWORD)
        quiet = own | {"stdout": subprocess.DEVNULL, "cwd": folder}
        how = ("--username", "leakboard", "--auth", "scram-sha-256", "--pwfile", secret, "--no-sync")
        subprocess.run([bin / "initdb", "--pgdata", folder / "data", *how], check=True, **quiet)
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([bin / "postgres", "-D", folder / "data", *options], stderr=log, **quiet)
        try:
            for _ in range(600):
                asked = subprocess.run([bin / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], check=False, **quiet)
                if asked.returncode == 0:
                    break
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            yield f"postgresql://leakboard:{PASSWORD}@127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGINT)  # a fast shutdown: it waits for no client
            server.wait(60)
    finally:
        shutil.rmtree(folder)


def create(address: str, *names: str) -> None:
    import psycopg

    with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
        for name in names:
            connection.execute(f"CREATE DATABASE {name}")


def test_four_processes_score_and_tune_at_once(home: Home, postgres: str) -> None:
    """Nothing is lost and nothing is there twice: results by key, trials by number, parents by name."""
    create(postgres, "mlflow", "optuna")
    for kind, names in (("attacks", ATTACKS), ("defenses", ("label_smoothing",))):
        for name in names:
            shutil.copy(SUBMISSIONS / kind / f"{name}.py", home.submissions / kind)
    chosen = home.protocol(attacks=list(ATTACKS), defenses=["undefended", "label_smoothing"])
    storage = f"{postgres}/optuna"
    home.patch.setenv("LEAKBOARD_OPTUNA", storage)
    server = Server(home.folder, free_port(), f"{postgres}/mlflow")
    server.start()
    try:
        home.patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        home.patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
        score = ("run", "--protocol", chosen, "--workers", "1")
        tune = (
            "tune",
            "label_smoothing",
            "--protocol",
            chosen,
            "--trials",
            str(TRIALS),
            "--workers",
            "1",
            "--attack",
            "loss",
        )
        started = [home.start(*command) for command in (score, tune, score, tune)]
        for process in started:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err

        results = [r for r in home.results().values() if r.protocol == "smoke"]
        assert len(results) == 2 * (1 + len(ATTACKS)) and {r.status for r in results} == {"ok"}
        logged = Counter(r.key for r in fetch_results("smoke"))
        assert logged == Counter(r.key for r in results), "each result is one run"
        client = tracking.connect()
        runs = client.search_runs([client.get_experiment_by_name("smoke").experiment_id])
        assert Counter(r.data.tags["defense"] for r in runs if r.data.tags["leakboard.kind"] == "entry") == {
            "undefended": 1, "label_smoothing": 1,
        }  # fmt: skip
        assert {r.info.status for r in runs} == {"FINISHED"}

        study = optuna.load_study(study_name=None, storage=storage)
        finished = {t.number for t in study.trials if t.state.is_finished()}
        assert TRIALS <= len(finished) <= TRIALS + 1, "two commands may begin the last one together"
        assert {t.state for t in study.trials} <= {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.WAITING}
        tuned = client.search_runs([client.get_experiment_by_name("smoke.tuning").experiment_id])
        (parent,) = (r.info.run_id for r in tuned if r.data.tags["leakboard.kind"] == "study")
        trials = [r for r in tuned if r.data.tags["leakboard.kind"] == "trial"]
        assert Counter(int(r.data.tags["leakboard.trial"]) for r in trials) == Counter(finished)
        assert {r.data.tags["mlflow.parentRunId"] for r in trials} == {parent}
        assert {r.info.status for r in tuned} == {"FINISHED"}

        source = tables.Source("smoke", home.folder / "published", tables._fetch, tables._gone)
        source.refresh()
        assert Counter(r.key for r in source.results) == logged and source.message == "", "the board reads it all"
        client.delete_run(source.results[0].provenance["run_id"])
        source._check_at = 0
        assert source.refresh() and len(source.results) == len(results) - 1
    finally:
        server.kill()
