"""Stand-ins are prepared data sets of the right shape, with every class in every part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark import data as datasets
from benchmark.data import standin
from benchmark.data.source import find
from benchmark.data.splits import draw
from benchmark.errors import UserError
from benchmark.protocol import Split


@pytest.mark.parametrize(
    ("name", "split", "size", "counts"),
    [
        ("celeba/32", Split(scheme="four-way"), 8, [8, 8, 8, 8]),
        ("svhn/32", Split(scheme="official", size=5000), 10, [10, 10, 10]),
        ("cifar10/32", Split(scheme="official"), 10, [10, 10]),
        ("utkface/200", Split(scheme="sizes", size=5000), 5, [5, 5, 5]),
    ],
)
def test_a_stand_in_is_read_as_prepared_data_are(
    name: str, split: Split, size: int, counts: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = standin.facts(name)
    standin.write(tmp_path, known, split, 0, size)
    monkeypatch.setenv("LEAKBOARD_PREPARED", str(tmp_path))
    datasets.refresh()
    try:
        data = datasets.load(name)
    finally:
        monkeypatch.undo()
        datasets.refresh()
    assert (data.shape, data.classes) == (known.shape, known.classes)
    assert set(data.attributes) == set(find(name.partition("/")[0]).source.attributes)  # type: ignore[attr-defined, union-attr]
    parts = draw(split if split.size is None else split.model_copy(update={"size": size}), data, 0)
    assert [len(rows) for rows in parts.values()] == counts
    for rows in parts.values():
        assert np.bincount(data.y[rows].numpy(), minlength=data.classes).min() == 1


def test_what_is_known_of_data_that_are_not_here() -> None:
    known = standin.facts("cifar100/32")
    assert (known.shape, known.classes, known.images, known.parts) == (
        (3, 32, 32),
        100,
        60_000,
        {"train": 50_000, "test": 10_000},
    )
    with pytest.raises(UserError, match="expected one of the views 32"):
        standin.facts("cifar10/31")
