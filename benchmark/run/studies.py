"""Reads Optuna's studies, from its database or from a published file. Nothing here trains or proposes trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from benchmark import places
from benchmark.addresses import checked, shown, sqlite_file
from benchmark.errors import UserError
from benchmark.text import NAME, contents, parse_json, plain

LARGEST = 4 << 20
"""Bytes of a studies.json at most; a trial takes some 200."""
_Rate = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
_Text = Annotated[str, Field(max_length=2000)]


class Trial(NamedTuple):
    """One finished trial. Numbers are means over the tuning seeds."""

    defense: _Text
    accuracy: _Rate
    leakage: _Rate
    """The worst case over the attacks."""
    decides: _Text
    """The attack that reaches the worst case."""
    by_attack: Annotated[Mapping[_Text, _Rate], Field(max_length=1000)]


@dataclass(frozen=True)
class Study:
    """One study, with those of its trials that were attacked; `leakage` is the metric that they minimise."""

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
    except UserError as error:
        raise ConnectionError(str(error)) from None
    except Exception as error:  # SQLAlchemy and its drivers raise many kinds, and a study may hold anything
        text = plain(shown(" ".join(str(error).split())), 200)
        raise ConnectionError(f"Optuna's studies at {shown(url)} can't be read: {text}") from None


def published(folder: Path, protocol: str) -> list[Study]:
    """The studies in a protocol's published folder, by name; [] without a file. Raises ValueError, in one line.

    Anybody may have written the file: numbers must be rates, texts and lists are bounded, and no key may repeat.
    """
    path = folder / PUBLISHED
    try:
        studies = TypeAdapter(list[Study]).validate_python(parse_json(contents(path, LARGEST)))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(f"{path} holds no studies: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path} holds no studies: {plain(f'{where}: ' * bool(where) + first['msg'], 200)}") from None
    except ValueError as error:
        raise ValueError(f"{path} holds no studies: {plain(str(error), 300)}") from None
    return sorted(
        map(_printable, (s for s in studies if s.name.startswith(f"{protocol} "))), key=lambda study: study.name
    )


def together(studies: Iterable[Study]) -> list[Study]:
    """One study for each name, with the trials of all of that name: each machine makes one of its own."""
    merged: dict[str, Study] = {}
    for study in studies:
        known = merged.get(study.name, replace(study, trials=()))
        new_trials = tuple(t for t in study.trials if t not in known.trials)
        merged[study.name] = replace(study, trials=known.trials + new_trials)
    return sorted(merged.values(), key=lambda study: study.name)


def as_file(studies: Iterable[Study]) -> bytes:
    """Studies as the JSON that `published` reads."""
    return TypeAdapter(list[Study]).dump_json(list(studies)) + b"\n"


def _read(url: str, protocol: str) -> list[Study]:
    from optuna.storages import RDBStorage
    from optuna.trial import TrialState

    storage = RDBStorage(url, skip_table_creation=True)
    try:
        studies = []
        for study in storage.get_all_studies():
            # `tuning.Tuning.name`: the protocol, the chain and a digest, none of which holds a space.
            words = study.study_name.split(" ")
            if len(words) < 3 or words[0] != protocol:
                continue
            attributes = study.user_attrs
            trials = storage.get_all_trials(study._study_id, deepcopy=False, states=(TrialState.COMPLETE,))
            name, chain, leakage = study.study_name, " ".join(words[1:-1]), str(attributes.get("leakage", ""))
            attacks = tuple(str(a) for a in attributes.get("attacks", ()))
            studies.append(_printable(Study(name, chain, leakage, attacks, tuple(_trial(t) for t in trials))))
        return studies
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _trial(trial: Any) -> Trial:
    attributes = trial.user_attrs
    by_attack = {str(k): float(v) for k, v in attributes.get("by_attack", {}).items()}
    accuracy, leakage = map(float, trial.values)
    return Trial(str(attributes["defense"]), accuracy, leakage, str(attributes["decides"]), by_attack)


def _printable(study: Study) -> Study:
    """The study with its names made safe to show."""

    def printable_trial(trial: Trial) -> Trial:
        by_attack = {plain(k, NAME): v for k, v in trial.by_attack.items()}
        return trial._replace(
            defense=plain(trial.defense, NAME), decides=plain(trial.decides, NAME), by_attack=by_attack
        )

    name, defense, *attacks = (plain(text, NAME) for text in (study.name, study.defense, *study.attacks))
    return Study(name, defense, study.leakage, tuple(attacks), tuple(map(printable_trial, study.trials)))
