"""Finds the known words that a user may have meant: "did you mean …?" in messages."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from sqlalchemy import URL

# the longest word for which a known one is looked for: the comparison takes time in the square of the length
_LONGEST = 60
# BTCUSD is near to BTCUSDT, and ETHUSDT is not
_CUTOFF = 0.75
_MOST = 3
# a path, or a URL with too few slashes, that cannot contain a password
_FILE = re.compile(r"(?:(?P<scheme>sqlite|duckdb):)?(?P<path>/?[\w.~ -][\w./~ -]*)", re.ASCII)
_LONGEST_PATH = 500
_SCHEMES = {".db": "sqlite", ".sqlite": "sqlite", ".sqlite3": "sqlite", ".duckdb": "duckdb", ".ddb": "duckdb"}


def suggest(word: object, known: Collection[str]) -> str:
    """Return ``did you mean WORD? `` with the known word nearest to a given one; an empty text if none is near.

    Case and punctuation count less than letters.
    """
    if not isinstance(word, str) or not word or len(word) > _LONGEST:
        return ""
    near = find_near(word, known)
    return f"did you mean {near[0]}? " if near else ""


def find_near(word: str, known: Iterable[str]) -> list[str]:
    """Return at most three known words that are similar to ``word``, the most similar first; case and punctuation count less."""
    # difflib takes milliseconds to import, and only errors need it
    from difflib import get_close_matches

    plain: dict[str, list[str]] = {}
    for one in sorted(set(known) - {word}):
        plain.setdefault(_simplify(one), []).append(one)
    found = get_close_matches(_simplify(word), plain, n=_MOST, cutoff=_CUTOFF)
    return [one for name in found for one in plain[name]][:_MOST]


def _simplify(word: str) -> str:
    return "".join(filter(str.isalnum, word.casefold())) or word


def suggest_url(given: str) -> str:
    """Return ``did you mean URL? `` for the path of a database file, e.g. bot.db; an empty text for anything else."""
    found = _FILE.fullmatch(given) if len(given) <= _LONGEST_PATH else None
    if found is None:
        return ""
    path = Path(found["path"])
    scheme = found["scheme"] or _SCHEMES.get(path.suffix.lower())
    if scheme is None:
        return ""
    return f"did you mean {scheme}:///{path.expanduser() if found['path'].startswith('~/') else path}? "


def suggest_file_url(url: URL) -> str:
    """Return ``did you mean URL? `` for a URL with two slashes, not three, e.g. sqlite://bot.db; otherwise an empty text."""
    if url.username or url.password or url.port or not url.host:
        return ""
    meant = URL.create(url.drivername, database="/".join(filter(None, (url.host, url.database))))
    return f"did you mean {meant.render_as_string()}? "
