import pytest
import torch
from torch import nn

from benchmark import networks
from benchmark.api import Samples
from benchmark.networks.access import Answers, GuardedTarget, raw
from benchmark.networks.architecture import WrongShape
from benchmark.networks.dropout import Dropout
from benchmark.networks.training import TrainingRun
from benchmark.protocol import Recipe
from submissions.defenses.dp_sgd import DPSGD

NETWORKS = pytest.mark.parametrize("name", networks.NAMES)
LARGE = {name for name in networks.NAMES if name.startswith(("vgg", "alexnet")) and name.endswith("as_released")}
LARGE |= {"wrn_28_10", "wrn_34_10", "resnet34", "resnet34_as_released", "vgg19", "xception_as_released"}
LARGE |= {"densenet121_as_released", "song_fashion", "song_fashion_verified"}
"""Built by the code of smaller ones, or of 50 million weights and more: without numbers, on the meta device, they are quick."""
REAL = pytest.mark.parametrize("name", [name for name in networks.NAMES if name not in LARGE])
SMALL = ["simple_cnn", "simple_cnn_as_released", "small_cnn", "song_yale"]


def images(shape, n=3):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def least(name, channels):
    side = networks.about(name).least
    return channels, side, side


@NETWORKS
def test_logits_embeddings_and_gradients_on_the_least_images(name):
    """On PyTorch's meta device: shapes and the way of gradients, without numbers. One channel; training has three."""
    shape = least(name, 1)
    with torch.device("meta"):
        network = networks.build(name, 7, shape, 0)
        for dropout in (m for m in network.modules() if isinstance(m, Dropout)):
            dropout.eval()  # a mask has numbers
        x = torch.empty(3, *shape, requires_grad=True)
        logits = network(x)
        assert logits.shape == (3, 7) and logits.dtype == torch.float32
        logits.logsumexp(1).sum().backward()
        assert x.grad is not None
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, parameter_name
        assert network.eval().embed(x).shape == (3, network.head.in_features)


def training(name, shape):
    """Two epochs of two batches, as the judge trains: the loop, the recipe, the seed."""
    n = 16 if name.startswith(("mobilenet", "densenet")) else 4  # many BatchNorms over two values let gradients explode
    samples = Samples(images(shape, n), torch.arange(n) % 3)
    recipe = Recipe(learning_rate=0.01, schedule="constant", epochs=2, batch_size=n // 2)
    return TrainingRun(
        train=samples, reference=samples, validation=samples, classes=3, recipe=recipe, architecture=name, simple={},
        seed=1, device=torch.device("cpu"),
    )  # fmt: skip


@REAL
def test_every_network_trains_on_its_least_images(name):
    """Finite and changed weights; then logits of the embedding, the same alone and in a batch, as white-box attacks see them."""
    for channels in (1, 3) if name in SMALL else (3,):
        run = training(name, least(name, channels))
        network = run.build()
        before = {k: t.clone() for k, t in network.named_parameters()}
        run.fit(network)
        for k, t in network.named_parameters():
            assert t.isfinite().all(), k
        assert sum(not torch.equal(before[k], t) for k, t in network.named_parameters()) > len(before) // 2
        x = images(least(name, channels))
        target = GuardedTarget("white-box", raw(network, run.device), Answers(), lambda network=network: network)
        with torch.no_grad():
            copy = target.white_box()
            assert torch.equal(copy.head(copy.embed(x)), copy(x))
            assert torch.equal(copy(x).double().log_softmax(1), target.log_posteriors(x))
            torch.testing.assert_close(copy(x[:1]), copy(x)[:1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["vit", "mobilenetv2_as_released"])
def test_a_training_with_dropout_can_be_repeated(name):
    """Masks depend on the seed, not on what was drawn before."""
    states = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        run = training(name, least(name, 1))
        states.append(run.fit(run.build()).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


@pytest.mark.parametrize("name", ["vit", "mobilenetv2_as_released"])
def test_networks_with_dropout_stay_out_of_vectorised_training(name):
    assert next(networks.build(name, 3, least(name, 1), 0).buffers(), None) is not None


@NETWORKS
def test_smaller_images_are_refused_in_one_line(name):
    known = networks.about(name)
    side = known.least - 1
    if side:
        with pytest.raises(WrongShape) as error, torch.device("meta"):
            networks.build(name, 3, (1, known.least, side), 0)
        assert str(error.value) == (
            f"{known.title}: expected images of at least {known.least}x{known.least} pixels, given {known.least}x{side}"
        )


def test_a_transformer_refuses_what_its_patches_do_not_tile():
    with pytest.raises(WrongShape, match="expected images whose height and width are multiples of 4, given 30x32"):
        networks.build("vit", 3, (3, 30, 32), 0)


@pytest.mark.parametrize("name", ["alexnet", "song_yale", "wrn_28_2", "mobilenetv2"])
def test_differential_privacy_trains_with_groupnorm_for_batchnorm(name):
    """One of each kind of layers: all networks without dropout (RULES 31)."""
    defense = DPSGD(DPSGD.Params())
    network = defense.train(training(name, least(name, 1)))
    assert all(t.isfinite().all() for t in network.state_dict().values())
    layers = [type(m) for m in network.modules()]
    assert nn.BatchNorm2d not in layers
    assert (nn.GroupNorm in layers) == (name not in ("alexnet", "song_yale"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenetv2_as_released", "dropout: expected a training by whole batches, given one sample by sample"),
        (
            "vit",
            "dp_sgd: expected a network that Opacus can handle, given: Model contains a trainable layer with buffers",
        ),
    ],
)
def test_differential_privacy_refuses_dropout_in_one_line(name, message):
    with pytest.raises(ValueError, match=message) as error:
        DPSGD(DPSGD.Params()).train(training(name, least(name, 1)))
    assert "\n" not in str(error.value)


@REAL
def test_the_seed_alone_decides_the_weights(name):
    shape = least(name, 1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = networks.build(name, 10, shape, 1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    same = networks.build(name, 10, shape, 1)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), same.state_dict().values(), strict=True))
    if sum(p.numel() for p in first.parameters()) < 3e6:
        other = networks.build(name, 10, shape, 2)
        assert not any(torch.equal(first.state_dict()[k], other.state_dict()[k]) for k in ("head.weight", "head.bias"))


@NETWORKS
def test_classes_only_change_the_head(name):
    with torch.device("meta"):
        few, many = (networks.build(name, k, least(name, 1), 0).state_dict() for k in (2, 100))
    assert {k for k in few if few[k].shape != many[k].shape} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "vit"])
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
