"""In real Chromium: axe-core on every page of the navigation, and a walk over the pages that compare and explain."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import pytest

from leaderboard import screenshots
from leaderboard.pairs import differences
from leaderboard.publish import load, publish
from leaderboard.ranking import defense_table, scenarios
from tests.leaderboard.conftest import Browser, browse, make_audit, make_board
from tests.leaderboard.test_reconstructions import inversions

if TYPE_CHECKING:
    from playwright.sync_api import Browser as Chromium

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(screenshots.chromium() is None, reason="no Chromium"),
]
MINE = {
    "compare": "Compare",
    "reconstructions": "Reconstructions",
    "protocol": "Protocol",
    "submit": "Submit",
    "papers": "Papers",
}


@pytest.fixture(scope="module")
def filled(chromium: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The app on the made-up board with two inversion attacks and two more settings of a defense, and on an audit; no other has results."""
    folder = tmp_path_factory.mktemp("board")
    results, board = make_board()
    settings = [
        r.model_copy(update={"defense": f"selena[n={n}]", "key": f"{n} {r.key}"})
        for n in (1, 2) for r in results if r.defense == "selena"
    ]  # fmt: skip
    publish([*results, *settings, *(r for r in inversions() if r.task == "inversion")], board, folder / "toy-v1")
    model = make_audit().model.model_dump() | {"classes": 3}
    (folder / "audit.json").write_text(make_audit(model=model).as_json(), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAKBOARD_AUDIT", str(folder))
        with browse(chromium, folder) as found:
            yield found


def violations(page: Any) -> list[str]:
    """Serious and critical ones that nobody has excused: the rule, where, and what is wrong."""
    from axe_playwright_python.sync_playwright import Axe

    found = []
    for rule in Axe().run(page).response["violations"]:
        for node in rule["nodes"]:
            if rule["impact"] in ("serious", "critical"):
                found.append(f"{rule['id']} at {node['target']}: {' '.join(node['failureSummary'].split())[:300]}")
    return found


@pytest.mark.parametrize(("scheme", "protocol"), [("light", "toy-v1"), ("dark", "toy-v1"), ("light", "digits-v2")])
def test_every_page_is_accessible_and_without_an_error(
    filled: Browser, scheme: Literal["light", "dark"], protocol: str
) -> None:
    """On a board with results and on one without."""
    page, found, titles = filled.page, list[str](), {}
    full = protocol == "toy-v1"
    page.emulate_media(color_scheme=scheme)
    for name in screenshots.pages(page, f"{filled.address}/?protocol={protocol}"):
        titles[name] = page.get_by_test_id("stHeading").first.inner_text()
        found += [f"{name}: {what}" for what in violations(page)]
        found += page.get_by_test_id("stException").all_inner_texts()
        if not full and name not in MINE:  # those that compare and explain say what there is
            assert page.get_by_text("leakboard run").count(), name
        if full and name == "":
            assert page.locator(".lb-mine").count() == 1, "the audit is the first page"
        if full and name == "defenses":
            assert page.locator(".lbg-box").count() == 1 and page.locator(".lb-fold summary").count() == 1
        if full and name == "reconstructions":
            assert page.locator("img[alt='10 images, one a class']").count() == 3
    assert not found + filled.errors, "\n".join(found + filled.errors)
    assert MINE.keys() <= titles.keys(), "each view is registered in app.py under its path"
    if full:
        assert {name: titles[name] for name in MINE} == MINE


def test_axe_would_find_something(chromium: Chromium) -> None:
    page = chromium.new_page()
    page.set_content('<main style="background: white"><p style="color: #ccc">pale</p><img src="x.png"></main>')
    assert {text.split(" at ")[0] for text in violations(page)} >= {"color-contrast", "image-alt"}
    page.close()


def test_a_shared_address_restores_the_comparison_and_its_csv_is_the_table(filled: Browser) -> None:
    page = filled.page
    filled.open("compare?protocol=toy-v1&first=selena&second=hamp")
    page.get_by_test_id("stButtonGroup").get_by_text("ECE", exact=True).click()
    filled.settle()
    shared = page.url
    filled.open("?protocol=toy-v1")
    page.goto(shared)
    page.get_by_test_id("stDataFrame").first.wait_for(timeout=60_000)
    filled.settle()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").first.click()
    saved = pd.read_csv(io.BytesIO(Path(download.value.path()).read_bytes()))
    _, board = make_board()
    frame = scenarios(load(filled.folder / "toy-v1"))
    pool = defense_table(frame, board).attrs["pool"]
    expected = differences(frame, "defense", "selena", "hamp", board.seeds, pool)
    expected = expected[expected.metric.isin(["test_accuracy", "ece", "tpr_at_fpr_0.01", "auc"])]
    assert set(expected.metric) == set(saved.metric)
    pd.testing.assert_frame_equal(saved.fillna({"against": ""}), expected.reset_index(drop=True), check_dtype=False)
