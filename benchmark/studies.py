"""What Optuna's studies hold, for those who only read them: nothing here trains, proposes or writes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.text import NAME, plain


class Trial(NamedTuple):
    """One finished trial: means over the tuning seeds."""

    defense: str
    accuracy: float
    leakage: float
    """The worst case over the attacks."""
    decides: str
    by_attack: Mapping[str, float]


@dataclass(frozen=True)
class Study:
    """The trials of one study that were attacked; `leakage` is "auc" or "tpr_at_fpr_0.01"."""

    name: str
    defense: str
    leakage: str
    attacks: tuple[str, ...]
    trials: tuple[Trial, ...]


def address() -> str:
    """LEAKBOARD_OPTUNA, or SQLite in `mlruns/`: where `leakboard tune` keeps its studies."""
    return os.environ.get("LEAKBOARD_OPTUNA") or "sqlite:///mlruns/optuna.db"


def read(url: str, protocol: str) -> list[Study]:
    """The studies of a protocol, by name; [] where there is no database yet, which is not made.

    Raises ConnectionError, in one line, where the database can't be read.
    """
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return []
    try:
        return sorted(_read(url, protocol), key=lambda study: study.name)
    except Exception as problem:  # SQLAlchemy and its drivers raise many kinds, and a study may hold anything
        text = plain(" ".join(str(problem).split()), 200)
        raise ConnectionError(f"Optuna's studies at {url.split('@')[-1]} can't be read: {text}") from None


def _read(url: str, protocol: str) -> list[Study]:
    from optuna.storages import RDBStorage
    from optuna.trial import TrialState

    storage = RDBStorage(url, skip_table_creation=True)
    try:
        found = []
        for study in storage.get_all_studies():
            # `tuning.Tuning.name`: the protocol, the chain and a digest, none of which holds a space.
            words = study.study_name.split(" ")
            if len(words) < 3 or words[0] != protocol:
                continue
            known = study.user_attrs
            trials = storage.get_all_trials(study._study_id, deepcopy=False, states=(TrialState.COMPLETE,))
            found.append(
                Study(
                    plain(study.study_name, NAME),
                    plain(" ".join(words[1:-1]), NAME),
                    str(known.get("leakage", "")),
                    tuple(plain(str(a), NAME) for a in known.get("attacks", ())),
                    tuple(_trial(t) for t in trials),
                )
            )
        return found
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _trial(trial: Any) -> Trial:
    known = trial.user_attrs
    by_attack = {plain(str(k), NAME): float(v) for k, v in known.get("by_attack", {}).items()}
    accuracy, leakage = map(float, trial.values)
    return Trial(plain(str(known["defense"]), NAME), accuracy, leakage, plain(str(known["decides"]), NAME), by_attack)
