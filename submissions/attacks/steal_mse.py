"""Model stealing: a copy that imitates the target's posteriors (ML-DOCTOR, section 5.2; Tramer et al. 2016).

The target answers each auxiliary image once. The copy has the target's architecture and is trained on the
squared distance between its posteriors and these answers. The defaults are the paper's, for thousands of
queries; with a few hundred use `learning_rate=0.1`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmark.api import Annotated, Card, Field, Hyper, Knowledge, Samples, Search, StealingAttack, Target


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

        epochs: Annotated[int, Field(ge=1), Search(10, 200)] = 50
        learning_rate: Annotated[float, Field(gt=0), Search(1e-3, 1.0, log=True)] = 1e-2

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the device and the generator that shuffles."""
        self.device, self.generator = knowledge.device, knowledge.generator("steal")

    def steal(self, target: Target, queries: Samples, build: Callable[[], nn.Module]) -> nn.Module:
        """The trained copy, in eval mode on the scenario's device."""
        network = build().to(self.device).train()
        x, answers = queries.x.to(self.device), target.log_posteriors(queries.x).exp().float().to(self.device)
        optimizer = torch.optim.SGD(network.parameters(), lr=self.params.learning_rate, momentum=0.9)
        for _ in range(self.params.epochs):
            # Batches of nearly equal size: BatchNorm cannot train on a last batch of one image.
            order = torch.randperm(len(x), generator=self.generator).to(self.device)
            for part in order.tensor_split(math.ceil(len(x) / 64)):
                loss = self._loss(network(x[part]), answers[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return network.eval()

    @staticmethod
    def _loss(logits: Tensor, answers: Tensor) -> Tensor:
        # Summed over classes: their mean would shrink the steps by the number of classes.
        return (logits.softmax(1) - answers).square().sum(1).mean()
