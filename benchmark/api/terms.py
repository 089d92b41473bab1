"""The words in which an entry declares itself, and the types of functions that pass between it and the judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Access = Literal["label", "posterior", "white-box"]
"""What a target gives: predicted labels; also posteriors; also its network. Each level includes the ones before it."""

Need = Literal["shadow", "partial", "references-online", "references-offline", "certificate"]
"""Auxiliary knowledge that an attack asks for.

shadow: a shadow world, or what of it the kind of attack learns from (`from_shadow`). partial: known members and
non-members of the target; for attribute inference and stealing known members alone, in the place of shadow data. references-online: reference models trained on halves of the population that the candidates come from.
references-offline: reference models trained on shadow data alone. certificate: the radius that the target is certified
for; where there is none, the attack does not apply.
"""

ShadowField = Literal["shadow", "embeddings", "auxiliary"]
"""The field of `Knowledge` that the need "shadow" fills: the shadow world, embeddings of its training data, or that data."""

Calibrate = Literal["shadow", "own", "none"]
"""The decision threshold: set by the judge on the shadow world; the attack's own rule, score > 0; or none, and no accuracy then."""

Stage = Literal["training", "pre-inference", "post-inference"]
"""Where a defense acts: on training, on queries before inference, on answers after it. The last two are guards."""

Extra = Literal["reference", "validation"]
"""Data of the reference part that a defense reads besides the training set (RULES 6)."""

Predict = Callable[[Tensor], Tensor]
"""Images (n, c, h, w) float32 in [0, 1] -> log-posteriors (n, k) float64."""

Make = Callable[[torch.Generator], dict[str, Tensor]]
"""Makes what is stored for an attack, by name, from a generator on the CPU (`Knowledge.artifact`)."""
