"""The secret: it moves every draw of an official run, and it is found nowhere afterwards."""

from __future__ import annotations

import base64
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmark import protocol
from benchmark.data import secret
from benchmark.data.population import Population, populate, seed_of
from benchmark.data.splits import indices_digest
from benchmark.errors import UserError
from benchmark.run.plan import scenario_key
from benchmark.run.work import Setting
from benchmark.sandbox.host import Launcher
from benchmark.targets.experiment import official_measures
from tests.conftest import SUBMISSIONS, Home, descendants

ONE, TWO = "correct horse battery staple", "another horse battery staple"
FILE = f"{secret.VARIABLE}_FILE"
SMOKE = protocol.load("smoke")


# --- Where it comes from ----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (secret.VARIABLE, FILE):
        monkeypatch.delenv(name, raising=False)
    secret.take.cache_clear()
    yield
    secret.take.cache_clear()


def test_there_is_none_unless_it_is_given() -> None:
    assert secret.take() is None


def test_it_leaves_the_environment_and_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(secret.VARIABLE, f"  {ONE}\n")
    assert secret.take() == ONE.encode()
    assert secret.VARIABLE not in os.environ
    assert secret.take() == ONE.encode()


def test_it_may_lie_in_a_file_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{ONE}\n")
    path.chmod(0o600)
    monkeypatch.setenv(FILE, str(path))
    assert secret.take() == ONE.encode()
    assert FILE not in os.environ


def test_it_may_be_any_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same ones in every locale."""
    given = bytes(range(128, 160))
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_bytes(given + b"\n")
    monkeypatch.setenv(FILE, str(path))
    assert secret.take() == given
    secret.take.cache_clear()
    monkeypatch.setenv(secret.VARIABLE, os.fsdecode(given))
    assert secret.take() == given


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_a_file_that_others_may_read_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_text(ONE)
    path.chmod(mode)
    monkeypatch.setenv(FILE, str(path))
    with pytest.raises(UserError, match=rf"alone may read \(0600\), given {mode:04o}; chmod 600") as error:
        secret.take()
    assert ONE not in str(error.value)


def test_what_is_no_secret_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    monkeypatch.setenv(FILE, str(path))
    with pytest.raises(UserError, match="a readable file with the secret: FileNotFoundError"):
        secret.take()
    path.write_text(ONE)
    path.chmod(0o600)
    monkeypatch.setenv(FILE, str(path))
    monkeypatch.setenv(secret.VARIABLE, ONE)
    with pytest.raises(UserError, match="given both") as error:
        secret.take()
    assert ONE not in str(error.value) and not {secret.VARIABLE, FILE} & os.environ.keys()
    for short in ("", "   ", "guessable"):
        monkeypatch.setenv(secret.VARIABLE, short)
        with pytest.raises(UserError, match=f"at least 16 bytes, given {len(short.strip())}; make one") as error:
            secret.take()
        assert "guessable" not in str(error.value)


# --- What it moves ----------------------------------------------------------------------------------


def draws(given: bytes | None) -> dict[str, object]:
    """Everything that a run draws, of one protocol and seed."""
    population = populate(SMOKE, 0, given)
    artifacts = Setting(SMOKE, SUBMISSIONS, Path("nowhere"), "cpu", secret=given).artifacts()
    training = artifacts.chain("undefended").training
    target, shadow = (artifacts.network(training, 0, role) for role in ("target", "shadow"))
    guarded = artifacts.chain("memguard")
    attack = artifacts.registry.attack("loss")
    return {
        "split": indices_digest(population.parts),
        "candidates": population.candidates.tobytes(),
        "known members": population.known()[0].tobytes(),
        "other targets": population.indices("target", 2).tobytes(),
        "offline reference models": population.indices("offline", 0).tobytes(),
        "seed of the target": target.training_of(training).seed,
        "seed of the shadow": shadow.training_of(training).seed,
        "noise of the target": artifacts.stamp(0, "target"),
        "noise of the shadow": artifacts.stamp(0, "shadow"),
        "networks": target.key,
        "guard": artifacts.served(guarded, 0).guards[0].key,
        "scenario": scenario_key(artifacts, attack, artifacts.chain("undefended"), 0),
        "guarded scenario": scenario_key(artifacts, attack, guarded, 0),
        "utility": scenario_key(artifacts, None, artifacts.chain("undefended"), 0),
        "board": artifacts.measures,
    }


def test_two_secrets_share_no_draw_with_each_other_or_the_public_one() -> None:
    public, one, two = (draws(s) for s in (None, ONE.encode(), TWO.encode()))
    for name, value in public.items():
        assert len({str(value), str(one[name]), str(two[name])}) == 3, name
    assert one == draws(ONE.encode()), "the same secret gives the same draws"


def test_without_a_secret_everything_is_as_it_is_pinned() -> None:
    assert draws(None)["split"] == SMOKE.split.digests[0]
    assert draws(None)["board"] == SMOKE.measures == official_measures(SMOKE, None)


def test_what_is_scored_stays_balanced_and_apart() -> None:
    population = populate(SMOKE, 0, ONE.encode())
    assert population.members.sum() * 2 == len(population.candidates)
    parts = np.concatenate(list(population.parts.values()))
    assert len(set(parts)) == len(parts)


def test_a_seed_with_a_secret_cannot_be_had_from_its_name() -> None:
    seeds = {seed_of("network", 0), seed_of("network", 0, secret=b""), seed_of("network", 0, secret=ONE.encode())}
    assert len(seeds) == 3 and all(0 <= s < 2**63 for s in seeds)


# --- Where it is not --------------------------------------------------------------------------------


def test_nothing_that_is_printed_shows_it() -> None:
    given = ONE.encode()
    setting = Setting(SMOKE, SUBMISSIONS, Path("nowhere"), "cpu", secret=given)
    artifacts = setting.artifacts()
    network = artifacts.network(artifacts.chain("undefended").training, 0)
    task = network.training_of(network.training)
    for shown in (artifacts, setting, artifacts.population(0), network, task, vars(artifacts)["_populations"]):
        assert ONE not in repr(shown)
    with pytest.raises(UserError) as error:
        populate(SMOKE, 7, given)
    assert ONE not in str(error.value)
    assert isinstance(artifacts.population(0), Population)


def forms(text: str) -> list[bytes]:
    """How bytes may be written down."""
    raw = text.encode()
    return [
        raw,
        raw.hex().encode(),
        base64.b64encode(raw)[:-4],
        repr(list(raw))[1:-1].encode(),
        text.encode("utf-16-le"),
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_leaves_it_nowhere(home: Home, launcher: Launcher) -> None:
    (home.submissions / "attacks" / "loss.py").unlink()
    home.attack("curious", "confidence * len(os.environ)")
    loaded = home.protocol(attacks=["random_scores", "curious"])
    home.patch.setenv(secret.VARIABLE, ONE)
    process = home.start("run", "--protocol", loaded, "--workers", "2", "--isolation", "always", "--json")
    own = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    commands = set()
    while process.poll() is None:
        for pid in descendants(process.pid):
            try:
                before = Path(f"/proc/{pid}/cmdline").read_bytes()
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if own not in (before, command):  # else it is the command itself, on the way to start another one
                commands.add(command[:200])
                found = [f for f in (*forms(ONE), secret.VARIABLE.encode()) if f in environment + command]
                assert not found, command
        time.sleep(0.05)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert any(b"spawn_main" in c for c in commands), "workers were looked at"
    assert any(c.startswith(b"bwrap") for c in commands), "and sandboxes"
    written = [p for p in home.folder.rglob("*") if p.is_file()]
    assert any(p.name == "mlflow.db" for p in written) and len(written) > 10
    for content in (out.encode(), err.encode(), *(p.read_bytes() for p in written)):
        assert not [f for f in forms(ONE) if f in content]
    rows = home.results()
    assert len(rows) == 3 and {r.trust for r in rows.values()} == {"official"}
    assert {r.protocol_digest for r in rows.values()} == {official_measures(protocol.load(loaded), ONE.encode())}
    public = indices_digest(populate(SMOKE, 0).parts)[:16]
    assert all(r.provenance["split"] != public for r in rows.values())
