"""Model stealing by posteriors: a copy learns the target's posteriors on shadow images (Orekondy et al. 2019; Tramer et al. 2016).

The target answers each image once, at most `queries` of them; rows of several budgets are the curve. `loss`: cross-entropy and kl
have equal gradients (Knockoff Nets); mse is ML-DOCTOR's; logits compares the logits that posteriors leave, scaled to one size, so
that answers which a defense has flattened teach as much as sure ones. `choose`: images at random, or in rounds, those of which the
copy so far is least sure, or those that differ most from what was asked (Pal et al. 2019, arXiv:1905.09165). Under `augment` an
image keeps its answer in all its views, which asks nothing more of the target. `architecture`: another network than the target's.

The defaults are the best of a few that were tried on one seed of 2,000 Fashion-MNIST images a part, on an undefended target and on
such as were trained on soft labels. There, views made copies worse of a target that was trained without them.

Differences: Knockoff Nets chooses by reinforcement learning from images of another kind; here the pool is shadow data.
"""

from collections.abc import Callable

from torch import nn

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
    copy_by_asking,
)


class StealPosteriors(StealingAttack):
    """Uses the images of the auxiliary data, not their labels."""

    card = Card(
        title="Stealing by chosen queries",
        authors=("Tribhuvanesh Orekondy", "Bernt Schiele", "Mario Fritz"),
        reference="Knockoff Nets: Stealing Functionality of Black-Box Models, CVPR 2019, arXiv:1812.02766",
        year=2019,
    )
    access = "posterior"
    needs = frozenset({"shadow"})

    class Params(Hyper):
        """`queries`: images asked about at most, None for all that there are; `rounds` counts where they are chosen.

        The learning rate suits `logits`; the gradients of the other losses ask for 0.01. The temperature is that of cross-entropy and kl.
        """

        loss: Literal["cross-entropy", "kl", "mse", "logits"] = "logits"
        temperature: Annotated[float, Field(gt=0), Search(0.5, 20, log=True)] = 1.0
        queries: Annotated[int | None, Field(ge=1)] = None
        choose: Literal["random", "uncertain", "diverse"] = "random"
        rounds: Annotated[int, Field(ge=2), Search(2, 10)] = 4
        augment: bool = False
        architecture: Literal[None, "small_cnn", "simple_cnn", "resnet18", "vgg11"] = None
        epochs: Annotated[int, Field(ge=1), Search(10, 100)] = 50
        learning_rate: Annotated[float, Field(gt=0), Search(1e-3, 0.3, log=True)] = 0.1

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the device, the generators and the simple augmentation."""
        self.knowledge = knowledge

    def steal(self, target: Target, queries: Samples, build: Callable[..., nn.Module]) -> nn.Module:
        """The trained copy, in eval mode on the scenario's device."""
        return copy_by_asking(target.log_posteriors, queries.x, build, self.knowledge, **self.params.model_dump())
