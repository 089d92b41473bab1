"""ML-DOCTOR's black-box attack with a shadow model (Liu et al. 2022, section 5.2).

A perceptron reads the sorted posteriors and whether the label is right. It is trained on the shadow model's answers to
its own members and non-members. The paper gives each of the two inputs two layers of its own before four common ones;
here both enter one perceptron with the widths of the released code's branches (128-64-2), which can express the same
and needs fewer samples. The paper's learning rate of 1e-5 suits its tens of thousands of samples; with a few thousand
it leaves the weights near their initial values, so the default is 1e-3.
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


class MLDoctorShadow(Attack):
    """Membership from posteriors and the label, learnt on the shadow world; three attack seeds."""

    card = Card(
        title="ML-DOCTOR black-box, shadow",
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
    needs = frozenset({"shadow"})
    calibrate = "own"

    class Params(Hyper):
        """The paper's recipe but for the learning rate: Adam, 50 epochs, batches of 64."""

        epochs: Annotated[int, Field(ge=1), Search(20, 200)] = 50
        learning_rate: Annotated[float, Field(gt=0), Search(1e-5, 1e-2, log=True)] = 1e-3

    def fit(self, knowledge: Knowledge) -> None:
        """Train on the shadow target's answers to its members and non-members."""
        world = knowledge.shadow
        assert world is not None
        x = torch.cat([self._features(world.target, part.x, part.y) for part in (world.members, world.nonmembers)])
        member = (torch.arange(len(x)) < len(world.members)).long()
        generator = knowledge.generator("ml_doctor_shadow")
        self.network = Perceptron(knowledge.classes + 1, (128, 64), 2, generator=generator).fit(
            x,
            member,
            epochs=self.params.epochs,
            batch_size=64,
            learning_rate=self.params.learning_rate,
            optimizer="adam",
            weight_decay=0.0,
        )

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Log-odds of membership (3, n)."""
        answer = self.network.log_posteriors(self._features(target, candidates.x, candidates.y))
        return answer[..., 1] - answer[..., 0]

    @staticmethod
    def _features(target: Target, x: Tensor, y: Tensor) -> Tensor:
        answer = target.log_posteriors(x)
        correct = answer.argmax(1, keepdim=True) == y.unsqueeze(1)
        return torch.cat([answer.exp().sort(1, descending=True).values, correct.to(answer)], 1)
