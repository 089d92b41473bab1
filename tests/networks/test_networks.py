import pytest
import torch
from torch import nn

from benchmark import networks

SHAPES = [(c, size, size) for c in (1, 3) for size in (8, 28, 32)]
NETWORKS = pytest.mark.parametrize("name", networks.NAMES)


def images(shape, n=3):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


@NETWORKS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_embeddings_and_gradients(name, shape):
    network = networks.build(name, 7, shape, 0)
    x = images(shape).requires_grad_()
    logits = network(x)
    assert logits.shape == (3, 7)
    assert logits.dtype == torch.float32
    logits.logsumexp(1).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
    embedding = network.eval().embed(x)
    assert embedding.shape == (3, network.head.in_features)
    assert torch.equal(network.head(embedding), network(x))
    assert torch.equal(network(x), network(x))


@NETWORKS
def test_the_seed_alone_decides_the_weights(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = networks.build(name, 10, (1, 8, 8), 1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    same, other = (networks.build(name, 10, (1, 8, 8), seed) for seed in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), same.state_dict().values(), strict=True))
    assert not any(torch.equal(first.state_dict()[k], other.state_dict()[k]) for k in ("head.weight", "head.bias"))


@NETWORKS
def test_classes_only_change_the_head(name):
    few, many = (networks.build(name, k, (1, 8, 8), 0).state_dict() for k in (2, 100))
    assert {k for k in few if few[k].shape != many[k].shape} == {"head.weight", "head.bias"}


@NETWORKS
def test_images_are_normalised_inside(name):
    """Grey 0.5 is the 0 of the network's own input."""
    network = networks.build(name, 10, (1, 8, 8), 0).eval()
    x = images((1, 8, 8))
    assert torch.equal(network.embed(x), network.features(2 * x - 1))


@pytest.mark.parametrize("name", ["simple_cnn", "small_cnn"])
def test_small_networks_work_under_torch_func(name):
    """Per-sample gradients by vmap equal those of one sample at a time."""
    network = networks.build(name, 10, (1, 8, 8), 0)
    parameters = {k: p.detach() for k, p in network.named_parameters()}
    x, y = images((1, 8, 8)), torch.tensor([1, 2, 3])

    def loss(parameters, x, y):
        logits = torch.func.functional_call(network, parameters, (x.unsqueeze(0),))
        return nn.functional.cross_entropy(logits, y.unsqueeze(0))

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, y)
    for i in range(3):
        network.zero_grad()
        nn.functional.cross_entropy(network(x[i : i + 1]), y[i : i + 1]).backward()
        for k, p in network.named_parameters():
            torch.testing.assert_close(gradients[k][i], p.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["simple_cnn", "small_cnn"])
def test_small_networks_suit_differential_privacy(name):
    from opacus.validators import ModuleValidator

    assert ModuleValidator.validate(networks.build(name, 10, (1, 8, 8), 0)) == []


@pytest.mark.parametrize("name", ["simple_cnn", "small_cnn"])
def test_small_networks_learn_the_digits(name):
    from benchmark import data as datasets
    from benchmark.data.splits import split

    data, parts = datasets.load("digits"), split("six-way", 1797, 0)
    x, y = data.x / 255, data.y
    train, test = parts["target-train"], parts["target-test"]
    network = networks.build(name, 10, data.shape, 0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(15):
        for batch in torch.randperm(len(train), generator=generator).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[train[batch]]), y[train[batch]]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracies = [(network(x[part]).argmax(1) == y[part]).double().mean() for part in (train, test)]
    assert accuracies[0] > 0.98
    assert accuracies[1] > 0.9


def test_resnet18_keeps_the_resolution_of_small_images():
    network = networks.build("resnet18", 10, (3, 32, 32), 0)
    sizes = []
    for block in (network.features.layer1, network.features.layer4):
        block.register_forward_hook(lambda _, __, output: sizes.append(output.shape[-1]))
    network(images((3, 32, 32)))
    assert sizes == [32, 4]


@pytest.mark.parametrize(("size", "poolings"), [(32, 5), (28, 4), (8, 3)])
def test_vgg11_pools_while_it_can(size, poolings):
    network = networks.build("vgg11", 10, (1, size, size), 0)
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in network.features) == poolings
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.features) == 8


def test_unknown_names_get_a_hint():
    with pytest.raises(networks.UnknownArchitecture, match="did you mean 'resnet18'"):
        networks.build("resnet-18", 10, (1, 8, 8), 0)
    with pytest.raises(ValueError, match="vgg11"):
        networks.build("transformer", 10, (1, 8, 8), 0)
