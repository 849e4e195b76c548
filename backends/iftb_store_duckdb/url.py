"""Parses the duckdb URL: the file and its options."""

from __future__ import annotations

import math
import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from sqlalchemy import URL

from iftb_store.errors import URLError
from iftb_store.values.suggestions import suggest, suggest_file_url

MEMORY = ":memory:"

_ACCESS_MODES = ("automatic", "read_only", "read_write")
_AMOUNT = re.compile(r"\d+(?:\.\d+)?\s*(?:[KMGT]i?B|B|%)", re.IGNORECASE)
_BOOLEANS = {"true": True, "false": False}
_KNOWN = "access_mode, threads, memory_limit, temp_directory, busy_timeout, connect_timeout, external_access, trusted"


@dataclass(frozen=True)
class Options:
    """The checked content of a duckdb URL.

    Attributes:
        path: the database file's absolute real path, or ``:memory:``.
        config: the settings for DuckDB itself; all managers of a process that open the same file must use the same ones.
        external_access: whether SQL may read and write other files, attach databases and change DuckDB's settings.
        trusted: whether the tables of iftb-store may have triggers, generated columns and expressions that it did not create.
        busy_timeout: seconds to wait for the write lock.
        connect_timeout: seconds to wait for a file that another process holds.
    """

    path: str
    config: dict[str, str] = field(default_factory=dict)
    busy_timeout: float = 30.0
    connect_timeout: float = 30.0
    external_access: bool = False
    trusted: bool = False

    @property
    def in_memory(self) -> bool:
        """Whether the database is only in memory."""
        return self.path == MEMORY

    @property
    def spills(self) -> str:
        """The folder for data that does not fit in memory: the option temp_directory, or DuckDB's default."""
        return self.config.get("temp_directory", f"{self.path}.tmp")

    @property
    def read_only(self) -> bool:
        """Whether the URL says ``access_mode=read_only``."""
        return self.config.get("access_mode") == "read_only"


def parse_options(url: URL) -> Options:
    """Parse and check a duckdb URL.

    Raises:
        URLError: the URL has a host, a user, a password or a port, an unknown option, or an invalid value of an option.
    """
    if url.host or url.username or url.password or url.port:
        raise URLError(
            f"a duckdb URL has a file and no host; {suggest_file_url(url)}write duckdb:///file.duckdb, or duckdb:////path for an "
            "absolute path"
        )
    config: dict[str, str] = {}
    allowed = {"external_access": False, "trusted": False}
    seconds = {"busy_timeout": 30.0, "connect_timeout": 30.0}
    for name, value in url.query.items():
        if not isinstance(value, str):
            raise URLError(f"the duckdb URL has the option {name} more than once; give it once")
        if name in seconds:
            seconds[name] = _seconds(name, value)
        elif name in allowed:
            allowed[name] = _boolean(name, value)
        else:
            config[name] = _setting(name, value)
    memory = url.database in (None, "", MEMORY)
    path = MEMORY if memory else os.path.realpath(str(url.database))
    if memory:
        # DuckDB's default is the folder .tmp in the working directory
        config.setdefault("temp_directory", f"{Path(tempfile.gettempdir()) / uuid4().hex}.duckdb.tmp")
    elif config.get("access_mode") == "read_only":
        # other processes may have the file open too, and could remove a folder that they share
        config.setdefault("temp_directory", f"{path}.{os.getpid()}.tmp")
    if memory and config.get("access_mode") == "read_only":
        raise URLError("a duckdb database in memory cannot be read_only; give a file or leave access_mode out")
    if os.sep == "/" and not memory and {"\\", "?"} & set(path):
        # DuckDB reads a backslash as a slash, and puts its log file's suffix before a question mark
        raise URLError("the file in the duckdb URL has a backslash or ? in its path, which DuckDB reads incorrectly; rename it")
    return Options(path, config, seconds["busy_timeout"], seconds["connect_timeout"], **allowed)


def _seconds(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise _bad(name, value, "a number of seconds, 0 or more")
    return number


def _boolean(name: str, value: str) -> bool:
    if value.lower() not in _BOOLEANS:
        raise _bad(name, value, "true or false")
    return _BOOLEANS[value.lower()]


def _setting(name: str, value: str) -> str:
    if name == "access_mode":
        if value.lower() not in _ACCESS_MODES:
            raise _bad(name, value, f"one of {', '.join(_ACCESS_MODES)}")
        return value.lower()
    if name == "threads":
        if not re.fullmatch(r"[1-9]\d{0,4}", value, re.ASCII):
            raise _bad(name, value, "a whole number of at least 1")
    elif name == "memory_limit":
        if not _AMOUNT.fullmatch(value):
            raise _bad(name, value, "an amount, e.g. 2GB or 512MiB")
    elif name != "temp_directory":
        near = suggest(name, _KNOWN.split(", "))
        raise URLError(f"unknown option {name[:40]!a} in the duckdb URL; {near}the known ones are {_KNOWN}")
    return value


def _bad(name: str, value: str, wanted: str) -> URLError:
    return URLError(f"{name}={value[:40]!a} in the duckdb URL must be {wanted}; the known options are {_KNOWN}")
