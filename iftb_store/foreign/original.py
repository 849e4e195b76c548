"""Converts the tables of the original storage layer, whose columns have the names of ours."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from decimal import Decimal
from typing import Any

from iftb_store.errors import InvalidValueError
from iftb_store.foreign.reading import ForeignTables, to_decimal, to_time
from iftb_store.foreign.staging import Staging
from iftb_store.schema.table_spec import BARS, EVENTS, POSITIONS, TRADES, ColumnKind, TableSpec
from iftb_store.transfer.progress import ProgressFactory

_TABLES = (BARS, TRADES, POSITIONS, EVENTS)
_SIDES = {"buy": "long", "sell": "short"}
_ACTIONS = {"closed": "close", "exit": "close", "opened": "open", "entry": "open", "liquidation": "liquidated"}
_KEY = POSITIONS.unique


async def convert_original(tables: ForeignTables, staging: Staging, step: ProgressFactory) -> None:
    """Convert every row of the tables that the database has."""
    for table in _TABLES:
        if table.name not in tables.columns:
            continue
        others = [name for name in tables.columns[table.name] if name not in table.columns]
        if others:
            staging.notes.append(f"left out: the columns {', '.join(others)} of {table.name}, which iftb-store does not have")
        with step(f"read {table.name}") as tell:
            total, done = await tables.count(table.name), 0
            converter = _Converter(table, staging)
            await converter.prepare(tables)
            numbers = {name for name, kind in table.kinds.items() if kind == ColumnKind.DECIMAL}
            async for rows in tables.stream(table.name, table.columns, numbers):
                for row in rows:
                    await converter.convert(row)
                staging.count(table.name, len(rows))
                done += len(rows)
                tell(done, total)
    left = [name for name in tables.columns if name not in {table.name for table in _TABLES}]
    if left:
        staging.notes.append(f"left out: the tables {', '.join(sorted(left))}")


class _Converter:
    """Converts the rows of one table; trades and positions that are refused are corrected if the caller accepts that."""

    def __init__(self, table: TableSpec, staging: Staging) -> None:
        self._table, self._staging, self._required = table, staging, _list_required(table)
        # the newest open position of each key, and the trade_ids that occur more than once, with how often they occurred
        self._newest = dict[tuple[Any, ...], int]()
        self._repeated = dict[str, int]()

    async def prepare(self, tables: ForeignTables) -> None:
        """Find the rows of which only one can be stored."""
        if self._table is TRADES:
            sql = "SELECT trade_id FROM trades WHERE trade_id IS NOT NULL GROUP BY trade_id HAVING count(*) > 1"
            self._repeated = {row[0]: 0 for row in await tables.select(sql)}
        if self._table is POSITIONS:
            for row in await tables.select("SELECT id, exchange, symbol, side FROM positions WHERE status = 'open' ORDER BY id"):
                self._newest[row[1], row[2], _find_side(row[3])] = row[0]

    async def convert(self, row: dict[str, Any]) -> None:
        """Store a row, or record that it is refused."""
        origin = (self._table.name, int(row["id"]))
        try:
            values = {name: _convert(kind, row[name], name) for name, kind in self._table.kinds.items()}
        except InvalidValueError as error:
            self._staging.refuse(*origin, str(error))
            return
        # a column that is empty has its default, unless it must have a value
        given = {name: value for name, value in values.items() if value is not None or self._table.specs[name].nullable}
        if self._table in (TRADES, POSITIONS):
            for reason, correction, change in self._find_wrong(given):
                if not self._staging.refuse(*origin, reason, correction):
                    return
                given |= change
        missing = [name for name in self._required if name not in given]
        if missing:
            self._staging.refuse(*origin, f"{', '.join(missing)} is NULL")
            return
        await self._staging.add(self._table, given, origin)

    def _find_wrong(self, row: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
        """Return what today's rules refuse and can be corrected, as (reason, correction, changed values)."""
        wrong: list[tuple[str, str, dict[str, Any]]] = []

        def change(name: str, value: Any, reason: str) -> None:
            wrong.append((reason, f"{name} becomes {value}", {name: value}))

        side = _find_side(row.get("side"))
        if side != row.get("side"):
            change("side", side, f"the side is {row.get('side')!r}, not long or short")
        word = row.get("action")
        action = _ACTIONS.get(str(word).strip().lower(), str(word).strip().lower())
        if self._table is TRADES and word != action and action in ("open", "close", "liquidated"):
            change("action", action, f"the action is {word!r}, not open, close or liquidated")
        quantity = row.get("quantity")
        if isinstance(quantity, Decimal) and quantity < 0:
            change("quantity", -quantity, f"the quantity {quantity} is negative")
        if self._table is TRADES and row.get("trade_id") in self._repeated:
            name = str(row["trade_id"])
            self._repeated[name] += 1
            if self._repeated[name] > 1:
                change("trade_id", f"{name}-{self._repeated[name]}", f"an earlier row has the trade_id {name}")
        if self._table is POSITIONS and row.get("status") == "open":
            newest = self._newest.get((row.get("exchange"), row.get("symbol"), side), row["id"])
            if newest != row["id"]:
                change("status", "closed", f"the position {newest} is open too, with the same exchange, symbol and side")
        return wrong


def _find_side(side: object) -> str:
    word = str(side).strip().lower()
    return _SIDES.get(word, word)


def _list_required(table: TableSpec) -> list[str]:
    """Return the columns that a row must have: those without a default."""
    return [item.name for item in fields(table.model) if item.default is MISSING and item.default_factory is MISSING]


def _convert(kind: ColumnKind, value: Any, name: str) -> Any:
    if value is None:
        return None
    if kind == ColumnKind.DECIMAL:
        return to_decimal(value, name)
    if kind == ColumnKind.TIME:
        return to_time(value, name)
    if kind == ColumnKind.JSON and isinstance(value, str | bytes):
        try:
            return json.loads(value)
        except ValueError as error:
            raise InvalidValueError(f"{name} is not JSON") from error
    return value
