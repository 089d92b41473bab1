"""A submission's code in this process: what the judge asks of it, and what it must give back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.api import Attack, AttributeAttack, Claims, Context, Defense, Samples, StealingAttack, Target
from benchmark.entries.registry import Registry
from benchmark.networks.access import raw
from benchmark.networks.training import TrainingRun
from benchmark.protocol import Recipe
from benchmark.sandbox.local import Attacker, Defender

CPU = torch.device("cpu")


def make_training(seed: int = 0, n: int = 24) -> TrainingRun:
    g = torch.Generator().manual_seed(seed)
    data = Samples(torch.rand(n, 1, 8, 8, generator=g), torch.arange(n) % 10)
    none = Samples(data.x[:0], data.y[:0])
    recipe = Recipe(learning_rate=0.05, epochs=1, batch_size=8)
    return TrainingRun(
        train=data, reference=none, validation=none, classes=10, recipe=recipe, architecture="small_cnn", simple={},
        seed=seed, device=CPU,
    )  # fmt: skip


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())


def defender(**methods: Any) -> Defender:
    return Defender(type("Mine", (Defense,), methods)(None), CPU)


def test_one_task_trains_by_the_defenses_own_way_and_many_as_an_ensemble() -> None:
    calls: list[str] = []

    def train(self: Any, task: TrainingRun) -> nn.Module:
        calls.append("train")
        return task.build()

    own = defender(train=train)
    assert same(own.train([make_training()])[0], make_training().build().state_dict()) and calls == ["train"]
    plain = defender().train([make_training(0), make_training(1)])
    assert calls == ["train"] and len(plain) == 2
    for i, state in enumerate(plain):
        alone = defender().train([make_training(i)])[0]
        assert max(float((state[n] - t).abs().max()) for n, t in alone.items()) < 1e-4
        assert not same(state, make_training(i).build().state_dict())


def test_a_served_network_is_its_weights_in_the_defenses_structure() -> None:
    state = defender().train([make_training()])[0]
    x = make_training(5).train.x
    network = make_training(9).build()
    network.load_state_dict(state)
    assert torch.equal(defender().serve(make_training(9), state)(x), raw(network, CPU)(x))
    with pytest.raises(RuntimeError, match="loading state_dict"):
        defender().serve(make_training(), {"x": torch.zeros(1)})


@pytest.mark.parametrize(
    ("methods", "do", "message"),
    [
        ({"train": lambda self, task: {}}, lambda d: d.train([make_training()]), "expected a network from train, given dict"),
        ({"prepare": lambda self, p, t: None}, lambda d: d.prepare(abs, make_training()), "a dict of tensors from prepare, given NoneType"),
        ({"prepare": lambda self, p, t: {"x": 1}}, lambda d: d.prepare(abs, make_training()), "a dict of tensors from prepare"),
        ({"claims": lambda self, t: {"epsilon": 1}}, lambda d: d.claims(make_training()), "expected Claims from claims, given dict"),
    ],
)  # fmt: skip
def test_what_a_defense_must_give(methods: dict[str, Any], do: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        do(defender(**methods))


def test_a_defense_that_changes_nothing() -> None:
    plain = defender()
    context = Context(key=b"", device=CPU, remember=lambda name, x, make: make())
    assert plain.prepare(abs, make_training()) == {}
    assert plain.guard(abs, {}, context) is abs
    assert plain.claims(make_training()) == Claims()


def test_an_attack_is_passed_on_as_it_is() -> None:
    class Mine(Attack):
        def score(self, target: Target, candidates: Any, references: Any) -> Any:
            return torch.tensor([target, candidates, references])

    given: Any = (1, 2, 3)
    assert Attacker(Mine(None), CPU).answer(*given).tolist() == [1, 2, 3]
    assert Attacker(AttributeAttack(None), CPU).choice("embedding") == "target"
    with pytest.raises(NotImplementedError):
        Attacker(Attack(None), CPU).answer(*given)


def test_a_stolen_copy_comes_back_as_what_it_answers() -> None:
    class Thief(StealingAttack):
        def steal(self, target: Target, queries: Samples, build: Any) -> nn.Module:
            return build().train()

    x = make_training().train.x
    copy = Attacker(Thief(None), CPU).answer(Target(), make_training().train, make_training(3).build)
    assert torch.equal(copy(x), raw(make_training(3).build(), CPU)(x)), "log-posteriors, in eval mode"
    Thief.steal = lambda self, target, queries, build: "copy"  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(ValueError, match="expected a network from steal, given str"):
        Attacker(Thief(None), CPU).answer(Target(), make_training().train, make_training().build)


REGISTRY = Registry(Path(__file__).resolve().parents[2] / "submissions")


@pytest.mark.parametrize("entry", REGISTRY.entries.values(), ids=lambda e: f"{e.kind}-{e.id}")
def test_every_baseline_is_listed_as_reviewed(entry: Any) -> None:
    assert entry.reviewed, f"it has changed: read it, then run: leakboard review {entry.path}"


def test_a_changed_byte_is_no_longer_reviewed(tmp_path: Path) -> None:
    (tmp_path / "attacks").mkdir()
    text = (REGISTRY.root / "attacks" / "loss.py").read_text()
    for content, reviewed in ((text, True), (text + "\n# a comment\n", False)):
        (tmp_path / "attacks" / "loss.py").write_text(content)
        assert Registry(tmp_path).entry("attack", "loss").reviewed is reviewed
    (tmp_path / "attacks" / "lost.py").write_text(text)
    assert not Registry(tmp_path).entry("attack", "lost").reviewed, "listed by its name too"
