"""Describes DuckDB's exceptions without the values that they quote."""

from __future__ import annotations

import duckdb

# messages that replace DuckDB's own if it would quote the rejected value
_TEXTS: tuple[tuple[type[duckdb.Error], str], ...] = (
    (duckdb.ConstraintException, "the row violates a constraint of the table: a duplicate key, a missing or an unknown value"),
    (duckdb.InterruptException, "the statement was interrupted"),
    (duckdb.DataError, "a value does not fit its column or cannot be converted"),
)
_LONGEST = 300


def describe_failure(error: duckdb.Error) -> str:
    """Return the message for an exception of DuckDB; it contains no parameters and no value of a row."""
    return next((text for kind, text in _TEXTS if isinstance(error, kind)), None) or read_first_line(error)


def read_first_line(error: Exception) -> str:
    """Return the first line of an engine's message, shortened to 300 characters; later lines may quote the statement."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
