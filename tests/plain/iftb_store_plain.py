"""A backend written by the guide, for SQL with few features: SQLite, which here refuses RETURNING, ON CONFLICT and more.

It is found through its entry point in the dist-info directory beside it, like any third party's backend.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy import URL, Connection, event
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from iftb_store.errors import integrity_error, operational_error
from iftb_store.protocols import Capability
from iftb_store.relational import SqlBackend, SqlDialect, StorePool
from iftb_store.schema.dialect import SchemaDialect
from iftb_store.schema.scope import TABLES
from iftb_store.schema.table_spec import COVERAGE, DIGESTS, ColumnKind, ColumnSpec, TableSpec
from iftb_store.schema.types import from_epoch_us, to_epoch_us
from iftb_store.values.checks import json_text
from iftb_store.values.decimals import CONTEXT, from_sortable, to_sortable

_REFUSED = re.compile(
    r"\bRETURNING\b|\bON\s+CONFLICT\b|\bFILTER\s*\(|\bLAG\s*\([^()]*,|\(\w+(?:,\s*\w+)+\)\s*[<>]\s*\("
    r"|(?<!['\"])\b(?:open|close)\b(?!['\"])",
    re.IGNORECASE,
)
_SECOND = "({0} - (({0} % 1000000) + 1000000) % 1000000) / 1000000, 'unixepoch'"
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_epoch_us(value)
    if isinstance(value, Decimal):
        return to_sortable(format(value, "f"))
    return json_text(value, "value") if isinstance(value, dict) else value


def _add_up(parts: Any) -> Decimal:
    total = Decimal(0)
    for text in (parts[0] or "").split():
        total = CONTEXT.add(total, from_sortable(text))
    return total


class _Connection(aiosqlite.Connection):
    """Stops the statement in the thread when its task is cancelled; aiosqlite would let it run on."""

    async def _execute(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            stopped = asyncio.ensure_future(super()._execute(lambda: None))  # type: ignore[no-untyped-call]
            while not stopped.done():
                with suppress(asyncio.CancelledError, ValueError, sqlite3.ProgrammingError):
                    self._conn.interrupt()
                    await asyncio.wait([stopped], timeout=0.01)
            raise

    async def close(self) -> None:
        """Roll back first: a cursor that is still open would keep the connection's write lock."""
        with suppress(ValueError, sqlite3.Error):
            await super()._execute(lambda: self._conn.rollback())  # type: ignore[no-untyped-call]
        await super().close()


_TYPES = {ColumnKind.INTEGER: "BIGINT", ColumnKind.TIME: "BIGINT"}
_KEYS = {
    "ohlcv": ", UNIQUE (exchange, symbol, timeframe, timestamp)",
    "bar_digests": ", PRIMARY KEY (exchange, symbol, timeframe, day)",
    "coverage": ", PRIMARY KEY (exchange, symbol, timeframe, first)",
}


def _column_sql(column: ColumnSpec) -> str:
    if column.name == "id":
        return "id INTEGER PRIMARY KEY AUTOINCREMENT"
    sql = f'"{column.name}" ' + _TYPES.get(column.kind, "TEXT") + ("" if column.nullable else " NOT NULL")
    sql += " DEFAULT (unixepoch() * 1000000)" if column.kept else ""
    words = ", ".join(f"'{word}'" for word in column.choices)
    return f"{sql} CHECK ({column.name} IN ({words}))" if words and column.name != "timeframe" else sql


def _key_sql(table: TableSpec) -> str:
    if table.unique and not table.unique_among:
        return f", UNIQUE ({', '.join(table.unique)})"
    return _KEYS.get(table.name, "")


def _table_sql(table: TableSpec) -> str:
    return f"CREATE TABLE {table.name} ({', '.join(map(_column_sql, table.specs.values()))}{_key_sql(table)})"


_SCHEMA = SchemaDialect(
    version="SELECT sqlite_version()",
    scripts={
        "0001": (
            *map(_table_sql, TABLES.values()),
            "CREATE UNIQUE INDEX uq_positions_open ON positions (exchange, account, symbol, side) WHERE status = 'open'",
            "CREATE INDEX ix_trades_symbol ON trades (exchange, symbol, entry_time, id)",
        ),
        "0002": (_table_sql(DIGESTS),),
        # its columns and tables are among those of the first
        "0004": (),
        "0005": (_table_sql(COVERAGE),),
    },
)


class PlainBackend(SqlBackend):
    """SQLite through SQLAlchemy and aiosqlite, without the features that a plain engine lacks."""

    capabilities = frozenset(
        {
            Capability.MIGRATIONS,
            Capability.BAR_KEY,
            Capability.CHOICES,
            Capability.ISOLATION,
            Capability.RECORDS,
            Capability.RAW_WRITES,
        }
    )
    schema = _SCHEMA
    dialect = SqlDialect(
        dialect=SQLiteDialect_aiosqlite(),
        octets="length(CAST({} AS BLOB))",
        month=f"(CAST(strftime('%Y', {_SECOND}) AS INTEGER) * 12 + CAST(strftime('%m', {_SECOND}) AS INTEGER))",
        microseconds="{}",
        sums=lambda column: (f"group_concat({column}, ' ')",),
        returning=False,
        on_conflict=False,
        row_values=False,
        correlated=False,
        reserved=("open", "close"),
        encode=_encode,
        decode_decimal=from_sortable,
        decode_sum=_add_up,
        decode_time=from_epoch_us,
    )
    begin = "BEGIN IMMEDIATE"
    probes = False
    isolates = False
    loop_bound = False

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        super().__init__(url, pool_size=pool_size, max_overflow=max_overflow, echo=echo)
        self._path = Path(url.database or "").absolute()
        self.write_lock = str(self._path)

    @classmethod
    def find_file(cls, url: URL) -> str | None:
        """Return the path of the file."""
        return url.database

    def create_engine(self) -> AsyncEngine:
        """Return an engine whose connections never wait for the write lock in the driver's thread."""
        engine = create_async_engine(
            "sqlite+aiosqlite://",
            async_creator=self.refuse_after_disconnect(self._open),
            poolclass=StorePool,
            echo=self.echo,
            hide_parameters=True,
            **self.pool_options,
        )
        event.listen(engine.sync_engine, "connect", _configure)
        event.listen(engine.sync_engine, "before_cursor_execute", _refuse)
        return engine

    async def _open(self) -> aiosqlite.Connection:
        opening = _Connection(partial(sqlite3.connect, self._path, timeout=0, isolation_level=None), 64)
        opening._thread.daemon = True
        return await opening

    async def identity(self) -> str:
        """Return the file's device and inode."""
        found = self._path.stat()
        return f"{found.st_dev} {found.st_ino}"

    def translate(self, error: BaseException, /, *, lost: bool, committing: bool) -> Exception | None:
        """Return our error for one of sqlite3."""
        if isinstance(error, sqlite3.IntegrityError):
            return integrity_error("a row with this key is already stored, or a value is not allowed", error)
        if not isinstance(error, sqlite3.Error | UnicodeError):
            return None
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        return operational_error(str(error) or "SQLite failed", error, transient=code in _BUSY)

    def is_gone(self, connection: Connection, error: BaseException) -> bool:
        """Return whether SQLite has rolled the transaction back."""
        driver = None if connection.invalidated else connection.connection.driver_connection
        return driver is None or not driver.in_transaction

    def interrupt(self, driver: Any) -> None:
        """Stop the statement that runs in the driver's thread."""
        with suppress(ValueError, sqlite3.ProgrammingError):
            driver._conn.interrupt()


def _configure(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def _refuse(connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
    found = _REFUSED.search(statement)
    if found is not None:
        raise sqlite3.OperationalError(f"this engine does not know {found[0]}: {statement}")
