"""Output of the commands: tables for people, JSON for programs, errors on one line; never a password."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterable, Sequence
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
# a time, or what lies between two blanks
_WORD = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:\S+|\S+")
# the least width of a column of text that is wrapped
_LEAST_TEXT = 24


def console(*, stderr: bool = False) -> Console:
    """Return a console for stdout or stderr; it wraps rows only on a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _PIPE_WIDTH, highlight=False, markup=False)


def say(line: str = "", *, stderr: bool = False) -> None:
    """Print one line to stdout or stderr; control characters, e.g. in a file name, are replaced by U+FFFD."""
    print(replace_unprintable(line), file=sys.stderr if stderr else sys.stdout)


def say_fitting(line: str) -> None:
    """Print a line to stdout; one that is longer than the terminal is wide is wrapped, but not within a number or a time."""
    for part in fill_words(split_words(line), console().width):
        say(part)


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


def print_json_line(named: dict[str, object], row: Any) -> None:
    """Print values and the fields of a dataclass as JSON on one line, at once."""
    print(json.dumps(named | asdict(row), default=_json), flush=True)  # noqa: T201 - see say; JSON is ASCII


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table; a cell that is too wide is wrapped, never cut off."""
    shown = _make_table()
    for column in columns:
        shown.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(replace_unprintable(cell)) for cell in row))
    console().print(shown)


def _make_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")


def print_title(title: str) -> None:
    """Print a title, bold on a terminal."""
    console().print(Text(title, style="bold"))


def is_utf8() -> bool:
    """Return whether stdout takes characters beyond ASCII."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def print_fitting(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    least_important: Sequence[str] = (),
    *,
    right: bool | Collection[str] = True,
    wrapped: Collection[str] = (),
    key: int = 1,
) -> None:
    """Print the table of `fit_table` at the width of the terminal."""
    screen = console()
    screen.print(fit_table(titles, rows, least_important, width=screen.width, right=right, wrapped=wrapped, key=key))


def fit_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    least_important: Sequence[str] = (),
    *,
    width: int,
    right: bool | Collection[str] = True,
    wrapped: Collection[str] = (),
    key: int = 1,
) -> Table | Text:
    """Return a table that fits into a width and breaks no number.

    If the width is too small, the least important columns are left out; if it is still too small, each row becomes a title and
    lines of ``name value``, without the empty values.

    Args:
        titles: the titles of the columns.
        rows: the cells.
        least_important: titles of columns that may be left out, the least important first.
        width: the number of characters in a line.
        right: the titles of the columns that are aligned on the right; True: all but the first, False: none.
        wrapped: the titles of columns of text that may be wrapped between words.
        key: how many of the first columns make up the title of a row that is turned into lines; 0: its number is the title.
    """
    aligned = titles[1:] if right is True else right or ()
    rows = [[replace_unprintable(cell) for cell in row] for row in rows]
    for left_out in range(len(least_important) + 1):
        chosen = [place for place, title in enumerate(titles) if title not in least_important[:left_out]]
        widths = {place: max(cell_len(row[place]) for row in (titles, *rows)) for place in chosen}
        least = {
            place: min(size, _measure_text(titles[place], rows, place)) if titles[place] in wrapped else size
            for place, size in widths.items()
        }
        if sum(least.values()) + _SPACE * (len(chosen) - 1) <= width:
            shown = _make_table()
            for place in chosen:
                is_text = titles[place] in wrapped
                shown.add_column(
                    titles[place],
                    justify="right" if titles[place] in aligned else "left",
                    overflow="fold",
                    no_wrap=not is_text,
                    min_width=least[place],
                )
            for row in rows:
                shown.add_row(*(Text(row[place]) for place in chosen))
            return shown
    return _turn(titles, rows, width, key)


def _measure_text(title: str, rows: Sequence[Sequence[str]], place: int) -> int:
    """Return the least width of a column of text, in which no word is broken."""
    return max(_LEAST_TEXT, *(cell_len(word) for text in (title, *(row[place] for row in rows)) for word in text.split(" ")))


def _turn(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int, key: int) -> Text:
    """Return each row as a title and lines of ``name value``."""
    lines: list[str] = []
    for number, row in enumerate(rows, 1):
        lines += fill_words(filter(None, row[:key]), width) if key else [f"row {number:,}"]
        named = [f"{name} {value}".strip() for name, value in zip(titles[key:], row[key:], strict=True) if value]
        for line in fill_lines(named, width - _SPACE):
            lines += [f"{' ' * _SPACE}{part}" for part in _break_line(line, width - _SPACE)]
    return Text("\n".join(lines), overflow="fold")


def _break_line(line: str, width: int) -> list[str]:
    return [line] if cell_len(line) <= width else fill_words(split_words(line), width)


def split_words(line: str) -> list[str]:
    """Return the words of a line; a date and the time of day after it are one word."""
    return _WORD.findall(line)


def fill_words(words: Iterable[str], width: int) -> list[str]:
    """Return words joined by blanks in lines of at most ``width`` characters; no word is broken."""
    return _fill(words, width, " ")


def fill_lines(words: Iterable[str], width: int) -> list[str]:
    """Return words joined by commas in lines of at most ``width`` characters; no word is broken."""
    return _fill(words, width, ", ")


def _fill(words: Iterable[str], width: int, between: str) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and cell_len(lines[-1]) + len(between) + cell_len(word) <= width:
            lines[-1] += f"{between}{word}"
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
