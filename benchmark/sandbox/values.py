"""What the contract hands to an attack, as it crosses to a sandbox: values of its dataclasses, whatever their names and depth.

Tensors travel beside the JSON. Targets, reference models and what builds a network stay where they are: the other side
gets a stand-in that calls back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmark import api
from benchmark.api import References
from benchmark.sandbox.wire import Tensors

PLAIN = (bool, int, float, str, type(None))
"""What JSON holds as it is."""


def flatten(value: Any, tensors: Tensors, stay: Callable[[Any], Any]) -> Any:
    """JSON for a value; its tensors are added to `tensors`. `stay` makes JSON of what does not travel."""

    def inner(part: Any) -> Any:
        return flatten(part, tensors, stay)

    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, tuple | list):
        return {"list": [inner(part) for part in value], "tuple": isinstance(value, tuple)}
    if isinstance(value, Mapping):
        return {"mapping": {name: inner(part) for name, part in value.items()}}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if dataclasses.is_dataclass(value) and type(value).__name__ in api.__all__:
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if isinstance(value, References):
            fields["ask"] = value  # its answers grow with its models: who asks must know how many there are
        inside = {name: stay(part) if name == "ask" else inner(part) for name, part in fields.items()}
        return {"contract": type(value).__name__, "fields": inside}
    return stay(value)


def restore(node: Any, tensors: Tensors, stand_in: Callable[[Any], Any]) -> Any:
    """The value again. `stand_in` makes what takes the place of a value that stayed, from what `stay` made of it."""

    def inner(part: Any) -> Any:
        return restore(part, tensors, stand_in)

    if isinstance(node, PLAIN):
        return node
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "list" in node:
        parts = [inner(part) for part in node["list"]]
        return tuple(parts) if node["tuple"] else parts
    if "mapping" in node:
        return {name: inner(part) for name, part in node["mapping"].items()}
    if "device" in node:
        return torch.device(node["device"])
    if "contract" in node:
        return getattr(api, node["contract"])(**{name: inner(part) for name, part in node["fields"].items()})
    return stand_in(node)
