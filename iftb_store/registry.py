"""Finds the backend for a URL scheme among the entry points ``iftb_store.backends``; third parties can register their own."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

from sqlalchemy.exc import UnboundExecutionError

from iftb_store.abilities import Lookups, SupportsLookups
from iftb_store.errors import MissingDriverError, StoreError, Unsupported, URLError
from iftb_store.protocols import Backend, Stores
from iftb_store.values.suggestions import suggest

GROUP = "iftb_store.backends"


def find_backend(scheme: str) -> type[Backend]:
    """Return the backend class that is registered for a URL scheme.

    Raises:
        URLError: no installed backend is registered for the scheme; the message names the known schemes.
        StoreError: two different backends are registered for the scheme.
        MissingDriverError: the backend's driver is not installed; the message contains the install command.
    """
    return _find_backend(scheme, tuple(sys.path))


@cache
def _find_backend(scheme: str, path: tuple[str, ...]) -> type[Backend]:
    """Find the backend class; cached for each scheme and ``path``, as reading the metadata of all distributions is slow."""
    claimants = {point.value: point for point in entry_points(group=GROUP, name=scheme)}
    if not claimants:
        installed = sorted({point.name for point in entry_points(group=GROUP)})
        near = suggest(scheme, installed)
        raise URLError(
            f"no backend is installed for the URL scheme {scheme[:40]!a}; {near}installed: {', '.join(installed) or 'none'}"
        )
    if len(claimants) > 1:
        owners = " and ".join(sorted(f"{point.value} ({_distribution(point)})" for point in claimants.values()))
        raise StoreError(f"the URL scheme {scheme!r} is registered by {owners}; uninstall one of them")
    (point,) = claimants.values()
    return _load(point)


def get_stores(session: Any) -> Stores:
    """Return the objects that read and write rows in a session of a manager, or in an AsyncSession of the app.

    Raises:
        Unsupported: the object is not a session, or no backend supports its driver.
    """
    return get_backend(session).stores(session)


def find_lookups(stores: Stores) -> Lookups | None:
    """Return the lookups of the stores of a session; None if the engine, or this session, has none."""
    return stores.lookups if isinstance(stores, SupportsLookups) else None


def get_backend(session: Any) -> Backend | type[Backend]:
    """Return the backend that opened a session, or the backend class for the driver of an AsyncSession of the app.

    Raises:
        Unsupported: the object is not a session, or no backend supports its driver.
    """
    backend: Backend | None = getattr(session, "iftb_store_backend", None)
    if backend is not None:
        return backend
    from sqlalchemy.ext.asyncio import AsyncSession

    if not isinstance(session, AsyncSession):
        raise Unsupported(
            f"a repository takes a connected DatabaseManager or a session, not {type(session).__name__}; "
            "use `async with db.get_session() as session`"
        )
    try:
        dialect = session.get_bind().dialect
    except UnboundExecutionError as error:
        raise Unsupported("the session is not bound to an engine; create it as AsyncSession(engine)") from error
    scheme = f"{dialect.name}+{dialect.driver}"
    try:
        return find_backend(scheme)
    except URLError as error:
        raise Unsupported(
            f"a session on {scheme} is not supported; the repositories work with the async drivers asyncpg and aiosqlite"
        ) from error


def require_arrow() -> None:
    """Check that pyarrow is installed; the extra ``arrow`` of iftb-store installs it.

    Raises:
        MissingDriverError: pyarrow is not installed; the message contains the install command.
    """
    # pyarrow is only looked up here: importing it blocks, so `iftb_store._io.tasks.import_modules` does it in a thread
    if find_spec("pyarrow") is None:
        raise MissingDriverError(
            'Arrow tables need the module pyarrow, which is not installed; run: pip install "iftb-store[arrow]"'
        )


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
