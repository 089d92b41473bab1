"""The app in a real Chromium: one walk through all views, with and without results."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import pytest

from leaderboard import screenshots
from tests.leaderboard.conftest import Browser, make_result
from tests.leaderboard.test_accessibility import violations

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(screenshots.chromium() is None, reason="no Chromium"),
]


NEED_RESULTS = {"", "attacks", "tradeoff", "matrix", "risks", "entry"}
WORST = "Worst TPR at 1 % FPR"


def views(browser: Browser) -> list[str]:
    """The paths of all pages, as the navigation links them."""
    browser.open("")
    links = [a.get_attribute("href") or "" for a in browser.page.get_by_test_id("stTopNavLink").all()]
    return [urlsplit(link).path.lstrip("/") for link in links]


def test_every_view_opens_with_results(browser: Browser) -> None:
    """Those of a published board; `test_accessibility.py` opens every view on made-up ones, and without any."""
    paths = views(browser)
    assert set(paths) >= NEED_RESULTS
    for path in paths:
        browser.open(f"{path}?protocol=digits-v1")
        assert not browser.errors, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_forest_is_drawn_wide_and_narrow(browser: Browser, scheme: Literal["light", "dark"]) -> None:
    """Streamlit's filter of HTML leaves it whole; the page is no wider than the window; axe-core finds nothing."""
    page = browser.page
    page.emulate_media(color_scheme=scheme)
    try:
        for width in (1280, 400):
            page.set_viewport_size({"width": width, "height": 1800})
            browser.open("?protocol=toy-v1")
            rows, head = page.locator(".lb-row"), page.locator(".lb-head").first
            assert rows.count() == 7 and rows.first.is_visible() and head.is_visible()
            names = [row.locator(".lb-name b").inner_text() for row in rows.all()]
            assert names[:2] == ["dp_sgd", "selena+diffence"]
            ticks = [tick.bounding_box() for tick in head.locator(".lb-tick").all()]
            for row in rows.all():
                plot, dot, name, value = (
                    row.locator(mark).bounding_box() for mark in (".lb-plot", ".lb-dot", ".lb-name", ".lb-value")
                )
                assert plot and dot and name and value and ticks[0] and ticks[-1]
                assert plot["x"] <= dot["x"] + dot["width"] / 2 <= plot["x"] + plot["width"] and plot["width"] > 150
                assert abs(plot["x"] - ticks[0]["x"] - ticks[0]["width"] / 2) < 2, "the axis is the rows'"
                assert abs(plot["x"] + plot["width"] - ticks[-1]["x"] - ticks[-1]["width"] / 2) < 2
                assert name["x"] + name["width"] <= value["x"], "the name does not meet the number"
                assert (value["y"] < plot["y"]) == (width == 400), "below the number where the page is narrow"
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= width
            assert not (found := violations(page)), "\n".join(found)
    finally:
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 1280, "height": 1800})
    assert not browser.errors


def test_search_filters_and_csv(browser: Browser, tmp_path: Path) -> None:
    """What is searched and filtered is shown, lies in the address, and is what the CSV holds."""
    page = browser.page
    browser.open("attacks?protocol=toy-v1")
    everything = browser.column("Attack")
    page.get_by_role("button", name="white-box", exact=True).click()
    browser.settle()
    assert browser.column("Attack") == ["gradient"] != everything
    browser.open("?protocol=toy-v1")
    page.get_by_role("textbox", name="Search").fill("selena")
    page.get_by_role("textbox", name="Search").press("Enter")
    browser.settle()
    names = browser.column("Defense")
    assert sorted(names) == ["selena", "selena+diffence[n=10]"]
    with page.expect_download() as download:
        page.get_by_test_id("stDownloadButton").get_by_role("button").click()
    download.value.save_as(tmp_path / "board.csv")
    with open(tmp_path / "board.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["defense"] for row in rows] == names
    decimals = len(browser.column(WORST)[0].split(".")[1])
    assert [f"{float(row['worst_tpr_at_fpr_0.01']):.{decimals}f}" for row in rows] == browser.column(WORST)
    address = page.url
    assert parse_qs(urlsplit(address).query)["search"] == ["selena"]
    browser.open("?protocol=toy-v1")
    assert len(browser.column("Defense")) > 2
    page.goto(address)
    browser.settle()
    page.get_by_test_id("stDataFrame").first.wait_for()
    assert browser.column("Defense") == names
    assert not browser.errors


def test_a_cell_of_the_heat_map_opens_its_scenario(browser: Browser) -> None:
    page = browser.page
    browser.open("matrix?protocol=toy-v1")
    numbers = page.get_by_test_id("stVegaLiteChart").first.locator("svg g.mark-text.role-mark text")
    box = numbers.last.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.get_by_text("gradient on constant").wait_for(timeout=20_000)
    assert parse_qs(urlsplit(page.url).query) == {
        "protocol": ["toy-v1"], "attack": ["gradient"], "defense": ["constant"]
    }  # fmt: skip
    shared = page.url
    browser.open("?protocol=toy-v1")
    page.goto(shared)
    page.get_by_text("gradient on constant").wait_for(timeout=20_000)
    browser.settle()
    assert not browser.errors


def test_an_address_restores_the_other_views(browser: Browser) -> None:
    page = browser.page
    browser.open("tradeoff?protocol=toy-v1")
    page.get_by_role("radio", name="One attack").click()
    browser.settle()
    page.get_by_role("radio", name="AUC", exact=True).click()
    browser.settle()
    shared = page.url
    browser.open("?protocol=toy-v1")
    page.goto(shared)
    page.get_by_test_id("stDataFrame").wait_for()
    browser.settle()
    assert page.get_by_role("radio", name="One attack").get_attribute("aria-checked") == "true"
    assert page.get_by_role("radio", name="AUC", exact=True).get_attribute("aria-checked") == "true"
    assert not browser.errors


def test_a_new_run_appears_while_the_board_is_open(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.run.tracking import Tracker

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{browser.folder}/mlflow.db")
    browser.open("?protocol=toy-v1")
    browser.page.get_by_text("8 attacks").wait_for()
    added = make_result("membership", "newcomer", "undefended", 0, metrics={"auc": 0.7}, finished=time.time())
    Tracker(browser.folder / "logged").log(added)
    browser.page.get_by_text("9 attacks").wait_for(timeout=30_000)
    browser.open("attacks?protocol=toy-v1")
    assert "newcomer" in browser.column("Attack", 1), "listed with what it lacks"
    assert not browser.errors
