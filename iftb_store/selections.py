"""What rows of a table a scan gives: the columns' equal values, a window of time, and the place to go on from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from typing import Any

from iftb_store.models import OHLCVBar, Position, SystemEvent, Trade
from iftb_store.schema import VERSION_TABLE

#: The greatest id that is brought in; half of all ids stay for a store's own rows.
GREATEST_ID = 2**62
# what the store fills in
_KEPT = ("id", "created_at", "updated_at", "last_updated")


@dataclass(frozen=True)
class ScannedTable:
    """A table as scans see it.

    Attributes:
        name: the table's name.
        model: the dataclass of its rows; a scan's columns are its fields, in their order.
        time: the column that a window of time bounds.
        key: the columns that tell a row from all others; a scan's order.
        identity: what a row keeps as long as it lives, beside its key: two rows with one key that differ in it are two rows.
    """

    name: str
    model: type[Any]
    time: str
    key: tuple[str, ...]
    identity: tuple[str, ...] = ()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of a scan."""
        return tuple(item.name for item in fields(self.model))

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The Python type of each column: str, int, Decimal, datetime or dict[str, Any]."""
        return {item.name: str(item.type).removesuffix(" | None") for item in fields(self.model)}

    def nullable(self, column: str) -> bool:
        """Tell whether a column may be NULL."""
        return column in self._optional

    def required(self, column: str) -> bool:
        """Tell whether a column of what is stored is never NULL: what the store fills in may be missing before alone."""
        return column in _KEPT or not self.nullable(column)

    @cached_property
    def _optional(self) -> frozenset[str]:
        return frozenset(item.name for item in fields(self.model) if str(item.type).endswith(" | None"))


BARS = ScannedTable("ohlcv", OHLCVBar, "timestamp", ("exchange", "symbol", "timeframe", "timestamp"))
TRADES = ScannedTable("trades", Trade, "entry_time", ("id",), ("trade_id",))
# update_position may change all else of an open one
POSITIONS = ScannedTable("positions", Position, "entry_time", ("id",), ("created_at",))
EVENTS = ScannedTable("system_events", SystemEvent, "created_at", ("id",), ("created_at", "event_type", "message"))

#: The columns of each table of ours, and those of them that the store fills in.
OUR_COLUMNS = {table.name: table.columns for table in (BARS, TRADES, POSITIONS, EVENTS)} | {VERSION_TABLE: ("version_num",)}
FILLED_COLUMNS = frozenset(_KEPT)


@dataclass(frozen=True)
class Selection:
    """Rows of one table, in the order of its key.

    Attributes:
        table: the table.
        equal: values that columns of the rows have.
        start: the first moment of the table's time, aware UTC, counted in.
        end: the last moment, counted in.
        after: the values of `order` in the row after which this selection goes on.
        limit: rows at most; None for all.
        size: bytes of text that these rows hold together at most, where there is a limit and the key is an id; the first row
            comes whatever it holds. None for any number.
    """

    table: ScannedTable
    equal: dict[str, str] = field(default_factory=dict)
    start: datetime | None = None
    end: datetime | None = None
    after: tuple[Any, ...] | None = None
    limit: int | None = None
    size: int | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of text that differ from row to row."""
        return tuple(column for column in self.columns if self.table.kinds[column] in ("str", "dict[str, Any]"))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that differ from row to row, in their order: what an engine has to read."""
        return tuple(column for column in self.table.columns if column not in self.equal)

    @property
    def order(self) -> tuple[str, ...]:
        """The columns of the key that differ from row to row."""
        return tuple(column for column in self.table.key if column not in self.equal)
