"""Made-up results: a maker of single records, a small board of many entries; and the app that shows them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from benchmark.result import Result
from benchmark.run.audit.report import Audit
from leaderboard import screenshots, tables
from leaderboard.publish import publish
from leaderboard.ranking import Board

if TYPE_CHECKING:
    from playwright.sync_api import Browser as Chromium
    from playwright.sync_api import ConsoleMessage, Page

APP = str(Path(tables.__file__).with_name("app.py"))
PUBLISHED = Path(tables.__file__).with_name("published")

TRACKS = {
    "loss": "",
    "random": "",
    "lira": "references-online",
    "nn_sorted": "shadow",
    "boundary": "",
    "gradient": "partial",
}
STRENGTH = {"random": 0.0, "loss": 0.06, "boundary": 0.05, "nn_sorted": 0.09, "lira": 0.16, "gradient": 0.11}
DEFENSES = {
    "undefended": (1.0, 0.84, 12.0), "label_smoothing[epsilon=0.3]": (1.35, 0.85, 12.5), "early_stopping": (0.7, 0.82, 6.0),
    "selena": (0.35, 0.80, 310.0), "dp_sgd[noise=0.5]": (0.1, 0.72, 95.0), "hamp": (0.55, 0.82, 15.0),
    "undefended+memguard": (0.8, 0.84, 14.0), "constant": (0.0, 0.10, 0.1), "selena+diffence[n=10]": (0.3, 0.79, 380.0),
}  # fmt: skip


def make_result(task: str, attack: str, defense: str, seed: int, **changes: object) -> Result:
    """A record with status ok; `metrics` are completed by the counts that the judge records."""
    metrics = {"members": 1000.0, "nonmembers": 1000.0} if task == "membership" else {}
    values: dict[str, object] = {
        "key": f"{task}-{attack}-{defense}-{seed}", "protocol": "toy-v1", "protocol_digest": "d1", "task": task,
        "attack": attack, "defense": defense, "dataset": "toy", "architecture": "tiny", "seed": seed, "status": "ok",
        "access": "posterior" if attack else "", "knowledge": "none" if attack else "", "finished": 1.7e9 + seed,
    }  # fmt: skip
    metrics |= changes.pop("metrics", {})  # type: ignore[arg-type, assignment]
    return Result.model_validate(values | changes | {"metrics": metrics})


def make_board(seeds: tuple[int, ...] = (0, 1, 2)) -> tuple[list[Result], Board]:
    """Six membership attacks and an attribute attack against nine defenses: ties, gaps, a collapsed model."""
    random = np.random.default_rng(0)
    results = []
    for defense, (leak, accuracy, seconds) in DEFENSES.items():
        for seed in seeds:
            test = accuracy + random.normal(0, 0.008)
            claims = {"epsilon": "7.9", "delta": "1e-5", "accountant": "RDP"}
            claims |= {"adjacency": "add-remove", "sampling": "Poisson"}
            measures = {"test_accuracy": test, "train_accuracy": min(1, test + 0.15 * leak), "ece": 0.05 + 0.05 * leak}
            measures |= {
                "js_entropy": 0.03 + 0.2 * leak,
                "js_entropy_null": 0.04,
            }  # and no cross-entropy, as old records
            results.append(make_result(
                "utility", "", defense, seed, metrics=measures,
                cost={"train_seconds": seconds, "seconds": seconds}, claims=claims if defense.startswith("dp") else {},
            ))  # fmt: skip
            for attack, strength in STRENGTH.items():
                results.append(_membership(random, attack, defense, seed, strength * leak))
            for embedding, gain in (("target", 0.08), ("untrained", 0.0)):
                found = 0.52 + gain * leak + random.normal(0, 0.004)
                metrics = {"attribute_accuracy": found, "attribute_balanced_accuracy": found, "attribute_majority": 0.5}
                name = "attribute_mlp" + ("" if embedding == "target" else f"[embedding={embedding}]")
                results.append(make_result("attribute", name, defense, seed, access="white-box", knowledge="shadow", null_row=embedding != "target", metrics=metrics, cost={"seconds": 3.0}))  # fmt: skip
    required = tuple(d for d in DEFENSES if d != "constant")
    board = Board(("random", "loss", "lira", "nn_sorted", "boundary"), required, seeds, "undefended", 0.7)
    return [r for r in results if (r.attack, r.defense, r.seed) != ("lira", "hamp", seeds[-1])], board


def make_audit(**changes: Any) -> Audit:
    """An audit of answers of 10 classes with made-up numbers; `changes` are fields of it."""
    cases = {
        "auc": (0.58, 0.55, 0.61, 0.53),
        "tpr_at_fpr_0.01": (0.03, 0.01, 0.06, 0.02),
        "balanced_accuracy": (0.55, 0.5, 0.6, 0.53),
    }
    worst = {
        name: {"value": v, "low": low, "high": high, "null": null, "p": 0.001, "attack": "loss", "reversed": False}
        for name, (v, low, high, null) in cases.items()
    }
    numbers = {"value": 0.58, "low": 0.55, "high": 0.61, "null_low": 0.48, "null_high": 0.52}
    attack = {
        "name": "loss", "title": "Loss", "reference": "none", "calibrated": False, "learns": False, "members": 500,
        "nonmembers": 400, "metrics": {"auc": numbers}, "fpr": [0, 1], "tpr": [0, 1],
    }  # fmt: skip
    side = {"count": 500, "accuracy": 1.0, "loss": 0.1}
    fields: dict[str, Any] = {
        "title": "Mine", "tool": "0.1", "when": "2026-01-01T00:00:00Z", "command": "", "seed": 0, "files": [],
        "verdict": {"state": "leaks", "sentence": "It leaks.", "more": "More.", "p": 0.001, "level": 0.01},
        "model": {"classes": 10, "form": "logits", "members": side, "nonmembers": side | {"count": 400, "accuracy": 0.7}, "ece": 0.1, "references": 0},
        "checks": [], "attacks": [attack], "left": [], "worst": worst, "band_fpr": [0.01, 1.0], "band_high": [0.1, 1.0],
        "band_low": [0.0, 1.0], "precision": [], "groups": [], "class_spread": None, "class_spread_null": None, "risks": [],
        "exposed": 0,
    }  # fmt: skip
    return Audit.model_validate(fields | changes)


def hostile_audit() -> Audit:
    """One with EVIL wherever an audit takes text, on as many classes as the records of `make_board`."""
    audit = make_audit()
    texts = {"title": EVIL, "tool": EVIL, "when": EVIL, "command": EVIL}
    texts |= {
        "files": [{"name": EVIL, "bytes": 1, "sha256": EVIL}],
        "checks": [{"name": EVIL, "state": "warning", "found": EVIL, "effect": EVIL}],
    }
    texts |= {
        "gate": [{"condition": EVIL, "outcome": "fails", "reason": EVIL}],
        "left": [{"name": EVIL, "title": EVIL, "reason": EVIL}],
    }
    attack = audit.attacks[0].model_dump() | {"name": EVIL, "title": EVIL, "reference": EVIL}
    return make_audit(
        **texts, verdict=audit.verdict.model_dump() | {"sentence": EVIL, "more": EVIL}, attacks=[attack],
        worst={name: case.model_dump() | {"attack": EVIL} for name, case in audit.worst.items()},
        model=audit.model.model_dump() | {"network": EVIL, "classes": 3, "form": EVIL},
    )  # fmt: skip


GUARDED = "a guard is outside the threat model: the attack reads the raw network"
OF_KINDS = {
    "inversion": ("invert", "invert_null", "white-box/none", "both_evaluators"),
    "attribute": ("attribute_mlp", "attribute_mlp[embedding=untrained]", "white-box/shadow", "attribute_balanced_accuracy"),
    "stealing": ("steal", "steal_null", "posterior/shadow", "agreement"),
}  # fmt: skip
"""By kind: an attack, its null row, the track of both, and the metric of the kind's worst case."""


def make_kinds(seeds: tuple[int, ...] = (0, 1, 2)) -> tuple[list[Result], Board]:
    """`make_board` with an attack and a null row of every kind, all of which the protocol requires: who hides members is stolen.

    White-box attacks are skipped where there are guards, as the judge skips them.
    """
    random, (results, board) = np.random.default_rng(1), make_board(seeds)
    results = [r for r in results if r.task != "attribute"]
    for defense, (leak, *_) in DEFENSES.items():
        for seed in seeds:
            found = {
                "inversion": (0.3 + 0.4 * leak, 0.25),
                "attribute": (0.6 + 0.1 * leak, 0.58),
                "stealing": (0.92 - 0.1 * leak, 0.78),
            }
            for kind, (attack, null, track, metric) in OF_KINDS.items():
                for name, value in zip((attack, null), found[kind], strict=True):
                    labels = dict(zip(("access", "knowledge"), track.split("/"), strict=True))
                    if "+" in defense and labels["access"] == "white-box":
                        more: dict[str, object] = {"status": "skipped", "reason": GUARDED}
                    else:
                        more = {
                            "metrics": {metric: float(np.clip(value + random.normal(0, 0.01), 0, 1))},
                            "null_row": name == null,
                        }
                    results.append(make_result(kind, name, defense, seed, cost={"seconds": 3.0}, **labels, **more))
    names = [name for attack, null, *_ in OF_KINDS.values() for name in (attack, null)]
    required = (*board.required_attacks, *names)
    return results, Board(required, board.required_defenses, seeds, board.baseline, board.utility_floor)


def _membership(random: np.random.Generator, attack: str, defense: str, seed: int, gain: float) -> Result:
    labels = {"access": "label" if attack == "boundary" else "white-box" if attack == "gradient" else "posterior"}
    labels |= {"knowledge": TRACKS[attack] or "none"}
    if attack == "gradient" and "+" in defense:
        return make_result(
            "membership",
            attack,
            defense,
            seed,
            status="skipped",
            reason=GUARDED,
            **labels,
        )
    auc = float(np.clip(0.5 + gain + random.normal(0, 0.008), 0, 1))
    fpr = np.r_[0, np.geomspace(1e-3, 1, 60)]
    tpr = np.clip(fpr ** ((1 - auc) / auc), 0, 1)
    tpr_at = float(np.interp(0.01, fpr, tpr))
    classes = tuple(float(np.clip(auc + d, 0, 1)) for d in (-0.1, 0.0, 0.1)) if attack == "loss" else ()
    by_class = {"class_auc": float(np.mean(classes)), "class_auc_sd": float(np.std(classes, ddof=1)), "class_auc_sd_null": 0.03} if classes else {}  # fmt: skip
    histogram = ((-1.0, 0.0, 1.0, 2.0), (200, 300, 500), (500, 300, 200)) if attack == "loss" else None
    return make_result(
        "membership", attack, defense, seed, null_row=attack == "random", roc=(tuple(fpr), tuple(tpr)), histogram=histogram,
        metrics={"auc": auc, "tpr_at_fpr_0.01": tpr_at, "tpr_at_fpr_0.01_reversed": max(0, 0.02 - tpr_at), "balanced_accuracy": 0.5 + 0.8 * (auc - 0.5)} | by_class,
        values={"class_auc": classes} if classes else {},
        null_auc=tuple(random.normal(0.5, 0.013, 40)), null_tpr=tuple(random.uniform(0.004, 0.02, 40)),
        cost={"seconds": 40.0 if attack == "lira" else 1.5, "queries": 2000.0 * (200 if attack == "boundary" else 1)},
        provenance={"run_id": f"{abs(hash((attack, defense, seed))):x}"[:12], "experiment_id": "1", "commit": "abc123", "device": "cpu"}, **labels,
    )  # fmt: skip


EVIL = (
    "=1 ![x](http://evil.example/x.png) <script>alert(1)</script><img src=x onerror=alert(1)> :red[r] :material/delete: $\\alpha$ "
    "[j](javascript:alert(1)) [link=http://evil.example]y[/link]:bomb:\x1b[2J\x1b]0;z\x07"
)  # fmt: skip
"""What a spreadsheet, a terminal, Rich, Markdown, Streamlit, Vega and a browser would each obey."""


def hostile(results: list[Result]) -> list[Result]:
    """Rows of an attack and of a defense that put EVIL, and as much as is read, wherever a record takes text."""
    long, log = (EVIL * (most // len(EVIL)) for most in (2000, 4000))
    rows = []
    for r in (r for r in results if r.defense == "selena" or r.attack == "nn_sorted"):
        changes: dict[str, object] = {"log": log, "reason": EVIL, "dataset": EVIL, "architecture": EVIL}
        changes |= {"claims": dict.fromkeys(("epsilon", "tuned", "attacked_by", "extra_data", "alone", EVIL), EVIL)}
        changes |= {"provenance": {"commit": EVIL, "device": EVIL, "run_id": EVIL, "experiment_id": EVIL}}
        changes |= {"defense": EVIL} if r.defense == "selena" else {"attack": EVIL}
        changes |= {"access": EVIL, "knowledge": EVIL} if r.attack else {}
        rows.append(r.model_copy(update=changes | {"key": f"evil {r.key}"}))
        failed = {"defense": long, "status": "failed", "metrics": {}, "key": f"failed {r.key}"}
        rows.append(r.model_copy(update=changes | failed))
    unique = {(r.task, r.attack, r.defense, r.seed): r for r in rows}
    return [*results, *unique.values()]


@pytest.fixture
def result() -> Callable[..., Result]:
    return make_result


@pytest.fixture
def made_up() -> tuple[list[Result], Board]:
    return make_board()


# --- The app ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty published folder, a tree without submissions, a tracking store without a run, and no study."""
    for name, value in _environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("LEAKBOARD_PUBLIC", "LEAKBOARD_AUDIT"):
        monkeypatch.delenv(name, raising=False)
    tables.source.cache_clear()
    st.cache_data.clear()
    yield tmp_path
    tables.source.cache_clear()


def _environment(folder: Path) -> dict[str, str]:
    stores = {"MLFLOW_TRACKING_URI": "mlflow", "LEAKBOARD_OPTUNA": "optuna"}
    own = {"LEAKBOARD_PROJECT": str(folder), "LEAKBOARD_SUBMISSIONS": str(folder / "submissions")}
    return own | {"LEAKBOARD_PUBLISHED": str(folder)} | {k: f"sqlite:///{folder}/{v}.db" for k, v in stores.items()}


def app_page(view: str, show: str = "show", protocol: str = "toy-v1", **query: str) -> AppTest:
    """One page of `leaderboard.views`, not run yet, with a protocol chosen: AppTest doesn't follow `st.navigation`."""

    def page(view: str, show: str, protocol: str) -> None:
        import importlib

        import streamlit

        streamlit.session_state["protocol"] = protocol
        getattr(importlib.import_module(f"leaderboard.views.{view}"), show)()

    app = AppTest.from_function(page, args=(view, show, protocol), default_timeout=60)
    for name, value in query.items():
        app.query_params[name] = value
    return app


def texts(app: AppTest) -> str:
    """All plain text of a page."""
    return "\n".join(str(e.value) for e in (*app.text, *app.title, *app.subheader, *app.metric))


@dataclass
class Browser:
    """A page of a real Chromium on the running app, and what went wrong on it so far."""

    page: Page
    address: str
    folder: Path
    errors: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        """Go to a path of the app and wait until it is drawn."""
        self.page.goto(f"{self.address}/{path}")
        self.page.get_by_test_id("stHeading").first.wait_for(timeout=60_000)
        self.settle()

    def settle(self) -> None:
        """Wait until the script has ended and tables and charts are drawn; note tracebacks."""
        self.page.wait_for_timeout(400)
        self.page.wait_for_selector('[data-test-script-state="notRunning"]', timeout=60_000)
        self.page.wait_for_timeout(400)
        self.errors += self.page.get_by_test_id("stException").all_inner_texts()

    def column(self, label: str, table: int = 0) -> list[str]:
        """The cells of one column of a table, as its accessible twin says them."""
        shown = self.page.get_by_test_id("stDataFrame").nth(table)
        header = shown.get_by_role("columnheader", name=label, exact=True, include_hidden=True).first
        cells = shown.locator(f"td[aria-colindex='{header.get_attribute('aria-colindex')}']")
        return [text or "" for text in cells.all_text_contents()]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """One for a module: Playwright runs once at a time."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=screenshots.chromium(), args=screenshots.OFFLINE)
        yield found
        found.close()


@pytest.fixture(scope="module")
def browser(chromium: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The app on a made-up board (toy-v1) and on the published digits-v2, started once for a module."""
    folder = tmp_path_factory.mktemp("board")
    publish(*make_board(), folder / "toy-v1")
    shutil.copytree(PUBLISHED / "digits-v2", folder / "digits-v2")
    with browse(chromium, folder) as found:
        yield found


@contextmanager
def browse(chromium: Chromium, folder: Path) -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _environment(folder).items():
            patch.setenv(name, value)
        with screenshots.app() as address:
            page = chromium.new_page(viewport={"width": 1280, "height": 1800})
            found = Browser(page, address, folder)
            page.on("console", lambda message: _note(found.errors, message))
            page.on("pageerror", lambda error: found.errors.append(str(error)))
            yield found
            page.close()


def _note(errors: list[str], message: ConsoleMessage) -> None:
    # On a page below the root Streamlit first asks for its own health there: that 404 is its way.
    if message.type == "error" and "/_stcore/" not in message.location["url"]:
        errors.append(message.text)
