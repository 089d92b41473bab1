"""Loss attack: a member's cross-entropy is small (Yeom et al. 2018, section III-C, adversary 2)."""

from torch import Tensor
from torch.nn import functional

from benchmark.api import Attack, Candidates, Card, References, Target, logit_margin


class Loss(Attack):
    """Membership, no auxiliary knowledge: log p_y; the judge sets the threshold on the shadow world."""

    card = Card(
        title="Loss",
        authors=("Samuel Yeom", "Irene Giacomelli", "Matt Fredrikson", "Somesh Jha"),
        reference="Privacy Risk in Machine Learning, IEEE CSF 2018, arXiv:1709.01604",
        year=2018,
    )
    access = "posterior"
    needs = frozenset()
    calibrate = "shadow"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """log p_y (n,)."""
        # log p_y = logsigmoid(margin): it keeps its digits where p_y rounds to 1, and is finite where p_y = 0.
        return functional.logsigmoid(logit_margin(target.log_posteriors(candidates.x), candidates.y))
