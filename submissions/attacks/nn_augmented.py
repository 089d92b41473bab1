"""The augmented attack: NN-top3 on ten simply augmented views of each sample (MEMBERSHIP-DOCTOR, section 4.5).

A target that was trained with augmentation has seen views of its members. The perceptron reads the three largest
posteriors of each view in descending order; views are sorted by their largest posterior. Views depend on the sample's
pixels alone, so they are the same for shadow model and target. They are made by the data set's simple augmentation,
even where the target was trained with another one.
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


class NNAugmented(Attack):
    """Membership from the posteriors of augmented views, learnt on the shadow world; 64-32-2, three attack seeds."""

    card = Card(
        title="NN-augmented",
        authors=("Xinlei He", "Zheng Li", "Weilin Xu", "Cory Cornelius", "Yang Zhang"),
        reference="MEMBERSHIP-DOCTOR, arXiv:2208.10445",
        year=2022,
    )
    access = "posterior"
    needs = frozenset({"shadow"})
    calibrate = "own"

    class Params(Hyper):
        """The paper's recipe: SGD, momentum 0.9, cosine schedule, batches of 128."""

        views: Annotated[int, Field(ge=1, le=64), Search(2, 20)] = 10
        epochs: Annotated[int, Field(ge=1), Search(20, 200)] = 100
        learning_rate: Annotated[float, Field(gt=0), Search(1e-3, 1e-1, log=True)] = 1e-2

    def fit(self, knowledge: Knowledge) -> None:
        """Train on the shadow target's answers to its members and non-members."""
        world = knowledge.shadow
        assert world is not None
        self.views = knowledge.views
        x = torch.cat([self._features(world.target, part.x) for part in (world.members, world.nonmembers)])
        member = (torch.arange(len(x)) < len(world.members)).long()
        network = Perceptron(x.shape[1], (64, 32), 2, generator=knowledge.generator("nn_augmented"))
        self.network = network.fit(x, member, epochs=self.params.epochs, learning_rate=self.params.learning_rate)

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Log-odds of membership (3, n)."""
        answer = self.network.log_posteriors(self._features(target, candidates.x))
        return answer[..., 1] - answer[..., 0]

    def _features(self, target: Target, x: Tensor) -> Tensor:
        """The three largest posteriors of each view (n, 3 * views); the two of data with two classes (n, 2 * views)."""
        answers = [target.log_posteriors(view).exp() for view in self.views(x, self.params.views)]
        triples = torch.stack([a.topk(min(3, a.shape[1])).values for a in answers], 1)
        order = triples[..., 0].argsort(dim=1, descending=True, stable=True)
        return triples.gather(1, order.unsqueeze(2).expand_as(triples)).flatten(1)
