"""DIFFENCE: the query is replaced by a diffusion model's reconstruction of it that keeps its label.

Source: Peng et al. 2025, section III-B and equation 3, scenario 3 (the defender knows no member and no non-member):
of N reconstructions, those with the label of the query are the candidates, and a random one is answered for. The
diffusion model is the DDPM of Ho et al. 2020, trained on the target's own training data; a reconstruction is the
forward noising to step T and one jump of DDIM (Song et al. 2021, equation 12) back to the clean image.

Differences: the UNet has 0.16 million parameters and trains for minutes at most, so that a CPU is enough; pixels of
images of 28 and more go in blocks of two by two as channels, which costs a quarter. The released code
noises with other coefficients and runs the network twice a reconstruction; this is the formula of the paper.
The threat model leaves out what the diffusion model itself leaks (section II-B).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api import Annotated, Card, Context, Defense, Field, Hyper, Predict, Search, Task

STEPS = 1000
BATCH = 128
LEARNING_RATE = 4e-3
CHUNK = 500


class Diffence(Defense):
    """Answers for a random reconstruction among those that keep the label. Labels never change."""

    card = Card(
        title="DIFFENCE",
        authors=("Peng", "Naseri", "Houmansadr"),
        reference="Diffence: Fencing Membership Privacy With Diffusion Models, NDSS 2025",
        year=2025,
    )
    stages = ("pre-inference",)

    class Params(Hyper):
        """`n` reconstructions a query, noised to `timestep`; the diffusion model takes `train_steps` batches."""

        n: Annotated[int, Field(ge=1, le=1000), Search(2, 50)] = 30
        timestep: Annotated[int, Field(ge=1, le=1000), Search(20, 260)] = 160
        train_steps: Annotated[int, Field(ge=1), Search(100, 1600, log=True)] = 400

    def prepare(self, predict: Predict, task: Task) -> dict[str, Tensor]:
        """The diffusion model's weights. They depend on the training data only, not on the network."""
        return task.artifact(f"ddpm-{self.params.train_steps}", lambda: train_ddpm(task, self.params.train_steps))

    def guard(self, predict: Predict, state: dict[str, Tensor], context: Context) -> Predict:
        """The predictor of a kept reconstruction, or of the query itself where none keeps its label."""
        timestep = self.params.timestep

        @cache
        def denoiser(shape: tuple[int, int, int]) -> nn.Module:
            unet = build_unet(shape)
            unet.load_state_dict(state)
            return unet.to(context.device).eval()

        def reconstruction(x: Tensor, i: int) -> Tensor:
            def make() -> Tensor:
                unet, noise = denoiser(tuple(x.shape[1:])), context.normal(f"diffence-{i}", x)
                parts = zip(x.to(context.device).split(CHUNK), noise.to(context.device).split(CHUNK), strict=True)
                return torch.cat([reconstruct(unet, *part, timestep) for part in parts]).to(x.device)

            # Named by i alone, so that a smaller n takes the first of a larger one's.
            return context.remember(f"reconstruction-{timestep}-{i}", x, make)

        def guarded(x: Tensor) -> Tensor:
            answers = torch.stack([predict(reconstruction(x, i)) for i in range(self.params.n)])
            original = predict(x)
            return choose(original, answers, context.uniform("diffence-choice", x, 1).squeeze(1).to(original.device))

        return guarded


def choose(original: Tensor, answers: Tensor, uniform: Tensor) -> Tensor:
    """A random one of answers (N, n, k) that has the label of original (n, k); original where none has.

    uniform (n,) in (0, 1) decides. Section III-B2, scenario 3.
    """
    keeps = answers.argmax(2) == original.argmax(1)
    rank = keeps.cumsum(0)
    picked = keeps & (rank == (uniform * rank[-1]).floor() + 1)
    answer = answers.gather(0, picked.int().argmax(0).view(1, -1, 1).expand_as(answers[:1])).squeeze(0)
    return torch.where(keeps.any(0).unsqueeze(1), answer, original)


def signal_level(device: torch.device) -> Tensor:
    """The share of variance that is signal, abar_t for t = 1 to 1000 (Ho et al. 2020, section 2, linear betas)."""
    betas = torch.linspace(1e-4, 2e-2, STEPS, dtype=torch.float64)
    return (1 - betas).cumprod(0).float().to(device)


@torch.no_grad()
def reconstruct(unet: Callable[[Tensor, Tensor], Tensor], x: Tensor, noise: Tensor, timestep: int) -> Tensor:
    """Noise images (n, c, h, w) in [0, 1] to the step, 1 to 1000, and return DDIM's one jump back to t = 0."""
    level = signal_level(x.device)[timestep - 1]
    noisy = level.sqrt() * (2 * x - 1) + (1 - level).sqrt() * noise
    predicted = unet(noisy, torch.full((len(x),), timestep - 1, device=x.device))
    clean = (noisy - (1 - level).sqrt() * predicted) / level.sqrt()
    return (clean.clamp(-1, 1) + 1) / 2


class Denoiser(nn.Module):
    """A UNet for images (c, h, w), on blocks of `block` x `block` pixels: noisy images and steps -> the noise."""

    def __init__(self, unet: Any, block: int):
        super().__init__()
        self.unet, self.block = unet, block

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        blocks = nn.functional.pixel_unshuffle(x, self.block)
        return nn.functional.pixel_shuffle(self.unet(blocks, t).sample, self.block)


def build_unet(shape: tuple[int, int, int]) -> nn.Module:
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
    return Denoiser(unet, block)


def train_ddpm(task: Task, steps: int) -> dict[str, Tensor]:
    """Weights of a denoiser trained on `task.train` to predict the noise (Ho et al. 2020, algorithm 1)."""
    generator, device = task.generator("ddpm"), task.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        unet = build_unet(task.shape).to(device).train()
    optimizer = torch.optim.Adam(unet.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    levels, images = signal_level(device), 2 * task.train.x.to(device) - 1
    with torch.enable_grad():
        for _ in range(steps):
            x = images[torch.randint(len(images), (BATCH,), generator=generator).to(device)]
            t = torch.randint(STEPS, (BATCH,), generator=generator).to(device)
            noise = torch.randn(x.shape, generator=generator).to(device)
            level = levels[t].view(-1, 1, 1, 1)
            predicted = unet(level.sqrt() * x + (1 - level).sqrt() * noise, t)
            optimizer.zero_grad()
            nn.functional.mse_loss(predicted, noise).backward()
            optimizer.step()
            schedule.step()
    return {name: w.detach().cpu() for name, w in unet.state_dict().items()}
