"""What trains models for an audit (`Trainer`), and one of these: a user's own recipe, a file with `def train(x, y, classes, seed)`.

The file belongs to whoever audits, and runs as it does for them: with their modules beside it, their packages, files, cores and
GPU. So it gets a process instead of a sandbox. A crash, memory that runs out, or a changed global state then ends or touches the
training of one model alone, and what comes back is an array of answers that holds no code. The file is read without running it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import random
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import reading
from benchmark.digests import digest
from benchmark.errors import UserError, error_line, message_of, out_of_memory, printable
from benchmark.networks import given
from benchmark.networks.access import ask, raw
from benchmark.networks.architecture import Shape
from benchmark.run.audit.predictions import Source

LARGEST = 1 << 20
"""Bytes of a file at most."""
_FILES = 1000
"""Files of a package that lies beside a recipe, at most."""
SIGNATURE = "def train(x, y, classes, seed)"


class Trainer(Protocol):
    """What trains a model on some of the records, and asks it about all."""

    @property
    def name(self) -> str:
        """What messages and reports call it."""

    @property
    def key(self) -> str:
        """Digest of all that a model depends on besides the records, their number of classes and the seed."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files that it is made of."""

    @property
    def told(self) -> dict[str, Any]:
        """What the report says of it: fields of `report.Recipe`."""

    @property
    def asked(self) -> dict[str, str]:
        """What another process makes it from (`process.again`)."""

    @property
    def architecture(self) -> str:
        """The name of the network that it builds; "" where that is its own code's affair."""

    def check(self, classes: int, shape: Shape) -> None:
        """Raises UserError, before any training, where it can't train on such images."""

    def answers(self, data: dict[str, Tensor], rows: Tensor, classes: int, seed: int, order: int) -> Tensor:
        """Log-posteriors (n, k) float64 to all images, of a model trained on these rows, in a process of its own.

        data: x (n, c, h, w) and y (n,). order: seed of the order in which it is asked. Raises UserError, in one line.
        """


@dataclass(frozen=True)
class File:
    """A recipe's file. `key`: digest of its text and of the modules beside it that it imports, directly or not."""

    path: Path
    key: str
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def sources(self) -> tuple[Source, ...]:
        return (Source(self.name, self.bytes, self.sha256),)

    @property
    def told(self) -> dict[str, Any]:
        return {"file": self.name}

    @property
    def asked(self) -> dict[str, str]:
        return {"file": str(self.path.absolute())}

    @property
    def architecture(self) -> str:
        return ""

    def check(self, classes: int, shape: Shape) -> None:
        """Nothing is known of it before it runs."""

    def answers(self, data: dict[str, Tensor], rows: Tensor, classes: int, seed: int, order: int) -> Tensor:
        """As `Trainer` has it. Python's, NumPy's and PyTorch's global generators are seeded before."""
        path, x, y = self.path, data["x"], data["y"]
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the user's code may draw from it
        torch.manual_seed(seed)
        try:
            network = _function(path)(x[rows], y[rows], classes, seed)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise UserError(_told(path, error)) from None
        if not isinstance(network, nn.Module):
            raise UserError(
                f"{path.name}: train: expected a torch.nn.Module, images -> logits, given {type(network).__name__}"
            )
        first = next(network.parameters(), None)
        device = torch.device("cpu") if first is None else first.device
        try:
            network = given.Adapted(network.to("cpu", torch.float32))
            given.check(network, classes, tuple(x.shape[1:]), f"{path.name}: train")  # type: ignore[arg-type]
        except ValueError as problem:
            raise UserError(str(problem)) from None
        return finite(ask(raw(network, device), x, np.random.default_rng(order)), f"{path.name}: train")


def read(path: Path) -> File:
    """A recipe, none of which is run. Raises UserError where it is no Python, or has no `train`."""
    text = reading.text(path, LARGEST, "a recipe, a Python file")
    tree = _parsed(path, text)
    found = [s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == "train"]
    if not found:
        raise UserError(f"{path.name}: expected a function {SIGNATURE} that returns a torch.nn.Module, given none")
    taken = found[-1].args
    if len(taken.posonlyargs + taken.args) != 4 and not taken.vararg:
        raise UserError(
            f"{path.name}, line {found[-1].lineno}: expected {SIGNATURE}, given train({ast.unparse(taken)[:80]})"
        )
    texts = {path.name: text}
    left = _beside(path.parent, tree)
    while left:
        name = left.pop()
        relative = str(name.relative_to(path.parent))
        if relative not in texts:
            texts[relative] = reading.text(name, LARGEST, "a module of the recipe")
            left += _beside(path.parent, _parsed(name, texts[relative]))
    content = text.encode()
    return File(path, digest("recipe", texts), len(content), hashlib.sha256(content).hexdigest())


def _parsed(path: Path, text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        raise UserError(f"{path.name}: expected Python, given: {printable(str(problem), 200)}") from None


def _beside(folder: Path, tree: ast.Module) -> list[Path]:
    """The files in the recipe's folder that this module imports: modules, and all of a package."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    files = [folder / f"{name}.py" for name in sorted(names)]
    for name in sorted(names):
        if (folder / name).is_dir():
            files += sorted((folder / name).rglob("*.py"))[:_FILES]
    return [path for path in files if path.is_file()]


# --- In the process that trains ---------------------------------------------------------------------


def finite(answers: Tensor, what: str) -> Tensor:
    """The answers (n, k). Raises UserError, in the name of `what`, for NaN."""
    if bad := int(torch.isnan(answers).any(1).sum()):
        raise UserError(
            f"{what}: expected a network of finite logits, given NaN or infinite ones for {bad} of {len(answers)} images"
        )
    return answers


def _function(path: Path) -> Any:
    """The function `train` of the file, which is run as if it were imported from its folder."""
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module.train


def _told(path: Path, error: BaseException) -> str:
    """An error of the user's code in one line, with the innermost line that lies in the recipe's folder."""
    folder = path.parent.resolve()
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve().is_relative_to(folder)]
    at = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name}" if frames else path.name
    hint = "train fewer models at once (--workers 1), or in smaller batches" if out_of_memory(error) else ""
    return f"train failed: {error_line(type(error).__name__, message_of(error), at, hint)}"
