"""Verified worst-case confidence I_V (Song et al. 2019, section 5.3).

The confidence in y that no image of the certified ball, within [0, 1], can go below: interval bounds of the network's
logits, the softmax of the lower bound for y and the upper bounds for all others, and of that p_y. The radius is the one
that the target is certified for; without one the attack does not apply. Bounds come from the network, so a guard is
outside this threat model. Not verified against the paper's text or code.

`margins=true` bounds each difference z_j - z_y through the last linear layer at once. That is tighter, because both
logits come from one embedding, and is not the paper's. It needs a network whose last layer is `head`, as the judge's
copies have. The paper sets the threshold that is best on the judged data; that is the judge's oracle column.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.api import (
    Attack,
    Candidates,
    Card,
    Hyper,
    Knowledge,
    References,
    Target,
    interval_bounds,
    logit_margin,
)

BATCH = 500
"""Images bounded at once."""


class SongVerified(Attack):
    """Membership of targets that carry a certificate: log p_y in the worst case that interval bounds allow."""

    card = Card(
        title="Song I_V",
        authors=("Liwei Song", "Reza Shokri", "Prateek Mittal"),
        reference="Privacy Risks of Securing ML Models against Adversarial Examples, CCS 2019, arXiv:1905.10291",
        year=2019,
    )
    access = "white-box"
    needs = frozenset({"certificate"})
    calibrate = "shadow"

    class Params(Hyper):
        """`margins`: bound differences of logits instead of the logits."""

        margins: bool = False

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the radius and the device."""
        assert knowledge.certificate is not None
        self.radius, self.device = knowledge.certificate, knowledge.device

    @torch.no_grad()
    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """log p_y (n,) at the worst logits that the bounds allow."""
        network = target.white_box().to(self.device).eval()
        rows = []
        for x, y in zip(candidates.x.split(BATCH), candidates.y.split(BATCH), strict=True):
            x, y = x.to(self.device), y.to(self.device)
            box = (x - self.radius).clamp(0, 1), (x + self.radius).clamp(0, 1)
            worst = (worst_margins if self.params.margins else worst_logits)(network, *box, y)
            rows.append(functional.logsigmoid(logit_margin(worst.double(), y)).cpu())
        return torch.cat(rows)


def worst_logits(network: nn.Module, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
    """Logits (n, k) that bound the confidence in y (n,) from below: y's lower bound, the others' upper bounds."""
    low, high = interval_bounds(network, low, high)
    return high.scatter(1, y.unsqueeze(1), low.gather(1, y.unsqueeze(1)))


def worst_margins(network: nn.Module, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
    """Upper bounds (n, k) of z_j - z_y, 0 at y, through the last layer at once. The network's `head` is taken off."""
    head = network.head
    assert isinstance(head, nn.Linear)
    network.head = nn.Identity()
    low, high = interval_bounds(network, low, high)
    network.head = head
    weight = head.weight - head.weight[y].unsqueeze(1)
    middle, half = (low + high).unsqueeze(2) / 2, (high - low).unsqueeze(2) / 2
    return (weight @ middle + weight.abs() @ half).squeeze(2) + head.bias - head.bias[y].unsqueeze(1)
