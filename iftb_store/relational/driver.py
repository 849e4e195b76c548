"""The interface between the stores and a driver: the engine's SQL dialect, and statements with named parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Dialect, text

from iftb_store.batches.bars import BarBatch
from iftb_store.models import OHLCVBar, TradeTotals
from iftb_store.schema.table_spec import RowFilter, TableSpec

if TYPE_CHECKING:
    import pyarrow as pa

Row = Sequence[Any]


class Statement:
    """A SQL text with ``:name`` parameters, compiled for one driver; ``names`` lists the parameters in order of position."""

    __slots__ = ("names", "sql")

    def __init__(self, sql: str, dialect: Dialect) -> None:
        compiled = text(sql).compile(dialect=dialect)
        self.sql = str(compiled)
        self.names: tuple[str, ...] = tuple(getattr(compiled, "positiontup", None) or ())


@dataclass(frozen=True, eq=False)
class Flavor:
    """The SQL dialect of one driver, as templates of SQL expressions in which ``{}`` is the name of a column or a parameter.

    Attributes:
        dialect: the SQLAlchemy dialect for which statements are compiled.
        json_column: the expression that selects a JSON column as text.
        json_parameter: the parameter for a JSON column.
        decimal_column: the expression that selects a decimal column in the form that `Driver.decode_decimal` accepts.
        time_parameter: the parameter for a time column.
        octets: the number of bytes of a text column's value.
        month: the number of the calendar month (UTC) of a time; consecutive months have consecutive numbers.
        steps: the number of steps of length ``:step`` from the first time to the second, rounded up.
        microseconds: a time as whole microseconds since 1970-01-01 UTC.
        sums: returns the aggregates from which `Driver.decode_sum` computes the exact sum of a column of non-negative decimals.
        text_column: a text column in a comparison.
        text_parameter: the parameter in a comparison with a text column.
        lag: the window function that returns the previous row's value. Set ``text_column``, ``text_parameter`` and ``lag`` if the
            engine could call a function or an operator that a user defined instead of the built-in one.
    """

    dialect: Dialect
    json_column: str
    json_parameter: str
    decimal_column: str
    time_parameter: str
    octets: str
    month: str
    steps: str
    microseconds: str
    sums: Callable[[str], Sequence[str]]
    text_column: str = "{}"
    text_parameter: str = ":{}"
    lag: str = "LAG"

    @property
    def series(self) -> str:
        """The SQL condition that selects one series of bars by the parameters exchange, symbol and timeframe."""
        return self.equal("exchange", "symbol", "timeframe")

    def equal(self, *columns: str) -> str:
        """Return the SQL condition that each text column equals the parameter of the same name."""
        return " AND ".join(f"{self.text_column.format(name)} = {self.text_parameter.format(name)}" for name in columns)


class Driver(Protocol):
    """The driver's connection of a session: runs statements in the session's transaction and translates the driver's errors."""

    @property
    def flavor(self) -> Flavor:
        """The SQL dialect of this driver."""
        ...

    def encode(self, value: Any) -> Any:
        """Convert a checked value to the form that the driver accepts."""
        ...

    def decode_decimal(self, value: Any, /) -> Any:
        """Convert a stored decimal, as the driver returns it, to a Decimal."""
        ...

    def decode_sum(self, parts: Row, /) -> Decimal:
        """Return the exact sum from the values of the aggregates that `Flavor.sums` returned."""
        ...

    def decode_time(self, value: Any, /) -> Any:
        """Convert a stored time, as the driver returns it, to a datetime."""
        ...

    async def read_bars(self, statement: Statement, args: Row, *, many: bool = False) -> list[OHLCVBar]:
        """Run a query for bars of one series.

        Args:
            statement: a query whose columns are OHLCVBar's fields, in the same order.
            args: the encoded values of the statement's parameters.
            many: whether to expect thousands of bars, in order of time.
        """
        ...

    async def read(self, statement: Statement, args: Row) -> Sequence[Row]:
        """Run a query and return its rows."""
        ...

    async def write(self, statement: Statement, args: Row, *, savepoint: bool = False) -> Sequence[Row]:
        """Run a writing statement in the session's transaction and return the rows of its RETURNING clause.

        ``savepoint``: run the statement in a savepoint, because it may raise IntegrityError.
        """
        ...

    async def insert_bars(self, batch: BarBatch) -> None:
        """Insert the bars of a batch; see OHLCVStore.insert_many."""
        ...

    async def upsert_bars(self, batch: BarBatch) -> None:
        """Insert or update the bars of a batch; see OHLCVStore.upsert_many."""
        ...

    async def upsert_bars_counted(self, batch: BarBatch) -> tuple[int, int]:
        """Insert or update the bars of a batch, and count both; see OHLCVStore.upsert_counted."""
        ...

    async def change(self, statement: Statement, args: Row) -> int:
        """Run a writing statement in the session's transaction and return the number of rows that it changed."""
        ...

    async def totals(self, since: datetime, exchange: str) -> TradeTotals:
        """Return totals of an exchange's trades; see TradeStore.get_totals."""
        ...

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the rows of a selection; see Stores.read_rows."""
        ...

    async def write_rows(self, table: TableSpec, rows: pa.Table) -> None:
        """Write rows into a table; see Stores.write_rows."""
        ...

    async def delete_rows(self, table: TableSpec, rows: pa.Table) -> int:
        """Delete rows of a table; see Stores.delete_rows."""
        ...


@lru_cache(maxsize=1024)
def prepare_statement(sql: str, dialect: Dialect) -> Statement:
    """Return the compiled statement of a SQL text; statements are cached by text and dialect."""
    return Statement(sql, dialect)


async def read(driver: Driver, sql: str, **values: Any) -> Sequence[Row]:
    """Run a query with ``:name`` parameters and return its rows; ``values`` are the parameters' values."""
    made = prepare_statement(sql, driver.flavor.dialect)
    return await driver.read(made, [driver.encode(values[name]) for name in made.names])


async def write(driver: Driver, sql: str, values: Mapping[str, Any], *, savepoint: bool = False) -> Sequence[Row]:
    """Run a writing statement with ``:name`` parameters, as `Driver.write` does; ``values`` are the parameters' values."""
    made = prepare_statement(sql, driver.flavor.dialect)
    return await driver.write(made, [driver.encode(values[name]) for name in made.names], savepoint=savepoint)
