"""Label smoothing with the uniform share on the other classes only.

Source: Szegedy et al. 2016, section 7, in the form of He et al. 2022 (MEMBERSHIP-DOCTOR, section 3.2):
1 - epsilon on the true class and epsilon / (k - 1) on each other one. PyTorch's own `label_smoothing` puts
epsilon / k on every class, the true one included; the two agree at PyTorch's epsilon * k / (k - 1).
"""

from __future__ import annotations

from torch import Tensor

from benchmark.api import Annotated, Card, Defense, Field, Hyper, Search


class LabelSmoothing(Defense):
    """Cross-entropy against smoothed labels. Only the loss differs, so reference models can train as one ensemble."""

    card = Card(
        title="Label smoothing",
        authors=("Szegedy", "Vanhoucke", "Ioffe", "Shlens", "Wojna"),
        reference="Rethinking the Inception Architecture for Computer Vision, CVPR 2016; epsilon of He et al. 2022",
        year=2016,
    )
    stages = ("training",)

    class Params(Hyper):
        """`epsilon` is the probability taken from the true class, below (k - 1) / k."""

        epsilon: Annotated[float, Field(gt=0, lt=1), Search(0.05, 0.8, grid=(0.2, 0.4, 0.6, 0.8))] = 0.8

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Losses (n,) in nats of logits (n, k) and labels y (n,).

        Raises ValueError where epsilon >= (k - 1) / k: then the true class is not the likeliest any more.
        """
        epsilon, k = self.params.epsilon, logits.shape[1]
        if epsilon >= (k - 1) / k:
            raise ValueError(
                f"epsilon: expected below (k - 1) / k = {(k - 1) / k:.4g} for {k} classes, given {epsilon}"
            )
        cost = -logits.log_softmax(1)
        own = cost.gather(1, y.unsqueeze(1)).squeeze(1)
        return (1 - epsilon) * own + epsilon / (k - 1) * (cost.sum(1) - own)
