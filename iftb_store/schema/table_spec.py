"""TableSpec, the description of a table, and RowFilter, which selects some of its rows."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from typing import Any

from iftb_store.models import OHLCVBar, Position, SystemEvent, Trade

#: The greatest id that a copy or import accepts; half of all ids remain for new rows.
GREATEST_ID = 2**62
#: The columns of a series of bars.
SERIES = ("exchange", "symbol", "timeframe")
# the columns that the store sets
_KEPT = ("id", "created_at", "updated_at", "last_updated")


@dataclass(frozen=True)
class TableSpec:
    """The description of a table.

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
    def kinds(self) -> dict[str, str]:
        """The Python type of each column: str, int, Decimal, datetime or dict[str, Any]."""
        return {item.name: str(item.type).removesuffix(" | None") for item in fields(self.model)}

    def nullable(self, column: str) -> bool:
        """Return whether a column may be NULL."""
        return column in self._optional

    def required(self, column: str) -> bool:
        """Return whether a column of a stored row is never NULL; columns that the store sets are NULL only before."""
        return column in _KEPT or not self.nullable(column)

    @cached_property
    def _optional(self) -> frozenset[str]:
        return frozenset(item.name for item in fields(self.model) if str(item.type).endswith(" | None"))


BARS = TableSpec("ohlcv", OHLCVBar, "timestamp", ("exchange", "symbol", "timeframe", "timestamp"))
TRADES = TableSpec("trades", Trade, "entry_time", ("id",), ("trade_id",))
# update_position may change every other column of an open position
POSITIONS = TableSpec("positions", Position, "entry_time", ("id",), ("created_at",))
EVENTS = TableSpec("system_events", SystemEvent, "created_at", ("id",), ("created_at", "event_type", "message"))


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
        return tuple(column for column in self.columns if self.table.kinds[column] in ("str", "dict[str, Any]"))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are not fixed by `equal`, in their order: those that an engine has to read."""
        return tuple(column for column in self.table.columns if column not in self.equal)

    @property
    def order(self) -> tuple[str, ...]:
        """The columns of the key that are not fixed by `equal`."""
        return tuple(column for column in self.table.key if column not in self.equal)
