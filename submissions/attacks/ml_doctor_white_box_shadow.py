"""ML-DOCTOR's white-box attack with a shadow model (Liu et al. 2022, section 5.2; after Nasr et al. 2019).

A perceptron reads the posteriors, the loss, the loss's gradient at the last layer's weights and the label.
That gradient is the outer product of (posteriors - label) and the embedding, so that nothing is
differentiated. The hidden units of two networks have no common order, so that
a sample's are sorted by their activation before shadow and target meet in one perceptron.
The paper gives each input a network of its own before four common layers; here all
enter one perceptron (128-64-2), and its learning rate of 1e-5, which suits tens of thousands of samples,
is 1e-3. The released code reads each sample's gradient without clearing the ones before; this does not.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.api import (
    Annotated,
    Attack,
    Bank,
    Candidates,
    Card,
    Field,
    Hyper,
    Knowledge,
    Perceptron,
    Search,
    Target,
    logit_margin,
)

CHUNK = 500
"""Samples at a time: with k classes and width d each has k d gradient entries."""


class MLDoctorWhiteBoxShadow(Attack):
    """Membership from the network itself and the label, learnt on the shadow world; three attack seeds."""

    card = Card(
        title="ML-DOCTOR white-box, shadow",
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
    access = "white-box"
    needs = frozenset({"shadow"})
    calibrate = "own"

    class Params(Hyper):
        """The paper's recipe but for the learning rate: Adam, 50 epochs, batches of 64."""

        epochs: Annotated[int, Field(ge=1), Search(20, 200)] = 50
        learning_rate: Annotated[float, Field(gt=0), Search(1e-5, 1e-2, log=True)] = 1e-3

    def fit(self, knowledge: Knowledge) -> None:
        """Train on the shadow network's members and non-members."""
        world, self.device = knowledge.shadow, knowledge.device
        assert world is not None
        network = world.target.white_box().to(self.device).eval()
        parts = [p for part in (world.members, world.nonmembers) for p in self._features(network, part.x, part.y)]
        x = torch.cat(parts)
        member = (torch.arange(len(x)) < len(world.members)).long()
        generator = knowledge.generator("ml_doctor_white_box_shadow")
        self.perceptron = Perceptron(x.shape[1], (128, 64), 2, generator=generator).fit(
            x,
            member,
            epochs=self.params.epochs,
            batch_size=64,
            learning_rate=self.params.learning_rate,
            optimizer="adam",
            weight_decay=0.0,
        )

    def score(self, target: Target, candidates: Candidates, bank: Bank | None) -> Tensor:
        """Log-odds of membership (3, n)."""
        network = target.white_box().to(self.device).eval()
        parts = self._features(network, candidates.x, candidates.y)
        answer = torch.cat([self.perceptron.log_posteriors(part) for part in parts], 1)
        return answer[..., 1] - answer[..., 0]

    def _features(self, network: nn.Module, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        """Posteriors, label, loss and gradient: (<= CHUNK, 2 k + 1 + k d) float32, a chunk at a time."""
        for images, labels in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
            with torch.no_grad():
                embedding = network.embed(images.to(self.device))
                answer = network.head(embedding).double().log_softmax(1).cpu()
                # Unit 7 of the shadow network is not unit 7 of the target: only their sizes can be compared.
                activation = embedding.sort(1, descending=True).values.cpu()
            label = functional.one_hot(labels, answer.shape[1])
            loss = -functional.logsigmoid(logit_margin(answer, labels)).unsqueeze(1)
            gradient = (answer.exp() - label).unsqueeze(2) * activation.unsqueeze(1)
            yield torch.cat([answer.exp(), label, loss, gradient.flatten(1)], 1).float()
