"""The registry: names, parameters and cascades; and that no file, however broken, can harm the others."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.entries import registry
from benchmark.entries.registry import Registry, read
from benchmark.entries.templates import TEMPLATES
from benchmark.errors import UserError

ROOT = Path(__file__).resolve().parents[2] / "submissions"
SHIPPED = sorted((p.parent.name[:-1], p.stem) for p in ROOT.glob("*/*.py"))
GUARD = TEMPLATES["defense"]
TRAINING = GUARD.replace('("post-inference",)', '("training",)').replace("def guard(", "def other(")


@pytest.fixture(scope="module")
def shipped() -> Registry:
    return Registry(ROOT)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, text: str, kind: str = "attack") -> Path:
        path = tmp_path / f"{kind}s" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_what_is_read_from_the_syntax_tree_is_what_python_sees(
    shipped: Registry, kind: Literal["attack", "defense"], name: str
) -> None:
    entry = shipped.entry(kind, name)
    cls = entry.load()
    assert (
        entry.params.model_json_schema()["properties" if entry.params.model_fields else "type"]
        == (
            cls.Params.model_json_schema()["properties" if cls.Params.model_fields else "type"]  # type: ignore[attr-defined]
        )
    )
    assert entry.params().model_dump() == cls.Params().model_dump()  # type: ignore[attr-defined]
    assert entry.card == cls.card  # type: ignore[attr-defined]
    assert entry.needs == frozenset(getattr(cls, "needs", ()))
    assert entry.stages == tuple(getattr(cls, "stages", ()))
    assert entry.access == getattr(cls, "access", "")
    assert entry.data_independent == getattr(cls, "data_independent", False)
    assert entry.calibrate == getattr(cls, "calibrate", "shadow")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("nn_sorted", "nn_sorted"),
        ("nn_sorted[epochs=100]", "nn_sorted"),
        ("nn_sorted[learning_rate=0.001,epochs=7]", "nn_sorted[epochs=7,learning_rate=0.001]"),
        ("nn_sorted[learning_rate=1e-3]", "nn_sorted[learning_rate=0.001]"),
        ("attribute_mlp[ embedding = untrained ]", "attribute_mlp[embedding=untrained]"),
        ("nn_sorted[guards=shadow]", "nn_sorted"),
        ("nn_sorted[guards=target,epochs=7]", "nn_sorted[epochs=7,guards=target]"),
    ],
)
def test_one_name_for_one_choice(shipped: Registry, spec: str, name: str) -> None:
    part = shipped.attack(spec)
    assert part.name == name
    assert shipped.attack(part.name) == part


@given(
    number=st.floats(-1e30, 1e30), whole=st.integers(), flag=st.booleans(), choice=st.sampled_from(["a-b", "c_d"]),
    some=st.none() | st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_name_leads_back_to_its_parameters(
    tmp_path_factory: pytest.TempPathFactory, number: float, whole: int, flag: bool, choice: str, some: int | None
) -> None:
    fields = 'x: float = 0.5\n        n: int = 3\n        f: bool = False\n        s: Literal["a-b", "c_d"] = "c_d"\n        o: int | None = 1'
    text = TEMPLATES["attack"].replace("power: Annotated[float, Field(gt=0), Search(0.5, 4, log=True)] = 1.0", fields)
    root = tmp_path_factory.mktemp("names")
    (root / "attacks").mkdir()
    (root / "attacks" / "mine.py").write_text(text)
    registry = Registry(root)
    part = registry._part("attack", "mine", {"x": number, "n": whole, "f": flag, "s": choice, "o": some})
    again = registry.attack(part.name)
    assert again.params == part.params
    assert again.name == part.name


def test_cascades(shipped: Registry, write: Callable[..., Path], tmp_path: Path) -> None:
    chain = shipped.chain("label_smoothing[epsilon=0.1]+diffence[n=5]", "undefended")
    assert chain.name == "label_smoothing[epsilon=0.1]+diffence[n=5]"
    assert chain.training.entry.id == "label_smoothing"
    assert [g.entry.id for g in chain.guards] == ["diffence"]
    (plain,), (other,) = chain.guards, shipped.chain("diffence[external=my-ddpm.2]", "undefended").guards
    assert (plain.pretrained, plain.replaced) == ({}, frozenset())
    assert (other.name, list(other.pretrained)) == ("diffence[external=my-ddpm.2]", ["my-ddpm.2"])
    assert other.replaced == {"diffusion", "train_steps"}
    assert [p.entry.id for p in chain.parts] == ["label_smoothing", "diffence"]
    alone = shipped.chain("diffence", "undefended")
    assert (alone.name, alone.training.name) == ("diffence", "undefended")
    with pytest.raises(UserError, match=r"one training defense.*label_smoothing and dp_sgd"):
        shipped.chain("label_smoothing+dp_sgd", "undefended")
    with pytest.raises(UserError, match=r"write 'label_smoothing\+diffence'"):
        shipped.chain("diffence+label_smoothing", "undefended")
    with pytest.raises(UserError, match=r"write 'diffence\+memguard'"):
        shipped.chain("memguard+diffence", "undefended")
    with pytest.raises(UserError, match=r"write 'dp_sgd\+diffence\+memguard'"):
        shipped.chain("memguard+dp_sgd+diffence", "undefended")
    with pytest.raises(UserError, match=r"one training defense.*undefended and dp_sgd"):
        shipped.chain("undefended+diffence+dp_sgd", "undefended")
    with pytest.raises(UserError, match="only defenses form cascades"):
        shipped.attack("loss+lira")
    write("both", GUARD.replace('("post-inference",)', '("training", "post-inference")'), "defense")
    both = Registry(tmp_path).chain("both", "both")
    assert both.parts == (both.training,) and both.guards == (both.training,)


@pytest.mark.parametrize(
    "spec",
    [
        "gaussian_smoothing+diffence",
        "diffence[scenario=1]+gaussian_smoothing",
        "label_smoothing+diffence+gaussian_smoothing+memguard+top_k+rounding",
        "rounding+top_k+memguard+temperature",
        "temperature+temperature[temperature=2.0]",
    ],
)
def test_guards_of_one_stage_go_in_any_order(shipped: Registry, spec: str) -> None:
    chain = shipped.chain(spec, "undefended")
    assert chain.name == spec
    guards = [p.split("[")[0] for p in spec.split("+") if p != "label_smoothing"]
    assert [g.entry.id for g in chain.guards] == guards


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "label_smoothing+diffence+dp_sgd",
            "'label_smoothing+diffence+dp_sgd': expected one training defense, given label_smoothing and dp_sgd",
        ),
        (
            "top_k+gaussian_smoothing",
            "'top_k+gaussian_smoothing': expected the stages in order; write 'gaussian_smoothing+top_k'",
        ),
        (
            "temperature[temperature=2]+diffence[n=5]+label_smoothing",
            "expected the stages in order; write 'label_smoothing+diffence[n=5]+temperature[temperature=2.0]'",
        ),
        ("diffence[scenario=4]", "diffence: hyperparameter scenario: Input should be 1, 2 or 3, given 4"),
        (
            "diffence[external=mine,train_steps=100]",
            "hyperparameter train_steps: expected its default 400 beside the pretrained model mine, which takes its place, "
            "given 100",
        ),
        (
            "diffence[external=mine,diffusion=reference]",
            "expected its default members beside the pretrained model mine",
        ),
        ("diffence[external=7]", "diffence: hyperparameter external: Input should be a valid string, given 7"),
        (
            "diffence[diffusion=external]",
            "diffusion: Input should be 'members', 'reference' or 'members-and-reference'",
        ),
        ("top_k[k=0]", "top_k: hyperparameter k: Input should be greater than or equal to 1, given 0"),
        ("gaussian_smoothing[sigma=0]", "gaussian_smoothing: hyperparameter sigma: Input should be greater than 0"),
        ("rounding[digits=0.5]", "rounding: hyperparameter digits: Input should be a valid integer"),
        ("temperature[temperature=.nan]", "temperature: hyperparameter temperature"),
        ("temperature[epochs=5]", "unknown hyperparameter 'epochs'; the recipe belongs to the training defense"),
    ],
)
def test_an_impossible_cascade_is_one_line(shipped: Registry, spec: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        shipped.chain(spec, "undefended")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nn_sortd", "unknown attack 'nn_sortd'; did you mean 'nn_sorted'?"),
        ("zzz", "unknown attack 'zzz'; known: "),
        ("nn_sorted[epoch=3]", "nn_sorted: unknown hyperparameter 'epoch'; did you mean 'epochs'?"),
        (
            "nn_sorted[epochs=0]",
            "nn_sorted: hyperparameter epochs: Input should be greater than or equal to 1, given 0",
        ),
        ("nn_sorted[epochs=x]", "nn_sorted: hyperparameter epochs: Input should be a valid integer"),
        ("nn_sorted[learning_rate=.nan]", "nn_sorted: hyperparameter learning_rate"),
        ("attribute_mlp[embedding=trained]", "Input should be 'target' or 'untrained', given 'trained'"),
        (
            "nn_sorted[guards=nobody]",
            "nn_sorted: hyperparameter guards: Input should be 'target' or 'shadow', given 'nobody'",
        ),
        ("nn_sorted[guard=target]", "nn_sorted: unknown hyperparameter 'guard'; did you mean 'guards'?"),
        (
            "loss[guards=target]",
            "loss: guards: expected a membership attack by labels or posteriors that needs shadow or reference models, "
            "given membership by posterior access that needs nothing; leave guards out",
        ),
        ("ml_doctor_partial[guards=target]", "that needs partial; leave guards out"),
        ("ml_doctor_white_box_shadow[guards=shadow]", "given membership by white-box access that needs shadow; leave"),
        ("steal_mse[guards=target]", "given stealing by posterior access that needs shadow; leave guards out"),
        ("nn_sorted[epochs]", "expected parameter=value in brackets, given 'epochs'"),
        ("nn_sorted[epochs=1.2.3]", "expected a number, given '1.2.3'"),
        ("nn_sorted[epochs={]", "'nn_sorted[epochs={]'"),
        ("nn_sorted[epochs=1", "expected NAME, NAME[parameter=value,...] or a cascade NAME+NAME"),
        ("", "expected NAME"),
    ],
)
def test_a_wrong_name_says_what_was_expected(shipped: Registry, spec: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        shipped.attack(spec)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_adversary_with_the_targets_guards_is_another_one(shipped: Registry) -> None:
    own, other = shipped.attack("rmia_offline"), shipped.attack("rmia_offline[guards=target]")
    assert (own.knowledge, other.knowledge) == ("references-offline+shadow", "references-offline+shadow+guards")
    assert shipped.attack("loss").knowledge == "none"
    assert "axes" not in own.key and other.key == own.key | {"axes": {"guards": "target"}}, "old keys stay as they were"
    guarded, bare = (shipped.chain(spec, "undefended") for spec in ("memguard", "undefended"))
    assert guarded.facing(own) == guarded and guarded.facing(other, 3).prepared == ("target", 3)
    assert bare.facing(other) == bare, "without a guard there is nothing to prepare"


CARD = 'card = Card(title="NAME", authors=("you",), reference="unpublished", year=None)'

POWER = "power: Annotated[float, Field(gt=0), Search(0.5, 4, log=True)] = 1.0"


def changed(old: str, new: str) -> str:
    assert old in TEMPLATES["attack"]
    return TEMPLATES["attack"].replace(old, new)


BROKEN = {
    "syntax": (changed("return self.params.power *", "return return"), "line 30: syntax error"),
    "no_class": ("x = 1\n", "expected one class deriving from Attack, InversionAttack"),
    "two_classes": (TEMPLATES["attack"] + "\n\nclass Other(Attack):\n    pass\n", "given Submission and Other"),
    "a_defense": (GUARD, "expected an attack, given a Defense"),
    "no_card": (changed(CARD, ""), "expected a class attribute 'card', given none"),
    "no_access": (changed('access = "posterior"', ""), "expected a class attribute 'access', given none"),
    "wrong_access": (changed('access = "posterior"', 'access = "gray-box"'), "access: expected one of label, posterior"),
    "list_access": (changed('access = "posterior"', 'access = ["label"]'), "access: expected a name, given ['label']"),
    "wrong_need": (changed("needs = frozenset()", 'needs = {"shadows"}'), "needs: expected one of certificate, partial, references-offline"),
    "both_references": (
        changed("needs = frozenset()", 'needs = {"references-online", "references-offline"}'), "expected one of references-offline and references-online",
    ),
    "need_added": (changed("needs = frozenset()", 'needs = {"shadow"}\n    needs |= {"partial"}'), "needs: expected one plain assignment"),
    "need_twice": (changed("needs = frozenset()", 'needs = {"shadow"}\n    needs = {"partial"}'), "needs: expected one plain assignment"),
    "access_of_several": (changed('access = "posterior"', 'access, extra = "label", 1'), "access: expected one plain assignment"),
    "access_chained": (changed('access = "posterior"', 'access = calibrate = "label"'), "access: expected one plain assignment"),
    "access_in_passing": (changed('access = "posterior"', '(access := "label")'), "access: expected one plain assignment"),
    "access_conditional": (changed('access = "posterior"', 'if True:\n        access = "label"'), "access: expected one plain assignment"),
    "another_task": (changed('access = "posterior"', 'access = "posterior"\n    task = "stealing"'), "given 'task', which is the contract's own"),
    "another_answer": (changed("    def fit(", "    def answer(self):\n        pass\n\n    def fit("), "another name for the method 'answer'"),
    "two_kinds": (changed("Submission(Attack)", "Submission(Attack, StealingAttack)"), "one class of the contract, given Attack and StealingAttack"),
    "score_of_more": (
        changed("references: References | None)", "references: References | None, extra: int)"),
        "expected score(self, target, candidates, references), given score(self, target, candidates, references, extra)",
    ),
    "score_of_less": (changed(", references: References | None)", ")"), "expected score(self, target, candidates, references), given"),
    "fit_of_none": (changed("def fit(self, knowledge: Knowledge)", "def fit(self)"), "expected fit(self, knowledge), given fit(self)"),
    "keyword_alone": (changed("def fit(self, knowledge: Knowledge)", "def fit(self, knowledge, *, more)"), "expected fit(self, knowledge)"),
    "text_need": (changed("needs = frozenset()", 'needs = "shadow"'), "needs: expected a collection of names"),
    "nested_need": (changed("needs = frozenset()", 'needs = (["shadow"],)'), "needs: expected one of"),
    "unhashable": (changed("needs = frozenset()", "needs = {[1]}"), "unhashable"),
    "odd_annotation": (changed("Annotated[float, Field(gt=0), Search(0.5, 4, log=True)]", '1 | "x"'), "odd_annotation.py"),
    "computed_card": (changed('title="NAME"', "title=str(1)"), "expected a literal, given 'str(1)'"),
    "card_argument": (changed("year=None", "when=1"), "Card: "),
    "not_a_card": (changed(CARD, 'card = "me"'), "card: expected Card(...), given str"),
    "default_out_of_range": (changed("log=True)] = 1.0", "log=True)] = -1.0"), "Params: "),
    "name_taken": (changed("power: Annotated", "guards: Annotated"), "with another name (this one is taken), given 'guards'"),
    "pretrained_attack": (
        changed(POWER, "model: Annotated[str | None, Pretrained()] = None"), "model: expected Pretrained in a defense, given an attack",
    ),
    "pretrained_number": (changed(POWER, "power: Annotated[int, Pretrained()] = 1"), "power: Pretrained: expected Annotated[str | None"),
    "pretrained_default": (changed(POWER, 'power: Annotated[str | None, Pretrained()] = "x"'), "power: Pretrained: expected Annotated"),
    "pretrained_instead": (
        changed(POWER, 'power: Annotated[str | None, Pretrained(("powr",))] = None'), "instead_of: expected a tuple of other hyperparameters",
    ),
    "pretrained_itself": (
        changed(POWER, 'power: Annotated[str | None, Pretrained(("power",))] = None'), "instead_of: expected a tuple of other hyperparameters",
    ),
    "pretrained_text": (
        changed(POWER, 'power: Annotated[str | None, Pretrained("other")] = None\n        other: int = 1'), "given 'other'",
    ),
    "no_default": (changed("log=True)] = 1.0", "log=True)]"), "power: expected a default, given none"),
    "imports_judge": (TEMPLATES["attack"] + "\n\ndef f():\n    import benchmark.judge.scenario\n", "from benchmark.api alone"),
    "imports_whole": ("import benchmark.api as api\n" + TEMPLATES["attack"], "given 'benchmark.api'; write `from benchmark.api import"),
    "imports_unknown": (
        TEMPLATES["attack"].replace("import Annotated", "import nnotated, Annotated"),
        "that benchmark.api exports, given 'nnotated'; did you mean 'Annotated'?",
    ),
    "imports_private": (TEMPLATES["attack"] + "\n\nfrom benchmark.api import network\n", "exports, given 'network'"),
    "imports_relative": (TEMPLATES["attack"].replace("from torch", "from .loss import Loss\nfrom torch"), "'.loss'"),
    "imports_package": (TEMPLATES["attack"].replace("from torch", "from . import loss\nfrom torch"), "alone, given '.'"),
    "nul": ("x = 1\0\n", "nul.py"),
    "deep": ("x = " + "(" * 5000 + ")" * 5000, "deep.py"),
    "Capital": (TEMPLATES["attack"], "expected a file name that begins with a letter, of a-z, 0-9 and _, given 'Capital.py'"),
}  # fmt: skip


def test_one_model_given_twice_takes_the_place_of_all_that_it_replaces(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    marks = "".join(
        f'        {name}: Annotated[str | None, Pretrained(("{of}",))] = None\n        {of}: int = 1\n'
        for name, of in (("first", "steps"), ("second", "width"))
    )
    text = TEMPLATES["defense"].replace("        temperature:", f"{marks}        temperature:")
    write("twice", text, "defense")
    write("plain", text.replace('("post-inference",)', '("training",)').replace("def guard(", "def other("), "defense")
    _, part = Registry(tmp_path).chain("twice[first=mine,second=mine]", "plain").parts
    assert part.replaced == {"steps", "width"} and list(part.pretrained) == ["mine"]
    for name in ("steps", "width"):
        with pytest.raises(UserError, match=f"hyperparameter {name}: expected its default 1 beside the pretrained"):
            Registry(tmp_path).chain(f"twice[first=mine,second=mine,{name}=2]", "plain")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line_and_harms_nobody(name: str, write: Callable[..., Path], tmp_path: Path) -> None:
    text, message = BROKEN[name]
    write("healthy", TEMPLATES["attack"])
    path = write(name, text)
    registry = Registry(tmp_path)
    error = registry.entries["attack", name].error
    assert message in error
    assert error.startswith(str(path))
    assert "\n" not in error
    with pytest.raises(UserError):
        registry.attack(name)
    assert registry.attack("healthy").name == "healthy"


def test_bytes_that_are_no_text_and_files_that_are_no_files(write: Callable[..., Path], tmp_path: Path) -> None:
    write("latin", "").write_bytes(b"# caf\xe9\nx = 1\n")
    (tmp_path / "attacks" / "folder.py").mkdir()
    (tmp_path / "attacks" / "dangling.py").symlink_to(tmp_path / "nowhere")
    errors = {id: e.error for (_, id), e in Registry(tmp_path).entries.items()}
    assert errors.keys() == {"latin", "folder", "dangling"}
    assert all(error and "\n" not in error for error in errors.values())


def test_listing_runs_nothing_of_a_file(write: Callable[..., Path], tmp_path: Path) -> None:
    write("hostile", TEMPLATES["attack"] + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(1)\n")
    entry = Registry(tmp_path).entry("attack", "hostile")
    assert entry.access == "posterior"
    assert not (tmp_path / "ran").exists()
    with pytest.raises(SystemExit):
        entry.load()


@pytest.mark.parametrize(
    "field",
    [
        'power: "CODE" = 1',
        'power: Annotated["CODE", Field(gt=0)] = 1',
        'power: Annotated[int, "CODE"] = 1',
        'power: Annotated[int, Field(gt=0), ["CODE"]] = 1',
        'power: tuple["CODE"] = 1',
        'power: tuple["CODE", ...] = (1,)',
        'power: int | "CODE" = 1',
        'power: "CODE" | None = None',
        'power: Literal["a"] | "CODE" = 1',
        'power: Literal[Literal["CODE"]] = 1',
        'power: Literal["a"]["CODE"] = 1',
        'power: "int" "CODE" = 1',
        'power: f"{CODE}" = 1',
        'power: b"CODE" = 1',
        'power: Literal["CODE"] = "CODE"',
        "power: Literal[\"a'b\"] = 1",
        'power: Literal[""] = 1',
        'power: list["CODE"] = []',
        'power: type["CODE"] = int',
        'power: CODE = 1',
        'power: int = CODE',
        'power: int = [CODE for x in (1,)]',
        'power: Annotated[int, Field(gt=CODE)] = 1',
        'power: Annotated[int, Field(default_factory=lambda: CODE)] = 1',
        'power: Annotated[str, Field(pattern="(a+)+$")] = "a"',
        'power: Annotated[int, Search("CODE", 2)] = 1',
        'power: Annotated[int, Search(1, 2, grid="CODE")] = 1',
        'power: Annotated[int, Search(1, float("nan"))] = 1',
        'power: Annotated[int, Search(1, 1e999)] = 1',
        'power: Annotated[int, Search(1, 2, log=1)] = 1',
        'power: Annotated[str, Search(1, 2)] = "a"',
        'power: Annotated[int, Field(gt=0), Field(gt=1)] = 2',
        'power: Annotated[int, Field(description="\\x1b[2J")] = 1',
        'power: Annotated[bool, Field(gt=0)] = True',
        'power: Annotated[float, Field(gt=True)] = 2.0',
        'power: Annotated[float, Field(multiple_of=0)] = 2.0',
        'power: int | str | None = 1',
        'power: int = 0x' + "f" * 5000,
        'power: int = 9223372036854775808',
        'power: float = 1e999',
        'power: Literal[()] = 1',
        f'power: Literal{list(range(101))} = 1',
        '__class__: int = 1',
        '__annotations__: int = 1',
        'model_fields: int = 1',
        'copy: int = 1',
        'model_dump_x: int = 1',
        'größe: int = 1',
        f'{"a" * 65}: int = 1',
        'power.x: "CODE" = 1',
        'power["CODE"]: int = 1',
        'power = "CODE"',
        'if CODE: power: int = 1',
        'power: int = (x := CODE)',
        'class Config: power = CODE',
        'power, more = CODE',
        "\n        ".join(f"power_{i}: int = 1" for i in range(65)),
    ],
)  # fmt: skip
def test_what_the_table_does_not_have_is_refused_and_evaluated_by_nobody(
    write: Callable[..., Path], tmp_path: Path, field: str, recwarn: pytest.WarningsRecorder
) -> None:
    code = f"__import__('pathlib').Path('{tmp_path}/ran').touch() or int"
    path = write("mine", changed(POWER, field.replace("CODE", code)))
    error = read(path, "attack").error
    assert not (tmp_path / "ran").exists()
    assert error.startswith(f"{path}: ") and ("line " in error or "at most 64" in error) and error.isprintable()
    assert len(error) < 1000 and not recwarn.list


@pytest.mark.parametrize(
    "cls",
    ["@wraps\n    class Params(Hyper):", "class Params:", "class Params(Other):", "class Params(Hyper, Other):",
     "class Params(Hyper, metaclass=Other):", "class Params(*bases):", "class Params(Hyper, extra='allow'):"],
)  # fmt: skip
def test_params_have_one_base_and_nothing_more(write: Callable[..., Path], cls: str) -> None:
    error = read(write("mine", changed("class Params(Hyper):", cls)), "attack").error
    assert "expected class Params(Hyper) without more" in error


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("x: int | None = None", None),
        ("x: None | float = -1.5", -1.5),
        ("x: Annotated[int | None, Field(ge=-3, le=10, description='How many')] = -2", -2),
        ("x: Annotated[float, Field(multiple_of=0.5, allow_inf_nan=False), Search(1, 2, grid=(1, 1.5))] = 1.5", 1.5),
        ("x: Annotated[str, Field(min_length=1, max_length=3)] = 'abc'", "abc"),
        ("x: Literal['a', 1, 2.5, True, None] = None", None),
        ("x: Literal['a'] | None = 'a'", "a"),
        ("x: Literal['a-b_c.1'] = 'a-b_c.1'", "a-b_c.1"),
        ("x: bool = True", True),
    ],
)
def test_what_the_table_has(write: Callable[..., Path], tmp_path: Path, field: str, value: object) -> None:
    write("mine", changed(POWER, field).replace("Field,", "Field, Literal,"))
    entry = Registry(tmp_path).entry("attack", "mine")
    assert entry.params().model_dump() == {"x": value}
    same = entry.load().Params.model_json_schema()  # type: ignore[attr-defined]
    assert entry.params.model_json_schema()["properties"] == same["properties"]


@given(line=st.integers(0, 30), text=st.text(max_size=40), kind=st.sampled_from(["attack", "defense"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_to_a_file_raises(tmp_path: Path, line: int, text: str, kind: Literal["attack", "defense"]) -> None:
    lines = TEMPLATES[kind].splitlines()
    lines[line % len(lines)] = text
    path = tmp_path / "mine.py"
    path.write_text("\n".join(lines), errors="replace")
    entry = read(path, kind)
    assert "\n" not in entry.error
    assert entry.error or entry.source


def test_the_digest_of_code_ignores_what_does_not_run(write: Callable[..., Path]) -> None:
    text = TEMPLATES["attack"]
    plain = read(write("a", text), "attack").source
    same = text.replace("must", "may").replace("# who sets", "#  who sets").replace('"""(n,) float64', '"""Scores')
    assert same != text
    assert read(write("b", same.replace("\n\n\n", "\n\n\n\n")), "attack").source == plain
    assert read(write("c", text.replace("self.params.power * confidence", "confidence")), "attack").source != plain
    assert read(write("d", text.replace("= 1.0", "= 2.0")), "attack").source != plain


def test_a_changed_file_is_loaded_again(write: Callable[..., Path], tmp_path: Path) -> None:
    write("mine", TEMPLATES["attack"])
    first = Registry(tmp_path).attack("mine[power=2]")
    assert first.create().params.power == 2
    assert first.entry.load() is first.entry.load()
    write("mine", TEMPLATES["attack"].replace("= 1.0", "= 3.0"))
    assert Registry(tmp_path).attack("mine").create().params.power == 3


def test_what_runs_is_what_was_read(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("mine", TEMPLATES["attack"])
    entry = Registry(tmp_path).entry("attack", "mine")
    path.write_text("raise SystemExit('another file by now')\n")
    assert entry.text == TEMPLATES["attack"]
    assert entry.load().__name__ == entry.class_name == "Submission"


def test_libraries_are_what_it_imports_beside_the_contract(write: Callable[..., Path], tmp_path: Path) -> None:
    text = "from __future__ import annotations\nimport os.path, numpy as np\nfrom torch.nn import functional\n"
    write("mine", text + TEMPLATES["attack"].replace("from __future__ import annotations\n", ""))
    assert Registry(tmp_path).entry("attack", "mine").libraries == (
        "numpy",
        "os.path",
        "torch.Tensor",
        "torch.nn.functional",
    )


def test_what_comes_with_the_project_is_reviewed(shipped: Registry) -> None:
    """A file that changes leaves the list, until it is read again and put back by `leakboard review`."""
    assert [f"{e.kind}s/{e.id}" for e in shipped.entries.values() if not e.reviewed] == []


def test_a_file_counts_as_reviewed_by_its_name_and_every_byte(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "reviewed.json"
    listed.write_text("{}")
    monkeypatch.setattr(registry, "REVIEWED", listed)
    registry._reviewed.cache_clear()
    try:
        for name in ("beta", "alpha"):
            write(name, TEMPLATES["attack"])
        first = Registry(tmp_path)
        assert not any(e.reviewed for e in first.entries.values())
        registry.review([first.entry("attack", "beta")])
        registry.review([first.entry("attack", "alpha")])
        assert list(json.loads(listed.read_text())) == ["attacks/alpha", "attacks/beta"]
        assert all(e.reviewed for e in first.entries.values())
        write("beta", TEMPLATES["attack"] + "\n")
        write("gamma", TEMPLATES["attack"])
        again = Registry(tmp_path)
        assert {i: e.reviewed for (_, i), e in again.entries.items()} == {"alpha": True, "beta": False, "gamma": False}
        assert again.entry("attack", "beta").source == first.entry("attack", "beta").source, (
            "scores stay; trust does not"
        )
    finally:
        registry._reviewed.cache_clear()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda text: text.replace(b"\n", b"\r\n"), ""),
        (lambda text: text.replace(b"\n", b"\r"), ""),
        (lambda text: text.replace(b"\n", b"\r\n", 1), ""),
        (lambda text: text + b"\n", ""),
        (lambda text: text + b"#", ""),
        (lambda text: text + b"\x0c", ""),
        (lambda text: b"\xef\xbb\xbf" + text, "syntax error"),
        (lambda text: b"# coding: utf-8\n" + text, ""),
        (lambda text: b"# coding: utf-7\n" + text, "line 1: expected UTF-8, given coding 'utf-7'"),
        (lambda text: b"#!python\r# -*- coding=latin-1 -*-\n" + text, "line 2: expected UTF-8, given coding 'latin-1'"),
        (lambda text: text + b"#\xff", "expected UTF-8, given the byte 0xff"),
        (lambda text: text + b"\0", "null bytes"),
    ],
)
def test_a_copy_that_differs_in_a_byte_is_not_reviewed(
    shipped: Registry, tmp_path: Path, change: Callable[[bytes], bytes], error: str
) -> None:
    """What is hashed is what was read, and what runs: no line end is translated in between."""
    (tmp_path / "attacks").mkdir()
    path = tmp_path / "attacks" / "loss.py"
    content = (ROOT / "attacks" / "loss.py").read_bytes()
    path.write_bytes(content)
    assert read(path, "attack").reviewed
    path.write_bytes(change(content))
    entry = read(path, "attack")
    assert error in entry.error and not entry.reviewed
    if not error:
        assert not entry.error and entry.text.encode() == change(content)
        assert entry.source == shipped.entry("attack", "loss").source, "the code is the same: its scores stay"
        assert entry.load().__name__ == entry.class_name


def test_the_baselines_stand_beside_a_users_own(write: Callable[..., Path], tmp_path: Path) -> None:
    write("mine", TEMPLATES["attack"])
    registry = Registry(tmp_path, ROOT)
    assert registry.attack("mine").name == "mine" and registry.attack("loss").entry.reviewed
    assert registry.chain("dp_sgd+diffence", "undefended").training.entry.path == ROOT / "defenses" / "dp_sgd.py"
    assert not [e for e in registry.entries.values() if e.error]
    assert list(registry.entries) == sorted(registry.entries)
    assert (
        list(Registry(ROOT).entries)
        == list(Registry(ROOT, ROOT).entries)
        == list(Registry(tmp_path / "x", ROOT).entries)
    )


def test_a_baselines_name_is_taken(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("loss", TEMPLATES["attack"])
    write("rmia", (ROOT / "attacks" / "rmia.py").read_text("utf-8"))
    registry = Registry(tmp_path, ROOT)
    with pytest.raises(UserError) as error:
        registry.attack("loss")
    assert str(error.value) == f"{path}: a baseline has this name; choose another"
    assert registry.attack("rmia").entry.reviewed, "a copy of the baseline is the baseline"
    assert registry.add(write("lira", TEMPLATES["attack"]), "attack").error.endswith("choose another")
    assert not registry.add(ROOT / "attacks" / "lira.py", "attack").error
    assert registry.attack("lira").entry.reviewed


def test_what_reference_models_may_train_as_one(write: Callable[..., Path], tmp_path: Path) -> None:
    write("plain", TRAINING, "defense")
    write("own", TRAINING.replace("def other(", "def train(self, task):\n        pass\n\n    def other("), "defense")
    registry = Registry(tmp_path)
    assert registry.entry("defense", "plain").plain_training
    assert not registry.entry("defense", "own").plain_training


@pytest.mark.parametrize(
    ("kind", "old", "new", "message"),
    [
        ("attack", "def score(", "def scores(", "expected a method 'score', given none; did you mean it by 'scores'?"),
        ("attack", "def score(", "def other(", "expected a method 'score', given none"),
        ("attack", "def score(", "def other(self):\n        score = 1\n        return score\n\n    def another(",
         "expected a method 'score', given none"),
        ("defense", "def guard(", "def gaurd(", "expected a method 'guard', given none; did you mean it by 'gaurd'?"),
        ("defense", "def guard(", "def train(self, task):\n        pass\n\n    def guard(",
         "stages: expected training for the method 'train', given post-inference; what is no step of the contract needs another name"),
        ("defense", '("post-inference",)', '("training",)',
         "stages: expected pre-inference or post-inference for the method 'guard', given training; what is no step of the contract needs another name"),
    ],
)  # fmt: skip
def test_methods_are_those_of_the_task_and_the_stages(
    write: Callable[..., Path], tmp_path: Path, kind: str, old: str, new: str, message: str
) -> None:
    """What the judge would never call, or would look for in vain, is refused before anything runs."""
    write("mine", TEMPLATES[kind].replace(old, new), kind)
    with pytest.raises(UserError) as error:
        Registry(tmp_path).entry(kind, "mine")
    assert str(error.value).endswith(f"mine.py: {message}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(Attack)", "(Scoring, Attack)"),
        ("(Attack)", "(Attack, metaclass=Scoring)"),
        ("class Submission", "@scoring\nclass Submission"),
        ("    def other(", "    score = more = _score\n\n    def other("),
        ("    def other(", "    if True:\n        def score(self):\n            pass\n\n    def other("),
    ],
)
def test_methods_from_elsewhere_count(write: Callable[..., Path], tmp_path: Path, old: str, new: str) -> None:
    text = TEMPLATES["attack"].replace("def score(", "def other(")
    assert old in text
    write("mine", text.replace(old, new), "attack")
    assert not Registry(tmp_path).entries["attack", "mine"].error


def test_one_name_for_an_attack_and_a_defense(write: Callable[..., Path], tmp_path: Path) -> None:
    write("mine", TEMPLATES["attack"])
    write("mine", GUARD, "defense")
    write("other", GUARD, "defense")
    registry = Registry(tmp_path)
    assert registry.kind_of("other[temperature=2]") == "defense"
    with pytest.raises(UserError, match="both an attack and a defense"):
        registry.kind_of("mine")
    with pytest.raises(UserError, match="unknown entry 'othr'; did you mean 'other'"):
        registry.kind_of("othr")


@pytest.mark.parametrize(
    ("spec", "read_there"),
    [
        ("diffence", set()),
        ("diffence[n=2,scenario=2]", set()),
        ("diffence[scenario=1]", {"reference"}),
        ("diffence[diffusion=reference]", {"reference"}),
        ("memguard", {"reference"}),
        ("label_smoothing", set()),
    ],
)
def test_extra_data_is_what_these_hyperparameters_read(shipped: Registry, spec: str, read_there: set[str]) -> None:
    assert set().union(*(part.uses for part in shipped.chain(spec, "undefended").parts)) == read_there


@pytest.mark.parametrize(
    ("spec", "same_labels"),
    [
        ("memguard", "undefended"),
        ("diffence", "undefended"),
        ("diffence[average=true]", ""),
        ("label_smoothing+diffence[n=10]", "label_smoothing"),
        ("dp_sgd+diffence+memguard", "dp_sgd"),
        ("rounding+memguard", "undefended+rounding"),
        ("memguard+rounding", ""),  # what rounding makes of MemGuard's answers may have other labels
        ("hamp+diffence", ""),  # HAMP's own guard comes last
        ("hamp", ""),
        ("undefended", ""),
    ],
)
def test_attacks_by_labels_meet_no_guard_that_keeps_them(shipped: Registry, spec: str, same_labels: str) -> None:
    chain = shipped.chain(spec, "undefended")
    seen = chain.by_label()
    assert seen.name == (same_labels or chain.name)
    there = shipped.chain(seen.name, "undefended")
    assert (seen.training, seen.guards) == (there.training, there.guards), "the name says what it is"
    assert chain.facing(shipped.attack("metric_corr")) == seen
    assert chain.facing(shipped.attack("loss")) == chain


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('uses = {"reference": {"strenth": (1,)}}', "uses: reference: expected hyperparameters with values in a tuple"),
        ('uses = {"reference": {"strength": 1}}', "uses: reference: expected hyperparameters with values in a tuple"),
        ('uses = {"reference": ()}', "uses: reference: expected hyperparameters with values in a tuple"),
        ('uses = {"members": {}}', "uses: expected one of reference, validation, given 'members'"),
        ('keeps_labels = {"temperature": ()}', "keeps_labels: temperature: expected at least one value, given none"),
        ("keeps_labels = 1", "keeps_labels: expected hyperparameters with values in a tuple"),
        ('keeps_labels = {"strenth": (1,)}', "keeps_labels: expected hyperparameters with values in a tuple"),
        (
            'stages = ("training",)\n    keeps_labels = True',
            "keeps_labels: expected a stage pre-inference or post-inference",
        ),
        ("adaptive_attack = 3", "adaptive_attack: expected at most 300 characters, given 3"),
    ],
)
def test_what_is_declared_wrongly_is_a_line(write: Callable[..., Path], given: str, message: str) -> None:
    name = given.partition(" =")[0]
    lines = [line for line in GUARD.splitlines() if not line.strip().startswith(f"{name} = ")]
    at = next(i for i, line in enumerate(lines) if line.strip().startswith("card"))
    path = write("mine", "\n".join([*lines[:at], f"    {given}", *lines[at:]]), "defense")
    assert message in read(path, "defense").error


def test_versions_of_thousands_of_imports_take_no_time(write: Callable[..., Path]) -> None:
    text = GUARD + "".join(f"\nimport nothing_{i}" for i in range(4000)) + "\nimport sklearn\n"
    entry = read(write("mine", text, "defense"), "defense")
    start = time.monotonic()
    assert list(entry.versions) == ["sklearn"], "what is not there has no version"
    assert time.monotonic() - start < 20


def test_a_text_is_read_once_and_a_changed_one_again(tmp_path: Path) -> None:
    path = tmp_path / "attacks" / "mine.py"
    path.parent.mkdir()
    path.write_text(TEMPLATES["attack"], "utf-8")
    first = registry.read(path, "attack")
    assert registry.read(path, "attack") is first and not first.error
    path.write_text(TEMPLATES["attack"] + "\n\nMORE = 1\n", "utf-8")
    second = registry.read(path, "attack")
    assert (second.text, second.source) != (first.text, first.source) and not second.error
    path.write_text("import benchmark\n", "utf-8")
    assert [registry.read(path, "attack").error for _ in range(2)] == 2 * [
        f"{path}: line 1: expected imports from benchmark.api alone, given 'benchmark'; write `from benchmark.api import NAME`"
    ]
