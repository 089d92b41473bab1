"""The contract checks: one list, run by `leakboard check` and by the tests on every submission.

They run a submission on the protocol `smoke`: a few digits, three epochs. A check that does not apply
to an entry is not in its list; one that could not run has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmark import protocol as protocols
from benchmark.api import Bank, Candidates, Claims, Defense
from benchmark.artifacts import Artifacts
from benchmark.errors import UserError
from benchmark.judge import Scenario, checked_scores, utility
from benchmark.registry import Chain, Entry, Part, Registry
from benchmark.store import Store

TOLERANCE = 1e-4
"""What float32 sums may differ by between batches, relative to the largest score."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check; `detail` is one line."""

    name: str
    ok: bool
    detail: str = ""


def check_file(path: Path, submissions: Path, store: Path) -> list[Check]:
    """All checks on one file, which may lie anywhere. Raises UserError where there is no such file."""
    if not path.is_file():
        raise UserError(f"{path}: expected a submission's Python file, given none")
    registry = Registry(submissions)
    kind: Literal["attack", "defense"] = "defense" if _is_defense(path, registry) else "attack"
    entry = registry.add(path, kind)
    if entry.error:
        return [Check("readable without importing", False, entry.error)]
    artifacts = Artifacts(protocols.load("smoke"), registry, Store(store), torch.device("cpu"))
    return [Check("readable without importing", True), *check_entry(artifacts, entry)]


def check_entry(artifacts: Artifacts, entry: Entry) -> list[Check]:
    """The checks that apply to this kind of entry, in order; all run, whatever fails before them."""
    part = Part(entry, entry.params())
    steps = _defense_checks(artifacts, part) if entry.kind == "defense" else _attack_checks(artifacts, part)
    return [Check("has a card with title and reference", _has_card(entry)), *(_run(name, step) for name, step in steps)]


def _is_defense(path: Path, registry: Registry) -> bool:
    known = registry.entries.get(("defense", path.stem))
    if known and known.path.resolve() == path.resolve():
        return True
    return path.resolve().parent.name == "defenses" or "(Defense)" in path.read_text(errors="replace")


def _has_card(entry: Entry) -> bool:
    return bool(entry.card and entry.card.title.strip() and entry.card.reference.strip())


Step = tuple[str, Callable[[], str]]


def _run(name: str, step: Callable[[], str]) -> Check:
    """A step returns "" or what is wrong; what it raises is wrong too."""
    try:
        problem = step()
    except (Exception, SystemExit) as error:
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Check(name, not problem, problem)


# --- Attacks ----------------------------------------------------------------------------------------


def _attack_checks(artifacts: Artifacts, part: Part) -> Iterator[Step]:
    chain = artifacts.chain(artifacts.protocol.baseline)
    yield (
        "keeps its declared access, and what it returns is in shape and range",
        lambda: _scores(artifacts, part, chain),
    )
    yield "the same seed gives the same result", lambda: _same_twice(artifacts, part, chain)
    if part.entry.task == "membership":
        yield "scores don't depend on the order of candidates", lambda: _order(artifacts, part, chain)
        yield "scores don't depend on the number of candidates", lambda: _number(artifacts, part, chain)


def _scores(artifacts: Artifacts, part: Part, chain: Chain) -> str:
    Scenario(artifacts, part, chain, 0).score()
    return ""


def _same_twice(artifacts: Artifacts, part: Part, chain: Chain) -> str:
    first, second = (Scenario(artifacts, part, chain, 0).score().metrics for _ in range(2))
    moved = [name for name, value in first.items() if second.get(name) != value]
    return f"differs between two runs: {', '.join(moved)}; draw from knowledge.generator(name)" if moved else ""


def _fitted(artifacts: Artifacts, part: Part, chain: Chain, rows: Tensor | None) -> np.ndarray:  # type: ignore[type-arg]
    scenario = Scenario(artifacts, part, chain, 0)
    attack, candidates, bank = scenario.fitted()
    if rows is not None:
        candidates = Candidates(candidates.x[rows], candidates.y[rows], candidates.id[rows])
        bank = bank and Bank(bank.members[:, rows], bank.log_posteriors[:, rows])
    return checked_scores(attack.score(scenario.target, candidates, bank), len(candidates))


def _order(artifacts: Artifacts, part: Part, chain: Chain) -> str:
    plain = _fitted(artifacts, part, chain, None)
    order = torch.from_numpy(np.random.default_rng(1).permutation(plain.shape[1]))
    return _differs(plain[:, order.numpy()], _fitted(artifacts, part, chain, order))


def _number(artifacts: Artifacts, part: Part, chain: Chain) -> str:
    plain = _fitted(artifacts, part, chain, None)
    half = torch.arange(plain.shape[1] // 2)
    return _differs(plain[:, : len(half)], _fitted(artifacts, part, chain, half))


def _differs(expected: np.ndarray, given: np.ndarray) -> str:  # type: ignore[type-arg]
    gap, scale = float(np.abs(expected - given).max()), float(np.abs(expected).max())
    if gap <= TOLERANCE * max(scale, 1.0):
        return ""
    return f"scores move by {gap:.3g}; pool over data in fit, not in score"


# --- Defenses ---------------------------------------------------------------------------------------


def _defense_checks(artifacts: Artifacts, part: Part) -> Iterator[Step]:
    chain = artifacts.chain(part.name)
    model = ("target", 0)
    yield "trains, reloads its weights and answers with posteriors", lambda: _utility(artifacts, chain)
    if "training" in part.entry.stages:
        yield "the same seed gives the same network", lambda: _same_network(artifacts, part)
    if chain.guards:
        yield "the same query gets the same answer, in any batch", lambda: _same_answer(artifacts, chain, model)
    yield "claims are complete", lambda: _claims(artifacts, part)


def _utility(artifacts: Artifacts, chain: Chain) -> str:
    utility(artifacts, chain, 0)
    return ""


def _same_network(artifacts: Artifacts, part: Part) -> str:
    defense: Defense = part.create()
    first, second = (defense.train(artifacts.task(part, 0, ("target", 0))).state_dict() for _ in range(2))
    moved = [name for name, value in first.items() if not torch.equal(value, second[name])]
    return f"weights differ between two runs: {moved[0]}; draw from task.generator(name)" if moved else ""


def _same_answer(artifacts: Artifacts, chain: Chain, model: tuple[str, int]) -> str:
    # Fresh images, so that nothing stored answers.
    x = (artifacts.part(0, "target-test").x * 0.98).contiguous()
    predict = artifacts.predictor(chain, 0, model, stored=False)
    whole, again, half = predict(x), predict(x), predict(x[: len(x) // 2])
    if not torch.equal(whole, again):
        return "two answers to one query differ; draw from context.uniform or context.normal"
    gap = float((whole[: len(half)].exp() - half.exp()).abs().max())
    return f"posteriors move by {gap:.3g} with the batch" if gap > TOLERANCE else ""


def _claims(artifacts: Artifacts, part: Part) -> str:
    claims = part.create().claims(artifacts.task(part, 0, ("target", 0)))
    if not isinstance(claims, Claims):
        return f"expected Claims from claims(), given {type(claims).__name__}"
    missing = [n for n in ("delta", "accountant", "adjacency", "sampling") if getattr(claims, n) is None]
    return f"epsilon without {', '.join(missing)}" if claims.epsilon is not None and missing else ""
