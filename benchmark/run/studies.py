"""What Optuna's studies hold, for those who only read them: nothing here trains or proposes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from benchmark import places
from benchmark.addresses import checked, shown, sqlite_file
from benchmark.errors import UserError
from benchmark.text import NAME, contents, parsed, plain

LARGEST = 4 << 20
"""Bytes of a studies.json: a trial takes some 200."""
_Rate = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
_Text = Annotated[str, Field(max_length=2000)]


class Trial(NamedTuple):
    """One finished trial: means over the tuning seeds."""

    defense: _Text
    accuracy: _Rate
    leakage: _Rate
    """The worst case over the attacks."""
    decides: _Text
    by_attack: Annotated[Mapping[_Text, _Rate], Field(max_length=1000)]


@dataclass(frozen=True)
class Study:
    """The trials of one study that were attacked; `leakage` is "auc" or "tpr_at_fpr_0.01"."""

    name: _Text
    defense: _Text
    leakage: Annotated[str, Field(pattern=r"^(auc|tpr_at_fpr_0\.01)$")]
    attacks: Annotated[tuple[_Text, ...], Field(max_length=1000)]
    trials: Annotated[tuple[Trial, ...], Field(max_length=10_000)]


PUBLISHED = "studies.json"
"""The file of a published folder that holds the studies of its protocol."""


def address() -> str:
    """Where `leakboard tune` keeps its studies. Raises UserError for an address that cannot be read."""
    return places.optuna()


def read(url: str, protocol: str) -> list[Study]:
    """The studies of a protocol, by name; [] where there is no database yet, which is not made.

    Raises ConnectionError, in one line and without a password, where the database can't be read.
    """
    try:
        file = sqlite_file(checked("LEAKBOARD_OPTUNA", url))
        if file is not None and not (file.exists() and file.stat().st_size):
            return []
        return sorted(_read(url, protocol), key=lambda study: study.name)
    except UserError as problem:
        raise ConnectionError(str(problem)) from None
    except Exception as problem:  # SQLAlchemy and its drivers raise many kinds, and a study may hold anything
        text = plain(shown(" ".join(str(problem).split())), 200)
        raise ConnectionError(f"Optuna's studies at {shown(url)} can't be read: {text}") from None


def published(folder: Path, protocol: str) -> list[Study]:
    """The studies of a protocol's published folder, by name; [] without a file. Raises ValueError, in one line.

    Numbers are rates, texts and lists have an end, and no key is there twice: anybody may have written it.
    """
    path = folder / PUBLISHED
    try:
        found = TypeAdapter(list[Study]).validate_python(parsed(contents(path, LARGEST)))
    except FileNotFoundError:
        return []
    except OSError as problem:
        raise ValueError(f"{path} holds no studies: {problem.strerror}") from None
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path} holds no studies: {plain(f'{where}: ' * bool(where) + first['msg'], 200)}") from None
    except ValueError as problem:
        raise ValueError(f"{path} holds no studies: {plain(str(problem), 300)}") from None
    return sorted(map(_shown, (s for s in found if s.name.startswith(f"{protocol} "))), key=lambda study: study.name)


def together(found: Iterable[Study]) -> list[Study]:
    """One study a name, with the trials of all that have it: the same command on another machine makes its own trials."""
    merged: dict[str, Study] = {}
    for study in found:
        before = merged.get(study.name, replace(study, trials=()))
        new = tuple(t for t in study.trials if t not in before.trials)
        merged[study.name] = replace(study, trials=before.trials + new)
    return sorted(merged.values(), key=lambda study: study.name)


def as_file(found: Iterable[Study]) -> bytes:
    """What `published` reads."""
    return TypeAdapter(list[Study]).dump_json(list(found)) + b"\n"


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
            name, chain, leakage = study.study_name, " ".join(words[1:-1]), str(known.get("leakage", ""))
            attacks = tuple(str(a) for a in known.get("attacks", ()))
            found.append(_shown(Study(name, chain, leakage, attacks, tuple(_trial(t) for t in trials))))
        return found
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _trial(trial: Any) -> Trial:
    known = trial.user_attrs
    by_attack = {str(k): float(v) for k, v in known.get("by_attack", {}).items()}
    accuracy, leakage = map(float, trial.values)
    return Trial(str(known["defense"]), accuracy, leakage, str(known["decides"]), by_attack)


def _shown(study: Study) -> Study:
    """With names that are fit to be shown."""

    def fit(trial: Trial) -> Trial:
        by_attack = {plain(k, NAME): v for k, v in trial.by_attack.items()}
        return trial._replace(
            defense=plain(trial.defense, NAME), decides=plain(trial.decides, NAME), by_attack=by_attack
        )

    name, defense, *attacks = (plain(text, NAME) for text in (study.name, study.defense, *study.attacks))
    return Study(name, defense, study.leakage, tuple(attacks), tuple(map(fit, study.trials)))
