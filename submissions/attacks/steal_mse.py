"""Model stealing: a copy that imitates the target's posteriors (ML-DOCTOR, section 5.2; Tramer et al. 2016).

The target answers each auxiliary image once. The copy has the target's architecture and is trained on the
squared distance between its posteriors and these answers. The defaults are the paper's, for thousands of
queries; with a few hundred use `learning_rate=0.1`. `as_released`: the copy's logits, not its posteriors, learn the answers, by
the mean over classes; the released code also takes 100 epochs.

The squared distance of flat answers is small, and so are its gradients: from a target that was trained on soft labels the recipe
learns little in its 50 epochs. `steal_posteriors` has the losses for which that is not so.
"""

from collections.abc import Callable

from torch import nn

from benchmark.api import (
    Annotated,
    Card,
    Field,
    Hyper,
    Knowledge,
    Samples,
    Search,
    StealingAttack,
    Target,
    train_copy,
)


class StealMSE(StealingAttack):
    """Uses the images of the auxiliary data, not their labels."""

    card = Card(
        title="Stealing by posteriors",
        authors=("Florian Tramer", "Fan Zhang", "Ari Juels", "Michael K. Reiter", "Thomas Ristenpart"),
        reference="Stealing Machine Learning Models via Prediction APIs, USENIX Security 2016, arXiv:1609.02943",
        year=2016,
    )
    access = "posterior"
    needs = frozenset({"shadow"})

    class Params(Hyper):
        """The paper's recipe: SGD, momentum 0.9, batches of 64."""

        epochs: Annotated[int, Field(ge=1), Search(10, 100)] = 50
        learning_rate: Annotated[float, Field(gt=0), Search(1e-3, 1.0, log=True)] = 1e-2
        as_released: bool = False

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the device and the generator that shuffles."""
        self.device, self.generator = knowledge.device, knowledge.generator("steal")

    def steal(self, target: Target, queries: Samples, build: Callable[..., nn.Module]) -> nn.Module:
        """The trained copy, in eval mode on the scenario's device."""
        return train_copy(
            build().to(self.device),
            queries.x,
            target.log_posteriors(queries.x),
            loss="mse-released" if self.params.as_released else "mse",
            epochs=self.params.epochs,
            learning_rate=self.params.learning_rate,
            generator=self.generator,
        )
