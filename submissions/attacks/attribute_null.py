"""Null rows of attribute inference (RULES 18): the attribute guessed without the target, from its frequencies in shadow data."""

import torch
from torch import Tensor

from benchmark.api import AttributeAttack, Card, Hyper, Knowledge, Literal


class AttributeNull(AttributeAttack):
    """Guesses the commonest value, of all shadow training data or of those of the sample's class.

    A class that the shadow data lack gets the commonest value of all of them.
    """

    card = Card(
        title="Frequencies, no embedding",
        authors=("Leakboard",),
        reference="Null row of attribute inference",
        year=None,
        null=True,
    )
    access = "label"
    needs = frozenset({"shadow"})

    class Params(Hyper):
        """What the guess looks at: nothing, or the class label."""

        guess: Literal["majority", "label"] = "label"

    @property
    def embedding(self) -> Literal["target", "untrained", "label"]:
        """The class label, which is all that it may look at."""
        return "label"

    def fit(self, knowledge: Knowledge) -> None:
        """Find the commonest value of each class."""
        data = knowledge.embeddings
        assert data is not None
        counts = torch.zeros(knowledge.classes, data.values, dtype=torch.int64)
        counts.index_put_((data.y, data.attribute), torch.ones_like(data.y), accumulate=True)
        alike = counts.sum(1) == 0 if self.params.guess == "label" else torch.ones(knowledge.classes, dtype=torch.bool)
        counts[alike] = counts.sum(0)
        self.commonest = counts.argmax(1)

    def predict(self, embeddings: Tensor) -> Tensor:
        """Attributes (n,) int64 from one-hot labels (n, k)."""
        return self.commonest[embeddings.argmax(1)]
