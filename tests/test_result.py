"""The record: what it holds, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmark.result import Picture


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
