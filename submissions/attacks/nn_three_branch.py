"""The neural attack of AdvReg, HAMP and DIFFENCE: a branch each for posteriors, label and loss (METHODS A5).

Nasr et al. 2018 (section 3.1) read posteriors and label; Chen & Pattabiraman 2024 add the loss, and
DIFFENCE (section IV-A, appendix E) takes their network and training: mean squared error on membership,
Adam, 200 epochs, half of each batch members. DIFFENCE keeps the checkpoint with the best AUC on the
samples that it then scores. Here a fifth of the known samples is held out to choose it, and training ends
when their loss has not improved for `patience` epochs. Weights have PyTorch's default initialisation: with the
released standard deviation of 0.01 the signal vanishes within eight layers.
"""

import copy
import itertools
import math
from collections.abc import Sequence

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
    References,
    Search,
    Target,
    logit_margin,
)

SEEDS = 3
LARGEST_LOSS = 50.0
"""Upper bound of the loss: a posterior of exactly 0 would otherwise drown all other features."""

Features = tuple[Tensor, Tensor, Tensor]
"""Posteriors (n, k), one-hot label (n, k) and loss (n, 1), float32."""


def layers(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, a ReLU after each."""
    return nn.Sequential(*(m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())))


class Branches(nn.Module):
    """Posteriors, label and loss -> log-odds of membership (n,)."""

    def __init__(self, classes: int):
        super().__init__()
        self.posteriors = layers(classes, 1024, 512, 64)
        self.label = layers(classes, 128, 64)
        self.loss = layers(1, classes, 64)
        self.head = nn.Sequential(layers(192, 256, 128, 64), nn.Linear(64, 1))

    def forward(self, posteriors: Tensor, label: Tensor, loss: Tensor) -> Tensor:
        return self.head(torch.cat([self.posteriors(posteriors), self.label(label), self.loss(loss)], 1)).squeeze(1)


class NNThreeBranch(Attack):
    """Membership from posteriors and the label, learnt on known samples of the target itself; three attack seeds."""

    card = Card(
        title="NN-based (AdvReg, HAMP, DIFFENCE)",
        authors=("Milad Nasr", "Reza Shokri", "Amir Houmansadr", "Zitao Chen", "Karthik Pattabiraman"),
        reference="ACM CCS 2018, arXiv:1807.05852; NDSS 2024, arXiv:2307.01610; as in DIFFENCE, NDSS 2025",
        year=2018,
    )
    access = "posterior"
    needs = frozenset({"partial"})
    calibrate = "own"

    class Params(Hyper):
        """The released recipe: the learning rate falls to a tenth after half of the epochs."""

        epochs: Annotated[int, Field(ge=1), Search(20, 200)] = 200
        patience: Annotated[int, Field(ge=1), Search(3, 50)] = 5
        learning_rate: Annotated[float, Field(gt=0), Search(5e-5, 5e-3, log=True)] = 5e-4

    def fit(self, knowledge: Knowledge) -> None:
        """Train on the target's answers to the known members and non-members."""
        world, generator = knowledge.partial, knowledge.generator("nn_three_branch")
        assert world is not None
        self.device = knowledge.device
        sides = [self._features(world.target, part.x, part.y) for part in (world.members, world.nonmembers)]
        self.networks = [self._train(knowledge.classes, sides, generator) for _ in range(SEEDS)]

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Log-odds of membership (3, n)."""
        features = self._features(target, candidates.x, candidates.y)
        with torch.no_grad():
            return torch.stack([network(*features) for network in self.networks]).double().cpu()

    def _features(self, target: Target, x: Tensor, y: Tensor) -> Features:
        answer = target.log_posteriors(x)
        loss = -functional.logsigmoid(logit_margin(answer, y)).clamp_min(-LARGEST_LOSS).unsqueeze(1)
        label = functional.one_hot(y, answer.shape[1])
        posteriors, label, loss = (v.to(self.device, torch.float32) for v in (answer.exp(), label, loss))
        return posteriors, label, loss

    def _train(self, classes: int, sides: list[Features], generator: torch.Generator) -> Branches:
        """The network of one attack seed, with the weights of its best epoch on held-out samples.

        sides: features of the known members and of the known non-members.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            network = Branches(classes).to(self.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.params.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [math.ceil(self.params.epochs / 2)])
        orders = [torch.randperm(len(side[0]), generator=generator) for side in sides]
        held = [order[: max(1, len(order) // 5)] for order in orders]
        rest = [order[max(1, len(order) // 5) :] for order in orders]
        best, waited, kept = math.inf, 0, copy.deepcopy(network.state_dict())
        for _ in range(self.params.epochs):
            parts = math.ceil(max(map(len, rest)) / 64)
            shuffled = [rows[torch.randperm(len(rows), generator=generator)].tensor_split(parts) for rows in rest]
            for batch in zip(*shuffled, strict=True):
                loss = self._loss(network, sides, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
            with torch.no_grad():
                found = self._loss(network, sides, held).item()
            waited += 1
            if found < best:
                best, waited, kept = found, 0, copy.deepcopy(network.state_dict())
            if waited == self.params.patience:
                break
        network.load_state_dict(kept)
        return network.eval().requires_grad_(False)

    def _loss(self, network: Branches, sides: list[Features], rows: Sequence[Tensor]) -> Tensor:
        """Mean squared error, a scalar, of the membership probability on these rows of members and of non-members."""
        features = [torch.cat([side[i][r] for side, r in zip(sides, rows, strict=True)]) for i in range(3)]
        member = torch.arange(len(features[0]), device=self.device) < len(rows[0])
        return functional.mse_loss(network(*features).sigmoid(), member.float())
