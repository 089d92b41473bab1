"""What the judge lets an attribute attack read of a sample, by its access; and what it never sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark import protocol
from benchmark.judge import kinds
from benchmark.judge.scenario import OUT_OF_MODEL, Measurements, Skip
from benchmark.targets.artifacts import Artifacts
from tests.conftest import artifacts_in


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return artifacts_in(tmp_path_factory.mktemp("smoke"), protocol.load("smoke"))


class Reader:
    """Stands for an attack; keeps what it is given, and guesses 0."""

    def __init__(self, embedding: str) -> None:
        self.embedding = embedding

    def choice(self, name: str) -> str:
        return str(getattr(self, name))

    def fit(self, knowledge: Any) -> None:
        self.knowledge = knowledge

    def answer(self, x: Tensor) -> Tensor:
        self.test = x
        return torch.zeros(len(x)).long()


def read(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, embedding: str, access: str, needs: str = "shadow",
    chain: str = "undefended",
) -> tuple[Reader, Measurements]:  # fmt: skip
    reader, part = Reader(embedding), artifacts.registry.attack("attribute_mlp")
    monkeypatch.setattr(artifacts, "attacker", lambda part, seed: reader)
    part = replace(part, entry=replace(part.entry, access=access, needs=frozenset({needs} if needs else ())))
    try:
        return reader, kinds.scenario(artifacts, part, artifacts.chain(chain), 0).score()
    finally:
        artifacts.end_job()


def test_each_reads_what_it_names(smoke: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    population, model = smoke.population(0), smoke.served(smoke.chain("undefended"), 0)
    test, network = population.part("target-test"), model.network.judge_copy()
    answers = model.answers("target-test")
    with torch.no_grad():
        embedded = network.embed(test.x)
    expected = {
        ("target", "white-box"): embedded, ("posteriors", "posterior"): answers.float(),
        ("predicted", "label"): torch.eye(10)[answers.argmax(1)], ("label", "label"): torch.eye(10)[test.y],
    }  # fmt: skip
    for (embedding, access), x in expected.items():
        reader, found = read(smoke, monkeypatch, embedding, access)
        torch.testing.assert_close(reader.test, x)
        known = reader.knowledge.embeddings
        assert torch.equal(known.y, population.part("shadow-train").y) and known.x.shape == (60, x.shape[1])
        assert found.null == (True if embedding == "label" else None)
        assert found.cost["queries"] == (120 if embedding in ("posteriors", "predicted") else 0)
    untrained, found = read(smoke, monkeypatch, "untrained", "white-box")
    assert untrained.test.shape == embedded.shape and not torch.allclose(untrained.test, embedded) and found.null


@pytest.mark.parametrize(
    ("embedding", "access"),
    [
        ("target", "posterior"),
        ("target", "label"),
        ("untrained", "posterior"),
        ("untrained", "label"),
        ("posteriors", "label"),
    ],
)
def test_more_than_the_declared_access_is_refused(
    smoke: Artifacts, monkeypatch: pytest.MonkeyPatch, embedding: str, access: str
) -> None:
    with pytest.raises(PermissionError, match=f"the attack declares {access} access"):
        read(smoke, monkeypatch, embedding, access)


def test_what_is_none_of_these_is_refused(smoke: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match="expected an embedding of target, untrained, posteriors, predicted, label, given 'x'"
    ):
        read(smoke, monkeypatch, "x", "white-box")


def test_known_members_stand_for_shadow_data_without_their_images(
    smoke: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    population = smoke.population(0)
    members, _ = population.known(0)
    assert set(members) <= set(population.parts["target-train"])
    for embedding, access in (("target", "white-box"), ("posteriors", "posterior")):
        knowledge = read(smoke, monkeypatch, embedding, access, "partial")[0].knowledge
        assert torch.equal(knowledge.embeddings.y, population.samples(members).y)
        assert knowledge.embeddings.attribute.tolist() == population.data.attribute[torch.from_numpy(members)].tolist()
        assert knowledge.partial is knowledge.shadow is knowledge.auxiliary is None
    assert read(smoke, monkeypatch, "target", "white-box", "")[0].knowledge.embeddings is None


def test_answers_come_through_guards_and_embeddings_do_not(smoke: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    bare, _ = read(smoke, monkeypatch, "posteriors", "posterior")
    guarded, _ = read(smoke, monkeypatch, "posteriors", "posterior", chain="rounding")
    assert not torch.allclose(bare.test, guarded.test)
    served = smoke.served(smoke.chain("rounding"), 0).answers("target-test")
    assert torch.equal(guarded.test, served.float())
    assert np.isfinite(
        read(smoke, monkeypatch, "predicted", "label", chain="rounding")[1].metrics["attribute_accuracy"]
    )
    with pytest.raises(Skip, match=OUT_OF_MODEL):
        read(smoke, monkeypatch, "target", "white-box", chain="rounding")


@pytest.mark.parametrize("name", ["attribute_posteriors", "attribute_labels", "attribute_partial", "attribute_null"])
def test_the_entries_run(smoke: Artifacts, name: str) -> None:
    found = kinds.scenario(smoke, smoke.registry.attack(name), smoke.chain("undefended"), 0).score()
    assert 0 <= found.metrics["attribute_accuracy"] <= 1 and bool(found.null) == (name == "attribute_null")
