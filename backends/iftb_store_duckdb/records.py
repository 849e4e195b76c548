"""The store of trades, positions and events on DuckDB, and the class that holds the stores of a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from itertools import count
from typing import Any

import duckdb
import pyarrow as pa
from sqlalchemy.exc import OperationalError

from iftb_store.columnar import Cursor, Query, read_rows
from iftb_store.errors import explain_unreadable, integrity_error
from iftb_store.models import Position, TradeTotals
from iftb_store.relational import RelationalCoverage, RelationalLookups
from iftb_store.schema.table_spec import POSITIONS, ColumnKind, Record, RowFilter, TableSpec
from iftb_store.values.checks import json_object, json_text
from iftb_store.values.decimals import CONTEXT, format_plain, trim_zeros
from iftb_store.values.tags import decode_texts, encode_texts
from iftb_store_duckdb.bars import DuckDBBars
from iftb_store_duckdb.lookups import DuckDBQueryRunner
from iftb_store_duckdb.rows import delete_rows, write_rows
from iftb_store_duckdb.session import DuckDBSession

# The selected pair is (whole part, rest) of a sum. DuckDB's own sum of DECIMAL(38,18) overflows at the end of the column's range.
# A sum of two halves takes five times as long and does not overflow.
_SUM = "NULL, sum({0}) {1}"
_SPLIT_SUM = "sum(trunc({0})::HUGEINT) {1}, sum({0} - trunc({0})) {1}"


class DuckDBStores:
    """The stores of one session."""

    def __init__(self, session: DuckDBSession) -> None:
        self.bars = DuckDBBars(session)
        self.records = DuckDBRecords(session)
        runner = DuckDBQueryRunner(session)
        self.lookups = RelationalLookups(runner)
        self.coverage = RelationalCoverage(runner)
        self._session = session

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the rows of a selection; see Stores.read_rows."""
        return await self._session.run(lambda cursor: read_rows(cursor, selection))

    async def write_rows(self, table: TableSpec, rows: pa.Table) -> None:
        """Store complete rows unchanged; see Stores.write_rows."""
        if rows.num_rows:
            await self._session.run(lambda cursor: write_rows(cursor, table, rows), write=True)

    async def delete_rows(self, table: TableSpec, rows: pa.Table) -> int:
        """Delete the stored rows that have the keys of ``rows``; return the number of deleted rows."""
        return await self._session.run(lambda cursor: delete_rows(cursor, table, rows), write=True) if rows.num_rows else 0


class DuckDBRecords:
    """Reads and writes trades, positions and events in one session; see `iftb_store.protocols.RecordStore`."""

    def __init__(self, session: DuckDBSession) -> None:
        self._session = session

    async def select(self, rows: RowFilter, *, descending: bool = False) -> list[Any]:
        """Return the rows of a selection, ordered by time, then id; newest first if ``descending``."""
        way = " DESC" if descending else ""
        order = f"{rows.table.time}{way}, id{way}"
        return await self._session.run(lambda cursor: _select(cursor, rows, order))

    async def insert(self, table: TableSpec, row: Record) -> int:
        """Insert a row and return its new id."""

        def work(cursor: Cursor) -> int:
            _require_unique(cursor, table, row)
            return _insert(cursor, table, row)

        return await self._session.run(work, write=True)

    async def update(self, table: TableSpec, equal: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
        """Store ``changes`` in the rows whose columns have the values ``equal``; return the number of these rows."""

        def work(cursor: Cursor) -> int:
            stored = _select(cursor, RowFilter(table, dict(equal)))
            if table is POSITIONS and not changes.keys().isdisjoint(table.unique):
                for position in stored:
                    _require_unique(cursor, table, replace(position, **changes))
            return _update(cursor, table, equal, changes) if stored else 0

        return await self._session.run(work, write=True)

    async def upsert_position(self, position: Position, *, replace: bool) -> bool:
        """Update the open position with the same (exchange, symbol, side), or insert it; return whether it was stored."""
        changes = {name: getattr(position, name) for name in POSITIONS.columns if name not in ("id", "created_at")}

        def work(cursor: Cursor) -> bool:
            key = _unique_values(POSITIONS, position)
            stored: list[Position] = _select(cursor, RowFilter(POSITIONS, key))
            owners = {None, position.trade_id}
            if not replace and position.trade_id is not None and not {item.trade_id for item in stored} <= owners:
                return False
            if stored:
                _update(cursor, POSITIONS, key, changes)
            else:
                _insert(cursor, POSITIONS, position)
            return True

        return await self._session.run(work, write=True)

    async def get_totals(self, since: datetime, trades: RowFilter) -> TradeTotals:
        """Return exact totals of the selected trades that were realized since a time."""
        # inside a transaction an overflow would end the transaction, so use the slower sum there
        if not self._session.writing:
            try:
                return await self._totals(_SUM, trades, since)
            except OperationalError as error:
                if not isinstance(error.__cause__, duckdb.OutOfRangeException):
                    raise
        return await self._totals(_SPLIT_SUM, trades, since)

    async def _totals(self, parts: str, selected: RowFilter, since: datetime) -> TradeTotals:
        query = Query(selected)
        query.conditions.append(f"realized_pnl IS NOT NULL AND coalesce(exit_time, updated_at) >= {query.bound(since)}")
        wins, losses = "FILTER (realized_pnl > 0)", "FILTER (realized_pnl < 0)"
        sql = f"""
            SELECT count(*), count(*) {wins}, count(*) {losses}, max(realized_pnl), min(realized_pnl),
                {parts.format("realized_pnl", wins)}, {parts.format("realized_pnl", losses)}, {parts.format("fee", "")}
            FROM {query.source}"""
        (row,) = await self._session.run(lambda cursor: cursor.fetch(sql, query.values))
        trades, won, lost, best, worst, *sums = row
        profit, loss, fees = (_whole_and_fraction(*sums[index : index + 2]) for index in (0, 2, 4))
        return TradeTotals(
            trades=trades,
            wins=won,
            losses=lost,
            profit=profit,
            loss=loss.copy_abs(),
            fees=fees,
            largest_win=max(best or Decimal(0), Decimal(0)),
            largest_loss=min(worst or Decimal(0), Decimal(0)).copy_abs(),
        )


def _select(cursor: Cursor, selection: RowFilter, order: str = "") -> list[Any]:
    table, query = selection.table, Query(selection)
    rows = cursor.rows(query.sql(", ".join(table.columns), order), query.values)
    with explain_unreadable(table.name):
        return [table.model(*map(_decode, table.kinds.values(), row)) for row in rows]


def _insert(cursor: Cursor, table: TableSpec, row: Record) -> int:
    values = {name: getattr(row, name) for name in table.columns if name != "id"}
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    sql = f"INSERT INTO {table.name} ({', '.join(values)}) VALUES ({places}) RETURNING id"
    ((number,),) = cursor.rows(sql, _encode(values))
    return int(number)


def _update(cursor: Cursor, table: TableSpec, equal: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
    where, values = _equal(equal)
    assignments = ", ".join(f"{name} = ${place}" for place, name in enumerate(changes, len(values) + 1))
    return len(cursor.rows(f"UPDATE {table.name} SET {assignments} {where} RETURNING id", [*values, *_encode(changes)]))


def _require_unique(cursor: Cursor, table: TableSpec, row: Record) -> None:
    """Raise IntegrityError before a write that would be one, because an error of DuckDB's own would end the transaction."""
    if not table.unique or any(getattr(row, name) != value for name, value in table.unique_among):
        return
    if any(other.id != row.id for other in _select(cursor, RowFilter(table, _unique_values(table, row)))):
        same = f"with this {' and '.join(table.unique)}"
        if table is POSITIONS:
            raise integrity_error(f"another position {same} is open; close it first")
        raise integrity_error(f"a row of {table.name} {same} is already stored")


def _unique_values(table: TableSpec, row: Record) -> dict[str, Any]:
    return {name: getattr(row, name) for name in table.unique} | dict(table.unique_among)


def _equal(equal: Mapping[str, Any]) -> tuple[str, list[Any]]:
    values = [value for value in equal.values() if value is not None]
    places = count(1)
    conditions = (f"{name} IS NULL" if value is None else f"{name} = ${next(places)}" for name, value in equal.items())
    return f"WHERE {' AND '.join(conditions)}" if equal else "", values


def _encode(values: Mapping[str, Any]) -> list[Any]:
    return [_encode_value(name, value) for name, value in values.items()]


def _encode_value(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return json_text(value, name)
    if isinstance(value, list):
        return encode_texts(value)
    # a Decimal parameter may have at most 38 digits, including trailing zeros, so pass it as text
    return format_plain(value) if isinstance(value, Decimal) else value


def _decode(kind: ColumnKind, value: Any) -> Any:
    if kind == ColumnKind.JSON:
        return json_object(value)
    if kind == ColumnKind.TEXTS:
        return decode_texts(value)
    return trim_zeros(value) if isinstance(value, Decimal) else value


def _whole_and_fraction(whole: int | None, fraction: Decimal | None) -> Decimal:
    return CONTEXT.add(Decimal(whole or 0), fraction or Decimal(0))
