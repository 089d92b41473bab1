"""Addresses of databases and servers: read by SQLAlchemy's parser alone, and shown without what is secret in them.

Nothing else in the project takes an address apart.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from benchmark.errors import UserError, printable

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_ADDRESS = re.compile(r"""[^\s'"<>()\[\]{}:/?#@]+://(?:.*@)?[^\s'"<>?]*(?:\?\S*)?""", re.DOTALL)
"""An address in a text, to the last @ that follows: a password may hold anything, blanks and line ends too."""
_PLAIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.\-]*)://"
    r"((?P<user>[A-Za-z0-9_.\-]*)(?P<password>:[^\s@:/?#\[\]'\"<>]*)?@)?"
    r"(?P<host>[A-Za-z0-9_.\-]*|\[[0-9A-Fa-f:.]+\])(?P<port>:[0-9]+)?"
    r"(?P<path>/[^\s@?#:;'\"<>]*)?(\?[^\s#@'\"<>]*)?(?P<end>[.,;:)\]]*)",
    re.IGNORECASE,
)
"""An address that every reader takes apart alike: what is special in its parts is percent-encoded."""


def shown(text: str) -> str:
    """The text as it may be shown: of each address in it scheme, user, host and path, and nothing that could be a secret.

    A query is left out whole, for it may hold a password; an address in which something special is not
    percent-encoded keeps its scheme alone, for readers differ in where its password ends.
    """
    return _ADDRESS.sub(lambda found: _shown(found[0]), text)


def _shown(address: str) -> str:
    scheme, _, rest = address.partition("://")
    if scheme.lower().startswith("sqlite"):  # a file: what follows it may be a key
        file = re.split("[?#]", rest)[0]
        return f"{scheme}://{file}" if file.startswith("/") and "@" not in file else f"{scheme}://***"
    plain = _PLAIN.fullmatch(address)
    if plain is None:
        return f"{scheme}://***"
    user = f"{plain['user']}:***@" if plain["password"] else "***@" if plain["user"] else ""
    return f"{scheme}://{user}{plain['host']}{plain['port'] or ''}{plain['path'] or ''}{plain['end']}"


def secrets(address: str) -> set[str]:
    """What `shown` leaves out of an address that is `checked`, as it stands there and decoded: to be left out elsewhere."""
    with contextlib.suppress(ValueError):
        split = urlsplit(address)
        found = [split.password or "", *(part.partition("=")[2] for part in split.query.split("&"))]
        return {text for text in (*found, *map(unquote, found)) if text}
    return set()


def checked(name: str, address: str) -> str:
    """The address of a database, or of a server at http, as it was given. `name` is where it comes from.

    Raises UserError where readers would differ in what it means: the message holds nothing of it that is secret.
    """
    if "://" not in address:
        raise UserError(f"{name}: expected an address such as sqlite:///FILE, given none")
    scheme, _, rest = address.partition("://")
    fits = rest[:1] in ("", "/") if scheme.lower().startswith("sqlite") else _PLAIN.fullmatch(address)
    if not fits:
        raise UserError(
            f"{name}: expected an address in which all but letters, digits and - . _ ~ of a user or a password are "
            f"percent-encoded (@ as %40, / as %2F, a blank as %20), given {printable(scheme, 40)}://***"
        )
    if not address.lower().startswith(("http://", "https://", "file:")):
        _parsed(name, address)
    return address


def sqlite_file(address: str) -> Path | None:
    """The file of an SQLite database; None for every other address, and for a database in memory.

    Raises UserError for an address that cannot be read.
    """
    if not address.lower().startswith("sqlite"):
        return None
    parsed = _parsed("the address", address)
    name, memory = parsed.database or "", parsed.query.get("mode") == "memory"
    if name.startswith("file:") and parsed.query.get("uri"):  # SQLite's own address, within
        try:
            name = unquote(urlsplit(name).path)
        except ValueError:
            raise UserError(f"the address: expected one such as sqlite:///FILE, given {shown(address)}") from None
    return Path(name) if name and name != ":memory:" and not memory else None


def sqlite_address(file: Path, like: str = "sqlite://") -> str:
    """The address of an SQLite database in a file, with driver and query of the address `like`."""
    parsed = _parsed("the address", like)
    return str(parsed.set(database=str(file)).render_as_string(hide_password=False))


def _parsed(name: str, address: str) -> URL:
    from sqlalchemy.engine import make_url  # slow to import
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(address)
    except (ArgumentError, ValueError):
        raise UserError(f"{name}: expected an address such as sqlite:///FILE, given {shown(address)}") from None
