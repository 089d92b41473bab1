import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmark import data as datasets
from benchmark.data.attribute import above_class_median, thickness


@pytest.mark.parametrize(("width", "length"), [(1, 1), (1, 20), (3, 20), (5, 5)])
@pytest.mark.parametrize("level", [1, 100, 255])
def test_a_bar_in_closed_form(width, length, level):
    x = np.zeros((1, 1, 28, 28), np.uint8)
    x[0, 0, 2 : 2 + length, 4 : 4 + width] = level
    assert thickness(x)[0] == pytest.approx(width * length / (width + length), rel=1e-15)


def test_a_shape_at_the_border_has_its_whole_perimeter():
    assert thickness(np.full((1, 1, 8, 8), 255, np.uint8))[0] == 4


def test_an_empty_image_has_no_thickness():
    assert thickness(np.zeros((2, 1, 8, 8), np.uint8)).tolist() == [0, 0]


@settings(deadline=None)
@given(arrays(np.uint8, (1, 1, 5, 4)))
def test_area_and_perimeter_are_means_over_all_thresholds(x):
    area = perimeter = 0
    for level in range(1, 256):
        inked = np.pad(x[0, 0] >= level, 1)
        area += inked.sum()
        for i, j in zip(*np.nonzero(inked), strict=True):
            perimeter += 4 - sum(inked[i + a, j + b] for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0)))
    assert thickness(x)[0] == (2 * area / perimeter if area else 0)


def test_thicker_strokes_of_real_digits_are_thicker():
    x = datasets.load("digits").x.numpy()
    dilated = np.maximum.reduce([np.roll(x, shift, axis) for axis in (2, 3) for shift in (-1, 0, 1)])
    assert (thickness(dilated) > thickness(x)).mean() > 0.99


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_the_upper_half_of_each_class_gets_1(pairs):
    value, y = np.array(pairs, np.float64).T[0], np.array(pairs).T[1]
    attribute = above_class_median(value, y)
    for label in np.unique(y):
        ranked = sorted(np.flatnonzero(y == label), key=lambda i: (value[i], i))
        upper = ranked[(len(ranked) + 1) // 2 :]
        assert attribute[y == label].sum() == len(upper)
        assert attribute[upper].all()


def test_the_attribute_is_about_thickness():
    data = datasets.load("digits")
    value = thickness(data.x.numpy())
    for label in range(data.classes):
        inside = (data.y == label).numpy()
        upper = data.attribute.numpy()[inside] == 1
        assert value[inside][upper].min() >= value[inside][~upper].max()
        assert value[inside][upper].mean() > 1.05 * value[inside][~upper].mean()
