"""What part of a store a command works on: its tables, and of each the rows of some exchanges, symbols, timeframes, a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from itertools import product

from iftb_store.errors import InvalidValueError
from iftb_store.schema.table_spec import BARS, EVENTS, POSITIONS, TRADES, RowFilter, TableSpec
from iftb_store.values import checks
from iftb_store.values.display import shown
from iftb_store.values.timeframes import check_timeframe

_CHECKS: dict[str, Callable[[object, str], str]] = {
    "timeframe": lambda value, name: check_timeframe(value),
}

#: The tables by name, in the order in which they are copied: what others name comes first.
TABLES = {table.name: table for table in (BARS, TRADES, POSITIONS, EVENTS)}


class TableScope:
    """Part of a store.

    Args:
        tables: their names; none for all that have the columns which are chosen by.
        exchanges: only rows of one of these; none for all.
        symbols: only rows of one of these; none for all.
        timeframes: only bars of one of these; none for all.
        start: the first moment of a table's time (timestamp of bars, entry_time of trades and positions, created_at of
            events), counted in; naive times are UTC.
        end: the last moment, counted in.

    Raises:
        InvalidValueError: an unknown table or timeframe, start after end, or a table that lacks a column chosen by.
    """

    def __init__(
        self,
        tables: Collection[str] = (),
        exchanges: Collection[str] = (),
        symbols: Collection[str] = (),
        timeframes: Collection[str] = (),
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> None:
        chosen = {"exchange": exchanges, "symbol": symbols, "timeframe": timeframes}
        self._chosen = {column: list(dict.fromkeys(values)) for column, values in chosen.items() if values}
        self._start, self._end = start, end
        for name in tables:
            self._require(name)
        wanted = [TABLES[name] for name in TABLES if name in tables] or [*TABLES.values()]
        self.tables = [table for table in wanted if all(column in table.columns for column in self._chosen)]
        for table in self.tables:
            # refuses what no row can have
            list(self.selections(table))

    @property
    def chosen(self) -> bool:
        """Whether rows are chosen by their values, and so none of a store may be meant."""
        return bool(self._chosen) or self._start is not None or self._end is not None

    def selections(self, table: TableSpec) -> Iterator[RowFilter]:
        """Yield the table's part: one selection for each exchange, symbol and timeframe chosen."""
        for values in product(*self._chosen.values()):
            yield selected(table, self._start, self._end, **dict(zip(self._chosen, values, strict=True)))

    def _require(self, name: str) -> None:
        if name not in TABLES:
            raise InvalidValueError(f"there is no table {shown(name)}; the tables are {', '.join(TABLES)}")
        for column in self._chosen:
            if column not in TABLES[name].columns:
                raise InvalidValueError(f"the table {name} has no {column} to choose by; leave the table or the {column} out")


def selected(table: TableSpec, start: datetime | None, end: datetime | None, **equal: str | None) -> RowFilter:
    """Return the rows of a table in a window of time, with the column values that are given.

    Raises:
        InvalidValueError: start after end, or a value that no row can have.
    """
    given = {name: None if value is None else _CHECKS.get(name, checks.name_text)(value, name) for name, value in equal.items()}
    first, last = (checks.optional(checks.utc, moment, name) for name, moment in (("start", start), ("end", end)))
    if first is not None and last is not None:
        check_order(first, last)
    return RowFilter(table, {name: value for name, value in given.items() if value is not None}, first, last)


def check_order(start: datetime, end: datetime) -> None:
    """Refuse a window that ends before it starts."""
    if start > end:
        raise InvalidValueError(f"start {start.isoformat()} lies after end {end.isoformat()}")
