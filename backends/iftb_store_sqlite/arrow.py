"""Reads SQLite rows as Arrow tables: SQLite joins the values of a column into one text, so no value becomes a Python object."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.batches.arrow import DECIMAL, TIME, complete_rows, identify_row, selection_schema, unreadable_value
from iftb_store.errors import StoreError
from iftb_store.schema.table_spec import LONG_KINDS, ColumnKind, RowFilter
from iftb_store.schema.types import FIRST_US, LAST_US, from_epoch_us
from iftb_store.values.decimals import format_plain, from_sortable, to_sortable
from iftb_store.values.display import is_text

#: The number of rows that one statement joins; this takes a few milliseconds of one core.
ROWS = 10_000

# separators between values: a text may contain a comma, but no NUL
_COMMA, _NUL = ",", "\0"
# the exceptions that Arrow and the conversions raise for a value that does not belong into its column
_MISREAD = (pa.ArrowException, ArithmeticError, LookupError, TypeError, ValueError)
_PREFIXES = "abcdefghijklmnopqrst"

#: Returns the SELECT statement of a selection, and its arguments.
Made = Callable[[RowFilter], tuple[str, Sequence[Any]]]


def read_rows(connection: sqlite3.Connection, selection: RowFilter, made: Made) -> pa.Table:
    """Return a selection's rows, all from one snapshot of the database."""
    alone = not connection.in_transaction
    if alone:
        connection.execute("BEGIN")
    try:
        parts = _convert_all(selection, _parts(connection, selection, made))
    except (*_MISREAD, sqlite3.OperationalError) as error:
        # sqlite3's own error for bytes that are not UTF-8 has no error code
        if not hasattr(error, "sqlite_errorcode") and (found := _unreadable(connection, selection, made)) is not None:
            raise found from error
        raise
    finally:
        # an error may already have ended the transaction
        if alone and connection.in_transaction:
            connection.execute("COMMIT")
    return pa.concat_tables(parts) if parts else selection_schema(selection).empty_table()


def _convert_all(selection: RowFilter, parts: Iterator[tuple[int, list[str]]]) -> list[pa.Table]:
    jobs = list[Future[pa.Table]]()
    earlier = next(parts, None)
    if earlier is None:
        return []
    # SQLite and Arrow both release Python's global lock, so that SQLite reads while Arrow converts. No thread starts for a
    # single part: the memory that a thread frees stays with it, and many short reads would each take a new thread's
    with ThreadPoolExecutor(1, thread_name_prefix="iftb-store-arrow") as converter:
        for part in parts:
            if len(jobs) > 1:
                # if the converter is slower than SQLite, parts must not pile up
                jobs[-2].result()
            jobs.append(converter.submit(_convert, selection, *earlier))
            earlier = part
        last = _convert(selection, *earlier)
    return [*(job.result() for job in jobs), last]


def _unreadable(connection: sqlite3.Connection, selection: RowFilter, made: Made) -> StoreError | None:
    """Read the values one by one; return the error for the first value that is invalid in its column, or None."""
    usual, connection.text_factory = connection.text_factory, lambda text: text.decode(errors="surrogateescape")
    try:
        for row in connection.execute(*made(selection)):
            values = dict(zip(selection.columns, row, strict=True))
            for name, value in values.items():
                if not (_nullable(selection, name) if value is None else _sound(selection.table.kinds[name], value)):
                    row = identify_row(selection.table, selection.equal | values)
                    return unreadable_value(selection.table, name, row, value)
    finally:
        connection.text_factory = usual
    return None


def _sound(kind: ColumnKind, value: Any) -> bool:
    if kind == ColumnKind.INTEGER:
        return isinstance(value, int)
    if kind == ColumnKind.TIME:
        return isinstance(value, int) and FIRST_US <= value <= LAST_US
    if not isinstance(value, str) or "\0" in value or not is_text(value):
        return False
    if kind != ColumnKind.DECIMAL:
        return True
    try:
        digits = format_plain(from_sortable(value))
    except (ArithmeticError, LookupError):
        return False
    return digits is not None and to_sortable(digits) == value


def _parts(connection: sqlite3.Connection, selection: RowFilter, made: Made) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows in parts: the number of rows, and the joined values of each column."""
    joined = ", ".join(_join_sql(selection, column) for column in selection.columns)
    left = selection.limit
    while left is None or left > 0:
        size = ROWS if left is None else min(ROWS, left)
        sql, args = made(replace(selection, limit=size))
        # SQLite does not merge a subquery with a LIMIT into the outer query, so the rows come in the subquery's order
        count, *texts = connection.execute(f"SELECT count(*), {joined} FROM ({sql})", args).fetchone()
        if count:
            yield count, texts
        if count < size:
            return
        left = None if left is None else left - size
        selection = replace(selection, after=tuple(_last(selection, column, texts) for column in selection.order))


def _last(selection: RowFilter, column: str, texts: list[str]) -> Any:
    last = texts[selection.columns.index(column)].rpartition(_separator(selection, column))[2]
    kind = selection.table.kinds[column]
    return from_epoch_us(int(last)) if kind == ColumnKind.TIME else int(last) if kind == ColumnKind.INTEGER else last


def _convert(selection: RowFilter, count: int, texts: list[str]) -> pa.Table:
    wanted = selection_schema(selection)
    columns = {
        name: _values(text, wanted.field(name).type, _nullable(selection, name), _separator(selection, name))
        for name, text in zip(selection.columns, texts, strict=True)
    }
    return complete_rows(selection, columns, count)


def _join_sql(selection: RowFilter, column: str) -> str:
    # group_concat is twice as fast with its default separator, a comma, as with one that is passed
    named = "" if _separator(selection, column) == _COMMA else ", char(0)"
    return f"group_concat({_column_sql(selection, column)}{named})"


def _separator(selection: RowFilter, column: str) -> str:
    return _NUL if selection.table.kinds[column] in LONG_KINDS else _COMMA


def _column_sql(selection: RowFilter, column: str) -> str:
    if not _nullable(selection, column):
        return column
    # NULL becomes an empty text, which no value of another type equals; among texts a prefix distinguishes an empty text from
    # NULL
    given = f"'=' || {column}" if selection.table.kinds[column] in LONG_KINDS else column
    return f"coalesce({given}, '')"


def _nullable(selection: RowFilter, column: str) -> bool:
    return not selection.table.is_required(column)


def _values(text: str, kind: pa.DataType, nullable: bool, between: str) -> Any:
    values: Any = pc.split_pattern(pa.array([text], pa.large_string()), between).values
    if nullable:
        values = pc.if_else(pc.cast(pc.binary_length(values), pa.bool_()), values, None)
    if kind == DECIMAL:
        return _decimals(values, "~" in text)
    if kind == TIME:
        return values.cast(pa.int64()).cast(TIME)
    if kind == pa.string():
        return (pc.utf8_slice_codeunits(values, 1) if nullable else values).cast(kind)
    return values.cast(kind)


def _decimals(values: Any, negative: bool) -> Any:
    if negative:
        digits = [None if value is None else format(from_sortable(value), "f") for value in values.to_pylist()]
        return pa.array(digits, pa.string()).cast(DECIMAL)
    numbers: Any = pc.ascii_ltrim(values, _PREFIXES)
    # a value without its prefix letter was not written by iftb-store, and other code would read it as another number
    if pc.any(pc.not_equal(pc.binary_length(values), pc.add(pc.binary_length(numbers), 1))).as_py():
        raise ValueError("a decimal that is not in the format of iftb-store")
    return numbers.cast(DECIMAL)
