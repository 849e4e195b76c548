"""The command sql: the rows of one SQL statement that reads, as a table, JSON or CSV."""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

import typer
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError

from iftb_store.cli.data import Argument, Json
from iftb_store.cli.output import print_fitting, print_json, say
from iftb_store.cli.target import URL_HELP, is_url, require_file, run
from iftb_store.config import resolve_url
from iftb_store.errors import READS_ONLY, InvalidValueError, StoreError, Unsupported, operational_error
from iftb_store.manager import DatabaseManager
from iftb_store.protocols import Capability
from iftb_store.schema.scope import TABLES
from iftb_store.transfer.backup import READ_ONLY
from iftb_store.url import parse_url
from iftb_store.values.display import hide_password, show
from iftb_store.values.readable import format_count, format_number
from iftb_store.values.suggestions import suggest

# the number of characters from which on a text is wrapped between words; the times of the views are shorter
_LONG = 30
_WORD = re.compile(r"[A-Za-z_]{4,60}")

# the column names and the rows
_Rows = tuple[list[str], list[Sequence[Any]]]


def sql(
    url: Annotated[str | None, Argument(metavar="URL", help=URL_HELP)] = None,
    statement: Annotated[str | None, Argument(metavar="SQL", help="One statement that reads, in quotes (required).")] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header; NULL is an empty field.")] = False,
) -> None:
    """Run one SQL statement that reads, and show its rows: `iftb-store sql URL "SELECT count(*) FROM ohlcv_view"`.

    Use the views, e.g. ohlcv_view and trades_view: they read alike on every engine. The engine itself refuses to write: SQLite
    and DuckDB open the file read-only, PostgreSQL runs the statement in a read-only transaction, and a lake only reads. All
    rows are read into memory, so add a LIMIT to a query of many rows.
    """
    given = [word for word in (url, statement) if word is not None]
    # a statement may contain ://, and a URL contains no blank
    address = given.pop(0) if given and is_url(given[0]) and (len(given) == 2 or not re.search(r"\s", given[0])) else None
    if len(given) != 1 or not given[0].strip():
        raise InvalidValueError('SQL is required, in quotes: iftb-store sql URL "SELECT count(*) FROM ohlcv_view"')
    if as_json and as_csv:
        raise InvalidValueError("--json and --csv exclude each other; give one of them")
    query = given[0]
    require_file(resolve_url(address))
    names, rows = run(_read_only(parse_url(resolve_url(address))), lambda db: _execute(db, query))
    if as_json or as_csv:
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise InvalidValueError(f"two columns are named {show(twice[0])}; give each a name with AS")
        _print_data(names, rows, as_json=as_json)
    else:
        _show(names, rows)


def _read_only(url: URL) -> URL:
    """Return a URL that opens the database read-only, if its engine has such a URL."""
    return url.update_query_dict(READ_ONLY.get(url.get_backend_name(), {}))


async def _execute(db: DatabaseManager, query: str) -> _Rows:
    """Run a statement in a session that the engine lets only read.

    Raises:
        Unsupported: the backend has no such sessions.
    """
    reads_only = Capability.ISOLATION in db.capabilities
    if not reads_only and Capability.RAW_WRITES in db.capabilities:
        raise Unsupported("this backend has no read-only sessions, so a statement could write; use session.execute() in Python")
    # without the backslash, SQLAlchemy would take :name in a text for a parameter
    prepared = text(query.replace(":", r"\:"))
    try:
        async with db.get_session(isolation="snapshot" if reads_only else None) as session:
            result = await session.execute(prepared)
            # a result without rows has no names either, and refuses to return them
            return (list(result.keys()), list(result.all())) if getattr(result, "returns_rows", True) else ([], [])
    except DBAPIError as error:
        reason = str(error.orig)
        if READS_ONLY in reason:
            raise operational_error("iftb-store sql only reads; to write, call session.execute() in Python", error) from error
        raise operational_error(f"{reason}{_find_hint(query, reason)}", error) from error
    except (StoreError, OSError):
        raise
    except Exception as error:
        # the driver cannot convert a value, e.g. text in a column of numbers
        raise operational_error(f"the rows cannot be read: {hide_password(str(error))}", error) from error


def _find_hint(query: str, reason: str) -> str:
    """Return a question that names a known table, view or column, if an error is about a similar word of the statement."""
    known = {*TABLES, *(f"{name}_view" for name in TABLES), *(name for table in TABLES.values() for name in table.columns)}
    for word in _WORD.findall(query):
        if word.lower() not in known and word in reason and (near := suggest(word, known)):
            return f"; {near.rstrip()}"
    return ""


def _print_data(names: list[str], rows: list[Sequence[Any]], *, as_json: bool) -> None:
    plain = [[_to_plain(value) for value in row] for row in rows]
    if as_json:
        print_json([dict(zip(names, row, strict=True)) for row in plain])
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(["" if value is None else value for value in row] for row in plain)


def _show(names: list[str], rows: list[Sequence[Any]]) -> None:
    if not names:
        say("the statement returns no rows")
        return
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    numbers = [_holds(column, (int, float, Decimal)) for column in columns]
    texts = {
        name
        for name, column in zip(names, columns, strict=True)
        if _holds(column, str) and max(map(len, filter(None, column)), default=0) > _LONG
    }
    cells = [["" if value is None else _to_text(value) for value in row] for row in rows]
    if rows:
        print_fitting(
            names, cells, right=[name for name, right in zip(names, numbers, strict=True) if right], wrapped=texts, key=0
        )
    say(format_count(len(rows), "row"))


def _holds(column: Sequence[Any], kinds: type | tuple[type, ...]) -> bool:
    """Return whether a column has values of these types and NULL only."""
    values = [value for value in column if value is not None]
    return bool(values) and all(isinstance(value, kinds) and not isinstance(value, bool) for value in values)


def _to_text(value: Any) -> str:
    plain = _to_plain(value)
    return plain if isinstance(plain, str) else str(plain).lower() if isinstance(plain, bool) else str(plain)


def _to_plain(value: Any) -> Any:
    """Return a value as JSON holds it: decimals, times and bytes as text; NaN, which JSON does not have, too."""
    if isinstance(value, Decimal):
        return format_number(value) if value.is_finite() else str(value)
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(name): _to_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    return value if isinstance(value, str | int | float | type(None)) else str(value)
