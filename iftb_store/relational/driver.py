"""How statements reach a driver: what differs from engine to engine, and SQL texts with named parameters made ready once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Dialect, text

from iftb_store.batches.bars import BarBatch
from iftb_store.models import OHLCVBar
from iftb_store.protocols import TradeTotals
from iftb_store.schema.table_spec import RowFilter, TableSpec

if TYPE_CHECKING:
    import pyarrow as pa

Row = Sequence[Any]


class Statement:
    """One SQL text with ``:name`` parameters, made ready for a driver once."""

    __slots__ = ("names", "sql")

    def __init__(self, sql: str, dialect: Dialect) -> None:
        compiled = text(sql).compile(dialect=dialect)
        self.sql = str(compiled)
        self.names: tuple[str, ...] = tuple(getattr(compiled, "positiontup", None) or ())


@dataclass(frozen=True, eq=False)
class Flavor:
    """How one driver's SQL differs; ``{}`` stands for the name of a column or parameter.

    Attributes:
        dialect: the SQLAlchemy dialect that statements are made for.
        json_column: the text of a JSON column.
        json_parameter: a parameter as a JSON column takes it.
        decimal_column: a decimal column as `Driver.decode_decimal` takes it.
        time_parameter: a parameter as a time.
        octets: how many bytes the text in a column has.
        month: the number of the calendar month, in UTC, of a time.
        microseconds: a time as whole microseconds since 1970-01-01 UTC.
        sums: the aggregates that `Driver.decode_sum` makes the exact sum of a column of decimals that are not negative from.
        steps: how many steps of ``:step`` the second time lies after the first, a part of one counted whole.
        text_column: a column of text as it is compared.
        text_parameter: a parameter that it is compared with.
        lag: the window function of the row before. As these two it is plain where nobody can put another function or operator
            in the place of the engine's own.
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
        """The condition that names a series of bars."""
        return self.equal("exchange", "symbol", "timeframe")

    def equal(self, *columns: str) -> str:
        """Return the condition that columns of text have the values of the parameters of their names."""
        return " AND ".join(f"{self.text_column.format(name)} = {self.text_parameter.format(name)}" for name in columns)


class Driver(Protocol):
    """A session's driver connection: runs statements in the session's transaction and translates errors."""

    @property
    def flavor(self) -> Flavor:
        """How its SQL differs."""
        ...

    def encode(self, value: Any) -> Any:
        """Turn a checked value into what the driver takes."""
        ...

    def decode_decimal(self, value: Any, /) -> Any:
        """Turn a stored decimal back."""
        ...

    def decode_sum(self, parts: Row, /) -> Decimal:
        """Return the sum that the aggregates of `Flavor.sums` stand for."""
        ...

    def decode_time(self, value: Any, /) -> Any:
        """Turn a stored time back."""
        ...

    async def read_bars(self, statement: Statement, args: Row, *, many: bool = False) -> list[OHLCVBar]:
        """Run a query of one series whose columns are OHLCVBar's fields, in their order; ``many``: of thousands, by time."""
        ...

    async def read(self, statement: Statement, args: Row) -> Sequence[Row]:
        """Run a query."""
        ...

    async def write(self, statement: Statement, args: Row, *, savepoint: bool = False) -> Sequence[Row]:
        """Run one writing statement in the transaction; in a savepoint where an IntegrityError may come of it."""
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
def statement(sql: str, dialect: Dialect) -> Statement:
    """Return the statement of a SQL text, made once per dialect."""
    return Statement(sql, dialect)


async def read(driver: Driver, sql: str, **values: Any) -> Sequence[Row]:
    """Run a query with named values."""
    made = statement(sql, driver.flavor.dialect)
    return await driver.read(made, [driver.encode(values[name]) for name in made.names])


async def write(driver: Driver, sql: str, values: Mapping[str, Any], *, savepoint: bool = False) -> Sequence[Row]:
    """Run a writing statement with named values."""
    made = statement(sql, driver.flavor.dialect)
    return await driver.write(made, [driver.encode(values[name]) for name in made.names], savepoint=savepoint)
