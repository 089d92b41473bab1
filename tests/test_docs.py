"""The documentation: it builds without a warning, its links lead somewhere, and it says what the tree says."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import grimp
import numpy as np
import pytest

from benchmark import networks, protocol
from benchmark.metrics import METRICS
from benchmark.result import Status
from benchmark.run.audit import canaries, epsilon, predicted, question, report
from benchmark.run.audit.canary_report import down
from benchmark.run.audit.predictions import predictions
from docs import notebook, pages, rooms
from leakboard import audits
from leakboard import canaries as canary_commands

ROOT = Path(__file__).resolve().parent.parent
BASE = "http://site/"


class _Page(HTMLParser):
    """The anchors of a page, what it links to, and what it has a browser fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(found["href"])
        elif "src" in found:
            self.fetched.append(found["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A warning of MkDocs, such as a link that leads nowhere, ends the build."""
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def html(site: Path) -> dict[str, _Page]:
    """The pages of the site by their addresses."""
    found = sorted(p for p in site.rglob("*.html") if p.name != "404.html")
    names = {p: p.relative_to(site).as_posix().removesuffix("index.html") for p in found}
    return {urljoin(BASE, name): _Page(path.read_text("utf-8")) for path, name in names.items()}


def test_every_link_leads_somewhere(site: Path, html: dict[str, _Page]) -> None:
    """Links that the code makes, too: MkDocs sees those of Markdown alone. What lies in the repository is looked up in the tree."""
    broken = []
    for address, page in html.items():
        for link in page.links:
            target, anchor = urldefrag(urljoin(address, link))
            if target.startswith(pages.source()):
                fine = (ROOT / unquote(target.removeprefix(pages.source()))).exists()
            elif not target.startswith(BASE):
                fine = urlsplit(target).scheme == "https"
            elif target in html:
                fine = not anchor or unquote(anchor) in html[target].ids
            else:
                fine = (site / unquote(target.removeprefix(BASE))).is_file()
            if not fine:
                broken.append(f"{address}: {link}")
    assert not broken


def test_nothing_is_fetched_from_elsewhere(site: Path, html: dict[str, _Page]) -> None:
    fetched = [urljoin(address, source) for address, page in html.items() for source in page.fetched]
    assert fetched
    assert not [source for source in fetched if not source.startswith((BASE, "data:"))]
    assert not [
        source for source in fetched if source.startswith(BASE) and not (site / source.removeprefix(BASE)).is_file()
    ]
    styles = [
        path for path in site.rglob("*.css") if re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text("utf-8"))
    ]
    assert not styles


def test_pages_that_are_made_from_the_code_hold_all_of_it(html: dict[str, _Page]) -> None:
    for entry in pages.registry().entries.values():
        assert entry.id in html[f"{BASE}methods/{entry.kind}s/"].ids
    assert {*protocol.names()} <= html[f"{BASE}protocols/"].ids
    assert all(f"`{name}`" in pages.metrics() for name in METRICS)
    assert all(f"| `{name}` |" in pages.networks() for name in networks.PACKAGED)


# --- Citations --------------------------------------------------------------------------------------


def test_citations_are_read_as_they_are_meant() -> None:
    text = "RULES 12, 14 to 16 and 26 bind here (METHODS C7), as (RULES 3,\n  second variant) has it; RULES 27, and 29: RULES = 5"
    assert [number for _, number in pages.cited(text)] == ["12", "14", "15", "16", "26", "C7", "3", "27", "29"]


def test_every_citation_is_explained(html: dict[str, _Page]) -> None:
    found = pages.citations()
    assert {kind for kind, _ in found} == {"RULES", "METHODS"}
    for (kind, number), files in found.items():
        page, _, anchor = pages.anchor(kind, number).partition("#")
        assert anchor in html[f"{BASE}{page.removesuffix('.md')}/"].ids, f"{kind} {number}, cited in {files[0]}"


def test_rules_and_notes_have_the_number_of_their_heading() -> None:
    for page, form in (("rules.md", "rule-{}"), ("methods/notes.md", "{}")):
        headings = re.findall(r"^## (\S+) .*\{ #(\S+) \}$", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE)
        assert headings
        assert [anchor for _, anchor in headings] == [form.format(number.lower()) for number, _ in headings]
        assert len({*headings}) == len(headings)


# --- Rooms ------------------------------------------------------------------------------------------


def test_every_room_has_its_words_and_no_other_has() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = text.partition("\n## The rooms\n")[2].partition("\n## ")[0]
    said = dict(re.findall(r"^### (\S+)\n\n(.+?)(?=\n\n###|\Z)", section, re.DOTALL | re.MULTILINE))
    assert sorted(said) == sorted(rooms.files())
    assert all(words.rstrip().endswith(".") for words in said.values())


def test_the_picture_shows_the_imports() -> None:
    """By grimp, which import-linter stands on: what can be reached by arrows is what can be reached by imports."""
    packages = ["benchmark", *(name for name in rooms.BESIDE if name != "submissions")]
    graph = grimp.build_graph(*packages, cache_dir=None)

    def room(module: str) -> str:
        first, *rest = module.split(".")
        return rest[0] if first == "benchmark" and rest else first

    used: rooms.Uses = {name: set() for name in rooms.files()}
    for module in graph.modules:
        if room(module) in used:
            used[room(module)] |= {room(m) for m in graph.find_modules_directly_imported_by(module)} & used.keys() - {
                room(module)
            }
    used["submissions"] = {"api"}
    drawn = rooms.draw(rooms.uses())
    assert sorted(re.findall(r"<text [^>]*>([^<]+)</text>", drawn)) == sorted(used)
    arrows: rooms.Uses = {name: set() for name in used}
    for one, other in re.findall(r'data-from="(\w+)" data-to="(\w+)"', drawn):
        arrows[one].add(other)
    assert rooms.reach(arrows) == rooms.reach(used)


def test_arrows_run_down_and_a_circle_is_an_error() -> None:
    floors = rooms.floors(rooms.uses())
    assert all(floors[one] > floors[other] for one, other in rooms.arrows(rooms.uses()))
    with pytest.raises(ValueError, match="a -> b -> a"):
        rooms.reach({"a": {"b"}, "b": {"a"}})
    assert rooms.arrows({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == [("a", "b"), ("b", "c")]


# --- What is said by hand ---------------------------------------------------------------------------


def test_every_field_of_a_protocol_has_its_words() -> None:
    words = pages.words_of_fields()
    assert not [name for name, text in words.items() if not text]
    said = pages.said_of_fields(ROOT / "benchmark" / "protocol.py")
    assert not [name for name in pages.FIELDS if name not in words or said.get(name)], (
        "no such field, or it has a docstring"
    )


def test_the_digests_to_pin_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "protocols.md").read_text("utf-8")
    found = re.search(r'```python title="digests.py"\n(.*?)```', text, re.DOTALL)
    assert found
    exec(found[1], {})
    lines = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    pinned = protocol.load("digits-v2")
    assert lines == {"data_digest": pinned.data_digest} | {str(s): pinned.split.digests[s] for s in range(5)}


def test_the_audit_page_does_what_it_says(tmp_path: Path) -> None:
    """Its files, its commands and its exit codes, as a reader copies them."""
    text = (ROOT / "docs" / "audit.md").read_text("utf-8")
    programs = dict(re.findall(r'```python title="(\S+)"\n(.*?)```', text, re.DOTALL))
    assert {*programs} == {"answers.py", "train.py", "network.py", "recipe.py", "audit.py"}
    for name, program in programs.items():
        (tmp_path / name).write_text(program, "utf-8")
    scripts = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert len(scripts) == 4
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"OMP_NUM_THREADS": "1"}  # two threads beside other tests are slower
    for line in [*"".join(scripts).splitlines(), "python network.py", "python audit.py"]:
        done = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-1]
    assert said.startswith("['passes'] [")
    for folder in ("audit", "model-audit", "audit-of-network", "recipe-audit", "audit-from-python"):
        assert {f"`{path.name}`" for path in (tmp_path / folder).iterdir()} == set(
            re.findall(r"^\| (`\w+\.\w+`) \|", text, re.MULTILINE)
        )


def _said(output: dict[str, Any]) -> tuple[str, list[float]]:
    """An output's text without its decimals, and these. Which of many near-equal attacks is the strongest is rounding."""
    text = re.sub(r"the attack \S+ reaches", "the attack reaches", " ".join(notebook.text_of(output).split()))
    return re.sub(r"\d+\.\d+", "#", text), [float(number) for number in re.findall(r"\d+\.\d+", text)]


@pytest.mark.slow
def test_the_notebook_shows_what_it_does() -> None:
    """In a fresh kernel: the same texts and pictures, and numbers that other processors may round otherwise."""
    before, after = json.loads(notebook.NOTEBOOK.read_text("utf-8")), notebook.run()
    assert [c["source"] for c in after["cells"]] == [c["source"] for c in before["cells"]]
    assert all(c["execution_count"] for c in before["cells"] if c["cell_type"] == "code"), "make notebook"
    for cell, again in zip(before["cells"], after["cells"], strict=True):
        shown, outputs = cell.get("outputs", []), again.get("outputs", [])
        assert [sorted(o.get("data", {o.get("name"): 0})) for o in outputs] == [
            sorted(o.get("data", {o.get("name"): 0})) for o in shown
        ]
        assert not [o for o in outputs if o.get("name") == "stderr"], "no warning"
        for one, other in zip(shown, outputs, strict=True):
            (words, numbers), (again_words, again_numbers) = _said(one), _said(other)
            assert again_words == words, "make notebook"
            assert again_numbers == pytest.approx(numbers, abs=0.1)


def test_the_page_on_canaries_does_what_it_says(tmp_path: Path) -> None:
    """The whole round on the digits: its commands and exit codes, its files, its bounds and its table."""
    text = (ROOT / "docs" / "canaries.md").read_text("utf-8")
    programs = dict(re.findall(r'```python title="(\S+)"\n(.*?)```', text, re.DOTALL))
    assert [*programs] == ["data.py", "train.py", "show.py"]
    for name, program in programs.items():
        (tmp_path / name).write_text(program, "utf-8")
    scripts = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in [*"".join(scripts).splitlines(), "python show.py"]:
        done = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == (canary_commands.REFUTED if "--claimed-epsilon" in line else 0), done.stderr
    assert done.stdout.startswith("refuted [('any mechanism', ")
    files = re.findall(r"^\| `(\w+\.\w+)` \|", text, re.MULTILINE)
    assert sorted(files) == sorted(path.name for path in (tmp_path / "planted").iterdir())
    assert f"| {canary_commands.REFUTED} | refuted" in text
    assert re.findall(r"^\| (\w+ \w+) \| .* \| .* \|$", text, re.MULTILINE) == [*canaries.ASSUMES]
    for m, r, *shown in re.findall(r"^\| ([\d,]+) \| ([\d,]+)[^|]* \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE):
        best = epsilon.Guesses(int(m.replace(",", "")), *(2 * [int(r.replace(",", ""))]))
        most = epsilon.any_mechanism(best, 1e-5), epsilon.gaussian_epsilon(epsilon.gaussian_mu(best), 1e-5)
        assert shown == [down(value) for value in most]


def test_the_audit_page_names_every_check_and_metric(site: Path) -> None:
    text = (ROOT / "docs" / "audit.md").read_text("utf-8")
    rng = np.random.default_rng(0)
    given = predictions(rng.dirichlet([1, 1], 60), rng.integers(0, 2, 60), np.arange(60) < 30, form="probabilities")
    names = [c.name for c in question.checks(given, 0, 0.01)]
    section = text.partition("## Checks of the question")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (\w.*?) \| ", section, re.MULTILINE) == ["check", *names]
    assert all(f"`{name}`" in text for name in predicted.METRIC_NAMES)
    assert all(f"| {code} |" in text for code in (audits.FAILS, audits.CANNOT_TELL))
    assert json.loads((site / "audit.schema.json").read_text("utf-8")) == report.schema()


def test_columns_pages_and_statuses_of_the_board_are_explained() -> None:
    text = (ROOT / "docs" / "board.md").read_text("utf-8")
    for path in sorted((ROOT / "leaderboard" / "published").glob("*/*.csv")):
        columns = next(csv.reader(path.open(encoding="utf-8")))
        unsaid = [c for c in columns if f"`{c}`" not in text and f"`{re.sub('_(low|high)$', '', c)}`" not in text]
        assert not unsaid, path
    assert all(f"| `{status}` |" in text for status in get_args(Status))
    titles = re.findall(
        r'^    \("\w+", "(.+?)", "\w+", ', (ROOT / "leaderboard" / "app.py").read_text("utf-8"), re.MULTILINE
    )
    assert titles
    assert re.findall(
        r"^\| (\w.*?) \| ", text.partition("## The pages of the app")[2].partition("\n## ")[0], re.MULTILINE
    ) == ["page", *titles]


def test_make_help_has_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = re.findall(r"^make (\w+) +\S", done.stdout, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert listed == re.findall(r"^(\w+):", makefile, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    assert sorted(listed) == sorted(phony[1].split())
    assert listed[0] == "quickstart", "what a bare `make` does"


def test_the_packages_say_that_they_are_typed() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    for package in ("benchmark", "leaderboard", "leakboard"):
        assert (ROOT / package / "py.typed").is_file()
        assert "py.typed" in data[package]
