"""Where things lie: one rule for all commands, the app and the tests.

A project is a folder with a user's own submissions and results. It is named (`--project`, or LEAKBOARD_PROJECT), or
found as git finds a repository: the nearest folder, from the current one upwards, that holds one of MARKS. Parents that
anybody may write to, such as /tmp, are passed over. Where there is no such folder, the current one is the project.

Baselines and published boards also come with the package, and are read where the project has none of its own. Only the
project is written to. In a checkout both are the same folder.

    submissions/            LEAKBOARD_SUBMISSIONS   attacks/ and defenses/
    networks/               LEAKBOARD_NETWORKS      networks of one's own
    mlruns/store            LEAKBOARD_STORE         what was computed
    mlruns/mlflow.db        MLFLOW_TRACKING_URI     MLflow
    mlruns/optuna.db        LEAKBOARD_OPTUNA        Optuna's studies
    mlruns/models/          LEAKBOARD_MODELS        pretrained models
    mlruns/data/            LEAKBOARD_PREPARED      prepared data sets
    leaderboard/published/  LEAKBOARD_PUBLISHED     published boards
    data/                                           data sets of the user's own, a file each
    protocols/                                      protocols of the user's own
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from benchmark.addresses import checked, sqlite_address, sqlite_file
from benchmark.errors import UserError

MARKS = ("submissions/attacks", "submissions/defenses", "mlruns/store")
"""Folders that make the folder they lie in a project."""
PACKAGED = Path(__file__).resolve().parent.parent
"""The folder that holds the package, its baselines and its boards: a checkout, or site-packages."""
VARIABLE = "LEAKBOARD_PROJECT"


@dataclass(frozen=True)
class Project:
    """A project's absolute folder, and a phrase that says how it was found."""

    root: Path
    how: str


def project() -> Project:
    """The project that this process works in. Raises UserError where `--project` names no folder."""
    if named := os.environ.get(VARIABLE):
        root = _expanduser(named)
        if not os.path.isdir(root):
            raise UserError(f"--project (or {VARIABLE}): expected a folder, given {str(root)!r}")
        return Project(root.resolve(), f"named by --project or {VARIABLE}")
    here = _current_folder()
    for folder in (here, *(f for f in here.parents if not _world_writable(f))):
        if mark := next((m for m in MARKS if os.path.isdir(folder / m)), None):
            return Project(folder, f"the nearest folder from here upwards with {mark}/")
    return Project(here, "this folder: none from here upwards has " + " or ".join(f"{m}/" for m in MARKS))


def submissions() -> Path:
    """The folder of the user's own attacks/ and defenses/."""
    return _folder("LEAKBOARD_SUBMISSIONS", "submissions")


def baselines() -> Path | None:
    """The submissions that come with the package, which stand beside the user's own.

    None where they are the same folder, and where LEAKBOARD_SUBMISSIONS is set: that folder is then the only one.
    """
    packaged = PACKAGED / "submissions"
    if os.environ.get("LEAKBOARD_SUBMISSIONS") or not packaged.is_dir() or _same_folder(packaged, submissions()):
        return None
    return packaged


def networks() -> Path:
    """The folder of the user's own networks."""
    return _folder("LEAKBOARD_NETWORKS", "networks")


def store() -> Path:
    """The folder of the store. Raises UserError where it is a file."""
    root = _folder("LEAKBOARD_STORE", "mlruns/store")
    if root.exists() and not root.is_dir():
        raise UserError(f"LEAKBOARD_STORE: expected a folder, given the file {root}")
    return root


def models() -> Path:
    """The folder of pretrained models."""
    return _folder("LEAKBOARD_MODELS", "mlruns/models")


def prepared() -> Path:
    """The folder of prepared data sets, each in `ID/VIEW/`."""
    return _folder("LEAKBOARD_PREPARED", "mlruns/data")


def sources() -> Path:
    """The folder of the user's own data sets, a Python file each. It may be missing."""
    return project().root / "data"


def protocols() -> Path:
    """The folder of the user's own protocols. It may be missing."""
    return project().root / "protocols"


def published() -> Path:
    """The folder that boards are published in."""
    return _folder("LEAKBOARD_PUBLISHED", "leaderboard/published")


def boards() -> list[Path]:
    """The folders that published boards are read from; of a board that both have, the first one's is read."""
    own, packaged = published(), PACKAGED / "leaderboard" / "published"
    return [own] if os.environ.get("LEAKBOARD_PUBLISHED") or _same_folder(own, packaged) else [own, packaged]


def board(name: str) -> Path:
    """The folder that a protocol's board is read from: the project's own, or the one that comes with the package."""
    return next((f / name for f in boards() if (f / name).is_dir()), published() / name)


def own_board(name: str) -> Path:
    """The folder that a protocol's board is written to; the package's board is copied there first, if the project has none.

    Raises OSError where it cannot be written.
    """
    own, source = published() / name, board(name)
    if source != own:
        draft = published().with_name(
            f".{name}-{os.getpid()}"
        )  # beside the boards: a half-made copy is never read as one
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
    """The address with an SQLite file inside the project made relative to it.

    It stays the same where the project is moved or copied, and whatever the current folder is.
    """
    file, root = sqlite_file(address), project().root
    if file is None or not file.absolute().is_relative_to(root):
        return address
    return sqlite_address(file.absolute().relative_to(root), address)


def brief(path: Path) -> str:
    """A path as it is shown: relative to the current folder where it lies in it."""
    here = _current_folder()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(path)


def without_home(command: str) -> str:
    """A command with ~ in the place of the home folder, whose name is that of a person."""
    home = str(Path.home())
    return command.replace(f"{home}/", "~/") if len(home) > 1 else command


def _folder(variable: str, default: str) -> Path:
    named = os.environ.get(variable)
    return _current_folder() / _expanduser(named) if named else project().root / default


def _address(variable: str, default: str) -> str:
    if address := os.environ.get(variable):
        return checked(variable, address)
    return sqlite_address(mlruns() / default)


def _expanduser(named: str) -> Path:
    return Path(os.path.expanduser(named))  # Path.expanduser raises where there is no such user


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except OSError:
        raise UserError("expected a current folder, given one that is gone; change to another one") from None


def _world_writable(folder: Path) -> bool:
    """Whether any user of the machine could have laid a project there."""
    try:
        return bool(folder.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return False


def _same_folder(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
