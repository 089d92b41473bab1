"""The record: what it holds, and what it refuses."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from benchmark.result import Picture, Result


def test_a_picture_is_what_was_drawn() -> None:
    images = np.random.default_rng(0).random((3, 2, 4, 5))
    picture = Picture.of(images)
    assert picture.shape == (3, 4, 5, 2)
    assert np.abs(picture.array() / 255 - images.transpose(0, 2, 3, 1)).max() <= 0.5 / 255 + 1e-9
    assert Picture.model_validate_json(picture.model_dump_json()) == picture


@pytest.mark.parametrize(
    "given",
    [{"shape": (1, 2, 2, 1), "pixels": "AAAA"}, {"shape": (0, 2, 2, 1), "pixels": ""}, {"shape": (1, 1, 1, 3), "pixels": "<b>!"}],
    ids=["short", "empty", "no base64"],
)  # fmt: skip
def test_a_picture_that_is_none_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected pixels"):
        Picture(**given)


@pytest.mark.parametrize("field", ["null_auc", "null_tpr"])
@pytest.mark.parametrize("values", [[math.nan], [0.5, math.nan, 0.6], [0.5, math.inf], [0.5, -0.1], [True], ["0.5"]])
def test_a_list_holds_numbers_within_bounds(field: str, values: list[Any]) -> None:
    record = {"key": "k", "protocol": "p", "protocol_digest": "d", "task": "membership", "attack": "a", "defense": "b"}
    record |= {"dataset": "digits", "architecture": "small_cnn", "seed": 0, "status": "ok"}
    assert Result.from_fields(record | {field: [0.5, 0.6]})
    with pytest.raises(ValueError, match=f"{field}: expected numbers from 0 to 1"):
        Result.from_fields(record | {field: values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"auc": [0.5]}, "values: auc: expected a list of 2 to 4096"),
        ({"auc": [0.5, 1.5]}, "values: auc: expected numbers from 0 to 1"),
        ({"leak": [0.5, 0.6]}, "values: expected a metric that this version knows, given 'leak'"),
        ([0.5, 0.6], "values: expected metrics by name"),
    ],
)
def test_values_of_targets_are_metrics_within_bounds(values: Any, message: str) -> None:
    record = {"key": "k", "protocol": "p", "protocol_digest": "d", "task": "membership", "attack": "a", "defense": "b"}
    record |= {"dataset": "digits", "architecture": "small_cnn", "seed": 0, "status": "ok"}
    assert Result.from_fields(record | {"values": {"auc": [0.5, 0.6]}}).values == {"auc": (0.5, 0.6)}
    with pytest.raises(ValueError, match=re.escape(message)):
        Result.from_fields(record | {"values": values})
