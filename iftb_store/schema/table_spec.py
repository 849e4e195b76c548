"""TableSpec, the description of a table and its columns, and RowFilter, which selects some of its rows."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import Enum
from functools import cached_property
from typing import Any

from sqlalchemy import BigInteger, Column

from iftb_store.models import BalanceSnapshot, Fill, LedgerEntry, OHLCVBar, Position, SystemEvent, Trade
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store.schema.tables import CHOICES, NAME, SHORT, SINCE, Base, StoreNow
from iftb_store.schema.types import ExactDecimal, JSONObject, TextList, UTCDateTime

#: A row of a table of records.
Record = Trade | Position | SystemEvent | Fill | LedgerEntry | BalanceSnapshot
#: The greatest id that a copy or import accepts; half of the range of ids remains for new rows.
GREATEST_ID = 2**62
#: The columns of a series of bars.
SERIES = ("exchange", "symbol", "timeframe")


class ColumnKind(Enum):
    """The kind of values in a column, e.g. text or time; the value of each member is its name in messages."""

    TEXT = "text"
    INTEGER = "whole number"
    DECIMAL = "decimal number"
    TIME = "time in UTC"
    JSON = "JSON object"
    TEXTS = "list of texts"


#: The kinds of values that are texts of any length.
LONG_KINDS = (ColumnKind.TEXT, ColumnKind.JSON, ColumnKind.TEXTS)

_KINDS = {
    ExactDecimal: ColumnKind.DECIMAL,
    UTCDateTime: ColumnKind.TIME,
    JSONObject: ColumnKind.JSON,
    TextList: ColumnKind.TEXTS,
    BigInteger: ColumnKind.INTEGER,
}


@dataclass(frozen=True)
class ColumnSpec:
    """The description of a column, from which checks, file formats, digests and Arrow schemas are derived.

    Attributes:
        name: the name of the column.
        kind: the kind of its values.
        nullable: whether the column may be NULL.
        kept: whether the store, not the caller, sets the column: the id and times such as created_at.
        choices: the only words that the column accepts; empty if it accepts any text.
        is_name: whether the text is a name, e.g. a symbol: at most 255 characters and not blank.
        is_short: whether a name has at most 255 bytes in UTF-8, because several names share an index.
        default: the stored text of a row that does not set the column, e.g. the empty text for no account; None if there is no
            such text.
        since: the revision that added the column to its table; None if the table was created with it.
    """

    name: str
    kind: ColumnKind
    nullable: bool
    kept: bool
    choices: tuple[str, ...]
    is_name: bool
    is_short: bool = False
    default: str | None = None
    since: str | None = None


@dataclass(frozen=True)
class TableSpec:
    """The description of a table, derived from its definition in `iftb_store.schema.tables`; for use by all other modules.

    Attributes:
        name: the name of the table.
        model: the dataclass of the rows; the fields of the dataclass are the columns, in the same order.
        time: the column to which a time window applies.
        key: the columns that identify a row; reads return rows ordered by these columns.
        identity: columns that never change while a row exists; two rows that have the same key but differ in these columns
            are different rows.
        natural_key: the columns by which a copy finds a row that another store has under another id.
        unique: columns, besides the key, in which two rows must not be equal; empty if there are none.
        unique_among: the values of the rows that `unique` applies to, by column, e.g. only open positions; empty for all rows.
        since: the revision that created the table.
    """

    name: str
    model: type[Any]
    time: str
    key: tuple[str, ...]
    identity: tuple[str, ...] = ()
    natural_key: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    unique_among: tuple[tuple[str, str], ...] = ()
    since: str = "0001"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(item.name for item in fields(self.model))

    @cached_property
    def specs(self) -> dict[str, ColumnSpec]:
        """The description of each column, by the name of the column."""
        table = Base.metadata.tables[self.name]
        return {name: describe_column(table.columns[name]) for name in self.columns}

    @cached_property
    def kinds(self) -> dict[str, ColumnKind]:
        """The kind of values of each column, by the name of the column."""
        return {name: spec.kind for name, spec in self.specs.items()}

    def has_columns(self, names: Set[str]) -> bool:
        """Return whether these are the names of all columns, as the table has them now or had them at an earlier revision."""
        lacking = {name: self.specs[name].since for name in self.columns if name not in names}
        if not names <= {*self.columns} or None in lacking.values():
            return False
        first = min(map(str, lacking.values()), default=None)
        return first is None or {*lacking} == {name for name, spec in self.specs.items() if (spec.since or "") >= first}

    @property
    def has_own_ids(self) -> bool:
        """Whether the id identifies a row; False for bars, whose ids and created_at each store assigns itself."""
        return self.key == ("id",)

    @cached_property
    def written(self) -> tuple[str, ...]:
        """The columns that `iftb_store.protocols.Stores.write_rows` stores: all columns, except the id of bars."""
        return self.columns if self.has_own_ids else tuple(name for name in self.columns if name != "id")

    @cached_property
    def compared(self) -> tuple[str, ...]:
        """The columns that a copy compares: all columns, except id and created_at of bars."""
        return self.columns if self.has_own_ids else tuple(name for name in self.columns if name not in ("id", "created_at"))

    @cached_property
    def overwritten(self) -> tuple[str, ...]:
        """The columns that `iftb_store.protocols.Stores.write_rows` overwrites in a stored row with the same key."""
        return tuple(name for name in self.compared if name not in self.key)

    def is_required(self, column: str) -> bool:
        """Return whether stored rows must have a value, not NULL, in a column."""
        return not self.specs[column].nullable


def describe_column(column: Column[Any]) -> ColumnSpec:
    """Return the description of a column of `iftb_store.schema.tables`."""
    default: Any = getattr(column.server_default, "arg", None)
    return ColumnSpec(
        column.name,
        next((kind for wanted, kind in _KINDS.items() if isinstance(column.type, wanted)), ColumnKind.TEXT),
        bool(column.nullable),
        column.identity is not None or isinstance(default, StoreNow),
        column.info.get(CHOICES, ()),
        column.info.get(NAME, False),
        column.info.get(SHORT, False),
        default if isinstance(default, str) else None,
        column.info.get(SINCE),
    )


@dataclass(frozen=True, slots=True)
class BarDigest:
    """The digest of the bars of one series and day, as the destination of a copy keeps it.

    Attributes:
        exchange: the exchange of the series.
        symbol: the symbol of the series.
        timeframe: the timeframe of the series.
        day: the first moment of the day, UTC.
        bar_count: the number of bars.
        digest: the digest, 16 bytes in hexadecimal; then, if known, a space and the fingerprint of the source, see
            `iftb_store.abilities.SupportsFingerprints`.
        checked_at: when a copy last compared the bars of the day, UTC.
    """

    exchange: str
    symbol: str
    timeframe: str
    day: datetime
    bar_count: int
    digest: str
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class AskedRange:
    """A range of bars of one series that was asked for, as the table ``coverage`` keeps it.

    Attributes:
        exchange: the exchange of the series.
        symbol: the symbol of the series.
        timeframe: the timeframe of the series.
        first: the opening time of the first bar of the range, UTC.
        last: the opening time of its last bar.
        asked_at: when the range was asked for, UTC; of ranges that were merged, the oldest of these times.
        source: what gave the bars, e.g. "fetch", "stream" or "file:NAME".
    """

    exchange: str
    symbol: str
    timeframe: str
    first: datetime
    last: datetime
    asked_at: datetime
    source: str


BARS = TableSpec("ohlcv", OHLCVBar, "timestamp", ("exchange", "symbol", "timeframe", "timestamp"))
TRADES = TableSpec("trades", Trade, "entry_time", ("id",), ("trade_id",), ("trade_id",), ("trade_id",))
# created_at is the identity of a position, because update_position may change every other column of an open position
POSITIONS = TableSpec(
    "positions",
    Position,
    "entry_time",
    ("id",),
    ("created_at",),
    ("exchange", "symbol", "side", "entry_time", "trade_id", "account"),
    ("exchange", "account", "symbol", "side"),
    (("status", "open"),),
)
EVENTS = TableSpec(
    "system_events",
    SystemEvent,
    "created_at",
    ("id",),
    ("created_at", "event_type", "message"),
    tuple(item.name for item in fields(SystemEvent) if item.name != "id"),
)
_FILL_KEY = ("exchange", "account", "symbol", "fill_id")
FILLS = TableSpec("fills", Fill, "timestamp", ("id",), _FILL_KEY, _FILL_KEY, _FILL_KEY, since="0004")
_ENTRY_KEY = ("exchange", "account", "kind", "external_id")
LEDGER = TableSpec("ledger_entries", LedgerEntry, "timestamp", ("id",), _ENTRY_KEY, _ENTRY_KEY, _ENTRY_KEY, since="0004")
_BALANCE_KEY = ("exchange", "account", "currency", "timestamp")
BALANCES = TableSpec(
    "balance_snapshots", BalanceSnapshot, "timestamp", ("id",), _BALANCE_KEY, _BALANCE_KEY, _BALANCE_KEY, since="0004"
)
# these two are no tables of users' data, so they are not in `iftb_store.schema.scope.TABLES`; a copy of bars takes their coverage
# with it
DIGESTS = TableSpec("bar_digests", BarDigest, "day", (*SERIES, "day"))
COVERAGE = TableSpec("coverage", AskedRange, "first", (*SERIES, "first"), since="0005")

_ALL = (BARS, TRADES, POSITIONS, EVENTS, FILLS, LEDGER, BALANCES, DIGESTS, COVERAGE)
#: The columns of each table of iftb-store. FILLED_COLUMNS are the names of the columns that the store sets.
OUR_COLUMNS = {table.name: table.columns for table in _ALL} | {VERSION_TABLE: ("version_num",)}
FILLED_COLUMNS = frozenset(name for table in _ALL for name, spec in table.specs.items() if spec.kept)
#: The texts that rows have in a column that they do not set, by the name of the column.
DEFAULTS = {name: spec.default for table in _ALL for name, spec in table.specs.items() if spec.default is not None}


@dataclass(frozen=True)
class RowFilter:
    """A selection of rows of one table, ordered by the table's key.

    Attributes:
        table: the table.
        equal: column -> the value that the rows must have in it; `RecordStore.select` also takes None, for NULL.
        start: start of the time window, aware UTC, inclusive.
        end: end of the time window, aware UTC, inclusive.
        after: the selection begins after the row that has these values in the columns `order`; None for the first row.
        limit: maximum number of rows; None for all rows.
        size: maximum number of bytes of text in all rows together; it has effect only with a limit and if the key is an id.
            The first row is returned whatever its size. None for no maximum.
        only: the columns of the returned rows, in the table's order; None for all.
        tag: one of the texts in the list ``tags`` of the rows; None for rows with any tags or none. As the list is stored, see
            `iftb_store.values.tags`, its text contains `encode_item` of the tag.
    """

    table: TableSpec
    equal: dict[str, Any] = field(default_factory=dict)
    start: datetime | None = None
    end: datetime | None = None
    after: tuple[Any, ...] | None = None
    limit: int | None = None
    size: int | None = None
    only: tuple[str, ...] | None = None
    tag: str | None = None

    @property
    def bounds(self) -> list[tuple[str, str, datetime]]:
        """The conditions of the time window, each as (name of the parameter, operator, time).

        If the rows are ordered by time only, the start is omitted once `after` is later than it: given two lower bounds, some
        engines search with the first, and would read the rows from the start of the window again for each batch.
        """
        start, after = self.start, self.after
        if start is not None and after is not None and self.order == (self.table.time,) and after[0] >= start:
            start = None
        ends = (("start", ">=", start), ("end", "<=", self.end))
        return [(name, sign, moment) for name, sign, moment in ends if moment is not None]

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of text, JSON and lists that the filter does not fix to one value (those not in `equal`)."""
        return tuple(column for column in self.columns if self.table.kinds[column] in LONG_KINDS)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that an engine has to read: the requested columns without those that `equal` fixes to one value."""
        return tuple(column for column in self.only or self.table.columns if column not in self.equal)

    @property
    def order(self) -> tuple[str, ...]:
        """The columns by which the rows are ordered: the key columns that `equal` does not fix to one value."""
        return tuple(column for column in self.table.key if column not in self.equal)
