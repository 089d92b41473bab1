"""The networks are those of the papers: parameters and multiply-adds as published, layers as described."""

import pytest
import torch
import torchvision
from torch import nn

from benchmark import networks
from benchmark.networks.cost import cost

IMAGENET = {
    "alexnet_as_released": ("alexnet", 0.71),
    "densenet121_as_released": ("densenet121", 2.83),
    "mobilenetv2_as_released": ("mobilenet_v2", 0.30),
    "resnet18_as_released": ("resnet18", 1.81),
    "resnet34_as_released": ("resnet34", 3.66),
    "vgg11_as_released": ("vgg11", 7.61),
    "vgg16_as_released": ("vgg16", 15.47),
    "vgg19_as_released": ("vgg19", 19.63),
}
"""torchvision's name, and the billions of multiply-adds that its documentation has (GFLOPS) at 224x224."""


@pytest.mark.parametrize("name", IMAGENET)
def test_as_released_is_the_network_of_torchvision(name):
    theirs, giga = IMAGENET[name]
    with torch.device("meta"):
        parameters = sum(p.numel() for p in torchvision.models.get_model(theirs).parameters())
    ours = cost(name, 1000, (3, 224, 224))
    assert ours.parameters == parameters
    assert round(ours.multiply_adds / 1e9, 2) == giga


def test_xception_as_released_has_the_published_size():
    """Chollet 2017, table 3: 22,855,952 parameters. timm measures 8.4 billion multiply-adds at 299x299."""
    ours = cost("xception_as_released", 1000, (3, 299, 299))
    assert ours.parameters == 22_855_952
    assert round(ours.multiply_adds / 1e9, 1) == 8.4


@pytest.mark.parametrize(
    ("name", "millions", "giga"),
    [
        ("resnet18", 11.2, 0.56),  # the usual CIFAR variant
        ("resnet34", 21.3, 1.16),
        ("vgg11", 9.2, 0.15),
        ("vgg16", 14.7, 0.31),
        ("vgg19", 20.0, 0.40),
        ("densenet121", 7.0, 0.89),
        ("wrn_28_2", 1.5, 0.21),  # Zagoruyko and Komodakis, table 4, and for 28-10 also 5.2 billion multiply-adds
        ("wrn_28_10", 36.5, 5.24),
        ("wrn_34_10", 46.2, 6.66),  # measured on Song's code: 13.3 billion operations
        ("vit", 9.5, 0.64),
    ],
)
def test_small_images_have_the_usual_sizes(name, millions, giga):
    found = cost(name, 10, (3, 32, 32))
    assert (round(found.parameters / 1e6, 1), round(found.multiply_adds / 1e9, 2)) == (millions, giga)


def test_small_stems_change_the_stem_alone():
    """By hand: what stands before the first stage of each, and the head."""
    head = {"alexnet": 256, "mobilenetv2": 1280}
    alexnet = (
        3 * 9 * 64
        + 64
        + sum(a * b * k * k + b for a, b, k in ((64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)))
    )
    assert cost("alexnet", 10, (3, 32, 32)).parameters == alexnet + head["alexnet"] * 10 + 10
    for name, stem in (
        ("resnet18", 64 * 3 * (49 - 9)),
        ("densenet121", 64 * 3 * (49 - 9)),
        ("mobilenetv2", 0),
        ("xception", 0),
    ):
        small, released = (cost(n, 10, (3, 64, 64)) for n in (name, f"{name}_as_released"))
        assert released.parameters - small.parameters == stem
        assert small.multiply_adds > 4 * released.multiply_adds


def layers(name, classes, shape):
    """(channels, kernel, stride, side of the output) of each convolution, and (inputs, outputs) of each linear layer."""
    with torch.device("meta"):
        network = networks.build(name, classes, shape, 0)
        found = []

        def note(layer, _, output):
            if isinstance(layer, nn.Conv2d):
                found.append((layer.out_channels, layer.kernel_size[0], layer.stride[0], output.shape[-1]))
            elif isinstance(layer, nn.Linear):
                found.append((layer.in_features, layer.out_features))

        for layer in network.modules():
            layer.register_forward_hook(note)
        network(torch.empty(2, *shape))
    return found


def test_songs_network_for_yale_layer_by_layer():
    """Section 4: 4 blocks of 8, 16, 32 and 64 channels, strides 1 and 2, then 200 and 38 neurons; images of 192x168."""
    assert layers("song_yale", 38, (1, 192, 168)) == [
        (8, 3, 1, 168), (8, 3, 2, 84), (16, 3, 1, 84), (16, 3, 2, 42), (32, 3, 1, 42), (32, 3, 2, 21), (64, 3, 1, 21),
        (64, 3, 2, 11), (64 * 12 * 11, 200), (200, 38),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "strided"), [("song_fashion", 3), ("song_fashion_verified", 4)])
def test_songs_network_for_fashion_mnist_layer_by_layer(name, strided):
    """Section 4: 2 blocks of 256 and 512 channels, strides 1, 1 and 2, then 200 and 10 neurons; 4x4 as verified."""
    assert layers(name, 10, (1, 28, 28)) == [
        (256, 3, 1, 28), (256, 3, 1, 28), (256, strided, 2, 14), (512, 3, 1, 14), (512, 3, 1, 14), (512, strided, 2, 7),
        (512 * 7 * 7, 200), (200, 10),
    ]  # fmt: skip


def test_simple_cnn_is_that_of_the_paper_and_as_released_that_of_the_code():
    """ML-Doctor: two convolutions and two linear layers; its code has three convolutions, on 64x64."""
    assert layers("simple_cnn", 8, (3, 32, 32)) == [(32, 3, 1, 32), (64, 3, 1, 16), (64 * 8 * 8, 128), (128, 8)]
    assert layers("simple_cnn_as_released", 8, (3, 64, 64)) == [
        (32, 3, 1, 62), (64, 3, 1, 29), (128, 3, 1, 12), (128 * 6 * 6, 512), (512, 8),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["wrn_28_10", "wrn_34_10"])
def test_wide_networks_have_three_groups(name):
    """160, 320 and 640 channels; 4 or 5 blocks of two convolutions each, at 32, 16 and 8 pixels."""
    blocks = (int(name.split("_")[1]) - 4) // 6
    convolutions = [(channels, side) for channels, kernel, _, side in layers(name, 10, (3, 32, 32))[:-1] if kernel == 3]
    assert convolutions == [(16, 32), *[(160, 32)] * 2 * blocks, *[(320, 16)] * 2 * blocks, *[(640, 8)] * 2 * blocks]
