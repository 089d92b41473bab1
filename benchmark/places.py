"""Where things lie: one rule for all commands, the app and the tests.

A project is a folder with a user's own submissions and results. It is named (`--project`, or
LEAKBOARD_PROJECT), or found as git finds a repository: the nearest folder, from the current one upwards, that
holds one of MARKS (a folder that anybody may write to, such as /tmp, is passed over); where there is none, the current
folder is one. What comes with the package (the baselines,
the published boards) lies beside it, and is read where the project has nothing of its own; only the project is
written to. In a checkout both are the same folder.

    submissions/            LEAKBOARD_SUBMISSIONS   attacks/ and defenses/
    mlruns/store            LEAKBOARD_STORE         what was computed
    mlruns/mlflow.db        MLFLOW_TRACKING_URI     MLflow
    mlruns/optuna.db        LEAKBOARD_OPTUNA        Optuna's studies
    mlruns/models/          LEAKBOARD_MODELS        pretrained models
    leaderboard/published/  LEAKBOARD_PUBLISHED     published boards
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from benchmark.addresses import checked, sqlite_address, sqlite_file
from benchmark.errors import UserError

MARKS = ("submissions/attacks", "submissions/defenses", "mlruns/store")
PACKAGED = Path(__file__).resolve().parent.parent
"""The folder that holds the package, its baselines and its boards: a checkout, or site-packages."""
VARIABLE = "LEAKBOARD_PROJECT"


@dataclass(frozen=True)
class Project:
    """`root` is absolute; `how` says in words why it is this one."""

    root: Path
    how: str


def project() -> Project:
    """The project that this process works in. Raises UserError where the one that is named is no folder."""
    if named := os.environ.get(VARIABLE):
        root = _expanded(named)
        if not os.path.isdir(root):
            raise UserError(f"--project (or {VARIABLE}): expected a folder, given {str(root)!r}")
        return Project(root.resolve(), f"named by --project or {VARIABLE}")
    here = _here()
    for folder in (here, *(f for f in here.parents if not _anybodys(f))):
        if mark := next((m for m in MARKS if os.path.isdir(folder / m)), None):
            return Project(folder, f"the nearest folder from here upwards with {mark}/")
    return Project(here, "this folder: none from here upwards has " + " or ".join(f"{m}/" for m in MARKS))


def submissions() -> Path:
    """The folder of the user's own attacks/ and defenses/."""
    return _folder("LEAKBOARD_SUBMISSIONS", "submissions")


def baselines() -> Path | None:
    """The submissions that come with the package, which stand beside the user's own.

    None where they are the same folder, and where LEAKBOARD_SUBMISSIONS names one: that is then all there is.
    """
    packaged = PACKAGED / "submissions"
    if os.environ.get("LEAKBOARD_SUBMISSIONS") or not packaged.is_dir() or _same(packaged, submissions()):
        return None
    return packaged


def store() -> Path:
    """The folder of the store. Raises UserError for a file."""
    root = _folder("LEAKBOARD_STORE", "mlruns/store")
    if root.exists() and not root.is_dir():
        raise UserError(f"LEAKBOARD_STORE: expected a folder, given the file {root}")
    return root


def models() -> Path:
    """The folder of pretrained models."""
    return _folder("LEAKBOARD_MODELS", "mlruns/models")


def published() -> Path:
    """The folder that boards are published in."""
    return _folder("LEAKBOARD_PUBLISHED", "leaderboard/published")


def boards() -> list[Path]:
    """The folders that published boards are read from: what the first has of a protocol takes the second's place."""
    own, packaged = published(), PACKAGED / "leaderboard" / "published"
    return [own] if os.environ.get("LEAKBOARD_PUBLISHED") or _same(own, packaged) else [own, packaged]


def board(name: str) -> Path:
    """The folder that a protocol's board is read from: the project's own, or the one that comes with the package."""
    return next((f / name for f in boards() if (f / name).is_dir()), published() / name)


def own_board(name: str) -> Path:
    """The folder that a protocol's board is written to: what comes with the package is copied there first.

    Raises OSError where it cannot be written.
    """
    own, source = published() / name, board(name)
    if source != own:
        draft = published().with_name(f".{name}-{os.getpid()}")  # not among the boards: it is none yet
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            copy = draft / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        own.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(own)
    return own


def mlruns() -> Path:
    """The folder of MLflow's files and Optuna's figures."""
    return project().root / "mlruns"


def tracking() -> str:
    """The address of MLflow. Raises UserError for one that cannot be read."""
    return _address("MLFLOW_TRACKING_URI", "mlflow.db")


def optuna() -> str:
    """The address of Optuna's studies. Raises UserError for one that cannot be read."""
    return _address("LEAKBOARD_OPTUNA", "optuna.db")


def lasting(address: str) -> str:
    """A name for the address that stays when the project is moved or copied, or a command begun in another folder."""
    file, root = sqlite_file(address), project().root
    if file is None or not file.absolute().is_relative_to(root):
        return address
    return sqlite_address(file.absolute().relative_to(root), address)


def brief(path: Path) -> str:
    """A path as it is shown: relative to the current folder where it lies in it."""
    here = _here()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(path)


def _folder(variable: str, usual: str) -> Path:
    named = os.environ.get(variable)
    return _here() / _expanded(named) if named else project().root / usual


def _address(variable: str, usual: str) -> str:
    if given := os.environ.get(variable):
        return checked(variable, given)
    return sqlite_address(mlruns() / usual)


def _expanded(named: str) -> Path:
    return Path(os.path.expanduser(named))  # Path.expanduser raises where there is no such user


def _here() -> Path:
    try:
        return Path.cwd()
    except OSError:
        raise UserError("expected a current folder, given one that is gone; change to another one") from None


def _anybodys(folder: Path) -> bool:
    """Whether any user of the machine could have laid a project there."""
    try:
        return bool(folder.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return False


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
