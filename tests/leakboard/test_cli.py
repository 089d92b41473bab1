"""The command: what it prints, how it exits, and that a user's mistake is one line that says what to mend."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark import protocol
from benchmark.entries.registry import Registry
from benchmark.result import Result
from benchmark.run import checks, work
from benchmark.run.tracking import fetch_results
from benchmark.targets.store import Store
from leaderboard.publish import load
from leaderboard.publish import publish as write
from leaderboard.ranking import Board
from leakboard import cli, score
from tests.conftest import SUBMISSIONS, Ended, Home, save_unet
from tests.leaderboard.conftest import make_audit

SMOKE = yaml.safe_load((protocol.FOLDER / "smoke.yaml").read_text())


def mistake(ended: Ended) -> str:
    """The one line of a user's mistake."""
    assert ended.code == 2, ended
    assert ended.out == ""
    assert ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended.err
    return ended.err.removeprefix("error: ").strip()


# --- Mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "los"], "unknown entry 'los'; did you mean 'loss'?"),
        (["run", "loss[power=2]"], "loss: unknown hyperparameter 'power'"),
        (["run", "mine[powr=2]"], "mine: unknown hyperparameter 'powr'; did you mean 'power'?"),
        (["run", "mine[power=0]"], "mine: hyperparameter power: Input should be greater than 0, given 0"),
        (["run", "mine[power=10]"], "mine: hyperparameter power: Input should be less than or equal to 9, given 10"),
        (["run", "mine[power=high]"], "mine: hyperparameter power: Input should be a valid number"),
        (["run", "mine[power"], "'mine[power': expected NAME, NAME[parameter=value,...] or a cascade NAME+NAME"),
        (["run", "loss+mine"], "'loss': expected a defense, given an attack"),
        (["run", "--protocol", "smok"], "unknown protocol 'smok'; did you mean 'smoke'?"),
        (["run", "--protocol", "none.yaml"], "'none.yaml': expected a protocol's YAML file, given none"),
        (["run", "--protocol", "smoke", "--seed", "9"], "--seed: expected one of [0], given 9"),
        (["run", "--protocol", "smoke", "--device", "tpu"], "Value error, 'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["run", "--protocol", "smoke", "--workers", "0"], "--workers"),
        (["run", "--protocol", "smoke", "--workers", "many"], "--workers"),
        (["run", "--prot", "smoke"], "No such option: --prot"),
        (["runn"], "No such command 'runn'"),
        (["new", "atack", "mine2"], "Value error, 'atack' is not one of 'attack', 'defense', 'network'"),
        (["new", "attack", "Mine"], "name: expected a letter, then a-z, 0-9 and _, given 'Mine'"),
        (["new", "attack", "../mine"], "name: expected a letter, then a-z, 0-9 and _, given '../mine'"),
        (["new", "attack", "undefended"], "undefended.py: exists already; choose another name"),
        (["new", "attack", "loss"], "loss.py: exists already; choose another name"),
        (["new", "attack"], "Missing argument"),
        (["check", "none.py"], "none.py: expected a submission's Python file, given none"),
        (["publish", "--protocol", "smoke"], "smoke: nothing is scored yet; run: leakboard run --protocol smoke"),
        (["reproduce", "0123"], "run '0123': expected the id of a scenario's run"),
        (["reproduce"], "reproduce: expected the id of a run or --protocol NAME, given neither"),
        (["reproduce", "0123", "--protocol", "smoke"], "run '0123': expected the id of a scenario's run"),
        (["board", "--port", "99999999"], "'--port': Input should be less than or equal to 65535"),
        (["ui", "--port", "-5"], "'--port': Input should be greater than or equal to 1"),
        (["run", "selena[models=5,models=7]", "-p", "smoke"], "expected each parameter once, given 'models' twice"),
        (["reproduce", "--protocol", "smoke"], "published/smoke: expected a published board, given none; run: leakboard publish --protocol smoke"),
        (["reproduce", "--protocol", "smok"], "unknown protocol 'smok'; did you mean 'smoke'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(home: Home, inline: None, arguments: list[str], message: str) -> None:
    home.attack("mine")
    if arguments[0] == "run" and "--protocol" not in arguments:
        arguments = [*arguments, "--protocol", "smoke"]
    assert message in mistake(home.call(*arguments))
    assert not (home.store / "networks").exists(), "no work was started"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, "own.yaml: epochs: unknown field, given 3"),
        ({"architecture": "small_cn"}, "architecture: unknown architecture 'small_cn'; did you mean 'small_cnn'?"),
        ({"evaluator": "resnet1"}, "evaluator: unknown architecture 'resnet1'; did you mean 'resnet18'?"),
        ({"data_digest": "0" * 64}, f"smoke: data_digest: expected {'0' * 64}, given data digits with 4762797d5258adf159cb47b90648706ca1fdc489e3ad64710e18636c2f2db4db"),
        ({"split": SMOKE["split"] | {"digests": {0: "1" * 64}}}, f"split.digests.0: expected {'1' * 64}, given a split with"),
        ({"split": SMOKE["split"] | {"size": 300}}, "split: six-way parts of 1797 samples have 1 to 299 samples, not 300"),
        ({"seeds": [5]}, "seed: expected one of [0, 1], given 5"),
        ({"recipe": SMOKE["recipe"] | {"learning_rate": -1}}, "recipe.learning_rate: Input should be greater than 0, given -1"),
        ({"attacks": ["los"]}, "unknown attack 'los'; did you mean 'loss'?"),
        ({"dataset": "digit"}, "'digit'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_protocol_is_one_line(home: Home, changes: dict[str, Any], message: str) -> None:
    assert message in mistake(home.call("run", "--protocol", home.protocol(**changes)))


@pytest.mark.parametrize(
    ("model", "entry", "message"),
    [
        ({}, "diffence[external=none]", "models/none: expected a folder that save_pretrained of diffusers wrote, given none; known: tiny"),
        ({}, "diffence[external=.tiny]", "'.tiny': expected the name of a folder in "),
        ({}, "diffence[external=..]", "'diffence[external=..]': expected a number, given '..'"),
        ({}, "label_smoothing+diffence[external=tny]+memguard", "did you mean 'tiny'?"),
        ({"sample_size": 32}, "diffence[external=tiny]", "tiny/config.json: expected sample_size [8, 8], as the images have, given 32"),
        ({"in_channels": 3}, "diffence[external=tiny]", "tiny/config.json: expected in_channels 1, as the images have, given 3"),
        ({"class_embed_type": "timestep"}, "diffence[external=tiny]", "models/tiny: expected weights and a config.json of one unconditional"),
        ({}, "diffence[external=tiny,train_steps=9]", "expected its default 400 beside the pretrained model tiny"),
    ],
)  # fmt: skip
def test_a_pretrained_model_that_cannot_be_used_is_one_line(
    home: Home, inline: None, model: dict[str, Any], entry: str, message: str
) -> None:
    home.patch.setenv("LEAKBOARD_MODELS", str(home.folder / "models"))
    save_unet(home.folder / "models" / "tiny", **model)
    for name in ("diffence", "label_smoothing", "memguard"):
        shutil.copy(SUBMISSIONS / "defenses" / f"{name}.py", home.submissions / "defenses")
    assert message in mistake(home.call("run", entry, "--protocol", "smoke"))
    assert not (home.store / "networks").exists(), "no work was started"


@pytest.mark.parametrize("address", ["postgresql://user:pa55word@127.0.0.1:9/x", "http://user:pa55word@127.0.0.1:9"])
def test_a_tracking_server_that_is_dead_is_named_without_its_password(scored: Home, address: str) -> None:
    """It is not the run's id that is wrong; and nowhere is a password shown."""
    scored.patch.setenv("MLFLOW_TRACKING_URI", address)
    said = mistake(scored.call("reproduce", "0123"))
    assert said.startswith(f"MLflow at {address.replace('pa55word', '***')} did not answer: ")
    assert "MLFLOW_TRACKING_URI" in said and "pa55word" not in said
    ended = scored.call("run", "--protocol", "smoke")
    assert "did not answer" in ended.out and "user:***@127.0.0.1:9" in ended.out
    assert "pa55word" not in ended.out + ended.err
    scored.patch.setattr(os, "execv", lambda *_: None)
    ended = scored.call("ui")
    said = ended.out + ended.err
    assert "user:***@127.0.0.1:9" in said and "pa55word" not in said


def test_a_place_that_cannot_be_written_is_one_line(home: Home, inline: None) -> None:
    shutil.copy(SUBMISSIONS / "defenses" / "label_smoothing.py", home.submissions / "defenses")
    nowhere = "sqlite:////proc/nope/o.db"
    said = mistake(home.call("tune", "label_smoothing", "--protocol", "smoke", "--storage", nowhere))
    assert f"--storage: expected a database that Optuna can use, given {nowhere}: " in said
    (home.folder / "bare").mkdir()
    (home.folder / "bare" / "attacks").write_text("a file")
    home.patch.setenv("LEAKBOARD_SUBMISSIONS", str(home.folder / "bare"))
    said = mistake(home.call("new", "attack", "mine"))
    assert f"expected a folder {home.folder}/bare/attacks/ that can be written, given File exists" in said


def test_data_that_is_not_there_names_the_ways_to_get_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.data.sources import fashion_mnist

    def no_network(folder: Path) -> None:
        raise OSError("no network\nat all")

    for kind in ("attacks", "defenses"):
        shutil.copytree(SUBMISSIONS / kind, home.submissions / kind, dirs_exist_ok=True)
    (home.folder / "data").mkdir()
    monkeypatch.setenv("LEAKBOARD_DATA", str(home.folder / "data"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", home.folder / "debian")
    monkeypatch.setattr(fashion_mnist, "_download", no_network)
    getattr(__import__("benchmark.data", fromlist=["load"]).load, "cache_clear", lambda: None)()
    said = mistake(home.call("run", "--protocol", "fashion-mini-v1"))
    assert "apt install" in said
    assert str(home.folder / "data" / "fashion-mnist") in said
    assert "torchvision" in said and "no network at all" in said


def test_folders_that_are_none(home: Home) -> None:
    home.patch.setenv("LEAKBOARD_STORE", str(home.folder / "mlflow.db"))
    said = mistake(home.call("run", "--protocol", "smoke"))
    assert "LEAKBOARD_STORE: expected a folder, given the file" in said
    home.patch.setenv("LEAKBOARD_SUBMISSIONS", str(home.folder / "nowhere"))
    assert f"expected a folder {home.folder}/nowhere/ with attacks/ and defenses/" in mistake(home.call("list"))


BROKEN = {
    "torn": ("def f(:\n", "torn.py: line 1: syntax error"),
    "empty": ("", "empty.py: expected one class deriving from"),
    "twins": (None, "twins.py: expected one class deriving from"),
}


def test_broken_files_are_listed_and_harm_nobody(home: Home, smoke_store: Path, inline: None) -> None:
    shutil.copytree(smoke_store, home.store)
    for name, (text, _) in BROKEN.items():
        path = home.attack(name)
        path.write_text(path.read_text() + "\n\nclass Twin(Attack):\n    pass\n" if text is None else text)
    ended = home.call("list")
    assert ended.code == 0
    broken = [line for line in ended.out.splitlines() if line.startswith("broken")]
    assert len(broken) == 3
    for name, (_, message) in BROKEN.items():
        assert any(message in line for line in broken)
        assert message in mistake(home.call("run", name, "--protocol", "smoke"))
    assert any(line.split()[:2] == ["loss", "attack"] for line in ended.out.splitlines())
    for arguments in (["--protocol", "smoke"], ["loss", "--protocol", "smoke"]):
        assert home.call("run", *arguments).code == 0


def test_a_fault_of_the_judge_is_one_line_and_a_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a user's mistakes are shortened: a fault keeps its traceback, in a file, or with --debug where it happens."""
    fault = "database postgresql://u:pa55word@h/x"

    def broken() -> Path:
        raise ZeroDivisionError(fault)

    monkeypatch.setattr(cli, "submissions", broken)
    monkeypatch.setattr("tempfile.tempdir", str(home.folder))
    ended = home.call("run", "--protocol", "smoke")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert "error: a fault of Leakboard itself: ZeroDivisionError: database " in ended.err
    file = next(Path(word.rstrip(";")) for word in ended.err.split() if word.startswith(str(home.folder)))
    assert "in broken" in file.read_text() and "pa55word" not in file.read_text() + ended.err
    assert json.loads(home.call("run", "--json").out)["error"].startswith("a fault of Leakboard itself")
    with pytest.raises(ZeroDivisionError):
        home.call("run", "--debug")


def test_ctrl_c_in_this_process(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("leakboard.score.run", interrupt)
    ended = home.call("run", "--protocol", "smoke")
    assert (ended.code, ended.err) == (130, "interrupted; run the same command again to go on\n")


# --- What works -------------------------------------------------------------------------------------


def test_help_and_list(home: Home) -> None:
    for name in ("list", "new", "check", "run", "publish", "board", "ui", "reproduce"):
        ended = home.call(name, "--help")
        assert ended.code == 0
        assert f"{name} [OPTIONS]" in ended.out
    ended = home.call("list")
    assert "protocols: digits-robust-v2, digits-v2, fashion-attacks-v2, fashion-canaries-v1, " in ended.out
    assert ended.out.splitlines()[-1].startswith("next: ")
    assert ended.err == ""


def test_a_dry_run_does_nothing(home: Home) -> None:
    ended = home.call("run", "--protocol", "smoke", "--dry-run")
    assert ended.code == 0
    assert "smoke: 3 scenarios to score, 0 stored; 3 networks to train, 0 stored" in ended.out
    assert "jobs: 1 group of networks, 2 sets of answers, 3 scenarios" in ended.out
    assert not home.store.exists()


def test_the_next_command_can_be_copied(home: Home) -> None:
    """Brackets are neither Rich's markup nor the shell's pattern, and a long line stays one."""
    home.attack("mine")
    entries = ["mine[power=2]", "mine", "undefended[epochs=1,weight_decay=0.001]", "undefended[epochs=2]"]
    own = home.protocol(name="o" * 60)
    said = home.call("run", *entries, "--protocol", own, "--dry-run").out
    last = said.splitlines()[-1].removeprefix("next: ")
    assert shlex.split(last) == ["leakboard", "run", *entries, "--protocol", own]
    assert "'mine[power=2]'" in last


def test_a_network_is_counted_once_and_a_seed_scored_once(home: Home) -> None:
    shutil.copy(SUBMISSIONS / "defenses" / "label_smoothing.py", home.submissions / "defenses")
    said = [
        home.call("run", *entries, "--protocol", "smoke", "--dry-run").out
        for entries in (["label_smoothing"], ["loss", "label_smoothing"], ["label_smoothing", "--seed", "0", "--seed", "0"])
    ]  # fmt: skip
    assert all("6 scenarios to score, 0 stored; 6 networks to train, 0 stored" in s for s in said), said
    assert score.prepare([], "smoke", home.submissions, home.store, "cpu", [0, 0]).seeds == (0,)


def test_a_board_is_published_by_the_names_of_its_rows(scored: Home) -> None:
    """Whatever way the protocol's YAML writes a name."""
    own = scored.protocol(defenses=["undefended[]"], attacks=["loss", "random_scores"])
    assert scored.call("publish", "--protocol", own).code == 0
    settings = json.loads((scored.folder / "published" / "smoke" / "provenance.json").read_text())["board"]
    loaded, registry = protocol.load(own), Registry(scored.submissions)
    name = registry.chain(loaded.defenses[0], loaded.baseline).name
    assert name != loaded.defenses[0]
    assert settings["required_defenses"] == [name]
    assert asdict(score.board_of(loaded, registry))["required_attacks"] == ("loss", "random_scores")


def test_json_is_json_and_nothing_else(scored: Home) -> None:
    ended = scored.call("run", "--protocol", "smoke", "--json")
    assert ended.code == 0
    results = [Result.model_validate(r) for r in json.loads(ended.out)]
    assert {r.key for r in results} == {r.key for r in scored.results().values()}


@pytest.mark.parametrize("kind", ["attack", "defense"])
def test_a_new_submission_works_as_it_is(scored: Home, kind: str) -> None:
    ended = scored.call("new", kind, "mine")
    assert ended.code == 0
    assert f"next: leakboard check submissions/{kind}s/mine.py\n" in ended.out
    checked = scored.call("check", str(scored.submissions / f"{kind}s" / "mine.py"))
    assert checked.code == 0, checked.out
    assert "failed" not in checked.out and checked.out.count("ok") >= 4
    for spec in ("mine", {"attack": "mine[power=2]", "defense": "mine[temperature=2]"}[kind]):
        ended = scored.call("run", spec, "--protocol", "smoke")
        assert ended.code == 0, ended.err
        assert "0 trained" in ended.out
    results = scored.results()
    if kind == "attack":
        once, twice = results["mine on undefended, 0"], results["mine[power=2.0] on undefended, 0"]
        assert once.metrics["auc"] == twice.metrics["auc"], "a monotone change of scores changes no AUC"
        assert once.metrics["auc"] == results["loss on undefended, 0"].metrics["auc"]
    else:
        plain, warm = results[" on undefended, 0"], results[" on mine, 0"]
        assert plain.metrics["test_accuracy"] == warm.metrics["test_accuracy"], "a temperature changes no label"
        assert plain.metrics["ece"] != warm.metrics["ece"]


def test_a_failed_check_is_a_failure(scored: Home) -> None:
    path = scored.attack("mine", "confidence + int.from_bytes(os.urandom(1), 'big')")
    ended = scored.call("check", str(path))
    assert ended.code == 2
    assert "failed    mine: the same seed gives the same result" in ended.out
    assert "check(s) failed" in ended.err


def test_what_is_checked_elsewhere_is_told_where_it_goes(
    home: Home, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def passes(path: Path, *_: object) -> Iterator[checks.Check]:
        yield checks.Check("a rule", path.stem != "bad", log="" if path.stem != "bad" else "one\n\x1b[31mlast words")

    monkeypatch.setattr(checks, "check_file", passes)
    here, (there, loss, bad) = home.attack("here"), [home.folder / f"{n}.py" for n in ("there", "loss", "bad")]
    there.write_text("class Mine(Defense):")
    for path in (loss, bad):
        path.write_text("class Mine(Attack):")
    steps = f"cp {there} submissions/defenses/ && leakboard run here there --protocol digits-v2"
    assert home.call("check", str(here), str(there)).out.endswith(f"next: {steps}\n")
    steps = f"cp {loss} submissions/attacks/loss_2.py && leakboard run loss_2 --protocol digits-v2"
    assert f"next: {steps}" in home.call("check", str(loss)).out, "another file has its name"
    said = home.call("check", str(bad)).out
    assert "| one" in said and "last words" in said and "\x1b" not in said


def test_publish_writes_the_tables(scored: Home) -> None:
    ended = scored.call("publish", "--protocol", "smoke")
    assert ended.code == 0
    assert "published 3 results" in ended.out
    said = (scored.folder / "published" / "smoke" / "index.html").read_text("utf-8")
    assert protocol.load("smoke").about.split(".")[0] in said, "the protocol's own words"
    assert "Rethinking the Inception Architecture" in said or "The recipe of the protocol" in said, "and the cards'"


def test_publishing_keeps_what_others_scored(scored: Home) -> None:
    """Rows of this protocol version that the store lacks stay; `--replace` and another version are the ways to lose them."""
    folder, board = scored.folder / "published" / "smoke", Board(**protocol.load("smoke").board())
    assert "3 new or changed, 0 that were there" in scored.call("publish", "--protocol", "smoke").out
    more = [r.model_copy(update={"key": "0" * 40, "attack": "theirs"}) for r in published(scored) if r.attack == "loss"]
    write([*published(scored), *more], board, folder)
    said = scored.call("publish", "--protocol", "smoke").out
    assert "published 4 results" in said and "0 new or changed, 4 that were there" in said
    assert "theirs" in {r.attack for r in published(scored)}
    assert "published 3 results" in scored.call("publish", "--protocol", "smoke", "--replace").out
    write([r.model_copy(update={"protocol_digest": "old"}) for r in (*published(scored), *more)], board, folder)
    ended = scored.call("publish", "--protocol", "smoke")
    assert "given 4 published ones of another" in mistake(ended) and "a name of its own" in ended.err
    assert len(published(scored)) == 4, "nothing is overwritten"
    said = scored.call("publish", "--protocol", "smoke", "--replace").out
    assert "4 rows that were there are gone: they are of another version of the protocol" in said
    assert "published 3 results" in said and "3 new or changed, 0 that were there" in said
    (folder / "scenarios.parquet").write_bytes(b"half")
    said = scored.call("publish", "--protocol", "smoke").out
    assert "could not be read, so none of it stays" in said and "published 3 results" in said


def test_what_brackets_made_is_published_and_shown(scored: Home) -> None:
    """All that the store holds of the protocol under today's code, whatever the hyperparameters; and nothing else."""
    scored.patch.setenv("COLUMNS", "200")  # names are broken where a line ends
    path = scored.attack("mine")
    for spec in ("mine[power=2]", "undefended[epochs=1]"):
        assert scored.call("run", spec, "--protocol", "smoke").code == 0
    shown = scored.call("run", "--protocol", "smoke").out
    assert "mine[power=2.0]" in shown and "undefended[epochs=1]" in shown
    store, results = Store(scored.store), scored.results()
    store.save_result(results["loss on undefended, 0"].model_copy(update={"key": "0" * 40, "seed": 10_000}))
    store.save_result(results["loss on undefended, 0"].model_copy(update={"key": "1" * 40, "attack": "los s["}))
    for key, content in (("2" * 40, b"half"), ("3" * 40, store.path("result", results[" on undefended, 0"].key, ".json").read_bytes())):  # fmt: skip
        store.path("result", key, ".json").parent.mkdir(parents=True, exist_ok=True)
        store.path("result", key, ".json").write_bytes(content)
    assert scored.call("publish", "--protocol", "smoke").code == 0
    assert {r.key for r in published(scored)} == {r.key for r in results.values()}
    assert {r.attack for r in published(scored)} >= {"mine[power=2.0]"}
    assert {r.defense for r in published(scored)} == {"undefended", "undefended[epochs=1]"}
    scored.attack("mine", "-confidence")
    scored.call("publish", "--protocol", "smoke", "--replace")
    assert "mine[power=2.0]" not in {r.attack for r in published(scored)}, "it is of other code"
    path.unlink()
    assert scored.call("publish", "--protocol", "smoke", "--replace").code == 0


def test_reproduce_compares_every_number(scored: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scored.call("run", "--protocol", "smoke").code == 0
    run_id = next(r.provenance["run_id"] for r in fetch_results("smoke") if r.attack == "loss")
    ended = scored.call("reproduce", run_id)
    assert ended.code == 0, ended
    assert "reproduced: every number lies in its interval" in ended.out
    score = work._score

    def worse(*arguments: Any) -> Result:
        result = score(*arguments)
        return result.model_copy(update={"metrics": result.metrics | {"auc": 2.0}})

    monkeypatch.setattr(work, "_score", worse)
    ended = scored.call("reproduce", run_id)
    assert ended.code == 1
    assert "OUTSIDE" in ended.out and "1 number(s) outside" in ended.out


def rescore(home: Home, **changes: Any) -> None:
    """Another store with the same results, scored a minute later."""
    rows = home.results()
    home.patch.setenv("LEAKBOARD_STORE", str(home.folder / "elsewhere"))
    for row in rows.values():
        changed = changes if row.task == "utility" else {}
        Store(home.folder / "elsewhere").save_result(row.model_copy(update={"finished": row.finished + 60} | changed))


def published(home: Home) -> list[Result]:
    return load(home.folder / "published" / "smoke")


def test_a_second_scoring_marks_the_board_and_publishing_keeps_the_marks(scored: Home) -> None:
    assert "(3 self-reported)" in scored.call("publish", "--protocol", "smoke").out
    same = scored.call("reproduce", "--protocol", "smoke")
    assert same.code == 0, same
    assert "0 of 3 published rows compared" in same.out
    assert "3 rows were published from this very scoring" in same.out
    assert "next: LEAKBOARD_STORE=another/folder leakboard run --protocol smoke" in same.out
    assert {r.trust for r in published(scored)} == {"self-reported"}
    rescore(scored)
    ended = scored.call("reproduce", "--protocol", "smoke")
    assert ended.code == 0, ended
    assert "3 of 3 published rows compared" in ended.out and "3 agree, 0 differ" in ended.out
    assert "3 rows newly marked as reproduced" in ended.out
    assert ended.out.splitlines()[-1] == "next: leakboard board --public"
    assert {r.trust for r in published(scored)} == {"reproduced"}
    assert "0 rows newly marked" in scored.call("reproduce", "--protocol", "smoke").out
    scored.patch.setenv("LEAKBOARD_STORE", str(scored.store))
    assert "(3 reproduced)" in scored.call("publish", "--protocol", "smoke").out
    assert "trust" in (scored.folder / "published" / "smoke" / "defenses.csv").read_text().splitlines()[0]


def test_what_differs_is_printed_and_not_marked(scored: Home) -> None:
    scored.call("publish", "--protocol", "smoke")
    rescore(scored, metrics={"test_accuracy": 0.99})
    ended = scored.call("reproduce", "--protocol", "smoke")
    assert ended.code == 1
    assert "2 agree, 1 differ" in ended.out
    assert "differs: utility on undefended, seed 0: " in ended.out and "here 0.99" in ended.out
    assert {r.task: r.trust for r in published(scored)} == {"membership": "reproduced", "utility": "self-reported"}


def test_rows_without_a_counterpart_stay_and_a_key_is_no_path(scored: Home) -> None:
    scored.call("publish", "--protocol", "smoke")
    rows = published(scored)
    board = Board(**protocol.load("smoke").board())
    precious = scored.store / "precious.json"
    precious.write_text("no result")
    rows[0] = rows[0].model_copy(update={"key": "../../precious"})
    rows[1] = rows[1].model_copy(update={"key": "0" * 40, "defense": "\x1b[2J"})
    write(rows, board, scored.folder / "published" / "smoke")
    rescore(scored)
    shutil.copy(precious, scored.folder / "elsewhere" / "precious.json")
    ended = scored.call("reproduce", "--protocol", "smoke")
    assert ended.code == 0
    assert "2 rows have no counterpart" in ended.out and "1 rows newly marked" in ended.out
    assert sorted(r.trust for r in published(scored)) == ["reproduced", "self-reported", "self-reported"]
    assert (scored.folder / "elsewhere" / "precious.json").read_text() == "no result"


def test_a_run_that_was_reproduced_says_how_to_mark_a_board(scored: Home) -> None:
    assert scored.call("run", "--protocol", "smoke").code == 0
    run_id = next(r.provenance["run_id"] for r in fetch_results("smoke") if r.task == "utility")
    ended = scored.call("reproduce", run_id)
    assert ended.code == 0, ended
    assert "next: leakboard run --protocol smoke && leakboard reproduce --protocol smoke" in ended.out
    assert "equal" in ended.out and "inside" in ended.out


def test_a_protocol_from_a_file_is_named_by_its_file(scored: Home) -> None:
    own = scored.protocol(name="my-own")
    ended = scored.call("run", "--protocol", own)
    assert ended.code == 0, ended
    assert shlex.split(ended.out.splitlines()[-1])[:6] == ["next:", "leakboard", "publish", "--protocol", own, "&&"]
    assert scored.call("publish", "--protocol", own).code == 0
    run_id = next(r.provenance["run_id"] for r in fetch_results("my-own") if r.task == "utility")
    assert "unknown protocol 'my-own'" in mistake(scored.call("reproduce", run_id))
    ended = scored.call("reproduce", run_id, "--protocol", own)
    assert ended.code == 0, ended
    assert f"leakboard reproduce {shlex.join(['--protocol', own])}" in ended.out


def test_a_defense_that_was_tuned_says_so_though_it_was_scored_before(scored: Home) -> None:
    """RULES 27, and 29: so does a cascade of it; MLflow has one run of each, and it says so too."""
    for name in ("label_smoothing", "rounding"):
        shutil.copy(SUBMISSIONS / "defenses" / f"{name}.py", scored.submissions / "defenses")
    tuned = "label_smoothing[epsilon=0.6]"
    entries = [tuned, f"{tuned}+rounding", "label_smoothing[epsilon=0.5]"]
    assert scored.call("run", *entries, "--protocol", "smoke").code == 0
    assert not any("tuned" in r.claims for r in fetch_results("smoke"))
    mark = Store(scored.store).tuned_path("smoke", tuned)
    mark.parent.mkdir()
    mark.write_text("4 trials on other splits, against loss")
    ended = scored.call("run", *entries, "--protocol", "smoke", "--json")
    rows = json.loads(ended.out)
    assert {r["defense"] for r in rows if r["claims"].get("tuned")} == {tuned, f"{tuned}+rounding"}
    logged = fetch_results("smoke")
    assert len(logged) == len({r.key for r in logged})
    assert {r.defense for r in logged if r.claims.get("tuned")} == {tuned, f"{tuned}+rounding"}
    assert scored.call("publish", "--protocol", "smoke").code == 0
    assert {r.defense for r in published(scored) if r.claims.get("tuned")} == {tuned, f"{tuned}+rounding"}


def test_mlflow_s_page_needs_a_database(home: Home) -> None:
    home.patch.setenv("MLFLOW_TRACKING_URI", "foo://x")
    assert "expected a database or a server of MLflow, given foo://x" in mistake(home.call("ui"))


@pytest.mark.parametrize(("arguments", "variable"), [((), "0"), (("--public",), "1")])
def test_a_public_board_tells_the_app(home: Home, arguments: tuple[str, ...], variable: str) -> None:
    home.patch.setenv("LEAKBOARD_PUBLIC", "")  # restored after the test, whatever the command sets
    home.patch.delenv("LEAKBOARD_PUBLIC")
    seen: list[str] = []
    home.patch.setattr(os, "execv", lambda *_: seen.append(os.environ["LEAKBOARD_PUBLIC"]))
    assert home.call("board", *arguments).code == 0
    assert seen == [variable]


def test_a_board_beside_an_audit_tells_the_app_which(home: Home) -> None:
    for name in ("LEAKBOARD_PUBLIC", "LEAKBOARD_AUDIT"):
        home.patch.setenv(name, "")  # restored after the test, whatever the command sets
        home.patch.delenv(name)
    seen: list[str | None] = []
    home.patch.setattr(os, "execv", lambda *_: seen.append(os.environ.get("LEAKBOARD_AUDIT")))
    (home.folder / "one").mkdir()
    assert "one/audit.json: expected an audit that can be read, given none" in mistake(
        home.call("board", "--audit", "one")
    )
    (home.folder / "one" / "audit.json").write_text("{}")
    assert "expected an audit of form 1, given title: Field required" in mistake(home.call("board", "--audit", "one"))
    assert not seen, "before the app starts"
    (home.folder / "one" / "audit.json").write_text(make_audit().as_json(), "utf-8")
    assert home.call("board").code == home.call("board", "--audit", "one").code == 0
    assert seen == [None, str(home.folder / "one")]


@pytest.mark.slow
def test_mistakes_in_a_process_of_its_own(home: Home) -> None:
    """Exit code and streams as the shell sees them."""
    done = subprocess.run(
        [sys.executable, "-m", "leakboard", "run", "los", "--protocol", "smoke"], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert "did you mean 'loss'" in mistake(Ended(done.returncode, done.stdout, done.stderr))


def test_claims_are_held_against_what_is_published(home: Home) -> None:
    """Published rows of the protocol's version count; those of another version don't."""
    home.patch.setenv("COLUMNS", "200")
    shutil.copytree(SUBMISSIONS, home.submissions, dirs_exist_ok=True)
    loaded = protocol.load("fashion-attacks-v2")

    def made(version: str, more: float = 0.0) -> list[Result]:
        return [
            Result(
                key=f"{attack}{seed}", protocol=loaded.name, protocol_digest=version, task="membership", attack=attack,
                defense="undefended", dataset="fashion_mnist", architecture="small_cnn", seed=seed, status="ok",
                access="posterior", knowledge="none", metrics={"balanced_accuracy": value + more + 0.001 * seed, "members": 9.0, "nonmembers": 9.0},
            )
            for attack, value in (("nn_normal_label", 0.7), ("metric_corr", 0.6)) for seed in loaded.seeds
        ]  # fmt: skip

    def publish(version: str) -> str:
        write(made(version), Board(**loaded.board()), home.folder / "published" / loaded.name)
        ended = home.call("claims")
        assert ended.code == 0, ended
        return next(line for line in ended.out.splitlines() if line.strip().startswith("M1a"))

    assert "0.701" in publish(loaded.measures) and "0.601" in publish(loaded.measures)
    own = [r.model_copy(update={"trust": "official"}) for r in made("secret", 0.1)]
    home.patch.setattr(score, "stored_results", lambda name, *_, **__: own if name == loaded.name else [])
    assert "0.701" in publish(loaded.measures), "official rows are held against none of another split"
    own = made(loaded.measures, 0.1)
    assert "0.801" in publish(loaded.measures), "one's own rows take the place of published ones"
    own = []
    assert "not scored" in publish("another")
    (home.folder / "published" / loaded.name / "scenarios.parquet").write_bytes(b"half")
    assert "is not what was published" in mistake(home.call("claims"))
