"""The files that `leakboard new dataset` and `leakboard new protocol` write: they work as they are."""

from __future__ import annotations

from benchmark.data.dataset import Data
from benchmark.data.prepared import Prepared

DATASET = '''"""NAME: say here what the images show."""

from collections.abc import Iterable
from pathlib import Path

from benchmark.data.layouts import any_layout
from benchmark.data.source import Item, Source

source = Source(  # literals alone: they are read without running this file
    title="NAME",
    terms="not stated",  # the licence of the images
    get="not published; --from names the folder",
    views={"32": (3, 32, 32), "32-grey": (1, 32, 32)},  # (channels, height, width) by name
    # attributes={"gender": 2},  # how many values each attribute has; each Item then says which
    simple={"pad": 4, "flip": True},  # flip: does a mirrored image still show its class?
)


def read(folder: Path) -> Iterable[Item]:
    """Class folders, an .npz, images.npy and labels.npy, or Parquet with image bytes.

    For anything else, yield Item(path, bytes or array; label; attributes; part), always in the same order.
    """
    return any_layout(folder)
'''

_PROTOCOL = """name: {name}
about: >-
  Say here what this protocol measures: {samples} images of {classes} classes.
leaves_out: >-
  Say here what it leaves out.
dataset: {dataset}
split:
  scheme: six-way
  size: {size}
  digests: {{}}
seeds: [0, 1, 2]
architecture: {network}
evaluator: simple_cnn
recipe:
  learning_rate: 0.05
  epochs: 25
  batch_size: 32
  ensemble: 4
references: {{online: 8, offline: 4}}
{attribute}attacks: [random_scores, loss, metric_ment, lira{attribute_attacks}]
defenses: [undefended, "label_smoothing{epsilon}", constant_output]
baseline: undefended
utility_floor: 0.0
rank_by: [tpr_at_fpr_0.01, auc]
"""
_ATTRIBUTE_ATTACKS = (
    ', attribute_mlp, "attribute_mlp[embedding=untrained]", attribute_null, "attribute_null[guess=majority]"'
)


_LEAST_CLASSES = 6
"""Below so many the default of label smoothing (epsilon .8) would not leave the true class the likeliest."""


def protocol_text(name: str, dataset: str, data: Data, network: str) -> str:
    """A protocol for a data set and a network, without its digests: six parts of at most 500 images, and the first of its attributes."""
    id, _, view = dataset.partition("/")
    pinned = f"{{id: {id}, view: {view!r}, digest: ''}}" if view else f"{dataset}\ndata_digest: ''"
    size = min(500, len(data) // 6)
    epsilon = "" if data.classes >= _LEAST_CLASSES else "[epsilon=0.4]"
    attribute = next(iter(data.attributes), "") if isinstance(data, Prepared) else ""
    return _PROTOCOL.format(
        name=name, samples=len(data), classes=data.classes, dataset=pinned, size=size, epsilon=epsilon, network=network,
        attribute=f"attribute: {attribute}\n" if attribute else "", attribute_attacks=_ATTRIBUTE_ATTACKS if attribute else "",
    )  # fmt: skip
