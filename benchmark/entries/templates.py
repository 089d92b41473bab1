"""What `leakboard new` writes: submissions and networks that work as they are."""

NETWORK = '''"""NAME: three convolutions, to be replaced by your network."""

from torch import nn

from benchmark.networks import Architecture, Network

network = Architecture("NAME", paper="unpublished", least=4)  # the least height and width of its images, in pixels


def build(classes: int, shape: tuple[int, int, int]) -> Network:
    """A fresh network for images (c, h, w) in [0, 1]: features to an embedding of `width` numbers, then one linear layer.

    Draw weights from PyTorch's global random state alone: it is seeded. Dropout comes from benchmark.networks.dropout, for
    in training a network must not draw from the global random state.
    """
    features = nn.Sequential(
        *(nn.Conv2d(shape[0], 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
    )
    return Network(features, width=256, classes=classes)
'''

TEMPLATES = {
    "attack": '''"""NAME: the confidence in the true label, to be replaced by your idea."""

from __future__ import annotations

from torch import Tensor

from benchmark.api import Annotated, Attack, Candidates, Card, Field, Hyper, Knowledge, References, Search, Target


class Submission(Attack):
    """A larger confidence in the true label makes a member more likely."""

    card = Card(title="NAME", authors=("you",), reference="unpublished", year=None)
    access = "posterior"  # "label", "posterior" or "white-box"
    needs = frozenset()  # of "shadow", "partial", "references-online" or "references-offline", "certificate"
    calibrate = "shadow"  # who sets the threshold: "shadow" the judge, "own" (score > 0), "none"

    class Params(Hyper):
        """Set on the command line: leakboard run "NAME[power=2]"."""

        power: Annotated[float, Field(gt=0), Search(0.5, 4, log=True)] = 1.0

    def fit(self, knowledge: Knowledge) -> None:
        """Learn from knowledge.shadow, knowledge.partial, ...: whatever `needs` asks for."""

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        """(n,) float64, higher for members."""
        log_posteriors = target.log_posteriors(candidates.x)
        confidence = log_posteriors.gather(1, candidates.y.unsqueeze(1)).squeeze(1)
        return self.params.power * confidence
''',
    "defense": '''"""NAME: posteriors at a higher temperature, to be replaced by your idea."""

from __future__ import annotations

from torch import Tensor

from benchmark.api import Annotated, Card, Context, Defense, Field, Hyper, Predict, Search


class Submission(Defense):
    """Divides the log-posteriors by a temperature and normalises them again: no label changes."""

    card = Card(title="NAME", authors=("you",), reference="unpublished", year=None)
    stages = ("post-inference",)  # of "training", "pre-inference", "post-inference"
    data_independent = True  # the guard reads no training data

    class Params(Hyper):
        """Set on the command line: leakboard run "NAME[temperature=4]"."""

        temperature: Annotated[float, Field(gt=0), Search(1, 20, log=True)] = 4.0

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        """Images (n, c, h, w) -> log-posteriors (n, k) float64."""
        return lambda x: (predict(x) / self.params.temperature).log_softmax(1)
''',
}
