"""Both pages with made-up results, without any, and with a card that tries to be more than text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from benchmark.result import Result
from leaderboard import screenshots, tables
from leaderboard.publish import publish
from leaderboard.ranking import Board

APP = str(Path(tables.__file__).with_name("app.py"))
HOSTILE = "<script>alert(1)</script> **bold** [link](http://x)"
Toy = tuple[list[Result], Board]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty published folder, and a tracking store without a run."""
    monkeypatch.setenv("LEAKBOARD_PUBLISHED", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    tables.source.cache_clear()
    yield tmp_path
    tables.source.cache_clear()


def entry_page() -> None:
    """The entry page alone: AppTest does not follow `st.navigation`."""
    import streamlit

    from leaderboard.views import entry

    streamlit.session_state["protocol"] = "toy-v1"
    entry.show()


def texts(app: AppTest) -> str:
    return "\n".join(str(e.value) for e in (*app.text, *app.title, *app.subheader, *app.metric))


def test_an_empty_board_says_what_to_run(folder: Path) -> None:
    app = AppTest.from_file(APP, default_timeout=30).run()
    assert not app.exception
    assert app.code[0].value == "leakboard run --protocol digits-v1"


def test_the_board_ranks_and_explains(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = AppTest.from_file(APP, default_timeout=30).run()
    assert not app.exception
    ranked, rest = (element.value for element in app.dataframe)
    assert list(ranked["defense"])[:2] == ["dp_sgd[noise=0.5]", "selena+diffence[n=10]"]
    assert ranked["interval"].iloc[0] == "1–2"
    assert list(rest["reason"]) == ["below the utility floor (0.10 < 0.59)", "lira missing (seed 2)"]
    assert "over 4 membership attacks" in texts(app)
    app.text_input(key="search").set_value("SELENA").run()
    assert list(app.dataframe[0].value["defense"]) == ["selena+diffence[n=10]", "selena"]


def test_attacks_by_task_and_track(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = AppTest.from_file(APP, default_timeout=30)
    app.query_params["show"] = "Attacks"
    app.run()
    assert not app.exception
    assert "random" in list(app.dataframe[0].value["attack"])
    assert list(app.dataframe[1].value["attack"]) == ["lira"]
    app.button_group(key="track").set_value(["posterior/shadow"]).run()
    assert list(app.dataframe[0].value["attack"]) == ["nn_sorted"]


def test_the_entry_page(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    app = AppTest.from_function(entry_page, default_timeout=30)
    app.query_params["entry"] = "selena"
    app.run()
    assert not app.exception
    assert app.metric[0].value == "2–3"
    assert "there is no submission of this name" in texts(app)
    table = app.dataframe[0].value
    assert set(table["defense"]) == {"selena"}
    assert len(table) == 3 * 9
    assert table["run"].dropna().str.startswith("http://127.0.0.1:5000/#/experiments/1/runs/").all()
    app.selectbox(key="entry").select("nn_sorted").run()
    assert not app.exception
    assert app.metric[3].value == "posterior/shadow"


def test_a_card_is_text(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    (folder / "submissions" / "defenses").mkdir(parents=True)
    source = f'"""{HOSTILE}"""\nfrom benchmark.api import Card, Defense\nclass D(Defense):\n    """{HOSTILE}"""\n'
    source += f'    card = Card({HOSTILE!r}, ("A. Author",), "ref", 2020)\n    stages = ("training",)\n'
    (folder / "submissions" / "defenses" / "selena.py").write_text(source)
    app = AppTest.from_function(entry_page, default_timeout=30)
    app.query_params["entry"] = "selena"
    app.run()
    assert not app.exception
    assert not app.markdown
    assert any(e.value.startswith(HOSTILE) for e in app.text)
    assert "A. Author (2020)" in texts(app)


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


@pytest.mark.browser
@pytest.mark.skipif(screenshots.chromium() is None, reason="no Chromium")
def test_a_real_browser_draws_every_page(folder: Path, made_up: Toy) -> None:
    publish(*made_up, folder / "toy-v1")
    for path in screenshots.screenshots(folder / "pictures"):
        assert path.stat().st_size > 30_000
