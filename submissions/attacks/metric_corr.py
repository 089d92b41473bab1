"""Correctness attack: what the target classifies correctly is a member (Yeom et al. 2018; Song & Mittal 2021)."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target


class MetricCorrectness(Attack):
    """Membership from the predicted label alone."""

    card = Card(
        title="Metric-corr",
        authors=("Liwei Song", "Prateek Mittal"),
        reference="Systematic Evaluation of Privacy Risks of ML Models, USENIX Security 2021, arXiv:2003.10595",
        year=2021,
    )
    access = "label"
    needs = frozenset()
    calibrate = "own"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """0.5 where the label is right, -0.5 where it is wrong, (n,)."""
        return (target.labels(candidates.x) == candidates.y).double() - 0.5
