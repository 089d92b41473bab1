"""Access: an attack gets what it declared, in exact digits, and no guard may break the contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark import networks
from benchmark.api import Access
from benchmark.networks.access import CHUNK, Answers, GuardedTarget, ask, calls, check_log_posteriors, raw

CPU = torch.device("cpu")


def images(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network() -> nn.Module:
    return networks.build("small_cnn", 10, (1, 8, 8), 0)


def test_raw_answers_are_log_posteriors_in_double(network: nn.Module) -> None:
    x = images(CHUNK + 3)
    answer = raw(network, CPU)(x)
    assert answer.shape == (CHUNK + 3, 10) and answer.dtype == torch.float64 and not answer.requires_grad
    assert torch.allclose(answer.exp().sum(1), torch.ones(CHUNK + 3, dtype=torch.float64), atol=1e-12)
    with torch.no_grad():
        logits = torch.cat([network(x[:CHUNK]), network(x[CHUNK:])]).double()
    assert torch.equal(answer, logits - logits.logsumexp(1, keepdim=True)) or torch.allclose(
        answer, logits - logits.logsumexp(1, keepdim=True), atol=1e-12
    )


def test_saturated_answers_keep_their_digits() -> None:
    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[60.0, 0.0, 0.0]]).expand(len(x), 3)

    answer = raw(Sure(), CPU)(images(1))
    assert answer[0, 1] == pytest.approx(-60, abs=1e-9)
    assert answer[0, 0] == pytest.approx(0, abs=1e-15)


def test_asking_leaves_batch_statistics_alone() -> None:
    network = networks.build("vgg11", 10, (1, 8, 8), 0).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    predict = raw(network, CPU)
    x = images(6)
    together = predict(x)
    assert torch.allclose(together, torch.cat([predict(row) for row in x.split(1)]), atol=1e-5), "no batch statistics"
    assert not network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.fixture
def target(network: nn.Module) -> GuardedTarget:
    return make_target(network, "posterior")


def make_target(network: nn.Module, access: Access, known: int = 20) -> GuardedTarget:
    answers = Answers()
    answers.add(images(known), raw(network, CPU)(images(known)))
    return GuardedTarget(access, raw(network, CPU), answers, lambda: network)


def test_label_access_gives_labels_alone(network: nn.Module) -> None:
    target = make_target(network, "label")
    assert torch.equal(target.labels(images(20)), raw(network, CPU)(images(20)).argmax(1))
    with pytest.raises(PermissionError, match="declares label access; it asked for posteriors"):
        target.log_posteriors(images(3))
    with pytest.raises(PermissionError, match="declares label access; it asked for the network"):
        target.white_box()


def test_the_network_is_for_white_box_access_alone(network: nn.Module, target: GuardedTarget) -> None:
    with pytest.raises(PermissionError, match="declares posterior access; it asked for the network"):
        target.white_box()
    assert make_target(network, "white-box").white_box() is network
    with pytest.raises(PermissionError):
        GuardedTarget("white-box", raw(network, CPU), Answers()).white_box()


def test_stored_answers_are_the_same_digits_in_any_order_and_batch(network: nn.Module, target: GuardedTarget) -> None:
    x = images(20)
    stored = raw(network, CPU)(x)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    assert torch.equal(target.log_posteriors(x[order]), stored[order])
    assert torch.equal(torch.cat([target.log_posteriors(row) for row in x.split(1)]), stored)
    assert torch.equal(target.log_posteriors(x.expand(20, 1, 8, 8).double()), stored), "dtype is no other image"
    twice = x[torch.tensor([4, 4, 0])]
    assert torch.equal(target.log_posteriors(twice), stored[torch.tensor([4, 4, 0])])


def test_stored_and_fresh_answers_mix(network: nn.Module, target: GuardedTarget) -> None:
    x = torch.cat([images(20)[5:8], images(4, seed=9), images(20)[:2]])
    assert torch.allclose(target.log_posteriors(x), raw(network, CPU)(x), atol=1e-6)
    asked = []
    answers = Answers()
    answers.add(images(20), raw(network, CPU)(images(20)))

    def count(rows: Tensor) -> Tensor:
        asked.append(len(rows))
        return raw(network, CPU)(rows)

    GuardedTarget("posterior", count, answers).log_posteriors(x)
    assert asked == [4], "what is stored is not computed"


def test_a_changed_pixel_is_another_image(network: nn.Module, target: GuardedTarget) -> None:
    x = images(20)
    x[0, 0, 0, 0] += 0.01
    assert not torch.equal(target.log_posteriors(x)[0], raw(network, CPU)(images(20))[0])


def test_queries_count_images_stored_or_not(target: GuardedTarget) -> None:
    target.labels(images(20))
    target.log_posteriors(images(5, seed=8))
    target.log_posteriors(images(20)[:1])
    assert target.queries == 26


def good(n: int = 4, k: int = 3) -> Tensor:
    return torch.randn(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(1)


def spoiled(value: float) -> Tensor:
    answer = good()
    answer[2, 1] = value
    return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (good().float(), r"guard x: expected log-posteriors \(4, 3\) float64, given \(4, 3\) torch.float32"),
        (good(3), r"given \(3, 3\)"),
        (good(4, 2), r"given \(4, 2\)"),
        (good()[0], r"given \(3,\)"),
        (spoiled(float("nan")), "given NaN or a positive value"),
        (spoiled(0.5), "given NaN or a positive value"),
        (good().exp(), "given NaN or a positive value"),
        (good() - 0.01, "expected posteriors that sum to 1, given a sum of 0.99005"),
        (torch.full((4, 3), float("-inf"), dtype=torch.float64), "given a sum of 0"),
    ],
)
def test_a_guard_is_held_to_the_contract(answer: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_log_posteriors(answer, 4, 3, "guard x")


def test_exact_zeros_and_ones_are_answers() -> None:
    certain = torch.tensor([[0.0, float("-inf"), float("-inf")]], dtype=torch.float64)
    assert check_log_posteriors(certain, 1, 3, "guard") is certain
    assert check_log_posteriors(good() - 1e-6, 4, 3, "guard") is not None


@pytest.mark.parametrize("n", [1, 2, 140, 4000])
def test_calls_hold_each_query_once(n: int) -> None:
    """In shuffled calls of many sizes; most queries go out in large ones."""
    sizes = set()
    for seed in range(50):
        found = calls(n, np.random.default_rng(seed))
        assert np.array_equal(np.sort(np.concatenate(found)), np.arange(n))
        assert max(map(len, found)) <= CHUNK
        sizes |= {len(c) for c in found}
        if n == 4000:
            assert sum(len(c) for c in found if len(c) >= 50) > 0.8 * n
    assert n < 100 or len(sizes) > 50


def test_answers_come_back_in_order() -> None:
    asked: list[int] = []

    def predict(x: Tensor) -> Tensor:
        asked.append(len(x))
        return x.flatten(1)[:, :3].double()

    x = images(700)
    assert torch.equal(ask(predict, x, np.random.default_rng(0)), x.flatten(1)[:, :3].double())
    assert len(asked) > 1 and sum(asked) == 700


@pytest.mark.parametrize("before", [True, False])
def test_queries_run_in_ieee_float32(before: bool) -> None:
    """On CUDA PyTorch rounds convolutions to TF32 by default, and training may ask for it everywhere (RULES 24)."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    usual, seen = (cudnn.allow_tf32, matmul.allow_tf32), []

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((cudnn.allow_tf32, matmul.allow_tf32))
            return x.flatten(1)

    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = before
        raw(Watching(), CPU)(images(2))
        assert seen == [(False, False)]
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (before, before), "training goes on as it was"
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = usual
