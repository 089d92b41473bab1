"""tests/fixtures/broken/ holds a submission for every rule, and each is caught by its rule and by no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmark.entries.registry import Registry
from benchmark.errors import UserError
from benchmark.run import checks

ROOT = Path(__file__).parents[2]
BROKEN = sorted((ROOT / "tests" / "fixtures" / "broken").glob("*.py"))
REGISTRY = Registry(ROOT / "submissions")
SANDBOX = "works the same in a sandbox"


def caught_by(path: Path) -> str:
    found = re.search(r"^# caught by: (.+)$", path.read_text(), re.MULTILINE)
    assert found, f"{path}: expected a line '# caught by: <name of a check>'"
    return found[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def own_failures(outcomes):
    """The rules that are broken, without those that could not be tried for it."""
    return {c.name for c in outcomes if c.state == "failed"}


@pytest.mark.slow
@pytest.mark.parametrize("path", BROKEN, ids=lambda p: p.stem)
def test_a_broken_submission_is_caught_by_its_rule_alone(path, store, request):
    rule = caught_by(path)
    if rule == SANDBOX:
        request.getfixturevalue("launcher")
    outcomes = list(checks.check_file(path, ROOT / "submissions", store, "never"))
    assert own_failures(outcomes) == {rule}, [c for c in outcomes if not c.ok]
    assert next(c.detail for c in outcomes if c.name == rule)
    not_tried = {c.name for c in outcomes if c.after}
    assert all(c.after in {rule} | not_tried for c in outcomes if c.after)


@pytest.mark.slow
def test_a_promise_for_some_hyperparameters_is_tried_with_these(store, tmp_path):
    path = tmp_path / "conditional.py"
    text = (ROOT / "tests" / "fixtures" / "broken" / "changes_a_label.py").read_text()
    text = text.replace("keeps_labels = True", 'keeps_labels = {"mode": ("b",)}')
    text = text.replace(
        "    def guard(",
        '    class Params(Hyper):\n        """See above."""\n\n        mode: Literal["a", "b"] = "a"\n\n    def guard(',
    )
    text = text.replace('uniform("swap", x, 1) < 0.2', 'uniform("swap", x, 1) < 0.2 * (self.params.mode == "b")')
    path.write_text(text.replace("Defense, Predict", "Defense, Hyper, Literal, Predict"))
    outcomes = list(checks.check_file(path, ROOT / "submissions", store, "never"))
    assert "keeps the labels, as it promises" in own_failures(outcomes), outcomes


def test_every_rule_has_a_broken_submission():
    rules = {checks.READABLE} | {rule.name for rule in checks.RULES}
    assert {caught_by(path) for path in BROKEN} == rules


@pytest.mark.parametrize("path", BROKEN, ids=lambda p: p.stem)
def test_a_broken_submission_says_what_it_breaks(path):
    assert path.read_text().startswith('"""Breaks the rule: ')


@pytest.mark.parametrize("entry", REGISTRY.entries.values(), ids=lambda e: f"{e.kind}-{e.id}")
def test_no_rule_waits_for_a_later_one(entry, tmp_path):
    subject = checks.Subject(checks.Bench(REGISTRY, tmp_path), entry)
    rules = [rule for rule in checks.RULES if rule.applies(subject)]
    names = [rule.name for rule in rules]
    for i, rule in enumerate(rules):
        assert not set(rule.after) & set(names[i:])


def test_what_a_rule_waits_for_exists():
    assert {name for rule in checks.RULES for name in rule.after} <= {rule.name for rule in checks.RULES}


def test_a_readme_entry_for_every_rule():
    text = " ".join((ROOT / "submissions" / "README.md").read_text().split())
    assert all(f"| {name} |" in text for name in [checks.READABLE, *(rule.name for rule in checks.RULES)])


def test_a_missing_file_is_a_clear_error(store):
    with pytest.raises(UserError, match=r"nowhere\.py: expected a submission's Python file, given none"):
        list(checks.check_file(Path("nowhere.py"), ROOT / "submissions", store))
