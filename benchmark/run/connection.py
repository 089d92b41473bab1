"""The way to MLflow: its address, its database, its experiments, and what may be said of them.

MLflow stores the places of artifacts as whole paths. Here they lie beside their database, and follow it: a
project that was moved or copied writes into its own folder (`_settle`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import sqlite3
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from benchmark import places
from benchmark.addresses import secrets, shown, sqlite_address, sqlite_file
from benchmark.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

KIND = "leakboard.kind"
VIEW = "leakboard"
"""The name of the view that an experiment opens with from Leakboard's links."""
SHARED = f"mlflow.sharedViewState.{VIEW}"
"""The tag that holds it."""
BOARD = (
    "worst_auc", "worst_auc_low", "worst_auc_high", "worst_tpr_at_fpr_0.01", "test_accuracy", "train_seconds", "ms_per_query",
)  # fmt: skip
"""The metrics of entries that are columns of the view; the first sorts it."""
STUDIES = ("test_accuracy", "worst_case")
"""And those of trials."""
_TRAINING = "workflowType=machine_learning"
"""Of an address in MLflow's UI: it shows training runs, not what it has for language models."""


class Unreachable(ConnectionError):
    """MLflow did not answer; nothing is lost."""


def uri() -> str:
    """The address of MLflow; of an SQLite database with its whole path, as `places.tracking` has it.

    Raises UserError for one that cannot be read, and for a database in memory, which would lose what is logged.
    """
    address = places.tracking()
    file = sqlite_file(address)
    if file is None:
        if address.lower().startswith("sqlite"):
            raise UserError("MLFLOW_TRACKING_URI: expected a database in a file (sqlite:///FILE), given one in memory")
        return address
    if "///file:" in address:  # SQLite's own address within; what it says of reading and writing stays
        return _driven(address)
    return _driven(sqlite_address(file.absolute(), address))


def _driven(address: str) -> str:
    """MLflow makes the folder of an address as it is written, percent signs and all; of one with a driver none."""
    literal = "%" not in address.split("?")[0] and "///file:" not in address
    return address if literal else re.sub("^sqlite:", "sqlite+pysqlite:", address)


def said(problem: BaseException) -> str:
    """An error of MLflow or of a store of its, in one line of 200 characters, without addresses' passwords."""
    text = shown(" ".join(str(problem).split()))
    if "readonly database" in text:
        text = f"this user may not write to {database() or 'the database'}"
    # Libraries may show a password without its address.
    names = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    hidden = {*(os.environ.get(name, "") for name in names), *secrets(os.environ.get("MLFLOW_TRACKING_URI", ""))}
    for secret in sorted(hidden, key=len, reverse=True):
        text = text.replace(secret, "***") if len(secret) > 2 else text
    return text[:200]


def database() -> Path | None:
    """The file of MLflow's SQLite database; None where it is another database, or a server."""
    file = sqlite_file(places.tracking())
    return file.absolute() if file else None


def folder() -> Path:
    """Where Leakboard's files lie that belong to this MLflow: beside its database, or the project's mlruns/."""
    file = database()
    return file.parent.resolve() if file else places.mlruns()


def connect() -> MlflowClient:
    """A client of `uri()`. A server gets one quick try, so that a dead one costs seconds, not minutes.

    And a run is created once: a request that is sent again because its answer was late would leave a second one.
    """
    for name, value in {"MAX_RETRIES": "0", "TIMEOUT": "10"}.items():
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="mlflow")
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)  # its import has set it to INFO
    address, file = uri(), database()
    if file:
        _create_database(file)
    _check_schema(address)
    if file:
        _settle(file)
    return MlflowClient(address)


@functools.cache
def _check_schema(address: str) -> None:
    """Raises Unreachable where an older MLflow made this database: MLflow would migrate it unasked."""
    if not address.startswith(("sqlite", "postgresql", "mysql", "mssql")):
        return
    import mlflow
    from sqlalchemy import create_engine, inspect, text

    engine = create_engine(address)
    with engine.connect() as connection:
        known = "alembic_version" in inspect(connection).get_table_names()
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if known else None
    engine.dispose()
    migrations = (Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions").glob("*.py")
    pattern = rf"^down_revision\b.*{re.escape(str(found))}"
    if found and any(re.search(pattern, path.read_text(encoding="utf-8"), re.M) for path in migrations):
        where = shown(address)
        raise Unreachable(
            f"{where} was made by an older MLflow (schema {str(found)[:40]}); back it up, then: mlflow db upgrade {where}"
        )


def _create_database(path: Path) -> None:
    """Make MLflow's tables where there are none; a command that is killed meanwhile leaves no half of them."""
    from mlflow import MlflowClient

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            new = path.with_name(f"{path.name}.new")
            new.unlink(missing_ok=True)
            MlflowClient(_driven(sqlite_address(new))).search_experiments(max_results=1)
            new.replace(path)


def _settle(file: Path) -> None:
    """Have the artifacts of Leakboard's experiments lie beside this database, where it was moved or copied.

    Runs are found where their files are: here where they came along, and where they were if only the database did.
    Nothing is done where this user may not write to the database: then nothing is logged either.
    """
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(file, timeout=60)) as connection:
        known = connection.execute("SELECT experiment_id, name, artifact_location FROM experiments").fetchall()
        for number, name, location in known:
            here = _place(str(name))
            if location != here and _ours(connection, number, str(name), str(location)):
                with connection:
                    _move(connection, number, str(location), here)


def _ours(connection: sqlite3.Connection, number: int, name: str, location: str) -> bool:
    """Whether Leakboard has made this experiment: its artifacts lie as ours do, and it has runs of ours."""
    if not location.startswith("file:") or _path(location).parts[-2:] != ("artifacts", name):
        return False
    query = "SELECT 1 FROM runs JOIN tags USING (run_uuid) WHERE experiment_id = ? AND key = ? LIMIT 1"
    return connection.execute(query, (number, KIND)).fetchone() is not None


def _move(connection: sqlite3.Connection, number: int, old: str, new: str) -> None:
    query = """SELECT run_uuid, artifact_uri, EXISTS (
        SELECT 1 FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = ? AND value IN ('scenario', 'trial'))
        FROM runs WHERE experiment_id = ?"""
    moved = []
    for run, place, finished in connection.execute(query, (KIND, number)).fetchall():
        if not str(place).startswith(f"{old}/"):
            continue
        now = new + str(place).removeprefix(old)
        # Nothing is written any more to what is finished; to the others it is, and never into another folder.
        if not finished or os.path.exists(_path(now)) or not os.path.exists(_path(place)):
            moved.append((now, run))
    connection.executemany("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", moved)
    connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, number))


def _path(location: str) -> Path:
    return Path(url2pathname(urlsplit(location).path))


def _place(name: str) -> str:
    """Where the artifacts of an experiment lie."""
    return (folder() / "artifacts" / name).as_uri()


def experiment(client: MlflowClient, name: str, columns: tuple[str, ...] = BOARD) -> str:
    """The id of an experiment, which is made where there is none, and shown as training runs with these columns.

    Raises Unreachable where its artifacts lay in a folder of this machine that is gone.
    """
    found = client.get_experiment_by_name(name)
    local = not uri().lower().startswith("http")
    if found is None:
        if local:
            (folder() / "artifacts" / name).mkdir(parents=True, exist_ok=True)
        number = str(client.create_experiment(name, artifact_location=_place(name) if local else None))
    else:
        number, place = str(found.experiment_id), str(found.artifact_location)
        if local and not database() and place.startswith("file:") and not os.path.isdir(_path(place).parent):
            raise Unreachable(
                f"the artifacts of {name} lay in {_path(place)}, which is gone: was the project moved? Make that folder again"
            )
    tags = found.tags if found else {}
    wanted = {
        "mlflow.experimentKind": "custom_model_development",
        # The one text that MLflow shows as Markdown: nothing foreign belongs in it.
        "mlflow.note.content": f"[Compare what is logged of {name} by its metrics](#{view(number)})",
        SHARED: _view(columns),
    }
    for key, value in wanted.items():
        if key not in tags:
            client.set_experiment_tag(number, key, value)
    return number


def view(number: str) -> str:
    """The part of an address of MLflow's UI, behind #, that opens an experiment with the view that Leakboard made."""
    return f"/experiments/{number}/runs?{_TRAINING}&viewStateShareKey={VIEW}"


def _view(columns: tuple[str, ...]) -> str:
    """The state of the UI that shows these metrics as a table."""
    kind = "entry" if columns == BOARD else "trial"
    state: dict[str, Any] = {
        "searchFilter": f"tags.`{KIND}` = '{kind}'", "orderByKey": f"metrics.`{columns[0]}`", "orderByAsc": kind == "entry",
        "selectedColumns": [f"metrics.`{c}`" for c in columns],
    }  # fmt: skip
    return json.dumps(state)
