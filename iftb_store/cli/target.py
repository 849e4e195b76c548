"""Which database a command works on: a literal URL, env:NAME, or the settings."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from iftb_store.cli.output import without_password
from iftb_store.config import get_settings
from iftb_store.errors import ConfigurationError, InvalidValueError
from iftb_store.manager import DatabaseManager

URL_HELP = "A database URL, or env:NAME; IFTB_STORE_URL or the DB_ variables where there is none."

T = TypeVar("T")

_ENVIRONMENT = "env:"


def is_url(word: str) -> bool:
    """Tell whether an argument is a URL rather than a file or a symbol."""
    return "://" in word or word.startswith(_ENVIRONMENT)


def split_url(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the URL that leads some arguments, or None, and the rest."""
    if words and is_url(words[0]):
        return words[0], list(words[1:])
    return None, list(words)


def url_and_series(words: Sequence[str]) -> tuple[str | None, str, str]:
    """Return (URL or None, symbol, timeframe).

    Raises:
        InvalidValueError: there are fewer or more arguments than these.
    """
    url, rest = split_url(words)
    if len(rest) != 2:
        raise InvalidValueError(
            f"[URL] SYMBOL TIMEFRAME are wanted, such as BTCUSDT 1m, not {without_password(' '.join(rest)) or 'a URL alone'}"
        )
    return url, rest[0], rest[1]


def resolve(url: str | None) -> str:
    """Return the URL that the user means, with its password.

    Raises:
        ConfigurationError: env:NAME names a variable that is not set, or the settings are incomplete.
    """
    if url is None:
        return get_settings().database.get_async_url()
    if not url.startswith(_ENVIRONMENT):
        return url
    name = url.removeprefix(_ENVIRONMENT)
    value = os.environ.get(name, "").strip()
    if not value:
        raise ConfigurationError(f"{_ENVIRONMENT}{name} was given, but the environment variable {name} is not set")
    return value


def run(url: str | None, work: Callable[[DatabaseManager], Awaitable[T]]) -> T:
    """Connect to what the user means, do the work in an event loop of its own, disconnect."""
    address = resolve(url)

    async def connected() -> T:
        async with DatabaseManager(address) as db:
            return await work(db)

    return asyncio.run(connected())
