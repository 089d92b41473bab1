"""Logs to MLflow and reads from it: one run for each result, under one parent run for each defense; one for each audit.

A run holds the whole record in the tag `leakboard.record`, so that tables can be built from MLflow alone. A ledger in
the store, with one file (a mark) for each logged result, holds its run's id: nothing is logged twice, and what could
not be logged, because no server answered, is logged by the next command. One process at a time writes to MLflow and the
ledger; what a killed process left unfinished is done anew.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from benchmark import places
from benchmark.addresses import shown as without_password
from benchmark.digests import digest
from benchmark.errors import UserError
from benchmark.result import Result
from benchmark.run.connection import (
    AUDITS,
    KIND,
    SHARED,
    STUDIES,
    Unreachable,
    connect,
    database,
    experiment,
    folder,
    redacted_line,
    uri,
    view,
)
from benchmark.text import plain

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "EXPERIMENT",
    "RECORD",
    "Tracker",
    "TrialTracker",
    "Unreachable",
    "connect",
    "fetch_results",
    "gone_runs",
    "log_audit",
    "pages",
    "redacted_line",
    "result_of",
    "results_since",
    "uri",
    "without_password",
]  # fmt: skip

RECORD = "leakboard.record"
EXPERIMENT = "leakboard.audits"
"""The experiment of audits, whatever their models."""
_ENTRY = "leakboard.entry"
"""The tag of a parent run with the digest of its defense's name: a name is not safe in a query.
"""
_STUDY = "leakboard.study_id"
"""The tag with the digest of a study's name."""
_TAG_LENGTH = 8000
"""Characters that MLflow stores of a tag."""
_NAME_LENGTH, _VALUE_LENGTH = 200, 500
"""Characters that are logged of the name of a run, and of the value of a param."""
_RECORD_LENGTH = 100_000
"""Characters of a record that is read at most: a database may hold more than MLflow would write."""


class Tracker:
    """Logs results to one MLflow.

    `pending`: the results that could not be logged. `down`: why MLflow does not answer, "" while it does; `reason`: the
    last error, of MLflow or of one record.
    """

    def __init__(self, ledger: Path) -> None:
        self.uri = uri()
        # A store inside the project moves with it. One that projects share holds a ledger for each of their databases.
        inside = ledger.absolute().is_relative_to(places.project().root)
        self._ledger = ledger / digest(places.lasting(self.uri) if inside else self.uri)[:16]
        self._lock = FileLock(self._ledger / "lock")
        self._client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}
        self._parents: dict[tuple[str, str], str] = {}
        self.pending: list[Result] = []
        self.down = self.reason = ""
        self._outlived = self._database_is_gone()
        if self._outlived:
            with contextlib.suppress(OSError), self._locked():  # if that fails, `log` raises the error again
                self._forget_lost_runs()

    def log(self, result: Result) -> None:
        """Log a result unless it is logged already. An error is noted (`pending`, `reason`), not raised."""
        mark = self._mark(_key(result.key), result.status, result.reason, result.claim("tuned"))
        if _run_id(mark) and not self._outlived:
            return
        if self.down:
            self.pending.append(result)
            return
        try:
            # One of two commands must not take the other's unfinished run for that of a killed command.
            with self._locked():
                self._forget_lost_runs()
                self._adopt_logged(result.protocol)
                if _run_id(mark):
                    return
                self._summary(result.protocol, result.defense).unlink(missing_ok=True)
                run_id = self._interrupted(result) if mark.exists() else None
                self._write(mark, {})
                self._write(mark, {"run_id": run_id or self._create(result)})
                if result.claim("tuned"):  # if it was logged before it was marked as tuned, delete that run
                    self._delete_others(result, mark)
        except Exception as error:  # MLflow and its stores raise many kinds
            self.pending.append(result)
            self._note_failure(error)

    def _note_failure(self, error: Exception) -> None:
        self.reason = redacted_line(error)
        if not self._answers():  # otherwise MLflow refused this record alone
            self.down = self.reason

    def _mark(self, key: str, status: str, reason: str, tuned: str) -> Path:
        """The ledger's file for a result; a failure with another reason has another one."""
        return self._ledger / f"{key}-{digest(status, reason, *([tuned] if tuned else []))[:8]}.json"

    def _summary(self, protocol: str, defense: str) -> Path:
        """The ledger's file that is there while the summary of a defense covers all its logged results."""
        return self._ledger / f"entry-{digest(protocol, defense)[:32]}.json"

    def _adopt_logged(self, protocol: str) -> None:
        """Enter into this ledger what was logged of an experiment under another ledger; once for each experiment."""
        adopted = self._ledger / f"experiment-{digest(protocol)[:32]}.json"
        if adopted.exists():
            return
        client, number = self._connect(), self._experiment(protocol)
        for run in _pages(client, number, _SCENARIOS):
            tags = run.data.tags
            if run.info.status in ("FINISHED", "FAILED") and RECORD in tags:
                fields = (tags.get(n, "") for n in ("status", "reason", "claim.tuned"))
                mark = self._mark(_key(tags.get("leakboard.key", "")), *fields)
                if not mark.exists():
                    self._write(mark, {"run_id": run.info.run_id})
        self._write(adopted, {})

    def stale(self, protocol: str, defenses: Collection[str]) -> list[str]:
        """Those of these defenses whose summary does not cover all that was logged; [] while MLflow does not answer."""
        missing = [d for d in dict.fromkeys(defenses) if not self._summary(protocol, d).exists()]
        return [] if self.down else missing

    def summarise(
        self,
        protocol: str,
        defense: str,
        metrics: Mapping[str, float],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        data: tuple[str, str] | None = None,
    ) -> None:
        """Set metrics, params and tags of a defense's parent run. `data`: name and digest of the data it was scored on.

        An error is noted in `reason`, not raised: the next command tries again.
        """
        try:
            with self._locked():
                client, number = self._connect(), self._experiment(protocol)
                run = client.get_run(self._parent(client, number, protocol, defense))
                _summarise(client, run, metrics, params, tags, data)
                self._write(self._summary(protocol, defense), {})
        except Exception as error:  # as above
            self._note_failure(error)

    def retry(self) -> None:
        """Log the pending results, if MLflow answers again."""
        if self.pending and self._answers():
            waiting, self.pending, self.down, self.reason = self.pending, [], "", ""
            for result in waiting:
                self.log(result)

    def _database_is_gone(self) -> bool:
        file = database()
        return file is not None and self._ledger.exists() and not file.exists()

    def _forget_lost_runs(self) -> None:
        """Empty the ledger if the database was deleted: the runs in it are gone.

        To be done before a new database is created.
        """
        if self._outlived and self._database_is_gone():  # another process may have done it
            for mark in self._ledger.glob("*.json"):
                mark.unlink()
        self._outlived = False

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._os_errors_explained():
            self._ledger.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def _write(self, mark: Path, content: dict[str, str]) -> None:
        with self._os_errors_explained():
            mark.write_text(json.dumps(content), encoding="utf-8")

    @contextlib.contextmanager
    def _os_errors_explained(self) -> Iterator[None]:
        """Turns an OSError of the ledger's files into one that names the ledger, to tell it from MLflow's errors."""
        try:
            yield
        except OSError as error:
            raise OSError(f"the ledger {self._ledger} cannot be written: {error.strerror or error}") from None

    def _answers(self) -> bool:
        try:
            self._connect().search_experiments(max_results=1)
        except Exception:
            return False
        return True

    def _interrupted(self, result: Result) -> str | None:
        """The id of the finished run of a mark without an id, which a command left that was killed while it logged.

        An unfinished run is deleted.
        """
        client, experiment = self._connect(), self._experiment(result.protocol)
        for run in client.search_runs([experiment], f"tags.`leakboard.key` = '{_key(result.key)}'"):
            tags = run.data.tags
            if run.info.status not in ("FINISHED", "FAILED") or RECORD not in tags:
                client.delete_run(run.info.run_id)
            elif [tags.get(n, "") for n in ("status", "reason", "claim.tuned")] == [
                result.status, result.reason, result.claim("tuned"),
            ]:  # fmt: skip
                return str(run.info.run_id)
        return None

    def _delete_others(self, result: Result, mark: Path) -> None:
        for other in self._ledger.glob(f"{_key(result.key)}-*.json"):
            if other != mark:
                if run_id := _run_id(other):
                    self._connect().delete_run(run_id)
                other.unlink()

    def _create(self, result: Result) -> str:
        client, experiment = self._connect(), self._experiment(result.protocol)
        parent = self._parent(client, experiment, result.protocol, result.defense)
        title = f"{result.attack or 'utility'} on {result.defense}, seed {result.seed}"
        tags = {"mlflow.parentRunId": parent, "leakboard.key": _key(result.key), KIND: "scenario"}
        run_id = str(client.create_run(experiment, run_name=plain(title, _NAME_LENGTH), tags=tags).info.run_id)
        _fill(client, run_id, result)
        client.set_terminated(run_id, "FINISHED" if result.status in ("ok", "skipped") else "FAILED")
        return run_id

    def _parent(self, client: MlflowClient, experiment: str, protocol: str, defense: str) -> str:
        key = (experiment, defense)
        if not any(known == experiment for known, _ in self._parents):
            self._name_parents(client, experiment)
        if key not in self._parents:
            query = f"tags.`{_ENTRY}` = '{digest(defense)[:32]}'"
            runs = client.search_runs([experiment], query, max_results=1)
            if runs:
                self._parents[key] = self._terminated_id(client, runs[0])
            else:
                tags = {KIND: "entry", _ENTRY: digest(defense)[:32], "defense": defense, "protocol": protocol}
                run = client.create_run(experiment, run_name=plain(defense, _NAME_LENGTH), tags=tags)
                self._parents[key] = self._terminated_id(client, run)
        return self._parents[key]

    def _name_parents(self, client: MlflowClient, experiment: str) -> None:
        """Read the parent runs of an experiment; one without the digest of its defense's name gets it."""
        for run in _pages(client, experiment, f"tags.`{KIND}` = 'entry'"):
            name = run.data.tags.get("defense", "")
            if _ENTRY not in run.data.tags:
                client.set_tag(run.info.run_id, _ENTRY, digest(name)[:32])
            self._parents.setdefault((experiment, name), self._terminated_id(client, run))

    @staticmethod
    def _terminated_id(client: MlflowClient, run: Any) -> str:
        if run.info.status == "RUNNING":  # it is new, or its command was killed right after creating it
            client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def _connect(self) -> MlflowClient:
        if self._client is None:
            self._client = connect()
        return self._client

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            self._experiments[name] = experiment(self._connect(), name)
        return self._experiments[name]


class TrialTracker:
    """Logs the trials of a study as runs under one parent run, in an experiment of its own beside the board's.

    Commands that share a study share these runs: only the holder of the lock creates some.
    """

    def __init__(self, protocol: str, study: str) -> None:
        self._client, self._study, self._id = connect(), study, digest(study)[:32]
        place = folder()
        place.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(place / f"tuning-{digest(places.lasting(uri()), protocol, study)[:16]}.lock")
        with self._lock:
            self._experiment = experiment(self._client, f"{protocol}.tuning", STUDIES)
            self._start()

    def _start(self) -> None:
        runs = list(self._runs())
        parents = [run.info.run_id for run in runs if run.data.tags.get(KIND) == "study"]
        self.logged = {
            int(n) for run in runs if (n := run.data.tags.get("leakboard.trial")) and run.info.status == "FINISHED"
        }
        for run in runs:  # left by a command that was killed while it logged
            if run.data.tags.get(KIND) == "trial" and run.info.status != "FINISHED":
                self._client.delete_run(run.info.run_id)
        self.parent = parents[0] if parents else self._run(self._study, {KIND: "study"})

    def _runs(self) -> Iterator[Any]:
        """The runs of this study; one without the digest of the study's name gets it."""
        yield from _pages(self._client, self._experiment, f"tags.`{_STUDY}` = '{self._id}'")
        if re.fullmatch(r"[^'\"\\`%]*", self._study):
            for run in _pages(self._client, self._experiment, f"tags.`leakboard.study` = '{self._study}'"):
                if _STUDY not in run.data.tags:
                    self._client.set_tag(run.info.run_id, _STUDY, self._id)
                    yield run

    def _run(self, title: str, tags: dict[str, str]) -> str:
        tags |= {_STUDY: self._id, "leakboard.study": self._study}
        run_id = str(
            self._client.create_run(self._experiment, run_name=plain(title, _NAME_LENGTH), tags=tags).info.run_id
        )
        if "mlflow.parentRunId" not in tags:
            self._client.set_terminated(run_id)
        return run_id

    def log(self, number: int, params: dict[str, Any], metrics: dict[str, float], tags: dict[str, str]) -> None:
        """Log a finished trial, once."""
        if number in self.logged:
            return
        with self._lock:
            query = f"tags.`{_STUDY}` = '{self._id}' and tags.`leakboard.trial` = '{int(number)}'"
            if not any(r.info.status == "FINISHED" for r in self._client.search_runs([self._experiment], query)):
                self._log(number, params, metrics, tags)
        self.logged.add(number)

    def _log(self, number: int, params: dict[str, Any], metrics: dict[str, float], tags: dict[str, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        own = {"mlflow.parentRunId": self.parent, "leakboard.trial": str(number)}
        run_id = self._run(f"trial {number}", own | {KIND: "trial"})
        now = int(time.time() * 1000)
        self._client.log_batch(
            run_id, [Metric(_mlflow_name(k), v, now, 0) for k, v in metrics.items()],
            [Param(_mlflow_name(k), plain(str(v), _VALUE_LENGTH)) for k, v in params.items()], [RunTag(k, v) for k, v in tags.items()],
        )  # fmt: skip
        self._client.set_terminated(run_id)

    def curve(self, name: str, values: list[float]) -> None:
        """Log a metric of the study, on the parent run: its values after 1, 2, ... finished trials."""
        from mlflow.entities import Metric

        logged = len(self._client.get_metric_history(self.parent, name))
        now = int(time.time() * 1000)
        new_metrics = [Metric(name, value, now, step) for step, value in enumerate(values, 1) if step > logged]
        for start in range(0, len(new_metrics), 1000):
            self._client.log_batch(self.parent, new_metrics[start : start + 1000])

    def figure(self, path: Path) -> None:
        """Log an image file, on the parent run."""
        self._client.log_artifact(self.parent, str(path))


def log_audit(
    key: str,
    title: str,
    metrics: Mapping[str, float],
    params: Mapping[str, str],
    tags: Mapping[str, str],
    files: Mapping[str, str],
) -> tuple[str, bool]:
    """Log an audit as one finished run; returns the run's id, and whether it is new.

    key: of all that the audit found. One that is logged already under this key is left as it is. files: the texts of its
    artifacts by name. Raises Unreachable where MLflow does not answer or refuses it; what is half logged is deleted by the next call.
    """
    with _answering():
        client, place = connect(), folder()
        place.mkdir(parents=True, exist_ok=True)
        # One of two commands must not take the other's unfinished run for that of a killed command.
        with FileLock(place / f"audits-{digest(places.lasting(uri()))[:16]}.lock"):
            number = experiment(client, EXPERIMENT, AUDITS)
            for run in client.search_runs([number], f"tags.`leakboard.key` = '{_key(key)}'"):
                if run.info.status == "FINISHED":
                    return str(run.info.run_id), False
                client.delete_run(run.info.run_id)
            own = {"leakboard.key": _key(key), KIND: "audit"}
            run = client.create_run(number, run_name=plain(title, _NAME_LENGTH), tags=own)
            run_id = str(run.info.run_id)
            _summarise(client, run, metrics, params, tags, None)
            for name, text in files.items():
                client.log_text(run_id, text, name)
            client.set_terminated(run_id)
    return run_id, True


def _run_id(mark: Path) -> str | None:
    """The run id in a file of the ledger; None where there is no file, no id in it, or it is damaged."""
    try:
        return str(json.loads(mark.read_text(encoding="utf-8"))["run_id"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _key(key: str) -> str:
    """A result's key, safe in file names and queries: a key of another form is replaced by its digest."""
    return key if re.fullmatch(r"[\w-]{1,64}", key, re.ASCII) else digest(key)


def _mlflow_name(name: str) -> str:
    """A name as MLflow accepts it for a metric, a param or a tag."""
    return re.sub(r"[^\w .:/-]", "_", name, flags=re.ASCII).strip("/.")[:200] or "_"


def _pages(client: MlflowClient, number: str, query: str, view: str = "active_only") -> Iterator[Any]:
    from mlflow.entities import ViewType

    token: str | None = None
    while True:
        page = client.search_runs([number], query, ViewType.from_string(view), 1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _summarise(
    client: MlflowClient,
    run: Any,
    metrics: Mapping[str, float],
    params: Mapping[str, str],
    tags: Mapping[str, str],
    data: tuple[str, str] | None,
) -> None:
    """Log what is new or changed. MLflow's params never change, so that a changed one becomes the tag `now.NAME`; a
    metric that is no longer known becomes NaN."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    now = int(time.time() * 1000)
    numbers = {_mlflow_name(k): float(v) for k, v in metrics.items() if math.isfinite(v)}
    numbers |= {k: math.nan for k in run.data.metrics if k not in numbers}
    texts = {_mlflow_name(k): plain(v, _VALUE_LENGTH) for k, v in params.items()}
    changed = {k: v for k, v in texts.items() if run.data.params.get(k, v) != v}
    wanted_tags = {_mlflow_name(k): plain(v, _VALUE_LENGTH) for k, v in tags.items()} | {
        f"now.{k}": v for k, v in changed.items()
    }
    new_metrics = [Metric(k, v, now, 0) for k, v in numbers.items() if not _same(run.data.metrics.get(k), v)]
    new_params = [Param(k, v) for k, v in texts.items() if k not in run.data.params]
    new_tags = [RunTag(k, v) for k, v in wanted_tags.items() if run.data.tags.get(k, "") != v]
    for start in range(0, max(len(new_metrics), len(new_params), len(new_tags)), 100):  # MLflow accepts 100 at a time
        batch = slice(start, start + 100)
        client.log_batch(run.info.run_id, new_metrics[batch], new_params[batch], new_tags[batch])
    if data and not any(i.dataset.digest == data[1] for i in run.inputs.dataset_inputs):
        source = json.dumps({"protocol": run.data.tags.get("protocol", "")})
        dataset = Dataset(plain(data[0], _NAME_LENGTH), data[1], "leakboard", source)
        client.log_inputs(run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "candidates")])])


def _same(one: float | None, other: float) -> bool:
    return one is not None and (one == other or (math.isnan(one) and math.isnan(other)))


def _fill(client: MlflowClient, run_id: str, result: Result) -> None:
    """Log a result's metrics, params, tags, data, record and images to its run."""
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
    foreign = {f"claim.{k}": v for k, v in result.claims.items()} | result.provenance
    tags = {k: v for k, v in foreign.items() if not k.startswith(("mlflow.", "leakboard."))} | keys | {
        "protocol_digest": result.protocol_digest, "status": result.status, "reason": result.reason,
        "trust": result.trust, RECORD: _record_tag(result),
    }  # fmt: skip
    client.log_batch(
        run_id,
        metrics=[Metric(_mlflow_name(name), value, now, 0) for name, value in numbers.items()],
        params=[Param(k, plain(v, _VALUE_LENGTH)) for k, v in keys.items()],
        tags=[RunTag(_mlflow_name(k), v) for k, v in tags.items() if v],
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


def _record_tag(result: Result) -> str:
    """The record as JSON for a tag: without pictures, and without its log if it would be too long for a tag."""
    record = result.model_copy(update={"pictures": {}})
    text = record.to_json()
    return text if len(text) <= _TAG_LENGTH else record.model_copy(update={"log": ""}).to_json()


_figure: Any = None


def _roc_image(result: Result) -> Any:
    """The ROC curve on logarithmic axes (Carlini et al. 2022). One figure is reused for all results, to save time."""
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
    """`fetch_results`, page by page: a hundred thousand records at once would fill the memory."""
    query = _SCENARIOS
    if since_ms is not None:
        query += f" and attributes.end_time >= {since_ms}"
    for run in _search(protocol, query):
        if (result := _record(run)) is not None:
            yield result


def pages() -> dict[str, str]:
    """By name, the fragment (`view`) that opens each experiment of Leakboard in MLflow's UI, the latest first."""
    experiments = connect().search_experiments(order_by=["last_update_time DESC"], max_results=20)
    return {str(e.name): view(e.experiment_id) for e in experiments if SHARED in e.tags}


def gone_runs(protocol: str, held: Collection[str]) -> tuple[set[str], set[str]]:
    """Ids of a protocol's runs that are marked as deleted, and of those among `held` that no longer exist.

    It takes some 3 ms a run. Raises Unreachable where MLflow does not answer.
    """
    deleted = {run.info.run_id for run in _search(protocol, _SCENARIOS, "deleted_only")}
    unknown = sorted(i for i in set(held) - deleted if re.fullmatch(r"\w{1,64}", i, re.ASCII))
    existing: set[str] = set()
    for start in range(0, len(unknown), 200):
        ids = ", ".join(f"'{run_id}'" for run_id in unknown[start : start + 200])
        existing |= {run.info.run_id for run in _search(protocol, f"attributes.run_id IN ({ids})")}
    return deleted, set(held) - deleted - existing


_SCENARIOS = f"tags.`{KIND}` = 'scenario'"


def _search(protocol: str, query: str, view: str = "active_only") -> Iterator[Any]:
    """The runs of a protocol that fit a query. Where there is no local database there are none, and none is created."""
    with _answering():
        file = database()
        if file and not file.exists():
            return
        client = connect()
        experiment = client.get_experiment_by_name(protocol)
        if experiment is not None and experiment.lifecycle_stage != "deleted":
            yield from _pages(client, experiment.experiment_id, query, view)


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Turns the many kinds of errors of MLflow and its databases into Unreachable, in one line without passwords."""
    try:
        yield
    except Unreachable:
        raise
    except UserError as error:  # its address
        raise Unreachable(str(error)) from None
    except Exception as error:
        raise Unreachable(f"MLflow at {without_password(uri())} did not answer: {redacted_line(error)}") from None


def _record(run: Any) -> Result | None:
    """The record in a run, with the run's id; None where there is no valid one. Anybody may have written it."""
    text = run.data.tags.get(RECORD)
    if not isinstance(text, str) or len(text) > _RECORD_LENGTH:
        return None
    try:
        result = Result.from_json(text)
    except (ValueError, RecursionError):
        return None
    where = {"run_id": run.info.run_id, "experiment_id": run.info.experiment_id}
    return result.model_copy(update={"provenance": result.provenance | where})


def result_of(run_id: str) -> Result | None:
    """The record of one run; None where there is no such run or it holds no record.

    Raises Unreachable where MLflow does not answer.
    """
    if not re.fullmatch(r"\w{1,64}", run_id, re.ASCII):
        return None
    with _answering():
        client = connect()
        from mlflow.exceptions import MlflowException

        try:
            return _record(client.get_run(run_id))
        except MlflowException:
            client.search_experiments(max_results=1)  # a dead server raises the same: then this raises Unreachable
            return None
