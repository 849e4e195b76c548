"""The stores of PostgreSQL and SQLite (bars, trades, positions, events), in SQL that both engines understand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Any, Generic, TypeVar

from iftb_store.errors import integrity_error, readable
from iftb_store.models import OHLCVBar, Position, SystemEvent, Trade, TradeTotals
from iftb_store.relational.driver import Driver, Flavor, Row, prepare_statement, read, write
from iftb_store.relational.series import SeriesStatements
from iftb_store.schema.table_spec import BARS, EVENTS, POSITIONS, TRADES, ColumnKind, TableSpec
from iftb_store.values.checks import json_object
from iftb_store.values.timeframes import SECONDS

Window = tuple[datetime | None, datetime | None, datetime | None, datetime | None]
M = TypeVar("M")


class RelationalStores:
    """The stores of one session: bars, trades, positions and events."""

    def __init__(self, driver: Driver) -> None:
        self.read_rows = driver.read_rows
        self.write_rows = driver.write_rows
        self.delete_rows = driver.delete_rows
        self.ohlcv = _Bars(driver)
        self.trades = _Trades(driver)
        self.positions = _Positions(driver)
        self.events = _Events(driver)


class _Table(Generic[M]):
    """Builds the SQL of one table, and converts between its rows and objects of one dataclass."""

    def __init__(self, table: TableSpec, model: type[M]) -> None:
        self.name = table.name
        self.model = model
        self.columns = table.columns
        self.written = tuple(column for column in self.columns if column != "id")
        self._kinds = tuple(table.kinds.values())

    def select(self, driver: Driver, rest: str) -> str:
        """Return a SELECT of all columns, in the order of the dataclass's fields; ``rest`` is the SQL after the table's name."""
        return f"SELECT {self._select_list(driver.flavor)} FROM {self.name} {rest}"

    @cache  # noqa: B019 - there are only four tables
    def _select_list(self, flavor: Flavor) -> str:
        as_sql = {ColumnKind.JSON: flavor.json_column, ColumnKind.DECIMAL: flavor.decimal_column}
        return ", ".join(as_sql.get(kind, "{}").format(column) for column, kind in zip(self.columns, self._kinds, strict=True))

    @cache  # noqa: B019
    def insert(self, flavor: Flavor) -> str:
        """Return an INSERT statement for all columns except id, which the database generates."""
        parameters = (self._parameter(flavor, column) for column in self.written)
        return f"INSERT INTO {self.name} ({', '.join(self.written)}) VALUES ({', '.join(parameters)})"

    @lru_cache(maxsize=256)  # noqa: B019
    def changes(self, flavor: Flavor, columns: tuple[str, ...]) -> str:
        """Return the assignments of an UPDATE's SET clause for ``columns``."""
        return ", ".join(f"{column} = {self._parameter(flavor, column)}" for column in columns)

    def _parameter(self, flavor: Flavor, column: str) -> str:
        as_sql = {ColumnKind.TIME: flavor.time_parameter, ColumnKind.JSON: flavor.json_parameter}
        return as_sql.get(self._kinds[self.columns.index(column)], ":{}").format(column)

    def values(self, instance: M) -> dict[str, Any]:
        """Return an object's values as a dict from column to value."""
        return {column: getattr(instance, column) for column in self.columns}

    def decode(self, driver: Driver, rows: Sequence[Row]) -> list[M]:
        """Convert rows that a `select` statement returned to objects."""
        decoders: dict[ColumnKind, Callable[[Any], Any]] = {
            ColumnKind.DECIMAL: driver.decode_decimal,
            ColumnKind.TIME: driver.decode_time,
            ColumnKind.JSON: json_object,
        }
        decoded = [(index, decoders[kind]) for index, kind in enumerate(self._kinds) if kind in decoders]
        objects: list[M] = []
        with readable(self.name):
            for row in rows:
                values = list(row)
                for index, decoder in decoded:
                    if values[index] is not None:
                        values[index] = decoder(values[index])
                objects.append(self.model(*values))
        return objects


_BARS = _Table(BARS, OHLCVBar)
_TRADES = _Table(TRADES, Trade)
_POSITIONS = _Table(POSITIONS, Position)
_EVENTS = _Table(EVENTS, SystemEvent)

# a time range of more steps than _MANY may hold more than _MANY bars; a month counts as its greatest length in seconds
_MANY, _LONGEST_MONTH = 10_000, 31 * 86_400


class _Bars(SeriesStatements):
    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.insert_many = driver.insert_bars
        self.upsert_many = driver.upsert_bars
        self.upsert_counted = driver.upsert_bars_counted

    async def get_range(self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str) -> list[OHLCVBar]:
        many = end - start > _MANY * timedelta(seconds=SECONDS[timeframe] or _LONGEST_MONTH)
        sql = self._range_sql()
        return await self._read(sql, many, exchange=exchange, symbol=symbol, timeframe=timeframe, start=start, end=end)

    async def get_page(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str, limit: int
    ) -> list[OHLCVBar]:
        series = {"exchange": exchange, "symbol": symbol, "timeframe": timeframe}
        return await self._read(f"{self._range_sql()} LIMIT :limit", limit >= _MANY, **series, start=start, end=end, limit=limit)

    def _range_sql(self) -> str:
        flavor = self._driver.flavor
        between = " AND ".join(map(flavor.time_parameter.format, ("start", "end")))
        return _BARS.select(self._driver, f"WHERE {flavor.series} AND timestamp BETWEEN {between} ORDER BY timestamp")

    async def get_latest(self, symbol: str, timeframe: str, limit: int, exchange: str) -> list[OHLCVBar]:
        sql = _BARS.select(self._driver, f"WHERE {self._driver.flavor.series} ORDER BY timestamp DESC LIMIT :limit")
        return await self._read(sql, False, exchange=exchange, symbol=symbol, timeframe=timeframe, limit=limit)

    async def _read(self, sql: str, many: bool, **values: Any) -> list[OHLCVBar]:
        made = prepare_statement(sql, self._driver.flavor.dialect)
        return await self._driver.read_bars(made, [self._driver.encode(values[name]) for name in made.names], many=many)

    async def get_gaps(self, symbol: str, timeframe: str, exchange: str, window: Window) -> list[tuple[datetime, datetime]]:
        start, end, before, after = window
        driver = self._driver
        sql = _gaps_sql(driver.flavor, timeframe, start is not None, end is not None)
        seconds = SECONDS[timeframe]
        rows = await read(
            driver,
            sql,
            exchange=exchange,
            symbol=symbol,
            timeframe=timeframe,
            start=start,
            end=end,
            before=before,
            after=after,
            step=None if seconds is None else timedelta(seconds=seconds),
        )
        with readable(_BARS.name):
            return [(driver.decode_time(earlier), driver.decode_time(later)) for earlier, later in rows]


@cache
def _gaps_sql(flavor: Flavor, timeframe: str, has_start: bool, has_end: bool) -> str:
    """Return the query that selects the gaps of a series: pairs of adjacent times that lie more than one step apart."""
    month, time = flavor.month, flavor.time_parameter
    by_month = f"{month.format('{1}')} - {month.format('{0}')} >= 2"
    apart = by_month if SECONDS[timeframe] is None else "{1} - {0} > :step"
    where = flavor.series
    where += f" AND timestamp >= {time.format('start')}" if has_start else ""
    where += f" AND timestamp <= {time.format('end')}" if has_end else ""
    before = f", 1, {time.format('before')}" if has_start else ""
    sql = f"""
        SELECT earlier, later
        FROM (
            SELECT {flavor.lag}(timestamp{before}) OVER (ORDER BY timestamp) AS earlier, timestamp AS later
            FROM ohlcv WHERE {where}
        ) bars
        WHERE {apart.format("earlier", "later")}"""
    if has_end:
        newest = f"(SELECT MAX(timestamp) FROM ohlcv WHERE {where})"
        last = f"COALESCE({newest}, {time.format('before')})" if has_start else newest
        sql += f"""
        UNION ALL
        SELECT earlier, later FROM (SELECT {last} AS earlier, {time.format("after")} AS later) edge
        WHERE {apart.format("earlier", "later")}"""
    return sql + " ORDER BY 1"


class _Trades:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def insert(self, trade: Trade, now: datetime) -> int:
        values = {**_TRADES.values(trade), "created_at": now, "updated_at": now}
        rows = await write(
            self._driver, _TRADES.insert(self._driver.flavor) + " ON CONFLICT (trade_id) DO NOTHING RETURNING id", values
        )
        if not rows:
            raise integrity_error("a trade with this trade_id is already stored")
        return int(rows[0][0])

    async def update(self, trade_id: int, fields: Mapping[str, Any]) -> bool:
        sql = f"UPDATE trades SET {_TRADES.changes(self._driver.flavor, tuple(fields))} WHERE id = :id RETURNING id"
        return bool(await write(self._driver, sql, {**fields, "id": trade_id}))

    async def get_by_id(self, trade_id: int) -> Trade | None:
        rows = await read(self._driver, _TRADES.select(self._driver, "WHERE id = :id"), id=trade_id)
        return next(iter(_TRADES.decode(self._driver, rows)), None)

    async def get_by_trade_id(self, trade_id: str) -> Trade | None:
        sql = _TRADES.select(self._driver, f"WHERE {self._driver.flavor.equal('trade_id')}")
        rows = await read(self._driver, sql, trade_id=trade_id)
        return next(iter(_TRADES.decode(self._driver, rows)), None)

    async def get_recent(self, limit: int) -> list[Trade]:
        sql = _TRADES.select(self._driver, "ORDER BY entry_time DESC, id DESC LIMIT :limit")
        return _TRADES.decode(self._driver, await read(self._driver, sql, limit=limit))

    async def get_by_symbol(self, symbol: str, limit: int, exchange: str) -> list[Trade]:
        equal = self._driver.flavor.equal("exchange", "symbol")
        sql = _TRADES.select(self._driver, f"WHERE {equal} ORDER BY entry_time DESC, id DESC LIMIT :limit")
        return _TRADES.decode(self._driver, await read(self._driver, sql, exchange=exchange, symbol=symbol, limit=limit))

    async def get_totals(self, since: datetime, exchange: str) -> TradeTotals:
        return await self._driver.totals(since, exchange)


_POSITION_KEY = ("exchange", "symbol", "side")
_POSITION_CHANGES = tuple(column for column in _POSITIONS.written if column != "created_at")
_POSITION_ON_CONFLICT = f" ON CONFLICT ({', '.join(_POSITION_KEY)}) WHERE status = 'open' DO UPDATE SET " + ", ".join(
    f"{column} = excluded.{column}" for column in _POSITION_CHANGES if column not in _POSITION_KEY
)


class _Positions:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def get_open(self, exchange: str) -> list[Position]:
        where = f"WHERE {self._driver.flavor.equal('exchange')} AND status = 'open' ORDER BY entry_time, id"
        sql = _POSITIONS.select(self._driver, where)
        return _POSITIONS.decode(self._driver, await read(self._driver, sql, exchange=exchange))

    async def find_open(self, symbol: str, exchange: str) -> list[Position]:
        where = f"WHERE {self._driver.flavor.equal('exchange', 'symbol')} AND status = 'open'"
        sql = _POSITIONS.select(self._driver, where)
        return _POSITIONS.decode(self._driver, await read(self._driver, sql, exchange=exchange, symbol=symbol))

    async def upsert(self, position: Position, now: datetime) -> None:
        values = {**_POSITIONS.values(position), "created_at": now, "last_updated": now}
        # the conflict clause matches only open rows, so the INSERT of a closed position would add a row instead of updating the
        # open one
        stored = self._update(self._driver.flavor.equal(*_POSITION_KEY))
        if position.status != "open" and await write(self._driver, stored, values):
            return
        await write(self._driver, _POSITIONS.insert(self._driver.flavor) + _POSITION_ON_CONFLICT, values)

    async def update(self, position: Position, now: datetime) -> bool:
        values = {**_POSITIONS.values(position), "last_updated": now}
        return bool(await write(self._driver, self._update("id = :id"), values, savepoint=True))

    def _update(self, where: str) -> str:
        changes = _POSITIONS.changes(self._driver.flavor, _POSITION_CHANGES)
        return f"UPDATE positions SET {changes} WHERE status = 'open' AND {where} RETURNING id"

    async def close(self, position_id: int, now: datetime) -> bool:
        changes = _POSITIONS.changes(self._driver.flavor, ("status", "last_updated"))
        sql = f"UPDATE positions SET {changes} WHERE id = :id AND status = 'open' RETURNING id"
        return bool(await write(self._driver, sql, {"id": position_id, "status": "closed", "last_updated": now}))

    async def exists(self, position_id: int) -> bool:
        return bool(await read(self._driver, "SELECT 1 FROM positions WHERE id = :id", id=position_id))


class _Events:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def insert(self, event: SystemEvent, now: datetime) -> None:
        await write(self._driver, _EVENTS.insert(self._driver.flavor), {**_EVENTS.values(event), "created_at": now})

    async def get_recent(self, severity: str | None, limit: int) -> list[SystemEvent]:
        where = "" if severity is None else f"WHERE {self._driver.flavor.equal('severity')}"
        sql = _EVENTS.select(self._driver, f"{where} ORDER BY created_at DESC, id DESC LIMIT :limit")
        return _EVENTS.decode(self._driver, await read(self._driver, sql, severity=severity, limit=limit))
