"""Addresses are read by SQLAlchemy's rules and shown without a trace of a password."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from benchmark.addresses import checked, shown, sqlite_address, sqlite_file
from benchmark.errors import UserError

SECRETS = [
    "postgresql://judge:Tr0ub@dor77@127.0.0.1:1/db", "postgresql://judge:Tr0ub/dor77@127.0.0.1:1/db",
    "postgresql://judge:Tr0ub%40dor77@127.0.0.1:1/db", "postgresql://judge:Tr0ub?dor77@127.0.0.1:1/db",
    "postgresql+psycopg://judge@127.0.0.1/db?password=Tr0ubdor77", "http://judge:Tr0ubdor77@127.0.0.1:5000",
    "https://Tr0ubdor77@127.0.0.1", "http://127.0.0.1/?token=Tr0ub@dor77", "mysql://judge:Tr0ub#dor77@h/db",
    "postgresql://judge:Tr0ub:dor77@h/db", "postgresql:///db?user=judge&password=Tr0ub@dor77", "http://judge:Tr0ub[dor77@h",
    "postgresql://judge:Tr0ub'dor77@h/db", 'postgresql://judge:Tr0ub"dor77@h/db', "mysql://judge:Tr0ub<dor77@h/db",
    "postgresql://judge:Tr0ub dor77@h/db", "postgresql://judge:Tr0ub\ndor77@h/db", "postgresql://judge:Tr0ub\u00a0dor77@h/db",
    "postgresql://judge:Tr0ub\u2028dor77@h/db", "postgresql://judge@h/db?password=Tr0ub'dor77", "http://h/x;token=Tr0ubdor77",
    "sqlite+pysqlcipher://:Tr0ubdor77@/x.db", "sqlite:///a.db#key=Tr0ubdor77", "ünï://judge:Tr0ub@dor77@h/db",
    "postgresql://judge:@h/Tr0ub@dor77", "sqlite:///o.db?key=Tr0ubdor77",
]  # fmt: skip


@pytest.mark.parametrize("address", SECRETS)
@pytest.mark.parametrize("text", ["{}", "MLflow at {} did not answer", "({})", "'{}': refused", "{}, {}"])
def test_nothing_of_a_password_is_shown(address, text):
    found = shown(text.replace("{}", address))
    assert "Tr0ub" not in found and "dor77" not in found
    assert address.split("://")[0] in found


def test_what_is_no_secret_is_shown():
    assert (
        shown("at postgresql://judge:x@db.example:5432/mlflow.") == "at postgresql://judge:***@db.example:5432/mlflow."
    )
    assert shown("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    assert shown("sqlite:///mlruns/a b.db and no address") == "sqlite:///mlruns/a b.db and no address"
    assert shown("https://[::1]:80/x") == "https://[::1]:80/x"


def test_one_address_does_not_show_the_next():
    assert "Tr0ub" not in shown("from sqlite:///a.db to postgresql://judge:Tr0ub@h/db")
    assert "Tr0ub" not in shown("from http://h to postgresql://judge:Tr0ub dor77@h/db, and back")


ODD = [a for a in SECRETS if any(c in a for c in "'\"< \n;\u00a0\u2028") or a.startswith(("sqlite+", "ün"))]


@pytest.mark.parametrize(
    "address",
    [
        *ODD,
        SECRETS[0],
        SECRETS[1],
        SECRETS[3],
        "postgresql://u@h:1/db?password=Tr0ub@dor77",
        "no address",
        "postgresql://h:port/db",
    ],
)
def test_what_readers_read_differently_is_refused(address):
    with pytest.raises(UserError, match="VARIABLE: expected an address") as refused:
        checked("VARIABLE", address)
    assert "Tr0ub" not in str(refused.value) and "dor77" not in str(refused.value)


@pytest.mark.parametrize("address", [SECRETS[2], "http://h:5000", "sqlite:///o.db?timeout=60", "postgresql://h/db"])
def test_what_is_plain_stays_as_it_is(address):
    assert checked("VARIABLE", address) == address


def test_the_file_of_a_database():
    assert sqlite_file("sqlite:///o.db?timeout=60") == Path("o.db")
    assert sqlite_file("sqlite:////tmp/a%20b.db") == Path("/tmp/a b.db")
    assert sqlite_file("sqlite+pysqlite:////tmp/o.db") == Path("/tmp/o.db")
    assert sqlite_file("sqlite://") is None and sqlite_file("sqlite:///:memory:") is None
    assert sqlite_file("postgresql://h/db") is None
    assert sqlite_file("sqlite:///file:o%20b.db?uri=true&mode=ro") == Path("o b.db")
    assert sqlite_file("sqlite:////tmp/o.db?mode=rwc") == Path("/tmp/o.db")
    assert sqlite_file("sqlite:///file:x?mode=memory&cache=shared&uri=true") is None


@pytest.mark.parametrize("path", ["o.db", "/tmp/a b/é.db", "/tmp/50%/x?y#z.db", "/tmp/o@b.db"])
def test_an_address_leads_to_its_file(path):
    assert sqlite_file(sqlite_address(Path(path))) == Path(path)
    assert sqlite_address(Path(path), "sqlite:///x.db?timeout=60").endswith("?timeout=60")


@pytest.mark.parametrize(
    "path", ["/a/b.db", "a.db", "./x-1/y_2.db", "//twice//a.db", "/", "..", "/a/../b", "-", "a.b/"]
)
def test_a_plain_path_is_read_as_sqlalchemy_reads_it(path):
    url = make_url(f"sqlite:///{path}")
    assert sqlite_file(f"sqlite:///{path}") == Path(url.database)
    assert sqlite_address(Path(path)) == make_url("sqlite://").set(database=str(Path(path))).render_as_string()


def test_a_plain_address_needs_no_sqlalchemy(tmp_path):
    code = (
        "import sys; from benchmark import places; places.tracking(), places.optuna(); "
        "sys.exit('sqlalchemy' in sys.modules)"
    )
    # What an earlier test of this process left in the environment, MLflow's own setter among it, names other addresses.
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LEAKBOARD_", "MLFLOW_"))}
    plain["LEAKBOARD_PROJECT"] = str(tmp_path)  # where the tests lie may have a space, and such an address is not plain
    assert subprocess.run([sys.executable, "-c", code], env=plain, check=False).returncode == 0
