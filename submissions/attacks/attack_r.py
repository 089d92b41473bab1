"""Attack R: the share of reference models that are less confident than the target (Ye et al. 2022).

The references never saw the sample, so that for a non-member the share is uniform. With m models it takes
2m + 1 values at most: rates below 1 / m are out of its reach.
"""

from torch import Tensor

from benchmark.api import Attack, Bank, Candidates, Card, Target, logit_margin


class AttackR(Attack):
    """Membership from posteriors and a bank of shadow models alone."""

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
    needs = frozenset({"bank-offline"})
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, bank: Bank | None) -> Tensor:
        """The share (n,) of the references that the target beats; an equal one counts half."""
        assert bank is not None
        own = logit_margin(target.log_posteriors(candidates.x), candidates.y)
        references = logit_margin(bank.log_posteriors, candidates.y)
        return ((own > references).double() + (own >= references).double()).mean(0) / 2
