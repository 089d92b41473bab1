"""`leakboard audit plant` and `audit canaries`, from a user's data to the verdict on a claim; and the same from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import leakboard
from benchmark.run.audit import epsilon
from benchmark.run.audit.canary_report import CanaryAudit
from leakboard.canaries import JSON, PAGE, REFUTED
from tests.conftest import Home

K = 4


@pytest.fixture
def planted(home: Home, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `plant --json` says, with data of a seed that is known."""
    monkeypatch.setattr("secrets.token_hex", lambda n: "7" * 2 * n)
    rng = np.random.default_rng(0)
    np.savez(home.folder / "data.npz", x=rng.integers(0, 99, (900, 6), np.uint8), y=np.arange(900) % K)
    done = home.call("audit", "plant", "--data", "data.npz", "--canaries", "300", "--json")
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def answers(folder: Path, looks_up: bool) -> pd.DataFrame:
    """Those of a model that looks its training data up, or of one that was never trained on it."""
    train, asked = np.load(folder / "train.npz"), np.load(folder / "canaries.npz")
    inside = {(x.tobytes(), int(y)) for x, y in zip(train["x"], train["y"], strict=True)} if looks_up else set()
    p = np.random.default_rng(1).dirichlet(np.ones(K), 300)
    for i, (x, y) in enumerate(zip(asked["x"], asked["y"], strict=True)):
        if (x.tobytes(), int(y)) in inside:
            p[i] = np.eye(K)[y]
    return pd.DataFrame(p).add_prefix("p_").assign(label=asked["y"])


def test_planting_tells_what_was_made_and_what_it_can_show(home: Home, planted: dict[str, Any]) -> None:
    secret = json.loads((home.folder / planted["secret"]).read_text("utf-8"))
    assert planted["count"] == 300 == len(secret["labels"]) and planted["included"] == sum(secret["included"])
    assert planted["digest"] == secret["digest"] and planted["guesses"] == epsilon.planned(300)
    most = epsilon.any_mechanism(epsilon.Guesses(300, 60, 60), 1e-5)
    assert planted["most"]["any mechanism"] == most
    assert planted["next"] == "leakboard audit canaries --secret planted/secret.json --answers answers.csv"
    done = home.call("audit", "plant", "--data", "data.npz", "--canaries", "30", "--out", "two", "--guess", "1")
    assert done.code == 0 and "two/secret.json: who is in. It stays with you" in done.out
    assert "30 guesses will be made" in done.out and "next: " in done.out + done.err


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_a_lookup_is_refuted_and_a_stranger_is_not(home: Home, planted: dict[str, Any], kind: str) -> None:
    for looks_up, code in ((True, REFUTED), (False, 0)):
        frame, file = answers(home.folder / "planted", looks_up), home.folder / f"answers.{kind}"
        if kind == "csv":
            frame.to_csv(file, index=False)
        elif kind == "parquet":
            frame.to_parquet(file)
        else:
            np.savez(file, probabilities=frame.drop(columns="label").to_numpy(), labels=frame.label.to_numpy())
        done = home.call("audit", "canaries", "--secret", planted["secret"], "--answers", file.name, "--claimed-epsilon", "1")  # fmt: skip
        assert done.code == code, done.err
        assert done.out.startswith("Refuted: epsilon is claimed to be 1" if looks_up else "Not refuted: ")
        for name in ("any mechanism", "Gaussian curve", "pure epsilon", "Each canary was included by a fair coin"):
            assert name in done.out
        assert "next: python -m webbrowser audit/canaries.html" in done.out + done.err
        report = CanaryAudit.model_validate_json((home.folder / "audit" / JSON).read_text("utf-8"))
        assert report.command == f"leakboard audit canaries --secret planted/secret.json --answers {file.name} --claimed-epsilon 1 --delta 1e-05"  # fmt: skip
        assert report.files[0].name == file.name and report.secret == planted["digest"]
        page = (home.folder / "audit" / PAGE).read_text("utf-8")
        assert report.verdict.sentence in page.replace("&nbsp;", " ")


def test_it_answers_in_json_and_from_python(home: Home, planted: dict[str, Any]) -> None:
    frame = answers(home.folder / "planted", True)
    named = frame.assign(file=[f"{i:04}.png" for i in range(300)])  # as canaries.csv has it
    named.to_csv(home.folder / "answers.csv", index=False)
    done = home.call("audit", "canaries", "--secret", planted["secret"], "--answers", "answers.csv", "--json")
    found = json.loads(done.out)
    assert done.code == 0 and found["verdict"]["state"] == "shown" and len(found["files_written"]) == 2
    report = leakboard.audit_canaries(
        frame.drop(columns="label"), frame.label, home.folder / planted["secret"], claimed_epsilon=1.0
    )
    assert report.verdict.state == "refuted"
    assert [b.epsilon for b in report.bounds] == [b["epsilon"] for b in found["bounds"]]


@pytest.mark.parametrize(
    ("options", "change", "said"),
    [
        (["--claimed-epsilon", "0"], None, "--claimed-epsilon: expected a number above 0, given 0"),
        (["--delta", "1"], None, "--delta: expected 0 or more and below 1, given 1"),
        ([], lambda f: f[:-1], "answers.csv: expected answers to 300 canaries, as the secret has, given 299"),
        ([], lambda f: f.assign(label=(f.label + 1) % K), "answers.csv: expected the canaries' labels in the order"),
        ([], lambda f: f.assign(p_1=np.nan), "answers.csv: column p_1: expected a value in every row, given none, or NaN"),
        ([], lambda f: f.assign(member=1), "answers.csv: expected answers without a column of members"),
        (["--secret", "answers.csv"], None, "answers.csv: expected the secret that leakboard audit plant wrote"),
        (["--out", "answers.csv"], None, "answers.csv: expected a folder that can be written"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(
    home: Home, planted: dict[str, Any], options: list[str], change: Any, said: str
) -> None:
    frame = answers(home.folder / "planted", False)
    (change(frame) if change else frame).to_csv(home.folder / "answers.csv", index=False)
    done = home.call("audit", "canaries", "--secret", planted["secret"], "--answers", "answers.csv", *options)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--canaries", "9", "--out", "x"], "--canaries: expected at least 10, given 9"),
        (["--guess", "0", "--out", "x"], "--guess: expected a share above 0 and at most 1, given 0"),
        (["--guess", "nan", "--out", "x"], "--guess: expected a share above 0 and at most 1, given nan"),
        (["--canaries", "10"], "planted: expected a new or an empty folder"),
    ],
)
def test_what_can_not_be_planted_ends_in_one_line(
    home: Home, planted: dict[str, Any], options: list[str], said: str
) -> None:
    done = home.call("audit", "plant", "--data", "data.npz", *options)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1
