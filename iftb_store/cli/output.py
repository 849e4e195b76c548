"""Output of the commands: tables for people, JSON for programs, errors on one line; never a password."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iftb_store.values import display
from iftb_store.values.display import replace_unprintable
from iftb_store.values.readable import format_number

#: The URLs of the command that runs as they were given, by those that are opened, as `iftb_store.url.quote_url` writes both.
GIVEN: ContextVar[dict[str, str]] = ContextVar("iftb_store_given")
# a pipe has no width, so rows are never wrapped there
_PIPE_WIDTH = 10_000
# the number of blanks between two columns
_SPACE = 2


def console(*, stderr: bool = False) -> Console:
    """Return a console for stdout or stderr; it wraps rows only on a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _PIPE_WIDTH, highlight=False, markup=False)


def say(line: str = "", *, stderr: bool = False) -> None:
    """Print one line to stdout or stderr; control characters, e.g. in a file name, are replaced by U+FFFD."""
    print(replace_unprintable(line), file=sys.stderr if stderr else sys.stdout)


def print_error(message: str) -> None:
    """Print ``error: …`` on one line to stderr; possible passwords are removed, and a long line is cut in the middle."""
    print(display.error_line(name_given_url(message)), file=sys.stderr)  # noqa: T201 - see say


def name_given_url(message: str) -> str:
    """Replace each URL in the commands of a message by the argument that the user gave for it, e.g. env:NAME."""
    for url, word in GIVEN.get({}).items():
        message = message.replace(f" {url}`", f" {word}`").replace(f" {url} ", f" {word} ")
    return message


def print_json(value: object) -> None:
    """Print one JSON document: fields of dataclasses, decimals as strings, times in ISO 8601, durations in seconds."""
    print(json.dumps(value, indent=2, default=_json))  # noqa: T201 - see say; JSON is ASCII


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table; a cell that is too wide is wrapped, never cut off."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(replace_unprintable(cell)) for cell in row))
    console().print(shown)


def print_title(title: str) -> None:
    """Print a title, bold on a terminal."""
    console().print(Text(title, style="bold"))


def is_utf8() -> bool:
    """Return whether stdout takes characters beyond ASCII."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def print_fitting(
    titles: Sequence[str], rows: Sequence[Sequence[str]], least_important: Sequence[str] = (), *, right: bool = True
) -> None:
    """Print a table of numbers that fits into the terminal, and break no number.

    On a terminal that is too narrow, the least important columns are left out; on one that is still too narrow, each row becomes
    a title and lines of ``name value``.

    Args:
        titles: the titles of the columns; the first column has text, the others numbers.
        rows: the cells.
        least_important: titles of columns that may be left out, the least important first.
        right: whether the numbers are aligned on the right.
    """
    for left_out in range(len(least_important) + 1):
        chosen = [place for place, title in enumerate(titles) if title not in least_important[:left_out]]
        widths = [max(cell_len(row[place]) for row in (titles, *rows)) for place in chosen]
        if sum(widths) + _SPACE * (len(widths) - 1) <= console().width:
            names = [titles[place] for place in chosen]
            print_table(names, [[row[place] for place in chosen] for row in rows], right=names[1:] if right else ())
            return
    for first, *values in rows:
        say(first)
        named = [f"{name} {value}" for name, value in zip(titles[1:], values, strict=True)]
        for line in fill_lines(named, console().width - _SPACE):
            say(f"{' ' * _SPACE}{line}")


def fill_lines(words: Iterable[str], width: int) -> list[str]:
    """Return words joined by commas in lines of at most ``width`` characters; no word is broken."""
    lines: list[str] = []
    for word in words:
        if lines and cell_len(lines[-1]) + cell_len(word) + 2 <= width:
            lines[-1] += f", {word}"
        else:
            lines.append(word)
    return lines


def format_clock_time(value: datetime | None) -> str:
    """Return a time that the store set, e.g. created_at, as text in UTC with seconds; an empty text for None."""
    return "" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format_number(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, Path) else asdict(value)
