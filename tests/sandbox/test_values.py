"""What crosses to an attack arrives as it was, whatever its fields; what stays is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from benchmark.api import Candidates, Embeddings, Knowledge, References, Samples, Target, World
from benchmark.sandbox.values import flatten, restore

SAMPLES = Samples(torch.rand(3, 1, 2, 2), torch.arange(3))


def there(value: Any) -> tuple[Any, list[Any]]:
    """The value on the other side, and what stayed on this one."""
    stayed: list[Any] = []
    tensors: dict[str, torch.Tensor] = {}

    def stay(what: Any) -> Any:
        stayed.append(what)
        return {"stays": len(stayed) - 1}

    node = json.loads(json.dumps(flatten(value, tensors, stay)))
    return restore(node, tensors, lambda found: stayed[found["stays"]]), stayed


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 2**62, -1.5, "a", [1, [2]], (1, (2, "x")), {"a": (1,), "tensor": 3}, [], torch.device("cpu")],
)
def test_plain_values_arrive_with_their_types(value: Any) -> None:
    found, stayed = there(value)
    assert found == value and type(found) is type(value) and not stayed


def test_every_field_of_the_contracts_dataclasses_arrives() -> None:
    target = Target()
    knowledge = Knowledge(
        10, (1, 2, 2), 2**62, torch.device("cpu"), {"pad": 2, "flip": True}, shadow=World(target, SAMPLES, SAMPLES),
        partial=World(target, SAMPLES, SAMPLES), embeddings=Embeddings(torch.rand(2, 4), torch.arange(2), torch.arange(2)),
        auxiliary=SAMPLES, certificate=0.1,
    )  # fmt: skip
    found, stayed = there(knowledge)
    assert stayed == [target, target] and found.shadow.target is target
    for name in ("classes", "shape", "seed", "device", "simple", "certificate"):
        assert getattr(found, name) == getattr(knowledge, name), name
    pairs = [(found.auxiliary, SAMPLES), (found.shadow.members, SAMPLES), (found.partial.nonmembers, SAMPLES)]
    pairs.append((found.embeddings, knowledge.embeddings))
    for mine, yours in pairs:
        assert type(mine) is type(yours)
        for name, value in vars(yours).items():
            assert (
                torch.equal(vars(mine)[name], value) if isinstance(value, torch.Tensor) else vars(mine)[name] == value
            ), name


def test_reference_models_stay_and_are_named_with_how_many_they_are() -> None:
    references = References(torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, 4, dtype=torch.float64), abs)  # type: ignore[arg-type]
    (candidates, found), stayed = there((Candidates(SAMPLES.x, SAMPLES.y, torch.arange(3)), references))
    assert stayed == [references], "the models themselves, so that who names them knows their number"
    assert torch.equal(found.log_posteriors, references.log_posteriors)
    assert torch.equal(candidates.id, torch.arange(3))
