"""The app in a real Chromium: one walk through all views, with and without results."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import pytest

from leaderboard import screenshots
from leaderboard.texts import short_names
from tests.leaderboard.conftest import DEFENSES, Browser, make_result
from tests.leaderboard.test_accessibility import violations

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(screenshots.chromium() is None, reason="no Chromium"),
]


NEED_RESULTS = {"", "attacks", "tradeoff", "matrix", "risks", "entry"}
WHOLE = {short: name for name, short in short_names(DEFENSES).items()}
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
    page = browser.page
    try:
        for path in paths:
            browser.open(f"{path}?protocol=digits-v2")
            assert not browser.errors, path
            page.set_viewport_size({"width": 400, "height": 1000})
            page.wait_for_timeout(400)
            assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 400, (
                f"{path} scrolls sideways"
            )
            for chart in page.get_by_test_id("stVegaLiteChart").all():
                box = chart.bounding_box()
                assert box and 250 <= box["width"] <= 400 and box["height"] >= 200, f"a chart of {path} lost its shape"
            page.set_viewport_size({"width": 1280, "height": 1800})
    finally:
        page.set_viewport_size({"width": 1280, "height": 1800})


def test_two_that_are_ticked_are_compared(browser: Browser) -> None:
    page = browser.page
    browser.open("?protocol=toy-v1")
    names = [WHOLE[name] for name in browser.column("Defense")]
    table = page.get_by_test_id("stDataFrame").first
    table.scroll_into_view_if_needed()
    for row in (0, 2):
        table.click(position={"x": 18, "y": 35 * (row + 1) + 17})
        browser.settle()
    page.get_by_role("button", name=f"Compare {names[0]} and {names[2]}").click()
    page.wait_for_url("**/compare*")
    browser.settle()
    query = parse_qs(urlsplit(page.url).query)
    assert (query["first"], query["second"]) == ([names[0]], [names[2]])
    browser.open("attacks?protocol=toy-v1")
    table = page.get_by_test_id("stDataFrame").first
    table.click(position={"x": 18, "y": 35 + 17})
    name = browser.column("Attack")[0]
    page.get_by_role("button", name=f"Open {name}").click()
    page.wait_for_url("**/entry*")
    browser.settle()
    assert parse_qs(urlsplit(page.url).query)["entry"] == [name]
    assert not browser.errors


def test_names_of_the_matrices_stay_in_sight(browser: Browser) -> None:
    """At 400 pixels the boxes scroll both ways, say so, and keep the names of rows and columns."""
    page = browser.page
    try:
        page.set_viewport_size({"width": 400, "height": 700})
        for path in ("?protocol=digits-v2", "matrix?protocol=digits-v2"):
            browser.open(path)
            box = page.locator(".lbg-box").last
            box.scroll_into_view_if_needed()
            assert page.locator(".lbg-hint").last.is_visible()
            box.evaluate("e => e.scrollTo(e.scrollWidth, e.scrollHeight)")
            edge = box.bounding_box()
            name, head = (
                box.locator("tbody th[scope=row]").last.bounding_box(),
                box.locator("thead th").last.bounding_box(),
            )
            assert edge and name and head
            assert abs(name["x"] - edge["x"]) < 2 and abs(head["y"] - edge["y"]) < 2
            assert name["width"] < 0.6 * edge["width"], "cells have room beside the names"
    finally:
        page.set_viewport_size({"width": 1280, "height": 1800})
    assert not browser.errors


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_kinds_of_attack_are_drawn_wide_and_narrow(browser: Browser, scheme: Literal["light", "dark"]) -> None:
    """A kind in the address is the plot that is drawn; the matrix fits 400 pixels with all its names; axe-core finds nothing."""
    page = browser.page
    page.emulate_media(color_scheme=scheme)
    try:
        for width in (1280, 400):
            page.set_viewport_size({"width": width, "height": 1800})
            browser.open("?protocol=digits-v2&kind=stealing")
            assert page.get_by_role("region", name="Defenses against stealing").is_visible()
            assert page.get_by_role("radio", name="stealing").get_attribute("aria-checked") == "true"
            box = page.locator(".lbg-box").first
            box.scroll_into_view_if_needed()
            assert box.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), "nothing of it is out of sight"
            heads = box.locator("thead th").all_inner_texts()
            assert heads == [
                "Defense against kind",
                "membership",
                "inversion",
                "attribute",
                "stealing",
                "worst of four",
            ]
            assert box.locator("tbody th[scope=row]").first.inner_text() == "undefended"
            assert box.locator("td[title^='stealing on']").count() == 6
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
    assert sorted(names) == ["selena", "selena+diffence"]
    with page.expect_download() as download:
        page.get_by_test_id("stDownloadButton").get_by_role("button").click()
    download.value.save_as(tmp_path / "board.csv")
    with open(tmp_path / "board.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["defense"] for row in rows] == [WHOLE[name] for name in names]
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


def test_a_cell_of_the_matrix_opens_its_scenario(browser: Browser) -> None:
    page = browser.page
    browser.open("matrix?protocol=toy-v1")
    page.locator("td[title^='boundary on constant'] a").click()
    page.get_by_text("boundary on constant", exact=True).wait_for(timeout=20_000)
    assert parse_qs(urlsplit(page.url).query) == {
        "protocol": ["toy-v1"], "attack": ["boundary"], "defense": ["constant"]
    }  # fmt: skip
    shared = page.url
    browser.open("?protocol=toy-v1")
    page.goto(shared)
    page.get_by_text("boundary on constant", exact=True).wait_for(timeout=20_000)
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
