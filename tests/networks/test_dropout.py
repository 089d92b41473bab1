import copy

import pytest
import torch
from torch import nn

from benchmark.networks.dropout import Dropout, seeded


def made(seed=0, p=0.3):
    torch.manual_seed(seed)
    return Dropout(p)


def test_as_nn_dropout_it_drops_a_share_and_scales_the_rest():
    x = torch.ones(200, 500)
    y = made()(x)
    assert y.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    assert (y == 0).double().mean() == pytest.approx(0.3, abs=0.01)  # 100,000 draws: 7 standard deviations
    assert torch.equal(made().eval()(x), x) and torch.equal(made(p=0)(x), x)


def test_masks_follow_the_seed_and_the_number_of_the_draw():
    first, same, other, x = made(), made(), made(1), torch.ones(50, 50)
    one, two = first(x), first(x)
    assert not torch.equal(one, two) and not torch.equal(one, other(x))
    torch.rand(3)  # what others draw changes nothing
    assert torch.equal(one, same(x)) and torch.equal(two, same(x))
    continued = copy.deepcopy(first)
    assert torch.equal(first(x), continued(x))


def test_the_global_random_state_is_left_alone():
    layer, before = made(), torch.get_rng_state()
    layer(torch.ones(5))
    assert torch.equal(before, torch.get_rng_state())


def test_every_dropout_of_a_network_is_replaced():
    network = seeded(nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))))
    assert [m.p for m in network.modules() if isinstance(m, Dropout)] == [0.5, 0.1]
    assert not any(isinstance(m, nn.Dropout) for m in network.modules())


def test_sample_by_sample_it_is_refused():
    layer = made()
    with pytest.raises(ValueError, match="choose a network without dropout"):
        torch.vmap(layer)(torch.ones(3, 4))
    assert layer.draws == 0
