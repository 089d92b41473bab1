"""Attack R: the share of reference models that are less confident in the label than the target (Ye et al. 2022).

No reference model was trained on the sample, so the share is about uniform for a non-member. With m models it takes at
most 2m + 1 values: false positive rates below 1 / m cannot be reached.
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
        """The share (n,) of reference models with a smaller logit margin than the target; ties count half."""
        assert references is not None
        own = logit_margin(target.log_posteriors(candidates.x), candidates.y)
        theirs = logit_margin(references.log_posteriors, candidates.y)
        return ((own > theirs).double() + (own >= theirs).double()).mean(0) / 2
