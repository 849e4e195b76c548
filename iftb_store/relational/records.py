"""The store of trades, positions and events, in SQL; a `SqlDialect` supplies what is specific to an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import IntegrityError

from iftb_store.errors import integrity_error, operational_error
from iftb_store.models import Position
from iftb_store.relational.conditions import equal_sql, filter_sql
from iftb_store.relational.driver import Driver, bind
from iftb_store.relational.rows import RowForm
from iftb_store.schema.scope import TABLES
from iftb_store.schema.table_spec import BARS, POSITIONS, Record, RowFilter, TableSpec
from iftb_store.schema.tables import OPEN

_FORMS = {table.name: RowForm(table) for table in TABLES.values() if table is not BARS}
_POSITION_KEY = POSITIONS.unique
_OPEN = dict(POSITIONS.unique_among)
_POSITION_CHANGES = tuple(column for column in _FORMS["positions"].written if column != "created_at")
# {} is the trade_id of the stored and of the new position
_SAME_TRADE = " WHERE positions.trade_id IS NULL OR excluded.trade_id IS NULL OR {} = {}"
_POSITION_ON_CONFLICT = f" ON CONFLICT ({', '.join(_POSITION_KEY)}) WHERE {OPEN} DO UPDATE SET " + ", ".join(
    f"{column} = excluded.{column}" for column in _POSITION_CHANGES if column not in _POSITION_KEY
)
# how often an upsert without ON CONFLICT looks again for the position that another session has just opened
_ATTEMPTS = 3
_MEANWHILE = "other sessions are opening and closing this position; run the transaction again"


class RelationalRecords:
    """Reads and writes the records of one session; see `iftb_store.protocols.RecordStore`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.get_totals = driver.get_totals

    async def select(self, rows: RowFilter, *, descending: bool = False) -> list[Any]:
        """Return the rows of a selection, ordered by time, then id; newest first if ``descending``."""
        form, dialect, way = _FORMS[rows.table.name], self._driver.dialect, " DESC" if descending else ""
        conditions, values = filter_sql(rows, dialect)
        values["limit"] = rows.limit
        sql = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        sql += f" ORDER BY {rows.table.time}{way}, id{way}"
        sql += "" if rows.limit is None else f" {dialect.limit.format(':limit')}"
        return form.decode(dialect, await self._driver.read(*bind(self._driver, form.select_sql(dialect, sql), values)))

    async def insert(self, table: TableSpec, row: Record) -> int:
        """Insert a row and return its new id."""
        dialect = self._driver.dialect
        sql = _FORMS[table.name].insert_sql(dialect)
        if table.unique and not table.unique_among and dialect.on_conflict:
            # cheaper than a savepoint, which an error needs
            sql += f" ON CONFLICT ({', '.join(table.unique)}) DO NOTHING"
            number = await self._insert(sql, table, row, savepoint=False)
        else:
            number = await self._insert(sql, table, row, savepoint=bool(table.unique))
        if number is None:
            raise integrity_error(f"a row of {table.name} with this {' and '.join(table.unique)} is already stored")
        return number

    async def _insert(self, sql: str, table: TableSpec, row: Record, *, savepoint: bool) -> int | None:
        sql += " RETURNING id" if self._driver.dialect.returning else ""
        return await self._driver.insert(*bind(self._driver, sql, _FORMS[table.name].values(row)), savepoint=savepoint)

    async def update(self, table: TableSpec, equal: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
        """Store ``changes`` in the rows whose columns have the values ``equal``; return the number of these rows."""
        dialect = self._driver.dialect
        form = _FORMS[table.name]
        conditions, values = equal_sql(table, equal, dialect)
        sql = form.update_sql(dialect, tuple(changes), " AND ".join(conditions))
        # only a position can get a key that another row has
        may_conflict = table is POSITIONS and not changes.keys().isdisjoint(_POSITION_KEY)
        return await self._driver.change(*bind(self._driver, sql, form.encode_lists(changes) | values), savepoint=may_conflict)

    async def upsert_position(self, position: Position, *, replace: bool) -> bool:
        """Update the open position with the same exchange, account, symbol and side, or insert the position.

        Return False, and write nothing, if the open position belongs to another trade and ``replace`` is False.
        """
        dialect = self._driver.dialect
        sql = _FORMS["positions"].insert_sql(dialect)
        if dialect.on_conflict and position.status == "open":
            sql += _POSITION_ON_CONFLICT
            if not replace:
                sql += _SAME_TRADE.format(*map(dialect.text_column.format, ("positions.trade_id", "excluded.trade_id")))
            return await self._insert(sql, POSITIONS, position, savepoint=False) is not None
        # ON CONFLICT matches only open rows, so it would add a closed position instead of closing the open one
        key = {column: getattr(position, column) for column in _POSITION_KEY} | _OPEN
        changes = {column: getattr(position, column) for column in _POSITION_CHANGES}
        # the open position is of no trade, or of the same one; a position of no trade matches any
        owners = (None, position.trade_id)
        places = [key] if replace or position.trade_id is None else [key | {"trade_id": owner} for owner in owners]
        for attempt in range(_ATTEMPTS):
            for place in places:
                if await self.update(POSITIONS, place, changes):
                    return True
            stored: list[Position] = await self.select(RowFilter(POSITIONS, key))
            if stored and len(places) > 1 and stored[0].trade_id not in owners:
                return False
            if stored:
                # another session has closed the position, for which the update waited, and opened another one
                continue
            try:
                await self._insert(sql, POSITIONS, position, savepoint=True)
            except IntegrityError as error:
                if attempt == _ATTEMPTS - 1:
                    raise operational_error(_MEANWHILE, error, transient=True) from error
            else:
                return True
        raise operational_error(_MEANWHILE, transient=True)
