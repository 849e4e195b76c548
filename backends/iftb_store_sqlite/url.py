"""Parses the SQLite URL: the file, how to open it, and how long to wait for another writer."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL

from iftb_store.errors import URLError
from iftb_store.values.suggestions import suggest, suggest_file_url

_OPTIONS = ("timeout", "busy_timeout", "mode", "cache_size", "trusted")
_MODES = ("ro", "rw", "rwc")
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Options:
    """The checked content of an SQLite URL.

    Attributes:
        in_memory: whether the database is in memory.
        path: the absolute path of the database file.
        mode: ``ro``, ``rw`` or ``rwc``.
        timeout: seconds to wait for another writer.
        cache: KiB of pages that a connection may cache.
        trusted: whether the tables of iftb-store may have triggers and expressions that iftb-store did not create.
    """

    in_memory: bool
    path: str
    mode: str
    timeout: float
    cache: int
    trusted: bool

    @property
    def target(self) -> str:
        """The database as an argument of sqlite3.connect: ``:memory:`` or a ``file:`` URI."""
        return ":memory:" if self.in_memory else f"file:{quote(self.path)}?mode={self.mode}"


def parse_options(url: URL) -> Options:
    """Parse and check an SQLite URL.

    Raises:
        URLError: the URL has a host, a user, a password or a port, an unknown option, or an invalid value of an option.
    """
    if url.host or url.username or url.password or url.port:
        near = suggest_file_url(url)
        raise URLError(f"an SQLite URL has no host or user; {near}write sqlite:///relative.db or sqlite:////absolute.db")
    unknown = set(url.query) - set(_OPTIONS)
    if unknown:
        name = sorted(unknown)[0]
        near = suggest(name, _OPTIONS)
        raise URLError(f"unknown option {name!r} in the SQLite URL; {near}the known ones are {', '.join(_OPTIONS)}")
    in_memory = url.database in (None, "", ":memory:")
    path = os.fspath(Path(url.database or "").absolute())
    return Options(in_memory, path, _mode(url), _seconds(url), _cache(url), _read_trusted(url))


def _mode(url: URL) -> str:
    mode = url.query.get("mode", "rwc")
    if mode not in _MODES:
        raise URLError(f"mode must be one of {', '.join(_MODES)} in the SQLite URL, not {str(mode)[:20]!r}")
    return str(mode)


def _read_trusted(url: URL) -> bool:
    given = str(url.query.get("trusted", "false"))
    if given.lower() not in _BOOLEANS:
        raise URLError(f"trusted must be true or false in the SQLite URL, not {given[:20]!r}")
    return _BOOLEANS[given.lower()]


def _cache(url: URL) -> int:
    """Return how many KiB of pages a connection may cache."""
    given = url.query.get("cache_size", "65536")
    if not re.fullmatch(r"[1-9]\d{0,8}", str(given), re.ASCII):
        raise URLError(f"cache_size must be a number of KiB, at least 1, in the SQLite URL, not {str(given)[:20]!r}")
    return int(str(given))


def _seconds(url: URL) -> float:
    given = url.query.get("timeout", url.query.get("busy_timeout", "30"))
    try:
        seconds = float(str(given))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise URLError(f"timeout must be seconds between 0 and 3600 in the SQLite URL, not {str(given)[:20]!r}")
    return seconds
