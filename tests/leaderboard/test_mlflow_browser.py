"""MLflow's own UI in Chromium: what Leakboard logs can be filtered, compared and found there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from benchmark.run import tracking
from benchmark.run.connection import view
from benchmark.run.tracking import Tracker, TrialTracker
from tests.faults.servers import Server, free_port
from tests.leaderboard.conftest import make_board

if TYPE_CHECKING:
    from playwright.sync_api import Browser as Chromium
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

WAIT = 60_000
SHOWN = {"undefended", "selena"}
HOSTILE = "<img src=x onerror=document.title='gone'> **b** [a](javascript:alert(1))"
WORTH = {"undefended": (0.75, 0.875), "selena": (0.625, 0.8125), HOSTILE: (0.5, 0.25)}


@dataclass
class UI:
    """A page of the UI, and the runs that it shows: of each attack on SHOWN by name, and the ids of experiments."""

    page: Page
    uri: str
    runs: dict[str, str]
    experiments: dict[str, str]

    def open(self, path: str) -> None:
        self.page.goto("about:blank")  # what follows # alone loads nothing anew
        self.page.goto(f"{self.uri}/#/{path}")

    def rows(self) -> list[str]:
        """Names of the runs in the table."""
        return self.page.locator('[role="gridcell"][col-id="attributes.`Run Name`"] a').all_inner_texts()

    def unfold(self, name: str) -> None:
        """Show the runs under a parent."""
        cell = self.page.locator('[role="gridcell"][col-id="attributes.`Run Name`"]').filter(has_text=name).first
        cell.get_by_role("button").first.click(timeout=WAIT)


@pytest.fixture(scope="module")
def ui(chromium: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UI]:
    """A server with seven scenarios of each of two defenses, and a study of three trials."""
    folder = tmp_path_factory.mktemp("mlflow")
    server = Server(folder, free_port())
    server.start()
    page = chromium.new_page(viewport={"width": 1600, "height": 1000})
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("MLFLOW_TRACKING_URI", server.uri)
            tracker = Tracker(folder / "logged")
            for result in make_board(seeds=(0,))[0]:
                if result.defense in SHOWN and result.task != "attribute":
                    tracker.log(result.model_copy(update={"provenance": {}}))
            trials = TrialTracker("toy-v1", "dp_sgd")
            for name, (worst, accuracy) in WORTH.items():
                tracker.summarise("toy-v1", name, {"worst_auc": worst, "test_accuracy": accuracy}, {}, {})
            for number in range(3):
                metrics = {"test_accuracy": 0.8 - number / 10, "worst_auc": 0.6}
                trials.log(number, {"noise_multiplier": number + 0.5}, metrics, {})
            client = tracking.connect()
            ids = {n: client.get_experiment_by_name(n).experiment_id for n in ("toy-v1", "toy-v1.tuning")}
            found = client.search_runs([ids["toy-v1"]], "tags.`leakboard.kind` = 'scenario'")
        yield UI(page, server.uri, {r.info.run_name: r.info.run_id for r in found}, ids)
    finally:
        page.close()
        server.kill()


def test_the_scenarios_of_an_entry_are_filtered(ui: UI) -> None:
    query = quote("params.attack = 'lira'")
    ui.open(f"experiments/{ui.experiments['toy-v1']}/runs?searchFilter={query}")
    ui.page.get_by_text("matching runs").wait_for(timeout=WAIT)
    for defense in SHOWN:
        ui.unfold(defense)
    named = {f"lira on {defense}, seed 0" for defense in SHOWN}
    ui.page.get_by_text(min(named)).first.wait_for(timeout=WAIT)
    assert set(ui.rows()) == named | SHOWN, "what was asked for, under the entries that it belongs to"


def test_entries_are_compared_by_their_metrics(ui: UI) -> None:
    """The view that Leakboard's links open: training runs, one row an entry, the least leakage first, names as text."""
    ui.open(view(ui.experiments["toy-v1"]).removeprefix("/"))
    ui.page.get_by_text("3 matching runs").wait_for(timeout=WAIT)
    assert ui.rows() == [HOSTILE, "selena", "undefended"]
    for name, column in (("worst_auc", 0), ("test_accuracy", 1)):
        cells = ui.page.locator(f'[role="gridcell"][col-id*="{name}`"]')
        assert [float(t) for t in cells.all_inner_texts()] == [w[column] for w in reversed(WORTH.values())]
    assert "gone" not in ui.page.title() and not ui.page.get_by_text("Detect Issues").count()


def test_two_runs_are_compared_with_their_metrics_and_roc_figures(ui: UI) -> None:
    ids = [ui.runs[f"{attack} on undefended, seed 0"] for attack in ("lira", "loss")]
    experiment = ui.experiments["toy-v1"]
    ui.open(f"compare-runs?runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([experiment]))}")
    ui.page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for(timeout=WAIT)
    shown = ui.page.inner_text("body")
    for name in ("lira on undefended, seed 0", "loss on undefended, seed 0", "tpr_at_fpr_0.01", "balanced_accuracy"):
        assert name in shown, name
    ui.page.get_by_text("roc.png").first.dispatch_event("click", timeout=WAIT)  # the assistant may lie over it
    figures = ui.page.get_by_alt_text("roc.png", exact=True)
    figures.nth(1).wait_for(timeout=WAIT)
    assert figures.count() == 2, "side by side"
    widths = [figures.nth(i).evaluate("image => image.naturalWidth") for i in range(2)]
    assert min(widths) > 300, "they are drawn"


def test_the_trials_of_a_study_lie_under_it(ui: UI) -> None:
    ui.open(f"experiments/{ui.experiments['toy-v1.tuning']}/runs")
    ui.page.get_by_text("matching runs").wait_for(timeout=WAIT)
    assert ui.rows() == ["dp_sgd"]
    ui.unfold("dp_sgd")
    ui.page.get_by_text("trial 2").first.wait_for(timeout=WAIT)
    assert sorted(ui.rows()) == ["dp_sgd", "trial 0", "trial 1", "trial 2"]
