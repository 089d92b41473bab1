"""Attribute inference from posteriors: what of an attribute is left in the target's answers, behind all guards.

The perceptron of `attribute_mlp` (ML-DOCTOR, section 5.2) reads the log-posteriors in the place of the embedding, which takes no
more than black-box access. It learns on the answers to shadow data. A posterior below e^-20 counts as e^-20: guards may answer 0.
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


class AttributePosteriors(AttributeAttack):
    """Learns on answers to shadow data; the mean posterior of three networks, one an attack seed, decides."""

    card = Card(
        title="Attribute perceptron on posteriors",
        authors=("Congzheng Song", "Vitaly Shmatikov"),
        reference="Overlearning Reveals Sensitive Attributes, ICLR 2020, arXiv:1905.11742",
        year=2020,
    )
    access = "posterior"
    needs = frozenset({"shadow"})

    class Params(Hyper):
        """The paper's recipe for embeddings."""

        epochs: Annotated[int, Field(ge=1), Search(20, 200)] = 50
        learning_rate: Annotated[float, Field(gt=0), Search(1e-4, 1e-2, log=True)] = 1e-3

    @property
    def embedding(self) -> Literal["posteriors"]:
        """The target's answers."""
        return "posteriors"

    def fit(self, knowledge: Knowledge) -> None:
        """Train on the answers to the shadow training data and their attributes."""
        data = knowledge.embeddings
        assert data is not None
        generator = knowledge.generator("attribute_posteriors")
        self.network = Perceptron(data.x.shape[1], (64,), data.values, generator=generator).fit(
            data.x.clamp_min(-20),
            data.attribute,
            epochs=self.params.epochs,
            batch_size=64,
            learning_rate=self.params.learning_rate,
            optimizer="adam",
            weight_decay=0.0,
        )

    def predict(self, embeddings: Tensor) -> Tensor:
        """Attributes (n,) int64 from log-posteriors (n, k)."""
        return self.network.log_posteriors(embeddings.clamp_min(-20)).exp().mean(0).argmax(1)
