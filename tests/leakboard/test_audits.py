"""`leakboard audit predictions`, its gate and its files; and the same from Python."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import leakboard
from benchmark.errors import UserError
from benchmark.run.audit import canaries, gate
from benchmark.run.audit.report import Audit, WorstCase, schema
from leakboard.audits import CANNOT_TELL, FAILS, JSON, PAGE, RECORDS, cell
from tests.conftest import Home
from tests.run.audit.test_canaries import answers as known_answers
from tests.run.audit.test_canaries import secret
from tests.run.audit.worlds import world


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Options that name a file of members and one of non-members, of a model that leaks."""
    given = world(1, n=300, k=3, leak=3.0)
    frame = pd.DataFrame(np.exp(given.log_posteriors), columns=["p_0", "p_1", "p_2"]).assign(label=given.y)
    frame["id"] = [f"=cmd|' /C calc'!A{i}" for i in range(600)]
    options = []
    for name, side in (("members", given.members), ("non-members", ~given.members)):
        frame[side].to_csv(tmp_path / f"{name}.csv", index=False)
        options += [f"--{name}", f"{name}.csv"]
    return options


def test_it_tells_the_verdict_and_writes_three_files(home: Home, files: list[str]) -> None:
    done = home.call("audit", "predictions", *files, "--title", "Mine")
    assert done.code == 0, done.err
    assert done.out.startswith("The model leaks who was in its training data:")
    assert "TPR at 1 % FPR" in done.out and "warning: Enough records" in done.out
    assert "next: python -m webbrowser audit/report.html" in done.out + done.err
    report = Audit.model_validate_json((home.folder / "audit" / JSON).read_text("utf-8"))
    assert report.verdict.sentence in done.out and report.title == "Mine"
    assert (
        report.command == "leakboard audit predictions --members members.csv --non-members non-members.csv --title Mine"
    )
    assert [f.name for f in report.files] == ["members.csv", "non-members.csv"]
    html = (home.folder / "audit" / PAGE).read_text("utf-8")
    assert "cmd|" not in html + report.as_json(), "the report names no record"


def test_what_canaries_showed_stands_in_the_report(home: Home, files: list[str]) -> None:
    planted = secret()
    shown = canaries.audit(*known_answers(planted, known=1.0), planted, claimed=1.0)
    path = home.folder / "canaries-audit.json"
    path.write_text(shown.as_json(), "utf-8")
    done = home.call("audit", "predictions", *files, "--canaries", path.name)
    assert done.code == 0, done.err
    report = Audit.model_validate_json((home.folder / "audit" / JSON).read_text("utf-8"))
    assert report.canaries == shown and "--canaries canaries-audit.json" in report.command
    assert report.files[-1].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.files[-1].sha256 in (home.folder / "audit" / PAGE).read_text("utf-8")
    for text, said in (
        ("{}", "given another file: title: Field required"),
        ("no", "given another file: the file: Invalid JSON"),
        (report.as_json(), "given another file: "),
        (
            shown.as_json().replace(f'"mu": {shown.mu}', '"mu": Infinity'),
            "given another file: Out of range float values",
        ),
        (shown.as_json().replace('"form": 1', '"form": 2'), "given another file: form 2"),
        (None, "expected what leakboard audit canaries wrote"),
    ):
        path.unlink() if text is None else path.write_text(text, "utf-8")
        for way in ("predictions", "model", "recipe"):
            more = {
                "predictions": [],
                "model": ["--weights", "no", "--classes", "3"],
                "recipe": ["--train", "no", "--classes", "3"],
            }
            done = home.call("audit", way, *files, *more[way], "--canaries", path.name)
            assert (
                done.code == 2
                and done.err.count("\n") == 1
                and "canaries-audit.json: " in done.err
                and said in done.err
            )


def test_no_cell_of_the_local_file_is_a_formula(home: Home, files: list[str]) -> None:
    assert home.call("audit", "predictions", *files, "--out", "here").code == 0
    with (home.folder / "here" / RECORDS).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    members = pd.read_csv(home.folder / "members.csv")
    report = Audit.model_validate_json((home.folder / "here" / JSON).read_text("utf-8"))
    assert len(rows) == report.exposed > 3
    for row in rows:
        assert row["id"] == "'" + members.id[int(row["record"]) - 1], "and the number leads to the record"
        assert int(row["label"]) == members.label[int(row["record"]) - 1]
    assert [cell(t) for t in ("a", "", "+1", " =1", "\t=1", "@x", "-2", "\n1")] == ["a", "", "'+1", "' =1", "'\\t=1", "'@x", "'-2", "'\\n1"]  # fmt: skip


def test_a_gate_has_exit_codes_of_its_own(home: Home, files: list[str]) -> None:
    fails, passes, open_ = "auc > 0.55", "auc > 0.99", "tpr_at_fpr_0.001 > 0.5"
    for asked, code in (([passes], 0), ([passes, fails, open_], FAILS), ([passes, open_], CANNOT_TELL)):
        done = home.call("audit", "predictions", *files, *(a for text in asked for a in ("--fail-if", text)))
        assert done.code == code, done.err
    done = home.call("audit", "predictions", *files, "--fail-if", fails, "--json")
    found = json.loads(done.out)
    assert done.code == FAILS and found["gate"] == [
        {"condition": fails, "outcome": "fails", "reason": found["gate"][0]["reason"]}
    ]
    assert found["verdict"]["state"] == "leaks" and len(found["files_written"]) == 3


def test_the_interval_decides() -> None:
    case = WorstCase(value=0.06, low=0.04, high=0.08, null=0.02, p=0.001, attack="loss", reversed=False)
    given = world(2, n=40)
    audited = leakboard.audit(given.log_posteriors, given.y, given.members, form="log-probabilities")
    report = audited.report.model_copy(update={"worst": {"auc": case}})
    asked = {
        "auc > 0.03": "fails", "auc > 0.04": "cannot tell", "auc >= 0.04": "fails", "auc > 0.06": "cannot tell",
        "auc >= 0.08": "cannot tell", "auc > 0.08": "passes", "auc>.1": "passes", "tpr_at_fpr_0.01 > 0.1": "cannot tell",
    }  # fmt: skip
    assert {text: gate.decide(report, gate.condition(text)).outcome for text in asked} == asked


def test_an_unclear_question_has_no_answer() -> None:
    given = world(3, n=80)
    sites = np.where(given.members, "Bonn", "Kiel")
    done = leakboard.audit(
        given.log_posteriors, given.y, given.members, form="log-probabilities", groups={"site": sites},
        fail_if=["auc > 0.5", "auc > 1"],
    )  # fmt: skip
    assert done.report.verdict.state == "unclear"
    assert [d.outcome for d in done.report.gate] == ["cannot tell"] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auc", "expected METRIC > NUMBER"),
        ("auc < 0.5", "expected METRIC > NUMBER"),
        ("acu > 0.5", r"unknown metric 'acu'; did you mean 'auc'\?"),
        ("auc > 5", "expected a bound from 0 to 1, given 5; 5 % is 0.05"),
        ("__import__('os') > 1", "expected METRIC > NUMBER"),
    ],
)
def test_bad_conditions_end_in_one_line(home: Home, files: list[str], text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gate.condition(text)
    done = home.call("audit", "predictions", *files, "--fail-if", text)
    assert done.code == 2 and done.err.count("\n") == 1 and not (home.folder / "audit").exists()


def test_mistakes_end_in_one_line(home: Home, files: list[str]) -> None:
    done = home.call("audit", "predictions", "--members", "members.csv", "--non-members", "members.csv")
    assert done.code == 2 and "expected members that are no non-members" in done.err and done.err.count("\n") == 1
    done = home.call("audit", "predictions", "--members", "gone.csv", "--json")
    assert done.code == 2 and "No such file" in json.loads(done.out)["error"]
    (home.folder / "audit").write_text("a file")
    done = home.call("audit", "predictions", *files)
    assert done.code == 2 and "expected a folder that can be written" in done.err


def test_from_python_it_is_the_same(home: Home, files: list[str]) -> None:
    assert home.call("audit", "predictions", *files).code == 0
    report = Audit.model_validate_json((home.folder / "audit" / JSON).read_text("utf-8"))
    frames = [
        pd.read_csv(home.folder / f"{name}.csv", float_precision="round_trip") for name in ("members", "non-members")
    ]
    both = pd.concat(frames)
    done = leakboard.audit(both[["p_0", "p_1", "p_2"]], both.label, np.arange(600) < 300, ids=both.id)
    assert isinstance(done.report, Audit)
    same = {"when", "files", "command"}
    assert done.report.model_dump(exclude=same) == report.model_dump(exclude=same)
    written = done.write(home.folder / "python")
    assert [p.name for p in written] == [PAGE, JSON, RECORDS]
    assert (home.folder / "python" / RECORDS).read_bytes() == (home.folder / "audit" / RECORDS).read_bytes()


def test_the_schema_says_what_every_field_of_the_report_is() -> None:
    found = schema()
    assert found["properties"]["form"]["description"] and found["additionalProperties"] is False
    assert {"verdict", "worst", "attacks", "checks", "gate"} <= {*found["properties"]}
