"""Database URLs: parsed, and shown without their passwords."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from iftb_store.errors import URLError
from iftb_store.values.display import is_text, kind

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
