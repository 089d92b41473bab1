"""Model stealing without data: a copy learns the target's posteriors on made-up images (Roberts et al. 2019).

Images are noise, every pixel drawn alone; or smooth: a random grid of 2 to 8 values a side, interpolated to the size of an image,
with a brightness and a contrast of its own. They are the same for every target, so that their answers serve all copies of one.
Of `spare` times as many images as queries those are asked about that differ most from what was asked, or of which the copy so far
is least sure (Pal et al. 2019). The losses are those of `steal_posteriors`.

Differences: Roberts et al. draw noise from several laws, among them an Ising model; smooth images stand for it here.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmark.api import (
    Annotated,
    Card,
    Field,
    Hyper,
    Knowledge,
    Literal,
    Samples,
    Search,
    StealingAttack,
    Target,
    copy_by_asking,
)


class StealNoData(StealingAttack):
    """Knows the shape of the images and the number of classes, and no image."""

    card = Card(
        title="Stealing without data",
        authors=("Nicholas Roberts", "Vinay Uday Prabhu", "Matthew McAteer"),
        reference="Model Weight Theft With Just Noise Inputs: The Curious Case of the Petulant Attacker, 2019, arXiv:1912.08987",
        year=2019,
    )
    access = "posterior"

    class Params(Hyper):
        """`queries`: images asked about; `spare` and `rounds` count where they are chosen.

        The learning rate suits `logits`; the gradients of the other losses ask for 0.01. The temperature is that of cross-entropy and kl.
        """

        images: Literal["smooth", "noise"] = "smooth"
        loss: Literal["cross-entropy", "kl", "mse", "logits"] = "logits"
        temperature: Annotated[float, Field(gt=0), Search(0.5, 20, log=True)] = 1.0
        queries: Annotated[int, Field(ge=1), Search(100, 5000, log=True)] = 2000
        choose: Literal["random", "uncertain", "diverse"] = "random"
        spare: Annotated[int, Field(ge=1), Search(2, 10)] = 4
        rounds: Annotated[int, Field(ge=2), Search(2, 10)] = 4
        architecture: Literal[None, "small_cnn", "simple_cnn", "resnet18", "vgg11"] = None
        epochs: Annotated[int, Field(ge=1), Search(10, 100)] = 50
        learning_rate: Annotated[float, Field(gt=0), Search(1e-3, 0.3, log=True)] = 0.1

    def fit(self, knowledge: Knowledge) -> None:
        """Keep what is known of the data, the device and the generators."""
        self.knowledge = knowledge

    def steal(self, target: Target, queries: Samples, build: Callable[..., nn.Module]) -> nn.Module:
        """The trained copy, in eval mode on the scenario's device."""
        p, known = self.params, self.knowledge
        count = p.queries if p.choose == "random" else p.spare * p.queries
        generator = torch.Generator().manual_seed(0)  # the same images for every target, whatever the hyperparameters
        pool = (smooth if p.images == "smooth" else noise)(count, known.shape, generator)
        return copy_by_asking(target.log_posteriors, pool, build, known, **p.model_dump(exclude={"images", "spare"}))


def noise(n: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w) whose pixels are uniform on [0, 1], in 8 bits."""
    return torch.randint(256, (n, *shape), generator=generator) / 255


def smooth(n: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w) in [0, 1], in 8 bits: normal values on grids of 2 to 8 a side, bicubic between them, through a sigmoid.

    Contrast is 1 to 5 times, brightness shifts them by a standard deviation or so. All sizes of grid are equally common.
    """
    sides = range(2, 9)
    parts = []
    for side, rows in zip(sides, torch.arange(n).tensor_split(len(sides)), strict=True):
        grid = torch.randn(len(rows), shape[0], side, side, generator=generator)
        field = (
            nn.functional.interpolate(grid, shape[1:], mode="bicubic", align_corners=True)
            if len(rows)
            else grid.new_zeros(0, *shape)
        )
        contrast = 1 + 4 * torch.rand(len(rows), 1, 1, 1, generator=generator)
        shift = torch.randn(len(rows), 1, 1, 1, generator=generator)
        parts.append((contrast * (field + shift)).sigmoid())
    x = torch.cat(parts)
    return (x[torch.randperm(n, generator=generator)] * 255).round() / 255
