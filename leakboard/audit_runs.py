"""An audit as one run in MLflow: what it was about as params, worst cases as metrics, verdict and gate as tags, the report.

Never the file of the most exposed records, and no name of a home folder: the server may be shared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from benchmark import places
from benchmark.addresses import shown
from benchmark.digests import digest
from benchmark.run import tracking
from benchmark.run.audit.canary_report import CanaryAudit
from benchmark.run.audit.parts import File
from benchmark.run.audit.report import Audit
from leakboard import console

_OUTCOMES = ("fails", "cannot tell", "passes")
"""Of a gate, the worst first."""


class Logged(NamedTuple):
    """What became of logging: the run's id, "" where there is none, and a line that says where it is or why not."""

    run: str
    line: str


class Run(NamedTuple):
    """What `tracking.log_audit` logs."""

    metrics: dict[str, float]
    params: dict[str, object]
    tags: dict[str, str]


def log(report: Audit | CanaryAudit, files: Mapping[str, str]) -> Logged:
    """Log an audit whose files are written: nothing here fails it. files: texts of the report and of its data, by name.

    The same audit made again has the same key, and is left as it was logged first.
    """
    run = _of_model(report) if isinstance(report, Audit) else _of_canaries(report)
    try:
        with console.working("logging to MLflow"):
            id, new = tracking.log_audit(
                key(report), _shown(report.title), run.metrics, {k: _shown(v) for k, v in run.params.items()},
                {k: _shown(v) for k, v in run.tags.items()}, {k: _shown(v) for k, v in files.items()},
            )  # fmt: skip
    except tracking.Unreachable as problem:
        return Logged("", f"{problem}; the files are written, and the same command logs the audit once MLflow takes it")
    known = "" if new else "there already as "
    return Logged(
        id, f"MLflow: {shown(tracking.uri())}, experiment {tracking.EXPERIMENT}, {known}run {id[:8]} (leakboard ui)"
    )


def key(report: Audit | CanaryAudit) -> str:
    """A digest of all that an audit says, but when, by which command, and how long trainings took."""
    said = report.model_dump(mode="json", exclude={"when": True, "command": True, "recipe": {"seconds"}})
    return digest("audit", said)


def _shown(value: object) -> str:
    return places.without_home(str(value))


def _of_model(a: Audit) -> Run:
    metrics = {
        "p": a.verdict.p,
        "train_accuracy": a.model.members.accuracy,
        "test_accuracy": a.model.nonmembers.accuracy,
    }
    metrics["ece"] = a.model.ece
    for name, case in a.worst.items():
        metrics |= {f"worst_{name}{end}": getattr(case, at) for end, at in _ENDS.items()}
    for kind in a.others:
        for gain in [attack.gain for attack in kind.counting[:1] if attack.gain]:
            metrics |= {
                f"{kind.kind}_gain": gain.value,
                f"{kind.kind}_gain_low": gain.low,
                f"{kind.kind}_gain_high": gain.high,
            }
    params = {
        "way": a.way, "title": a.title, "network": a.model.network or "none", "classes": a.model.classes,
        "members": a.model.members.count, "nonmembers": a.model.nonmembers.count, "references": a.model.references,
        "released": a.released, "attacks": len(a.attacks), "seed": a.seed,
    }  # fmt: skip
    tags = {f"worst_{name}_attack": case.attack for name, case in a.worst.items()}
    outcomes = {decision.outcome for decision in a.gate}
    tags |= {"gate": next((o for o in _OUTCOMES if o in outcomes), "")}
    tags |= {f"gate.{i}": f"{d.outcome}: {d.condition}" for i, d in enumerate(a.gate, 1)}
    return Run(metrics, params, _common(a, a.files) | tags)


_ENDS = {"": "value", "_low": "low", "_high": "high", "_null_99": "null", "_p": "p"}
"""Ends of the metrics' names, by field of a worst case."""


def _of_canaries(a: CanaryAudit) -> Run:
    metrics = {f"epsilon_lower_{re.sub('[^a-z]+', '_', b.name.lower())}": b.epsilon for b in a.bounds}
    metrics |= {"epsilon_lower": next(b.epsilon for b in a.bounds if b.judges), "mu_lower": a.mu, "right": a.right}
    metrics |= {} if a.p is None else {"p": a.p}
    params = {
        "way": a.way, "title": a.title, "kind": a.kind, "canaries": a.canaries, "included": a.included, "guesses": a.guesses,
        "claimed": "none" if a.claimed is None else f"{a.claimed:.12g}", "delta": f"{a.delta:.12g}",
    }  # fmt: skip
    return Run(metrics, params, _common(a, a.files) | {"secret": a.secret})


def _common(a: Audit | CanaryAudit, files: list[File]) -> dict[str, str]:
    """Tags that both kinds of audit have. Files are numbered: two may have one name."""
    tags = {"verdict": a.verdict.state, "sentence": a.verdict.sentence, "tool": a.tool, "when": a.when}
    return tags | {f"file.{i}": f"{f.sha256} {f.name}" for i, f in enumerate(files, 1)}
