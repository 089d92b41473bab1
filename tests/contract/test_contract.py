"""Every submission passes every check of `leakboard check`, and the judge knows none of them by name."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pydantic
import pytest
from pydantic.fields import FieldInfo

from benchmark import protocol
from benchmark.entries.registry import Registry
from benchmark.run import checks

ROOT = Path(__file__).parents[2]
REGISTRY = Registry(ROOT / "submissions")
CHEAPER = {
    "diffence": {"n": 5, "train_steps": 100},
    "fredrikson": {"steps": 300},
    "secret_revealer": {"epochs": 20, "steps": 60, "starts": 2},
    "song_targeted": {"labels": 3, "epochs": 30},
    "steal_no_data": {"queries": 400, "epochs": 10},
}
"""Other defaults for what costs minutes with its own: the contract is about behaviour, not strength."""


for key, entry in REGISTRY.entries.items():
    if entry.id not in CHEAPER:
        continue
    fields = entry.params.model_fields
    given = {
        name: (fields[name].annotation, FieldInfo.merge_field_infos(fields[name], default=value))
        for name, value in CHEAPER[entry.id].items()
    }
    params = pydantic.create_model("Params", __base__=entry.params, **given)
    REGISTRY.entries[key] = dataclasses.replace(entry, params=params)  # the same file, byte for byte


@pytest.fixture(scope="module")
def bench(tmp_path_factory, worker_id):
    place = tmp_path_factory.getbasetemp()  # of this process; the one above it is all processes' of this run
    store = (place if worker_id == "master" else place.parent) / "contract"
    bench = checks.Bench(REGISTRY, store)
    yield bench
    bench.close()


@pytest.mark.slow
@pytest.mark.parametrize("entry", REGISTRY.entries.values(), ids=lambda e: f"{e.kind}-{e.id}")
def test_every_submission_keeps_the_contract(entry, bench, launcher):
    assert not entry.error
    outcomes = list(checks.check_entry(bench, entry))
    failed = {c.name: c.detail for c in outcomes if not c.ok}
    assert failed == {}
    assert not any(c.left_out for c in outcomes)
    assert [c.name for c in outcomes] == expected(entry)


ALWAYS = [
    "can be read without running it",
    "has a card with title and reference",
    "search ranges lie inside the valid ranges",
]
ATTACK = ["keeps its declared access", "returns what its task asks for", "the same seed gives the same result"]
MEMBERSHIP = [
    "scores don't depend on the order of candidates",
    "scores don't depend on the number of candidates",
    "scores are higher for members",
]
SIZES = ["works on 2 classes and 1 channel", "works on 100 classes and 3 channels"]
ENDS = "runs with every end of its search ranges"
SANDBOX = "works the same in a sandbox"
LIMITS = "keeps within the time and memory of smoke"
TRAINING = [
    "trains, or prepares its guard",
    "the trained weights reload",
    "answers with posteriors",
    "the same seed gives the same weights",
    "one query gets one answer, in any batch",
    "members are not looked up",
    "claims are complete",
]
GUARD = [
    "trains, or prepares its guard",
    "answers with posteriors",
    "the same seed gives the same weights",
    "one query gets one answer, in any batch",
    "noise depends on the 8-bit query",
    "members are not looked up",
]
LABELS = {"memguard", "diffence"}
"""What promises to keep labels."""
BOTH = [*TRAINING[:5], "noise depends on the 8-bit query", *TRAINING[5:]]


def expected(entry):
    """The names, written out apart from the list that is tested; what nobody reviewed runs in a sandbox throughout."""
    own = {
        "membership": [*ATTACK, *MEMBERSHIP],
        "inversion": ATTACK,
        "attribute": ATTACK,
        "stealing": ATTACK,
        "defense": GUARD if "training" not in entry.stages else BOTH if len(entry.stages) > 1 else TRAINING,
    }[entry.task]
    if entry.id in LABELS:
        own = [*own[:-1], "keeps the labels, as it promises", own[-1]]
    return [
        *ALWAYS,
        *own,
        *SIZES,
        *([ENDS] if entry.params.model_fields else []),
        LIMITS,
        *([SANDBOX] if entry.reviewed else []),
    ]


@pytest.mark.parametrize("entry", REGISTRY.entries.values(), ids=lambda e: f"{e.kind}-{e.id}")
def test_the_list_of_every_entry_is_whole(entry, tmp_path, monkeypatch):
    """Without running anything: what applies is tried, and nothing else."""
    monkeypatch.setattr(checks, "_try", lambda rule, subject: checks.Check(rule.name, True))
    assert [c.name for c in checks.check_entry(checks.Bench(REGISTRY, tmp_path), entry)] == expected(entry)


def test_the_judge_and_the_app_name_no_entry():
    # Words that are also ordinary English in code, such as "loss", prove nothing.
    names = {id for _, id in REGISTRY.entries} - {"loss"}
    for path in [*(ROOT / "benchmark").rglob("*.py"), *(ROOT / "leaderboard").rglob("*.py")]:
        texts = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        assert not names & {t for t in texts if isinstance(t, str)}, path


def test_the_contract_fits_on_a_few_pages():
    assert len((ROOT / "benchmark" / "api" / "__init__.py").read_text().splitlines()) <= 450


@pytest.mark.parametrize("name", protocol.names())
def test_every_protocol_names_entries_that_exist(name):
    loaded = protocol.load(name)
    assert all(REGISTRY.attack(a) for a in loaded.attacks)
    assert all(REGISTRY.chain(d, loaded.baseline) for d in loaded.defenses)
    assert loaded.leaves_out
