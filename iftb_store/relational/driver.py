"""The interface between the stores and a driver, which runs their statements on a session's connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from iftb_store.batches.bars import BarBatch, WriteMode
from iftb_store.models import OHLCVBar, TradeTotals, WriteCounts
from iftb_store.relational.dialect import Row, SqlDialect, Statement, prepare_statement
from iftb_store.schema.table_spec import RowFilter, TableSpec

if TYPE_CHECKING:
    import pyarrow as pa


class QueryRunner(Protocol):
    """Runs queries in one session."""

    @property
    def dialect(self) -> SqlDialect:
        """The SQL dialect of the engine."""
        ...

    async def read(self, statement: Statement, args: Row) -> Sequence[Row]:
        """Run a query and return its rows."""
        ...


class StatementRunner(QueryRunner, Protocol):
    """Runs queries and single writes in one session."""

    async def change(self, statement: Statement, args: Row) -> int:
        """Run a writing statement in the session's transaction and return the number of rows that it changed."""
        ...


class Driver(QueryRunner, Protocol):
    """Runs statements on a session's connection, in the session's transaction, and translates the driver's errors."""

    async def read_bars(self, statement: Statement, args: Row, *, many: bool = False) -> list[OHLCVBar]:
        """Run a query for bars of one series.

        Args:
            statement: a query whose columns are OHLCVBar's fields, in the same order.
            args: the encoded values of the statement's parameters.
            many: whether to expect thousands of bars, in order of time.
        """
        ...

    async def insert(self, statement: Statement, args: Row, *, savepoint: bool = False) -> int | None:
        """Run an INSERT of one row and return the new id, or None if the statement inserted nothing.

        ``savepoint``: run the statement in a savepoint, because it may raise IntegrityError.
        """
        ...

    async def change(self, statement: Statement, args: Row, *, savepoint: bool = False) -> int:
        """Run a writing statement in the session's transaction and return the number of rows that it changed."""
        ...

    async def write_bars(self, batch: BarBatch, mode: WriteMode) -> WriteCounts | None:
        """Write the bars of a batch; see `iftb_store.protocols.BarStore.write`."""
        ...

    async def get_totals(self, since: datetime, trades: RowFilter) -> TradeTotals:
        """Return totals of the selected trades; see `iftb_store.protocols.RecordStore.get_totals`."""
        ...

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the rows of a selection; see `iftb_store.protocols.Stores.read_rows`."""
        ...

    async def write_rows(self, table: TableSpec, rows: pa.Table) -> None:
        """Write rows into a table; see `iftb_store.protocols.Stores.write_rows`."""
        ...

    async def delete_rows(self, table: TableSpec, rows: pa.Table) -> int:
        """Delete rows of a table; see `iftb_store.protocols.Stores.delete_rows`."""
        ...


def bind(reader: QueryRunner, sql: str, values: Mapping[str, Any]) -> tuple[Statement, Row]:
    """Prepare a SQL text with ``:name`` parameters; return the statement and the encoded values of the parameters."""
    statement = prepare_statement(sql, reader.dialect)
    return statement, [reader.dialect.encode(values[name]) for name in statement.names]
