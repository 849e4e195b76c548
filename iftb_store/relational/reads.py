"""Classifies a SQL statement by its first word: a read, a write, or a command that begins or ends a transaction."""

from __future__ import annotations

import re

from iftb_store.errors import Unsupported

_SKIPPED = re.compile(r"[\s;(]+|--[^\n]*|/\*.*?\*/", re.DOTALL)
_WORD = re.compile(r"[a-z]+", re.IGNORECASE)
# BEGIN and SET write nothing; `refuse_transaction_control` keeps BEGIN out of sessions
_READS = frozenset(("select", "values", "table", "explain", "pragma", "show", "set", "with", "begin"))
_SAVEPOINTS = frozenset(("savepoint", "release", "rollback"))
_WRITES = re.compile(r"\b(?:insert|update|delete|merge|replace\s+into)\b", re.IGNORECASE)
# quoted text and comments contain no commands; an unterminated comment extends to the end
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_TRANSACTION = frozenset(("begin", "start", "commit", "end", "rollback", "abort"))
_TO_SAVEPOINT = re.compile(r"\s*rollback\s+(?:(?:work|transaction)\s+)?to\b", re.IGNORECASE)


def is_read(sql: str) -> bool:
    """Return whether a statement only reads, judged by its text."""
    return _first_word(sql) in _READS and not _WRITES.search(_QUOTED.sub(" ", sql))


def may_write(sql: str) -> bool:
    """Return whether a statement may change rows, judged by its text; False for savepoint commands."""
    return not is_read(sql) and _first_word(sql) not in _SAVEPOINTS


def refuse_transaction_control(sql: str) -> None:
    """Raise if a statement begins or ends a transaction, which only a session's methods may do.

    ROLLBACK TO SAVEPOINT is allowed.

    Raises:
        Unsupported: the statement begins or ends a transaction; the message names the session's methods.
    """
    word = _first_word(sql)
    if word in _TRANSACTION and not (word == "rollback" and _TO_SAVEPOINT.match(_QUOTED.sub(" ", sql))):
        raise Unsupported(
            f"{word.upper()} cannot be run as a statement of a session; call session.commit(), session.rollback() or "
            "session.begin_nested()"
        )


def _first_word(sql: str) -> str:
    at = 0
    while skipped := _SKIPPED.match(sql, at):
        at = skipped.end()
    word = _WORD.match(sql, at)
    return word[0].lower() if word else ""
