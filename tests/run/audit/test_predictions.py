"""Answers from files and arrays: all formats give the same, and what can't be answers ends in one line."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmark.errors import UserError
from benchmark.run.audit import predictions as module
from benchmark.run.audit.predictions import FORMS, Form, load, predictions

N, K = 60, 3
Frame = pd.DataFrame


def table(side: bool, form: Form = "probabilities", seed: int = 0) -> Frame:
    """Answers on one side, as a table."""
    rng = np.random.default_rng([seed, side])
    p = rng.dirichlet(np.ones(K), N)
    values = {"probabilities": p, "log-probabilities": np.log(p), "logits": np.log(p) + 3}[form]
    frame = Frame(values, columns=[f"{FORMS[form][0]}_{c}" for c in range(K)])
    return frame.assign(label=rng.integers(0, K, N), id=[f"{'m' if side else 'n'}{i}" for i in range(N)], group_sex=rng.choice(["f", "m"], N))  # fmt: skip


def arrays(frame: Frame, form: Form) -> dict[str, Any]:
    prefix, name = FORMS[form]
    answers = frame[[f"{prefix}_{c}" for c in range(K)]].to_numpy()
    return {name: answers, "labels": frame.label.to_numpy(), "ids": frame.id.to_numpy(str), "group_sex": frame.group_sex.to_numpy(str)}  # fmt: skip


def write(folder: Path, kind: str, form: Form) -> tuple[Path, Path]:
    paths = folder / f"members.{kind}", folder / f"others.{kind}"
    for path, side in zip(paths, (True, False), strict=True):
        frame = table(side, form)
        if kind == "csv":
            frame.to_csv(path, index=False)
        elif kind == "parquet":
            frame.to_parquet(path)
        else:
            np.savez(path, **arrays(frame, form))
    return paths


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_every_format_and_form_gives_the_same(tmp_path: Path, kind: str, form: Form) -> None:
    found = load(*write(tmp_path, kind, form))
    frame = pd.concat([table(True), table(False)])
    expected = np.log(frame[[f"p_{c}" for c in range(K)]].to_numpy())
    assert np.allclose(found.log_posteriors, expected, rtol=0, atol=1e-12)
    assert found.members.tolist() == [True] * N + [False] * N and found.y.tolist() == frame.label.tolist()
    assert found.ids is not None and found.ids.tolist() == frame.id.tolist()
    assert found.groups["sex"].tolist() == frame.group_sex.tolist() and found.form == form
    assert [s.name for s in found.sources] == [f"members.{kind}", f"others.{kind}"]


def test_numbers_of_a_csv_are_read_to_the_last_digit(tmp_path: Path) -> None:
    members, others = write(tmp_path, "csv", "log-probabilities")
    found = load(members, others)
    assert (
        found.log_posteriors[:N] == table(True, "log-probabilities")[["logp_0", "logp_1", "logp_2"]].to_numpy()
    ).all()


def test_one_file_of_both_sides_with_references_and_inputs(tmp_path: Path) -> None:
    frame = pd.concat([table(True).assign(member=1), table(False).assign(member=0)])
    for r in range(2):
        frame = frame.assign(**{f"ref{r}_p_{c}": frame[f"p_{(c + r) % K}"] for c in range(K)}, **{f"ref{r}_member": r})
    frame = frame.assign(x_age=np.arange(2 * N), x_dose=0.5)
    frame.to_csv(tmp_path / "both.csv", index=False)
    found = load(tmp_path / "both.csv")
    assert found.references is not None and found.references.shape == (2, 2 * N, K)
    assert (found.references[1, :, 0] == found.log_posteriors[:, 1]).all()
    assert found.reference_members is not None and found.reference_members.any(1).tolist() == [False, True]
    assert found.inputs is not None and found.inputs.shape == (2 * N, 2)


def edited(edit: Callable[[Frame], Frame]) -> Callable[[Path], None]:
    return lambda path: edit(table(True)).to_csv(path, index=False)


def put(column: str, value: Any) -> Callable[[Path], None]:
    def edit(frame: Frame) -> Frame:
        frame[column] = frame[column].astype(object)
        frame.loc[7, column] = value
        return frame

    return edited(edit)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "sum": (put("p_0", 0.999), r"probabilities that sum to 1 \(within 0.001\), given [12]\.\d+ in record 8 of members.csv \(1 record like it\)"),
    "nan": (put("p_0", "nan"), r"column p_0: expected a value in every row, given none, or NaN, in record 8 \(1 like it\)"),
    "negative": (put("p_0", -0.2), r"expected probabilities in \[0, 1\], given -0.2 in record 8"),
    "empty cell": (put("p_1", None), r"column p_1: expected a value in every row, given none, or NaN, in record 8"),
    "text": (put("p_1", "much"), r"column p_1: expected numbers, given text"),
    "label out of range": (put("label", 3), r"labels: expected 0 to 2, for there are 3 classes, given 3 in record 8"),
    "label of text": (put("label", "cat"), r"labels: expected whole numbers from 0 to 2, given something else"),
    "label of a half": (put("label", 0.5), r"labels: expected whole numbers from 0 to 2"),
    "id twice": (put("id", "m6"), r"ids: expected every record once, given 1 ids twice or more, such as 'm6'"),
    "on both sides": (put("id", "n3"), r"expected members that are no non-members, given 1 ids on both sides, such as 'n3'"),
    "few": (edited(lambda f: f.head(20)), r"expected at least 25 members, given 20"),
    "a class less": (edited(lambda f: f.assign(p_1=f.p_1 + f.p_2).drop(columns="p_2")), r"expected equally many classes, given 2 and 3"),
    "a gap": (edited(lambda f: f.rename(columns={"p_1": "p_7"})), r"expected columns p_0 to p_7, given none p_1"),
    "no label": (edited(lambda f: f.drop(columns="label")), r"expected a column label"),
    "no answers": (edited(lambda f: f[["label"]]), r"expected columns p_0 \.\.\., logp_0 \.\.\., logit_0 \.\.\. of one kind, given 0 kinds"),
    "unknown column": (edited(lambda f: f.assign(age=1)), r"given a column 'age' too"),
    "another column": (edited(lambda f: f.assign(group_site="a")), r"expected the same columns, given group_site in one of them alone"),
    "a column member": (edited(lambda f: f.assign(member=1)), r"expected two files without a column of members"),
    "no rows": (edited(lambda f: f.head(0)), r"given a table without rows"),
    "empty": (lambda path: path.write_bytes(b""), r"expected predictions, given an empty file"),
    "binary": (lambda path: path.write_bytes(os.urandom(999)), r"expected a csv table, given something else|expected columns"),
    "columns twice": (lambda path: path.write_text("p_0,p_0,label\n0.5,0.5,0\n"), r"two of one name"),
    "another form": (lambda path: table(True, "logits").to_csv(path, index=False), r"expected one form, given logits and probabilities"),
    "folder": (lambda path: path.mkdir(), r"expected predictions, given a folder, a pipe or a device"),
    "pipe": (lambda path: os.mkfifo(path), r"expected predictions, given a folder, a pipe or a device"),
    "nothing": (lambda path: None, r"expected predictions that can be read, given none: No such file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_end_in_one_line(tmp_path: Path, case: str) -> None:
    _, others = write(tmp_path, "csv", "probabilities")
    (tmp_path / "members.csv").unlink()
    write_bad, message = BAD[case]
    write_bad(tmp_path / "members.csv")
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path / "members.csv", others)
    assert "\n" not in str(error.value) and "members.csv" in str(error.value)


def test_an_unknown_format_and_a_missing_side(tmp_path: Path) -> None:
    members, _ = write(tmp_path, "csv", "probabilities")
    with pytest.raises(UserError, match=r"expected a file named \.csv, \.parquet or \.npz, given '\.xlsx'"):
        load(members.rename(tmp_path / "members.xlsx"))
    frame = table(True)
    frame.to_parquet(tmp_path / "alone.parquet")
    with pytest.raises(UserError, match=r"expected a column member \(npz: an array members\), given none"):
        load(tmp_path / "alone.parquet")


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("p_0,p_1,label\n" + "0.5,0.5,0\n" * 60)
    (tmp_path / "b.csv").write_bytes((tmp_path / "a.csv").read_bytes())
    with pytest.raises(UserError, match="expected members that are no non-members, given the same file twice"):
        load(tmp_path / "a.csv", tmp_path / "b.csv")


def test_texts_are_not_as_wide_as_one_likes() -> None:
    """NumPy keeps each text as wide as the longest: one of a megabyte would take gigabytes in many records."""
    group = np.array(["x"] * 59 + ["y" * 1_000_000], object)
    with pytest.raises(UserError, match=r"expected at most 1000 characters a record, given 1,000,000"):
        predictions(
            np.full((60, 2), 0.5), np.zeros(60, int), np.arange(60) < 30, form="probabilities", groups={"a": group}
        )


@pytest.mark.parametrize(
    ("what", "values"),
    [
        ("answers", [[0.5, 0.5]] * 59 + [[1.0]]), ("labels", [0] * 59 + [[0]]), ("ids", np.full(60, 0x110000, np.uint32).view("U1")),
        ("inputs", [[1.0]] * 59 + [[]]),
    ],
)  # fmt: skip
def test_what_is_no_array_ends_in_one_line(what: str, values: Any) -> None:
    given = {"answers": np.full((60, 2), 0.5), "labels": np.zeros(60, int), "members": np.arange(60) < 30}
    with pytest.raises(UserError, match=f"{what}: expected"):
        predictions(**(given | {what: values}), form="probabilities")


def test_tensors_that_keep_gradients_are_arrays() -> None:
    answers = torch.full((60, 2), 0.5, requires_grad=True)
    assert len(predictions(answers, np.zeros(60, int), np.arange(60) < 30, form="probabilities")) == 60


@pytest.mark.parametrize(
    "arrays", [{"labels": np.int64(0)}, {"probabilities": np.full(60, 0.5)}, {"probabilities": np.float64(0.5)}]
)
def test_arrays_of_one_file_that_are_no_table(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "in.npz", **{"probabilities": np.full((60, 2), 0.5), "labels": np.zeros(60, int)} | arrays)
    np.savez(tmp_path / "out.npz", probabilities=np.full((60, 2), 0.4), labels=np.zeros(60, int))
    with pytest.raises(UserError, match=r"in\.npz: .*expected"):
        load(tmp_path / "in.npz", tmp_path / "out.npz")


def test_inputs_that_hold_nothing_are_refused() -> None:
    for inputs in (np.zeros((60, 0)), np.full((60, 2), np.nan), np.full((60, 1), np.inf)):
        with pytest.raises(UserError, match="inputs: expected"):
            predictions(
                np.full((60, 2), 0.5), np.zeros(60, int), np.arange(60) < 30, form="probabilities", inputs=inputs
            )


def test_huge_files_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.csv"
    with path.open("wb") as file:
        file.truncate(10 << 30)  # a hole, which takes no room
    monkeypatch.setattr(module, "LARGEST", 1 << 16)
    with pytest.raises(UserError, match=r"expected predictions of at most 65536 bytes, given 10737418240"):
        load(path)
    monkeypatch.setattr(module, "LARGEST", 1 << 20)
    np.savez_compressed(tmp_path / "bomb.npz", probabilities=np.zeros((1 << 21, 2)), labels=np.zeros(1 << 21, int))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 20
    with pytest.raises(UserError, match=r"bomb.npz: expected at most 2,097,152 bytes unpacked, given 5\d,\d+,\d+"):
        load(tmp_path / "bomb.npz")


@pytest.mark.parametrize("case", ["pickle", "cut", "no archive", "odd array", "two forms"])
def test_bad_archives_end_in_one_line(tmp_path: Path, case: str) -> None:
    path, whole = tmp_path / "a.npz", arrays(table(True), "probabilities") | {"members": np.ones(N, bool)}
    np.savez(path, **whole)
    message = r"expected an npz of plain arrays, given something else"
    if case == "pickle":
        np.savez(path, **whole | {"ids": np.array([{1: 2}] * N, object)})
    elif case == "cut":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("inputs.npy", b"\x93NUMPY\x01")
    elif case == "no archive":
        path.write_text("p_0,p_1,label\n")
    elif case == "odd array":
        np.savez(path, **whole, weights=np.ones(3))
        message = r"given 'weights' too"
    else:
        np.savez(path, **whole, logits=np.ones((N, K)))
        message = r"expected one of the arrays probabilities, log_probabilities, logits, given 2"
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": np.ones((120, 1))}, "at least 2 classes, given 1"),
        ({"answers": np.ones(120)}, r"answers: expected 2 dimensions, given shape \(120,\)"),
        ({"labels": np.zeros(119)}, r"labels: expected one a record, shape \(120,\), given \(119,\)"),
        ({"members": np.full(120, 2)}, "members: expected 0 or 1"),
        ({"members": np.ones(120)}, "expected at least 25 non-members, given 0"),
        ({"references": np.ones((2, 120, 4)) / 4}, r"references: expected shape \(models, 120, 2\), given \(2, 120, 4\)"),
        ({"references": np.ones((1, 120, 2))}, "reference 0: expected probabilities that sum to 1"),
        ({"reference_members": np.ones((1, 120))}, "expected them with references, given them alone"),
        ({"inputs": np.ones((7, 3))}, "inputs: expected 120 rows of numbers"),
        ({"groups": {"sex": ["f"]}}, r"group sex: expected one a record"),
        ({"form": "odds"}, "form: expected one of probabilities, log-probabilities, logits, given 'odds'"),
        ({"answers": np.where(np.arange(120)[:, None] == 3, np.nan, 0.5) * np.ones((1, 2))}, r"expected probabilities in \[0, 1\], given nan in record 4"),
        ({"form": "logits", "answers": np.full((120, 2), np.inf)}, "expected finite logits, given inf"),
        ({"form": "log-probabilities"}, "expected log-probabilities, 0 or less, given 0.5"),
        ({"form": "log-probabilities", "answers": np.full((120, 2), -5.0)}, "whose exponentials sum to 1"),
    ],
)  # fmt: skip
def test_bad_arrays(change: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"answers": np.full((120, 2), 0.5), "labels": np.arange(120) % 2, "members": np.arange(120) < 60, "form": "probabilities"}  # fmt: skip
    predictions(**usual)
    with pytest.raises(UserError, match=message):
        predictions(**usual | change)
