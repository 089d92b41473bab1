"""Kinds of attack on a model besides membership, as tests plan and run them."""

from __future__ import annotations

from benchmark.run.audit import images, kinds, live
from benchmark.run.audit.attacks import Released
from benchmark.run.audit.kinds.base import Kind
from benchmark.run.audit.model import Model
from benchmark.run.audit.report import OtherKind
from benchmark.targets.store import Store
from tests.run.audit.worlds import registry


def planned(
    name: str, model: Model, data: images.Images, released: Released, queries: int, store: Store | None = None
) -> Kind:
    """One kind of an audit of this model, whether it runs by default or not."""
    asked = live.ask_all(model, data, registry(), 0, store, queries)
    return next(k for k in kinds.planned(asked, data, registry(), 0, released, (name,)) if k.name == name)


def ran(kind: Kind) -> OtherKind:
    return kinds.run([kind])[0]
