"""The GAN and the search for latents against closed forms on linear networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.api import Knowledge, Samples
from tests.submissions.test_attacks import CLASSES, SHAPE, Linear, fitted, images, knowledge, module

MODULE = module("secret_revealer")
QUICK = {"epochs": 2, "width": 2, "size": 3, "steps": 5}


def linear_critic(weights: Tensor) -> nn.Module:
    """x -> <weights, x>."""
    layer = nn.Linear(weights.numel(), 1, bias=False)
    layer.weight.data = weights.view(1, -1)
    return nn.Sequential(nn.Flatten(), layer, nn.Flatten(0))


def store() -> tuple[dict[str, dict[str, Tensor]], Any]:
    """What was stored, by name, and an `artifact` that stores there."""
    made: dict[str, dict[str, Tensor]] = {}

    def artifact(name: str, make: Any) -> dict[str, Tensor]:
        if name not in made:
            made[name] = make(torch.Generator().manual_seed(5))
        return made[name]

    return made, artifact


def known(**changes: Any) -> tuple[dict[str, dict[str, Tensor]], Knowledge]:
    made, artifact = store()
    return made, replace(knowledge(), artifact=artifact, **changes)


@pytest.mark.parametrize("norm", [0.5, 1.0, 3.0])
def test_the_penalty_of_a_linear_critic(norm: float) -> None:
    """Its gradient is its weights everywhere, so that the penalty is (|w| - 1)^2, whatever the images and the mixture."""
    w = torch.randn(6, generator=torch.Generator().manual_seed(0))
    critic = linear_critic(norm * w / w.norm())
    real, fake = images(8, 1).x, images(8, 2).x
    penalty = MODULE.gradient_penalty(critic, real, fake, torch.rand(8, 1, 1, 1))
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-6)
    loss = MODULE.critic_loss(critic, real, fake, torch.rand(8, 1, 1, 1), 10.0)
    apart = (fake.mean(0) - real.mean(0)).flatten() @ (norm * w / w.norm())
    assert loss.item() == pytest.approx(apart.item() + 10 * (norm - 1) ** 2, abs=1e-5)


def test_the_penalty_is_each_images_own_and_passes_gradients_on() -> None:
    """Of the critic sum(x^2) / 2 the gradient is the image itself, taken at the mixture."""

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * (x**2).flatten(1).sum(1) / 2

    critic, real, fake, mix = Square(), images(5, 1).x, images(5, 2).x, torch.rand(5, 1, 1, 1)
    norms = (mix * real + (1 - mix) * fake).flatten(1).norm(dim=1)
    penalty = MODULE.gradient_penalty(critic, real, fake, mix)
    assert penalty.item() == pytest.approx(((norms - 1) ** 2).mean().item(), rel=1e-5)
    penalty.backward()
    assert critic.scale.grad is not None
    assert critic.scale.grad.item() == pytest.approx((2 * (norms - 1) * norms).mean().item(), rel=1e-4)


@pytest.mark.parametrize("steps", [1, 4])
def test_latents_of_linear_networks_step_as_in_closed_form(steps: int) -> None:
    """Generator z -> A z, critic <w, x>, logits W x: the gradient at z is A^T (identity W^T (p - e_y) - w)."""
    g = torch.Generator().manual_seed(3)
    a, w, logits = torch.randn(6, 3, generator=g), torch.randn(6, generator=g), torch.randn(CLASSES, 6, generator=g)
    generator = nn.Sequential(nn.Linear(3, 6, bias=False), nn.Unflatten(1, SHAPE))
    generator[0].weight.data = a
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, CLASSES, bias=False))
    network[1].weight.data = logits
    y, z = torch.tensor([2, 0, 2]), torch.randn(3, 3, generator=g)
    params = MODULE.SecretRevealer.Params(steps=steps, learning_rate=3e-2, identity=7.0, clip=0.8)
    got = MODULE.search(z, y, generator, linear_critic(w), network, params)
    want, v = z.double().numpy(), 0.0
    A, W, C = (t.double().numpy() for t in (a, logits, w))
    for _ in range(steps):
        p = torch.from_numpy(want @ A.T @ W.T).softmax(1).numpy()
        gradient = (7.0 * (p - torch.nn.functional.one_hot(y, CLASSES).numpy()) @ W - C) @ A
        before, v = v, 0.9 * v - 3e-2 * gradient
        want = (want - 0.9 * before + 1.9 * v).clip(-0.8, 0.8)
    torch.testing.assert_close(got.double(), torch.from_numpy(want), rtol=1e-4, atol=1e-5)


def test_an_image_steps_alike_in_any_batch() -> None:
    _, world = known()
    attack = fitted("secret_revealer", world, **QUICK)
    both, alone = attack.reconstruct(Linear(1), [3, 1]), attack.reconstruct(Linear(1), [1])
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 50, 37), (2, 2, 3)])
def test_networks_have_the_resolution_of_the_data(shape: tuple[int, int, int]) -> None:
    made = MODULE.build_generator(shape, 5, 2).eval()(torch.randn(3, 5))
    assert made.shape == (3, *shape) and made.min() >= 0 and made.max() <= 1
    assert MODULE.build_critic(shape, 2)(made).shape == (3,)


def test_the_generator_is_trained_once_for_all_targets() -> None:
    made, world = known()
    first = fitted("secret_revealer", world, **QUICK)
    kept = {name: {k: t.clone() for k, t in tensors.items()} for name, tensors in made.items()}
    assert len(made) == 1
    other = fitted("secret_revealer", replace(world, seed=99), **QUICK | {"identity": 1.0})  # another target's
    assert len(made) == 1 and all(torch.equal(t, kept[n][k]) for n, tensors in made.items() for k, t in tensors.items())
    for a, b in zip(first.generator.state_dict().values(), other.generator.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    fitted("secret_revealer", world, **QUICK | {"epochs": 1})
    assert len(made) == 2, "what the training reads is in the name"


def test_training_moves_fakes_towards_the_real_images() -> None:
    """All real images are one, far from what an untrained generator gives."""
    real = torch.tensor([0.9, 0.1, 0.9, 0.1, 0.9, 0.1]).view(1, *SHAPE).expand(64, -1, -1, -1)
    _, world = known(auxiliary=Samples(real, torch.arange(64) % CLASSES))
    away = []
    for epochs in (1, 150):
        attack = fitted(
            "secret_revealer", world, **QUICK | {"epochs": epochs, "latents": "random", "train_rate": 1e-2, "width": 4}
        )
        away.append((attack.reconstruct(Linear(), range(CLASSES)) - real[:CLASSES].unsqueeze(1)).abs().mean().item())
    assert away[1] < 0.6 * away[0], away


def test_the_target_is_surer_of_what_was_sought_and_the_best_comes_first() -> None:
    _, world = known()
    target = Linear(2, network=None)
    params = QUICK | {"steps": 60, "learning_rate": 1e-2, "starts": 4, "images": 4}
    got = fitted("secret_revealer", world, **params).reconstruct(target, range(CLASSES))
    start = fitted("secret_revealer", world, **params | {"latents": "random"}).reconstruct(target, range(CLASSES))
    assert got.shape == (CLASSES, 4, *SHAPE)
    y = torch.arange(CLASSES).repeat_interleave(4)
    sure, before = (target.log_posteriors(x.flatten(0, 1))[range(len(y)), y].view(CLASSES, 4) for x in (got, start))
    assert sure.mean() > before.mean()
    assert (sure.diff(dim=1) <= 1e-6).all()
    best = fitted("secret_revealer", world, **params | {"images": 1}).reconstruct(target, range(CLASSES))
    torch.testing.assert_close(best, got[:, :1])


def test_random_latents_ask_nothing() -> None:
    class Silent(Linear):
        def white_box(self) -> nn.Module:
            raise AssertionError("asked")

    _, world = known()
    assert fitted("secret_revealer", world, **QUICK, latents="random").reconstruct(Silent(), [1]).shape == (
        1,
        1,
        *SHAPE,
    )


def test_more_images_than_starts_are_refused() -> None:
    with pytest.raises(ValueError, match="images: expected at most one a start, 2, given 3"):
        fitted("secret_revealer", known()[1], starts=2, images=3)
