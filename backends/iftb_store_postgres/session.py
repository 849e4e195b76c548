"""Runs a session's statements directly on its asyncpg connection, inside the session's own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi, PGDialect_asyncpg
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store.batches.bars import CHUNK, BarBatch
from iftb_store.errors import SchemaError, Unsupported
from iftb_store.models import OHLCVBar, TradeTotals, WriteCounts
from iftb_store.protocols import WriteMode
from iftb_store.relational import (
    Row,
    SqlDialect,
    Statement,
    StoreSession,
    bind,
    filter_sql,
    fitting_sql,
    hold_connection,
    import_modules,
    note_error,
    pause_gc,
    prepare_statement,
    scan_sql,
)
from iftb_store.schema.revision import NEWEST_COLUMN, VERSION_TABLE, check_revision
from iftb_store.schema.table_spec import BARS, ColumnKind, RowFilter, TableSpec
from iftb_store.values.checks import json_text
from iftb_store.values.decimals import trim_zeros
from iftb_store_postgres import bars as bulk
from iftb_store_postgres import reading
from iftb_store_postgres.errors import describe_denied, translate
from iftb_store_postgres.strangers import KINDS, find_tables

if TYPE_CHECKING:
    import pyarrow as pa

_HAS_COLUMN = """
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_attribute
        WHERE attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1) AND attname OPERATOR(pg_catalog.=) $2::name
    )
"""
_TOTALS = """
    SELECT COUNT(*) AS trades,
        COUNT(*) FILTER (WHERE realized_pnl > CAST(0 AS numeric)) AS wins,
        COUNT(*) FILTER (WHERE realized_pnl < CAST(0 AS numeric)) AS losses,
        COALESCE(SUM(realized_pnl) FILTER (WHERE realized_pnl > CAST(0 AS numeric)), 0) AS profit,
        COALESCE(-SUM(realized_pnl) FILTER (WHERE realized_pnl < CAST(0 AS numeric)), 0) AS loss,
        COALESCE(SUM(fee), 0) AS fees,
        COALESCE(MAX(realized_pnl) FILTER (WHERE realized_pnl > CAST(0 AS numeric)), 0) AS largest_win,
        COALESCE(-MIN(realized_pnl) FILTER (WHERE realized_pnl < CAST(0 AS numeric)), 0) AS largest_loss
    FROM trades
    WHERE realized_pnl IS NOT NULL AND COALESCE(exit_time, updated_at) >= CAST(:since AS timestamptz)"""


def _make_day_fingerprints() -> str:
    """Return the query for the fingerprint of each day: the sum of the hashes of the day's bars.

    The hash of a bar chains the built-in hashes of its values. The built-in hash of a number ignores the sign, and hardly differs
    for 0 and for numbers with other exponents. So the signs and the NULLs are hashed too, as one number and last, so that every
    difference goes through one more hash before the sum.
    """
    chain, flags = "pg_catalog.timestamp_hash_extended(timestamp AT TIME ZONE 'UTC', CAST(0 AS bigint))", []
    hashes = {
        ColumnKind.DECIMAL: ("pg_catalog.hash_numeric_extended", "numeric"),
        ColumnKind.INTEGER: ("pg_catalog.hashint8extended", "bigint"),
    }
    for number, name in enumerate(BARS.overwritten):
        function, kind = hashes[BARS.kinds[name]]
        value, none = f"CAST({name} AS {kind})", f"CAST(0 AS {kind})"
        chain = f"{function}(COALESCE({value}, {none}), {chain})"
        below, unknown = 2 ** (2 * number), 2 ** (2 * number + 1)
        flag = f"CASE WHEN {value} OPERATOR(pg_catalog.<) {none} THEN {below} WHEN {name} IS NULL THEN {unknown} ELSE 0 END"
        flags.append(f"CAST({flag} AS bigint)")
    # the subquery ends with OFFSET 0, so that PostgreSQL sorts hashes and not bars
    return f"""
        SELECT
            CASE WHEN pg_catalog.isfinite(day) THEN CAST(EXTRACT(EPOCH FROM day) OPERATOR(pg_catalog./) 86400 AS bigint) END,
            pg_catalog.count(*), CAST('pg2:' AS text) OPERATOR(pg_catalog.||) CAST(pg_catalog.sum(hash) AS text)
        FROM (
            SELECT
                CAST(timestamp AT TIME ZONE 'UTC' AS date) AS day,
                pg_catalog.hashint8extended({" OPERATOR(pg_catalog.+) ".join(flags)}, {chain}) AS hash
            FROM ohlcv{{}} OFFSET 0
        ) bars
        GROUP BY day"""


def _encode(value: Any) -> Any:
    """Return JSON text for a dict and ISO 8601 text for a datetime; asyncpg accepts other values unchanged."""
    if isinstance(value, datetime):
        return str(value)
    return json_text(value, "value") if isinstance(value, dict) else value


def _decode_time(moment: datetime) -> datetime:
    # asyncpg returns an infinity as a time without a zone
    if moment.tzinfo is None:
        raise ValueError(f"{moment} is infinite")
    return moment


class PostgresDriver:
    """Runs the stores' statements on asyncpg; see `iftb_store.relational.driver.Driver`."""

    # Every operator and function gets arguments of exactly the types that its version in pg_catalog takes, or is qualified with
    # pg_catalog. Otherwise PostgreSQL would prefer a function that somebody put into a schema of the search_path to a conversion
    # of the arguments. Values are sent and read as text: an application's connection may decode JSON in its own way, asyncpg
    # sends the first and the last time of the calendar as infinities, and decimals are decoded faster from text, which has no
    # padded zeros
    dialect = SqlDialect(
        dialect=PGDialect_asyncpg(),  # type: ignore[no-untyped-call]
        json_column="{}::text",
        json_parameter="CAST(CAST(:{} AS text) AS json)",
        decimal_column="trim_scale({})::text",
        time_parameter="CAST(CAST(:{} AS text) AS timestamptz)",
        octets="octet_length(CAST({} AS text))",
        # before PostgreSQL 14, EXTRACT returns another type; the microseconds of an infinity are NULL
        microseconds=(
            "CASE WHEN pg_catalog.isfinite({0}) THEN CAST(EXTRACT(EPOCH FROM {0}) OPERATOR(pg_catalog.*) 1000000 AS bigint) END"
        ),
        month=(
            "(CAST(EXTRACT(YEAR FROM {0} AT TIME ZONE 'UTC') AS bigint) * 12"
            " + CAST(EXTRACT(MONTH FROM {0} AT TIME ZONE 'UTC') AS bigint))"
        ),
        duration="CAST('{} seconds' AS interval)",
        integer="CAST({} AS bigint)",
        text_column="CAST({} AS text)",
        text_parameter="CAST(:{} AS text)",
        contains="pg_catalog.strpos({0}, {1}) OPERATOR(pg_catalog.>) 0",
        lag="pg_catalog.lag",
        day_fingerprints=_make_day_fingerprints(),
        encode=_encode,
        decode_decimal=Decimal,
        decode_sum=lambda parts: trim_zeros(parts[0]),
        decode_time=_decode_time,
    )

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._logger = session.get_bind().engine.logger

    async def read_bars(self, statement: Statement, args: Row, *, many: bool = False) -> list[OHLCVBar]:
        """Run a query and convert its rows to bars in chunks, so that the event loop stays free; with ``many`` use COPY."""
        if many:
            async with self._reading() as connection:
                # before PostgreSQL 14, EXTRACT returns seconds as a float, with as many digits as the session's settings say
                if connection.get_server_version().major >= 14:
                    self._logger.info("COPY of %s", statement.sql)
                    return await reading.copy_bars(connection, statement.sql, statement.names, args)
        rows = await self.read(statement, args)
        bars: list[OHLCVBar] = []
        for first in range(0, len(rows), CHUNK):
            with pause_gc():
                bars += reading.to_bars(rows[first : first + CHUNK])
            await asyncio.sleep(0)
        return bars

    async def read(self, statement: Statement, args: Row) -> Sequence[Row]:
        """Run a query and return its rows.

        Before its first write, a manager's session at READ COMMITTED needs no transaction for a read.
        """
        self._logger.info("%s", statement.sql)
        async with self._reading() as connection:
            return await _fetch(connection, statement.sql, args)

    async def insert(self, statement: Statement, args: Row, *, savepoint: bool = False) -> int | None:
        """Insert one row, in a savepoint if ``savepoint``; return its id, or None if nothing was inserted."""
        self._logger.info("%s", statement.sql)
        async with self._connection() as connection, bulk.savepoint(connection) if savepoint else nullcontext():
            number: int | None = await connection.fetchval(statement.sql, *args)
            return number

    async def change(self, statement: Statement, args: Row, *, savepoint: bool = False) -> int:
        """Run one writing statement, in a savepoint if ``savepoint``; return the number of rows that it changed."""
        self._logger.info("%s", statement.sql)
        async with self._connection() as connection, bulk.savepoint(connection) if savepoint else nullcontext():
            return bulk.count_changed(await connection.execute(statement.sql, *args))

    async def write_bars(self, batch: BarBatch, mode: WriteMode) -> WriteCounts | None:
        """Write the bars of a batch in a savepoint; see `iftb_store.protocols.BarStore.write`."""
        self._logger.info("%s into ohlcv [%d bars]", mode, len(batch))
        async with self._connection() as connection, bulk.savepoint(connection):
            if mode == "count":
                return await bulk.upsert_counted(connection, batch)
            await (bulk.insert if mode == "insert" else bulk.upsert)(connection, batch)
            return None

    async def get_totals(self, since: datetime, trades: RowFilter) -> TradeTotals:
        """Return totals of the selected trades; see `iftb_store.protocols.RecordStore.get_totals`."""
        conditions, values = filter_sql(trades, self.dialect)
        statement = prepare_statement(" AND ".join([_TOTALS, *conditions]), self.dialect)
        # ``since`` is not sent as text, which PostgreSQL would parse again for every row; asyncpg sends the calendar's first time
        # as -infinity, which selects the same rows
        values["since"] = since
        (row,) = await self.read(statement, [values[name] for name in statement.names])
        return TradeTotals(*row)

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the rows of a selection with one COPY; see Stores.read_rows."""
        await import_modules("pyarrow", "iftb_store_postgres.arrow")
        from iftb_store_postgres import arrow

        async with self._reading() as connection:
            if selection.size is not None:
                ready, values = self._ready(fitting_sql(selection, self.dialect))
                selection = replace(selection, limit=max(1, await connection.fetchval(ready.sql, *values)))
            ready, values = self._ready(
                scan_sql(selection, self.dialect, lambda column, kind: arrow.column_sql(column, kind, connection))
            )
            return await arrow.read_rows(connection, selection, ready.sql, values)

    def _ready(self, made: tuple[str, dict[str, Any]]) -> tuple[Statement, Row]:
        statement, args = bind(self, *made)
        self._logger.info("%s", statement.sql)
        return statement, args

    async def write_rows(self, table: TableSpec, rows: pa.Table) -> None:
        """Store rows in a savepoint; see Stores.write_rows."""
        if not rows.num_rows:
            return
        await import_modules("pyarrow", "iftb_store_postgres.rows")
        from iftb_store_postgres import rows as whole

        self._logger.info("put into %s [%d rows]", table.name, rows.num_rows)
        async with self._connection() as connection, bulk.savepoint(connection):
            await whole.write_rows(connection, table, rows)

    async def delete_rows(self, table: TableSpec, rows: pa.Table) -> int:
        """Delete rows in a savepoint; see Stores.delete_rows."""
        await import_modules("pyarrow", "iftb_store_postgres.rows")
        from iftb_store_postgres import rows as whole

        self._logger.info("delete from %s [%d rows]", table.name, rows.num_rows)
        async with self._connection() as connection, bulk.savepoint(connection):
            return await whole.delete_rows(connection, table, rows)

    @contextmanager
    def _translate_errors(self, connection: asyncpg.Connection, *, writes: bool) -> Iterator[None]:
        try:
            yield
        except asyncpg.UndefinedTableError as error:
            note_error(self._session, error, gone=False)
            # PostgreSQL reports the same error for a table in a schema that this role may not use
            url = self._session.iftb_store_backend.shown_url if isinstance(self._session, StoreSession) else "URL"
            raise SchemaError(
                f"{error}, or this role may not use its schema (GRANT USAGE ON SCHEMA … TO …); `iftb-store status {url}` shows "
                f"which of the two; `iftb-store migrate {url}` or await db.migrate() creates the tables of iftb-store"
            ) from error
        except asyncpg.InsufficientPrivilegeError as error:
            # a pooler may not report the role's name
            role = getattr(connection.get_settings(), "session_authorization", None)
            quoted = self.dialect.dialect.identifier_preparer.quote(role) if role else "…"
            translated = describe_denied(error, quoted, writes=writes) or translate(error)
            note_error(self._session, translated or error, gone=False)
            raise translated or error from error
        except asyncio.CancelledError as error:
            note_error(self._session, error, gone=False)
            if not isinstance(self._session, StoreSession):
                # PostgreSQL has aborted the transaction, and would acknowledge the application's COMMIT without storing anything
                connection.terminate()
            raise
        except BaseException as error:
            # an error of SQLAlchemy's own BEGIN has asyncpg's exception as its cause
            raised = error.__cause__ if isinstance(error, AsyncAdapt_asyncpg_dbapi.Error) else None
            translated = translate(raised or error, lost=connection.is_closed())
            if not isinstance(translated, IntegrityError):
                # a cancelled statement also aborts the transaction
                note_error(self._session, translated or error, gone=False)
            if translated is None:
                raise
            raise translated from error

    def _reading(self) -> AbstractAsyncContextManager[Any]:
        session = self._session
        begin = not isinstance(session, StoreSession) or session.iftb_store_isolated
        return self._connection(begin=begin, writes=False)

    @asynccontextmanager
    async def _connection(self, *, begin: bool = True, writes: bool = True) -> AsyncIterator[Any]:
        """Yield the driver's connection for one call and translate the errors of the block.

        Args:
            begin: whether to begin the session's transaction if it has not begun.
            writes: whether the call writes, for the error about missing rights.
        """
        session = self._session
        async with hold_connection(session) as pooled:
            # SQLAlchemy begins the driver's transaction only at its own first statement, and commits only a transaction that it
            # began
            adapter: Any = pooled.dbapi_connection
            driver: Any = pooled.driver_connection
            begin = begin or driver.begins_reads
            if begin and adapter.isolation_level == "autocommit":
                raise Unsupported(
                    "the session's engine commits each statement by itself (AUTOCOMMIT); use an engine without AUTOCOMMIT"
                )
            with self._translate_errors(driver, writes=writes):
                if begin and adapter._transaction is None:
                    await _begin(adapter, driver)
                if isinstance(session, StoreSession) and not session.iftb_store_backend.schema_seen:
                    has_tables, stamped, has_newest = await _schema(driver)
                    url = session.iftb_store_backend.shown_url
                    is_current = check_revision(has_tables, stamped, url, has_newest=has_newest)
                    session.iftb_store_backend.schema_seen = is_current
                yield driver


async def _begin(adapter: Any, driver: Any) -> None:
    try:
        await adapter._start_transaction()
    except BaseException:
        # a cancelled BEGIN may have taken effect; later statements would then run in a transaction that nobody commits
        driver.terminate()
        raise


async def _schema(connection: asyncpg.Connection) -> tuple[bool, str | None, bool]:
    tables = find_tables(await connection.fetch(KINDS))
    stamped = await connection.fetchval(f"SELECT version_num FROM {VERSION_TABLE}") if VERSION_TABLE in tables else None
    table, column = NEWEST_COLUMN
    has_newest = stamped is not None or table not in tables or await connection.fetchval(_HAS_COLUMN, table, column)
    return "ohlcv" in tables, stamped, has_newest


async def _fetch(connection: Any, sql: str, args: Row) -> Sequence[Row]:
    rows: Sequence[Row] = await connection.fetch(sql, *args)
    return rows
