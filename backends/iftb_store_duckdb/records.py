"""The stores of trades, positions and events on DuckDB, and the class that holds the four stores of a session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
from sqlalchemy.exc import OperationalError

from iftb_store.errors import integrity_error, readable
from iftb_store.models import Position, SystemEvent, Trade, TradeTotals
from iftb_store.schema.table_spec import RowFilter, TableSpec
from iftb_store.values.checks import json_object, json_text
from iftb_store.values.decimals import CONTEXT, format_plain, trim_zeros
from iftb_store_duckdb.arrow import read_rows
from iftb_store_duckdb.bars import DuckDBBars
from iftb_store_duckdb.driver import Cursor
from iftb_store_duckdb.rows import delete_rows, write_rows
from iftb_store_duckdb.session import DuckDBSession

_Model = TypeVar("_Model", bound=Trade | Position | SystemEvent)

# The selected pair is (whole part, rest) of a sum. DuckDB's own sum of DECIMAL(38,18) overflows at the end of the column's range.
# A sum of two halves takes five times as long and does not overflow.
_SUM = "NULL, sum({0}) {1}"
_SPLIT_SUM = "sum(trunc({0})::HUGEINT) {1}, sum({0} - trunc({0})) {1}"

_JSON = ("decision_reasons", "llm_analysis", "details")


class DuckDBStores:
    """The four stores of one session: bars, trades, positions and events."""

    def __init__(self, session: DuckDBSession) -> None:
        self.ohlcv = DuckDBBars(session)
        self.trades = DuckDBTrades(session)
        self.positions = DuckDBPositions(session)
        self.events = DuckDBEvents(session)
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


class DuckDBTrades:
    """The store of trades of one session."""

    def __init__(self, session: DuckDBSession) -> None:
        self._session = session

    async def insert(self, trade: Trade, now: datetime) -> int:
        """Insert one trade with created_at = updated_at = ``now``; return its new id."""

        def work(cursor: Cursor) -> int:
            if cursor.rows("SELECT 1 FROM trades WHERE trade_id = $1", [trade.trade_id]):
                raise integrity_error("a trade with this trade_id is already stored")
            return _insert(cursor, "trades", trade, {"created_at": now, "updated_at": now})

        return await self._session.run(work, write=True)

    async def update(self, trade_id: int, fields: Mapping[str, Any]) -> bool:
        """Set columns of one trade; return False if no trade has this id."""

        def work(cursor: Cursor) -> bool:
            return _update(cursor, "trades", fields, "id = $1", trade_id)

        return await self._session.run(work, write=True)

    async def get_by_id(self, trade_id: int) -> Trade | None:
        """Return the trade with this id, or None."""
        found = await self._session.run(lambda cursor: _select(cursor, Trade, "trades", "WHERE id = $1", trade_id))
        return found[0] if found else None

    async def get_by_trade_id(self, trade_id: str) -> Trade | None:
        """Return the trade with this trade_id, which the bot assigned, or None."""
        found = await self._session.run(lambda cursor: _select(cursor, Trade, "trades", "WHERE trade_id = $1", trade_id))
        return found[0] if found else None

    async def get_recent(self, limit: int) -> list[Trade]:
        """Return the newest ``limit`` trades of all exchanges, newest first."""
        return await self._session.run(
            lambda cursor: _select(cursor, Trade, "trades", "ORDER BY entry_time DESC, id DESC LIMIT $1", limit)
        )

    async def get_by_symbol(self, symbol: str, limit: int, exchange: str) -> list[Trade]:
        """Return the newest ``limit`` trades of one symbol of an exchange, newest first."""
        rest = "WHERE exchange = $1 AND symbol = $2 ORDER BY entry_time DESC, id DESC LIMIT $3"
        return await self._session.run(lambda cursor: _select(cursor, Trade, "trades", rest, exchange, symbol, limit))

    async def get_totals(self, since: datetime, exchange: str) -> TradeTotals:
        """Return exact totals of an exchange's trades that were realized since a time."""
        # inside a transaction an overflow would end the transaction, so use the slower sum there
        if not self._session.writing:
            try:
                return await self._totals(_SUM, exchange, since)
            except OperationalError as error:
                if not isinstance(error.__cause__, duckdb.OutOfRangeException):
                    raise
        return await self._totals(_SPLIT_SUM, exchange, since)

    async def _totals(self, parts: str, exchange: str, since: datetime) -> TradeTotals:
        wins, losses = "FILTER (realized_pnl > 0)", "FILTER (realized_pnl < 0)"
        sql = f"""
            SELECT count(*), count(*) {wins}, count(*) {losses}, max(realized_pnl), min(realized_pnl),
                {parts.format("realized_pnl", wins)}, {parts.format("realized_pnl", losses)}, {parts.format("fee", "")}
            FROM trades
            WHERE exchange = $1 AND realized_pnl IS NOT NULL AND coalesce(exit_time, updated_at) >= $2"""
        (row,) = await self._session.run(lambda cursor: cursor.fetch(sql, [exchange, since]))
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


class DuckDBPositions:
    """The store of positions of one session."""

    def __init__(self, session: DuckDBSession) -> None:
        self._session = session

    async def get_open(self, exchange: str) -> list[Position]:
        """Return the open positions of an exchange, oldest first."""
        rest = "WHERE exchange = $1 AND status = 'open' ORDER BY entry_time, id"
        return await self._session.run(lambda cursor: _select(cursor, Position, "positions", rest, exchange))

    async def find_open(self, symbol: str, exchange: str) -> list[Position]:
        """Return the open positions of one symbol of an exchange, oldest first."""
        rest = "WHERE exchange = $1 AND symbol = $2 AND status = 'open' ORDER BY entry_time, id"
        return await self._session.run(lambda cursor: _select(cursor, Position, "positions", rest, exchange, symbol))

    async def upsert(self, position: Position, now: datetime) -> None:
        """Overwrite the open position of the same (exchange, symbol, side), or insert the position if there is none."""

        def work(cursor: Cursor) -> None:
            found = _open_ids(cursor, position)
            if found:
                _update(cursor, "positions", _position_fields(position, now), "id = $1", found[0])
            else:
                _insert(cursor, "positions", position, {"last_updated": now, "created_at": now})

        await self._session.run(work, write=True)

    async def update(self, position: Position, now: datetime) -> bool:
        """Update every field of the open position with this id; return False if no open position has the id."""

        def work(cursor: Cursor) -> bool:
            if not cursor.rows("SELECT 1 FROM positions WHERE id = $1 AND status = 'open'", [position.id]):
                return False
            if position.status == "open" and any(number != position.id for number in _open_ids(cursor, position)):
                raise integrity_error("another position of this exchange, symbol and side is open; close it first")
            return _update(cursor, "positions", _position_fields(position, now), "id = $1", position.id)

        return await self._session.run(work, write=True)

    async def close(self, position_id: int, now: datetime) -> bool:
        """Set status to closed and last_updated to ``now``; return False if no open position has this id."""
        changes = {"status": "closed", "last_updated": now}
        return await self._session.run(
            lambda cursor: _update(cursor, "positions", changes, "id = $1 AND status = 'open'", position_id), write=True
        )

    async def exists(self, position_id: int) -> bool:
        """Return whether any position, open or not, has this id."""
        return bool(await self._session.run(lambda cursor: cursor.rows("SELECT 1 FROM positions WHERE id = $1", [position_id])))


class DuckDBEvents:
    """The store of system events of one session."""

    def __init__(self, session: DuckDBSession) -> None:
        self._session = session

    async def insert(self, event: SystemEvent, now: datetime) -> None:
        """Insert one event with created_at = ``now``."""
        await self._session.run(lambda cursor: _insert(cursor, "system_events", event, {"created_at": now}), write=True)

    async def get_recent(self, severity: str | None, limit: int) -> list[SystemEvent]:
        """Return the newest ``limit`` events of one severity, or of all severities if it is None, newest first."""
        rest = "WHERE $1::VARCHAR IS NULL OR severity = $1 ORDER BY created_at DESC, id DESC LIMIT $2"
        return await self._session.run(lambda cursor: _select(cursor, SystemEvent, "system_events", rest, severity, limit))


def _names(model: type[_Model]) -> list[str]:
    return [field.name for field in fields(model)]


def _select(cursor: Cursor, model: type[_Model], table: str, rest: str, *parameters: Any) -> list[_Model]:
    names = _names(model)
    rows = cursor.rows(f"SELECT {', '.join(names)} FROM {table} {rest}", parameters)
    with readable(table):
        return [model(*map(_decode, names, row)) for row in rows]


def _insert(cursor: Cursor, table: str, item: Trade | Position | SystemEvent, kept: dict[str, Any]) -> int:
    values = {name: getattr(item, name) for name in _names(type(item)) if name != "id"} | kept
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    sql = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places}) RETURNING id"
    number: int = cursor.rows(sql, _encode_all(values.items()))[0][0]
    return number


def _update(cursor: Cursor, table: str, values: Mapping[str, Any], where: str, number: int | None) -> bool:
    changes = ", ".join(f"{name} = ${place}" for place, name in enumerate(values, 2))
    sql = f"UPDATE {table} SET {changes} WHERE {where} RETURNING id"
    return bool(cursor.rows(sql, [number, *_encode_all(values.items())]))


def _encode_all(values: Iterable[tuple[str, Any]]) -> list[Any]:
    return [_encode(name, value) for name, value in values]


def _encode(name: str, value: Any) -> Any:
    if name in _JSON:
        return None if value is None else json_text(value, name)
    # a Decimal parameter may have at most 38 digits, including trailing zeros, so pass it as text
    return format_plain(value) if isinstance(value, Decimal) else value


def _decode(name: str, value: Any) -> Any:
    if name in _JSON:
        return json_object(value)
    return trim_zeros(value) if isinstance(value, Decimal) else value


def _position_fields(position: Position, now: datetime) -> dict[str, Any]:
    names = [name for name in _names(Position) if name not in ("id", "created_at")]
    return {name: getattr(position, name) for name in names} | {"last_updated": now}


def _open_ids(cursor: Cursor, position: Position) -> list[int]:
    key = [position.exchange, position.symbol, position.side]
    rows = cursor.rows("SELECT id FROM positions WHERE exchange = $1 AND symbol = $2 AND side = $3 AND status = 'open'", key)
    return [number for (number,) in rows]


def _whole_and_fraction(whole: int | None, fraction: Decimal | None) -> Decimal:
    return CONTEXT.add(Decimal(whole or 0), fraction or Decimal(0))
