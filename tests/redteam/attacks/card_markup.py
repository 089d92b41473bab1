"""Put HTML, Markdown and rich's markup into the card."""

from torch import Tensor

from benchmark.api import Attack, Candidates, Card, References, Target

STOPPED_BY = "escaped wherever it is shown"
STATUS = ("ok",)


class Hostile(Attack):
    """See above."""

    card = Card(
        title="<script>alert(1)</script> [link=http://evil]x[/link] [/red] [bold on red]99 %[/] | **first** | ![x](http://evil)",
        authors=("[/]",),
        reference="javascript:alert(1)",
        year=None,
    )
    access = "posterior"
    needs = frozenset()
    calibrate = "none"

    def score(self, target: Target, candidates: Candidates, references: References | None) -> Tensor:
        return target.log_posteriors(candidates.x)[:, 0]
