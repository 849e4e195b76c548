"""Which database a command works on: a literal URL, env:NAME, or the settings."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL

from iftb_store.config import ENVIRONMENT, resolve_url
from iftb_store.errors import InvalidValueError, SchemaError
from iftb_store.manager import DatabaseManager
from iftb_store.url import parse_url, shown_url
from iftb_store.values.display import in_one_line

URL_HELP = "A database URL, or env:NAME; IFTB_STORE_URL or the DB_ variables where there is none."

T = TypeVar("T")

_FILE_ENGINES = ("sqlite", "duckdb")


class Terminated(BaseException):
    """SIGTERM came; what was under way is rolled back, and the database is closed."""


def is_url(word: str) -> bool:
    """Tell a URL, or env:NAME, from a file or a symbol."""
    return "://" in word or word.startswith(ENVIRONMENT)


def url_and_rest(*words: str | None) -> tuple[str | None, list[str]]:
    """Return the URL that leads a command's arguments, or None, and the rest.

    The URL may be left out, so what the parser took for it may be a file or a symbol: a URL has :// in it or begins with
    env:, and they do not.
    """
    given = [word for word in words if word is not None]
    if given and is_url(given[0]):
        return given[0], given[1:]
    return None, given


def url_and_series(*words: str | None) -> tuple[str | None, tuple[str, str]]:
    """Return (URL or None, (symbol, timeframe)).

    Raises:
        InvalidValueError: there are fewer or more arguments than these.
    """
    url, rest = url_and_rest(*words)
    if len(rest) != 2:
        raise InvalidValueError(
            f"[URL] SYMBOL TIMEFRAME are wanted, such as BTCUSDT 1m; given: {in_one_line(' '.join(rest)) or 'neither'}"
        )
    return url, (rest[0], rest[1])


def shown(url: str | None) -> str:
    """Return the URL that the user means for people, its password hidden."""
    return shown_url(parse_url(resolve_url(url)))


def run(url: str | URL | None, work: Callable[[DatabaseManager], Awaitable[T]], *, create: bool = False) -> T:
    """Connect to what the user means, do the work in an event loop of its own, disconnect.

    Work that is done is not denied: a stop that comes later ends the wait for connections to close, and no more.

    Raises:
        Terminated: SIGTERM came; the work was cancelled first, as Ctrl-C does it.
        SchemaError: the database is a file that is not there, and the command is not one to ``create`` it.
    """
    address = url if isinstance(url, URL) else resolve_url(url)
    manager = DatabaseManager(address)
    if not create:
        require_file(address)

    done: list[T] = []

    async def connected() -> None:
        with _cancelled_by_sigterm():
            async with manager as db:
                done.append(await work(db))

    try:
        asyncio.run(connected())
    except (KeyboardInterrupt, Terminated):
        if not done:
            raise
    return done[0]


@contextmanager
def _cancelled_by_sigterm() -> Iterator[None]:
    loop, task, came = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()

    def cancel() -> None:
        came.set()
        if task is not None:
            task.cancel()

    # Windows has no such handlers, and other threads than the first take none
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


def require_file(address: str | URL) -> None:
    """Refuse a URL of a file that is not there.

    Raises:
        SchemaError: the message names the command that creates it.
    """
    # opening it would leave an empty file behind, which hides that the name was mistyped
    url = parse_url(address)
    if (
        url.get_backend_name() in _FILE_ENGINES
        and url.database not in (None, "", ":memory:")
        and not Path(str(url.database)).exists()
    ):
        raise SchemaError(f"there is no database file {url.database}; `iftb-store migrate URL` creates it")
