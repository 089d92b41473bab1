"""What the contract computes itself: thresholds, and views of a sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmark.api import Knowledge, best_thresholds
from benchmark.api.augmentation import views


@pytest.mark.parametrize("ties", [False, True])
def test_class_wise_thresholds_against_brute_force(ties: bool) -> None:
    g = torch.Generator().manual_seed(6)
    signal = torch.randn(300, generator=g, dtype=torch.float64)
    signal = (signal * 2).round() if ties else signal
    y, member = torch.randint(3, (300,), generator=g), torch.rand(300, generator=g) < 0.4
    signal = signal + member * 0.5 * (y + 1 if not ties else 2)
    member[y == 2] = True  # class 2 has no non-member, class 3 nobody
    *found, overall = best_thresholds(signal, y, member, 4)

    def accuracy(rows: Tensor, threshold: Tensor) -> float:
        called, truth = signal[rows] > threshold, member[rows]
        return ((called[truth]).double().mean() + (~called[~truth]).double().mean()).item() / 2

    for rows, threshold in ((y == 0, found[0]), (y == 1, found[1]), (y >= 0, overall)):
        best = max(accuracy(rows, t - 1e-9) for t in signal[rows].unique())
        assert accuracy(rows, threshold) == pytest.approx(best, abs=1e-12) and best > 0.55
    assert found[2] == overall and found[3] == overall


def test_thresholds_do_not_part_equal_signals() -> None:
    signal = torch.tensor([2.0] + [1.0] * 8 + [0.0] * 6, dtype=torch.float64)
    member = torch.tensor([True] * 6 + [False] * 3 + [True] + [False] * 5)
    *found, overall = best_thresholds(signal, torch.zeros(15).long(), member, 1)
    assert 0 <= overall < 1 and found[0] == overall


@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize("kind", ["random", "reversed", "ties", "integers", "equal"])
def test_thresholds_of_small_classes_against_all_cuts(n: int, kind: str) -> None:
    """Nobody and everybody among the cuts; of equally good ones the one that calls fewest."""
    g = torch.Generator().manual_seed(n)
    for _ in range(60):
        member = torch.arange(n) < torch.randint(1, n, (), generator=g)
        signal = torch.randn(n, generator=g, dtype=torch.float64)
        if kind == "reversed":
            signal -= 3 * member
        if kind in ("ties", "integers"):
            signal = signal.round()
        signal = torch.zeros(n).double() if kind == "equal" else signal
        signal = signal.long() if kind == "integers" else signal

        def accuracy(called: Tensor, member: Tensor = member) -> float:
            return (called[member].double().mean() + (~called[~member]).double().mean()).item() / 2

        cuts = [signal >= t for t in signal.unique().flip(0)]
        best = max([torch.zeros(n, dtype=torch.bool), *cuts], key=lambda called: round(accuracy(called), 9))
        *_, overall = found = best_thresholds(signal, torch.zeros(n).long(), member, 1)
        assert found[0] == overall and overall.isfinite()
        assert torch.equal(signal > overall, best), "the first of the best, from nobody upwards"


@pytest.mark.parametrize("pair", [(1e308, 9e307), (-9e307, -1e308), (1.0, 1 - 2**-53), (5e-324, 0.0)])
def test_a_threshold_parts_whatever_it_lies_between(pair: tuple[float, float]) -> None:
    signal = torch.tensor(pair, dtype=torch.float64)
    overall = best_thresholds(signal, torch.zeros(2).long(), torch.tensor([True, False]), 1)[-1]
    assert (signal > overall).tolist() == [True, False] and overall.isfinite()


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32])
def test_thresholds_lie_between_signals_of_any_kind(kind: torch.dtype) -> None:
    signal, member = torch.tensor([1, 0, 1, 0]).to(kind), torch.tensor([True, False, True, False])
    for found in best_thresholds(signal, torch.zeros(4).long(), member, 1):
        assert found == 0.5 and torch.equal(signal > found, member)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_thresholds_stay_where_the_signal_is() -> None:
    signal, member = torch.rand(9, device="cuda"), torch.arange(9, device="cuda") < 4
    assert best_thresholds(signal, torch.zeros_like(member).long(), member, 2).device == signal.device


def test_an_attack_sees_the_views_of_its_data_set() -> None:
    simple = {"pad": 1, "flip": True}
    known = Knowledge(3, (1, 4, 4), 7, torch.device("cpu"), simple)
    x = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(known.views(x, 3), views(x, simple, 3))
