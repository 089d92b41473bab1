"""How arguments of an attack (`Knowledge`, `Candidates`, ...) cross to a sandbox: JSON, with the tensors beside it.

The contract's dataclasses are sent field by field, at any depth. Targets, reference models, network builders and the store stay
with the judge: JSON holds a handle, and the other side gets a stand-in that calls back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmark import api
from benchmark.api import Knowledge, References
from benchmark.sandbox.wire import Tensors

PLAIN = (bool, int, float, str, type(None))
"""Types that JSON holds unchanged."""


def flatten(value: Any, tensors: Tensors, make_handle: Callable[[Any], Any]) -> Any:
    """A value as JSON; its tensors are added to `tensors`.

    `make_handle` gives the JSON of an object that stays here.
    """

    def encode(part: Any) -> Any:
        return flatten(part, tensors, make_handle)

    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value
        return {"tensor": key}
    if isinstance(value, tuple | list):
        return {"list": [encode(part) for part in value], "tuple": isinstance(value, tuple)}
    if isinstance(value, Mapping):
        return {"mapping": {key: encode(part) for key, part in value.items()}}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if dataclasses.is_dataclass(value) and type(value).__name__ in api.__all__:
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if fields.get("artifact") is Knowledge.artifact:
            del fields["artifact"]  # the other side has the same refusal
        if isinstance(value, References):
            fields["ask"] = (
                value  # an answer grows with the number of models, so the handle must tell how many there are
            )
        encoded = {
            name: make_handle(part) if name in ("ask", "artifact") else encode(part) for name, part in fields.items()
        }
        return {"contract": type(value).__name__, "fields": encoded}
    return make_handle(value)


def restore(node: Any, tensors: Tensors, make_stand_in: Callable[[Any], Any]) -> Any:
    """The inverse of `flatten`. `make_stand_in` turns the handle of an object that stayed into its replacement here."""

    def decode(part: Any) -> Any:
        return restore(part, tensors, make_stand_in)

    if isinstance(node, PLAIN):
        return node
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "list" in node:
        parts = [decode(part) for part in node["list"]]
        return tuple(parts) if node["tuple"] else parts
    if "mapping" in node:
        return {name: decode(part) for name, part in node["mapping"].items()}
    if "device" in node:
        return torch.device(node["device"])
    if "contract" in node:
        return getattr(api, node["contract"])(**{name: decode(part) for name, part in node["fields"].items()})
    return make_stand_in(node)
