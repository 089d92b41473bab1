"""Gradient-norm attack: a member's loss has a small gradient.

Rezaei & Liu 2021 (section 3.3) compare norms of the cross-entropy's gradient with respect to the
parameters and the input; RelaxLoss (Chen et al. 2022) uses them as its white-box attacks.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmark.api import Attack, Candidates, Card, Hyper, Knowledge, Literal, References, Target

BUDGET = 2**26
"""Gradient entries held at once: 256 MiB of float32."""


class GradientNorm(Attack):
    """Membership from the network itself: minus the norm of each sample's own gradient."""

    card = Card(
        title="Gradient norm",
        authors=("Shahbaz Rezaei", "Xin Liu"),
        reference="On the Difficulty of Membership Inference Attacks, CVPR 2021, arXiv:2005.13702",
        year=2021,
    )
    access = "white-box"
    needs = frozenset()
    calibrate = "shadow"

    class Params(Hyper):
        """Which norm, of the gradient with respect to what."""

        norm: Literal["l1", "l2"] = "l2"
        wrt: Literal["parameters", "input"] = "parameters"

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the device."""
        self.device = knowledge.device

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Minus the gradient norms (n,) float64."""
        network = target.white_box().to(self.device).eval()
        parameters = {name: p.detach() for name, p in network.named_parameters()}
        buffers = dict(network.named_buffers())
        order = 1 if self.params.norm == "l1" else 2
        by_input = self.params.wrt == "input"

        def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            logits = functional_call(network, {**weights, **buffers}, (x.unsqueeze(0),))
            return nn.functional.cross_entropy(logits, y.unsqueeze(0))

        def norm(x: Tensor, y: Tensor) -> Tensor:
            gradient = grad(loss, argnums=1 if by_input else 0)(parameters, x, y)
            parts = [gradient] if by_input else list(gradient.values())
            # The norm of the tensors' norms is the norm of all entries, for L1 as for L2.
            return torch.stack([torch.linalg.vector_norm(part, order) for part in parts]).norm(order)

        size = sum(p.numel() for p in parameters.values())
        batches = vmap(norm, chunk_size=max(1, min(256, BUDGET // size)))
        return -batches(candidates.x.to(self.device), candidates.y.to(self.device)).double().cpu()
