"""The one module that talks to MLflow: one run a result, under one parent run a defense.

A run carries the whole record in the tag `leakboard.record`, so that tables can be built from MLflow
alone. A ledger in the store says what was logged where: nothing is logged twice, and what could not be
logged, because no server answered, is logged by the next command. One process at a time writes to MLflow
and the ledger; whatever a killed one has left half done is done anew.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from benchmark.digests import digest
from benchmark.result import Result

if TYPE_CHECKING:
    from mlflow import MlflowClient

RECORD = "leakboard.record"
FOLDER = Path("mlruns")
_TAG = 8000
"""Characters that MLflow keeps of a tag."""


def uri() -> str:
    """`MLFLOW_TRACKING_URI`, or SQLite in `mlruns/`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{FOLDER}/mlflow.db"


class Unreachable(ConnectionError):
    """MLflow did not answer; nothing is lost."""


class Tracker:
    """Logs results to one MLflow; `pending` counts those that wait for it to answer."""

    def __init__(self, ledger: Path) -> None:
        self.uri = uri()
        self._ledger = ledger / digest(self.uri)[:16]
        self._lock = FileLock(self._ledger / "lock")
        self._client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}
        self._parents: dict[tuple[str, str], str] = {}
        self.pending: list[Result] = []
        self.down = self.reason = ""
        self._outlived = self._database_is_gone()
        if self._outlived:
            with contextlib.suppress(OSError), self._locked():  # what cannot be mended here, `log` will tell
                self._forget()

    def log(self, result: Result) -> None:
        """Log a result unless it is logged already. A server that does not answer is noted, not raised."""
        said = result.claims.get("tuned")
        mark = self._ledger / f"{result.key}-{digest(result.status, result.reason, *([said] if said else []))[:8]}.json"
        if _run_id(mark) and not self._outlived:
            return
        if self.down:
            self.pending.append(result)
            return
        try:
            # Two commands at once must not take each other's unfinished run for one that was killed.
            with self._locked():
                self._forget()
                if _run_id(mark):
                    return
                run_id = self._interrupted(result) if mark.exists() else None
                self._write(mark, {})
                self._write(mark, {"run_id": run_id or self._create(result)})
                if said:  # it was tuned after it had been logged: the run that does not say so goes
                    self._delete_others(result, mark)
        except Exception as problem:  # MLflow and its stores raise many kinds
            self.pending.append(result)
            self.reason = without_password(" ".join(str(problem).split()))[:200]
            if not self._answers():  # else it was this record alone that MLflow refused
                self.down = self.reason

    def retry(self) -> None:
        """Log what is pending, if MLflow answers again."""
        if self.pending and self._answers():
            waiting, self.pending, self.down, self.reason = self.pending, [], "", ""
            for result in waiting:
                self.log(result)

    def _database_is_gone(self) -> bool:
        local = self.uri.startswith("sqlite:///")
        return local and self._ledger.exists() and not Path(self.uri.removeprefix("sqlite:///")).exists()

    def _forget(self) -> None:
        """A ledger that has outlived its database knows of runs that are gone; forget them before it is made anew."""
        if self._outlived and self._database_is_gone():  # another process may have seen to it
            for mark in self._ledger.glob("*.json"):
                mark.unlink()
        self._outlived = False

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._told():
            self._ledger.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def _write(self, mark: Path, content: dict[str, str]) -> None:
        with self._told():
            mark.write_text(json.dumps(content), encoding="utf-8")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """The ledger's troubles, apart from MLflow's."""
        try:
            yield
        except OSError as problem:
            raise OSError(f"the ledger {self._ledger} cannot be written: {problem.strerror or problem}") from None

    def _answers(self) -> bool:
        try:
            self._connect().search_experiments(max_results=1)
        except Exception:
            return False
        return True

    def _interrupted(self, result: Result) -> str | None:
        """A mark without a run id: the command was killed while it logged. Finish that run if it is there."""
        client, experiment = self._connect(), self._experiment(result.protocol)
        for run in client.search_runs([experiment], f"tags.`leakboard.key` = '{result.key}'"):
            tags = run.data.tags
            if run.info.status not in ("FINISHED", "FAILED") or RECORD not in tags:
                client.delete_run(run.info.run_id)
            elif [tags.get(n, "") for n in ("status", "reason", "claim.tuned")] == [
                result.status, result.reason, result.claims.get("tuned", "")
            ]:  # fmt: skip
                return str(run.info.run_id)
        return None

    def _delete_others(self, result: Result, mark: Path) -> None:
        for other in self._ledger.glob(f"{result.key}-*.json"):
            if other != mark:
                if run_id := _run_id(other):
                    self._connect().delete_run(run_id)
                other.unlink()

    def _create(self, result: Result) -> str:
        client, experiment = self._connect(), self._experiment(result.protocol)
        parent = self._parent(client, experiment, result)
        title = f"{result.attack or 'utility'} on {result.defense}, seed {result.seed}"
        tags = {"mlflow.parentRunId": parent, "leakboard.key": result.key, "leakboard.kind": "scenario"}
        run_id = str(client.create_run(experiment, run_name=title, tags=tags).info.run_id)
        _fill(client, run_id, result)
        client.set_terminated(run_id, "FINISHED" if result.status in ("ok", "skipped") else "FAILED")
        return run_id

    def _parent(self, client: MlflowClient, experiment: str, result: Result) -> str:
        key = (experiment, result.defense)
        if key not in self._parents:
            query = f"tags.`leakboard.kind` = 'entry' and tags.defense = '{result.defense}'"
            found = client.search_runs([experiment], query, max_results=1)
            if found:
                self._parents[key] = found[0].info.run_id
                if found[0].info.status == "RUNNING":  # the command was killed after it had made this
                    client.set_terminated(found[0].info.run_id)
            else:
                tags = {"leakboard.kind": "entry", "defense": result.defense, "protocol": result.protocol}
                run = client.create_run(experiment, run_name=result.defense, tags=tags)
                client.set_terminated(run.info.run_id)
                self._parents[key] = run.info.run_id
        return self._parents[key]

    def _connect(self) -> MlflowClient:
        if self._client is None:
            self._client = connect()
        return self._client

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            self._experiments[name] = _experiment(self._connect(), name)
        return self._experiments[name]


class Trials:
    """Logs the trials of a study as runs under one parent, in an experiment apart from the board's.

    Commands that share a study share them too: whoever holds the lock is the only one that makes runs.
    """

    def __init__(self, protocol: str, study: str) -> None:
        self._client, self._study = connect(), study
        FOLDER.mkdir(exist_ok=True)
        self._lock = FileLock(FOLDER / f"tuning-{digest(uri(), protocol, study)[:16]}.lock")
        with self._lock:
            self._experiment = _experiment(self._client, f"{protocol}.tuning")
            self._start()

    def _start(self) -> None:
        study, query = self._study, f"tags.`leakboard.study` = '{self._study}'"
        known = self._client.search_runs([self._experiment], query, max_results=10_000)
        parents = [r.info.run_id for r in known if r.data.tags["leakboard.kind"] == "study"]
        self.logged = {
            int(n) for r in known if (n := r.data.tags.get("leakboard.trial")) and r.info.status == "FINISHED"
        }
        for r in known:  # left by a command that was killed while it logged
            if r.data.tags["leakboard.kind"] == "trial" and r.info.status != "FINISHED":
                self._client.delete_run(r.info.run_id)
        self.parent = parents[0] if parents else self._run(study, {"leakboard.kind": "study", "leakboard.study": study})

    def _run(self, title: str, tags: dict[str, str]) -> str:
        run_id = str(self._client.create_run(self._experiment, run_name=title, tags=tags).info.run_id)
        if "mlflow.parentRunId" not in tags:
            self._client.set_terminated(run_id)
        return run_id

    def log(self, number: int, params: dict[str, Any], metrics: dict[str, float], tags: dict[str, str]) -> None:
        """One finished trial, once."""
        if number in self.logged:
            return
        with self._lock:
            query = f"tags.`leakboard.study` = '{self._study}' and tags.`leakboard.trial` = '{number}'"
            if not any(r.info.status == "FINISHED" for r in self._client.search_runs([self._experiment], query)):
                self._log(number, params, metrics, tags)
        self.logged.add(number)

    def _log(self, number: int, params: dict[str, Any], metrics: dict[str, float], tags: dict[str, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        own = {"mlflow.parentRunId": self.parent, "leakboard.study": self._study, "leakboard.trial": str(number)}
        run_id = self._run(f"trial {number}", own | {"leakboard.kind": "trial"})
        now = int(time.time() * 1000)
        self._client.log_batch(
            run_id, [Metric(k, v, now, 0) for k, v in metrics.items()], [Param(k, str(v)) for k, v in params.items()],
            [RunTag(k, v) for k, v in tags.items()],
        )  # fmt: skip
        self._client.set_terminated(run_id)

    def curve(self, name: str, values: list[float]) -> None:
        """A metric of the study by trials finished, on the parent."""
        from mlflow.entities import Metric

        known = len(self._client.get_metric_history(self.parent, name))
        now = int(time.time() * 1000)
        new = [Metric(name, value, now, step) for step, value in enumerate(values, 1) if step > known]
        for start in range(0, len(new), 1000):
            self._client.log_batch(self.parent, new[start : start + 1000])

    def figure(self, path: Path) -> None:
        self._client.log_artifact(self.parent, str(path))


def _run_id(mark: Path) -> str | None:
    """Where the ledger says that a result is; None where it says nothing, or is damaged."""
    try:
        return str(json.loads(mark.read_text(encoding="utf-8"))["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
    if uri().startswith("sqlite:///"):
        _create_database(Path(uri().removeprefix("sqlite:///")))
    _check_schema(uri())
    return MlflowClient(uri())


@functools.cache
def _check_schema(database: str) -> None:
    """Raises Unreachable where an older MLflow made this database: MLflow would migrate it unasked."""
    if not database.startswith(("sqlite:///", "postgresql", "mysql", "mssql")):
        return
    import mlflow
    from sqlalchemy import create_engine, inspect, text

    engine = create_engine(database)
    with engine.connect() as connection:
        known = "alembic_version" in inspect(connection).get_table_names()
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if known else None
    engine.dispose()
    migrations = (Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions").glob("*.py")
    if found and any(re.search(rf"^down_revision\b.*{found}", path.read_text("utf-8"), re.M) for path in migrations):
        shown = without_password(database)
        raise Unreachable(
            f"{shown} was made by an older MLflow (schema {found}); back it up, then: mlflow db upgrade {shown}"
        )


def without_password(address: str) -> str:
    """The text as it may be shown: without the passwords of the addresses in it."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", address)


def _create_database(path: Path) -> None:
    """Make MLflow's tables where there are none; a command that is killed meanwhile leaves no half of them."""
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    with FileLock(f"{path}.lock"):
        if not path.exists():
            new = path.with_name(f"{path.name}.new")
            new.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{new}").search_experiments(max_results=1)
            new.replace(path)


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    local = uri().startswith("sqlite:///")
    place = (FOLDER / "artifacts" / name).absolute().as_uri() if local else None
    return str(client.create_experiment(name, artifact_location=place))


def _fill(client: MlflowClient, run_id: str, result: Result) -> None:
    import numpy as np
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    now = int(time.time() * 1000)
    numbers = dict(result.metrics)
    for name, (low, high) in result.intervals.items():
        numbers |= {f"{name}_low": low, f"{name}_high": high}
    numbers |= {f"cost.{k}": v for k, v in result.cost.items()}
    keys = {
        "attack": result.attack or "none", "defense": result.defense, "seed": str(result.seed), "task": result.task,
        "protocol": result.protocol, "dataset": result.dataset, "architecture": result.architecture,
        "track": result.track or "none",
    }  # fmt: skip
    tags = keys | {
        "protocol_digest": result.protocol_digest, "status": result.status, "reason": result.reason,
        "trust": result.trust, RECORD: _short(result),
    }  # fmt: skip
    tags |= {f"claim.{k}": v for k, v in result.claims.items()} | result.provenance
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, now, 0) for name, value in numbers.items()],
        params=[Param(k, v) for k, v in keys.items()],
        tags=[RunTag(k, v) for k, v in tags.items() if v],
    )
    if "split" in result.provenance:
        source = json.dumps({"protocol": result.protocol, "seed": result.seed})
        data = Dataset(result.dataset, result.provenance["split"], "leakboard", source)
        client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "candidates")])])
    client.log_text(run_id, json.dumps(json.loads(result.to_json()), indent=1), "record.json")
    for name, picture in result.pictures.items():
        client.log_image(run_id, np.concatenate(list(picture.array()), axis=1), artifact_file=f"{name}.png")
    if result.roc:
        client.log_image(run_id, _roc_image(result), artifact_file="roc.png")


def _short(result: Result) -> str:
    """The record as a tag: without pictures, and without its log where that makes it longer than a tag may be."""
    record = result.model_copy(update={"pictures": {}})
    text = record.to_json()
    return text if len(text) <= _TAG else record.model_copy(update={"log": ""}).to_json()


_figure: Any = None


def _roc_image(result: Result) -> Any:
    """The ROC curve, log-log (Carlini et al. 2022): one figure, drawn anew for each result."""
    global _figure
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    assert result.roc is not None
    if _figure is None:
        figure = Figure(figsize=(4.2, 4), dpi=90, layout="constrained")
        axes = figure.add_subplot(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1))
        axes.plot([1e-3, 1], [1e-3, 1], color="0.7", linewidth=1)
        (line,) = axes.plot([], [], color="#0072B2", drawstyle="steps-post")
        axes.set_xlabel("False positive rate")
        axes.set_ylabel("True positive rate")
        figure.set_layout_engine("none")
        _figure = figure, axes, line
    figure, axes, line = _figure
    line.set_data(*[np.maximum(v, 1e-4) for v in result.roc])
    axes.set_title(f"{result.attack}\non {result.defense}, seed {result.seed}", fontsize=8)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return Image.open(buffer)


def fetch_results(protocol: str, since_ms: int | None = None) -> list[Result]:
    """Results of a protocol that ended at or after `since_ms` (Unix milliseconds), each with its run id.

    Raises Unreachable (a ConnectionError) where MLflow does not answer.
    """
    return list(results_since(protocol, since_ms))


def results_since(protocol: str, since_ms: int | None = None) -> Iterator[Result]:
    """`fetch_results`, page by page: a hundred thousand records at once fill a memory."""
    query = _SCENARIOS
    if since_ms is not None:
        query += f" and attributes.end_time >= {since_ms}"
    for run in _search(protocol, query):
        if (result := _record(run)) is not None:
            yield result


def gone_runs(protocol: str, held: Collection[str]) -> tuple[set[str], set[str]]:
    """The runs of a protocol that are marked as deleted, and those of `held` that are there no longer at all.

    A run costs some 3 ms, deleted ones too: ask for a few at a time. Raises Unreachable where MLflow does not answer.
    """
    deleted = {run.info.run_id for run in _search(protocol, _SCENARIOS, "deleted_only")}
    left = sorted(set(held) - deleted)
    there: set[str] = set()
    for start in range(0, len(left), 200):
        ids = ", ".join(f"'{run_id}'" for run_id in left[start : start + 200])
        there |= {run.info.run_id for run in _search(protocol, f"attributes.run_id IN ({ids})")}
    return deleted, set(left) - there


_SCENARIOS = "tags.`leakboard.kind` = 'scenario'"


def _search(protocol: str, query: str, view: str = "active_only") -> Iterator[Any]:
    """The runs of a protocol; none where there is no local database, which is not made for that."""
    if uri().startswith("sqlite:///") and not Path(uri().removeprefix("sqlite:///")).exists():
        return
    with _answering():
        client = connect()
        from mlflow.entities import ViewType

        found = client.get_experiment_by_name(protocol)
        if found is None or found.lifecycle_stage == "deleted":
            return
        token: str | None = None
        while True:
            page = client.search_runs([found.experiment_id], query, ViewType.from_string(view), 1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """What MLflow and its stores raise, and they raise many kinds, becomes Unreachable: one line without passwords."""
    try:
        yield
    except Unreachable:
        raise
    except Exception as problem:
        text = without_password(" ".join(str(problem).split()))[:200]
        raise Unreachable(f"MLflow at {without_password(uri())} did not answer: {text}") from None


def _record(run: Any) -> Result | None:
    try:
        result = Result.from_json(run.data.tags[RECORD])
    except (KeyError, ValueError):
        return None
    where = {"run_id": run.info.run_id, "experiment_id": run.info.experiment_id}
    return result.model_copy(update={"provenance": result.provenance | where})


def result_of(run_id: str) -> Result | None:
    """The record of one run; None where there is no such run or it holds no record.

    Raises Unreachable where MLflow does not answer.
    """
    with _answering():
        client = connect()
        from mlflow.exceptions import MlflowException

        try:
            return _record(client.get_run(run_id))
        except MlflowException:
            client.search_experiments(max_results=1)  # a server that is dead knows of no run, either
            return None
