"""TableSpec, the description of a table and its columns, and RowFilter, which selects some of its rows."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import Enum
from functools import cached_property
from typing import Any

from sqlalchemy import BigInteger, Column

from iftb_store.models import OHLCVBar, Position, SystemEvent, Trade
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store.schema.tables import CHOICES, NAME, QUOTIENT, Base
from iftb_store.schema.types import ExactDecimal, JSONObject, UTCDateTime

#: The greatest id that a copy or import accepts; half of all ids remain for new rows.
GREATEST_ID = 2**62
#: The columns of a series of bars.
SERIES = ("exchange", "symbol", "timeframe")


class ColumnKind(Enum):
    """What a column holds, in words."""

    TEXT = "text"
    INTEGER = "whole number"
    DECIMAL = "decimal number"
    TIME = "time in UTC"
    JSON = "JSON object"


_KINDS = {
    ExactDecimal: ColumnKind.DECIMAL,
    UTCDateTime: ColumnKind.TIME,
    JSONObject: ColumnKind.JSON,
    BigInteger: ColumnKind.INTEGER,
}


@dataclass(frozen=True)
class ColumnSpec:
    """A column: all that checks, files, digests and Arrow schemas have to know of it.

    Attributes:
        name: its name.
        kind: what it holds.
        nullable: whether it may be NULL.
        kept: whether the store fills it in: the id and the times that it keeps.
        choices: the words that it may hold; none for any.
        is_name: whether its text is a name, such as a symbol: short, not blank.
        is_quotient: whether a decimal is computed by division: rounded to 18 places rather than refused.
    """

    name: str
    kind: ColumnKind
    nullable: bool
    kept: bool
    choices: tuple[str, ...]
    is_name: bool
    is_quotient: bool


@dataclass(frozen=True)
class TableSpec:
    """The only description of a table, read from `iftb_store.schema.tables` in the order of its dataclass.

    Attributes:
        name: the table's name.
        model: the dataclass of its rows; the columns are its fields, in their order.
        time: the column that a time window applies to.
        key: the columns that identify a row, in the order of a scan.
        identity: columns that never change during the life of a row; two rows with the same key that differ in these columns
            are different rows.
    """

    name: str
    model: type[Any]
    time: str
    key: tuple[str, ...]
    identity: tuple[str, ...] = ()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(item.name for item in fields(self.model))

    @cached_property
    def specs(self) -> dict[str, ColumnSpec]:
        """Each column by its name."""
        table = Base.metadata.tables[self.name]
        return {name: describe_column(table.columns[name]) for name in self.columns}

    @cached_property
    def kinds(self) -> dict[str, ColumnKind]:
        """What each column holds."""
        return {name: spec.kind for name, spec in self.specs.items()}

    def required(self, column: str) -> bool:
        """Tell whether a column of what is stored is never NULL."""
        return not self.specs[column].nullable


def describe_column(column: Column[Any]) -> ColumnSpec:
    """Return what there is to know of a column of `iftb_store.schema.tables`."""
    return ColumnSpec(
        column.name,
        next((kind for wanted, kind in _KINDS.items() if isinstance(column.type, wanted)), ColumnKind.TEXT),
        bool(column.nullable),
        column.identity is not None or column.server_default is not None,
        column.info.get(CHOICES, ()),
        column.info.get(NAME, False),
        column.info.get(QUOTIENT, False),
    )


BARS = TableSpec("ohlcv", OHLCVBar, "timestamp", ("exchange", "symbol", "timeframe", "timestamp"))
TRADES = TableSpec("trades", Trade, "entry_time", ("id",), ("trade_id",))
# update_position may change every other column of an open position
POSITIONS = TableSpec("positions", Position, "entry_time", ("id",), ("created_at",))
EVENTS = TableSpec("system_events", SystemEvent, "created_at", ("id",), ("created_at", "event_type", "message"))


#: The columns of each table of iftb-store, and those that the store sets.
OUR_COLUMNS = {table.name: table.columns for table in (BARS, TRADES, POSITIONS, EVENTS)} | {VERSION_TABLE: ("version_num",)}
FILLED_COLUMNS = frozenset(name for table in (BARS, TRADES, POSITIONS, EVENTS) for name, spec in table.specs.items() if spec.kept)


@dataclass(frozen=True)
class RowFilter:
    """Rows of one table, in the order of its key.

    Attributes:
        table: the table.
        equal: the values that columns of the rows must have.
        start: start of the time window, aware UTC, inclusive.
        end: end of the time window, inclusive.
        after: the values of `order` in the row after which the selection begins.
        limit: maximum number of rows; None for all.
        size: maximum bytes of text in all rows together, used if there is a limit and the key is an id; the first row is
            returned whatever its size. None for no maximum.
    """

    table: TableSpec
    equal: dict[str, str] = field(default_factory=dict)
    start: datetime | None = None
    end: datetime | None = None
    after: tuple[Any, ...] | None = None
    limit: int | None = None
    size: int | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The text columns that are not fixed by `equal`."""
        return tuple(column for column in self.columns if self.table.kinds[column] in (ColumnKind.TEXT, ColumnKind.JSON))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are not fixed by `equal`, in their order: those that an engine has to read."""
        return tuple(column for column in self.table.columns if column not in self.equal)

    @property
    def order(self) -> tuple[str, ...]:
        """The columns of the key that are not fixed by `equal`."""
        return tuple(column for column in self.table.key if column not in self.equal)
