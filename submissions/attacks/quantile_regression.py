"""Quantile regression: is the target more confident than it would be if it had not seen this image?

Bertran et al. 2023: a network predicts from the image alone how the target's hinge score, log p_y minus the largest
other log p, is distributed if the image is no member. A score above a high quantile of it marks a member. No shadow
model is trained. This is the paper's Gaussian variant (mean and deviation of the score), which ranks at every rate at
once. A small convolutional network trained from scratch stands in for ConvNeXt at 224 pixels, with a larger learning
rate and batch and a third of the 30 epochs. It is trained on the target's answers to the shadow world's non-members.
"""

import math

import torch
from torch import Tensor, nn

from benchmark.api import (
    Annotated,
    Attack,
    Candidates,
    Card,
    Field,
    Hyper,
    Knowledge,
    References,
    Search,
    Target,
)

SEEDS = 3
LARGEST_SCORE = 1e3
"""Bound of the hinge score: a guard may answer with posteriors of exactly 0."""


def hinge(log_posteriors: Tensor, y: Tensor) -> Tensor:
    """log p_y minus the largest other log p, (n,), of log-posteriors (n, k) and labels (n,)."""
    index = y.unsqueeze(1)
    others = log_posteriors.scatter(1, index, float("-inf")).amax(1)
    return (log_posteriors.gather(1, index).squeeze(1) - others).clamp(-LARGEST_SCORE, LARGEST_SCORE)


def regressor(shape: tuple[int, int, int]) -> nn.Module:
    """Images (n, c, h, w) -> mean and logarithm of the standard deviation of the score (n, 2)."""
    c, h, w = shape
    return nn.Sequential(
        *(nn.Conv2d(c, 8, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Conv2d(8, 16, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16 * math.ceil(h / 4) * math.ceil(w / 4), 64), nn.ReLU(), nn.Linear(64, 2)),
    )


class QuantileRegression(Attack):
    """Membership from posteriors and data of the same population; no shadow model; three attack seeds."""

    card = Card(
        title="Quantile regression",
        authors=(
            "Martin Bertran",
            "Shuai Tang",
            "Michael Kearns",
            "Jamie Morgenstern",
            "Aaron Roth",
            "Zhiwei Steven Wu",
        ),
        reference="Scalable Membership Inference Attacks via Quantile Regression, NeurIPS 2023, arXiv:2307.03694",
        year=2023,
    )
    access = "posterior"
    needs = frozenset({"shadow"})
    calibrate = "own"

    class Params(Hyper):
        """AdamW with weight decay 1e-4 and clipped gradients; `fpr` moves the threshold, not the ROC."""

        epochs: Annotated[int, Field(ge=1), Search(5, 60)] = 10
        learning_rate: Annotated[float, Field(gt=0), Search(1e-4, 1e-2, log=True)] = 1e-3
        fpr: Annotated[float, Field(gt=0, lt=1), Search(0.01, 0.9)] = 0.5

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the public data. The network learns the target's own answers to it, so it is trained in `score`."""
        assert knowledge.shadow is not None
        self.public = knowledge.shadow.nonmembers
        self.knowledge = knowledge

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """How far the score lies above its predicted (1 - fpr)-quantile, in predicted standard deviations: (3, n)."""
        public = hinge(target.log_posteriors(self.public.x), self.public.y)
        own = hinge(target.log_posteriors(candidates.x), candidates.y)
        centre, scale = public.mean(), public.std().clamp_min(1e-6)
        quantile = torch.special.ndtri(torch.tensor(1 - self.params.fpr, dtype=torch.float64))
        generator, rows = self.knowledge.generator("quantile_regression"), []
        for _ in range(SEEDS):
            law = self._predict(self._train((public - centre) / scale, generator), candidates.x)
            rows.append(((own - centre) / scale - law[:, 0]) / law[:, 1].exp() - quantile)
        return torch.stack(rows)

    def _train(self, score: Tensor, generator: torch.Generator) -> nn.Module:
        """A network that predicts the distribution of the public data's standardised scores (n,)."""
        device = self.knowledge.device
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            network = regressor(self.knowledge.shape).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.params.learning_rate, weight_decay=1e-4)
        x, score = self.public.x.to(device), score.float().to(device)
        for _ in range(self.params.epochs):
            order = torch.randperm(len(x), generator=generator).to(device)
            for part in order.split(64):
                mean, log_deviation = self._law(network, x[part])
                loss = (log_deviation + (score[part] - mean).square() * (-2 * log_deviation).exp() / 2).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
        return network.eval()

    def _predict(self, network: nn.Module, x: Tensor) -> Tensor:
        """Predicted mean and log-deviation (n, 2) float64."""
        with torch.no_grad():
            parts = [torch.stack(self._law(network, part.to(self.knowledge.device)), 1) for part in x.split(500)]
        return torch.cat(parts).double().cpu()

    @staticmethod
    def _law(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_deviation = network((x - 0.5) / 0.5).unbind(1)
        # Without bounds the deviation would go to 0 where all answers are alike.
        return mean, log_deviation.clamp(-5, 5)
