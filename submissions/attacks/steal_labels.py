"""Model stealing by labels: a copy learns the labels that the target predicts of shadow images (Correia-Silva et al. 2018).

As `steal_posteriors`, with no more than a label for an answer: a label counts as a posterior of 1. The target labels each image
once, at most `queries` of them. Under `augment` an image keeps its label in all its views, which asks nothing more.

Differences: Copycat CNN labels images of other kinds by the million; here the pool is shadow data.
"""

from collections.abc import Callable

from torch import Tensor, nn

from benchmark.api import (
    Annotated,
    Card,
    Field,
    Hyper,
    Knowledge,
    Literal,
    Samples,
    Search,
    StealingAttack,
    Target,
    certain,
    copy_by_asking,
)


class StealLabels(StealingAttack):
    """Uses the images of the auxiliary data, not their labels."""

    card = Card(
        title="Stealing by labels",
        authors=("Correia-Silva", "Berriel", "Badue", "de Souza", "Oliveira-Santos"),
        reference="Copycat CNN: Stealing Knowledge by Persuading Confession with Random Non-Labeled Data, IJCNN 2018, arXiv:1806.05476",
        year=2018,
    )
    access = "label"
    needs = frozenset({"shadow"})

    class Params(Hyper):
        """`queries`: images asked about at most, None for all that there are; `rounds` counts where they are chosen."""

        queries: Annotated[int | None, Field(ge=1)] = None
        choose: Literal["random", "uncertain", "diverse"] = "random"
        rounds: Annotated[int, Field(ge=2), Search(2, 10)] = 4
        augment: bool = False
        architecture: Literal[None, "small_cnn", "simple_cnn", "resnet18", "vgg11"] = None
        epochs: Annotated[int, Field(ge=1), Search(10, 100)] = 50
        learning_rate: Annotated[float, Field(gt=0), Search(1e-3, 0.3, log=True)] = 0.01

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the device, the generators and the simple augmentation."""
        self.knowledge = knowledge

    def steal(self, target: Target, queries: Samples, build: Callable[..., nn.Module]) -> nn.Module:
        """The trained copy, in eval mode on the scenario's device."""
        known = self.knowledge

        def ask(x: Tensor) -> Tensor:
            return certain(target.labels(x), known.classes)

        return copy_by_asking(ask, queries.x, build, known, loss="cross-entropy", **self.params.model_dump())
