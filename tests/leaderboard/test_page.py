"""The published page and its JSON: the tables' numbers, no script, nothing from elsewhere, and the same bytes each time."""

from __future__ import annotations

import json
import math
import re
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from benchmark import protocol as definitions
from benchmark.result import Result
from benchmark.text import NAME, plain
from leaderboard import page, screenshots
from leaderboard.forest import QUESTION, Paper, leader
from leaderboard.kinds import kind_table, percent
from leaderboard.publish import KINDS, load, main, pages, papers, publish
from leaderboard.ranking import Board, defense_table, pair_table
from tests.leaderboard.conftest import EVIL, OF_KINDS, hostile, make_board, make_kinds

if TYPE_CHECKING:
    from playwright.sync_api import Browser as Chromium

Toy = tuple[list[Result], Board]
NOTES = page.Notes("All of it.", "Nothing of that.", {"selena": Paper("USENIX 2022, arXiv:2110.08324", "https://arxiv.org/abs/2110.08324")})  # fmt: skip


def published(toy: Toy, folder: Path, notes: page.Notes = NOTES) -> str:
    """The page of this board."""
    publish(*toy, folder, notes)
    return (folder / page.PAGE).read_text("utf-8")


def words(html: str) -> str:
    """The text of a page."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html.split("</head>")[1])).split())


def test_it_says_what_leads_and_what_it_holds(made_up: Toy, tmp_path: Path) -> None:
    results, board = made_up
    said = words(published(made_up, tmp_path))
    table = defense_table(results, board)
    assert QUESTION in said and leader(table, board.baseline) in said
    assert "All of it." in said and "Nothing of that." in said
    assert "leakboard run --protocol toy-v1 leakboard reproduce --protocol toy-v1" in said
    assert "below the utility floor (0.10 < 0.59)" in said and "lira missing (seed 2)" in said
    assert f"self-reported {len(results):,} scored by whoever" in said
    assert "USENIX 2022, arXiv:2110.08324" in said
    assert "2023-11-14 to 2023-11-14 (UTC)" in said
    for name in (*board.required_attacks, *board.required_defenses):
        assert name in said


def test_pairs_and_attacks_on_defenses_are_drawn(made_up: Toy, tmp_path: Path) -> None:
    results, board = made_up
    html = published(made_up, tmp_path)
    pairs = pair_table(results, board)
    found = json.loads((tmp_path / page.JSON).read_text("utf-8"))["pairs"]
    assert [(r["first"], r["second"], r["verdict"]) for r in found] == list(
        zip(pairs["first"], pairs.second, pairs.verdict, strict=True)
    )
    drawn, cells = (
        html.split(f'<section class="lbg lbg-{n}"')[1].split("</section>")[0] for n in (len(pairs["first"].unique()), 9)
    )
    signs = re.findall(r"<td[^>]*>([+−·]*)</td>", drawn)
    assert sum(s.startswith("+") for s in signs) == (pairs.verdict == "less").sum() > 0
    seeds = [r.metrics["auc"] for r in results if (r.attack, r.defense) == ("lira", "selena")]
    assert f'title="lira on selena: {sum(seeds) / len(seeds):.3f}; ' in cells
    assert "href" not in drawn + cells, "the page has no scenario to open"


def test_every_kind_of_attack_has_its_plot_and_its_columns(tmp_path: Path) -> None:
    results, board = make_kinds()
    html = published((results, board), tmp_path)
    table = kind_table(load(tmp_path), board)
    saved = pd.read_csv(tmp_path / KINDS, keep_default_na=False, na_values=[""])
    found = json.loads((tmp_path / page.JSON).read_text("utf-8"))["kinds"]
    assert list(saved) == [*table] == [*found[0]] and len(saved) == len(table) == len(found)
    for saved_value, json_row, value in zip(saved.excess, found, table.excess, strict=True):
        assert json_row["excess"] == value == saved_value or (json_row["excess"] is None and math.isnan(value))
    for kind in OF_KINDS:
        assert f"<summary>Defenses against {kind}</summary>" in html
    row = table[(table.defense == "selena") & (table.kind == "stealing")].iloc[0]
    said = words(html)
    assert "Worst of four" in said and percent(row) in said and "bypasses guards" in said
    assert f'title="stealing on selena: excess {percent(row)}; {100 * row.difference:+.0f} points' in html


def test_a_board_of_one_kind_has_no_section_on_kinds(made_up: Toy, tmp_path: Path) -> None:
    html = published(made_up, tmp_path)
    assert "Kinds of attack" not in html and "<summary>Defenses against" not in html and "Worst of" not in html


def test_long_names_are_short_in_tables_and_whole_at_the_end(made_up: Toy, tmp_path: Path) -> None:
    results, board = made_up
    long = "hamp[" + ",".join(f"a_{i}={i}.0" for i in range(9)) + "]"
    renamed = [r.model_copy(update={"defense": long}) if r.defense == "hamp" else r for r in results]
    html = published((renamed, board), tmp_path)
    table = html.split("<caption>Defenses that are not ranked</caption>")[1].split("</table>")[0]
    assert '<th scope="row">hamp</th>' in table and f"<td>{long}</td></tr>" in table and "Whole name" in table


def test_null_rows_stand_at_the_foot_of_their_task(made_up: Toy, tmp_path: Path) -> None:
    html = published(made_up, tmp_path)
    (membership,) = re.findall(r"<caption>Attacks: membership</caption>.*?</table>", html, re.DOTALL)
    names = re.findall(r'<th scope="row">(.*?)</th>', membership)
    assert names[-1] == "random" and len(names) == 5
    assert membership.count("<td>null</td>") == 1
    assert "<caption>Attacks: attribute</caption>" in html and "Attacks: inversion" not in html


def test_the_json_is_the_csv(made_up: Toy, tmp_path: Path) -> None:
    results, board = made_up
    published(made_up, tmp_path)
    found = json.loads((tmp_path / page.JSON).read_text("utf-8"))
    assert found["schema"] == page.SCHEMA
    assert found["protocol"]["name"] == "toy-v1" and tuple(found["protocol"]["seeds"]) == board.seeds
    assert found["papers"] == {"selena": "USENIX 2022, arXiv:2110.08324"}
    assert papers(tmp_path) == NOTES.papers
    assert found["leader"] == leader(defense_table(results, board), board.baseline)
    defenses, attacks = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("defenses", "attacks"))
    listed = [row for task in found["attacks"].values() for row in task]
    for rows, table in ((found["defenses"], defenses), (listed, attacks)):
        assert len(rows) == len(table) and {*rows[0]} <= {*table}
        for row, (_, expected) in zip(rows, table.iterrows(), strict=True):
            for name, value in row.items():
                other = expected[name]
                if isinstance(value, float):
                    assert value == other, name
                else:
                    assert value == other or (value in (None, "") and math.isnan(other)), name


def test_nothing_runs_and_nothing_is_loaded(made_up: Toy, tmp_path: Path) -> None:
    html = published(made_up, tmp_path)
    assert "default-src 'none'" in html and "'unsafe-inline'" in html.split("style-src")[1][:30]
    assert not re.search(r"<(script|link|img|iframe|object|embed|base|form)\b", html)
    assert not re.search(r"\b(src|srcset|action|on\w+)=", html) and "url(" not in html and "@import" not in html
    addresses = set(re.findall(r'href="([^"]*)"', html))
    files = {p.name for p in tmp_path.iterdir()}
    assert addresses == {"https://arxiv.org/abs/2110.08324", *(files - {page.PAGE})}, "links, which a reader may follow"


def test_same_results_same_bytes(made_up: Toy, tmp_path: Path) -> None:
    results, board = made_up
    for folder, rows in (("a", results), ("b", results[::-1])):
        publish(rows, board, tmp_path / folder, NOTES)
    for name in (page.PAGE, page.JSON, KINDS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert pages(tmp_path / "a", NOTES) == {
        name: (tmp_path / "a" / name).read_text("utf-8") for name in (page.PAGE, page.JSON, KINDS)
    }, "and it is made anew from what is published"


def test_the_pages_of_what_is_published_are_written_anew(folder: Path, made_up: Toy) -> None:
    """Nothing else is: rows, tables and provenance stay as they are."""
    publish(*made_up, folder / "toy-v1")
    before = {path.name: path.read_bytes() for path in (folder / "toy-v1").iterdir()}
    for name in (page.PAGE, page.JSON, KINDS):
        (folder / "toy-v1" / name).write_text("old")
    main([])
    assert {path.name: path.read_bytes() for path in (folder / "toy-v1").iterdir()} == before


def test_nothing_published_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing is published"):
        pages(tmp_path, NOTES)


def test_foreign_text_is_text(tmp_path: Path) -> None:
    results, board = make_board()
    said = page.Notes(EVIL, EVIL, {"selena": Paper(EVIL, "https://arxiv.org/abs/1")})
    rows = hostile([r.model_copy(update={"dataset": EVIL, "architecture": EVIL}) for r in results])
    html = published((rows, board), tmp_path, said)
    assert plain(EVIL) in words(html), "drawn as it is"
    assert not re.search(r"<(script|img)\b", html)
    for tag in re.findall(r"<[a-z][^>]*>", html):
        assert not re.search("onerror|evil|javascript", re.sub(r'"[^"]*"', "", tag))
    assert set(re.findall(r'href="(\w+:[^"]*)"', html)) == {"https://arxiv.org/abs/1"}
    json.loads((tmp_path / page.JSON).read_text("utf-8"))


def test_foreign_text_is_text_in_the_plots_of_kinds(tmp_path: Path) -> None:
    """A name of a required entry, a track, and the reason of a skipped row."""
    results, board = make_kinds()
    foreign = dict.fromkeys(("steal", "selena"), plain(EVIL, NAME))
    required = tuple(foreign.get(a, a) for a in board.required_attacks)
    board = Board(required, tuple(foreign.get(d, d) for d in board.required_defenses), board.seeds, "undefended", 0.7)
    rows = [
        r.model_copy(update={"attack": foreign.get(r.attack, r.attack), "defense": foreign.get(r.defense, r.defense)})
        for r in results
    ]
    rows = [r.model_copy(update={"reason": EVIL, "access": EVIL}) if r.task == "inversion" else r for r in rows]
    html = published((rows, board), tmp_path)
    assert plain(EVIL)[:40] in words(html) and "Defenses against stealing" in html
    assert not re.search(r"<(script|img)\b", html)
    for tag in re.findall(r"<[a-z][^>]*>", html):
        assert not re.search("onerror|evil|javascript", re.sub(r'"[^"]*"', "", tag))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"papers": 3}', '{"papers": {"selena": 3}}', '{"papers": []}'])
def test_no_papers_are_read_of_anything(tmp_path: Path, text: str) -> None:
    assert papers(tmp_path) == {}
    (tmp_path / page.JSON).write_text(text)
    assert papers(tmp_path) == {}


def test_an_address_in_the_file_is_not_taken(tmp_path: Path) -> None:
    said = {"papers": {"selena": f"{EVIL}, arXiv:2110.08324", "hamp": "https://evil.example"}}
    (tmp_path / page.JSON).write_text(json.dumps(said))
    found = papers(tmp_path)
    assert found["selena"] == (plain(said["papers"]["selena"]), "https://arxiv.org/abs/2110.08324")
    assert found["hamp"].address == ""


def test_notes_are_of_the_protocol_and_the_cards() -> None:
    found = page.Notes.of(definitions.load("digits-v2"), [])
    assert found.about.startswith("All attacks and defenses on scikit-learn") and found.leaves_out and not found.papers
    assert page.Notes.of(None, []) == page.Notes()


# --- In a browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages on disk: of a full board, of one with hostile texts, and of one without a ranked defense."""
    folder = tmp_path_factory.mktemp("site")
    results, board = make_board()
    publish(results, board, folder / "full", NOTES)
    publish(hostile(results), board, folder / "hostile", NOTES)
    publish([r for r in results if r.attack != "loss"], board, folder / "empty", NOTES)
    return folder


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(screenshots.chromium() is None, reason="no Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["full", "hostile", "empty"])
def test_a_browser_draws_the_file(chromium: Chromium, site: Path, name: str, scheme: str) -> None:
    """From file://, wide and narrow: nothing is wider than the window, nothing is fetched, axe-core finds nothing."""
    from tests.leaderboard.test_accessibility import violations

    shown = chromium.new_page(viewport={"width": 1280, "height": 1000}, color_scheme=scheme)  # type: ignore[arg-type]
    asked: list[str] = []
    errors: list[str] = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    address = (site / name / page.PAGE).as_uri()
    shown.goto(address)
    for width in (1280, 400):
        shown.set_viewport_size({"width": width, "height": 1000})
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        dots = shown.locator(".lb-dot")
        assert dots.count() == {"full": 7, "hostile": 8, "empty": 0}[name]
        for i in range(dots.count()):
            box, plot = dots.nth(i).bounding_box(), dots.nth(i).locator("..").bounding_box()
            assert box and plot and plot["x"] <= box["x"] + box["width"] / 2 <= plot["x"] + plot["width"]
            assert plot["width"] > 150
        assert not (found := violations(shown)), "\n".join(found)
    shown.close()
    assert asked == [address] and not errors
