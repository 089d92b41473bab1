"""Names, numbers and intervals as they are written."""

from __future__ import annotations

import numpy as np
import pandas as pd

from leaderboard.texts import LONGEST, digits, initials, interval, rank_digits, settings_of, short_names


def test_long_names_have_initials_or_end_early() -> None:
    long = initials("label_smoothing+diffence[n=10,timestep=80,train_steps=300]")
    assert long == "label_smoothing+diffence[n=10,…]", "whole settings"
    assert len(initials("a" * 99)) == LONGEST
    alike = [f"label_smoothing+diffence[n=10,timestep={n},train_steps=300]" for n in (80, 40)]
    assert list(short_names(alike).values()) == ["label_smoothing+diffence[t=80]", "label_smoothing+diffence[t=40]"]
    lost = [f"{'a' * 30}[n={n},x={n},y={n}]" for n in (10000000, 20000000)]
    assert len(set(short_names(lost).values())) == 2, "cut short they would be one"
    assert short_names(["a[x=1]", "b[x=1]", "b[x=2]"]) == {"a[x=1]": "a", "b[x=1]": "b[x=1]", "b[x=2]": "b[x=2]"}


def test_a_short_name_has_what_tells_it_apart() -> None:
    names = ["d[n=10]", "d[n=10,timestep=40]", "e[n=10,x=1]", "e[n=10,x=2]+f", "e[n=10,x=3]+f", "g[n=1]"]
    short = ["d", "d[timestep=40]", "e", "e[x=2]+f", "e[x=3]+f", "g"]
    assert list(short_names(names).values()) == short
    assert len(set(short_names(["a", "a[x=1]", "a[x=1]+b", "a[x=2]+b"]).values())) == 4


def test_settings_fold_under_what_is_required_else_the_default() -> None:
    names = ["d[n=2]", "d", "e[n=2]", "e", "f[n=1]", "f[n=2]", "e+f"]
    table = pd.DataFrame({"defense": names})
    heads = dict(zip(names, settings_of(table, ["x", "e[n=2]", "e"]), strict=True))
    assert heads == {"d[n=2]": "d", "d": "d", "e[n=2]": "e[n=2]", "e": "e[n=2]", "f[n=1]": "f[n=1]", "f[n=2]": "f[n=1]", "e+f": "e+f"}  # fmt: skip


def test_as_many_decimals_as_the_intervals_support() -> None:
    table = pd.DataFrame({"auc": [0.5, 0.6], "auc_low": [0.49, 0.58], "auc_high": [0.51, 0.62]})
    assert digits(table, "auc") == 2
    assert digits(table.assign(auc_low=0.498, auc_high=0.502), "auc") == 3
    assert digits(table.assign(auc_low=np.nan, auc_high=np.nan), "auc") == 3, "one seed has no interval"


def test_two_ranks_do_not_print_alike() -> None:
    table = pd.DataFrame({"rank": [1, 2], "auc": [0.551, 0.554], "auc_low": [0.53, 0.53], "auc_high": [0.57, 0.58]})
    assert (digits(table, "auc"), rank_digits(table, "auc")) == (2, 3)
    assert rank_digits(table.assign(rank=1), "auc") == rank_digits(table.assign(auc=[0.55, 0.65]), "auc") == 2
    assert rank_digits(table.assign(auc=[0.5511, 0.5514]), "auc") == 4
    assert rank_digits(table.assign(auc=0.55), "auc") == 6, "nothing tells them apart"
    assert rank_digits(table[:0], "auc") == 3


def test_an_interval_is_text_and_no_zero_is_negative() -> None:
    table = pd.DataFrame({"auc_low": [-0.0001, np.nan], "auc_high": [0.5, np.nan]})
    assert interval(table, "auc", 2).tolist() == ["0.00 – 0.50", ""]
