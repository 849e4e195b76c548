"""TableScope: the tables and rows that a command works on, selected by exchange, symbol, timeframe and time window."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from copy import copy
from datetime import datetime
from itertools import product
from typing import Any

from iftb_store.errors import InvalidValueError
from iftb_store.schema.table_spec import BALANCES, BARS, EVENTS, FILLS, LEDGER, POSITIONS, TRADES, RowFilter, TableSpec
from iftb_store.values import checks
from iftb_store.values.display import show
from iftb_store.values.suggestions import suggest
from iftb_store.values.timeframes import check_timeframe

#: The tables by name, in the order in which they are copied: a table comes before the tables that refer to it.
TABLES = {table.name: table for table in (BARS, TRADES, POSITIONS, EVENTS, FILLS, LEDGER, BALANCES)}


class TableScope:
    """A selection of tables and of their rows.

    Args:
        tables: names of the tables; if empty, all tables that have every column by which rows are selected. For this and the
            next three arguments, a single name may be given as text.
        exchanges: select only rows of these exchanges; if empty, rows of all exchanges.
        symbols: select only rows of these symbols; if empty, rows of all symbols.
        timeframes: select only bars of these timeframes; if empty, bars of all timeframes.
        start: start of the time window, inclusive; naive times are UTC. It applies to the entry_time of trades and positions,
            the created_at of events, and the timestamp of all other rows.
        end: end of the time window, inclusive.
        accounts: select only rows of these accounts, and no bars; if empty, rows of all accounts. The empty text selects the
            rows without an account.

    Raises:
        InvalidValueError: a table or timeframe is unknown, start is after end, or a table has no column for a selection.
    """

    def __init__(
        self,
        tables: str | Collection[str] = (),
        exchanges: str | Collection[str] = (),
        symbols: str | Collection[str] = (),
        timeframes: str | Collection[str] = (),
        start: datetime | None = None,
        end: datetime | None = None,
        accounts: str | Collection[str] = (),
    ) -> None:
        tables = _list_names(tables, "tables")
        chosen = {
            "exchange": _list_names(exchanges, "exchanges"),
            "symbol": _list_names(symbols, "symbols"),
            "timeframe": _list_names(timeframes, "timeframes"),
            "account": _list_names(accounts, "accounts"),
        }
        self._chosen = {column: names for column, names in chosen.items() if names}
        self._start, self._end = start, end
        #: Whether the caller selected the tables by name.
        self.named = bool(tables)
        for name in tables:
            if name not in TABLES:
                raise InvalidValueError(
                    f"there is no table {show(name)}; {suggest(name, TABLES)}the tables are {', '.join(TABLES)}"
                )
            for column in (column for column in self._chosen if column not in TABLES[name].columns):
                raise InvalidValueError(
                    f"the table {name} has no column {column} to select by; leave out the table or the {column}"
                )
        wanted = [TABLES[name] for name in TABLES if name in tables] or [*TABLES.values()]
        self.tables = [table for table in wanted if all(column in table.columns for column in self._chosen)]
        for table in self.tables:
            # creating the filters raises an error for values that no row can have
            list(self.list_selections(table))

    @property
    def chosen(self) -> bool:
        """Whether the scope selects only some rows (by exchange, symbol, timeframe or time), not all rows of the tables."""
        return bool(self._chosen) or self._start is not None or self._end is not None

    def limit(self, tables: Collection[TableSpec]) -> TableScope:
        """Return a scope with the same selection of rows that is limited to the given tables."""
        limited = copy(self)
        limited.tables = [table for table in self.tables if table in tables]
        return limited

    def list_selections(self, table: TableSpec) -> Iterator[RowFilter]:
        """Yield row filters that together select the rows of a table: one per exchange, symbol and timeframe selected."""
        for values in product(*self._chosen.values()):
            yield make_filter(table, self._start, self._end, **dict(zip(self._chosen, values, strict=True)))


def _list_names(names: object, argument: str) -> list[str]:
    """Return the names as a list without duplicates; a single text is one name, not a sequence of letters."""
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, Collection) or not all(isinstance(name, str) for name in listed):
        raise InvalidValueError(f"{argument} must be a name or a list of names, not {show(names)}")
    return list(dict.fromkeys(listed))


def make_filter(table: TableSpec, start: datetime | None, end: datetime | None, **equal: str | None) -> RowFilter:
    """Return a filter for the rows of a table that lie in a time window and have the values in ``equal`` (column -> value).

    Raises:
        InvalidValueError: start is after end, or a value in ``equal`` is one that no row can have, e.g. an unknown timeframe.
    """
    kinds: dict[str, Any] = {"timeframe": check_timeframe, "account": checks.account}
    given = {name: checks.optional(kinds.get(name, checks.name_text), value, name) for name, value in equal.items()}
    first, last = (checks.optional(checks.utc, moment, name) for name, moment in (("start", start), ("end", end)))
    if first is not None and last is not None:
        check_window(first, last)
    return RowFilter(table, {name: value for name, value in given.items() if value is not None}, first, last)


def check_window(start: datetime, end: datetime) -> None:
    """Raise InvalidValueError if ``start`` is after ``end``."""
    if start > end:
        raise InvalidValueError(f"start {start.isoformat()} is after end {end.isoformat()}")
