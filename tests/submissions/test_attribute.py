"""Attribute inference from embeddings, posteriors and labels, against scikit-learn and plain counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.inference.attribute_inference import AttributeInferenceBlackBox
from art.estimators.classification import BlackBoxClassifier
from sklearn.naive_bayes import CategoricalNB
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from benchmark.api import Embeddings, Knowledge
from tests.submissions.test_attacks import CLASSES, SHAPE, entry


def fitted(name: str, x: Tensor, y: Tensor, attribute: Tensor, values: int, **params: Any) -> Any:
    attack = entry(name, **params)
    attack.fit(Knowledge(CLASSES, SHAPE, 0, torch.device("cpu"), embeddings=Embeddings(x, y, attribute, values=values)))
    return attack


def drawn(values: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Log-posteriors (900, k) float32 whose shape tells the attribute, not by one threshold; labels; attributes."""
    g = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(900, CLASSES, generator=g)
    attribute = (z[:, :values] - z[:, 2:3].abs() * torch.linspace(-1, 1, values)).argmax(1)
    return z.log_softmax(1), z.argmax(1), attribute


@pytest.mark.parametrize("name", ["attribute_mlp", "attribute_partial", "attribute_posteriors"])
@pytest.mark.parametrize("values", [2, 3])
def test_a_perceptron_reads_what_that_of_scikit_learn_reads(name: str, values: int) -> None:
    x, y, attribute = drawn(values)
    guess = fitted(name, x[:600], y[:600], attribute[:600], values, epochs=100, learning_rate=3e-3).predict(x[600:])
    mean, scale = x[:600].mean(0), x[:600].std(0)
    peer = MLPClassifier((64,), learning_rate_init=3e-3, batch_size=64, max_iter=60, random_state=0)
    peer.fit(((x[:600] - mean) / scale).numpy(), attribute[:600].numpy())
    theirs = peer.score(((x[600:] - mean) / scale).numpy(), attribute[600:].numpy())
    ours = float((guess == attribute[600:]).double().mean())
    assert guess.dtype == torch.int64 and guess.shape == (300,)
    assert ours > 1 / values + 0.25 and abs(ours - theirs) < 0.06


def test_posteriors_of_0_are_read() -> None:
    x, y, attribute = drawn(2)
    x = torch.where(x < -4, -torch.inf, x)  # as a guard answers that rounds
    guess = fitted("attribute_posteriors", x[:600], y[:600], attribute[:600], 2).predict(x[600:])
    assert float((guess == attribute[600:]).double().mean()) > 0.7


def test_labels_give_what_bayes_rule_gives() -> None:
    """A label that was never predicted gets the commonest value of all."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, CLASSES - 1, 500)
    attribute = np.array([rng.choice(3, p=[[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3]][c]) for c in labels])
    one_hot = torch.eye(CLASSES)
    attack = fitted("attribute_labels", one_hot[labels], torch.zeros(500).long(), torch.from_numpy(attribute), 3)
    seen = np.arange(CLASSES - 1)
    peer = CategoricalNB(alpha=1e-10, min_categories=CLASSES).fit(labels[:, None], attribute)
    assert attack.predict(one_hot[seen]).tolist() == peer.predict(seen[:, None]).tolist()
    assert attack.predict(one_hot[[CLASSES - 1]]).tolist() == [np.bincount(attribute).argmax()]


def test_labels_give_what_art_reads_of_them() -> None:
    """Its black box attack reads the model's label and what else is known of a record, which is nothing here."""
    rng = np.random.default_rng(2)
    attribute = rng.integers(0, 2, 800)
    labels = np.where(rng.random(800) < 0.6, attribute, rng.integers(0, CLASSES, 800))
    one_hot = np.eye(CLASSES, dtype=np.float32)
    model = BlackBoxClassifier(lambda x: one_hot[:0], (3,), CLASSES)
    model.predict = lambda x: one_hot[labels[:500]]  # type: ignore[method-assign]
    theirs = AttributeInferenceBlackBox(model, attack_model_type="dt", attack_feature=0)
    theirs.fit(np.column_stack([attribute[:500], np.zeros((500, 2))]).astype(np.float32))
    read = theirs.infer(np.zeros((300, 2), np.float32), pred=labels[500:, None].astype(np.float32), values=[0.0, 1.0])
    attack = fitted(
        "attribute_labels",
        torch.from_numpy(one_hot[labels[:500]]),
        torch.zeros(500).long(),
        torch.from_numpy(attribute[:500]),
        2,
    )
    ours = attack.predict(torch.from_numpy(one_hot[labels[500:]]))
    assert ours.tolist() == read.astype(int).tolist() and 0 < ours.double().mean() < 1


def test_each_declares_what_it_reads() -> None:
    reads = {
        "attribute_mlp": ("white-box", {"shadow"}, "target"), "attribute_partial": ("white-box", {"partial"}, "target"),
        "attribute_posteriors": ("posterior", {"shadow"}, "posteriors"), "attribute_labels": ("label", {"shadow"}, "predicted"),
        "attribute_null": ("label", {"shadow"}, "label"),
    }  # fmt: skip
    for name, expected in reads.items():
        attack = entry(name)
        assert (attack.access, attack.needs, attack.embedding) == expected
