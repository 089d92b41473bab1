"""Model stealing with partial knowledge: a copy learns the target's posteriors on members that are known (ML-DOCTOR, section 5.2).

As `steal_posteriors`, but the images are known members of the target, which it fits, in the place of shadow data. Liu et al. find
that their sure answers teach less (section 6.1).
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


class StealPartial(StealingAttack):
    """Uses the images of the known members, not their labels."""

    card = Card(
        title="Stealing by known members",
        authors=(
            "Yugeng Liu",
            "Rui Wen",
            "Xinlei He",
            "Ahmed Salem",
            "Zhikun Zhang",
            "Michael Backes",
            "Emiliano De Cristofaro",
            "Mario Fritz",
            "Yang Zhang",
        ),
        reference="ML-DOCTOR, USENIX Security 2022, arXiv:2102.02551",
        year=2022,
    )
    access = "posterior"
    needs = frozenset({"partial"})

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
