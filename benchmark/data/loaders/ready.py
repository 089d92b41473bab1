"""The data sets that need no preparing: their names are as the first boards pinned them."""

from __future__ import annotations

from benchmark.data.sources import digits, fashion_mnist

SOURCES = {"digits": digits.load, "fashion_mnist": fashion_mnist.load}
