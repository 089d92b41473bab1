"""ML-DOCTOR's white-box attack with partial knowledge (Liu et al. 2022, section 5.2; after Nasr et al. 2019).

A perceptron reads the posteriors, the label, the loss, and the gradient of the loss in the weights of the last layer.
This gradient is the outer product of (posteriors - label) and the embedding, so no differentiation is needed. The
released code feeds all k x d entries of it to convolutions (`gradient=full`). By default each class contributes only
the logarithm of the norm of its weights' gradient, because k d heavy-tailed inputs overfit the
few known samples.
Losses range over many orders of magnitude, so their logarithm is taken too. The paper gives each input a network of its
own before four common layers; here all enter one perceptron (128-64-2). Its learning rate of 1e-5, which suits tens of
thousands of samples, is 1e-3 here. The released code accumulates gradients over samples, for it never clears them; here
each sample has its own gradient.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.api import (
    Annotated,
    Attack,
    Candidates,
    Card,
    Field,
    Hyper,
    Knowledge,
    Literal,
    Perceptron,
    References,
    Search,
    Target,
    logit_margin,
)

CHUNK = 500
"""Samples at a time: a full gradient has k d entries a sample."""

TINY = 1e-300
"""Keeps the logarithm finite where a loss or an embedding is 0."""


class MLDoctorWhiteBoxPartial(Attack):
    """Membership from the network itself and the label, learnt on known samples of the target; three attack seeds."""

    card = Card(
        title="ML-DOCTOR white-box, partial",
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
    needs = frozenset({"partial"})
    calibrate = "own"

    class Params(Hyper):
        """The paper's recipe but for the learning rate: Adam, 50 epochs, batches of 64."""

        epochs: Annotated[int, Field(ge=1), Search(20, 200)] = 50
        learning_rate: Annotated[float, Field(gt=0), Search(1e-5, 1e-2, log=True)] = 1e-3
        gradient: Literal["norms", "full"] = "norms"

    def fit(self, knowledge: Knowledge) -> None:
        """Train on the known members and non-members of the target."""
        world, self.device = knowledge.partial, knowledge.device
        assert world is not None
        network = world.target.white_box().to(self.device).eval()
        x = torch.cat(
            [p for part in (world.members, world.nonmembers) for p in self._features(network, part.x, part.y)]
        )
        member = (torch.arange(len(x)) < len(world.members)).long()
        generator = knowledge.generator("ml_doctor_white_box_partial")
        self.perceptron = Perceptron(x.shape[1], (128, 64), 2, generator=generator).fit(
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
        network = target.white_box().to(self.device).eval()
        parts = self._features(network, candidates.x, candidates.y)
        answer = torch.cat([self.perceptron.log_posteriors(part) for part in parts], 1)
        return answer[..., 1] - answer[..., 0]

    def _features(self, network: nn.Module, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        """Posteriors (k), one-hot label (k), log-loss (1), gradient (k or k d), float32, CHUNK samples at a time."""
        for images, labels in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
            with torch.no_grad():
                embedding = network.embed(images.to(self.device))
                answer = network.head(embedding).double().log_softmax(1).cpu()
            embedding, margin = embedding.double().cpu(), logit_margin(answer, labels).unsqueeze(1)
            label = functional.one_hot(labels, answer.shape[1])
            loss = -functional.logsigmoid(margin)
            if self.params.gradient == "full":
                gradient = ((answer.exp() - label).unsqueeze(2) * embedding.unsqueeze(1)).flatten(1)
            else:
                # log |posterior - label|, for y from the margin: 1 - p_y itself loses its digits where p_y is close to
                # 1.
                residual = answer.scatter(1, labels.unsqueeze(1), functional.logsigmoid(-margin))
                gradient = residual + embedding.norm(dim=1, keepdim=True).clamp_min(TINY).log()
            yield torch.cat([answer.exp(), label, loss.clamp_min(TINY).log(), gradient], 1).float()
