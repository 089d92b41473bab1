"""`leakboard audit model`: what it says before, what it writes, mistakes in one line; and the same from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import leakboard
from benchmark.networks import given
from benchmark.run.audit import attacks
from benchmark.run.audit.report import Audit
from leaderboard.audit_page import as_html
from leakboard.audits import FAILS, JSON, PAGE, RECORDS
from tests.conftest import Home
from tests.run.audit import pictures

SHIPPED = attacks.POOL
LIMIT = ("--queries", "1500")


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of quick attacks."""
    (tmp_path / "pool.yaml").write_text(
        "answers: [loss, metric_corr, ml_doctor_partial, lira]\n"
        "model: [{attack: near_copies, asks: 16}, {attack: grad_norm, asks: 6}, {attack: label_only_noise, asks: 101, fits: 606}]\n"
    )
    monkeypatch.setattr(attacks, "POOL", tmp_path / "pool.yaml")


@pytest.fixture
def options(home: Home) -> list[str]:
    return pictures.files(home.folder)


def test_it_says_what_it_runs_and_writes_the_report(home: Home, options: list[str], few: None) -> None:
    done = home.call("audit", "model", *options, *LIMIT, "--title", "Mine", "--released", "labels")
    assert done.code == 0, done.err
    said = done.out
    assert "model: small_cnn, 38,282 parameters, 10 classes, images 1x8x8 in [0, 1]\n" in said
    assert "runs 5 attacks on 60 members and 60 non-members; about 0:" in said
    assert "on a part of the records (--queries): near_copies" in said
    assert (
        "not run: label_only_noise: costs 707 forward passes a record: --queries 1,500 leaves too few records" in said
    )
    assert "next: python -m webbrowser audit/report.html" in said
    assert {p.name for p in (home.folder / "audit").iterdir()} == {PAGE, JSON, RECORDS}
    report = Audit.model_validate_json((home.folder / "audit" / JSON).read_text("utf-8"))
    assert report.verdict.sentence in done.out and (report.way, report.released) == ("model", "labels")
    assert [f.name for f in report.files] == ["model.safetensors", "members.npz", "non-members.npz"]
    assert report.command == "leakboard audit model " + " ".join(
        [*options[:4], *options[6:], *options[4:6], "--released", "labels", "--queries", "1500", "--title", "Mine"]
    )
    again = home.call(*report.command.split()[1:], "--json")
    assert again.code == 0 and json.loads(again.out)["verdict"] == report.verdict.model_dump()
    html = as_html(report)
    assert (
        "38,282" in html
        and "for each record. One that asks about many" in html
        and "not released" in html
        and "labels alone" in html
    )


def test_a_normalisation_stands_in_what_it_says_and_in_the_report(home: Home, options: list[str], few: None) -> None:
    save_file(given.from_timm("test_resnet", 10, pictures.SHAPE).state_dict(), home.folder / "model.safetensors")
    of_timm = [*options[:2], "--network", "timm:test_resnet", *options[4:], "--mean", "0.5", "--std", "0.25"]
    done = home.call("audit", "model", *of_timm, *LIMIT)
    assert done.code == 0, done.err
    assert "images 1x8x8 in [0, 1], less 0.5, divided by 0.25\n" in done.out
    report = Audit.model_validate_json((home.folder / "audit" / JSON).read_text("utf-8"))
    assert (report.model.mean, report.model.std) == ([0.5], [0.25])
    assert "pixels in [0, 1] less 0.5, divided by 0.25" in as_html(report)


@pytest.fixture
def others(tmp_path: Path, few: None) -> None:
    """The quick pool, and one attack of each other kind with its null."""
    pool = yaml.safe_load((tmp_path / "pool.yaml").read_text())
    listed = yaml.safe_load(SHIPPED.read_text())["others"]
    pool["others"] = {
        kind: [
            a
            for a in attacks
            if a["attack"].partition("[")[0] in ("steal_labels", "steal_null", "attribute_labels", "attribute_null")
        ]
        for kind, attacks in listed.items()
    }
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(pool))


def test_other_kinds_are_announced_run_and_told(home: Home, options: list[str], others: None) -> None:
    for name in ("members", "non-members"):
        side = dict(np.load(f"{name}.npz"))
        np.savez(f"{name}.npz", **side, site=np.where(side["y"] % 2, "Bonn", "Kiel"))
    done = home.call("audit", "model", *options, *LIMIT, "--attribute", "site")
    assert done.code == 0, done.err
    report = Audit.model_validate_json((home.folder / "audit" / JSON).read_text("utf-8"))
    assert "then model stealing (2 attacks and nulls), attribute inference (3 attacks and nulls); about 0:" in done.out
    ran = {kind.kind: kind for kind in report.others if kind.attacks}
    assert {*ran} == {"stealing", "attribute"} and all(
        kind.sentence in done.out.replace("\n", " ") for kind in ran.values()
    )
    assert report.command.endswith("--queries 1500 --attribute site") or "--attribute site" in report.command
    done = home.call("audit", "model", *options, *LIMIT, "--kinds", "membership")
    assert done.code == 0 and "not run: model stealing: it was not asked for (--kinds)" in done.out
    done = home.call("audit", "model", *options, *LIMIT, "--attribute", "sex")
    assert done.code == 2 and "--attribute: expected 'sex' as an array of .npz" in done.err


def test_from_python_other_kinds_are_there_too(others: None) -> None:
    x, y, members = pictures.digits()
    audited = leakboard.audit_model(pictures.trained(), x, y, members, classes=10, queries=1500, attribute=y % 2)
    assert {k.kind for k in audited.report.others if k.attacks} == {"stealing", "attribute"}
    audited = leakboard.audit_model(pictures.trained(), x, y, members, classes=10, queries=1500, kinds="membership")
    assert not any(k.attacks for k in audited.report.others)


def test_gates_hold_for_models_too(home: Home, options: list[str], few: None) -> None:
    asked = {"auc > 0.99": "passes", "auc > 0.01": "fails", "tpr_at_fpr_0.001 > 0.1": "cannot tell"}
    done = home.call("audit", "model", *options, *LIMIT, *(a for text in asked for a in ("--fail-if", text)))
    report = Audit.model_validate_json((home.folder / "audit" / JSON).read_text("utf-8"))
    assert done.code == FAILS and {d.condition: d.outcome for d in report.gate} == asked


def changed(options: list[str], **changes: str) -> list[str]:
    given = dict(zip(options[::2], options[1::2], strict=True)) | {
        f"--{k.replace('_', '-')}": v for k, v in changes.items()
    }
    return [part for pair in given.items() for part in pair if pair[1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": "non-members.npz"}, "expected members that are no non-members, given 60 images on both sides"),
        ({"weights": "pickled.pt"}, "pickled.pt: expected tensors alone, given a pickle that holds other objects"),
        ({"weights": "gone.safetensors"}, "No such file"),
        ({"network": "alexnet"}, "alexnet"),
        ({"network": ""}, "expected --network with it"),
        ({"classes": "12"}, "or another number of --classes"),
        ({"members": "twenty.npz"}, "expected at least 25 members, given 20: fewer show nothing"),
        ({"weights": "nan.safetensors"}, "expected finite logits, given NaN or infinite ones for"),
        ({"view": "32"}, "expected images 32x32 as --view says, given 8x8"),
        ({"mean": "half", "std": "1"}, "--mean: expected numbers, one a channel, such as '0.5 0.5 0.5', given 'half'"),
        ({"channels": "2"}, "--channels: expected 1 or 3, given 2"),
        ({"fail_if": "acu > 1"}, "unknown metric 'acu'"),
        ({"network": "timm:gone_18"}, "unknown network of timm 'gone_18'"),
    ],
)
def test_mistakes_end_in_one_line(home: Home, options: list[str], changes: dict[str, str], message: str) -> None:
    x, y, members = pictures.digits()
    np.savez(home.folder / "twenty.npz", x=x[members][:20], y=y[members][:20])
    torch.save(pictures.trained(), home.folder / "pickled.pt")
    save_file({k: v * float("nan") if v.is_floating_point() else v for k, v in pictures.trained().state_dict().items()}, home.folder / "nan.safetensors")  # fmt: skip
    done = home.call("audit", "model", *changed(options, **changes))
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.err
    assert not (home.folder / "audit").exists()


def test_from_python_it_is_the_same(home: Home, options: list[str], few: None) -> None:
    assert home.call("audit", "model", *options, *LIMIT, "--released", "weights").code == 0
    report = Audit.model_validate_json((home.folder / "audit" / JSON).read_text("utf-8"))
    x, y, members = pictures.digits()
    network = pictures.trained()
    audited = leakboard.audit_model(network, x, y, members, 10, released="weights", queries=1500)
    assert audited.report.worst == report.worst and audited.report.attacks == report.attacks
    assert audited.report.model.network == "Network" and not audited.report.files
    with pytest.raises(leakboard.UserError, match="y: expected a whole number from 0 for each of 120 images"):
        leakboard.audit_model(network, x, y[:3], members, 10)


def test_from_python_a_normalisation_stands_in_front(few: None) -> None:
    class Expects(torch.nn.Module):
        """A network that learnt (x - 0.5) / 0.25."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = pictures.trained()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.inner(x * 0.25 + 0.5)
            return logits

    x, y, members = pictures.digits()
    audited = leakboard.audit_model(Expects(), x, y, members, 10, mean=[0.5], std=[0.25], queries=1500)
    images = torch.from_numpy(x).float().unsqueeze(1) / 255
    expected = pictures.trained()(images).double().log_softmax(1).detach().numpy()
    assert audited.given.log_posteriors == pytest.approx(expected, abs=1e-4)
    assert audited.report.verdict.state == "leaks" and repr(audited).startswith("Audited('The model leaks")
    with pytest.raises(leakboard.UserError, match="expected --mean and --std together, given one of them"):
        leakboard.audit_model(Expects(), x, y, members, 10, mean=[0.5])


@pytest.mark.slow
def test_a_networks_file_and_its_weights_are_audited(home: Home, few: None, launcher: object) -> None:
    done = home.call("audit", "model", *pictures.own(home.folder), *LIMIT, "--released", "weights")
    assert done.code == 0, done.err
    report = Audit.model_validate_json((home.folder / "audit" / JSON).read_text("utf-8"))
    assert report.model.isolated and report.model.network == "mine.py"
    assert {a.name for a in report.attacks} >= {"loss", "grad_norm", "near_copies"}
    assert "in a sandbox, for its code is foreign" in (home.folder / "audit" / PAGE).read_text("utf-8")
