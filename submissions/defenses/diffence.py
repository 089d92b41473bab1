"""DIFFENCE: the network answers for a diffusion model's reconstruction of the query, one that keeps its label.

Source: Peng et al. 2025, section III-B and equation 3. N reconstructions are made; those with the query's label are the
candidates. phi = log(p / (1 - p)), p the largest posterior, is the logit of an answer.
- Scenario 3: the defender knows no members and no non-members. A random candidate is taken.
- Scenarios 1 and 2: a random candidate whose phi lies in an interval; without one, the candidate closest to it.
- In scenario 2 the interval is [least, mean] of phi of known members.
- In scenario 1 it is chosen on a grid between the least phi of members and the largest of non-members, so that the
  Jensen-Shannon divergence of both sides' phi is smallest afterwards.

`average` is section III-B3: the mean of all N answers, which may change labels. The diffusion model is the DDPM of Ho
et al. 2020. It is trained on the target's own training data, on the reference part, or on both (appendix C), or it is a
model of the user's (`external`; section IV-B5) that serves the target's and the shadow's world alike. A reconstruction
adds the forward process's noise of step T and goes back to the image in one step of DDIM (Song et al. 2021, equation
12).

Differences: the UNet has 0.16 million parameters and trains for minutes at most, so that a CPU is enough; images of 28
pixels and more enter as blocks of two by two pixels in the channels, which costs a quarter. Where no reconstruction
keeps the label, the answer is that to the query itself; the paper does not say. Scenario 1 takes 21 grid points and 100
bins from the released code. While it searches the interval, it takes the first candidate inside instead of a random
one, which has the same distribution. The released code noises with other coefficients (`as_released`), takes one step
without effect and ends one step early; this is the formula of the paper. The threat model leaves out what the diffusion
model itself leaks (section II-B).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import (
    Annotated,
    Card,
    Context,
    Defense,
    Field,
    Hyper,
    Literal,
    Predict,
    Pretrained,
    Search,
    Training,
    logit_margin,
)

STEPS = 1000
"""Steps of the diffusion process."""
BATCH = 128
"""Images in a training step, or all where there are fewer."""
LEARNING_RATE = 4e-3
CHUNK = 500
"""Images reconstructed at once."""
EXTERNAL_CHUNK = 50
"""Images at once through a model of the user's, which may be a hundred times as large."""
KNOWN = 1000
"""Members, and as many non-members, that the defender of scenarios 1 and 2 knows (section IV-B1)."""
GRID = 20
"""Steps between the grid's points, of which scenario 1 chooses two."""
BINS = 100
"""Bins of the histograms of phi."""
INTERVAL = "_interval"
"""Name of the interval's ends in the guard's state. It begins with "_": stored reconstructions do not depend on it."""
CONFIG, LEVELS = "config", "levels"
"""Names of an external model's configuration and noise schedule in the guard's state."""


class Diffence(Defense):
    """The answer to one of the reconstructions that keep the label. Labels change only with `average`."""

    card = Card(
        title="DIFFENCE",
        authors=("Peng", "Naseri", "Houmansadr"),
        reference="Diffence: Fencing Membership Privacy With Diffusion Models, NDSS 2025",
        year=2025,
    )
    stages = ("pre-inference",)
    keeps_labels = {"average": (False,)}
    uses = {"reference": {"scenario": (1,), "diffusion": ("reference", "members-and-reference")}}

    class Params(Hyper):
        """`n` reconstructions a query, noised to `timestep`; the diffusion model trains for `train_steps` on
        `diffusion`.

        `external` names a model that takes its place (a folder of LEAKBOARD_MODELS). Scenario 1 reads known
        non-members from the reference part. With `average` the scenario must be 3.
        """

        n: Annotated[int, Field(ge=1, le=1000), Search(2, 50)] = 30
        timestep: Annotated[int, Field(ge=1, le=1000), Search(20, 260)] = 160
        train_steps: Annotated[int, Field(ge=1), Search(50, 1600, log=True)] = 400
        scenario: Literal[1, 2, 3] = 3
        average: bool = False
        diffusion: Literal["members", "reference", "members-and-reference"] = "members"
        external: Annotated[str | None, Pretrained(instead_of=("diffusion", "train_steps"))] = None
        as_released: bool = False

    def prepare(self, predict: Predict, training: Training) -> dict[str, Tensor]:
        """The diffusion model's weights, which depend on data and seed alone; in scenarios 1 and 2 also the interval
        (2,).

        Raises ValueError for `average` with another scenario than 3, and without a reference part where one is needed.
        """
        p = self.params
        if p.average and p.scenario != 3:
            raise ValueError(f"scenario: expected 3 with average=true, which chooses no candidate, given {p.scenario}")
        if p.external is None:
            made = f"{p.diffusion}-{p.train_steps}"
            state = training.artifact(
                f"ddpm-{made}", lambda: train_ddpm(training, self._images(training), p.train_steps)
            )
        else:
            made, state = f"external-{p.external}", external_ddpm(*training.pretrained(p.external))
        if p.scenario == 3:
            return state
        unet = load_unet(training.shape, state, training.device)

        def known(side: str, x: Tensor) -> Known:
            x = x[torch.randperm(len(x), generator=training.generator(f"known-{side}"))[:KNOWN]]

            def make(i: int) -> dict[str, Tensor]:
                noise = torch.randn(x.shape, generator=training.generator(f"known-{side}-{i}"))
                return {"x": self._reconstruct(unet, x, noise, training.device)}

            names = [f"known-{side}-{made}-{self._step}-{i}" for i in range(p.n)]
            reconstructions = [training.artifact(name, lambda i=i: make(i))["x"] for i, name in enumerate(names)]
            return candidates(predict(x), torch.stack([predict(r) for r in reconstructions]))

        members = known("members", training.train.x)
        if p.scenario == 2:
            interval = lower_half(members)
        else:
            interval = best_interval(members, known("nonmembers", _some(training.reference.x)))
        return state | {INTERVAL: torch.tensor(interval, dtype=torch.float64)}

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        """Images (n, c, h, w) -> log-posteriors (n, k) of reconstructions with the label, else of the images."""
        p, interval = self.params, state.get(INTERVAL)

        @cache
        def denoiser(shape: tuple[int, int, int]) -> Denoiser:
            return load_unet(shape, state, context.device)

        def reconstruction(x: Tensor, i: int) -> Tensor:
            def make() -> Tensor:
                noise = context.normal(f"diffence-{i}", x)
                return self._reconstruct(denoiser(tuple(x.shape[1:])), x, noise, context.device)

            # Named by step and i alone: all scenarios share reconstructions, and a smaller n the first ones of a larger
            # n.
            return context.remember(f"reconstruction-{self._step}-{i}", x, make)

        def guarded(x: Tensor) -> Tensor:
            answers = torch.stack([predict(reconstruction(x, i)) for i in range(p.n)])
            if p.average:
                return (answers.logsumexp(0) - math.log(p.n)).clamp_max(0)
            original = predict(x)
            uniform = context.uniform("diffence-choice", x, 1).squeeze(1).to(original.device)
            return choose(original, answers, uniform, interval)

        return guarded

    @property
    def _step(self) -> str:
        return f"{self.params.timestep}{'-released' if self.params.as_released else ''}"

    def _reconstruct(self, unet: Denoiser, x: Tensor, noise: Tensor, device: torch.device) -> Tensor:
        p = self.params
        chunk = CHUNK if p.external is None else EXTERNAL_CHUNK
        parts = zip(x.to(device).split(chunk), noise.to(device).split(chunk), strict=True)
        restored = [reconstruct(unet, *part, p.timestep, p.as_released, unet.levels) for part in parts]
        return torch.cat(restored).to(x.device)

    def _images(self, training: Training) -> Tensor:
        if self.params.diffusion == "members":
            return training.train.x
        reference = _some(training.reference.x)
        return reference if self.params.diffusion == "reference" else torch.cat([training.train.x, reference])


def _some(reference: Tensor) -> Tensor:
    if not len(reference):
        raise ValueError("diffence: expected a split with a reference part, given none")
    return reference


def choose(original: Tensor, answers: Tensor, uniform: Tensor, interval: Tensor | None = None) -> Tensor:
    """A random one of answers (N, n, k) that has the label of original (n, k); original where none has.

    uniform (n,) in (0, 1) decides. With an interval (2,) the choice is among answers whose phi lies in it, else among
    those closest to it (section III-B2).
    """
    keeps = answers.argmax(2) == original.argmax(1)
    if interval is not None:
        known = candidates(original, answers)
        apart = distance(known, *interval.tolist())
        keeps &= apart == apart.amin(0)
    rank = keeps.cumsum(0)
    picked = keeps & (rank == (uniform * rank[-1]).floor() + 1)
    answer = answers.gather(0, picked.int().argmax(0).view(1, -1, 1).expand_as(answers[:1])).squeeze(0)
    return torch.where(keeps.any(0).unsqueeze(1), answer, original)


# --- The interval of scenarios 1 and 2 --------------------------------------------------------------


class Known(NamedTuple):
    """phi (N, n) of N reconstructions of each of n samples, which of them keep the label, and phi (n,) of the samples."""

    phi: Tensor
    keeps: Tensor
    own: Tensor

    @property
    def pool(self) -> Tensor:
        """phi of all candidates (m,); of the samples where there is no candidate at all."""
        return self.phi[self.keeps] if self.keeps.any() else self.own


def candidates(original: Tensor, answers: Tensor) -> Known:
    """`Known` from log-posteriors of samples (n, k) and of their reconstructions (N, n, k)."""
    labels = original.argmax(1)
    return Known(logit_margin(answers, labels), answers.argmax(2) == labels, logit_margin(original, labels))


def distance(known: Known, low: float, high: float) -> Tensor:
    """How far each candidate's phi lies outside the interval, (N, n): 0 inside, infinite for what is no candidate."""
    return ((low - known.phi).relu() + (known.phi - high).relu()).masked_fill(~known.keeps, math.inf)


def lower_half(members: Known) -> tuple[float, float]:
    """Scenario 2: from the least to the mean phi of the members' candidates."""
    return float(members.pool.min()), float(members.pool.mean())


def best_interval(members: Known, nonmembers: Known) -> tuple[float, float]:
    """Scenario 1: the interval on the grid whose answers differ least between both sides; of equals the first."""
    ends = sorted((float(members.pool.min()), float(nonmembers.pool.max())))
    grid = np.linspace(*ends, GRID + 1).tolist()

    def differ(interval: tuple[float, float]) -> float:
        return divergence(*(told(side, *interval) for side in (members, nonmembers)))

    return min(combinations(grid, 2), key=differ)


def told(known: Known, low: float, high: float) -> Tensor:
    """phi (n,) of the answer: of the first candidate in the interval, else the closest, else the sample itself."""
    first = distance(known, low, high).argmin(0)
    return torch.where(known.keeps.any(0), known.phi.gather(0, first.unsqueeze(0)).squeeze(0), known.own)


def divergence(first: Tensor, second: Tensor) -> float:
    """Jensen-Shannon divergence, natural logarithm, of the histograms of two samples over their common range."""
    ends = [float(end) for end in torch.cat([first, second]).aminmax()]
    counts = [np.histogram(side.numpy(), BINS, ends)[0] / len(side) for side in (first, second)]
    p, q = (torch.from_numpy(c) for c in counts)
    entropy, each = torch.special.entr((p + q) / 2), (torch.special.entr(p) + torch.special.entr(q)) / 2
    return float((entropy - each).sum())


# --- The diffusion model ----------------------------------------------------------------------------


def signal_level(device: torch.device) -> Tensor:
    """abar_t for t = 1 to 1000, the share of the variance that is signal (Ho et al. 2020, section 2, linear betas)."""
    betas = torch.linspace(1e-4, 2e-2, STEPS, dtype=torch.float64)
    return (1 - betas).cumprod(0).float().to(device)


@torch.no_grad()
def reconstruct(
    unet: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    noise: Tensor,
    timestep: int,
    released: bool = False,
    levels: Tensor | None = None,
) -> Tensor:
    """Noise images (n, c, h, w) in [0, 1] to the step, 1 to 1000, and return DDIM's one jump back to t = 0.

    levels (1000,) is the schedule, by default `signal_level`. `released` noises as the released code does: images
    1 / sqrt(abar), which are too bright, and too much noise.
    """
    level = (signal_level(x.device) if levels is None else levels)[timestep - 1]
    signal, spread = (1 / level, 1 / level - 1) if released else (level, 1 - level)
    noisy = signal.sqrt() * (2 * x - 1) + spread.sqrt() * noise
    predicted = unet(noisy, torch.full((len(x),), timestep - 1, device=x.device))
    clean = (noisy - (1 - level).sqrt() * predicted) / level.sqrt()
    return (clean.clamp(-1, 1) + 1) / 2


class Denoiser(nn.Module):
    """A UNet for images (c, h, w), on blocks of `block` x `block` pixels: noisy images and steps -> the noise.

    levels (1000,) is the schedule that it was trained for.
    """

    levels: Tensor

    def __init__(self, unet: Any, block: int, levels: Tensor):
        super().__init__()
        self.unet, self.block = unet, block
        self.register_buffer("levels", levels, persistent=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        blocks = nn.functional.pixel_unshuffle(x, self.block)
        return nn.functional.pixel_shuffle(self.unet(blocks, t).sample, self.block)


def build_unet(shape: tuple[int, int, int]) -> Denoiser:
    """An untrained denoiser of images of this shape: two levels of 16 and 32 channels."""
    from diffusers import UNet2DModel

    block = 2 if min(shape[1:]) >= 28 else 1
    channels = shape[0] * block**2
    unet = UNet2DModel(
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    return Denoiser(unet, block, signal_level(torch.device("cpu")))


def load_unet(shape: tuple[int, int, int], state: dict[str, Tensor], device: torch.device) -> Denoiser:
    """The trained denoiser, in eval mode, from what `train_ddpm` or `external_ddpm` returned."""
    if CONFIG in state:
        from diffusers import UNet2DModel

        config = json.loads(state[CONFIG].numpy().tobytes())
        unet = Denoiser(UNet2DModel.from_config(config), 1, state[LEVELS])
    else:
        unet = build_unet(shape)
    unet.load_state_dict({name: w for name, w in state.items() if name not in (CONFIG, LEVELS, INTERVAL)})
    return unet.to(device).eval()


def external_ddpm(config: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model of the user's as a guard's state: weights, configuration (JSON as bytes) and the schedule (1000,)."""
    levels = signal_level(torch.device("cpu"))
    if config["scheduler"]:
        from diffusers import DDPMScheduler

        levels = DDPMScheduler.from_config(config["scheduler"]).alphas_cumprod
    text = torch.tensor(list(json.dumps(config["unet"]).encode()), dtype=torch.uint8)
    return {f"unet.{name}": w for name, w in weights.items()} | {CONFIG: text, LEVELS: levels}


def train_ddpm(training: Training, images: Tensor, steps: int) -> dict[str, Tensor]:
    """Weights of a denoiser trained on images (n, c, h, w) to predict the noise (Ho et al. 2020, algorithm 1)."""
    generator, device = training.generator("ddpm"), training.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        unet = build_unet(training.shape).to(device).train()
    optimizer = torch.optim.Adam(unet.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    levels, images = signal_level(device), 2 * images.to(device) - 1
    size = min(BATCH, len(images))
    with torch.enable_grad():
        for _ in range(steps):
            x = images[torch.randint(len(images), (size,), generator=generator).to(device)]
            t = torch.randint(STEPS, (size,), generator=generator).to(device)
            noise = torch.randn(x.shape, generator=generator).to(device)
            level = levels[t].view(-1, 1, 1, 1)
            predicted = unet(level.sqrt() * x + (1 - level).sqrt() * noise, t)
            optimizer.zero_grad()
            nn.functional.mse_loss(predicted, noise).backward()
            optimizer.step()
            schedule.step()
    return {name: w.detach().cpu() for name, w in unet.state_dict().items()}
