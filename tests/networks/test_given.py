"""Networks that somebody else wrote: what is put in front of them, what is taken out, and what they show to attacks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmark import networks
from benchmark.errors import UserError
from benchmark.networks import given


def test_a_network_of_timm_takes_images_as_they_are_and_shows_its_last_layer() -> None:
    network = given.from_timm("test_resnet", 7, (3, 32, 32)).eval()
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    whole, x = given.Adapted(network, mean, std).eval(), torch.rand(2, 3, 32, 32)
    by_hand = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    with torch.no_grad():
        assert torch.allclose(whole(x), network(by_hand), atol=1e-6)
        assert torch.allclose(whole.head(whole.embed(x)), whole(x), atol=1e-5)
    assert given.embeds(whole, x) and whole.head.out_features == 7


def test_a_vision_transformer_is_built_for_the_size_of_the_images() -> None:
    network = given.from_timm("test_vit", 5, (3, 48, 48)).eval()
    given.check(network, 5, (3, 48, 48), "vit")


@pytest.mark.parametrize("name", ["resnet1888", "hf-hub:timm/resnet18", "local-dir:/etc", "../x", "resnet18.a1_in1k"])
def test_unknown_names_are_refused_and_nothing_is_fetched(name: str) -> None:
    with pytest.raises(UserError, match="--network: unknown network of timm") as told:
        given.from_timm(name, 5, (3, 32, 32))
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


def test_what_shows_no_last_layer_is_known() -> None:
    x = torch.rand(2, 1, 8, 8)
    assert given.embeds(networks.build("small_cnn", 10, (1, 8, 8), 0).eval(), x)
    assert not given.embeds(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), x)

    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)

        def embed(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.head(self.embed(x)) + 1

    assert not given.embeds(Wrong(), x), "an attack would compute with other logits"


class Pooled(nn.Module):
    """A network as those of Hugging Face's transformers are: its answer holds the logits. Other linear layers come before."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(4, 6)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(6, 10))

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        tokens = self.patches(pixel_values.reshape(len(pixel_values), -1, 4)).relu()
        return SimpleNamespace(loss=None, logits=self.classifier(tokens.mean(1)))


def test_any_network_shows_its_last_linear_layer_and_its_logits_are_taken_out_of_its_answer() -> None:
    network, x = Pooled().eval(), torch.rand(2, 1, 8, 8)
    adapted = given.Adapted(network).eval()
    given.check(adapted, 10, (1, 8, 8), "pooled")
    with torch.no_grad():
        assert torch.equal(adapted(x), network(x).logits), "to the last digit"
        assert torch.equal(adapted.embed(x), network.patches(x.reshape(2, -1, 4)).relu().mean(1))
        assert torch.equal(adapted.head(adapted.embed(x)), adapted(x))
        assert torch.equal(
            given.Adapted(network, torch.tensor([0.5]), torch.tensor([0.25]))(x), network((x - 0.5) / 0.25).logits
        )
    assert given.embeds(adapted, x) and adapted.head is network.classifier[1]
    assert not network.classifier[1]._forward_pre_hooks, "the caller's network is as it was"


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Flatten(), nn.Linear(64, 10), nn.LogSoftmax(1)],  # the layer's answers are not the network's
        [nn.Flatten(1, 2), nn.Linear(8, 10), nn.AdaptiveAvgPool2d((1, 10)), nn.Flatten()],  # its inputs are not (n, d)
        [nn.Conv2d(1, 10, 8), nn.Flatten()],  # it has none
    ],
)
def test_a_network_whose_logits_are_not_those_of_a_linear_layer_shows_none(layers: list[nn.Module]) -> None:
    adapted = given.Adapted(nn.Sequential(*layers)).eval()
    given.check(adapted, 10, (1, 8, 8), "other")
    assert not given.embeds(adapted, torch.rand(2, 1, 8, 8))
