"""What a submission's file declares of itself: its card, and its hyperparameters with their ranges."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Card:
    """Who made a method and where it is described. Every argument must be a literal."""

    title: str
    authors: tuple[str, ...]
    reference: str
    year: int | None
    null: bool = False
    """Whether this is a null row: a score that uses nothing of the target, to compare others with (RULES 18)."""


@dataclass(frozen=True)
class Search:
    """The closed range that tuning searches (`log`: on a logarithmic scale), and the paper's own grid. Both lie in the range of `Field`."""

    low: float
    high: float
    log: bool = False
    grid: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pretrained:
    """Marks a hyperparameter that names a diffusion model of the user's (or None), for `training.pretrained`.

    The judge reads the model before any work starts. The model replaces what the hyperparameters `instead_of` set: they must
    stay at their defaults with it.
    """

    instead_of: tuple[str, ...] = ()


class Hyper(BaseModel):
    """Base of every `Params`: unknown names and values out of range are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
