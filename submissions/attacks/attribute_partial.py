"""Attribute inference from embeddings of known members (ML-DOCTOR, section 5.2; Song & Shmatikov 2020).

As `attribute_mlp`, but it learns on members of the target whose attribute is known, in the place of shadow data. Liu et al. find
that this gives little more (section 6.1).
"""

from torch import Tensor

from benchmark.api import (
    Annotated,
    AttributeAttack,
    Card,
    Field,
    Hyper,
    Knowledge,
    Literal,
    Perceptron,
    Search,
)


class AttributePartial(AttributeAttack):
    """Learns on embeddings of known members; the mean posterior of three networks, one an attack seed, decides."""

    card = Card(
        title="Attribute perceptron, partial",
        authors=("Congzheng Song", "Vitaly Shmatikov"),
        reference="Overlearning Reveals Sensitive Attributes, ICLR 2020, arXiv:1905.11742",
        year=2020,
    )
    access = "white-box"
    needs = frozenset({"partial"})

    class Params(Hyper):
        """The paper's recipe. embedding=untrained is the null row: what the bare architecture reveals."""

        embedding: Literal["target", "untrained"] = "target"
        epochs: Annotated[int, Field(ge=1), Search(20, 200)] = 50
        learning_rate: Annotated[float, Field(gt=0), Search(1e-4, 1e-2, log=True)] = 1e-3

    @property
    def embedding(self) -> Literal["target", "untrained"]:
        """The network whose embeddings are attacked."""
        return "untrained" if self.params.embedding == "untrained" else "target"

    def fit(self, knowledge: Knowledge) -> None:
        """Train on the embeddings of the known members and their attributes."""
        data = knowledge.embeddings
        assert data is not None
        generator = knowledge.generator("attribute_partial")
        self.network = Perceptron(data.x.shape[1], (64,), data.values, generator=generator).fit(
            data.x,
            data.attribute,
            epochs=self.params.epochs,
            batch_size=64,
            learning_rate=self.params.learning_rate,
            optimizer="adam",
            weight_decay=0.0,
        )

    def predict(self, embeddings: Tensor) -> Tensor:
        """Attributes (n,) int64."""
        return self.network.log_posteriors(embeddings).exp().mean(0).argmax(1)
