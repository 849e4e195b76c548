"""Runs DuckDB's blocking calls in threads, interrupts them if their task is cancelled, and returns results as Arrow tables."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from datetime import timedelta
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import duckdb
import pyarrow as pa
from sqlalchemy.log import InstanceLogger

from iftb_store._io.gc_pause import age_objects, pause_gc
from iftb_store.batches.arrow import to_datetimes

if TYPE_CHECKING:
    import pyarrow.dataset as ds

T = TypeVar("T")
# pyarrow's type stubs do not describe columns in detail
Column: TypeAlias = Any

#: Number of rows converted at once: a longer loop in C would hold Python's global lock, and block the event loop, too long.
SLICE = 10_000

_READ_ONLY = re.compile("(?:transaction is launched|which is attached) in read-only mode")

#: Seconds between two interrupts; repeated, because DuckDB ignores an interrupt that arrives before its query runs.
INTERRUPT_EVERY = 0.01
_names = count()


async def run_in_thread(executor: Executor, work: Callable[[], T], interrupt: Callable[[], None] | None = None) -> T:
    """Run ``work`` in a thread and wait until it has ended, even if this task is cancelled meanwhile.

    After a cancellation ``interrupt`` is called repeatedly, because DuckDB ignores an interrupt that arrives before its query
    runs. The cancellation is raised once the thread has finished with the connection.
    """
    job = asyncio.get_running_loop().run_in_executor(executor, work)
    cancelled: asyncio.CancelledError | None = None
    while not job.done():
        try:
            await asyncio.wait([job], timeout=INTERRUPT_EVERY if cancelled and interrupt else None)
        except asyncio.CancelledError as error:
            cancelled = cancelled or error
        if cancelled and interrupt and not job.done():
            interrupt()
    if cancelled:
        job.exception()
        raise cancelled
    return job.result()


class _Rows:
    """A table that SQL reads, which is freed by `clear`.

    DuckDB keeps a registered object until the end of the transaction, also after it was unregistered.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table: pa.Table | None = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        if self._table is None:
            raise ValueError("the table was freed")
        stream: object = self._table.__arrow_c_stream__(requested_schema)  # type: ignore[no-untyped-call]
        return stream

    def clear(self) -> None:
        self._table = None


class Cursor:
    """One connection to the database; only one thread may use it at a time."""

    def __init__(self, raw: duckdb.DuckDBPyConnection, logger: logging.Logger | InstanceLogger) -> None:
        self._raw = raw
        self._logger = logger
        self._others: tuple[duckdb.DuckDBPyConnection, ...] = ()

    def table(self, statement: str | duckdb.Statement, parameters: Sequence[Any] = ()) -> tuple[pa.Table, list[str]]:
        """Run one statement; return its result and the names of the columns' DuckDB types."""
        self._logger.info("%s", statement if isinstance(statement, str) else statement.query)
        relation = self._raw.sql(statement, params=list(parameters) or None)
        if relation is None:
            return pa.table({}), []
        table: pa.Table = relation.to_arrow_table()
        return table, [str(kind) for kind in relation.types]

    def rows(self, statement: str | duckdb.Statement, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows as Python values: aware UTC times, exact decimals and integers."""
        return to_python_rows(*self.table(statement, parameters))

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one query and return its rows as DuckDB's Python client converts them.

        This is the fastest way to read a few rows without times.
        """
        self._logger.info("%s", sql)
        return self._raw.execute(sql, parameters).fetchall()

    def reader(self, sql: str, size: int) -> pa.RecordBatchReader:
        """Run one query and return a reader of its rows, which reads them in batches of at most ``size`` rows."""
        self._logger.info("%s", sql)
        reader: pa.RecordBatchReader = self._raw.sql(sql).to_arrow_reader(size)
        return reader

    def batches(self, sql: str, size: int) -> Iterator[pa.RecordBatch]:
        """Run one query and yield its rows in batches of at most ``size`` rows; each batch is read when it is requested."""
        reader = self.reader(sql, size)
        while True:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
            except OSError as error:
                # Arrow raises DuckDB's own errors as OSError
                raise duckdb.IOException(str(error)) from error
            yield batch

    def tables(self, sql: str, size: int) -> Iterator[pa.Table]:
        """Run one query and yield its rows as tables of at most ``size`` rows; each is read when it is requested."""
        return (pa.Table.from_batches([batch]) for batch in self.batches(sql, size))

    def statements(self, sql: str) -> list[duckdb.Statement]:
        """Parse a SQL text into its statements."""
        return self._raw.extract_statements(sql)

    @contextmanager
    def registered(self, rows: pa.Table | ds.Scanner) -> Iterator[str]:
        """Make Arrow data readable by SQL for the duration of the block; yield the name to use in SQL."""
        name, table = f"iftb_store_batch_{next(_names)}", _Rows(rows) if isinstance(rows, pa.Table) else None
        self._raw.register(name, table or rows)
        try:
            yield name
        finally:
            with suppress(duckdb.Error):
                self._raw.unregister(name)
            if table is not None:
                table.clear()

    @contextmanager
    def apart(self) -> Iterator[Cursor]:
        """Open another connection to the database; an error on it does not end this connection's transaction."""
        other = Cursor(self._raw.cursor(), self._logger)
        try:
            yield other
        finally:
            other.close()

    @contextmanager
    def interrupting(self, other: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """During the block, let `interrupt` also stop the statement of ``other``, a second connection that this thread uses."""
        self._others = (*self._others, other)
        try:
            yield
        finally:
            self._others = tuple(connection for connection in self._others if connection is not other)

    def begin(self) -> None:
        """Begin a transaction."""
        self._logger.info("BEGIN")
        self._raw.begin()

    def begin_reading(self) -> None:
        """Begin a transaction in which DuckDB refuses to write to the database; see `would_write`."""
        self._logger.info("BEGIN TRANSACTION READ ONLY")
        self._raw.execute("BEGIN TRANSACTION READ ONLY")

    @staticmethod
    def would_write(error: duckdb.Error) -> bool:
        """Return whether DuckDB refused a statement, without running it, because it writes in a read-only transaction or file."""
        return (
            isinstance(error, duckdb.TransactionException | duckdb.InvalidInputException)
            and _READ_ONLY.search(str(error)) is not None
        )

    def commit(self) -> None:
        """Commit the transaction."""
        self._logger.info("COMMIT")
        self._raw.commit()

    def rollback(self) -> None:
        """Roll back the transaction; do nothing if there is none."""
        self._logger.info("ROLLBACK")
        with suppress(duckdb.TransactionException, duckdb.ConnectionException, duckdb.FatalException):
            while True:
                # a late interrupt, meant for the previous statement, may stop the rollback instead
                with suppress(duckdb.InterruptException):
                    self._raw.rollback()
                    return

    def interrupt(self) -> None:
        """Stop the statement that another thread is running on this connection; do nothing if the connection is closed."""
        for connection in (self._raw, *self._others):
            with suppress(duckdb.ConnectionException):
                connection.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._raw.close()


def to_python_rows(table: pa.Table, types: Sequence[str]) -> list[tuple[Any, ...]]:
    """Convert an Arrow table to rows of Python values; ``types`` are the names of the columns' DuckDB types."""
    rows: list[tuple[Any, ...]] = []
    for part in slice_rows(table):
        columns = [_values(column, kind) for column, kind in zip(part.columns, types, strict=True)]
        rows.extend(zip(*columns, strict=True))
    return rows


def slice_rows(table: pa.Table) -> Iterator[pa.Table]:
    """Split a table into parts of at most `SLICE` rows; the garbage collector pauses while the caller handles a part."""
    with pause_gc():
        for first in range(0, table.num_rows, SLICE):
            yield table.slice(first, SLICE)
            age_objects()


def _values(column: Column, kind: str) -> list[Any]:
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        return to_datetimes(column)
    values = column.to_pylist()
    convert = _CONVERTED.get(kind)
    return values if convert is None else [None if value is None else convert(value) for value in values]


def _duration(value: Any) -> timedelta:
    # DuckDB's own client also counts a month as 30 days
    return timedelta(days=30 * value.months + value.days, microseconds=value.nanoseconds // 1_000)


def _integer(value: Decimal | int) -> int:
    return int(value)


# Arrow has no 128-bit integer, so DuckDB sends a decimal instead
_CONVERTED: dict[str, Callable[[Any], Any]] = {"HUGEINT": _integer, "UHUGEINT": _integer, "INTERVAL": _duration}
