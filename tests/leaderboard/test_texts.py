"""Names, numbers and intervals as they are written."""

from __future__ import annotations

import numpy as np
import pandas as pd

from leaderboard.texts import LONGEST, digits, initials, interval, rank_digits, short_names


def test_long_names_have_initials_or_end_early() -> None:
    long = initials("label_smoothing+diffence[n=10,timestep=80,train_steps=300]")
    assert long == "label_smoothing+diffence[n=10,t=80,…" and len(long) == LONGEST
    alike = [f"label_smoothing+diffence[n=10,timestep=80,train_steps={n}]" for n in (300, 400)]
    assert short_names(alike) == {name: name for name in alike}, "cut short they would be one"
    assert short_names(["a[x=1]", "b[x=1]", "b[x=2]"]) == {"a[x=1]": "a", "b[x=1]": "b[x=1]", "b[x=2]": "b[x=2]"}


def test_as_many_decimals_as_the_intervals_support() -> None:
    table = pd.DataFrame({"auc": [0.5, 0.6], "auc_low": [0.49, 0.58], "auc_high": [0.51, 0.62]})
    assert digits(table, "auc") == 2
    assert digits(table.assign(auc_low=0.498, auc_high=0.502), "auc") == 3
    assert digits(table.assign(auc_low=np.nan, auc_high=np.nan), "auc") == 3, "one seed has no interval"


def test_two_ranks_do_not_print_alike() -> None:
    table = pd.DataFrame({"rank": [1, 2], "auc": [0.551, 0.554], "auc_low": [0.53, 0.53], "auc_high": [0.57, 0.58]})
    assert (digits(table, "auc"), rank_digits(table, "auc")) == (2, 3)
    assert rank_digits(table.assign(rank=1), "auc") == rank_digits(table.assign(auc=[0.55, 0.65]), "auc") == 2
    assert rank_digits(table[:0], "auc") == 3


def test_an_interval_is_text_and_no_zero_is_negative() -> None:
    table = pd.DataFrame({"auc_low": [-0.0001, np.nan], "auc_high": [0.5, np.nan]})
    assert interval(table, "auc", 2).tolist() == ["0.00 – 0.50", ""]
