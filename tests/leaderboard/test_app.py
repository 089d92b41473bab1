"""The app with made-up results: the board, an entry, editions and trust; a card that tries to be more than text."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from benchmark.result import Result
from leaderboard import page, screenshots, tables
from leaderboard.forest import QUESTION, Paper, forest, leader
from leaderboard.kinds import ANY, kind_table
from leaderboard.publish import edition_folder, load, publish
from leaderboard.ranking import Board, defense_table
from tests.conftest import SUBMISSIONS
from tests.leaderboard.conftest import APP, EVIL, OF_KINDS, app_page, hostile, hostile_audit, make_kinds, texts

HOSTILE = "<script>alert(1)</script> **bold** [link](http://x)"
Toy = tuple[list[Result], Board]


def test_an_empty_board_says_what_to_run(folder: Path) -> None:
    app = AppTest.from_file(APP, default_timeout=30).run()
    assert not app.exception
    assert app.code[0].value == "leakboard run --protocol digits-v2"
    assert not app.markdown, "no value of the script is drawn, least of all a database's address"


def test_the_board_ranks_and_explains(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = AppTest.from_file(APP, default_timeout=30).run()
    assert not app.exception
    ranked, rest = (element.value for element in app.dataframe)
    assert list(ranked["defense"])[:2] == ["dp_sgd", "selena+diffence"], "short"
    assert list(ranked["whole"])[:2] == ["dp_sgd[noise=0.5]", "selena+diffence[n=10]"]
    assert ranked["interval"].iloc[0] == "not above chance" and ranked["better_than"].iloc[0] >= 4
    coverage = dict(rest[["defense", "coverage"]].itertuples(index=False))
    assert coverage == {"constant": "18/18", "hamp": "17/18"}, "lira lacks one seed of hamp"
    assert list(rest["reason"]) == ["below the utility floor (0.10 < 0.59)", "lira missing (seed 2)"]
    assert "over the 4 membership attacks" in texts(app)
    app.text_input(key="search").set_value("SELENA").run()
    assert list(app.dataframe[0].value["whole"]) == ["selena+diffence[n=10]", "selena"]


@pytest.mark.parametrize(
    ("view", "show"), [("board", "defenses"), ("board", "attacks"), ("tradeoff", "show"), ("compare", "show")]
)
def test_no_two_columns_of_a_table_have_one_name(folder: Path, made_up: Toy, view: str, show: str) -> None:
    publish(*made_up, folder / "toy-v1")
    app = app_page(view, show).run()
    assert not app.exception and app.dataframe
    for table in app.dataframe:
        columns = json.loads(table.proto.columns)
        labels = [columns.get(name, {}).get("label") or name for name in table.proto.column_order]
        assert len(labels) == len(set(labels)), labels


def test_settings_fold_under_their_defense_until_they_are_asked_for(folder: Path, made_up: Toy) -> None:
    results, board = made_up
    tuned = [
        r.model_copy(update={"defense": f"selena[n={n}]", "key": f"{n} {r.key}"})
        for n in (1, 2) for r in results if r.defense == "selena"
    ]  # fmt: skip
    publish([*results, *tuned], board, folder / "toy-v1")
    app = AppTest.from_file(APP, default_timeout=30).run()
    assert not app.exception
    folded = app.dataframe[0].value.set_index("whole")
    assert "selena[n=1]" not in folded.index and folded.folded["selena"] == 2
    assert folded["rank"].max() == len(folded) + 2, "ranks count every setting"
    assert "<summary>2 more settings of selena</summary>" in app.get("html")[0].proto.body
    assert "selena[n=1]" not in app.get("html")[1].proto.body
    app.toggle(key="settings").set_value(True).run()
    assert {"selena", "selena[n=1]", "selena[n=2]"} <= set(app.dataframe[0].value.whole)
    assert "selena[n=1]" in app.get("html")[1].proto.body
    app.toggle(key="settings").set_value(False).run()
    app.text_input(key="search").set_value("n=2").run()
    assert list(app.dataframe[0].value.whole) == ["selena[n=2]"], "what is searched for is there"


def test_the_question_comes_first_then_who_leads_then_the_forest(folder: Path, made_up: Toy) -> None:
    results, board = made_up
    cited = page.Notes(papers={"selena": Paper("arXiv:2110.08324", "")})
    publish(results, board, folder / "toy-v1", cited)
    app = app_page("board", "defenses").run()
    assert not app.exception
    table = defense_table(load(folder / "toy-v1"), board)
    assert app.text[0].value == QUESTION
    drawn, pairs = app.get("html")
    assert "Row against column" in pairs.proto.body
    assert f'<p class="lb-lead">{leader(table, board.baseline)}</p>' in drawn.proto.body
    assert drawn.proto.body == forest(table, board.baseline, {"selena": Paper("arXiv:2110.08324", "https://arxiv.org/abs/2110.08324")}, board.required_defenses)  # fmt: skip
    app.text_input(key="search").set_value("nobody").run()
    assert app.get("html")[0].proto.body == drawn.proto.body, "what is searched is below"


def test_every_kind_of_attack_has_its_plot_its_columns_and_the_matrix(folder: Path) -> None:
    results, board = make_kinds()
    publish(results, board, folder / "toy-v1")
    table = kind_table(load(folder / "toy-v1"), board)
    app = app_page("board", "defenses").run()
    assert not app.exception
    plots = [h.proto.body for h in app.get("html")]
    assert 'aria-label="Ranked defenses"' in plots[0] and "white-box bypasses guards" in plots[0]
    assert "How each kind of attack does" in plots[1]
    shown = app.dataframe[0].value.set_index("whole")
    for kind in ("membership", *OF_KINDS, ANY):
        mine = table[table.kind == kind].set_index("defense")
        assert shown[f"excess_{kind}"]["selena"] == pytest.approx(100 * mine.excess["selena"])
        assert shown[f"excess_{kind}_ci"]["selena"].startswith(f"{100 * mine.excess_low['selena']:z.0f} – ")
    assert shown.excess_inversion_ci["undefended+memguard"] == "bypasses guards"
    assert shown.decided["undefended+memguard"].endswith(" (of 2)")
    app.button_group(key="kind").set_value("stealing").run()
    assert not app.exception and 'aria-label="Defenses against stealing"' in app.get("html")[0].proto.body


def test_a_board_of_one_kind_says_where_there_are_more(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = app_page("board", "defenses").run()
    assert not app.exception and "requires attacks of membership alone" in texts(app)
    assert "Worst TPR" in app.dataframe[0].proto.columns and "Worst of" not in app.dataframe[0].proto.columns


def test_attacks_by_task_and_track(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = app_page("board", "attacks").run()
    assert not app.exception
    ranked, rest, null = (list(element.value["attack"]) for element in app.dataframe)
    assert (rest, null) == (["lira"], ["random"]), "null rows at the foot"
    found = app.dataframe[0].value
    assert len(ranked) == 4 and list(found.auc) == sorted(found.auc, reverse=True), (
        "each its own track, the strongest first"
    )
    app.button_group(key="knowledge").set_value(["shadow"]).run()
    assert list(app.dataframe[0].value["attack"]) == ["nn_sorted"]
    app.button_group(key="knowledge").set_value([]).run()
    app.button_group(key="access").set_value(["label", "white-box"]).run()
    assert list(app.dataframe[0].value["attack"]) == ["gradient", "boundary"]
    app.button_group(key="task").set_value("attribute").run()
    assert "attribute_mlp" in list(app.dataframe[0].value["attack"])


def test_the_entry_page(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = app_page("entry", entry="selena").run()
    assert not app.exception
    assert app.metric[0].value == "2–3"
    assert "there is no submission of this name" in texts(app)
    table = app.dataframe[0].value
    assert set(table["defense"]) == {"selena"}
    assert len(table) == 3 * 9
    assert table["run"].dropna().str.startswith("http://127.0.0.1:5000/#/experiments/1/runs/").all()
    spread = [r.metrics["class_auc_sd"] for r in made_up[0] if (r.attack, r.defense) == ("loss", "selena")]
    assert f"Spread over classes (SD): {np.mean(spread):.3f}; classes drawn at random stay below 0.030" in texts(app)
    assert app.selectbox(key="classes").options == ["loss"]
    app.selectbox(key="entry").select("nn_sorted").run()
    assert not app.exception
    assert "Spread over classes" not in texts(app), "records without it"
    assert app.metric[3].value == "posterior/shadow"


def test_a_card_is_text(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    (folder / "submissions" / "defenses").mkdir(parents=True)
    source = f'"""{HOSTILE}"""\nfrom benchmark.api import Card, Defense\nclass D(Defense):\n    """{HOSTILE}"""\n'
    source += f'    card = Card({HOSTILE!r}, ("A. Author",), "ref", 2020)\n    stages = ("training",)\n'
    (folder / "submissions" / "defenses" / "selena.py").write_text(source)
    app = app_page("entry", entry="selena").run()
    assert not app.exception
    assert not app.markdown
    assert any(e.value.startswith(HOSTILE) for e in app.text)
    assert "A. Author (2020)" in texts(app)


def test_hyperparameters_cost_and_history_of_an_entry(
    folder: Path, made_up: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, board = made_up
    publish(results, board, folder / "toy-v1")
    (folder / "submissions" / "defenses").mkdir(parents=True)
    (folder / "submissions" / "defenses" / "dp_sgd.py").write_text(
        "from benchmark.api import Annotated, Card, Defense, Hyper, Search\n"
        "class D(Defense):\n"
        "    card = Card('T', ('A',), 'R', 2020)\n"
        "    stages = ('training',)\n"
        "    class Params(Hyper):\n"
        "        noise: Annotated[float, Search(0.1, 4, log=True)] = 1.0\n"
        "        clip: float = 2.0\n"
    )
    later = [r.model_copy(update={"protocol_digest": "d2", "finished": r.finished + 9}) for r in results]
    monkeypatch.setattr(tables, "_fetch", lambda *_: later)
    app = app_page("entry", entry="dp_sgd[noise=0.5]").run()
    assert not app.exception
    parameters, _, history = (element.value for element in app.dataframe)
    assert parameters.to_dict("records") == [
        {"name": "noise", "value": "0.5", "default": "1.0", "searched": "0.1 to 4, log"},
        {"name": "clip", "value": "2.0", "default": "2.0", "searched": ""},
    ]
    assert "Cost (medians): 95 seconds to train." in texts(app)
    assert list(history.edition) == ["public split, version d2", "public split, version d1"]
    assert list(history.scenarios) == [27, 27]
    assert list(history["rank"]) == ["chance", "chance"]


def test_an_attack_with_the_targets_guards_has_its_pages(
    folder: Path, made_up: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, board = made_up
    name = "nn_sorted[guards=target]"
    more = [
        r.model_copy(update={"attack": name, "key": r.key + "g", "knowledge": "shadow+guards"})
        for r in results
        if r.attack == "nn_sorted"
    ]
    publish([*results, *more], board, folder / "toy-v1")
    (folder / "submissions" / "attacks").mkdir(parents=True)
    (folder / "submissions" / "attacks" / "nn_sorted.py").write_text((SUBMISSIONS / "attacks/nn_sorted.py").read_text())
    app = app_page("entry", entry=name).run()
    assert not app.exception
    guards = next(row for row in app.dataframe[0].value.to_dict("records") if row["name"] == "guards")
    assert guards == {"name": "guards", "value": "target", "default": "the adversary's", "searched": ""}
    app = app_page("board", "attacks", search="guards=target").run()
    assert not app.exception
    assert list(app.dataframe[0].value["attack"]) == [name]


def test_two_editions_are_chosen_between(folder: Path, made_up: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    results, board = made_up
    publish(results, board, folder / "toy-v1")
    later = [
        r.model_copy(update={"protocol_digest": "d2", "finished": r.finished + 9})
        for r in results
        if r.defense != "selena"
    ]
    monkeypatch.setattr(tables, "_fetch", lambda *_: later)
    app = AppTest.from_file(APP, default_timeout=30).run()
    assert not app.exception
    assert "selena" not in list(app.dataframe[0].value["defense"])
    app.selectbox(key="edition").select("public split, version d1").run()
    assert "selena" in list(app.dataframe[0].value["defense"])


def test_trust_decides_what_is_ranked(folder: Path, made_up: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    results, board = made_up
    mixed = [r if r.defense == "selena" else r.model_copy(update={"trust": "reproduced"}) for r in results]
    publish(mixed, board, folder / "toy-v1")
    everything = AppTest.from_file(APP, default_timeout=30).run()
    assert not everything.exception
    trust = dict(everything.dataframe[0].value[["defense", "trust"]].itertuples(index=False))
    assert trust["selena"] == "self-reported"
    assert set(trust.values()) == {"self-reported", "reproduced"}
    linked = AppTest.from_file(APP, default_timeout=30)
    linked.query_params["trust"] = "reproduced"
    monkeypatch.setenv("LEAKBOARD_PUBLIC", "1")
    public = AppTest.from_file(APP, default_timeout=30)
    for app in (linked, public):
        app.run()
        assert not app.exception
        ranked, rest = (element.value for element in app.dataframe)
        assert set(ranked["trust"]) == {"reproduced"}
        assert dict(rest[["defense", "reason"]].itertuples(index=False))["selena"] == "only self-reported"
    assert "Nothing is ranked that" not in texts(public)
    public.button_group(key="trust").select("official").run()
    assert not public.exception
    assert f"0 of {len(results)} rows are at least official" in texts(public)
    assert public.code[0].value == "LEAKBOARD_SPLIT_SECRET_FILE=/path/to/secret leakboard run --protocol toy-v1"
    assert "selena" in list(public.dataframe[-1].value["defense"]), "what is not ranked stays below"
    public.button_group(key="trust").select("self-reported").run()
    assert "selena" in list(public.dataframe[0].value["defense"])


def test_what_was_not_isolated_says_so(folder: Path, made_up: Toy) -> None:
    results, board = made_up
    alone = [r.model_copy(update={"isolation": "trusted" if r.defense == "selena" else "bubblewrap"}) for r in results]
    publish(alone, board, folder / "toy-v1")
    app = AppTest.from_file(APP, default_timeout=30).run()
    cells = dict(app.dataframe[0].value[["defense", "isolation"]].itertuples(index=False))
    assert cells.pop("selena") == "NOT ISOLATED (--trust)"
    assert set(cells.values()) == {"bubblewrap"}
    page = app_page("entry", entry="selena").run()
    assert "Trust: self-reported. Where it ran: not isolated (--trust)." in texts(page)
    assert "NOT ISOLATED (--trust)" in set(page.dataframe[0].value["isolation"])


def test_who_leaves_members_alone_at_another_rate_is_flagged_and_ranked(folder: Path, made_up: Toy) -> None:
    results, board = made_up
    publish(results, board, folder / "toy-v1")
    assert "alone" not in AppTest.from_file(APP, default_timeout=30).run().dataframe[0].value
    tables.source.cache_clear()
    said = "members 0.02, non-members 0.91"
    rows = [
        r.model_copy(update={"claims": {"alone": said}}) if (r.task, r.defense) == ("utility", "selena") else r
        for r in results
    ]
    publish(rows, board, folder / "toy-v1")
    app = AppTest.from_file(APP, default_timeout=30).run()
    shown = app.dataframe[0].value
    assert dict(shown[["defense", "alone"]].itertuples(index=False))["selena"] == said, "beside its rank"
    assert "alone" not in app_page("board", "attacks").run().dataframe[0].value
    assert f"Flag: {said}" in texts(app_page("entry", entry="selena").run())
    assert f"Flag: {said}" not in texts(app_page("entry", entry="hamp").run())


def test_the_log_of_a_failure_can_be_read(folder: Path, made_up: Toy) -> None:
    results, board = made_up
    broken = {"status": "failed", "reason": "TypeError", "log": "Traceback\n  line\nTypeError: expected a Tensor"}
    results = [
        r.model_copy(update=broken) if (r.attack, r.defense, r.seed) == ("loss", "selena", 1) else r for r in results
    ]
    publish(results, board, folder / "toy-v1")
    app = app_page("entry", entry="selena").run()
    assert app.selectbox(key="log").options == ["loss on selena, seed 1: failed"]
    assert broken["log"] in [e.value for e in app.text]


def test_editions_never_meet_in_the_app(folder: Path, made_up: Toy) -> None:
    results, board = made_up
    official = [r.model_copy(update={"trust": "official", "protocol_digest": "s", "key": f"s{r.key}"}) for r in results]
    for rows in (results, official):
        publish(rows, board, edition_folder(rows, folder / "toy-v1"))
    for edition, level in (("public split, version d1", "self-reported"), ("official split, version s", "official")):
        app = AppTest.from_file(APP, default_timeout=30)
        app.query_params["edition"] = edition
        app.run()
        assert not app.exception
        assert {trust for element in app.dataframe for trust in element.value["trust"]} == {level}


@pytest.mark.browser
@pytest.mark.skipif(screenshots.chromium() is None, reason="no Chromium")
def test_a_browser_obeys_no_record(folder: Path, made_up: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Markup in any text of a record or an audit is drawn as text: no script, no picture, no link, no request to elsewhere."""
    from playwright.sync_api import sync_playwright

    results, board = made_up
    publish(hostile(results), board, folder / "toy-v1")
    (folder / "audit.json").write_text(hostile_audit().as_json(), "utf-8")
    monkeypatch.setenv("LEAKBOARD_AUDIT", str(folder))
    requests, dialogs = [], []
    name = quote(tables.source("toy-v1").results[-1].attack)
    with screenshots.app() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=screenshots.chromium(), args=screenshots.OFFLINE)
        page = browser.new_page(viewport={"width": 1400, "height": 2000})
        page.on("request", lambda request: requests.append(request.url))
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        others = (
            "compare",
            "papers",
            "reconstructions",
            "protocol",
            "submit",
            f"compare?first={name}",
            f"matrix?attack={name}",
        )
        for path in ("", "defenses", "attacks", "tradeoff", "risks", *others, f"entry?entry={name}"):
            page.goto(f"{address}/{path}")
            page.get_by_test_id("stHeading").first.wait_for(timeout=60_000)
            page.wait_for_selector('[data-test-script-state="notRunning"]', timeout=60_000)
            if not path:  # the audit
                page.get_by_text("The whole report").click()
            page.wait_for_timeout(1500)
            if not path:
                report = page.frame_locator("iframe")
                assert "alert(1)" in report.locator("body").inner_text() and report.locator("img, script").count() == 0
                assert page.locator(".lb-mine").count() == 1
            assert not page.get_by_test_id("stException").count()
            outside = "a[href*=evil]:not([href^='?'])"  # a link within the page may name an entry
            assert page.locator(f"img[src*=evil], img[src=x], {outside}, a[href^='javascript:'], .katex").count() == 0
            assert page.locator("script", has_text="alert").count() == 0
            if path == "attacks":
                shown = " ".join(page.get_by_test_id("stButtonGroup").all_inner_texts())
                end = EVIL[EVIL.index("[link=") : EVIL.index("\x1b")]  # long names are cut in their middle
                assert end in shown, "drawn as it is, where Streamlit would read Markdown"
        assert "What failed scenarios printed" in page.inner_text("body")
        browser.close()
    assert not dialogs
    assert {urlsplit(url).netloc for url in requests} <= {urlsplit(address).netloc, ""}, (
        "nothing is asked of anybody else"
    )


@pytest.mark.browser
@pytest.mark.skipif(screenshots.chromium() is None, reason="no Chromium")
def test_a_real_browser_draws_every_page(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    for path in screenshots.screenshots(folder / "pictures"):
        assert path.stat().st_size > 30_000


def test_data_and_network_narrow_the_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["digits-v2", "fashion-mini-v1", "fashion-attacks-v2", "gone-v1"]
    monkeypatch.setattr(tables, "protocols", lambda: names)
    assert tables.data_and_network("gone-v1") == ("", "")
    app = AppTest.from_file(APP, default_timeout=30).run()
    assert app.selectbox(key="protocol").options == names
    app.button_group(key="dataset").set_value(["fashion_mnist"]).run()
    assert not app.exception
    assert app.selectbox(key="protocol").options == names[1:3]
    linked = AppTest.from_file(APP, default_timeout=30)
    linked.query_params["dataset"] = "digits"
    linked.run()
    assert linked.selectbox(key="protocol").options == names[:1]
