"""NN-normal: a perceptron on the posteriors in the order of the classes (MEMBERSHIP-DOCTOR, sections 3.1 and 4.1).

The released code trains by Adam at 1e-3; here the paper's recipe is kept.
"""

import torch
from torch import Tensor

from benchmark.api import (
    Annotated,
    Attack,
    Candidates,
    Card,
    Field,
    Hyper,
    Knowledge,
    Perceptron,
    References,
    Search,
    Target,
)


class NNNormal(Attack):
    """Membership from posteriors without the label, learnt on the shadow world; 64-32-2, three attack seeds."""

    card = Card(
        title="NN-normal",
        authors=("Xinlei He", "Zheng Li", "Weilin Xu", "Cory Cornelius", "Yang Zhang"),
        reference="MEMBERSHIP-DOCTOR, arXiv:2208.10445",
        year=2022,
    )
    access = "posterior"
    needs = frozenset({"shadow"})
    calibrate = "own"

    class Params(Hyper):
        """The paper's recipe: SGD, momentum 0.9, cosine schedule, batches of 128."""

        epochs: Annotated[int, Field(ge=1), Search(20, 200)] = 100
        learning_rate: Annotated[float, Field(gt=0), Search(1e-3, 1e-1, log=True)] = 1e-2

    def fit(self, knowledge: Knowledge) -> None:
        """Train on the shadow target's answers to its members and non-members."""
        world = knowledge.shadow
        assert world is not None
        x = torch.cat([self._features(world.target, part.x) for part in (world.members, world.nonmembers)])
        member = (torch.arange(len(x)) < len(world.members)).long()
        network = Perceptron(x.shape[1], (64, 32), 2, generator=knowledge.generator("nn_normal"))
        self.network = network.fit(x, member, epochs=self.params.epochs, learning_rate=self.params.learning_rate)

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Log-odds of membership (3, n)."""
        answer = self.network.log_posteriors(self._features(target, candidates.x))
        return answer[..., 1] - answer[..., 0]

    @staticmethod
    def _features(target: Target, x: Tensor) -> Tensor:
        return target.log_posteriors(x).exp()
