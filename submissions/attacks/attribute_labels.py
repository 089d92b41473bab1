"""Attribute inference from predicted labels: the commonest value of the attribute among shadow data of the label.

From one label of k no attack does better than the commonest value (it is Bayes's rule under the frequencies). What it finds beyond
the guess by the true label (`attribute_null`) lies in the target's errors.
"""

import torch
from torch import Tensor

from benchmark.api import AttributeAttack, Card, Knowledge, Literal


class AttributeLabels(AttributeAttack):
    """Counts attributes by the label that the target predicts; a label that it never gave gets the commonest value of all."""

    card = Card(
        title="Attribute from predicted labels",
        authors=("Leakboard",),
        reference="Bayes's rule on the labels of shadow data",
        year=None,
    )
    access = "label"
    needs = frozenset({"shadow"})

    @property
    def embedding(self) -> Literal["predicted"]:
        """The labels that the target predicts."""
        return "predicted"

    def fit(self, knowledge: Knowledge) -> None:
        """Find the commonest value for each label."""
        data = knowledge.embeddings
        assert data is not None
        counts = torch.zeros(knowledge.classes, data.values, dtype=torch.int64)
        counts.index_put_((data.x.argmax(1), data.attribute), torch.ones_like(data.attribute), accumulate=True)
        counts[counts.sum(1) == 0] = counts.sum(0)
        self.commonest = counts.argmax(1)

    def predict(self, embeddings: Tensor) -> Tensor:
        """Attributes (n,) int64 from one-hot labels (n, k)."""
        return self.commonest[embeddings.argmax(1)]
