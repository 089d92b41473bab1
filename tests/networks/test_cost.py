import torch

from benchmark import networks
from benchmark.networks.cost import Cost, cost


def test_cost_by_hand():
    """Two convolutions on 28x28 and 14x14, and two linear layers; biases are parameters and no multiply-adds."""
    found = cost("simple_cnn", 10, (1, 28, 28))
    weights = (9 * 32, 9 * 32 * 64, 64 * 49 * 128, 128 * 10)
    assert found == Cost(
        sum(weights) + 32 + 64 + 128 + 10, 784 * weights[0] + 196 * weights[1] + weights[2] + weights[3]
    )


def test_counting_allocates_nothing_and_leaves_the_random_state(monkeypatch):
    """140 million weights and a forward pass at 224x224: all on the meta device."""
    devices = set()
    build = networks.build

    def watched(*arguments):
        network = build(*arguments)
        devices.update(t.device.type for t in (*network.parameters(), *network.buffers()))
        return network

    monkeypatch.setattr(networks, "build", watched)
    before = torch.get_rng_state()
    assert cost("vgg19_as_released", 1000, (3, 224, 224)).parameters == 143_667_240
    assert devices == {"meta"}
    assert torch.equal(before, torch.get_rng_state())
