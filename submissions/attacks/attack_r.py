"""Attack R: the share of reference models that are less confident than the target (Ye et al. 2022).

The references never saw the sample, so that for a non-member the share is uniform. With m models it takes
2m + 1 values at most: rates below 1 / m are out of its reach.
"""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target, logit_margin


class AttackR(Attack):
    """Membership from posteriors and reference models of shadow data alone."""

    card = Card(
        title="Attack R",
        authors=(
            "Jiayuan Ye",
            "Aadyaa Maddi",
            "Sasi Kumar Murakonda",
            "Vincent Bindschaedler",
            "Reza Shokri",
        ),
        reference="Enhanced Membership Inference Attacks against ML Models, ACM CCS 2022, arXiv:2111.09679",
        year=2022,
    )
    access = "posterior"
    needs = frozenset({"references-offline"})
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """The share (n,) of the references that the target beats; an equal one counts half."""
        assert references is not None
        own = logit_margin(target.log_posteriors(candidates.x), candidates.y)
        theirs = logit_margin(references.log_posteriors, candidates.y)
        return ((own > theirs).double() + (own >= theirs).double()).mean(0) / 2
