"""Attack P: one threshold on the loss, a quantile over samples that are known to be non-members (Ye et al. 2022).

The target itself is asked for its loss on samples of the population outside its training set. They are the shadow
world's non-members; the shadow model is not used.
"""

from torch import Tensor

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


class AttackP(Attack):
    """Membership from posteriors and data of the same population; no model is trained."""

    card = Card(
        title="Attack P",
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
    needs = frozenset({"shadow"})
    calibrate = "own"

    class Params(Hyper):
        """The share of non-members that may be called members. It moves the threshold, not the ROC curve."""

        fpr: Annotated[float, Field(gt=0, lt=1), Search(0.01, 0.9)] = 0.5

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the shadow world's non-members."""
        assert knowledge.shadow is not None
        self.population = knowledge.shadow.nonmembers

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """Logit margins minus the (1 - fpr)-quantile of the population's, (n,): they rank as the loss does."""
        population = logit_margin(target.log_posteriors(self.population.x), self.population.y)
        own = logit_margin(target.log_posteriors(candidates.x), candidates.y)
        return own - population.quantile(1 - self.params.fpr)
