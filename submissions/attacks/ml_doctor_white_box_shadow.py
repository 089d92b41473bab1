"""ML-DOCTOR's white-box attack with a shadow model (Liu et al. 2022, section 5.2; after Nasr et al. 2019).

A perceptron reads the posteriors, the label, the loss and the loss's gradient at the last layer's weights.
That gradient is the outer product of (posteriors - label) and the embedding, so that nothing is
differentiated. The released code convolves all k x d entries of it (`gradient = "full"`); by default each
class's weights count by the logarithm of their gradient's norm, for unit 7 of the shadow
network is not unit 7 of the target, and k d heavy-tailed inputs overfit.
Losses differ by factors, and enter by their logarithm too. The paper gives each input a network of its own
before four common layers; here all enter one perceptron (128-64-2), and its learning rate of 1e-5, which suits
tens of thousands of samples, is 1e-3. The released code reads each sample's gradient without clearing those of
the samples before; this does not.
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
        """The paper's recipe but for the learning rate: Adam, 50 epochs, batches of 64. One input may be left out."""

        epochs: Annotated[int, Field(ge=1), Search(20, 200)] = 50
        learning_rate: Annotated[float, Field(gt=0), Search(1e-5, 1e-2, log=True)] = 1e-3
        gradient: Literal["norms", "full"] = "norms"
        without: Literal["nothing", "posteriors", "label", "loss", "gradient"] = "nothing"

    def fit(self, knowledge: Knowledge) -> None:
        """Train on the shadow network's members and non-members."""
        world, self.device = knowledge.shadow, knowledge.device
        assert world is not None
        network = world.target.white_box().to(self.device).eval()
        x = torch.cat(
            [p for part in (world.members, world.nonmembers) for p in self._features(network, part.x, part.y)]
        )
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

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Log-odds of membership (3, n)."""
        network = target.white_box().to(self.device).eval()
        parts = self._features(network, candidates.x, candidates.y)
        answer = torch.cat([self.perceptron.log_posteriors(part) for part in parts], 1)
        return answer[..., 1] - answer[..., 0]

    def _features(self, network: nn.Module, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        """Posteriors (k), label (k), loss (1) and gradient (k or k d) of at most CHUNK samples at a time, float32."""
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
                # log |posterior - label| keeps the digits that 1 - p_y loses.
                residual = answer.scatter(1, labels.unsqueeze(1), functional.logsigmoid(-margin))
                gradient = residual + embedding.norm(dim=1, keepdim=True).clamp_min(TINY).log()
            inputs = {
                "posteriors": answer.exp(),
                "label": label,
                "loss": loss.clamp_min(TINY).log(),
                "gradient": gradient,
            }
            yield torch.cat([x for name, x in inputs.items() if name != self.params.without], 1).float()
