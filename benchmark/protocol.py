"""A protocol: a versioned YAML file that fixes data, splits, networks, training and scoring of a board."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import ceil
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from benchmark import places, reading
from benchmark.digests import digest
from benchmark.errors import UserError, printable, suggest

Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
QUICKSTART = "digits-v2"
"""The protocol that is meant where none is named, and the board that opens."""
FOLDER = Path(__file__).parent / "protocols"
FAMILIES = FOLDER / "families"
"""One file for several protocols: fields `datasets` and `architectures` beside those of a protocol (`members`)."""
SIZE = 1 << 16
"""Bytes of a protocol file at most. The longest has 2,000; PyYAML is slow, and takes longer for more."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Grown(_Strict):
    """A section that has got fields since the first boards. At their defaults they are left out of digests and keys."""

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        content: dict[str, Any] = handler(self)
        return {k: v for k, v in content.items() if k not in self.later or getattr(self, k) != fields[k].default}


UNPINNED = "unpinned"
"""Stands for a digest that nobody has computed yet: such a protocol is rehearsed and estimated, and not run."""


class Split(_Grown):
    """How the data is divided, and the SHA-256 of each seed's indices (`splits.indices_digest`)."""

    later = frozenset({"scored"})

    scheme: Literal["six-way", "four-way", "official", "sizes"]
    """`six-way` and `four-way`: equal parts for the target's world and the shadow world. `sizes`: `size` members, as many non-members and
    at most as many reference samples, of one pool. `official`: members from the publisher's train part, non-members from its
    test part; all of both, or `size` of each. The last two have no shadow world."""
    size: Annotated[int, Field(ge=10, le=10**9)] | None = None
    """Samples of a part; None: as many as go."""
    known_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of target-train and of target-test, of the smaller one where they differ, that is reserved of each for partial knowledge and
    never scored (RULES 5)."""
    scored: Annotated[int, Field(ge=10, le=10**9)] | None = None
    """How many of the others of each part are candidates; None: all."""
    digests: dict[Seed, str] = {}

    @property
    def shadow_world(self) -> bool:
        """Whether the adversary has data of its own, and with it a shadow model, offline reference models and thresholds."""
        return self.scheme in ("six-way", "four-way")

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts that the scheme can have."""
        worlds = ("target", "shadow") if self.shadow_world else ("target",)
        sides = ("train", "test") if self.scheme == "four-way" else ("train", "test", "reference")
        return tuple(f"{world}-{side}" for world in worlds for side in sides)

    @model_validator(mode="after")
    def _has_size(self) -> Split:
        if self.scheme == "sizes" and self.size is None:
            raise ValueError("size: expected the number of members with scheme sizes, given none")
        return self


WorldName = Literal["target", "shadow"]
"""Whose data, networks and secrets: the defender's (target), or the adversary's own (shadow)."""

Augmentation = Literal["none", "simple", "randaug"]
"""`simple` is a random crop after padding and, for some data sets, a flip; `randaug` is RandAugment with N = 2, M = 10."""


class Axes(_Strict):
    """Fields of the recipe that an entry may change, with every training defense (RULES 11). None keeps the protocol's value."""

    augmentation: Augmentation | None = None
    early_stopping: bool | None = None
    epochs: Count | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None

    @property
    def chosen(self) -> dict[str, Any]:
        """The fields that the entry changes, with their values."""
        return self.model_dump(exclude_none=True)


UNCHANGED = Axes()


class AttackAxes(_Strict):
    """What an entry may change of its adversary, with every attack that is given models of the adversary's own."""

    guards: WorldName = "shadow"
    """The world in which the guards of the adversary's own models are prepared. Their noise key is always the shadow
    world's (RULES 3)."""

    @property
    def chosen(self) -> dict[str, Any]:
        """The fields that the entry changes, with their values."""
        return self.model_dump(exclude_defaults=True)


OWN_GUARDS = AttackAxes()


class Recipe(_Grown):
    """How every network of the protocol is trained, unless a defense or an adversary changes it (RULES 23, 24)."""

    later = frozenset({"amsgrad", "gamma", "steps"})

    optimizer: Literal["sgd", "adam"] = "sgd"
    amsgrad: bool = False
    """Adam with the largest second moment so far (Reddi et al. 2018)."""
    learning_rate: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[Count, ...] = ()
    """Epochs (with `steps`: updates) after which the schedule step multiplies the learning rate by `gamma`."""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What the schedule step multiplies the learning rate by at each milestone."""
    epochs: Count = 0
    steps: Count | None = None
    """Updates, in place of `epochs`. Networks train in whole epochs: as many as it takes, and milestones at the nearest one."""
    batch_size: Count
    augmentation: Augmentation = "none"
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    ensemble: Annotated[int, Field(ge=1, le=4096)] = 1
    """How many reference models train together as one vectorised network (`torch.func`); 1 trains them one by one."""
    early_stopping: bool = False
    """Keep the weights of the epoch with the best accuracy on validation data, a part of target-reference (RULES 6)."""

    @model_validator(mode="after")
    def _milestones_step(self) -> Recipe:
        if bool(self.milestones) != (self.schedule == "step"):
            raise ValueError("milestones: expected some with schedule step, and none with another")
        if (self.epochs == 0) == (self.steps is None):
            raise ValueError("epochs: expected epochs or steps, one of the two")
        if self.gamma != 0.1 and self.schedule != "step":
            raise ValueError(f"gamma: expected it with schedule step, given schedule {self.schedule}")
        if self.amsgrad and (self.optimizer != "adam" or self.ensemble > 1):
            raise ValueError("amsgrad: expected it with optimizer adam and ensemble 1")
        return self

    def in_epochs(self, samples: int) -> Recipe:
        """This recipe with epochs in place of steps, for a training set of so many samples."""
        if self.steps is None:
            return self
        batches = ceil(samples / self.batch_size)
        milestones = tuple(max(1, round(m / batches)) for m in self.milestones)
        return self.model_copy(update={"steps": None, "epochs": ceil(self.steps / batches), "milestones": milestones})


class ReferenceSizes(_Strict):
    """How many reference models an attack on one target has; in pairs."""

    online: Annotated[int, Field(ge=2, le=4096, multiple_of=2)]
    """Networks of the target's own population, those of its pair left out."""
    offline: Annotated[int, Field(ge=2, le=4096, multiple_of=2)]
    """Networks of shadow data."""


class Canaries(_Strict):
    """Scores mislabelled samples that are planted in the training set: leakage of the worst placed samples (Aerni et al. 2024)."""

    count: Annotated[int, Field(ge=20, le=10**9)]
    """How many samples from outside the split are canaries, with a wrong label. Each is in a training set with probability one half,
    independently (RULES 13)."""


def _pinned_data(content: Any) -> Any:
    """`dataset: {id, view, digest}` as the fields that it stands for: `dataset: ID/VIEW` and `data_digest`."""
    if not isinstance(content, dict) or not isinstance(content.get("dataset"), dict):
        return content
    given = content["dataset"]
    if set(given) != {"id", "view", "digest"} or not all(isinstance(v, str) for v in given.values()):
        raise ValueError(
            f"dataset: expected a name, or id, view and digest as texts (`leakboard pin FILE` fills in the digest), given {given!r}"
        )
    if content.get("data_digest") is not None:
        raise ValueError("data_digest: expected none beside dataset: {id, view, digest}, which has it")
    return content | {"dataset": f"{given['id']}/{given['view']}", "data_digest": given["digest"]}


class Adversary(_Strict):
    """What differs in the shadow world from the target's (MEMBERSHIP-DOCTOR, section 4.3). None: the same as the target's."""

    dataset: str | None = None
    data_digest: str | None = None
    architecture: str | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    batch_size: Count | None = None
    epochs: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _data(cls, content: Any) -> Any:
        return _pinned_data(content)

    @model_validator(mode="after")
    def _pinned(self) -> Adversary:
        if (self.dataset is None) != (self.data_digest is None):
            raise ValueError("dataset and data_digest: expected both or neither")
        return self


class Costly(_Strict):
    """What costs several times as much as the rest: it has fewer reference models, or is scored on fewer targets."""

    references: ReferenceSizes | None = None
    """For training defenses. None: as many as the others, which compares entries best."""
    targets: Annotated[int, Field(ge=1, le=4096)] | None = None
    """The first so many targets. None: all."""
    defenses: tuple[str, ...] = ()
    """Ids of defenses, in whatever cascade."""
    attacks: tuple[str, ...] = ()
    """Ids of attacks."""


class Limits(_Strict):
    """What a submission may use in one piece of work, such as one scenario. Whoever exceeds it gets a status, not a score."""

    seconds: Count = 3600
    """Wall-clock time, and processor time."""
    memory_mb: Annotated[int, Field(ge=1024, le=10**9)] = 6144
    """Memory of all its processes together."""
    processes: Count = 64
    files: Annotated[int, Field(ge=32, le=10**9)] = 256
    scratch_mb: Annotated[int, Field(ge=16, le=10**9)] = 512
    output_mb: Count = 64
    stored_mb: Count = 4096


class Protocol(_Strict):
    """A whole protocol file. `measures` identifies its numbers; `attacks` and `defenses` only say what a ranked row must have met."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Also the name of a folder and of an experiment in MLflow."""
    about: str
    leaves_out: str
    dataset: str
    """`digits` or `fashion_mnist`; or `{id, view, digest}` of a prepared data set, and then no `data_digest`."""
    data_digest: str
    """SHA-256 of the data; or `unpinned`, and then the protocol is rehearsed and not run."""
    split: Split
    seeds: tuple[Seed, ...]
    architecture: str
    evaluator: str
    """Architecture of the classifier that judges reconstructions of inversion: another one than the target's, on other data (RULES 18)."""
    second_evaluator: str = "mlp"
    """Architecture of the second one: another than both, on data that neither of them nor the attacker has (RULES 18)."""
    recipe: Recipe
    references: ReferenceSizes
    targets: Annotated[int, Field(ge=1, le=4096)] = 1
    """How many networks of the population membership attacks are scored on: complete pairs; or 1, the split's own alone."""
    costly: Costly | None = None
    canaries: Canaries | None = None
    adversary: Adversary | None = None
    attribute: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """The attribute of the data set that attribute inference infers, such as `gender`. None: whether the shape in an image is thicker
    than the median of its class."""
    thresholds: Literal["shadow", "partial"] = "shadow"
    """What membership attacks set their thresholds on, and learn from where they ask for a shadow world: that world, or (partial) the
    known samples of the target in its place, as in settings without one (RULES 5)."""
    label_only: Annotated[int, Field(ge=20, le=10**9, multiple_of=2)] | None = None
    """How many candidates, half of them members, attacks with label access are scored on; as many samples of the shadow
    world set their thresholds. None: all."""
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
        """Digest of all fields that numbers depend on. Results of different digests are never put into one table."""
        excluded = {"name", "about", "leaves_out", "attacks", "defenses", "utility_floor", "rank_by", "seeds", "limits"}
        excluded |= {
            name for name in ("canaries", "adversary", "attribute", "label_only") if getattr(self, name) is None
        }
        content = self.model_dump(mode="json", exclude=excluded)
        if not self.recipe.early_stopping:
            del content["recipe"]["early_stopping"]
        if self.targets == 1:
            del content["targets"]
        if self.thresholds == "shadow":
            del content["thresholds"]
        if self.second_evaluator == "mlp":
            del content["second_evaluator"]
        if content["costly"]:
            content["costly"] = {name: value for name, value in content["costly"].items() if value}
        for section in filter(None, (content, content["costly"])):
            if "references" in section:
                section["bank"] = section.pop("references")  # the name in the digests of the first boards
        return digest(content)

    @model_validator(mode="before")
    @classmethod
    def _data(cls, content: Any) -> Any:
        return _pinned_data(content)

    @model_validator(mode="after")
    def _pairs(self) -> Protocol:
        if self.costly and self.costly.references and self.targets > 1:
            raise ValueError("costly.references: expected none where several networks of the population are targets")
        most = self.references.online + self.pair
        for where, targets in (("targets", self.targets), ("costly.targets", self.costly and self.costly.targets)):
            if targets and (targets > most or (targets > 1 and targets % self.pair)):
                raise ValueError(
                    f"{where}: expected 1, or complete pairs of the {most} networks of the population, given {targets}"
                )
        return self

    @model_validator(mode="after")
    def _worlds(self) -> Protocol:
        if self.adversary and not self.split.shadow_world:
            raise ValueError(
                f"adversary: expected a split with a shadow world, six-way or four-way, given {self.split.scheme}"
            )
        if self.targets > 1 and not self.halves:
            raise ValueError(
                "targets: expected 1 with split official without size: parts of different sizes are no halves of a population"
            )
        return self

    @property
    def halves(self) -> bool:
        """Whether target-train and target-test are equally large, so that a population can be drawn from both (RULES 4)."""
        return self.split.scheme != "official" or self.split.size is not None

    @property
    def pinned(self) -> bool:
        """Whether the data have digests, and splits of some seeds."""
        other = self.adversary.data_digest if self.adversary else None
        return UNPINNED not in (self.data_digest, other) and bool(self.split.digests)

    @property
    def pair(self) -> int:
        """How many networks of the population were drawn together, and are no references of each other.

        Two, a half of the pool and the other half; one where canaries are planted, in each network independently.
        """
        return 1 if self.canaries else 2

    @model_validator(mode="after")
    def _canaries_alone(self) -> Protocol:
        if self.canaries and self.recipe.ensemble > 1:
            raise ValueError("canaries: expected recipe.ensemble 1, for training sets of different sizes")
        return self

    def recipe_of(self, world: str, axes: Axes = UNCHANGED, samples: int = 0) -> Recipe:
        """How networks of the world "target" or "shadow" are trained, where an entry changes `axes` of the recipe.

        samples: of the training set; they count where the recipe has steps.
        """
        recipe = self.recipe.in_epochs(samples).model_copy(update=axes.chosen)
        if world == "target" or self.adversary is None:
            return recipe
        names = ("learning_rate", "batch_size", "epochs")
        return recipe.model_copy(update={n: v for n in names if (v := getattr(self.adversary, n)) is not None})

    def architecture_of(self, world: str) -> str:
        """The architecture of networks of the world "target" or "shadow"."""
        other = self.adversary.architecture if self.adversary and world == "shadow" else None
        return other or self.architecture

    def board(self) -> dict[str, Any]:
        """The fields that ranking needs, by the names of `leaderboard.ranking.Board`."""
        return {
            "required_attacks": self.attacks,
            "required_defenses": self.defenses,
            "seeds": self.seeds,
            "baseline": self.baseline,
            "utility_floor": self.utility_floor,
            "rank_by": self.rank_by,
        }


def names() -> list[str]:
    """Names of the protocols that come with the package, but for those of the contract checks (smoke-*) and for families."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml") if not p.stem.startswith("smoke-"))


def families() -> list[str]:
    """Names of the families of protocols that come with the package."""
    return sorted(p.stem for p in FAMILIES.glob("*.yaml"))


def own_names() -> list[str]:
    """Names of the files in `protocols/` of the project that are not the package's."""
    return sorted({p.stem for p in places.protocols().glob("*.yaml")} - {p.stem for p in FOLDER.glob("**/*.yaml")})


def path_of(name: str) -> Path:
    """The file of a protocol, or of the family that it is a member of. It may be missing.

    It is the one that is named, the package's, or the one in `protocols/` of the project; a family of the package is taken from
    there too, if `pin` has written it there with digests.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    for stem in (name, name.rpartition(".")[0]):
        if stem in families():
            own = places.protocols() / f"{stem}.yaml"
            return own if own.is_file() else FAMILIES / f"{stem}.yaml"
        if stem in own_names():
            return places.protocols() / f"{stem}.yaml"
    return FOLDER / f"{name}.yaml"


def file_name(name: str) -> str:
    """The name of a protocol's file: its own, or its family's."""
    return path_of(name).stem


def load(name: str) -> Protocol:
    """A protocol by name (of a member of a family: FAMILY.MEMBER), or by the path of a YAML file.

    Raises UserError with file, field and cause, and for a family.
    """
    found = members(name)
    if name in found:
        return found[name]
    first = next(iter(found))
    if len(found) == 1 and "." not in first:
        return found[first]
    raise UserError(
        f"{name}: expected one protocol, given a family of {len(found)}: name one of them, {', '.join(found)}; "
        "--dry-run and --rehearse take them all"
    )


def members(name: str) -> dict[str, Protocol]:
    """The protocols of a family by name, FAMILY.MEMBER; of one protocol itself alone. Raises UserError as `load`."""
    path, content = path_of(name), read(name)
    if "datasets" not in content:
        loaded = _validated(path, content)
        return {loaded.name: loaded}
    found = {}
    for fields in _variants(path, content):
        member = _validated(path, fields)
        found[member.name] = member
    if name in found:
        return {name: found[name]}
    if name.startswith(f"{content['name']}.") and path != Path(name):
        raise UserError(f"unknown protocol {name[:200]!r}{suggest(name[:200], found)}")
    return found


def _variants(path: Path, content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The fields of each protocol of a family: the common ones, then those of a data set, then those of a network.

    Mappings such as `recipe` are merged. Raises UserError for a family that is not whole.
    """
    common = {k: v for k, v in content.items() if k not in ("datasets", "architectures")}
    family = common.get("name")
    if not isinstance(family, str):
        raise UserError(f"{path}: name: expected the name of the family, given {_shown(family)}")
    for short, own in _by_name(path, "datasets", content["datasets"]):
        fields = merged(common, own)
        networks = fields.pop("architectures", content.get("architectures"))
        if networks is None:
            yield fields | {"name": f"{family}.{short}"}
            continue
        for architecture, more in _by_name(path, "architectures", networks):
            yield merged(fields, more) | {"name": f"{family}.{short}-{architecture}", "architecture": architecture}


def _by_name(path: Path, field: str, given: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The names of a list or of a mapping, each with the fields that it changes. Raises UserError for anything else."""
    changes = (
        dict.fromkeys(given, None) if isinstance(given, list) and all(isinstance(n, str) for n in given) else given
    )
    if not isinstance(changes, dict) or not changes:
        raise UserError(
            printable(f"{path}: {field}: expected names, each with the fields that it changes, given {_shown(given)}")
        )
    for name, own in changes.items():
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise UserError(printable(f"{path}: {field}: expected a name of a-z, 0-9 and _, given {_shown(name)}"))
        if not isinstance(own, dict | None):
            raise UserError(printable(f"{path}: {field}.{name}: expected fields of a protocol, given {_shown(own)}"))
        yield name, own or {}


def merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The fields of both; those of `own` win, and two mappings are merged."""
    both = {k: base[k] | v for k, v in own.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return base | own | both


def read(name: str) -> dict[str, Any]:
    """The fields of a protocol as its file has them, unchecked. Raises UserError where it is no mapping in YAML."""
    path = path_of(name)
    try:
        if not path.is_file() and path == Path(name):
            raise UserError(f"{name[:200]!r}: expected a protocol's YAML file, given none")
        if not path.is_file():
            known = [*names(), *families(), *own_names()]
            raise UserError(f"unknown protocol {name[:200]!r}{suggest(name[:200], known)}")
    except OSError as error:
        raise UserError(printable(f"{name[:200]!r}: expected a protocol that can be read: {error.strerror}")) from None
    data = reading.content(path, SIZE, "a protocol")
    try:
        content = yaml.load(data.decode(), _Loader)
    except RecursionError:
        raise UserError(printable(f"{path}: not YAML: expected fewer levels of nesting")) from None
    except Exception as error:  # a value can be wrong in as many ways as Python has errors
        raise UserError(printable(f"{path}: not YAML: {' '.join(str(error).split())}")) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of fields, given {type(content).__name__}")
    return content


def _validated(path: Path, content: dict[str, Any]) -> Protocol:
    """The protocol of these fields. Raises UserError with file, field and cause."""
    try:
        return Protocol.model_validate(content)
    except ValidationError as error:
        # An unknown field first: what is missing may be what it was meant for.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        where = ".".join(str(p) for p in first["loc"])
        if first["type"] == "missing":
            raise UserError(printable(f"{path}: {where}: expected a field of this name, given none")) from None
        if first["type"] == "extra_forbidden":
            known = _known_fields(first["loc"])
            hint = suggest(str(first["loc"][-1]), known) if known else ""
            raise UserError(
                printable(f"{path}: {where}: unknown field, given {_shown(first['input'])}{hint}")
            ) from None
        raise UserError(printable(f"{path}: {where}: {first['msg']}, given {_shown(first['input'])}")) from None


def _known_fields(location: tuple[int | str, ...]) -> Iterable[str]:
    """Names of the fields that pydantic's error `location` could have had in its last place; () where that is unclear."""
    fields = Protocol.model_fields
    for name in location[:-1]:
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
    """Reads mappings with unique keys, lists, texts, numbers of at most 64 bits, flags and nulls, and nothing else.

    No aliases: a few lines of them can stand for more values than memory holds. No other tags (timestamps, sets, binary):
    no field takes them, and their parsers raise errors of many kinds.
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
            raise _yaml_error(node, "expected a mapping")
        fields: dict[Any, Any] = {}
        yield fields
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _yaml_error(key, "expected a name or a number as key")
            name = self.construct_object(key)
            if name in fields:
                raise _yaml_error(key, f"expected each field once, given {name!r} twice")
            fields[name] = self.construct_object(value, deep=True)

    def whole(self, node: yaml.Node) -> int:
        text = self.construct_scalar(node)  # type: ignore[arg-type]
        if len(text) > 100 or ":" in text:
            raise _yaml_error(node, "expected a whole number of at most 64 bits")
        value = int(self.construct_yaml_int(node))  # type: ignore[arg-type]
        if not -(2**63) <= value < 2**63:
            raise _yaml_error(node, "expected a whole number of at most 64 bits")
        return value

    def text(self, node: yaml.Node) -> str:
        value = str(self.construct_scalar(node))  # type: ignore[arg-type]
        if not value.replace("\n", "").isprintable():
            raise _yaml_error(node, f"expected printable text, given {value[:100]!r}")
        return value


def _yaml_error(node: yaml.Node, message: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"{message}, in line {node.start_mark.line + 1}")


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.whole)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.text)
