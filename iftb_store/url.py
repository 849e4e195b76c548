"""Parses database URLs, and formats them without their passwords."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from iftb_store.errors import URLError
from iftb_store.values.display import is_text, type_name
from iftb_store.values.suggestions import suggest_url

# matches a URL from the scheme to the @, which contains what SQLAlchemy reads as user and password
_CREDENTIALS = re.compile(r"[^:/]*://[^:/]*(?::[^@]*)?@")
# the word URL in a command that a message names
_URL_IN_COMMAND = re.compile(r"(`iftb-store (?:[^`]* )?)URL(?=[ `])")
# the maximum length of a path on Linux
_LONGEST_PART = 4_096
# memory bounds of a database in a transfer: enough for a batch, an index of trades and a checkpoint; more would only be cache
_BOUNDS = {"duckdb": {"threads": "1", "memory_limit": "64MiB"}, "sqlite": {"cache_size": "8192"}}


def parse_url(url: str | URL) -> URL:
    """Parse a database URL; error messages do not quote the URL, as it may contain a password.

    Raises:
        URLError: ``url`` is neither text nor a SQLAlchemy URL, or it cannot be parsed; or a piece of the password would be
            read as another part of the URL; or a part is too long or contains NUL or a lone surrogate.
    """
    if not isinstance(url, str | URL):
        raise URLError(f"the database URL must be text, not {type_name(url)}")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError, TypeError, AttributeError):
        parsed = None
    # the options of host?password=p@ss contain an @: SQLAlchemy takes them for user and password
    credentials = _CREDENTIALS.match(url) if isinstance(url, str) else None
    has_options = credentials is not None and "=" in credentials[0].partition("?")[2]
    if parsed is not None and not _is_mistyped(parsed) and not has_options:
        for name, part in _parts(parsed):
            if len(part) > _LONGEST_PART:
                raise URLError(
                    f"the {name} in the database URL has {len(part):,} characters; at most {_LONGEST_PART:,} are allowed"
                )
            if "\0" in part or not is_text(part):
                raise URLError(
                    f"the {name} in the database URL contains NUL or a lone surrogate, which no engine accepts; remove it"
                )
        return parsed
    if isinstance(url, str) and (near := suggest_url(url)):
        raise URLError(f"the database URL cannot be parsed; {near.rstrip()}")
    raise URLError(
        "the database URL cannot be parsed; write it as scheme://user:password@host:port/name or scheme:///file, and "
        "percent-encode reserved characters in its parts"
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
        # the caller built the URL object itself from a mistyped text
        or "?password=" in words
        or "&password=" in words
    )


def hide_secrets(url: URL) -> URL:
    """Return a URL with asterisks instead of every password; unlike SQLAlchemy's repr, this hides passwords in the query too."""
    query = {name: "***" for name in ("password", "sslpassword") if name in url.query}
    return url.set(password=url.password and "***").update_query_dict(query)


def format_url(url: URL) -> str:
    """Return a URL as text for messages, with the password hidden."""
    shown = hide_secrets(url).render_as_string(hide_password=True)
    return shown.replace("%3Amemory%3A", ":memory:").replace("%2A", "*")


def quote_url(url: URL) -> str:
    """Return a URL, quoted for the shell, as an argument for a command in a message, with the password hidden."""
    return shlex.quote(format_url(url))


def fill_url(message: str, argument: str) -> str:
    """Return a message in whose commands, e.g. `iftb-store migrate URL`, ``argument`` replaces the word URL."""
    return _URL_IN_COMMAND.sub(lambda found: f"{found[1]}{argument}", message)


def limit_memory(address: str | URL) -> URL:
    """Return the URL with options that limit the engine's memory in this process, unless it has such options already.

    By default DuckDB uses up to most of the machine's memory, and SQLite keeps one cache per connection.
    """
    url = parse_url(address)
    bounds = _BOUNDS.get(url.get_backend_name(), {})
    return url if bounds.keys() & url.query.keys() - {"threads"} else url.update_query_dict({**bounds, **url.query})
