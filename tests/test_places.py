"""One rule finds the project, wherever a command is begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import places
from benchmark.errors import UserError

VARIABLES = (
    "LEAKBOARD_PROJECT", "LEAKBOARD_SUBMISSIONS", "LEAKBOARD_STORE", "LEAKBOARD_PUBLISHED", "LEAKBOARD_MODELS", "LEAKBOARD_NETWORKS",
    "MLFLOW_TRACKING_URI", "LEAKBOARD_OPTUNA",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("mark", places.MARKS)
def test_the_nearest_folder_upwards_is_the_project(mark, tmp_path, monkeypatch):
    root = tmp_path / "a b" / "é"
    (root / mark).mkdir(parents=True)
    (root / "x" / "y").mkdir(parents=True)
    monkeypatch.chdir(root / "x" / "y")
    assert places.project().root == root and mark in places.project().how
    assert places.store() == root / "mlruns" / "store"
    assert places.sqlite_file(places.tracking()) == root / "mlruns" / "mlflow.db"


def test_without_one_the_current_folder_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places.project().root == tmp_path and "this folder" in places.project().how
    assert places.submissions() == tmp_path / "submissions" and places.baselines() == places.PACKAGED / "submissions"


def test_one_that_is_named_is_the_one(tmp_path, monkeypatch):
    monkeypatch.setenv("LEAKBOARD_PROJECT", str(tmp_path))
    assert places.project().root == tmp_path and "named" in places.project().how
    monkeypatch.setenv("LEAKBOARD_PROJECT", str(tmp_path / "none"))
    with pytest.raises(UserError, match="--project"):
        places.project()


def test_in_a_checkout_the_baselines_are_the_projects_own(monkeypatch):
    monkeypatch.chdir(Path(__file__).parent)
    assert places.project().root == places.PACKAGED and places.baselines() is None
    assert places.boards() == [places.PACKAGED / "leaderboard" / "published"]


def test_a_board_of_ones_own_takes_the_packages_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places.board("digits-v2") == places.PACKAGED / "leaderboard" / "published" / "digits-v2"
    own = tmp_path / "leaderboard" / "published" / "digits-v2"
    own.mkdir(parents=True)
    assert places.board("digits-v2") == own and places.board("mine") == own.parent / "mine"


def test_writing_a_board_begins_with_what_comes_with_the_package(tmp_path, monkeypatch):
    """Else the rows and studies that the others have published would be gone."""
    monkeypatch.chdir(tmp_path)
    source = places.PACKAGED / "leaderboard" / "published" / "digits-v2"
    own = places.own_board("digits-v2")
    assert own == places.board("digits-v2") == tmp_path / "leaderboard" / "published" / "digits-v2"
    assert {p.name: p.read_bytes() for p in own.iterdir()} == {p.name: p.read_bytes() for p in source.iterdir()}
    (own / "studies.json").write_text("mine")
    assert places.own_board("digits-v2") == own and (own / "studies.json").read_text() == "mine"
    assert places.own_board("mine") == own.parent / "mine" and [p.name for p in own.parent.iterdir()] == ["digits-v2"]


def test_nobody_else_lays_a_project_around_mine(tmp_path, monkeypatch):
    """As in /tmp, where any user may make a folder of that name."""
    (tmp_path / "submissions" / "attacks").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert places.project().root == tmp_path
    tmp_path.chmod(0o1777)
    assert places.project().root == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    assert places.project().root == tmp_path, "whoever works there has chosen it"


def test_a_folder_that_is_gone_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for where in (places.project, places.store, places.tracking):
        with pytest.raises(UserError, match="a current folder, given one that is gone"):
            where()


@pytest.mark.parametrize("variable", ["LEAKBOARD_STORE", "LEAKBOARD_SUBMISSIONS", "LEAKBOARD_MODELS", "LEAKBOARD_PUBLISHED"])  # fmt: skip
def test_a_home_that_nobody_has_is_a_folder_of_that_name(variable, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "~nobody-has-it/x")
    found = {"STORE": places.store, "SUBMISSIONS": places.submissions, "MODELS": places.models, "PUBLISHED": places.published}  # fmt: skip
    assert found[variable.removeprefix("LEAKBOARD_")]() == tmp_path / "~nobody-has-it" / "x"


def test_a_lasting_name_survives_a_move(tmp_path, monkeypatch):
    names = []
    for folder in ("one", "two"):
        (tmp_path / folder / "mlruns" / "store").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / folder)
        names.append(places.lasting(places.tracking()))
        assert places.lasting("sqlite:///mlruns/mlflow.db") == names[-1]
    monkeypatch.chdir(tmp_path / "two" / "mlruns")
    assert {*names, places.lasting(places.tracking())} == {"sqlite:///mlruns/mlflow.db"}
    assert places.lasting("http://h:5000") == "http://h:5000"


def test_what_is_named_is_the_one_that_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("LEAKBOARD_SUBMISSIONS", str(tmp_path / "s"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://u:p@h/db")
    assert places.submissions() == tmp_path / "s" and places.baselines() is None
    assert places.tracking() == "postgresql://u:p@h/db"
    monkeypatch.setenv("LEAKBOARD_STORE", __file__)
    with pytest.raises(UserError, match="LEAKBOARD_STORE"):
        places.store()
