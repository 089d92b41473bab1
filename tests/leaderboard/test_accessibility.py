"""In real Chromium: axe-core on every page of the navigation, and a walk over the pages that compare and explain."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmark.result import Result
from leaderboard import screenshots
from leaderboard.pairs import differences
from leaderboard.publish import load, publish
from leaderboard.ranking import Board, defense_table, scenarios
from tests.leaderboard.test_reconstructions import inversions

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(screenshots.chromium() is None, reason="no Chromium"),
]
Toy = tuple[list[Result], Board]
MINE = {
    "compare": "Compare",
    "reconstructions": "Reconstructions",
    "protocol": "Protocol",
    "submit": "Submit",
    "papers": "Papers",
}


def fill(folder: Path, made_up: Toy) -> Toy:
    """The made-up board, with two inversion attacks."""
    results, board = made_up
    whole = [*results, *(r for r in inversions() if r.task == "inversion")]
    publish(whole, board, folder / "toy-v1")
    return whole, board


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=screenshots.chromium(), args=screenshots.OFFLINE)
        yield browser
        browser.close()


def violations(page: Any) -> list[str]:
    """Serious and critical ones that nobody has excused: the rule, where, and what is wrong."""
    from axe_playwright_python.sync_playwright import Axe

    found = []
    for rule in Axe().run(page).response["violations"]:
        for node in rule["nodes"]:
            if rule["impact"] in ("serious", "critical"):
                found.append(f"{rule['id']} at {node['target']}: {' '.join(node['failureSummary'].split())[:300]}")
    return found


@pytest.mark.parametrize(("scheme", "filled"), [("light", True), ("dark", True), ("light", False)])
def test_every_page_is_accessible_and_without_an_error(
    chromium: Any, folder: Path, made_up: Toy, scheme: str, filled: bool
) -> None:
    if filled:
        fill(folder, made_up)
    found: list[str] = []
    titles = {}
    with screenshots.app() as address:
        page = chromium.new_page(viewport={"width": 1280, "height": 1000}, color_scheme=scheme)
        page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: found.append(str(error)))
        for name in screenshots.pages(page, address):
            titles[name] = page.get_by_test_id("stHeading").first.inner_text()
            found += [f"{name}: {what}" for what in violations(page)]
            found += page.get_by_test_id("stException").all_inner_texts()
            needs_results = name not in MINE  # those that compare and explain say what there is
            if not filled and needs_results:
                assert page.get_by_text("leakboard run").count(), name
            if filled and name == "reconstructions":
                assert page.locator("img[alt='10 images, one a class']").count() == 3
        page.close()
    assert not found, "\n".join(found)
    assert MINE.keys() <= titles.keys(), "each view is registered in app.py under its path"
    if filled:
        assert {name: titles[name] for name in MINE} == MINE


def test_axe_would_find_something(chromium: Any) -> None:
    page = chromium.new_page()
    page.set_content('<main style="background: white"><p style="color: #ccc">pale</p><img src="x.png"></main>')
    assert {text.split(" at ")[0] for text in violations(page)} >= {"color-contrast", "image-alt"}
    page.close()


def test_a_shared_address_restores_the_comparison_and_its_csv_is_the_table(
    chromium: Any, folder: Path, made_up: Toy
) -> None:
    _, board = fill(folder, made_up)
    with screenshots.app() as address:
        page = chromium.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(f"{address}/compare?first=selena&second=hamp")
        page.get_by_test_id("stHeading").first.wait_for(timeout=60_000)
        screenshots.settle(page)
        page.get_by_test_id("stButtonGroup").get_by_text("ECE", exact=True).click()
        screenshots.settle(page)
        shared = page.url
        page.close()
        page = chromium.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(shared)
        page.get_by_test_id("stDataFrame").first.wait_for(timeout=60_000)
        screenshots.settle(page)
        with page.expect_download() as download:
            page.get_by_role("button", name="CSV").first.click()
        saved = pd.read_csv(io.BytesIO(Path(download.value.path()).read_bytes()))
        page.close()
    frame = scenarios(load(folder / "toy-v1"))
    pool = defense_table(frame, board).attrs["pool"]
    expected = differences(frame, "defense", "selena", "hamp", board.seeds, pool)
    expected = expected[expected.metric.isin(["test_accuracy", "ece", "tpr_at_fpr_0.01", "auc"])]
    assert set(expected.metric) == set(saved.metric)
    pd.testing.assert_frame_equal(saved.fillna({"against": ""}), expected.reset_index(drop=True), check_dtype=False)
