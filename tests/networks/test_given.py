"""Networks of timm with a normalisation in front, and what they show to attacks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark import networks
from benchmark.errors import UserError
from benchmark.networks import given


def test_a_network_of_timm_takes_images_as_they_are_and_shows_its_last_layer() -> None:
    network = given.from_timm("test_resnet", 7, (3, 32, 32)).eval()
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    whole, x = given.Normalised(network, mean, std).eval(), torch.rand(2, 3, 32, 32)
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
