import numpy as np
import pytest
import torch

from benchmark import data as datasets
from benchmark.data.synthetic import synthetic

DIGESTS = {
    "synthetic-2x1": "62e5ebd23854c3c9aa46b7e3ea8347bd65a32064c9cd7bcbee7a244f4e8ef241",
    "synthetic-100x3": "2fc63e25bb5c70d72a3554c2d8ee3066c71fbc51f5781006c5bef10fa5572667",
    "synthetic-noise": "12634b35f823a6d92abc5c7a56f798fbea60ef24de68324a00ac9806bef9d4bd",
}


@pytest.fixture(params=datasets.SYNTHETIC)
def data(request):
    return datasets.load(request.param)


def test_the_data_are_what_they_always_were(data):
    assert data.digest == DIGESTS[data.name]


def test_images_are_of_eight_bits_and_all_different(data):
    assert data.x.dtype == torch.uint8
    assert data.x.shape[2:] == (8, 8)
    assert data.duplicates == 0
    assert data.y.bincount().unique().numel() == 1


def correct(data):
    """Accuracy of the nearest class mean, found on the first half, on the second one."""
    x, half = data.x.float().flatten(1), len(data) // 2
    means = torch.stack([x[:half][data.y[:half] == c].mean(0) for c in range(data.classes)])
    return float((torch.cdist(x[half:], means).argmin(1) == data.y[half:]).double().mean())


def test_classes_can_be_learnt():
    assert correct(datasets.load("synthetic-2x1")) > 0.95
    assert correct(datasets.load("synthetic-100x3")) > 0.95


def test_labels_that_are_chance_cannot():
    assert correct(datasets.load("synthetic-noise")) < 0.2


def test_classes_and_channels_make_the_images():
    one, other = (synthetic("a", 3, c, 4) for c in (1, 2))
    assert one.shape == (1, 8, 8)
    assert other.shape == (2, 8, 8)
    assert not np.array_equal(one.x[:, 0], other.x[:, 0])
    assert synthetic("b", 3, 1, 4).digest == one.digest
