"""SqlDriver, which runs the stores' statements through SQLAlchemy on any async dialect that a `SqlDialect` describes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from heapq import merge
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, CursorResult, Inspector, inspect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util.concurrency import await_

from iftb_store._io.gc_pause import pause_gc
from iftb_store._io.tasks import import_modules
from iftb_store.batches.bars import CHUNK, KEY, VALUES, BarBatch
from iftb_store.errors import operational_error, readable
from iftb_store.models import OHLCVBar, TradeTotals, WriteCounts
from iftb_store.protocols import WriteMode
from iftb_store.relational.calls import run_in_turn
from iftb_store.relational.conditions import filter_sql
from iftb_store.relational.dialect import Row, SqlDialect, Statement, prepare_statement
from iftb_store.relational.driver import bind
from iftb_store.relational.rows import RowForm, shown_column
from iftb_store.relational.scans import fitting_sql, scan_sql
from iftb_store.relational.sessions import StoreSession
from iftb_store.schema.revision import NEWEST_COLUMN, VERSION_TABLE, check_revision
from iftb_store.schema.table_spec import BARS, SERIES, TRADES, ColumnKind, RowFilter, TableSpec
from iftb_store.values.decimals import CONTEXT, trim_zeros

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

_BARS = RowForm(BARS)
_COLUMNS = (*KEY, *VALUES, "created_at")
# rows per statement: few, so that an interrupted write stops soon, and a list of keys stays within a driver's limits
_ROWS = 200
# how often a write of bars looks again for bars that another session has just stored or deleted
_ATTEMPTS = 3
_BAR_KEY = itemgetter(0, 1, 2, 3)
_TOTALS = ("realized_pnl", "fee")


class SqlDriver:
    """Runs the stores' statements on a session; see `iftb_store.relational.Driver`."""

    def __init__(self, session: AsyncSession, dialect: SqlDialect) -> None:
        self._session = session
        self.dialect = dialect

    async def read_bars(self, statement: Statement, args: Row, *, many: bool = False) -> list[OHLCVBar]:
        """Run a query whose columns are OHLCVBar's fields and return the bars; ``many`` has no effect."""
        rows = await self.read(statement, args)
        bars: list[OHLCVBar] = []
        for first in range(0, len(rows), CHUNK):
            with pause_gc():
                bars += _BARS.decode(self.dialect, rows[first : first + CHUNK])
            await asyncio.sleep(0)
        return bars

    async def read(self, statement: Statement, args: Row) -> Sequence[Row]:
        """Run a query and return its rows."""
        return await self._run(lambda connection: _fetch(connection, statement, args))

    async def insert(self, statement: Statement, args: Row, *, savepoint: bool = False) -> int | None:
        """Insert one row and return its id, or None if nothing was inserted."""

        def work(connection: Connection) -> int | None:
            with connection.begin_nested() if savepoint else nullcontext():
                result = _execute(connection, statement, args)
                if not self.dialect.returning:
                    return result.lastrowid if result.rowcount else None
                row = result.fetchone()
                return None if row is None else int(row[0])

        return await self._run(work)

    async def change(self, statement: Statement, args: Row, *, savepoint: bool = False) -> int:
        """Run one writing statement and return the number of changed rows."""

        def work(connection: Connection) -> int:
            with connection.begin_nested() if savepoint else nullcontext():
                return _execute(connection, statement, args).rowcount

        return await self._run(work)

    async def write_bars(self, batch: BarBatch, mode: WriteMode) -> WriteCounts | None:
        """Write the bars of a batch; see `iftb_store.protocols.BarStore.write`."""
        rows = await _read_batch(batch)

        def work(connection: Connection) -> WriteCounts | None:
            with connection.begin_nested():
                if mode == "insert":
                    for part in _parts(rows):
                        self._insert_bars(connection, part, batch.created_at)
                    return None
                counts = [self._upsert_bars(connection, part, batch.created_at) for part in _parts(rows)]
            return WriteCounts(*map(sum, zip(*counts, strict=True))) if mode == "count" else None

        for attempt in range(_ATTEMPTS):
            try:
                return await self._run(work)
            except (IntegrityError, _Changed) as error:
                if mode == "insert":
                    raise
                if attempt == _ATTEMPTS - 1:
                    raise operational_error(
                        "other sessions are writing the same bars; run the transaction again", error, transient=True
                    ) from error
        return None

    def _insert_bars(self, connection: Connection, rows: Sequence[tuple[Any, ...]], created_at: datetime) -> None:
        values = (dict(zip(_COLUMNS, (*row, created_at), strict=True)) for row in rows)
        _execute_many(connection, self.dialect, _insert_sql(self.dialect, _BARS, _COLUMNS), values)

    def _upsert_bars(self, connection: Connection, rows: Sequence[tuple[Any, ...]], created_at: datetime) -> tuple[int, int]:
        where = f"{self.dialect.series} AND timestamp = {_BARS.parameter(self.dialect, 'timestamp')}"
        sql = _BARS.update_sql(self.dialect, VALUES, where)
        stored: dict[tuple[Any, ...], Row] = {}
        for series, group in groupby(rows, key=itemgetter(0, 1, 2)):
            values = self._read_stored(connection, series, [row[3] for row in group])
            stored |= {(*series, moment): row for moment, row in values.items()}
        # in key order, so that two writers do not deadlock; a bar that does not change is updated too, which locks it
        for is_stored, group in groupby(rows, key=lambda row: row[: len(KEY)] in stored):
            part = list(group)
            if not is_stored:
                self._insert_bars(connection, part, created_at)
            elif _count_many(connection, self.dialect, sql, (dict(zip(_COLUMNS, row, strict=False)) for row in part)) < len(part):
                raise _Changed
        changed = sum(stored.get(row[: len(KEY)], row[len(KEY) :]) != row[len(KEY) :] for row in rows)
        return len(rows) - len(stored), changed

    def _read_stored(self, connection: Connection, series: Sequence[str], times: Sequence[datetime]) -> dict[datetime, Row]:
        """Return the stored values of the bars of a series at the given times."""
        dialect = self.dialect
        marks = ", ".join(dialect.time_parameter.format(f"time_{index}") for index in range(len(times)))
        values = dict(zip(SERIES, series, strict=True)) | {f"time_{index}": moment for index, moment in enumerate(times)}
        sql = _BARS.select_sql(dialect, f"WHERE {dialect.series} AND timestamp IN ({marks})")
        bars = _BARS.decode(dialect, _execute(connection, *bind(self, sql, values)).fetchall())
        return {bar.timestamp: tuple(getattr(bar, name) for name in VALUES) for bar in bars}

    async def get_totals(self, since: datetime, trades: RowFilter) -> TradeTotals:
        """Read trades and add up their totals in Python; see `iftb_store.protocols.RecordStore.get_totals`."""
        dialect = self.dialect
        columns = ", ".join(shown_column(dialect, name, ColumnKind.DECIMAL) for name in _TOTALS)
        conditions, values = filter_sql(trades, dialect)
        conditions.append(
            f"realized_pnl IS NOT NULL AND COALESCE(exit_time, updated_at) >= {dialect.time_parameter.format('since')}"
        )
        sql = f"SELECT {columns} FROM {TRADES.name} WHERE {' AND '.join(conditions)}"
        rows = await self.read(*bind(self, sql, {"since": since} | values))
        profit, loss, fees, best, worst, wins, losses = *(Decimal(0),) * 5, 0, 0
        for index, row in enumerate(rows):
            if not index % CHUNK:
                await asyncio.sleep(0)
            with readable(TRADES.name):
                result, fee = (Decimal(0) if value is None else dialect.decode_decimal(value) for value in row)
            fees = CONTEXT.add(fees, fee)
            if result > 0:
                wins, profit, best = wins + 1, CONTEXT.add(profit, result), max(best, result)
            elif result < 0:
                losses, loss, worst = losses + 1, CONTEXT.subtract(loss, result), max(worst, result.copy_abs())
        return TradeTotals(len(rows), wins, losses, *map(trim_zeros, (profit, loss, fees, best, worst)))

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the rows of a selection; see `iftb_store.protocols.Stores.read_rows`."""
        await import_modules("pyarrow", "iftb_store.relational.arrow_rows")
        from iftb_store.relational.arrow_rows import to_arrow

        dialect = self.dialect

        def work(connection: Connection) -> tuple[RowFilter, list[Row]]:
            asked = selection
            if asked.size is not None:
                fitting = _execute(connection, *bind(self, *fitting_sql(asked, dialect))).scalar_one()
                asked = replace(asked, limit=max(1, int(fitting)))
            sql, values = scan_sql(asked, dialect, lambda column, kind: shown_column(dialect, column, kind))
            return asked, _fetch(connection, *bind(self, sql, values))

        asked, rows = await self._run(work)
        return await asyncio.to_thread(to_arrow, dialect, asked, rows)

    async def write_rows(self, table: TableSpec, rows: pa.Table) -> None:
        """Store rows unchanged; see `iftb_store.protocols.Stores.write_rows`.

        In a table with ids, the stored rows that ``rows`` overwrite are deleted first, so that other rows of the batch may take
        their unique values. If an id in ``rows`` belongs to a different stored row, that row is kept and the insert fails.
        """
        given = await asyncio.to_thread(rows.to_pylist)
        form, dialect = RowForm(table), self.dialect
        assigns = table.has_own_ids and rows["id"].null_count > 0
        insert = _insert_sql(dialect, form, form.written if assigns else table.written)

        def work(connection: Connection) -> None:
            with connection.begin_nested():
                if table.has_own_ids and not assigns:
                    for part in _parts(given):
                        _execute_many(connection, dialect, _delete_sql(dialect, form, (*table.key, *table.identity)), part)
                for part in _parts(given):
                    new = part if table.has_own_ids else self._update_rows(connection, form, part)
                    if new:
                        _execute_many(connection, dialect, insert, new)
            if table.has_own_ids and not assigns and dialect.set_sequence:
                connection.exec_driver_sql(dialect.set_sequence.format(table.name))

        if given:
            await self._run(work)

    def _update_rows(
        self, connection: Connection, form: RowForm, rows: Sequence[Mapping[str, Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """Overwrite the stored rows that have the keys of ``rows``; return the rows whose key is not stored."""
        where = _key_sql(self.dialect, form, form.table.key)
        statement = prepare_statement(form.update_sql(self.dialect, form.table.overwritten, where), self.dialect)
        encoded = ([self.dialect.encode(row[name]) for name in statement.names] for row in rows)
        counts = [_execute(connection, statement, args).rowcount for args in encoded]
        return [row for row, count in zip(rows, counts, strict=True) if not count]

    async def delete_rows(self, table: TableSpec, rows: pa.Table) -> int:
        """Delete rows by their keys and return the number of deleted rows; see `iftb_store.protocols.Stores.delete_rows`."""
        given = await asyncio.to_thread(rows.select(list(table.key)).to_pylist)
        sql = _delete_sql(self.dialect, RowForm(table), table.key)

        def work(connection: Connection) -> int:
            with connection.begin_nested():
                return sum(_count_many(connection, self.dialect, sql, part) for part in _parts(given))

        return await self._run(work) if given else 0

    async def _run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` with the session's connection, in the session's transaction, when it is this call's turn."""
        return await run_in_turn(self._session, lambda connection: work(self._check_schema(connection)))

    def _check_schema(self, connection: Connection) -> Connection:
        """Check the revision of the schema, once per manager, on the first connection."""
        session = self._session
        if isinstance(session, StoreSession) and not session.iftb_store_backend.schema_seen:
            catalog = inspect(connection)
            stamped = None
            if catalog.has_table(VERSION_TABLE):
                stamped = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()
            backend, (table, column) = session.iftb_store_backend, NEWEST_COLUMN
            has_newest = stamped is not None or not catalog.has_table(table) or _has_column(catalog, table, column)
            has_tables = catalog.has_table(BARS.name)
            backend.schema_seen = check_revision(has_tables, stamped, backend.shown_url, has_newest=has_newest)
        return connection


def _has_column(catalog: Inspector, table: str, column: str) -> bool:
    return any(one["name"] == column for one in catalog.get_columns(table))


async def _read_batch(batch: BarBatch) -> list[tuple[Any, ...]]:
    """Check the bars of a batch and return their columns as rows in key order, with Decimals."""
    chunks: list[list[tuple[Any, ...]]] = []
    for columns in batch.chunks():
        with pause_gc():
            # the checked bars hold their decimals as text
            texts: list[Sequence[str | None]] = [columns.open, columns.high, columns.low, columns.close, columns.volume]
            texts.append(columns.quote_volume)
            prices = ([None if text is None else Decimal(text) for text in column] for column in texts)
            chunks.append(sorted(zip(*columns[: len(KEY)], *prices, columns[-1], strict=True), key=_BAR_KEY))
        await asyncio.sleep(0)
    if batch.ordered:
        return [row for chunk in chunks for row in chunk]
    rows: list[tuple[Any, ...]] = []
    merged = merge(*chunks, key=_BAR_KEY)
    while part := list(islice(merged, CHUNK)):
        rows += part
        await asyncio.sleep(0)
    return rows


class _Changed(Exception):
    """Raised if a bar was deleted between the read of its stored values and its update."""


def _parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the rows in parts, and let other tasks run before each part; for use within `run_in_turn`."""
    for first in range(0, len(rows), _ROWS):
        await_(asyncio.sleep(0))
        yield rows[first : first + _ROWS]


def _execute(connection: Connection, statement: Statement, args: Row) -> CursorResult[Any]:
    parameters: Any = tuple(args) if statement.positional else dict(zip(statement.names, args, strict=True))
    return connection.exec_driver_sql(statement.sql, parameters)


def _fetch(connection: Connection, statement: Statement, args: Row) -> list[Row]:
    """Run a query and return its rows; let other tasks run meanwhile; for use within `run_in_turn`."""
    result, rows = _execute(connection, statement, args), list[Row]()
    while True:
        with pause_gc():
            part = result.fetchmany(CHUNK)
            rows += part
        if len(part) < CHUNK:
            return rows
        await_(asyncio.sleep(0))


def _execute_many(connection: Connection, dialect: SqlDialect, sql: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Run a writing statement once per row of values; return the number of rows that it changed, or -1 if that is unknown."""
    statement = prepare_statement(sql, dialect)
    encoded = ([dialect.encode(row[name]) for name in statement.names] for row in rows)
    if statement.positional:
        return connection.exec_driver_sql(statement.sql, [tuple(values) for values in encoded]).rowcount
    return connection.exec_driver_sql(
        statement.sql, [dict(zip(statement.names, values, strict=True)) for values in encoded]
    ).rowcount


def _count_many(connection: Connection, dialect: SqlDialect, sql: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Run a writing statement once per row of values; return the number of rows that it changed."""
    if dialect.dialect.supports_sane_multi_rowcount:
        return _execute_many(connection, dialect, sql, rows)
    statement = prepare_statement(sql, dialect)
    return sum(_execute(connection, statement, [dialect.encode(row[name]) for name in statement.names]).rowcount for row in rows)


def _insert_sql(dialect: SqlDialect, form: RowForm, columns: Sequence[str]) -> str:
    marks = ", ".join(form.parameter(dialect, column) for column in columns)
    return f"INSERT INTO {form.table.name} ({', '.join(columns)}) VALUES ({marks})"


def _delete_sql(dialect: SqlDialect, form: RowForm, columns: Sequence[str]) -> str:
    return f"DELETE FROM {form.table.name} WHERE {_key_sql(dialect, form, columns)}"


def _key_sql(dialect: SqlDialect, form: RowForm, columns: Sequence[str]) -> str:
    """Return the SQL condition that each of ``columns`` equals the parameter of its name."""
    return " AND ".join(
        dialect.equal(column) if form.table.kinds[column] == ColumnKind.TEXT else f"{column} = {form.parameter(dialect, column)}"
        for column in columns
    )
