"""Attack P: a confidence that few of the population's samples reach (Ye et al. 2022).

One threshold for all samples: the quantile of the target's own loss on samples that are known to be
outside its training set. They are the shadow world's non-members; its model is not asked.
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
        """The share of non-members that may be called members. The paper sweeps it; it moves the threshold alone."""

        fpr: Annotated[float, Field(gt=0, lt=1), Search(0.01, 0.9)] = 0.5

    def fit(self, knowledge: Knowledge) -> None:
        """Keep the population."""
        assert knowledge.shadow is not None
        self.population = knowledge.shadow.nonmembers

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """The logit margin above its (1 - fpr)-quantile on the population (n,): it ranks as the loss does."""
        population = logit_margin(target.log_posteriors(self.population.x), self.population.y)
        own = logit_margin(target.log_posteriors(candidates.x), candidates.y)
        return own - population.quantile(1 - self.params.fpr)
