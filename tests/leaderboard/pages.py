"""One view alone, on a published folder of the test's own: AppTest does not follow `st.navigation`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from leaderboard import tables


def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """For a fixture: an empty published folder, a tree without submissions, a tracking store without a run."""
    monkeypatch.setenv("LEAKBOARD_PUBLISHED", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.delenv("LEAKBOARD_PUBLIC", raising=False)
    tables.source.cache_clear()
    st.cache_data.clear()
    yield tmp_path
    tables.source.cache_clear()


def page(view: str, protocol: str = "toy-v1", **query: str) -> AppTest:
    """The view, not yet run, with a protocol chosen and parameters in its address."""
    app = AppTest.from_function(_show, default_timeout=60, kwargs={"view": view, "protocol": protocol})
    for name, value in query.items():
        app.query_params[name] = value
    return app


def _show(view: str, protocol: str) -> None:
    import importlib

    import streamlit

    streamlit.session_state["protocol"] = protocol
    importlib.import_module(f"leaderboard.views.{view}").show()


def texts(app: AppTest) -> str:
    """All plain text of a page."""
    return "\n".join(str(e.value) for e in (*app.text, *app.title, *app.subheader))
