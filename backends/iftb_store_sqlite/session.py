"""Runs a session's statements on its aiosqlite connection, in the session's transaction, with one thread switch each."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store.batches.bars import CHUNK, BarBatch
from iftb_store.errors import SchemaError, operational_error
from iftb_store.models import OHLCVBar, TradeTotals, WriteCounts
from iftb_store.protocols import WriteMode
from iftb_store.relational import (
    Row,
    SqlDialect,
    Statement,
    StoreSession,
    before_write,
    bind,
    blame_parent,
    check_own_lock,
    filter_sql,
    fitting_sql,
    hold_connection,
    import_modules,
    note_error,
    run_to_end,
    scan_sql,
)
from iftb_store.schema.revision import NEWEST_COLUMN, VERSION_TABLE, check_revision
from iftb_store.schema.table_spec import RowFilter, TableSpec
from iftb_store.schema.types import from_epoch_us, to_epoch_us
from iftb_store.values.checks import json_text
from iftb_store.values.decimals import from_sortable, to_sortable
from iftb_store_sqlite.bars import INSERTER, KEEPER, UPSERTER, BarWriter, fetch_bars, write_next, write_whole
from iftb_store_sqlite.connection import begin, release, savepoint, undo
from iftb_store_sqlite.errors import RAISED, translate
from iftb_store_sqlite.strangers import refuse_foreign_objects
from iftb_store_sqlite.totals import TOTALS, add_parts, make_totals, sums

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

_MONTH = "(CAST(strftime('%Y', {0}) AS INTEGER) * 12 + CAST(strftime('%m', {0}) AS INTEGER))"
# SQLite's division truncates toward zero; subtracting the remainder first rounds times before 1970 down to their second
_SECOND = "({} - (({} % 1000000) + 1000000) % 1000000) / 1000000, 'unixepoch'"


def _encode(value: Any) -> Any:
    """Convert a value for SQLite: times to microseconds, decimals to sortable text, dicts to JSON text."""
    if isinstance(value, datetime):
        return to_epoch_us(value)
    if isinstance(value, Decimal):
        return to_sortable(format(value, "f"))
    return json_text(value, "value") if isinstance(value, dict) else value


#: SQLite's SQL, with decimals as sortable text and times as microseconds.
DIALECT = SqlDialect(
    dialect=SQLiteDialect_aiosqlite(),
    octets="length(CAST({} AS BLOB))",
    microseconds="{}",
    sums=sums,
    grid=True,
    unindexed="+{}",
    month=_MONTH.format(_SECOND.replace("{}", "{0}")),
    encode=_encode,
    decode_decimal=from_sortable,
    decode_sum=add_parts,
    decode_time=from_epoch_us,
)


class SQLiteDriver:
    """Runs the stores' statements on aiosqlite; see `iftb_store.relational.driver.Driver`."""

    dialect = DIALECT

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._logger = session.get_bind().engine.logger

    async def read_bars(self, statement: Statement, args: Row, *, many: bool = False) -> list[OHLCVBar]:
        """Run a query and convert its rows to bars in SQLite's thread, so that the event loop stays free.

        ``many`` has no effect.
        """
        self._logger.info("%s", statement.sql)
        return await self._run(fetch_bars, statement.sql, args)

    async def read(self, statement: Statement, args: Row) -> Sequence[Row]:
        """Run a query and return its rows; outside a transaction it sees everything that is committed."""
        self._logger.info("%s", statement.sql)
        return await self._run(_fetch, statement.sql, args)

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run ``work``, which only reads, in SQLite's thread with the session's connection, and return its result."""
        return await self._run(work, *args)

    async def insert(self, statement: Statement, args: Row, *, savepoint: bool = False) -> int | None:
        """Insert one row and return its id, or None if nothing was inserted.

        ``savepoint`` has no effect: if a statement fails, SQLite undoes that statement only.
        """
        self._logger.info("%s", statement.sql)
        rows = await self._run(_insert, statement.sql, args, writes=True)
        return rows[0][0] if rows else None

    async def change(self, statement: Statement, args: Row, *, savepoint: bool = False) -> int:
        """Run one writing statement and return the number of rows that it changed; ``savepoint`` has no effect."""
        self._logger.info("%s", statement.sql)
        return await self._run(_change, statement.sql, args, writes=True)

    async def write_bars(self, batch: BarBatch, mode: WriteMode) -> WriteCounts | None:
        """Write the bars of a batch; see `iftb_store.protocols.BarStore.write`.

        The order of the bars cannot cause a deadlock, because SQLite has one writer at a time.
        """
        if mode == "count":
            return await self._upsert_counted(batch)
        writer = INSERTER if mode == "insert" else UPSERTER
        self._logger.info("%s [%d bars]", writer.one, len(batch))
        if len(batch) <= CHUNK:
            await self._run(write_whole, await _prepare(writer, batch), writes=True)
            return None
        async with self._savepoint() as connection:
            await self._write_chunks(connection, writer, batch)
        return None

    async def _upsert_counted(self, batch: BarBatch) -> WriteCounts:
        # new bars are inserted first, so that the upsert that follows changes only bars that were stored before
        async with self._savepoint() as connection:
            inserted = await self._write_chunks(connection, KEEPER, batch)
            updated = 0 if inserted == len(batch) else await self._write_chunks(connection, UPSERTER, batch)
        return WriteCounts(inserted, updated)

    async def get_totals(self, since: datetime, trades: RowFilter) -> TradeTotals:
        """Return totals of the selected trades; see `iftb_store.protocols.RecordStore.get_totals`."""
        conditions, values = filter_sql(trades, self.dialect)
        (row,) = await self.read(*bind(self, " AND ".join([TOTALS, *conditions]), {"since": since} | values))
        return make_totals(row)

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the rows of a selection, read and converted in SQLite's thread; see Stores.read_rows."""
        await import_modules("pyarrow", "iftb_store_sqlite.arrow")
        from iftb_store_sqlite.arrow import read_rows

        self._logger.info("scan of %s", selection.table.name)

        def ready(sql: str, values: dict[str, Any]) -> tuple[str, Row]:
            statement, args = bind(self, sql, values)
            return statement.sql, args

        if selection.size is not None:
            ((count,),) = await self._run(_fetch, *ready(*fitting_sql(selection, self.dialect)))
            selection = replace(selection, limit=max(1, count))
        return await self._run(
            read_rows, selection, lambda part: ready(*scan_sql(part, self.dialect, lambda column, kind: column))
        )

    async def write_rows(self, table: TableSpec, rows: pa.Table) -> None:
        """Store rows; see Stores.write_rows.

        In a table with ids, the stored rows that ``rows`` overwrite are deleted first, so that other rows of the batch may take
        their unique values. If an id in ``rows`` belongs to a different stored row, that row is kept and the insert fails.
        """
        if not rows.num_rows:
            return
        await import_modules("pyarrow", "iftb_store_sqlite.rows")
        from iftb_store_sqlite import rows as whole

        self._logger.info("put into %s [%d rows]", table.name, rows.num_rows)
        async with self._savepoint() as connection:
            stored = await connection.run(whole.any_stored, table, rows)
            if stored and table.has_own_ids:
                await self._delete(connection, table, rows, (*table.key, *table.identity))
            write = partial(whole.write, overwrite=stored and not table.has_own_ids)
            for part in whole.parts(rows):
                await connection.run(write, table, part, writes=True)

    async def delete_rows(self, table: TableSpec, rows: pa.Table) -> int:
        """Delete rows by their keys and return the number of deleted rows; see Stores.delete_rows."""
        async with self._savepoint() as connection:
            return await self._delete(connection, table, rows, table.key)

    async def _delete(self, connection: _InTurn, table: TableSpec, rows: pa.Table, columns: Sequence[str]) -> int:
        await import_modules("pyarrow", "iftb_store_sqlite.rows")
        from iftb_store_sqlite import rows as whole

        self._logger.info("delete from %s [%d rows]", table.name, rows.num_rows)
        return sum([await connection.run(whole.delete, table, part, columns, writes=True) for part in whole.parts(rows)])

    async def _write_chunks(self, connection: _InTurn, writer: BarWriter, batch: BarBatch) -> int:
        write, written = await _prepare(writer, batch), 0
        # one call in the thread per chunk, because a call that runs in the thread cannot be cancelled
        while (count := await connection.run(write, writes=True)) is not None:
            written += count
        return written

    @asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[_InTurn]:
        async with self._in_turn() as connection:
            await connection.run(savepoint, writes=True)
            try:
                yield connection
                await connection.run(release, writes=True)
            except BaseException:
                await run_to_end(connection.run(undo))
                raise

    async def _run(self, work: Callable[..., T], *args: Any, writes: bool = False) -> T:
        async with self._in_turn() as connection:
            return await connection.run(work, *args, writes=writes)

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[_InTurn]:
        session = self._session
        async with hold_connection(session) as pooled:
            driver: Any = pooled.driver_connection
            if isinstance(session, StoreSession) and not session.iftb_store_backend.schema_seen:
                try:
                    has_tables, stamped, has_newest = await driver._execute(_schema, driver._conn)
                    is_current = check_revision(has_tables, stamped, session.iftb_store_backend.shown_url, has_newest=has_newest)
                except RAISED as error:
                    raise translate(error) from error
                session.iftb_store_backend.schema_seen = is_current
            yield _InTurn(session, driver)


class _InTurn:
    """The session's connection, for use by one call of the session while no other call runs."""

    def __init__(self, session: AsyncSession, driver: Any) -> None:
        self._session = session
        self._driver = driver

    async def run(self, work: Callable[..., T], *args: Any, writes: bool = False) -> T:
        """Run ``work`` in the connection's thread and return the result; if ``work`` writes, begin a transaction first."""
        driver = self._driver
        session = self._session if isinstance(self._session, StoreSession) else None
        begins = session is not None and session.iftb_store_isolated
        only_reads = session is not None and session.iftb_store_snapshot
        if session is not None and (writes or (begins and not only_reads)):
            if not driver.in_transaction:
                check_own_lock(session.iftb_store_backend.write_lock, session)
            before_write(session)
        if driver._connection is None:
            raise operational_error("the connection was closed")
        try:
            if begins and not driver.in_transaction:
                await driver._execute(_begin_to_read if only_reads else _begin, driver._connection)
            box: list[T] = await driver._execute(_box, work, driver._connection, *args)
            return box.pop()
        except RAISED as error:
            raise await self._translate(error) from error
        except asyncio.CancelledError as error:
            # SQLite rolls back the whole transaction if it interrupts a write
            if session is not None:
                note_error(session, error, gone=not driver.in_transaction)
            raise

    async def _translate(self, error: sqlite3.Error | UnicodeDecodeError) -> Exception:
        driver = self._driver
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
            # SQLite has no separate error code for a missing table
            url = self._session.iftb_store_backend.shown_url if isinstance(self._session, StoreSession) else "URL"
            try:
                with suppress(*RAISED):
                    has_tables, stamped, has_newest = await driver._execute(_schema, driver._conn)
                    check_revision(has_tables, stamped, url, has_newest=has_newest)
            except SchemaError as missing:
                return missing
        translated: Exception = translate(error)
        if isinstance(self._session, StoreSession) and isinstance(translated, OperationalError):
            translated = blame_parent(translated, self._session.iftb_store_backend.write_lock, self._session)
        note_error(self._session, translated, gone=not driver.in_transaction)
        return translated


async def _prepare(writer: BarWriter, batch: BarBatch) -> Callable[[sqlite3.Connection], int | None]:
    """Return a function that writes the next bars of a batch and returns their number, None if no bar is left."""
    created_at = to_epoch_us(batch.created_at)
    if batch.table is None:
        return partial(write_next, writer=writer, chunks=batch.chunks(), created_at=created_at)
    await import_modules("pyarrow", "iftb_store_sqlite.columns")
    from iftb_store_sqlite.columns import split_parts, write_part

    return partial(write_part, writer=writer, parts=split_parts(batch.table), created_at=created_at)


def _box(work: Callable[..., T], *args: Any) -> list[T]:
    # the thread keeps its last result until its next call; freeing a million bars then would block the event loop, so the caller
    # takes the result out of the list
    return [work(*args)]


def _begin_to_read(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")


def _begin(connection: sqlite3.Connection) -> None:
    if not connection.in_transaction:
        begin(connection)


def _fetch(connection: sqlite3.Connection, sql: str, args: Row) -> list[Row]:
    return connection.execute(sql, args).fetchall()


def _insert(connection: sqlite3.Connection, sql: str, args: Row) -> list[Row]:
    _begin(connection)
    return connection.execute(sql, args).fetchall()


def _change(connection: sqlite3.Connection, sql: str, args: Row) -> int:
    _begin(connection)
    return connection.execute(sql, args).rowcount


def _schema(connection: sqlite3.Connection) -> tuple[bool, str | None, bool]:
    refuse_foreign_objects(connection)
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    stamped = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone() if VERSION_TABLE in names else None
    table, column = NEWEST_COLUMN
    columns = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", [table])}
    return "ohlcv" in names, stamped[0] if stamped else None, not columns or column in columns
