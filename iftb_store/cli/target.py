"""Finds the database that a command works on, from a URL, env:NAME or the settings, and runs the command's work on it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL

from iftb_store._io.background import run_blocking
from iftb_store.abilities import SupportsFiles
from iftb_store.cli.output import print_error
from iftb_store.config import ENVIRONMENT, resolve_url
from iftb_store.errors import InvalidValueError, SchemaError
from iftb_store.manager import DatabaseManager
from iftb_store.protocols import Capability
from iftb_store.registry import find_backend
from iftb_store.url import format_url, parse_url, quote_url
from iftb_store.values.display import to_one_line
from iftb_store.values.suggestions import suggest_url
from iftb_store.values.timeframes import Timeframe, check_timeframe

URL_HELP = "Database URL, or env:NAME (default: IFTB_STORE_URL, or the DB_ variables)."

T = TypeVar("T")


class Terminated(BaseException):
    """SIGTERM was received; the open transaction was rolled back and the database closed."""


def is_url(word: str) -> bool:
    """Return whether an argument is a URL or env:NAME, rather than a file or a symbol."""
    return "://" in word or word.startswith(ENVIRONMENT)


def split_url_and_rest(*words: str | None) -> tuple[str | None, list[str]]:
    """Split a command's arguments into (leading URL or None, all other arguments).

    The URL may be left out, so the parser's first argument may be a file or a symbol. A URL contains :// or starts with
    env:; files and symbols do not.
    """
    given = [word for word in words if word is not None]
    if given and is_url(given[0]):
        return given[0], given[1:]
    return None, given


def split_url_and_series(*words: str | None) -> tuple[str | None, tuple[str, Timeframe]]:
    """Split a command's arguments into (URL or None, (symbol, timeframe)).

    Raises:
        InvalidValueError: the number of arguments is wrong, or the timeframe is unknown.
    """
    url, rest = split_url_and_rest(*words)
    if len(rest) != 2:
        near = suggest_url(rest[0]) if len(rest) == 3 else ""
        raise InvalidValueError(
            f"SYMBOL and TIMEFRAME are required, e.g. BTCUSDT 1m; given: {to_one_line(' '.join(rest)) or 'neither'}"
            + (f"; {near.rstrip()}" if near else "")
        )
    return url, (rest[0], check_timeframe(rest[1]))


def format_target(url: str | None) -> str:
    """Return the URL as text for people, with the password hidden."""
    return format_url(parse_url(resolve_url(url)))


@contextmanager
def explain_stop(message: Callable[[], str]) -> Iterator[None]:
    """Print the message as an error if the block is stopped by Ctrl-C or SIGTERM."""
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        print_error(message())
        raise


def run(url: str | URL | None, work: Callable[[DatabaseManager], Awaitable[T]], *, create: bool = False) -> T:
    """Connect to the database, run ``work`` in an event loop, and disconnect; return the result of ``work``.

    Ctrl-C or SIGTERM after the end of ``work`` stops the wait for connections to close; the result is still returned.

    Args:
        url: the database URL, env:NAME, or None for the settings.
        work: the function that is called with the connected manager.
        create: whether a missing database file may be created.

    Raises:
        Terminated: SIGTERM was received, and ``work`` was cancelled, as by Ctrl-C.
        SchemaError: the database file does not exist, and ``create`` is False.
    """
    address = url if isinstance(url, URL) else resolve_url(url)
    manager = DatabaseManager(address)
    if not create:
        require_file(address)

    done: list[T] = []

    async def connect_and_work() -> None:
        with _cancel_on_sigterm():
            async with manager as db:
                done.append(await work(db))

    try:
        run_blocking(connect_and_work)
    except (KeyboardInterrupt, Terminated):
        if not done:
            raise
    return done[0]


@contextmanager
def _cancel_on_sigterm() -> Iterator[None]:
    loop, task, came = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()

    def cancel() -> None:
        came.set()
        if task is not None:
            task.cancel()

    # Windows has no signal handlers, and they work only in the main thread
    with suppress(NotImplementedError, RuntimeError, ValueError):
        loop.add_signal_handler(signal.SIGTERM, cancel)
    try:
        yield
    except asyncio.CancelledError as error:
        if came.is_set():
            raise Terminated from error
        raise
    finally:
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGTERM)


def supports_migrations(url: str | URL | None) -> bool:
    """Return whether ``iftb-store migrate`` creates the tables of a database; if not, the first command that writes does so."""
    address = parse_url(url if isinstance(url, URL) else resolve_url(url))
    return Capability.MIGRATIONS in find_backend(address.drivername).capabilities


def require_file(address: str | URL) -> None:
    """Check that the database file of a URL exists.

    Raises:
        SchemaError: it does not exist; the message names the command that creates it.
    """
    # opening it would create an empty file, which hides a mistyped name
    url = parse_url(address)
    backend = find_backend(url.drivername)
    file = backend.find_file(url) if isinstance(backend, SupportsFiles) else None
    if file is not None and not Path(file).exists():
        command = f"migrate {quote_url(url)}" if supports_migrations(url) else f"import {quote_url(url)} FILE"
        raise SchemaError(f"there is no database file {file}; `iftb-store {command}` creates it")
