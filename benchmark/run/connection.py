"""The connection to MLflow: its address, its database, its experiments, and errors without passwords.

MLflow stores the locations of artifacts as absolute paths. Leakboard keeps artifacts beside the database and corrects
the paths when a project was moved or copied, so that it writes into its own folder (`_relocate_artifacts`).
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
"""The name of the view in MLflow's UI that Leakboard's links open an experiment with."""
SHARED = f"mlflow.sharedViewState.{VIEW}"
"""The experiment's tag that holds this view."""
BOARD = (
    "worst_auc", "worst_auc_low", "worst_auc_high", "worst_tpr_at_fpr_0.01", "test_accuracy", "train_seconds", "ms_per_query",
)  # fmt: skip
"""Columns of the view of a board's experiment: metrics of its entries. The first sorts the table."""
STUDIES = ("test_accuracy", "worst_case")
"""Columns of the view of a tuning experiment: metrics of its trials."""
AUDITS = (
    "worst_auc", "worst_auc_low", "worst_auc_high", "worst_tpr_at_fpr_0.01", "p", "test_accuracy", "epsilon_lower",
)  # fmt: skip
"""Columns of the view of the experiment of audits: metrics of its runs."""
_SHOWN = {BOARD: "entry", STUDIES: "trial", AUDITS: "audit"}
"""The kind of run that each view lists."""
_TRAINING = "workflowType=machine_learning"
"""Query of an address in MLflow's UI: show the pages for training runs, not those for language models."""


class Unreachable(ConnectionError):
    """MLflow did not answer. Nothing is lost: what could not be logged is logged later."""


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
    if "///file:" in address:  # a URI of SQLite's own inside the address: its options for reading and writing are kept
        return _with_driver(address)
    return _with_driver(sqlite_address(file.absolute(), address))


def _with_driver(address: str) -> str:
    """An SQLite address of which MLflow makes no folder.

    MLflow makes the folder of an address literally, percent signs included, unless the address names a driver.
    """
    taken_literally = "%" not in address.split("?")[0] and "///file:" not in address
    return address if taken_literally else re.sub("^sqlite:", "sqlite+pysqlite:", address)


def redacted_line(error: BaseException) -> str:
    """An error of MLflow or of its database, as one line of up to 200 characters without passwords."""
    text = shown(" ".join(str(error).split()))
    if "readonly database" in text:
        text = f"this user may not write to {database() or 'the database'}"
    # `shown` hides passwords inside addresses; libraries may show a password alone.
    names = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    secret_texts = {*(os.environ.get(name, "") for name in names), *secrets(os.environ.get("MLFLOW_TRACKING_URI", ""))}
    for secret in sorted(secret_texts, key=len, reverse=True):
        text = text.replace(secret, "***") if len(secret) > 2 else text
    return text[:200]


def database() -> Path | None:
    """The file of MLflow's SQLite database; None where it is another database, or a server."""
    file = sqlite_file(places.tracking())
    return file.absolute() if file else None


def folder() -> Path:
    """The folder of Leakboard's files that belong to this MLflow: that of its database, or the project's mlruns/."""
    file = database()
    return file.parent.resolve() if file else places.mlruns()


def connect() -> MlflowClient:
    """A client of `uri()`. Requests are tried once, with a short timeout: a dead server costs seconds, not minutes.

    Retries could also create a run twice, if only the answer to the first request was late.
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
        _relocate_artifacts(file)
    return MlflowClient(address)


@functools.cache
def _check_schema(address: str) -> None:
    """Raises Unreachable where an older MLflow made this database: this one would migrate it without asking."""
    if not address.startswith(("sqlite", "postgresql", "mysql", "mssql")):
        return
    import mlflow
    from sqlalchemy import create_engine, inspect, text

    engine = create_engine(address)
    with engine.connect() as connection:
        has_version = "alembic_version" in inspect(connection).get_table_names()
        schema = connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if has_version else None
    engine.dispose()
    migrations = (Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions").glob("*.py")
    pattern = rf"^down_revision\b.*{re.escape(str(schema))}"
    if schema and any(re.search(pattern, path.read_text(encoding="utf-8"), re.M) for path in migrations):
        where = shown(address)
        raise Unreachable(
            f"{where} was made by an older MLflow (schema {str(schema)[:40]}); back it up, then: mlflow db upgrade {where}"
        )


def _create_database(path: Path) -> None:
    """Create the database with MLflow's tables if there is none.

    It appears complete or, if this is killed, not at all.
    """
    from mlflow import MlflowClient

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            new = path.with_name(f"{path.name}.new")
            new.unlink(missing_ok=True)
            MlflowClient(_with_driver(sqlite_address(new))).search_experiments(max_results=1)
            new.replace(path)


def _relocate_artifacts(file: Path) -> None:
    """After a database was moved or copied, set the artifact locations of Leakboard's experiments to its new folder.

    A run is pointed to where its files are: here if they were moved too, else where they were. If this user may not
    write to the database, nothing is done: then nothing is logged either.
    """
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(file, timeout=60)) as connection:
        experiments = connection.execute("SELECT experiment_id, name, artifact_location FROM experiments").fetchall()
        for number, name, location in experiments:
            location_here = _artifact_location(str(name))
            if location != location_here and _is_leakboards(connection, number, str(name), str(location)):
                with connection:
                    _move(connection, number, str(location), location_here)


def _is_leakboards(connection: sqlite3.Connection, number: int, name: str, location: str) -> bool:
    """Whether Leakboard made this experiment: by the location of its artifacts, and the tags of its runs."""
    if not location.startswith("file:") or _path(location).parts[-2:] != ("artifacts", name):
        return False
    query = "SELECT 1 FROM runs JOIN tags USING (run_uuid) WHERE experiment_id = ? AND key = ? LIMIT 1"
    return connection.execute(query, (number, KIND)).fetchone() is not None


def _move(connection: sqlite3.Connection, number: int, old: str, new: str) -> None:
    """Set the locations of an experiment, and of its runs below `old`, to `new`."""
    query = """SELECT run_uuid, artifact_uri, EXISTS (
        SELECT 1 FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = ? AND value IN ('scenario', 'trial', 'audit'))
        FROM runs WHERE experiment_id = ?"""
    moves = []
    for run, place, finished in connection.execute(query, (KIND, number)).fetchall():
        if not str(place).startswith(f"{old}/"):
            continue
        new_place = new + str(place).removeprefix(old)
        # Unfinished runs are still written to, so they always get the new folder. Finished ones keep the place of their
        # files.
        if not finished or os.path.exists(_path(new_place)) or not os.path.exists(_path(place)):
            moves.append((new_place, run))
    connection.executemany("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", moves)
    connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, number))


def _path(location: str) -> Path:
    return Path(url2pathname(urlsplit(location).path))


def _artifact_location(name: str) -> str:
    """The location (file URI) at which the artifacts of an experiment belong."""
    return (folder() / "artifacts" / name).as_uri()


def experiment(client: MlflowClient, name: str, columns: tuple[str, ...] = BOARD) -> str:
    """The id of the experiment of this name, created if there is none; MLflow's UI shows it with these columns.

    Raises Unreachable where its artifacts were in a folder of this machine that no longer exists.
    """
    known = client.get_experiment_by_name(name)
    local = not uri().lower().startswith("http")
    if known is None:
        if local:
            (folder() / "artifacts" / name).mkdir(parents=True, exist_ok=True)
        experiment_id = str(
            client.create_experiment(name, artifact_location=_artifact_location(name) if local else None)
        )
    else:
        experiment_id, location = str(known.experiment_id), str(known.artifact_location)
        if local and not database() and location.startswith("file:") and not os.path.isdir(_path(location).parent):
            raise Unreachable(
                f"the artifacts of {name} lay in {_path(location)}, which is gone: was the project moved? Make that folder again"
            )
    tags = known.tags if known else {}
    wanted_tags = {
        "mlflow.experimentKind": "custom_model_development",
        # MLflow renders this text as Markdown: nothing that others wrote may stand in it.
        "mlflow.note.content": f"[Compare what is logged of {name} by its metrics](#{view(experiment_id)})",
        SHARED: _view_state(columns),
    }
    for key, value in wanted_tags.items():
        if key not in tags:
            client.set_experiment_tag(experiment_id, key, value)
    return experiment_id


def view(number: str) -> str:
    """The fragment (behind #) of an address in MLflow's UI that opens an experiment with Leakboard's view."""
    return f"/experiments/{number}/runs?{_TRAINING}&viewStateShareKey={VIEW}"


def _view_state(columns: tuple[str, ...]) -> str:
    """JSON state of MLflow's UI that shows these metrics as a table."""
    kind = _SHOWN[columns]
    state: dict[str, Any] = {
        "searchFilter": f"tags.`{KIND}` = '{kind}'", "orderByKey": f"metrics.`{columns[0]}`", "orderByAsc": kind == "entry",
        "selectedColumns": [f"metrics.`{c}`" for c in columns],
    }  # fmt: skip
    return json.dumps(state)
