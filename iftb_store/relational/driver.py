"""How statements reach a driver: the differences between engines, and SQL with named parameters, compiled once."""

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
    """One SQL text with ``:name`` parameters, compiled once for a driver."""

    __slots__ = ("names", "sql")

    def __init__(self, sql: str, dialect: Dialect) -> None:
        compiled = text(sql).compile(dialect=dialect)
        self.sql = str(compiled)
        self.names: tuple[str, ...] = tuple(getattr(compiled, "positiontup", None) or ())


@dataclass(frozen=True, eq=False)
class Flavor:
    """The SQL dialect of one driver; ``{}`` is replaced by the name of a column or parameter.

    Attributes:
        dialect: the SQLAlchemy dialect for which statements are compiled.
        json_column: a JSON column as text.
        json_parameter: a parameter for a JSON column.
        decimal_column: a decimal column as `Driver.decode_decimal` reads it.
        time_parameter: a parameter as a time.
        octets: the number of bytes of a column's text.
        month: the number of a time's calendar month in UTC.
        microseconds: a time as whole microseconds since 1970-01-01 UTC.
        sums: the aggregates from which `Driver.decode_sum` computes the exact sum of a column of non-negative decimals.
        steps: how many steps of ``:step`` the second time lies after the first, rounded up.
        text_column: a text column in a comparison.
        text_parameter: a parameter in a comparison with a text column.
        lag: the window function of the previous row. Like the two above it is plain if nobody can put another function or
            operator in place of the engine's.
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
        """The condition that selects a series of bars."""
        return self.equal("exchange", "symbol", "timeframe")

    def equal(self, *columns: str) -> str:
        """Return the condition that text columns equal the parameters of the same names."""
        return " AND ".join(f"{self.text_column.format(name)} = {self.text_parameter.format(name)}" for name in columns)


class Driver(Protocol):
    """The driver connection of a session: runs statements in the session's transaction and translates errors."""

    @property
    def flavor(self) -> Flavor:
        """Its SQL dialect."""
        ...

    def encode(self, value: Any) -> Any:
        """Convert a checked value for the driver."""
        ...

    def decode_decimal(self, value: Any, /) -> Any:
        """Convert a stored decimal to a Decimal."""
        ...

    def decode_sum(self, parts: Row, /) -> Decimal:
        """Return the sum that the aggregates of `Flavor.sums` represent."""
        ...

    def decode_time(self, value: Any, /) -> Any:
        """Convert a stored time to a datetime."""
        ...

    async def read_bars(self, statement: Statement, args: Row, *, many: bool = False) -> list[OHLCVBar]:
        """Run a query of one series whose columns are OHLCVBar's fields, in their order; ``many``: thousands of bars, by time."""
        ...

    async def read(self, statement: Statement, args: Row) -> Sequence[Row]:
        """Run a query."""
        ...

    async def write(self, statement: Statement, args: Row, *, savepoint: bool = False) -> Sequence[Row]:
        """Run one writing statement in the transaction; in a savepoint if it may raise IntegrityError."""
        ...

    async def insert_bars(self, batch: BarBatch) -> None:
        """See OHLCVStore.insert_many."""
        ...

    async def upsert_bars(self, batch: BarBatch) -> None:
        """See OHLCVStore.upsert_many."""
        ...

    async def upsert_bars_counted(self, batch: BarBatch) -> tuple[int, int]:
        """See OHLCVStore.upsert_counted."""
        ...

    async def change(self, statement: Statement, args: Row) -> int:
        """Run one writing statement in the transaction; return how many rows it changed."""
        ...

    async def totals(self, since: datetime, exchange: str) -> TradeTotals:
        """See TradeStore.get_totals."""
        ...

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """See Stores.read_rows."""
        ...

    async def write_rows(self, table: TableSpec, rows: pa.Table) -> None:
        """See Stores.write_rows."""
        ...

    async def delete_rows(self, table: TableSpec, rows: pa.Table) -> int:
        """See Stores.delete_rows."""
        ...


@lru_cache(maxsize=1024)
def prepare_statement(sql: str, dialect: Dialect) -> Statement:
    """Return the compiled statement of a SQL text, cached per dialect."""
    return Statement(sql, dialect)


async def read(driver: Driver, sql: str, **values: Any) -> Sequence[Row]:
    """Run a query with named values."""
    made = prepare_statement(sql, driver.flavor.dialect)
    return await driver.read(made, [driver.encode(values[name]) for name in made.names])


async def write(driver: Driver, sql: str, values: Mapping[str, Any], *, savepoint: bool = False) -> Sequence[Row]:
    """Run a writing statement with named values."""
    made = prepare_statement(sql, driver.flavor.dialect)
    return await driver.write(made, [driver.encode(values[name]) for name in made.names], savepoint=savepoint)
