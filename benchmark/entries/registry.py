"""Finds the submissions, and reads what they declare without running them.

Cards, needs, stages and hyperparameters are literals: they are read from the syntax tree, so that a
file that is broken, slow or hostile can be listed, planned for and refused before it is imported.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import hashlib
import importlib.metadata
import inspect
import json
import re
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from pydantic import ValidationError

from benchmark import api, reading
from benchmark.api import AnyAttack, Card, Defense, Hyper, Pretrained
from benchmark.digests import code_of, tree_digest
from benchmark.entries.cards import WORD, hyperparameters, literal, pretrained_marks
from benchmark.errors import UserError, printable, suggest
from benchmark.protocol import OWN_GUARDS, UNCHANGED, AttackAxes, Axes
from benchmark.text import NAME, name_parts

ATTACKS: dict[str, type[AnyAttack]] = {cls.task: cls for cls in AnyAttack.__subclasses__()}
"""The contract's class of each kind of attack, by the kind's name."""
_TASK_OF_BASE = {cls.__name__: task for task, cls in ATTACKS.items()} | {"Defense": "defense"}
"""The kind of attack, or "defense", by the name of the contract's class that a submission derives from."""
_KINDS: tuple[Literal["attack", "defense"], ...] = ("attack", "defense")
REVIEWED = Path(__file__).parent / "reviewed.json"
_DECLARED = {
    "card",
    "access",
    "needs",
    "calibrate",
    "stages",
    "data_independent",
    "uses",
    "keeps_labels",
    "adaptive_attack",
}
"""Attributes of a submission's class that are read from the syntax tree."""
_OF_THE_CONTRACT = ("task", "answer", "returns", "from_shadow")
"""Attributes by which the contract describes a kind of attack."""
SIZE = 1 << 18
"""Bytes of a submission at most, so that reading one takes a bounded time."""
_WARNINGS_LOCK = threading.Lock()
"""Warning filters are global to the process, and the app reads submissions in several threads."""
SPEC_LENGTH = 1000
"""Characters at most of an entry's name, hyperparameters included."""
_SPEC_PATTERN = re.compile(r"[A-Za-z0-9_\-]+(?:\[[^\[\]]*\])?(?:\+[A-Za-z0-9_\-]+(?:\[[^\[\]]*\])?)*")
_CONSTANTS: dict[str, Any] = {"null": None, "true": True, "false": False}


@dataclass(frozen=True)
class Entry:
    """What one file of `submissions/` declares. With `error` set, the other fields mean nothing."""

    id: str
    kind: Literal["attack", "defense"]
    path: Path
    error: str = ""
    task: str = ""
    card: Card | None = None
    access: str = ""
    needs: frozenset[str] = frozenset()
    calibrate: str = "shadow"
    stages: tuple[str, ...] = ()
    data_independent: bool = False
    uses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Extra data that it reads, by name: where one of these hyperparameters has one of these values; {}: always."""
    keeps_labels: Mapping[str, Any] | None = None
    """Where the guard changes no label: where all these hyperparameters have one of these values; {}: always; None: no promise."""
    adaptive_attack: str = ""
    plain_training: bool = True
    """Whether it defines neither `train` nor `network`: its reference models can then train as one ensemble."""
    plain_network: bool = True
    """Whether it does not define `network`: the judge can then serve its weights without running its code."""
    params: type[Hyper] = Hyper
    doc: str = ""
    source: str = ""
    """Digest of the code; comments, docstrings and layout don't count."""
    text: str = field(default="", repr=False)
    """The text of the file as it was read, line ends included. This text is checked, hashed and run, even if the file changes later."""
    class_name: str = ""
    libraries: tuple[str, ...] = ()
    """Dotted names of all that it imports, apart from the contract."""
    contract: tuple[str, ...] = ()
    """The names of the contract that it imports."""
    texts: frozenset[str] = frozenset()
    """Short string literals of its code, outside of `Params`: one may name an architecture that it builds."""

    @property
    def reviewed(self) -> bool:
        """Whether this file is listed as reviewed, byte for byte, so that it may run in the judge's process."""
        return _reviewed().get(f"{self.kind}s/{self.id}") == hashlib.sha256(self.text.encode()).hexdigest()

    def receives(self, field: str) -> bool:
        """Whether an attack gets this field of `Knowledge`."""
        if field in ("shadow", "embeddings", "auxiliary"):
            return "shadow" in self.needs and ATTACKS[self.task].from_shadow == field
        return field in self.needs

    @property
    def asks_own_models(self) -> bool:
        """Whether it is an attack that learns from answers of the adversary's own (shadow, reference) models behind their guards."""
        own = {"shadow", "references-online", "references-offline"}
        return self.task == "membership" and self.access != "white-box" and bool(self.needs & own)

    @property
    def versions(self) -> dict[str, str]:
        """Installed versions of the packages that it imports, which its numbers depend on; without PyTorch, NumPy, the standard library."""
        names = {name.split(".")[0] for name in self.libraries}
        names -= {*sys.stdlib_module_names, "torch", "numpy"}
        return {name: version for name in sorted(names) if (version := version_of(name))}

    def load(self) -> type:
        """Run the file in this process, once, and return the submission's class."""
        name = f"submissions.{self.kind}s.{self.id}"
        module = sys.modules.get(name)
        if module is None or getattr(module, "__leakboard_text__", None) != self.text:
            module = ModuleType(name)
            module.__file__ = str(self.path)
            module.__leakboard_text__ = self.text  # type: ignore[attr-defined]
            sys.modules[name] = module
            exec(compile(self.text, str(self.path), "exec"), module.__dict__)
        return cast(type, getattr(module, self.class_name))


@cache
def version_of(module: str) -> str:
    """The version of the package that a top-level module belongs to; "" where it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(module)
    packages = _packages().get(module, [])  # scikit-learn is sklearn's
    return importlib.metadata.version(packages[0]) if packages else ""


@cache
def _packages() -> Mapping[str, list[str]]:
    """Names of installed packages by top-level module. Cached: it takes half a second, and a hostile file may import thousands."""
    return importlib.metadata.packages_distributions()


@cache
def _reviewed() -> dict[str, str]:
    """SHA-256 of the reviewed files, by kinds/id, such as attacks/loss."""
    listed: dict[str, str] = json.loads(REVIEWED.read_text("utf-8"))
    return listed


def review(entries: list[Entry]) -> None:
    """Add files to the list of reviewed ones, which is sorted by name."""
    listed = _reviewed() | {f"{e.kind}s/{e.id}": hashlib.sha256(e.text.encode()).hexdigest() for e in entries}
    REVIEWED.write_text(json.dumps(dict(sorted(listed.items())), indent=1) + "\n", "utf-8")
    _reviewed.cache_clear()


@dataclass(frozen=True)
class Part:
    """An entry with its hyperparameters; and what it changes of the recipe (training defenses) or of its adversary (attacks)."""

    entry: Entry
    params: Hyper
    axes: Axes = UNCHANGED
    adversary: AttackAxes = OWN_GUARDS

    @property
    def name(self) -> str:
        """The canonical name: id[parameter=value,...] with what differs from the defaults, in the order of declaration."""
        chosen = {k: v for k, v in self.params.model_dump().items() if v != self.entry.params.model_fields[k].default}
        chosen |= self._changed
        inside = ",".join(f"{k}={_format_value(v)}" for k, v in chosen.items())
        return f"{self.entry.id}[{inside}]" if inside else self.entry.id

    @property
    def key(self) -> dict[str, Any]:
        """All that its numbers depend on, for keys of the store: code, hyperparameters, contract, library versions."""
        contract = code_of(*(f"api:{name}" for name in self.entry.contract))
        optional: dict[str, Any] = {"axes": self._changed, "libraries": self.entry.versions, "contract": contract}
        own = {"id": self.entry.id, "source": self.entry.source, "params": self.params.model_dump(mode="json")}
        return own | {name: value for name, value in optional.items() if value}

    @property
    def knowledge(self) -> str:
        """What an attack knows besides the target: none, or its needs joined by "+"; and guards, with `guards=target` (RULES 12)."""
        extra = ["guards"] if self.adversary.guards == "target" else []
        return "+".join([*sorted(self.entry.needs), *extra]) or "none"

    @property
    def _changed(self) -> dict[str, Any]:
        return self.axes.chosen | self.adversary.chosen

    @property
    def pretrained(self) -> dict[str, Pretrained]:
        """The pretrained models that its hyperparameters name, with their marks."""
        values = ((getattr(self.params, name), mark) for name, mark in pretrained_marks(self.entry.params).items())
        return {model: mark for model, mark in values if model is not None}

    @property
    def uses(self) -> frozenset[str]:
        """The extra data that a defense reads with these hyperparameters."""
        return frozenset(
            name for name, condition in self.entry.uses.items()
            if not condition or any(getattr(self.params, p) in values for p, values in condition.items())
        )  # fmt: skip

    @property
    def keeps_labels(self) -> bool:
        """Whether a guard with these hyperparameters promises that no label changes."""
        condition = self.entry.keeps_labels
        return condition is not None and all(getattr(self.params, p) in values for p, values in condition.items())

    @property
    def replaced(self) -> frozenset[str]:
        """Hyperparameters without effect: the pretrained model that is named takes their place (`instead_of`)."""
        active = (
            m for name, m in pretrained_marks(self.entry.params).items() if getattr(self.params, name) is not None
        )
        return frozenset(name for mark in active for name in mark.instead_of)

    def create(self) -> Any:
        """An instance of the file's own class, with its own `Params`."""
        cls = self.entry.load()
        return cls(cls.Params(**self.params.model_dump()))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Chain:
    """A cascade of defenses: the one that trains the network, and the guards around it, innermost first.

    The training defense may also be one of the guards.
    """

    name: str
    training: Part
    guards: tuple[Part, ...] = ()
    prepared: tuple[str, int] = ("shadow", 0)
    """The network on which the guards of the adversary's own models are prepared: the shadow model, or the target that
    is attacked (`facing`)."""

    def facing(self, attack: Part, target: int = 0) -> Chain:
        """This cascade as this attack is scored on it, on the target of this number.

        The adversary's own models stand behind guards that are prepared in the world that the attack's `guards` names
        (RULES 3). For label access, guards that change no label are left out: they change no answer.
        """
        seen = self.by_label() if attack.entry.access == "label" else self
        return (
            replace(seen, prepared=("target", target)) if seen.guards and attack.adversary.guards == "target" else seen
        )

    def by_label(self) -> Chain:
        """The cascade without its last guards that promise to change no label: it predicts the same labels."""
        guards = self.guards
        while guards and guards[-1].keeps_labels and guards[-1] is not self.training:
            guards = guards[:-1]
        if guards == self.guards:
            return self
        before = [g for g in guards if g is not self.training]
        return Chain("+".join(p.name for p in (self.training, *before)), self.training, guards)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The training defense, then the guards, each once."""
        return (self.training, *(g for g in self.guards if g is not self.training))


@dataclass
class Registry:
    """All entries under `root`, the user's folder with `attacks/` and `defenses/`, and under `baselines`, the package's folder.

    `entries` has them by (kind, id), where kind is attack or defense.
    """

    root: Path
    baselines: Path | None = None
    entries: dict[tuple[str, str], Entry] = field(init=False)

    def __post_init__(self) -> None:
        self.root = Path(self.root)
        self._shipped = {(e.kind, e.id): e for e in _entries_in(self.baselines)} if self.baselines else {}
        own = {(e.kind, e.id): self._own(e) for e in _entries_in(self.root)}
        self.entries = dict(sorted((self._shipped | own).items()))

    def add(self, path: Path, kind: Literal["attack", "defense"]) -> Entry:
        """Read an entry from a file anywhere, and add it."""
        entry = self._own(read(Path(path), kind))
        self.entries[kind, entry.id] = entry
        return entry

    def _own(self, entry: Entry) -> Entry:
        """The user's entry; one with an error where a baseline of other code has its name and could be taken for it."""
        known = self._shipped.get((entry.kind, entry.id))
        if known is None or entry.text == known.text or _same_file(entry.path, known.path):
            return entry
        error = printable(f"{entry.path}: a baseline has this name; choose another")
        return Entry(entry.id, entry.kind, entry.path, error=error)

    def entry(self, kind: str, id: str) -> Entry:
        """The entry of this kind and id. Raises UserError where there is none, or its file has an error."""
        entry = self.entries.get((kind, id))
        if entry is None:
            names = {"attack": "an attack", "defense": "a defense"}
            if other_kinds := [names[k] for k, i in self.entries if i == id]:
                raise UserError(f"{id!r}: expected {names[kind]}, given {other_kinds[0]}")
            raise UserError(f"unknown {kind} {id!r}{suggest(id, (i for k, i in self.entries if k == kind))}")
        if entry.error:
            raise UserError(entry.error)
        return entry

    def kind_of(self, spec: str) -> Literal["attack", "defense"]:
        """Whether a name from the command line is an attack or a defense. Raises UserError for an unknown or ambiguous one."""
        id = _split(spec)[0][0]
        kinds = [k for k in ("attack", "defense") if (k, id) in self.entries]
        if not kinds:
            raise UserError(f"unknown entry {id!r}{suggest(id, (i for _, i in self.entries))}")
        if len(kinds) == 2 and "+" not in spec:
            raise UserError(f"{id!r} is both an attack and a defense; rename one of the files")
        return "defense" if "+" in spec else cast(Literal["attack", "defense"], kinds[0])

    def attack(self, spec: str) -> Part:
        """The attack of a name such as `nn_sorted` or `attribute_mlp[embedding=untrained]`. Raises UserError."""
        parts = _split(spec)
        if len(parts) != 1:
            raise UserError(f"{spec!r}: expected one attack; only defenses form cascades with '+'")
        return self._part("attack", *parts[0])

    def chain(self, spec: str, baseline: str) -> Chain:
        """The cascade of a name such as `dp_sgd[noise_multiplier=1.1]+diffence`. Raises UserError.

        Where no part of it trains, the defense `baseline` does.
        """
        parts = [self._part("defense", *p) for p in _split(spec)]
        training = [p for p in parts if "training" in p.entry.stages]
        if len(training) > 1:
            raise UserError(f"{spec!r}: expected one training defense, given {' and '.join(p.name for p in training)}")
        guard_parts = [p for p in parts if set(p.entry.stages) - {"training"}]
        is_post = ["post-inference" in p.entry.stages for p in guard_parts if p not in training]
        if is_post != sorted(is_post) or (training and parts[0] is not training[0]):
            order = sorted(parts, key=lambda p: ("training" not in p.entry.stages, "post-inference" in p.entry.stages))
            raise UserError(f"{spec!r}: expected the stages in order; write {'+'.join(p.name for p in order)!r}")
        # A training defense that also acts after inference does so behind the pre-inference guards.
        guards = tuple(sorted(guard_parts, key=lambda p: "post-inference" in p.entry.stages))
        first = training[0] if training else self._part("defense", *_split(baseline)[0])
        # The name leaves the baseline out where it trains for guards: each cascade has one name.
        canonical = [p for p in parts if not (guards and p not in guards and p.name == baseline)]
        return Chain("+".join(p.name for p in canonical), first, guards)

    def _part(self, kind: str, id: str, settings: dict[str, Any]) -> Part:
        """An entry with the settings from its brackets. Raises UserError for unknown names and values out of range."""
        entry = self.entry(kind, id)
        axes = tuple(Axes.model_fields) if "training" in entry.stages else ()
        adversary_axes = tuple(AttackAxes.model_fields) if entry.asks_own_models else ()
        known = (*entry.params.model_fields, *axes, *adversary_axes)
        unknown = [k for k in settings if k not in known]
        if unknown:
            if unknown[0] in AttackAxes.model_fields and kind == "attack":
                needs = " and ".join(sorted(entry.needs)) or "nothing"
                raise UserError(
                    f"{id}: {unknown[0]}: expected a membership attack by labels or posteriors that needs shadow or reference models, "
                    f"given {entry.task} by {entry.access} access that needs {needs}; leave {unknown[0]} out"
                )
            hint = suggest(unknown[0], known)
            if unknown[0] in Axes.model_fields and kind == "defense":
                hint = "; the recipe belongs to the training defense, such as undefended"
            raise UserError(f"{id}: unknown hyperparameter {unknown[0]!r}{hint}")
        try:
            changes = Axes(**{k: v for k, v in settings.items() if k in axes})
            adversary = AttackAxes(**{k: v for k, v in settings.items() if k in adversary_axes})
            params = entry.params(**{k: v for k, v in settings.items() if k not in (*axes, *adversary_axes)})
            part = Part(entry, params, changes, adversary)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(p) for p in first["loc"])
            raise UserError(f"{id}: hyperparameter {where}: {first['msg']}, given {first['input']!r}") from None
        for name in sorted(part.replaced):
            value, default = getattr(part.params, name), entry.params.model_fields[name].default
            if value != default:
                raise UserError(
                    f"{id}: hyperparameter {name}: expected its default {_format_value(default)} beside the pretrained model "
                    f"{next(iter(part.pretrained))}, which takes its place, given {_format_value(value)}"
                )
        return part


def _entries_in(root: Path) -> Iterator[Entry]:
    for kind in _KINDS:
        for path in sorted((root / f"{kind}s").glob("*.py")):
            if not path.name.startswith("_"):
                yield read(path, kind)


def _same_file(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return False


def read(path: Path, kind: Literal["attack", "defense"]) -> Entry:
    """The entry that a file declares; whatever is wrong with the file becomes the one-line `error` of the entry."""
    id = path.stem
    try:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", id):
            raise UserError(
                f"{path}: expected a file name that begins with a letter, of a-z, 0-9 and _, given {path.name!r}"
            )
        return _read(path, kind, id)
    except UserError as error:
        text = str(error)
    except SyntaxError as error:
        text = f"{path}: line {error.lineno}: syntax error: {error.msg}"
    except (RecursionError, MemoryError):
        text = f"{path}: cannot be read: expected code that is less deeply nested"
    except Exception as error:  # a literal can be wrong in as many ways as Python has errors
        text = f"{path}: cannot be read: {type(error).__name__}: {error}".splitlines()[0]
    return Entry(id, kind, path, error=printable(text))


def _read(path: Path, kind: Literal["attack", "defense"], id: str) -> Entry:
    return _declared(path, kind, id, reading.text(path, SIZE))


@lru_cache(maxsize=512)
def _declared(path: Path, kind: Literal["attack", "defense"], id: str, text: str) -> Entry:
    """What a text declares. Kept, since one command makes several registries, and reading all files takes most of a second."""
    tree = _parse(text, path)
    nodes = list(ast.walk(tree))
    _check_imports(nodes, path)
    cls = _submission_class(tree, path)
    task = _TASK_OF_BASE[_base_class(cls)]
    if (task == "defense") != (kind == "defense"):
        raise UserError(
            f"{path}: expected {'a Defense' if kind == 'defense' else 'an attack'}, given a {_base_class(cls)}"
        )
    values: dict[str, Any] = {}
    params: type[Hyper] = Hyper
    for node in cls.body:
        if isinstance(node, ast.ClassDef) and node.name == "Params":
            params = hyperparameters(node, path, tuple((Axes if kind == "defense" else AttackAxes).model_fields))
        name, value = _assignment(node)
        if name in _DECLARED and value is not None:
            values[name] = literal(value, path)
    _check_declarations(cls, path)
    if kind == "attack" and (named := pretrained_marks(params)):
        raise UserError(f"{path}: Params: {next(iter(named))}: expected Pretrained in a defense, given an attack")
    _check_values(values, task, path, params)
    methods = {n.name for n in cls.body if isinstance(n, ast.FunctionDef)}
    own = methods | {_assignment(n)[0] for n in cls.body}
    if (
        len(cls.bases) == 1 and not cls.keywords and not cls.decorator_list
    ):  # other bases or a decorator may bring methods
        _check_methods(cls, methods, task, values["stages"], path)
        _check_signatures(cls, ATTACKS.get(task, Defense), path)
    plain = [len(cls.bases) == 1 and not own & names for names in ({"train", "network"}, {"network"})]
    return Entry(
        id, kind, path, task=task, params=params, doc=ast.get_docstring(tree) or "", source=tree_digest(tree),
        text=text, class_name=cls.name, libraries=_libraries(nodes),
        contract=_contract_names(nodes), texts=_short_texts(nodes), plain_training=plain[0], plain_network=plain[1], **values,
    )  # fmt: skip


def _parse(text: str, path: Path) -> ast.Module:
    """The syntax tree of a file's text, without Python's warnings about it. Raises UserError for a coding other than UTF-8."""
    for number, line in enumerate(re.split(r"\r\n?|\n", text, maxsplit=2)[:2], 1):
        coding = re.match(r"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", line)
        if coding and coding[1].lower() not in (
            "utf-8",
            "utf8",
        ):  # Python would run another program than the judge reads
            raise UserError(f"{path}: line {number}: expected UTF-8, given coding {coding[1][:40]!r}")
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def _check_declarations(cls: ast.ClassDef, path: Path) -> None:
    """Check that what is read of a class is what Python would make of it, and that it leaves the contract's own names alone."""
    plain = {id(target) for n in cls.body if isinstance(n, ast.Assign) and len(n.targets) == 1 for target in n.targets}
    plain |= {id(n.target) for n in cls.body if isinstance(n, ast.AnnAssign)}
    seen: set[str] = set()
    for node in _class_level(cls.body):
        if not isinstance(node, ast.Name) or isinstance(node.ctx, ast.Load):
            continue
        if node.id in _OF_THE_CONTRACT:
            raise UserError(
                f"{path}: line {node.lineno}: expected another name, given {node.id!r}, which is the contract's own"
            )
        if node.id in _DECLARED and (id(node) not in plain or node.id in seen):
            raise UserError(
                f"{path}: line {node.lineno}: {node.id}: expected one plain assignment, {node.id} = ..., given another"
            )
        seen.add(node.id)
    for method in (n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name in {*_OF_THE_CONTRACT, *_DECLARED}):
        raise UserError(f"{path}: line {method.lineno}: expected another name for the method {method.name!r}")


def _check_methods(cls: ast.ClassDef, methods: set[str], task: str, stages: tuple[str, ...], path: Path) -> None:
    """Check that an attack has the method of its kind, and a defense those of its stages alone: others would never be called."""
    level = list(_class_level(cls.body))  # methods may be defined under an `if`, or be assigned
    own = {n.name for n in level if isinstance(n, ast.FunctionDef)}
    own |= {n.id for n in level if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    guards = [stage for stage in stages if stage != "training"]
    needed = ATTACKS[task].answer if task in ATTACKS else "guard" if guards else ""
    if needed and needed not in own:
        near = difflib.get_close_matches(needed, methods, n=1, cutoff=0.6)
        hint = f"; did you mean it by {near[0]!r}?" if near else ""
        raise UserError(f"{path}: expected a method {needed!r}, given none{hint}")
    if task != "defense":
        return
    stray = [m for m in ("train", "loss", "network") if m in methods and "training" not in stages]
    idle = [m for m in ("guard", "prepare") if m in methods and not guards]
    if stray or idle:
        stage = "training" if stray else "pre-inference or post-inference"
        raise UserError(
            f"{path}: stages: expected {stage} for the method {(stray + idle)[0]!r}, given {', '.join(stages) or 'none'}; "
            "what is no step of the contract needs another name"
        )


def _check_signatures(cls: ast.ClassDef, contract: type, path: Path) -> None:
    """Check that the contract's methods can be called with what the judge hands to them, in the contract's order."""
    for node in cls.body:
        method = getattr(contract, node.name, None) if isinstance(node, ast.FunctionDef) else None
        if not isinstance(node, ast.FunctionDef) or not inspect.isfunction(method) or node.decorator_list:
            continue
        handed = list(inspect.signature(method).parameters)
        places = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
        required = len(places) - len(node.args.defaults)
        enough = len(places) >= len(handed) or node.args.vararg
        if required > len(handed) or not enough or None in node.args.kw_defaults:
            raise UserError(
                f"{path}: line {node.lineno}: expected {node.name}({', '.join(handed)}), "
                f"given {node.name}({', '.join(places)})"
            )


def _class_level(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """These nodes and all nodes in them, without the insides of functions and classes."""
    for node in nodes:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield from _class_level(ast.iter_child_nodes(node))


def _check_values(values: dict[str, Any], task: str, path: Path, params: type[Hyper]) -> None:
    """Check the declared attributes, and bring them into the forms of `Entry`, in place."""
    required = ["card", "stages"] if task == "defense" else ["card", "access"]
    for name in required:
        if name not in values:
            raise UserError(f"{path}: expected a class attribute {name!r}, given none")
    allowed = {
        "access": {"label", "posterior", "white-box"},
        "calibrate": {"shadow", "own", "none"},
        "needs": {"shadow", "partial", "references-online", "references-offline", "certificate"},
        "uses": {"reference", "validation"},
        "stages": {"training", "pre-inference", "post-inference"},
    }
    if not isinstance(values["card"], Card):
        raise UserError(f"{path}: card: expected Card(...), given {type(values['card']).__name__}")
    _check_card(values["card"], path)
    if not isinstance(values.get("data_independent", False), bool):
        raise UserError(f"{path}: data_independent: expected True or False, given {values['data_independent']!r}")
    if not isinstance(values.get("adaptive_attack", ""), str) or len(values.get("adaptive_attack", "")) > NAME:
        raise UserError(
            f"{path}: adaptive_attack: expected at most {NAME} characters, given {values['adaptive_attack']!r}"
        )
    for name, known in allowed.items():
        if name in values:
            declared = values[name]
            many = name in ("needs", "stages", "uses")
            kinds = (set, frozenset, tuple, list, *([dict] if name == "uses" else []))
            if not isinstance(declared, kinds if many else str):
                raise UserError(
                    f"{path}: {name}: expected {'a collection of names' if many else 'a name'}, given {declared!r}"
                )
            for item in declared if many else (declared,):
                if not isinstance(item, str) or item not in known:
                    raise UserError(f"{path}: {name}: expected one of {', '.join(sorted(known))}, given {item!r}")
    values["needs"] = frozenset(values.get("needs", ()))
    if len(values["needs"] & {"references-online", "references-offline"}) > 1:
        raise UserError(f"{path}: needs: expected one of references-offline and references-online, given both")
    values["stages"] = tuple(values.get("stages", ()))
    uses = values.get("uses", ())
    values["uses"] = uses if isinstance(uses, dict) else {name: {} for name in uses}
    for name, condition in values["uses"].items():
        _check_condition(f"{path}: uses: {name}", condition, params)
    keeps = values.pop("keeps_labels", False)
    if not isinstance(keeps, bool):
        _check_condition(f"{path}: keeps_labels", keeps, params)
    if keeps is not False:
        if "pre-inference" not in values["stages"] and "post-inference" not in values["stages"]:
            raise UserError(
                f"{path}: keeps_labels: expected a stage pre-inference or post-inference beside it, given none"
            )
        values["keeps_labels"] = {} if keeps is True else keeps
        if impossible := [name for name, among in values["keeps_labels"].items() if not among]:
            raise UserError(f"{path}: keeps_labels: {impossible[0]}: expected at least one value, given none")


def _check_condition(name: str, condition: Any, params: type[Hyper]) -> None:
    """Check a mapping of hyperparameters to the values with which something holds."""
    fields = params.model_fields
    if not isinstance(condition, dict) or any(
        p not in fields or not isinstance(v, (tuple, list)) for p, v in condition.items()
    ):
        raise UserError(
            f"{name}: expected hyperparameters with values in a tuple, such as {{'scenario': (1, 2)}}, given {condition!r}"
        )


def _check_card(card: Card, path: Path) -> None:
    """Check that a card can be shown in terminals and pages: its texts are short printable lines."""
    authors = card.authors if isinstance(card.authors, tuple) else (None,)
    for name, text in (("title", card.title), ("reference", card.reference), *(("authors", a) for a in authors)):
        if not isinstance(text, str) or not text.isprintable() or len(text) > 300:
            expected = f"{'a tuple of texts' if name == 'authors' else 'a text'}, each a printable line of at most 300"
            raise UserError(f"{path}: card: {name}: expected {expected} characters, given {getattr(card, name)!r}")
    if card.year is not None and (type(card.year) is not int or not 1900 <= card.year <= 2200):
        raise UserError(f"{path}: card: year: expected a year or None, given {card.year!r}")
    if not isinstance(card.null, bool):
        raise UserError(f"{path}: card: null: expected True or False, given {card.null!r}")


def _check_imports(nodes: Sequence[ast.AST], path: Path) -> None:
    """Check that a file imports nothing of this project but names of the contract: these go into its keys one by one."""
    for node in nodes:
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = (
                [] if node.module == "benchmark.api" and not node.level else ["." * node.level + (node.module or "")]
            )
        else:
            continue
        for name in imported:
            if name.split(".")[0] in ("benchmark", "leaderboard", "leakboard", "submissions", ""):
                raise UserError(
                    f"{path}: line {node.lineno}: expected imports from benchmark.api alone, given {name!r}; "
                    "write `from benchmark.api import NAME`"
                )
        for alias in [] if imported else node.names:
            if alias.name not in (*api.__all__, "*"):
                near = suggest(alias.name, api.__all__)
                raise UserError(
                    f"{path}: line {node.lineno}: expected a name that benchmark.api exports, given {alias.name!r}{near}"
                )


def _libraries(nodes: Sequence[ast.AST]) -> tuple[str, ...]:
    """Dotted names of all imports but those of the contract, sorted."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module if a.name == "*" else f"{node.module}.{a.name}" for a in node.names}
    return tuple(sorted(n for n in names if not n.startswith(("benchmark.", "__future__."))))


def _contract_names(nodes: Sequence[ast.AST]) -> tuple[str, ...]:
    """Names that are imported from the contract, sorted; all of them for `*`."""
    imports = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module == "benchmark.api"]
    named = {alias.name for node in imports for alias in node.names}
    return tuple(sorted(api.__all__ if "*" in named else named))


def _short_texts(nodes: Sequence[ast.AST]) -> frozenset[str]:
    """String literals of at most 40 characters, without docstrings and `Params`."""
    params = [n for n in nodes if isinstance(n, ast.ClassDef) and n.name == "Params"]
    left_out = {id(n) for node in params for n in ast.walk(node)}
    left_out |= {id(n.value) for n in nodes if isinstance(n, ast.Expr)}  # docstrings
    texts = (n.value for n in nodes if isinstance(n, ast.Constant) and id(n) not in left_out)
    return frozenset(text for text in texts if isinstance(text, str) and len(text) <= 40)


def _submission_class(tree: ast.Module, path: Path) -> ast.ClassDef:
    """The one top-level class that derives from one class of the contract. Raises UserError for another number of either."""
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and _base_class(n) in _TASK_OF_BASE]
    if len(classes) != 1:
        given = " and ".join(c.name for c in classes) or "none"
        raise UserError(f"{path}: expected one class deriving from {', '.join(_TASK_OF_BASE)}; given {given}")
    bases = [name for base in classes[0].bases if (name := _name_of(base)) in _TASK_OF_BASE]
    if len(bases) > 1:
        raise UserError(
            f"{path}: expected a class deriving from one class of the contract, given {' and '.join(bases)}"
        )
    return classes[0]


def _base_class(cls: ast.ClassDef) -> str:
    """The contract's class that a class derives from; "" for none."""
    for base in cls.bases:
        name = _name_of(base)
        if name in _TASK_OF_BASE:
            return name
    return ""


def _name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _assignment(node: ast.stmt) -> tuple[str, ast.expr | None]:
    """Name and value of an assignment to one name; ("", None) for other statements."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id, node.value
    return "", None


def _split(spec: str) -> list[tuple[str, dict[str, Any]]]:
    """The ids and settings that an entry's name consists of. Raises UserError for what is no name of an entry."""
    if len(spec) > SPEC_LENGTH:
        raise UserError(f"{spec[:40]!r}...: expected an entry of at most {SPEC_LENGTH} characters, given {len(spec)}")
    spec, parts = spec.replace(" ", ""), []
    if not _SPEC_PATTERN.fullmatch(spec):
        raise UserError(f"{spec!r}: expected NAME, NAME[parameter=value,...] or a cascade NAME+NAME")
    for id, inside in name_parts(spec):
        settings: dict[str, Any] = {}
        for item in inside:
            name, equals, value = item.partition("=")
            if not equals or not name:
                raise UserError(f"{spec!r}: expected parameter=value in brackets, given {item!r}")
            if name in settings:
                raise UserError(f"{spec!r}: expected each parameter once, given {name!r} twice")
            settings[name] = _parse_value(value, spec)
        parts.append((id, settings))
    return parts


def _parse_value(text: str, spec: str) -> Any:
    """The value of null, true, false, a number or a word. Raises UserError for other texts."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    number = re.fullmatch(r"[-+]?[.0-9]+([eE][-+]?[0-9]+)?", text)
    try:
        if number:
            return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
        if re.fullmatch(WORD, text):
            return text
    except ValueError:
        pass
    expected = "a number" if number else "a number, true, false, null, or a word of letters, digits, '.', '_' and '-'"
    raise UserError(f"{spec!r}: expected {expected}, given {text!r}")


def _format_value(value: Any) -> str:
    """A value as `_parse_value` reads it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
