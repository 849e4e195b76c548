"""Finds the backend of a URL's scheme through the entry-point group ``iftb_store.backends``; ours have no other door."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, UnboundExecutionError

from iftb_store.errors import MissingDriverError, StoreError, Unsupported, URLError
from iftb_store.protocols import Backend, Stores
from iftb_store.values.display import is_text, kind

GROUP = "iftb_store.backends"

# what SQLAlchemy takes for user and password
_CREDENTIALS = re.compile(r"[^:/]*://[^:/]*(?::[^@]*)?@")
# what a path may have on Linux
_LONGEST_PART = 4_096


def parse_url(url: str | URL) -> URL:
    """Parse a database URL; nothing of it stands in the error, as it may hold a password.

    Raises:
        URLError: it is no text and no URL, cannot be parsed, is mistyped so that some of its password seems to be another
            part, or a part of it is too long, holds NUL or what is not text.
    """
    if not isinstance(url, str | URL):
        raise URLError(f"the database URL must be text, not {kind(url)}")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError, TypeError, AttributeError):
        parsed = None
    if parsed is not None and not _is_mistyped(parsed) and not (isinstance(url, str) and _has_options_for_credentials(url)):
        for name, part in _parts(parsed):
            if len(part) > _LONGEST_PART:
                raise URLError(
                    f"the {name} in the database URL has {len(part):,} characters; at most {_LONGEST_PART:,} are taken"
                )
            if "\0" in part or not is_text(part):
                raise URLError(f"the {name} in the database URL holds a character that no engine takes: NUL, or a lone surrogate")
        return parsed
    raise URLError(
        "the database URL cannot be understood; write it as scheme://user:password@host:port/name or scheme:///file, "
        "with reserved characters in the parts percent-encoded"
    )


def _parts(url: URL) -> Iterator[tuple[str, str]]:
    for name in ("drivername", "username", "password", "host", "database"):
        yield name.removeprefix("driver"), getattr(url, name) or ""
    for name, values in url.normalized_query.items():
        for word in (name, *values):
            yield "options", word


def _is_mistyped(url: URL) -> bool:
    database = url.database or ""
    words = " ".join((url.username or "", str(url.password or ""))).lower()
    return (
        "@" in (url.host or "")
        or ("://" in database and "@" in database)
        or "password=" in database.lower()
        # made from such a text elsewhere
        or "?password=" in words
        or "&password=" in words
    )


def _has_options_for_credentials(url: str) -> bool:
    """Tell whether an @ within the options, as in host?password=p@ss, makes them user and password, and its rest the host."""
    credentials = _CREDENTIALS.match(url)
    return credentials is not None and "=" in credentials[0].partition("?")[2]


def without_secrets(url: URL) -> URL:
    """Return a URL with asterisks in the place of its passwords; SQLAlchemy's own repr shows those in the query."""
    query = {name: "***" for name in ("password", "sslpassword") if name in url.query}
    return url.set(password=url.password and "***").update_query_dict(query)


def shown_url(url: URL) -> str:
    """Return a URL for people, its password hidden."""
    shown = without_secrets(url).render_as_string(hide_password=True)
    return shown.replace("%3Amemory%3A", ":memory:").replace("%2A", "*")


def backend_for(scheme: str) -> type[Backend]:
    """Return the backend class that claims a scheme.

    Raises:
        URLError: no installed backend claims it; the message names the schemes that are.
        StoreError: two different backends claim it.
        MissingDriverError: its driver is not installed; the message is the install line.
    """
    claimants = {point.value: point for point in entry_points(group=GROUP, name=scheme)}
    if not claimants:
        installed = ", ".join(sorted({point.name for point in entry_points(group=GROUP)})) or "none"
        raise URLError(f"no backend is installed for the URL scheme {scheme[:40]!a}; installed: {installed}")
    if len(claimants) > 1:
        owners = " and ".join(sorted(f"{point.value} ({_distribution(point)})" for point in claimants.values()))
        raise StoreError(f"the URL scheme {scheme!r} is claimed by {owners}; uninstall one of them")
    (point,) = claimants.values()
    return _load(point)


def stores_of(session: Any) -> Stores:
    """Return the stores for a session: one that a manager gave, or an app's own AsyncSession.

    Raises:
        Unsupported: the object is no session, or its driver is not one of a backend's.
    """
    backend = getattr(session, "iftb_store_backend", None)
    if backend is not None:
        stores: Stores = backend.stores(session)
        return stores
    from sqlalchemy.ext.asyncio import AsyncSession

    if not isinstance(session, AsyncSession):
        raise Unsupported(
            f"a repository takes a connected DatabaseManager or a session, not {type(session).__name__}; "
            "use `async with db.get_session() as session`"
        )
    try:
        dialect = session.get_bind().dialect
    except UnboundExecutionError as error:
        raise Unsupported("the session is bound to no engine; give it one, as in AsyncSession(engine)") from error
    scheme = f"{dialect.name}+{dialect.driver}"
    try:
        return _by_dialect(scheme).stores(session)
    except URLError as error:
        raise Unsupported(
            f"a session on {scheme} cannot be used; the repositories work on the async drivers asyncpg and aiosqlite"
        ) from error


def require_arrow() -> None:
    """Make sure of pyarrow, which comes with an extra.

    Raises:
        MissingDriverError: it is not installed; the message is the install line.
    """
    # the import itself is for a thread, see `iftb_store._io.tasks.import_modules`
    if find_spec("pyarrow") is None:
        raise MissingDriverError(
            'Arrow tables need the module pyarrow, which is not installed; run: pip install "iftb-store[arrow]"'
        )


_by_dialect = cache(backend_for)


def _load(point: EntryPoint) -> type[Backend]:
    try:
        loaded: type[Backend] = point.load()
    except ModuleNotFoundError as error:
        extras = f"[{','.join(point.extras)}]" if point.extras else ""
        raise MissingDriverError(
            f"the backend for {point.name!r} needs the module {error.name!r}, which is not installed; "
            f'run: pip install "{_distribution(point)}{extras}"'
        ) from error
    return loaded


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown distribution"
