"""The report of an audit: thirteen sections, nothing that runs or is fetched, foreign text as text, and what a browser draws."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmark.run.audit import canaries
from benchmark.run.audit.canary_report import CanaryAudit, down
from benchmark.run.audit.predicted import Line, audit
from benchmark.run.audit.predictions import Source
from benchmark.run.audit.report import Audit, Decision, Gain, Left, Measured, OtherAttack, OtherKind
from leaderboard import lines, screenshots
from leaderboard.audit_page import as_html, canaries_as_html
from tests.leaderboard.conftest import EVIL
from tests.run.audit.test_canaries import answers, secret
from tests.run.audit.worlds import registry, world

if TYPE_CHECKING:
    from playwright.sync_api import Browser as Chromium

GATE = [Decision(condition="auc > 0.9", outcome="passes", reason="the worst case is 0.6")]


def made(kind: str) -> Audit:
    """A report of a leak, of no leak, and of one whose texts are hostile."""
    rng = np.random.default_rng(0)
    given = world(1, n=400, k=3, leak=0.0 if kind == "chance" else 1.5)
    sites = np.where(rng.random(800) < 0.5, EVIL if kind == "hostile" else "Bonn", "<img src=x onerror=alert(1)>")
    name = EVIL if kind == "hostile" else "site"
    source = Source(f"{EVIL}.csv" if kind == "hostile" else "members.csv", 9, "0" * 64)
    given = replace(given, groups={name: sites}, sources=(source,))
    known = {n: Line(*(line[f] for f in Line._fields)) for n, line in lines.published().items()}
    title = command = EVIL if kind == "hostile" else "Mine"
    report, _ = audit(given, registry(), when="2026-01-01T00:00:00Z", title=title, command=command, lines=known)
    return report.model_copy(update={"gate": GATE})


@pytest.fixture(scope="module")
def reports() -> dict[str, Audit]:
    return {kind: made(kind) for kind in ("leak", "chance", "hostile")}


def words(html: str) -> str:
    """The text of a page; a space that keeps a line together is a space."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html.split("</head>")[1])).split())


def test_it_begins_with_the_verdict_and_has_thirteen_sections(reports: dict[str, Audit]) -> None:
    report = reports["leak"]
    html = as_html(report, "exposed.csv")
    said = words(html)
    assert said.startswith(f"Leakboard audit: Mine Leaks {report.verdict.sentence} {report.verdict.more}")
    headings = re.findall(r'<h2 id="s(\d+)">(\d+) [A-Z]', html)
    assert headings == [(str(i), str(i)) for i in range(1, 14)]
    for section in (8, 10, 11):
        assert "Not filled." in html.split(f'id="s{section}"')[1].split("<h2")[0], "it says why"
    for attack in report.attacks:
        assert attack.name in said.replace(" ", "")
    assert "auc > 0.9 passes the worst case is 0.6" in said
    assert f"The {report.exposed} most exposed members" in said and "exposed.csv" in said
    assert report.files[0].sha256 in said and "leakboard board" in said


def other(kind: str, **more: object) -> OtherKind:
    return OtherKind(kind=kind, metric="agreement", sentence=f"{kind} was looked at.", **more)  # type: ignore[arg-type]


def test_other_kinds_stand_beside_their_nulls_or_say_why_not(reports: dict[str, Audit]) -> None:
    base: dict[str, object] = {"title": "T", "reference": EVIL, "access": "label", "metrics": {"agreement": Measured(value=0.75, low=0.7, high=0.8), "stolen_accuracy": Measured(value=0.5)}}  # fmt: skip
    gain = Gain(over="steal_null", value=0.05, low=-0.01, high=0.11)
    attacks = [
        OtherAttack(name="steal_labels", null=False, counts=False, queries=1200, gain=gain, **base),  # type: ignore[arg-type]
        OtherAttack(name="steal_null", null=True, counts=True, queries=0, **base),  # type: ignore[arg-type]
    ]
    left = [Left(name="steal_mse", title="", reason="is not in the pool of audits")]
    kinds = [other("stealing", known=1200, scored=800, attacks=attacks, left=left), other("inversion")]
    html = as_html(reports["leak"].model_copy(update={"others": kinds}))
    assert not re.search(r"<(script|img)\b", html)
    section = words("</head>" + html.split('id="s11"')[1].split("<h2")[0].replace("<wbr>", ""))
    assert (
        "Extraction stealing was looked at." in section and "Inversion: not filled. inversion was looked at." in section
    )
    assert "known are 1,200 images of no member; measured on 800 images" in section
    assert "label, not released 1,200 75.0% 70.0% – 80.0% 50.0% +5.0 -1.0 to 11.0, over steal_null" in section
    assert "null 0 75.0% 70.0% – 80.0% 50.0% –" in section and "steal_mse (is not in the pool of audits)" in section
    threats = words("</head>" + html.split('id="s5"')[1].split("<h2")[0])
    assert "Model extraction measured, against its nulls (section 11)" in threats
    assert "Data reconstruction not measured: section 11 says why" in threats
    none = as_html(reports["leak"].model_copy(update={"others": kinds[1:]}))
    assert "Not filled. inversion was looked at." in words("</head>" + none.split('id="s11"')[1])


def test_no_leak_reads_so(reports: dict[str, Audit]) -> None:
    said = words(as_html(reports["chance"]))
    assert "No leak found" in said and "better than chance" in said and "exposed.csv" not in said


def test_nothing_runs_and_nothing_is_loaded(reports: dict[str, Audit]) -> None:
    for report in reports.values():
        html = as_html(report)
        assert "default-src 'none'" in html and len(html) < 3_000_000
        assert not re.search(r"<(script|link|img|iframe|object|embed|base|form)\b", html)
        assert not re.search(r"<[^>]*\s(src|srcset|action|href|on\w+)=", re.sub(r'"[^"]*"', '""', html))
        assert "url(" not in html and "@import" not in html


def test_foreign_text_is_text(reports: dict[str, Audit]) -> None:
    html = as_html(reports["hostile"])
    assert "<img src=x" not in html and "&lt;img src=x" in html
    for tag in re.findall(r"<[a-z][^>]*>", html):
        assert not re.search("onerror|evil|javascript", re.sub(r'"[^"]*"', "", tag))


def test_the_same_audit_gives_the_same_bytes(reports: dict[str, Audit]) -> None:
    report = reports["leak"]
    assert as_html(report) == as_html(Audit.model_validate_json(report.as_json()))


@pytest.mark.slow
def test_the_lines_are_those_of_the_published_boards() -> None:
    """As far as an audit prints them: `python -m leaderboard.lines` after boards were published anew."""
    found, fitted = lines.published(), lines.fit()
    assert found.keys() == fitted.keys() == {"js_entropy", "js_cross_entropy"}
    for name, line in fitted.items():
        assert line["attack"] == found[name]["attack"]
        for distance in (0.05, 0.3):
            values = [known["slope"] * distance + known["intercept"] for known in (line, found[name])]
            assert abs(values[0] - values[1]) < 0.02, "run python -m leaderboard.lines"


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(screenshots.chromium() is None, reason="no Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["leak", "chance", "hostile"])
def test_a_browser_draws_the_file(
    chromium: Chromium, reports: dict[str, Audit], tmp_path: Path, kind: str, scheme: str
) -> None:
    """From file://, wide, narrow and in print: nothing is wider than the window, nothing is fetched, axe-core finds nothing."""
    from tests.leaderboard.test_accessibility import violations

    (tmp_path / "report.html").write_text(as_html(reports[kind], "exposed.csv"), "utf-8")
    shown = chromium.new_page(viewport={"width": 1280, "height": 1000}, color_scheme=scheme)  # type: ignore[arg-type]
    asked: list[str] = []
    errors: list[str] = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    address = (tmp_path / "report.html").as_uri()
    shown.goto(address)
    for width in (1280, 400):
        shown.set_viewport_size({"width": width, "height": 1000})
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate("[...document.querySelectorAll('.wide')].every(e => e.scrollWidth <= e.clientWidth + 1)")
        dots = shown.locator(".au-dot")
        assert dots.count() > 10
        for i in range(dots.count()):
            box, plot = dots.nth(i).bounding_box(), dots.nth(i).locator("..").bounding_box()
            assert box and plot and plot["x"] - 1 <= box["x"] + box["width"] / 2 <= plot["x"] + plot["width"] + 1
            assert plot["width"] > 150
        assert shown.locator(".au-roc svg[role=img] polyline").count() > 1
        assert not (found := violations(shown)), "\n".join(found)
    assert len(shown.pdf(format="A4")) > 10_000
    shown.close()
    assert asked == [address] and not errors


# --- Canaries ---------------------------------------------------------------------------------------


def by_canaries(text: str, claimed: float | None) -> CanaryAudit:
    planted, source = secret(), Source(f"{text}.csv", 9, "0" * 64)
    return canaries.audit(
        *answers(planted, known=1.0), planted, claimed=claimed, title=text, command=text, sources=(source,)
    )


@pytest.mark.parametrize("claimed", [1.0, 50.0, None])
def test_a_claim_stands_beside_what_is_shown(claimed: float | None) -> None:
    report = by_canaries("Mine", claimed)
    said = words(canaries_as_html(report))
    assert said.startswith(f"Leakboard audit: Mine {report.verdict.state.capitalize()} {report.verdict.sentence}")
    for bound in report.bounds:
        beside = f"{claimed:g}" if claimed and bound.judges else "–"
        assert f"{bound.name} {beside} {down(bound.epsilon)} {bound.delta:g} {down(bound.most)} {bound.assumes} {bound.source}" in said  # fmt: skip
    assert "each canary was included by a fair coin" in said and report.secret in said
    assert ("If the claim is true" in said) == (claimed is not None)


@pytest.mark.parametrize("claimed", [1.0, None])
def test_the_main_report_has_what_canaries_showed(reports: dict[str, Audit], claimed: float | None) -> None:
    shown = by_canaries("Mine", claimed)
    without, html = (as_html(reports["chance"].model_copy(update={"canaries": c})) for c in (None, shown))
    sections = {n: html.split(f'id="s{n}">')[1].split("<h2")[0] for n in (8, 10)}
    eight, ten = (words(f"</head>{section}") for section in sections.values())
    for bound in shown.bounds:
        beside = f"{claimed:g}" if claimed and bound.judges else "–"
        assert f"{bound.name} {beside} {down(bound.epsilon)} {bound.delta:g} {down(bound.most)}" in eight
    assert f"{shown.right:,} of {shown.guesses:,} guesses" in eight and "is the word of whoever audits" in eight
    assert (
        "Claimed epsilon 1, delta 1e-05, for adding or removing one record" if claimed else "Claimed no epsilon"
    ) in ten
    assert shown.verdict.sentence in ten and f"mu is at least {down(shown.mu)}" in ten
    assert [word for word in ("leakboard audit plant", "--canaries canaries-audit.json") if word in words(without)]
    assert "leakboard audit plant" not in words(html)


def test_foreign_text_in_a_report_on_canaries_is_text() -> None:
    evil = by_canaries(EVIL, 1.0)
    bounds = [b.model_copy(update={"name": EVIL, "assumes": EVIL, "source": EVIL}) for b in evil.bounds]
    verdict = evil.verdict.model_copy(update={"sentence": EVIL, "more": EVIL})
    whole = made("hostile").model_copy(update={"canaries": evil.model_copy(update={"bounds": bounds, "verdict": verdict, "assumes": EVIL})})  # fmt: skip
    for html in (canaries_as_html(evil), as_html(whole)):
        is_text(html)


def is_text(html: str) -> None:
    assert "default-src 'none'" in html and not re.search(r"<(script|link|img|iframe|object|embed|base|form)\b", html)
    for tag in re.findall(r"<[a-z][^>]*>", html):
        assert not re.search("onerror|evil|javascript", re.sub(r'"[^"]*"', "", tag))


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(screenshots.chromium() is None, reason="no Chromium")
def test_a_browser_draws_the_report_on_canaries(chromium: Chromium, tmp_path: Path) -> None:
    from tests.leaderboard.test_accessibility import violations

    (tmp_path / "canaries.html").write_text(canaries_as_html(by_canaries("Mine", 1.0)), "utf-8")
    shown = chromium.new_page(viewport={"width": 1280, "height": 1000})
    shown.goto((tmp_path / "canaries.html").as_uri())
    for width in (1280, 400):
        shown.set_viewport_size({"width": width, "height": 1000})
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert not (found := violations(shown)), "\n".join(found)
    shown.close()
