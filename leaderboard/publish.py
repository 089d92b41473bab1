"""The published folder of a protocol: every scenario in one Parquet file, the tables, and their provenance.

    scenarios.parquet   one row a result; nested fields as JSON text
    defenses.csv        `ranking.defense_table`
    attacks.csv         `ranking.attack_table` of every task
    provenance.json     counts, protocol, board, machines, hours, versions, SHA-256 of scenarios.parquet

The tables are computed from the records as they are stored, so anybody can recompute them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.result import Result
from leaderboard.ranking import TASK_METRICS, Board, attack_table, defense_table, scenarios

NESTED = ("metrics", "intervals", "roc", "null_auc", "null_tpr", "claims", "cost", "provenance")
SCENARIOS, PROVENANCE = "scenarios.parquet", "provenance.json"


def publish(results: Sequence[Result], board: Board, folder: Path) -> None:
    """Write the folder. Each file replaces its predecessor in one step; the provenance comes last.

    Raises ValueError without results, or where they don't belong in one table (`ranking.scenarios`).
    """
    if not results:
        raise ValueError("there is nothing to publish: no results")
    records = [json.loads(r.to_json()) for r in sorted(results, key=lambda r: (r.task, r.attack, r.defense, r.seed))]
    frame = scenarios(map(Result.model_validate, records))
    tables = {"defenses.csv": defense_table(frame, board), "attacks.csv": all_attacks(frame, board)}
    for record in records:
        record |= {field: json.dumps(record[field], separators=(",", ":")) for field in NESTED}
    buffer = io.BytesIO()
    pd.DataFrame(records).to_parquet(buffer, index=False, compression="zstd")
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / SCENARIOS, buffer.getvalue())
    for name, table in tables.items():
        _replace(folder / name, table.to_csv(index=False).encode())
    provenance = _provenance(results) | {
        "board": asdict(board),
        "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
    }
    _replace(folder / PROVENANCE, json.dumps(provenance, indent=2, sort_keys=True).encode() + b"\n")


def load(folder: Path) -> list[Result]:
    """The results of a published folder; [] where nothing was published.

    Raises ValueError, in one line, where the Parquet file is not the one that the provenance names.
    """
    path = folder / SCENARIOS
    if not path.exists():
        return []
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != provenance(folder).get("sha256"):
        raise ValueError(f"{path} is not what was published (half written or changed): publish again")
    try:
        frame = pd.read_parquet(io.BytesIO(data))
        heads = frame.drop(columns=list(NESTED)).to_dict("records")
        nested = frame[list(NESTED)].to_dict("records")
        return [Result.model_validate_json(_join(*pair)) for pair in zip(heads, nested, strict=True)]
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise ValueError(f"{path} holds no results: {str(error).splitlines()[0]}") from None


def _join(flat: dict[Any, Any], nested: dict[Any, Any]) -> str:
    """One record as JSON. The nested fields are JSON already: parsing them once, here, is 3 times faster."""
    return json.dumps(flat)[:-1] + "".join(f',"{name}":{text}' for name, text in nested.items()) + "}"


def provenance(folder: Path) -> dict[str, object]:
    """What `publish` wrote about itself; {} where it is missing or no JSON object."""
    try:
        found = json.loads((folder / PROVENANCE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def all_attacks(frame: pd.DataFrame, board: Board) -> pd.DataFrame:
    """The attacks of every task in one table."""
    tables = [attack_table(frame, board, task) for task in TASK_METRICS]
    return pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)


def _provenance(results: Sequence[Result]) -> dict[str, object]:
    """What the results say of where they come from; several machines or versions are all listed."""
    first = results[0]

    def seen(name: str) -> list[str]:
        return sorted({r.provenance[name] for r in results if name in r.provenance})

    return {
        "protocol": first.protocol,
        "protocol_digest": first.protocol_digest,
        "results": len(results),
        "statuses": dict(Counter(r.status for r in results)),
        "trust": dict(Counter(r.trust for r in results)),
        "attacks": len({r.attack for r in results if r.attack}),
        "defenses": len({r.defense for r in results}),
        "seeds": sorted({r.seed for r in results}),
        "hours": round(sum(r.cost.get("train_seconds", r.cost.get("seconds", 0)) for r in results) / 3600, 3),
        "first_finished": min(r.finished for r in results),
        "last_finished": max(r.finished for r in results),
        # What differs from one result to the next says nothing of the whole.
        "seen": {n: seen(n) for n in sorted({n for r in results for n in r.provenance}) if 0 < len(seen(n)) <= 8},
    }


def _replace(path: Path, data: bytes) -> None:
    """Write beside the file, then rename over it: a reader sees the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
