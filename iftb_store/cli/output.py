"""Output of the commands: tables for people, JSON for programs, errors on one line; never a password."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iftb_store.values import display
from iftb_store.values.decimals import CONTEXT, format_plain
from iftb_store.values.display import replace_unprintable

#: The URLs of the command that runs as they were given, by those that are opened, as `iftb_store.url.quote_url` writes both.
GIVEN: ContextVar[dict[str, str]] = ContextVar("iftb_store_given")
# a pipe has no width, so rows are never wrapped there
_PIPE_WIDTH = 10_000


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


def format_count(count: int, noun: str) -> str:
    """Return a number and its noun: ``1 bar``, ``43,200 bars``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_json(value: object) -> None:
    """Print one JSON document: the fields of dataclasses, decimals as strings of plain digits, times as ISO 8601 in UTC."""
    print(json.dumps(value, indent=2, default=_json))  # noqa: T201 - see say; JSON is ASCII


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table; a cell that is too wide is wrapped, never cut off."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(replace_unprintable(cell)) for cell in row))
    console().print(shown)


def format_number(value: Decimal | None, places: int | None = None) -> str:
    """Return plain digits, rounded half-even to ``places`` if given; an empty text for None."""
    if value is None:
        return ""
    if places is not None and -value.as_tuple().exponent > places:  # type: ignore[operator]
        value = value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN, context=CONTEXT)
    return format_plain(value) or format(value, "f")


def format_moment(value: datetime) -> str:
    """Return a time in UTC for people, with seconds only if it has any: ``2024-02-29 23:59``."""
    utc = value.astimezone(UTC).replace(tzinfo=None)
    return utc.isoformat(" ", "auto" if utc.second or utc.microsecond else "minutes")


def format_clock_time(value: datetime | None) -> str:
    """Return a time that the store set, e.g. created_at, as text in UTC with seconds; an empty text for None."""
    return "" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format_number(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return str(value) if isinstance(value, Path) else asdict(value)
