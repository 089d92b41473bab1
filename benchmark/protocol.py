"""A protocol: a versioned YAML file that lists the axes of a board and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmark import reading
from benchmark.digests import digest
from benchmark.errors import UserError, printable, suggest

Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
FOLDER = Path(__file__).parent / "protocols"
SIZE = 1 << 16
"""Bytes of a protocol at most: the longest needs 2,000, and PyYAML is slow."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Split(_Strict):
    """How the data is divided, and the SHA-256 that each seed's indices must have."""

    scheme: Literal["six-way", "four-way"]
    size: Annotated[int, Field(ge=10, le=10**9)] | None = None
    known_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of target-train, and of target-test, that partial knowledge reserves; never scored (RULES 5)."""
    digests: dict[Seed, str]


World = Literal["target", "shadow"]
"""The defender's world, and the adversary's."""

Augmentation = Literal["none", "simple", "randaug"]
"""`simple` is a crop after padding and a flip, by data set; `randaug` is RandAugment with N = 2, M = 10."""


class Axes(_Strict):
    """What of the recipe an entry may change; it combines with every training defense (RULES 11). None: as it is."""

    augmentation: Augmentation | None = None
    early_stopping: bool | None = None
    epochs: Count | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None

    @property
    def chosen(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


UNCHANGED = Axes()


class AttackAxes(_Strict):
    """What an entry may change of its adversary; it combines with every attack that is given models of its own."""

    guards: World = "shadow"
    """In which world the guards before the adversary's own models are prepared; their noise key is always the shadow
    world's (RULES 3)."""

    @property
    def chosen(self) -> dict[str, Any]:
        return self.model_dump(exclude_defaults=True)


OWN_GUARDS = AttackAxes()


class Recipe(_Strict):
    """How every network of the protocol is trained (RULES 23, 24)."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[Count, ...] = ()
    epochs: Count
    batch_size: Count
    augmentation: Augmentation = "none"
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    ensemble: Annotated[int, Field(ge=1, le=4096)] = 1
    """How many networks train as one `torch.func` ensemble; 1 trains them one by one."""
    early_stopping: bool = False
    """Keep the weights of the epoch that is best on validation data (of target-reference, RULES 6)."""

    @model_validator(mode="after")
    def _milestones_step(self) -> Recipe:
        if bool(self.milestones) != (self.schedule == "step"):
            raise ValueError("milestones: expected some with schedule step, and none with another")
        return self


class ReferenceSizes(_Strict):
    """How many reference models the population has and how many the shadow data; even numbers."""

    online: Annotated[int, Field(ge=2, le=4096, multiple_of=2)]
    offline: Annotated[int, Field(ge=2, le=4096, multiple_of=2)]


class Canaries(_Strict):
    """A worst-case track (Aerni et al. 2024): what is scored are mislabelled samples planted in the training set."""

    count: Annotated[int, Field(ge=20, le=10**9)]
    """Samples from outside the split under a wrong label; each is in a training set with probability one half,
    independently (RULES 13)."""


class Adversary(_Strict):
    """Where the shadow world differs from the target's (MEMBERSHIP-DOCTOR, section 4.3); None is the target's own."""

    dataset: str | None = None
    data_digest: str | None = None
    architecture: str | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    batch_size: Count | None = None
    epochs: Count | None = None

    @model_validator(mode="after")
    def _pinned(self) -> Adversary:
        if (self.dataset is None) != (self.data_digest is None):
            raise ValueError("dataset and data_digest: expected both or neither")
        return self


class Costly(_Strict):
    """Fewer reference models for training defenses, by id, that cost several times the plain training."""

    references: ReferenceSizes
    defenses: tuple[str, ...]


class Limits(_Strict):
    """What one submission may use, in one piece of work; more is a status of that scenario. It moves no number."""

    seconds: Count = 3600
    """For which the judge waits for it; also its processor time."""
    memory_mb: Annotated[int, Field(ge=1024, le=10**9)] = 6144
    """Of all its processes together."""
    processes: Count = 64
    files: Annotated[int, Field(ge=32, le=10**9)] = 256
    scratch_mb: Annotated[int, Field(ge=16, le=10**9)] = 512
    output_mb: Count = 64
    stored_mb: Count = 4096


class Protocol(_Strict):
    """All axes. `measures` identifies the numbers; lists of entries only say what is required."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Also a folder, and an experiment of MLflow."""
    about: str
    leaves_out: str
    dataset: str
    data_digest: str
    split: Split
    seeds: tuple[Seed, ...]
    architecture: str
    evaluator: str
    """Architecture of inversion's evaluation classifier: another one, on other data (RULES 18)."""
    recipe: Recipe
    references: ReferenceSizes
    costly: Costly | None = None
    canaries: Canaries | None = None
    adversary: Adversary | None = None
    label_only: Annotated[int, Field(ge=20, le=10**9, multiple_of=2)] | None = None
    """Candidates, half of them members, on which attacks with label access are scored, and as many samples of the
    shadow world for their thresholds; None: all."""
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    nulls: Annotated[int, Field(ge=1, le=10_000)] = 20
    attacks: tuple[str, ...]
    defenses: tuple[str, ...]
    baseline: str
    utility_floor: Annotated[float, Field(ge=0, le=1)]
    rank_by: tuple[Literal["tpr_at_fpr_0.01", "auc"], ...]
    limits: Limits = Limits()

    @property
    def measures(self) -> str:
        """Digest of all that moves a number; results of two digests never meet in one table."""
        apart = {"name", "about", "leaves_out", "attacks", "defenses", "utility_floor", "rank_by", "seeds", "limits"}
        apart |= {name for name in ("canaries", "adversary", "label_only") if getattr(self, name) is None}
        content = self.model_dump(mode="json", exclude=apart)
        if not self.recipe.early_stopping:
            del content["recipe"]["early_stopping"]
        for part in filter(None, (content, content["costly"])):
            part["bank"] = part.pop("references")  # the name that it had when the first boards were pinned
        return digest(content)

    @model_validator(mode="after")
    def _canaries_alone(self) -> Protocol:
        if self.canaries and self.recipe.ensemble > 1:
            raise ValueError("canaries: expected recipe.ensemble 1, for training sets of different sizes")
        return self

    def recipe_of(self, world: str, axes: Axes = UNCHANGED) -> Recipe:
        """How networks of the world "target" or "shadow" are trained, with what an entry changes of it."""
        recipe = self.recipe.model_copy(update=axes.chosen)
        if world == "target" or self.adversary is None:
            return recipe
        names = ("learning_rate", "batch_size", "epochs")
        return recipe.model_copy(update={n: v for n in names if (v := getattr(self.adversary, n)) is not None})

    def architecture_of(self, world: str) -> str:
        """The network of the world "target" or "shadow"."""
        other = self.adversary.architecture if self.adversary and world == "shadow" else None
        return other or self.architecture

    def board(self) -> dict[str, Any]:
        """What ranking needs of a protocol."""
        return {
            "required_attacks": self.attacks,
            "required_defenses": self.defenses,
            "seeds": self.seeds,
            "baseline": self.baseline,
            "utility_floor": self.utility_floor,
            "rank_by": self.rank_by,
        }


def names() -> list[str]:
    """The protocols that come with the package, without those (smoke-*) that serve the contract checks alone."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml") if not p.stem.startswith("smoke-"))


def load(name: str) -> Protocol:
    """A protocol by name, or by the path of a YAML file. Raises UserError with file, field and cause."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    try:
        if not path.is_file() and path == Path(name):
            raise UserError(f"{name[:200]!r}: expected a protocol's YAML file, given none")
        if not path.is_file():
            raise UserError(f"unknown protocol {name[:200]!r}{suggest(name[:200], names())}")
    except OSError as error:
        raise UserError(printable(f"{name[:200]!r}: expected a protocol that can be read: {error.strerror}")) from None
    found = reading.content(path, SIZE, "a protocol")
    try:
        content = yaml.load(found.decode(), _Loader)
    except RecursionError:
        raise UserError(printable(f"{path}: not YAML: expected fewer levels of nesting")) from None
    except Exception as error:  # a value can be wrong in as many ways as Python has errors
        raise UserError(printable(f"{path}: not YAML: {' '.join(str(error).split())}")) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of fields, given {type(content).__name__}")
    try:
        return Protocol.model_validate(content)
    except ValidationError as error:
        # An unknown field first: what is missing may be what it was meant for.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        where = ".".join(str(p) for p in first["loc"])
        if first["type"] == "missing":
            raise UserError(printable(f"{path}: {where}: expected a field of this name, given none")) from None
        if first["type"] == "extra_forbidden":
            known = _fields(first["loc"])
            hint = suggest(str(first["loc"][-1]), known) if known else ""
            raise UserError(
                printable(f"{path}: {where}: unknown field, given {_shown(first['input'])}{hint}")
            ) from None
        raise UserError(printable(f"{path}: {where}: {first['msg']}, given {_shown(first['input'])}")) from None


def _fields(place: tuple[int | str, ...]) -> Iterable[str]:
    """The fields that are known where an unknown one stands; () where that can't be said."""
    fields = Protocol.model_fields
    for name in place[:-1]:
        kinds = [fields[str(name)].annotation, *get_args(fields[str(name)].annotation)] if str(name) in fields else []
        models = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if len(models) != 1:
            return ()
        fields = models[0].model_fields
    return fields


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits, but reads it in hexadecimal
        return "a number of too many digits"


class _Loader(yaml.SafeLoader):
    """Mappings, lists, texts, numbers, flags and nulls alone, each key once, and numbers of at most 64 bits.

    No aliases: a few lines of them stand for more values than memory holds. No other tags (timestamps, sets, binary):
    no field takes them, and they are wrong in as many ways as Python has errors.
    """

    yaml_constructors = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (*(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "float", "seq")), None)
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("expected no aliases (*name); write the values out")
        return super().compose_node(parent, index)

    def mapping(self, node: yaml.Node) -> Iterator[dict[Any, Any]]:
        if not isinstance(node, yaml.MappingNode):
            raise _wrong(node, "expected a mapping")
        found: dict[Any, Any] = {}
        yield found
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _wrong(key, "expected a name or a number as key")
            name = self.construct_object(key)
            if name in found:
                raise _wrong(key, f"expected each field once, given {name!r} twice")
            found[name] = self.construct_object(value, deep=True)

    def whole(self, node: yaml.Node) -> int:
        text = self.construct_scalar(node)  # type: ignore[arg-type]
        if len(text) > 100 or ":" in text:
            raise _wrong(node, "expected a whole number of at most 64 bits")
        value = int(self.construct_yaml_int(node))  # type: ignore[arg-type]
        if not -(2**63) <= value < 2**63:
            raise _wrong(node, "expected a whole number of at most 64 bits")
        return value

    def text(self, node: yaml.Node) -> str:
        value = str(self.construct_scalar(node))  # type: ignore[arg-type]
        if not value.replace("\n", "").isprintable():
            raise _wrong(node, f"expected printable text, given {value[:100]!r}")
        return value


def _wrong(node: yaml.Node, message: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"{message}, in line {node.start_mark.line + 1}")


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.whole)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.text)
