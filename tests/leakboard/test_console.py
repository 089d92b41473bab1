"""How the command behaves in a terminal, in a pipe and in a script: options, JSON, widths, encodings, progress, places."""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmark import __version__, protocol
from benchmark.run.plan import AnswersJob, Job, NetworksJob, Plan, ScenarioJob
from benchmark.run.progress import Progress, sort_of
from leaderboard.publish import load
from leaderboard.publish import publish as write
from leaderboard.ranking import Board, attack_table, defense_table, rank_interval
from leakboard import console
from leakboard.tables import number
from tests.conftest import ROOT, SUBMISSIONS, Ended, Home

PUBLISHED = ROOT / "leaderboard" / "published"


def leakboard(home: Home, *arguments: str, **changes: str) -> Ended:
    """The command in a process of its own, with these variables."""
    command = [sys.executable, "-m", "leakboard", *arguments]
    done = subprocess.run(command, cwd=home.folder, env=os.environ | changes, capture_output=True, check=False)
    encoding = changes.get("PYTHONIOENCODING", "utf-8")
    return Ended(done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding))


# --- Options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "-h"], ["-h"], []])
def test_help_and_version_import_nothing_heavy(home: Home, arguments: list[str]) -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'mlflow', 'optuna', 'streamlit', 'sqlalchemy'} & {*sys.modules}"
    code = f"import sys\nfrom leakboard.cli import main\ntry: main()\nexcept SystemExit as e: assert not e.code\nassert not {heavy}"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        (f"leakboard {__version__}\n" == done.stdout)
        if arguments == ["--version"]
        else ("Usage: leakboard" in done.stdout)
    )


@pytest.mark.parametrize(
    ("words", "found"),
    [("run lo", {"loss"}), ("run undefended+lo", {"undefended+loss"}), ("run --protocol smo", {"smoke", "smoke-noise", "smoke-two", "smoke-hundred"}), ("publ", {"publish"})],
)  # fmt: skip
def test_a_shell_completes_names_without_torch(home: Home, words: str, found: set[str]) -> None:
    environment = os.environ | {
        "_LEAKBOARD_COMPLETE": "complete_bash", "COMP_WORDS": f"leakboard {words}", "COMP_CWORD": str(len(words.split())),
        "PYTHONPROFILEIMPORTTIME": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "leakboard"], env=environment, capture_output=True, text=True, check=False
    )
    got = set(done.stdout.split())
    assert got and got <= found | {p.stem for p in protocol.FOLDER.glob("smo*")}
    assert not re.search(r"\| +torch\n", done.stderr)


def test_quiet_leaves_results_and_errors(scored: Home) -> None:
    for arguments in (["-q", "run", "-p", "smoke"], ["run", "-p", "smoke", "--quiet"]):
        ended = scored.call(*arguments)
        assert ended.code == 0 and ended.err == ""
        assert "undefended" in ended.out and "next:" not in ended.out and "to score" not in ended.out
    ended = scored.call("run", "los", "-p", "smoke", "-q")
    assert "did you mean 'loss'" in ended.err


@pytest.fixture
def elsewhere(home: Home, smoke_store: Path) -> Home:
    """Nothing is named by the environment; the project is a folder with a space and an accent, begun from below it."""
    for name in ("STORE", "SUBMISSIONS", "PUBLISHED"):
        home.patch.setenv(f"LEAKBOARD_{name}", "")
    root = home.folder / "my própject"
    (root / "below" / "it").mkdir(parents=True)
    shutil.copytree(smoke_store, root / "mlruns" / "store")
    home.patch.chdir(root / "below" / "it")
    return home


def test_commands_work_from_below_a_project_and_say_which(elsewhere: Home, inline: None) -> None:
    root = elsewhere.folder / "my própject"
    ended = elsewhere.call("new", "attack", "mine")
    assert ended.code == 0 and (root / "submissions" / "attacks" / "mine.py").is_file()
    ended = elsewhere.call("run", "--protocol", "smoke")
    assert ended.code == 0, ended
    assert "0 to score" in ended.out or "0 scenarios to score, 3 stored" in ended.out
    assert f"project {root}, the nearest folder from here upwards with " in ended.out
    assert elsewhere.call("publish", "--protocol", "smoke").code == 0
    assert (root / "leaderboard" / "published" / "smoke" / "scenarios.parquet").is_file()
    found = json.loads(elsewhere.call("list", "--json").out)
    assert found["project"]["folder"] == str(root)
    assert {e["id"]: e["from"] for e in found["entries"]}.items() >= {("mine", "own"), ("lira", "baseline")}
    error = elsewhere.call("run", "los", "--protocol", "smoke").err
    assert "did you mean 'loss'" in error and f"project {root}" in error and error.count("\n") == 1
    elsewhere.patch.chdir(elsewhere.folder)
    ended = elsewhere.call("publish", "-p", "smoke", "--project", "my própject")
    assert ended.code == 0 and ended.out.endswith("next: leakboard --project 'my própject' board\n")
    assert "--project (or LEAKBOARD_PROJECT): expected a folder" in elsewhere.call("list", "--project", "none").err


def test_an_empty_folder_has_the_baselines_and_the_published_boards(
    elsewhere: Home, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere.patch.chdir(tmp_path_factory.mktemp("empty"))
    found = json.loads(elsewhere.call("list", "--json").out)["entries"]
    assert {e["from"] for e in found} == {"baseline"} and {e["id"] for e in found} >= {"loss", "dp_sgd"}
    assert elsewhere.call("run", "loss", "-p", "smoke", "--dry-run").code == 0
    assert [*Path.cwd().iterdir()] == [], "a look writes nothing"
    step = elsewhere.call("new", "defense", "mine").out.splitlines()[-1]
    assert step == "next: leakboard check submissions/defenses/mine.py"
    assert elsewhere.call("new", "defense", "dp_sgd").code == 2, "a baseline has that name"


# --- JSON -------------------------------------------------------------------------------------------


def only_json(ended: Ended) -> Any:
    """stdout, read as strictly as JSON can be."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert ended.out.isascii()
    return json.loads(ended.out, parse_constant=refuse)


def test_every_table_and_plan_is_there_as_json(scored: Home) -> None:
    plan = only_json(scored.call("run", "-p", "smoke", "--dry-run", "--json"))
    assert (plan["scenarios"], plan["scenarios_stored"], plan["jobs"]) == (0, 3, {})
    assert {e["id"] for e in only_json(scored.call("list", "--json"))["entries"]} == {
        "loss",
        "random_scores",
        "undefended",
    }
    assert len(only_json(scored.call("run", "-p", "smoke", "--json"))) == 3
    made = only_json(scored.call("publish", "-p", "smoke", "--json"))
    assert (made["published"], made["trust"]) == (3, {"self-reported": 3})
    marked = only_json(scored.call("reproduce", "-p", "smoke", "--json"))
    assert (marked["rows"], marked["same_scoring"]) == (3, 3)
    path = only_json(scored.call("new", "attack", "mine", "--json"))["path"]
    bad = scored.attack("bad", "confidence * float('nan')")
    ended = scored.call("check", path, str(bad), "--json")
    checks = only_json(ended)["checks"]
    assert ended.code == 2 and {(Path(c["file"]).stem, c["ok"]) for c in checks} >= {("mine", True), ("bad", False)}
    (scored.submissions / "attacks" / "bad.py").unlink()
    found = only_json(scored.call("claims", "--json"))["claims"]
    assert {c["verdict"] for c in found} == {"not scored"} and found[0]["first"] is None


@pytest.mark.parametrize(
    "arguments",
    [["run", "los"], ["run", "--prot"], ["publish"], ["reproduce"], ["reproduce", "0123"], ["reproduce", "-p", "smok"],
     ["list", "--project", "/nowhere"], ["check", "none.py"], ["new", "attack", "loss"], ["tune", "los"], ["board"]],
)  # fmt: skip
def test_a_mistake_is_json_too(home: Home, arguments: list[str]) -> None:
    ended = home.call(*arguments, "--json")
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert f"error: {only_json(ended)['error']}\n" == ended.err


def test_what_code_prints_is_no_part_of_the_json(home: Home, smoke_store: Path) -> None:
    """Workers have this process's stdout; what is trusted runs in them."""
    shutil.copytree(smoke_store, home.store)
    home.attack("mine", "(print('from the submission', flush=True), confidence)[1]")
    ended = leakboard(home, "run", "mine", "-p", "smoke", "--trust", "--workers", "1", "--json")
    assert ended.code == 0, ended.err
    assert {r["attack"] for r in only_json(ended)} == {"", "mine"}
    assert "from the submission" in ended.err


def test_numbers_that_json_does_not_know_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    with console.json_alone(True):
        print("beside")
        console.answer({"a": [float("nan"), float("inf"), 1.5], "é": {1: -float("inf")}})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": [None, None, 1.5], "é": {"1": None}} and err == "beside\n"


# --- Tables -----------------------------------------------------------------------------------------


def words(text: str) -> set[str]:
    return {part for word in text.split() for part in console._parts(word)}


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("arguments", [["list"], ["claims"], ["run"]], ids=" ".join)
def test_tables_fit_and_break_no_word(
    home: Home, width: int, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    home.patch.setenv("LEAKBOARD_SUBMISSIONS", str(SUBMISSIONS))
    home.patch.setenv("LEAKBOARD_PUBLISHED", str(PUBLISHED))
    shown = []
    for columns in (str(width), "10000"):
        home.patch.setenv("COLUMNS", columns)
        if arguments == ["run"]:
            from leakboard.tables import print_tables

            rows = [r for r in load(PUBLISHED / "digits-v2") if r.task in ("utility", "membership")]
            print_tables(rows, Board(**protocol.load("digits-v2").board()), console.out)
            shown.append(capsys.readouterr().out)
        else:
            shown.append(home.call(*arguments).out)
    table = [
        line for line in shown[0].splitlines() if not line.startswith(("protocols", "families", "project", "next"))
    ]
    assert max(map(len, table)) <= width, max(table, key=len)
    assert "…" not in shown[0]
    assert words("\n".join(table)) - {"no", "room", "for:"} <= words(shown[1]) | {"certified", "acc.,", "acc."}
    if arguments == ["claims"]:
        assert "unresolved" in shown[0]


def test_a_pipe_is_as_wide_as_it_needs_and_columns_is_obeyed(home: Home) -> None:
    home.patch.delenv("COLUMNS")
    home.patch.setenv("LEAKBOARD_SUBMISSIONS", str(SUBMISSIONS))
    ended = home.call("list")
    line = next(line for line in ended.out.splitlines() if "dp_sgd" in line)
    assert len(ended.out.splitlines()) < 90 and len(line.rstrip()) > 80
    home.patch.setenv("COLUMNS", "80")
    assert len(home.call("list").out.splitlines()) > 80


@pytest.mark.parametrize(
    ("locale", "commands"),
    [({"PYTHONIOENCODING": "iso-8859-1"}, (["list"], ["run", "-p", "smoke"], ["claims"], ["run", "los–", "-p", "smoke"])),
     ({"LC_ALL": "C", "PYTHONUTF8": "0"}, (["list"], ["run", "los–", "-p", "smoke"]))],
    ids=["latin", "C"],
)  # fmt: skip
def test_a_terminal_that_cannot_show_everything_ends_nothing(
    home: Home, smoke_store: Path, locale: dict[str, str], commands: tuple[list[str], ...]
) -> None:
    shutil.copytree(smoke_store, home.store)
    path = home.attack("mine")
    path.write_text(path.read_text().replace('"Mine"', '"Mîne – ≥ 的"'), "utf-8")
    for arguments in commands:
        ended = leakboard(home, *arguments, **locale)
        assert ended.code == (2 if "los–" in arguments else 0), ended
        assert "Traceback" not in ended.err and "Leakboard itself" not in ended.err
        if arguments == ["list"]:
            assert re.search(r"M.ne - > \?", ended.out)
    assert only_json(leakboard(home, "list", "--json", **locale))["entries"][1]["title"] == "Mîne – ≥ 的"


# --- Ranks ------------------------------------------------------------------------------------------


def test_ranks_are_those_of_the_board_after_publishing(scored: Home) -> None:
    """Joined with what others published of this version and split; the command's own rows win."""
    folder, board = scored.folder / "published" / "smoke", Board(**protocol.load("smoke").board())
    assert scored.call("publish", "--protocol", "smoke").code == 0
    rows = load(folder)
    base = next(r for r in rows if r.attack == "loss")
    others = {f"theirs{i}": 0.5 + i / 20 for i in range(9)}
    made = [
        base.model_copy(
            update={"attack": name, "key": f"{i}" * 40, "metrics": base.metrics | {"auc": auc}, "intervals": {}}
        )
        for i, (name, auc) in enumerate(others.items())
    ]
    write([*rows, *made, base.model_copy(update={"attack": "mine", "key": "f" * 40, "metrics": base.metrics | {"auc": 0.99}})], board, folder)  # fmt: skip
    scored.attack("mine")
    shown = scored.call("run", "mine", "--protocol", "smoke").out
    assert "published ones" in shown.splitlines()[1] and "0.990" not in shown
    assert scored.call("publish", "--protocol", "smoke").code == 0
    attacks, defenses = attack_table(load(folder), board), defense_table(load(folder), board)
    for table, name in ((attacks, "attack"), (defenses, "defense")):
        for row, rank in zip(table.to_dict("records"), rank_interval(table), strict=True):
            if rank:
                line = next(li for li in shown.splitlines() if re.match(rf" *{rank} +{re.escape(row[name])} ", li))
                assert number(row, "auc" if name == "attack" else "worst_auc").split()[0] in line
    assert "over 1 required attack" in " ".join(shown.split()) and defenses.attrs["pool"] == ["loss"]
    assert int(attacks[attacks.attack == "mine"]["rank"].iloc[0]) > 1


def test_no_rank_where_rows_are_too_few(scored: Home) -> None:
    """Of a protocol that nobody published: neither with some of its entries alone nor with some of its seeds."""
    own = scored.protocol(name="own", attacks=["loss", "random_scores"], seeds=[0, 1], split=_two_seeds())
    ended = scored.call("run", "loss", "--protocol", own, "--seed", "0")
    assert ended.code == 0, ended
    assert "seed 0 alone, no ranks: they need the protocol's other seeds too" in " ".join(ended.out.split())
    assert not re.search(r"^ *1 +loss +", ended.out, re.M) and re.search(r"^ +loss +", ended.out, re.M)
    ended = scored.call("run", "loss", "--protocol", own)
    assert "no ranks: they need the rows of random_scores, by leakboard run" in " ".join(ended.out.split())
    assert not re.search(r"^ *1 +loss +", ended.out, re.M)
    assert re.search(r"^ *1 +loss", scored.call("run", "--protocol", own).out, re.M), "all of it is there"


def _two_seeds() -> dict[str, Any]:
    from benchmark import data
    from benchmark.data.splits import indices_digest, split

    chosen = protocol.load("smoke").split
    digests = {n: indices_digest(split(chosen.scheme, 1797, n, chosen.size)) for n in (0, 1)}
    assert len(data.load("digits")) == 1797
    return chosen.model_dump(mode="json") | {"digests": digests}


# --- Progress ---------------------------------------------------------------------------------------


def simulated(workers: int, before: bool) -> tuple[float, list[tuple[float, float]]]:
    """The end, and what was said to be left at each moment, of a run of three seeds, six defenses and twelve attacks."""
    rng = random.Random(0)
    cost = {"plain": 1.0, "smooth": 1.2, "adv": 4.0, "dp": 12.0, "ensemble": 9.0, "guarded": 2.0}
    attacks = {f"a{i}": 0.05 * 1.8**i for i in range(12)}
    jobs: dict[str, Job] = {}
    seconds: dict[str, float] = {}

    def add(job: Job, typical: float) -> None:
        jobs[job.id], seconds[job.id] = job, typical * rng.lognormvariate(0, 0.3)

    for seed in range(3):
        for defense, factor in cost.items():
            name = f"{defense} {seed}"
            models = (("target", 0), ("shadow", 0))
            add(NetworksJob(id=f"n {name}", defense=defense, seed=seed, models=models), 2 * factor)
            networks = frozenset({f"n {name}"})
            asked = AnswersJob(
                id=f"q {name}",
                defense=defense,
                seed=seed,
                prepared=("target", 0),
                parts=(),
                models=models[:1],
                needs=networks,
            )
            add(asked, 0.3)
            for attack, typical in attacks.items():
                slow = 3 if defense == "guarded" else 1
                job_id, needs = f"{attack} {name}", frozenset({f"q {name}"})
                add(ScenarioJob(id=job_id, defense=defense, seed=seed, attack=attack, needs=needs), typical * slow)
    known = [(sort_of("networks", d), 1.0, f) for d, f in cost.items()] if before else []
    progress = Progress(Plan(jobs=dict(jobs)), workers, known)
    assert (progress.seconds_left > 0) is before
    waiting, running, now, said = dict(jobs), list[tuple[float, str]](), 0.0, []
    while waiting or running:
        held = waiting.keys() | {i for _, i in running}
        for job in [j for j in waiting.values() if not j.needs & held][: workers - len(running)]:
            heapq.heappush(running, (now + seconds[job.id], waiting.pop(job.id).id))
        now, ended = heapq.heappop(running)
        progress.advance(jobs[ended], seconds[ended])
        said.append((now, progress.seconds_left))
    return now, said


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("before", [False, True])
def test_time_left_is_near_and_does_not_swing(workers: int, before: bool) -> None:
    end, said = simulated(workers, before)
    ends = [(now, now + left) for now, left in said]
    assert all(0.45 <= guess / end <= 1.2 for now, guess in ends if now > 0.1 * end), ends
    steps = [abs(b - a) / end for (now, a), (_, b) in itertools.pairwise(ends) if now > 0.05 * end]
    assert max(steps) < 0.1
    assert said[-1][1] == 0


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])

    def slow(n: int, seconds: float) -> Any:
        for i in range(n):
            yield i
            now[0] += seconds

    assert list(console.track(slow(5, 0.3), "rows", 5)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""
    assert list(console.track(slow(5, 6.0), "rows", 5)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err.splitlines() == ["rows: 2/5, 0:18 left", "rows: 4/5, 0:06 left"]


# --- What listens -----------------------------------------------------------------------------------


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("command", ["board", "ui"])
def test_what_is_started_listens_on_loopback_alone(home: Home, command: str) -> None:
    found = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    outer = next((a for a in found if ":" not in a and not a.startswith("127.")), None)
    if outer is None:
        pytest.skip("this machine has no address but loopback")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = home.start(command, "--port", str(port))
    try:
        assert process.stdout is not None
        assert f"http://127.0.0.1:{port} " in process.stdout.readline()
        for _ in range(1800):
            if _answers("127.0.0.1", port):
                break
            time.sleep(0.1)
        assert _answers("127.0.0.1", port)
        assert not _answers(outer, port)
        taken = home.call(command, "--port", str(port))
        assert taken.code == 2 and f"--port {port}: expected an address of this machine and a free port" in taken.err
    finally:
        os.killpg(process.pid, 9)
        process.communicate()


@pytest.mark.parametrize(("command", "flag"), [("board", "--server.address"), ("ui", "--host")])
def test_another_host_is_bound_and_named(home: Home, command: str, flag: str) -> None:
    seen: list[str] = []
    home.patch.setattr(os, "execv", lambda _, given: seen.extend(given))
    home.patch.setenv("LEAKBOARD_PUBLIC", "")
    ended = home.call(command, "--host", "0.0.0.0")
    assert ended.code == 0 and "http://0.0.0.0:" in ended.out
    assert seen[seen.index(flag) + 1] == "0.0.0.0"
    assert home.call(command, "--host", "203.0.113.7").code == 2, "no address of this machine"
