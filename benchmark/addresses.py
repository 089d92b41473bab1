"""Addresses (URLs) of databases and servers: read by SQLAlchemy's parser, and shown without passwords.

Nothing else in the project takes an address apart. An SQLite file whose path has letters, digits and _ . / - alone, as
nearly all have, is read as that parser would read it, without it: its import takes a third of a second.
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
"""An address within a text. It reaches past the last @: a password may hold anything, blanks and line ends too."""
_PLAIN = re.compile(r"sqlite:///(?P<file>[A-Za-z0-9_./-]+)")
"""The address of an SQLite file whose path has no character with a meaning of its own."""
_UNAMBIGUOUS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.\-]*)://"
    r"((?P<user>[A-Za-z0-9_.\-]*)(?P<password>:[^\s@:/?#\[\]'\"<>]*)?@)?"
    r"(?P<host>[A-Za-z0-9_.\-]*|\[[0-9A-Fa-f:.]+\])(?P<port>:[0-9]+)?"
    r"(?P<path>/[^\s@?#:;'\"<>]*)?(\?[^\s#@'\"<>]*)?(?P<end>[.,;:)\]]*)",
    re.IGNORECASE,
)
"""An address that all parsers split alike: special characters within its parts are percent-encoded."""


def shown(text: str) -> str:
    """The text with each address in it cut down to scheme, user, host, port and path, the password shown as ***.

    A user without a password may be a token, and is shown as ***. A query is left out whole, for it may hold a password.
    An ambiguous address keeps its scheme alone, for parsers differ in where its password ends.
    """
    return _ADDRESS.sub(lambda match: _shown_address(match[0]), text)


def _shown_address(address: str) -> str:
    scheme, _, rest = address.partition("://")
    if scheme.lower().startswith("sqlite"):  # a file: the query behind it may hold a key
        file = re.split("[?#]", rest)[0]
        return f"{scheme}://{file}" if file.startswith("/") and "@" not in file else f"{scheme}://***"
    parts = _UNAMBIGUOUS.fullmatch(address)
    if parts is None:
        return f"{scheme}://***"
    user = f"{parts['user']}:***@" if parts["password"] else "***@" if parts["user"] else ""
    return f"{scheme}://{user}{parts['host']}{parts['port'] or ''}{parts['path'] or ''}{parts['end']}"


def secrets(address: str) -> set[str]:
    """The password and the values of the query of an address that passed `checked`, raw and percent-decoded; "" is left out."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(address)
        values = [parts.password or "", *(part.partition("=")[2] for part in parts.query.split("&"))]
        return {value for value in (*values, *map(unquote, values)) if value}
    return set()


def checked(name: str, address: str) -> str:
    """The address of a database or an HTTP server, unchanged. `name` says in messages where it was set.

    Raises UserError where it is no address or parsers would differ on it; the message holds no secret of it.
    """
    if "://" not in address:
        raise UserError(f"{name}: expected an address such as sqlite:///FILE, given none")
    scheme, _, rest = address.partition("://")
    unambiguous = rest[:1] in ("", "/") if scheme.lower().startswith("sqlite") else _UNAMBIGUOUS.fullmatch(address)
    if not unambiguous:
        raise UserError(
            f"{name}: expected an address in which all but letters, digits and - . _ ~ of a user or a password are "
            f"percent-encoded (@ as %40, / as %2F, a blank as %20), given {printable(scheme, 40)}://***"
        )
    if not _PLAIN.fullmatch(address) and not address.lower().startswith(("http://", "https://", "file:")):
        _parse(name, address)
    return address


def sqlite_file(address: str) -> Path | None:
    """The file of an SQLite database; None for every other address, and for a database in memory.

    Raises UserError for an address that cannot be read.
    """
    if not address.lower().startswith("sqlite"):
        return None
    if plain := _PLAIN.fullmatch(address):
        return Path(plain["file"])
    url = _parse("the address", address)
    name, memory = url.database or "", url.query.get("mode") == "memory"
    if name.startswith("file:") and url.query.get("uri"):  # a file: URI of SQLite's own, inside the address
        try:
            name = unquote(urlsplit(name).path)
        except ValueError:
            raise UserError(f"the address: expected one such as sqlite:///FILE, given {shown(address)}") from None
    return Path(name) if name and name != ":memory:" and not memory else None


def sqlite_address(file: Path, like: str = "sqlite://") -> str:
    """The address of an SQLite database in a file, with driver and query of the address `like`."""
    if like == "sqlite://" and _PLAIN.fullmatch(plain := f"sqlite:///{file}"):
        return plain
    url = _parse("the address", like)
    return str(url.set(database=str(file)).render_as_string(hide_password=False))


def _parse(name: str, address: str) -> URL:
    from sqlalchemy.engine import make_url  # slow to import
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(address)
    except (ArgumentError, ValueError):
        raise UserError(f"{name}: expected an address such as sqlite:///FILE, given {shown(address)}") from None
