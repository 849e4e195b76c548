"""The repositories that users hold: they check and normalise what they are given once, then delegate to the backend.

Each takes a session, or a connected DatabaseManager; given the manager, each call is a transaction of its own.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import IntegrityError

from iftb_store import checks
from iftb_store.bars import BarBatch, distinct_batch
from iftb_store.errors import AmbiguousPositionError, InvalidValueError, NotFoundError, PositionClosedError, TradeConflictError
from iftb_store.manager import DatabaseManager
from iftb_store.messages import kind, shown
from iftb_store.models import OHLCVBar, Position, SystemEvent, Trade, TradeStatistics
from iftb_store.protocols import Capability, Session, Stores
from iftb_store.registry import require_arrow, stores_of
from iftb_store.selections import BARS, Selection
from iftb_store.statistics import trade_statistics
from iftb_store.streams import Stream
from iftb_store.timeframes import check_timeframe, shift

if TYPE_CHECKING:
    import pyarrow as pa

_MICROSECOND = timedelta(microseconds=1)

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present time, aware, in UTC."""
    return datetime.now(UTC)


class _Repository:
    def __init__(self, session: Session | DatabaseManager, *, clock: Clock = utc_now) -> None:
        """Work in a session, or in a transaction of its own per call where a connected manager is given.

        Args:
            session: what ``db.get_session()`` yields, an app's own AsyncSession (asyncpg or aiosqlite), or the manager.
            clock: gives the time for created_at, updated_at and the like; for tests.

        Raises:
            Unsupported: a session of another kind.
            InvalidValueError: a clock that cannot be called.
        """
        if not callable(clock):
            raise InvalidValueError(f"clock must be a function that returns the time, not {kind(clock)}")
        self._manager = session if isinstance(session, DatabaseManager) else None
        self._fixed = None if isinstance(session, DatabaseManager) else stores_of(session)
        self._clock = clock

    @asynccontextmanager
    async def _stores(self, *, snapshot: bool = False) -> AsyncIterator[Stores]:
        if self._fixed is not None:
            yield self._fixed
        elif self._manager is not None:
            alike = snapshot and Capability.ISOLATION in self._manager.capabilities
            async with self._manager.get_session(isolation="snapshot" if alike else None) as session:
                yield stores_of(session)

    def _now(self) -> datetime:
        return checks.utc(self._clock(), "the clock's time")


class OHLCVRepository(_Repository):
    """OHLCV bars. A series is (exchange, symbol, timeframe); with the timestamp it is the key of a bar."""

    async def insert_many(self, bars: Sequence[OHLCVBar]) -> int:
        """Insert bars, all or none; return their number. ``id`` and ``created_at`` of the objects are ignored.

        Raises:
            IntegrityError: a bar is stored already, or stands twice in the batch; nothing was inserted.
            InvalidValueError: a bar cannot be stored; the message names it; nothing was inserted.
        """
        listed = _bars(bars)
        if listed:
            async with self._stores() as stores:
                await stores.ohlcv.insert_many(BarBatch(listed, self._now()))
        return len(listed)

    async def upsert_many(self, bars: Sequence[OHLCVBar]) -> int:
        """Insert bars, overwriting the values of those stored already, all or none.

        Where a key stands twice in the batch the last one wins. ``id`` and ``created_at`` of a stored bar stay.

        Returns:
            The number of distinct keys in the batch, changed or not.

        Raises:
            InvalidValueError: a bar cannot be stored; the message names it; nothing was written.
        """
        batch = await distinct_batch(_bars(bars), self._now())
        if len(batch):
            async with self._stores() as stores:
                await stores.ohlcv.upsert_many(batch)
        return len(batch)

    async def get_range(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str = "binance"
    ) -> list[OHLCVBar]:
        """Return the bars with start <= timestamp <= end (naive times are UTC), oldest first.

        Raises:
            InvalidValueError: start after end, or an unknown timeframe.
        """
        series = _series(symbol, timeframe, exchange)
        first, last = checks.utc(start, "start"), checks.utc(end, "end")
        _check_order(first, last)
        async with self._stores() as stores:
            return await stores.ohlcv.get_range(series[0], series[1], first, last, series[2])

    async def get_latest(self, symbol: str, timeframe: str, limit: int = 100, exchange: str = "binance") -> list[OHLCVBar]:
        """Return the newest bars, newest first.

        Raises:
            InvalidValueError: limit below 1, or an unknown timeframe.
        """
        series = _series(symbol, timeframe, exchange)
        count = checks.integer(limit, "limit", least=1)
        async with self._stores() as stores:
            return await stores.ohlcv.get_latest(series[0], series[1], count, series[2])

    async def get_gaps(
        self,
        symbol: str,
        timeframe: str,
        exchange: str = "binance",
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[tuple[datetime, datetime]]:
        """Return the holes of a series as (last bar before, first bar after) pairs, oldest first.

        The missing bars lie strictly between the two times of a pair. With ``start`` and ``end`` (both counted in, and
        meant to lie where bars are due) what is missing at the edges is told as if a bar stood one step before start and
        one step after end; an empty window is one such pair.

        Raises:
            InvalidValueError: start after end, an unknown timeframe, or an edge outside the years 1 to 9999.
        """
        series = _series(symbol, timeframe, exchange)
        first = None if start is None else checks.utc(start, "start")
        last = None if end is None else checks.utc(end, "end")
        if first is not None and last is not None:
            _check_order(first, last)
        before = None if first is None else _beyond(first, series[1], -1, "start")
        after = None if last is None else _beyond(last, series[1], 1, "end")
        async with self._stores() as stores:
            return await stores.ohlcv.get_gaps(series[0], series[1], series[2], (first, last, before, after))

    async def read_arrow(
        self,
        symbol: str | None = None,
        timeframe: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
    ) -> pa.Table:
        """Return bars as a pyarrow.Table, from one state of the database: those of every series that is not excluded.

        Columns are the fields of OHLCVBar in their order: decimals as decimal128(38, 18), times as timestamp[us, UTC].
        Rows stand in the order of (exchange, symbol, timeframe, timestamp), text by its bytes; start <= timestamp <= end
        (naive times are UTC). An ``exchange`` that is not given means all of them.

        Raises:
            MissingDriverError: pyarrow is not installed; the message is the install line.
            InvalidValueError: start after end, or an unknown timeframe.
        """
        selection = _selected_bars(symbol, timeframe, start, end, exchange)
        require_arrow()
        async with self._stores() as stores:
            return await stores.scan(selection)

    def stream_range(
        self,
        symbol: str,
        timeframe: str,
        start: datetime,
        end: datetime,
        exchange: str = "binance",
        *,
        batch_size: int = 10_000,
    ) -> Stream[list[OHLCVBar]]:
        """Read what get_range returns batch by batch, in constant memory: ``async for bars in repo.stream_range(…)``.

        Every list but the last has ``batch_size`` bars; none is empty. Given the manager, the stream is a session of its own
        from the first batch to the end and shows one state of the database, whatever is written meanwhile. Given a session,
        each batch is a read of its own, as a call of get_range at that moment would be: it shows what the session and
        others have written ahead of the stream's place, and the session is free for other work between batches. A bar that
        is neither written nor deleted meanwhile comes exactly once.

        A stream that ends, fails, is cancelled or closed gives its connection back. Where it is left half-read, close it:
        ``async with repo.stream_range(…) as stream`` does, or ``await stream.aclose()``; after a bare ``break`` Python
        closes it soon after.

        Raises:
            InvalidValueError: start after end, an unknown timeframe, or batch_size below 1.
        """
        series = _series(symbol, timeframe, exchange)
        first, last = checks.utc(start, "start"), checks.utc(end, "end")
        _check_order(first, last)
        return Stream(self._lists(series, first, last, checks.integer(batch_size, "batch_size", least=1)))

    def stream_arrow(
        self,
        symbol: str | None = None,
        timeframe: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        batch_size: int = 65_536,
    ) -> Stream[pa.RecordBatch]:
        """Read what read_arrow returns as record batches, in constant memory: ``async for batch in repo.stream_arrow(…)``.

        Batches have the table's schema and order, 1 to ``batch_size`` rows each. What a stream shows and how it is closed
        is told at stream_range.

        Raises:
            MissingDriverError: pyarrow is not installed; the message is the install line.
            InvalidValueError: start after end, an unknown timeframe, or batch_size below 1.
        """
        selection = _selected_bars(symbol, timeframe, start, end, exchange)
        require_arrow()
        return Stream(self._batches(replace(selection, limit=checks.integer(batch_size, "batch_size", least=1))))

    async def _lists(
        self, series: tuple[str, str, str], start: datetime, end: datetime, size: int
    ) -> AsyncGenerator[list[OHLCVBar]]:
        async with self._stores(snapshot=True) as stores:
            while bars := await stores.ohlcv.get_part(series[0], series[1], start, end, series[2], size):
                last = bars[-1].timestamp
                yield bars
                if len(bars) < size or last >= end:
                    return
                # no bar lies between two microseconds
                start = last + _MICROSECOND

    async def _batches(self, selection: Selection) -> AsyncGenerator[pa.RecordBatch]:
        async with self._stores(snapshot=True) as stores:
            while (found := await stores.scan(selection)).num_rows:
                (batch,) = found.combine_chunks().to_batches()
                place = batch.slice(batch.num_rows - 1).to_pylist()[0]
                selection = replace(selection, after=tuple(place[name] for name in selection.order))
                yield batch


class TradeRepository(_Repository):
    """Trades. ``trade_id`` is the bot's own name for a trade and unique; ``id`` is the store's."""

    async def insert(self, trade: Trade) -> int:
        """Insert a trade and return its id. id, created_at and updated_at of the object are ignored, and it is not changed.

        Raises:
            IntegrityError: its trade_id is stored already.
            InvalidValueError: a value cannot be stored.
        """
        checked = _checked_trade(trade)
        async with self._stores() as stores:
            return await stores.trades.insert(checked, self._now())

    async def record(self, trade: Trade) -> int:
        """Insert a trade, or return the id of the stored one where it is the same: a bot that restarts may repeat itself.

        The same is a trade with this trade_id whose every field that can be set is equal as stored: decimals by value,
        quotients after rounding, times in UTC, JSON as it comes back. id, created_at and updated_at do not count. Two
        sessions that record one trade at once get one id.

        Raises:
            TradeConflictError: its trade_id is stored with other values; the message names the fields. Nothing is changed.
            InvalidValueError: a value cannot be stored.
        """
        checked = _checked_trade(trade)
        async with self._stores() as stores:
            try:
                return await stores.trades.insert(checked, self._now())
            except IntegrityError:
                stored = await stores.trades.get_by_trade_id(checked.trade_id)
                if stored is None:
                    raise
        differing = tuple(name for name in _TRADE_CHECKS if not _same(getattr(stored, name), getattr(checked, name)))
        if differing:
            raise TradeConflictError(
                f"a trade with trade_id {shown(checked.trade_id)} is stored already (id {stored.id}) with another "
                f"{', '.join(differing)}; update({stored.id}, …) changes a stored trade, another trade needs another trade_id",
                differing,
            )
        return checks.integer(stored.id, "id")

    async def update(self, trade_id: int, **kwargs: Any) -> None:
        """Set fields of the trade with this id (the store's, as returned by insert); updated_at becomes now.

        Raises:
            NotFoundError: no trade has this id.
            InvalidValueError: an unknown field, a value that cannot be stored, or an attempt to set id, created_at or
                updated_at, which the store keeps.
            TypeError: from Python, where the bot's own trade_id is to be set: it cannot be changed.
        """
        number = checks.integer(trade_id, "trade_id (the id that insert returned)")
        _check_field_names(kwargs)
        changes = {name: check(kwargs[name], name) for name, check in _TRADE_CHECKS.items() if name in kwargs}
        async with self._stores() as stores:
            if not await stores.trades.update(number, {**changes, "updated_at": self._now()}):
                raise NotFoundError(f"no trade has the id {number}; insert() returns it, get_by_symbol() finds it")

    async def get_by_id(self, trade_id: int) -> Trade | None:
        """Return the trade with this id (the store's), or None."""
        number = checks.integer(trade_id, "trade_id (the id that insert returned)")
        async with self._stores() as stores:
            return await stores.trades.get_by_id(number)

    async def get_recent(self, limit: int = 100) -> list[Trade]:
        """Return the newest trades of all exchanges by entry_time, then id; newest first.

        Raises:
            InvalidValueError: limit below 1.
        """
        count = checks.integer(limit, "limit", least=1)
        async with self._stores() as stores:
            return await stores.trades.get_recent(count)

    async def get_by_symbol(self, symbol: str, limit: int = 100, exchange: str = "binance") -> list[Trade]:
        """Return the newest trades of one symbol by entry_time, then id; newest first.

        Raises:
            InvalidValueError: limit below 1.
        """
        names = checks.name_text(symbol, "symbol"), checks.name_text(exchange, "exchange")
        count = checks.integer(limit, "limit", least=1)
        async with self._stores() as stores:
            return await stores.trades.get_by_symbol(names[0], count, names[1])

    async def get_statistics(self, days: int = 30, exchange: str = "binance") -> TradeStatistics:
        """Return figures over the trades realized in the last ``days`` days.

        A trade counts when its realized_pnl is set, whatever its action, and its exit_time (updated_at where that is
        missing) lies in the window. pnl > 0 is a win, pnl < 0 a loss, 0 counts in total_trades alone. Sums are exact;
        see `iftb_store.statistics.trade_statistics` for the quotients.

        Raises:
            InvalidValueError: days below 1, or so many that the window leaves the calendar.
        """
        count = checks.integer(days, "days", least=1)
        market = checks.name_text(exchange, "exchange")
        try:
            since = self._now() - timedelta(days=count)
        except OverflowError as error:
            raise InvalidValueError(f"{count} days before now lie outside the years 1 to 9999") from error
        async with self._stores() as stores:
            return trade_statistics(await stores.trades.get_totals(since, market))


class PositionRepository(_Repository):
    """Positions. At most one is open per (exchange, symbol, side); a closed one stays in the table and never changes."""

    async def get_open_positions(self, exchange: str = "binance") -> list[Position]:
        """Return the open positions, oldest first by entry_time, then id."""
        market = checks.name_text(exchange, "exchange")
        async with self._stores() as stores:
            return await stores.positions.get_open(market)

    async def get_position(self, symbol: str, exchange: str = "binance", *, side: str | None = None) -> Position | None:
        """Return the open position of a symbol, or None.

        Raises:
            AmbiguousPositionError: both sides are open and no side was named.
        """
        names = checks.name_text(symbol, "symbol"), checks.name_text(exchange, "exchange")
        wanted = None if side is None else checks.choice(side, "side", checks.SIDES)
        async with self._stores() as stores:
            found = [item for item in await stores.positions.find_open(*names) if wanted in (None, item.side)]
        if len(found) > 1:
            raise AmbiguousPositionError(
                f"both a long and a short position of {names[0]} on {names[1]} are open; name one with side="
            )
        return found[0] if found else None

    async def update_position(self, position: Position) -> None:
        """Store a position. The object is not changed; created_at and last_updated of it are ignored.

        Without an id it updates every field of the open position of the same (exchange, symbol, side), or is inserted
        where there is none. With an id it updates every field of that one, which must be open.

        Raises:
            NotFoundError: no position has the id.
            PositionClosedError: the position with the id is not open any more.
            IntegrityError: another open position has the (exchange, symbol, side).
            InvalidValueError: a value cannot be stored.
        """
        checked = _checked_position(position)
        async with self._stores() as stores:
            if checked.id is None:
                await stores.positions.upsert(checked, self._now())
            elif not await stores.positions.update(checked, self._now()):
                await _refuse_position(stores, checked.id)

    async def close_position(self, position_id: int) -> None:
        """Set the status of an open position to closed; last_updated becomes now.

        Raises:
            NotFoundError: no position has the id.
            PositionClosedError: it is not open any more.
        """
        number = checks.integer(position_id, "position_id")
        async with self._stores() as stores:
            if not await stores.positions.close(number, self._now()):
                await _refuse_position(stores, number)


class SystemEventRepository(_Repository):
    """The log of system events."""

    async def log_event(
        self,
        event_type: str,
        severity: str,
        message: str,
        details: dict[str, Any] | None = None,
        symbol: str | None = None,
        exchange: str | None = None,
        trade_id: str | None = None,
        position_id: int | None = None,
        stack_trace: str | None = None,
    ) -> None:
        """Append an event with the present time.

        ``severity`` is debug, info, warning, error or critical. ``details`` is a JSON object; Decimals and datetimes in
        it become strings. ``trade_id`` names a trade that need not be stored yet.

        Raises:
            InvalidValueError: a value cannot be stored.
        """
        event = SystemEvent(
            event_type=checks.name_text(event_type, "event_type"),
            severity=checks.choice(severity, "severity", checks.SEVERITIES),
            message=checks.text(message, "message"),
            details=None if details is None else _checked_json(details, "details"),
            symbol=_optional(checks.name_text, symbol, "symbol"),
            exchange=_optional(checks.name_text, exchange, "exchange"),
            trade_id=_optional(checks.name_text, trade_id, "trade_id"),
            position_id=_optional(checks.integer, position_id, "position_id"),
            stack_trace=_optional(checks.text, stack_trace, "stack_trace"),
        )
        async with self._stores() as stores:
            await stores.events.insert(event, self._now())

    async def get_recent_events(self, severity: str | None = None, limit: int = 100) -> list[SystemEvent]:
        """Return the newest events by created_at, then id, of one severity or of all; newest first.

        Raises:
            InvalidValueError: limit below 1, or an unknown severity.
        """
        wanted = _optional(_severity, severity, "severity")
        count = checks.integer(limit, "limit", least=1)
        async with self._stores() as stores:
            return await stores.events.get_recent(wanted, count)


def _bars(bars: Sequence[OHLCVBar]) -> Sequence[OHLCVBar]:
    if isinstance(bars, list | tuple):
        return bars
    try:
        return list(bars)
    except TypeError as error:
        raise InvalidValueError(f"a list of OHLCVBar is wanted, not {type(bars).__name__}") from error


def _series(symbol: object, timeframe: object, exchange: object) -> tuple[str, str, str]:
    return checks.name_text(symbol, "symbol"), check_timeframe(timeframe), checks.name_text(exchange, "exchange")


def _selected_bars(
    symbol: str | None, timeframe: str | None, start: datetime | None, end: datetime | None, exchange: str | None
) -> Selection:
    given = {
        "exchange": _optional(checks.name_text, exchange, "exchange"),
        "symbol": _optional(checks.name_text, symbol, "symbol"),
        "timeframe": None if timeframe is None else check_timeframe(timeframe),
    }
    equal = {name: value for name, value in given.items() if value is not None}
    first, last = (_optional(checks.utc, moment, name) for name, moment in (("start", start), ("end", end)))
    if first is not None and last is not None:
        _check_order(first, last)
    return Selection(BARS, equal, first, last)


def _check_order(start: datetime, end: datetime) -> None:
    if start > end:
        raise InvalidValueError(f"start {start.isoformat()} lies after end {end.isoformat()}")


def _beyond(edge: datetime, timeframe: str, steps: int, name: str) -> datetime:
    try:
        return shift(edge, timeframe, steps)
    except InvalidValueError as error:
        raise InvalidValueError(f"{name} lies at the calendar's end: {error}") from error


async def _refuse_position(stores: Stores, position_id: int) -> None:
    if await stores.positions.exists(position_id):
        raise PositionClosedError(f"position {position_id} is not open any more and cannot be changed; a new one has no id")
    raise NotFoundError(f"no position has the id {position_id}; get_open_positions() lists those that are open")


def _optional(check: Callable[[object, str], Any], value: object, name: str) -> Any:
    return None if value is None else check(value, name)


def _nullable(check: Callable[[object, str], Any]) -> Callable[[object, str], Any]:
    return lambda value, name: None if value is None else check(value, name)


def _chosen(choices: tuple[str, ...]) -> Callable[[object, str], str]:
    return lambda value, name: checks.choice(value, name, choices)


def _checked_json(value: object, name: str) -> dict[str, Any] | None:
    return checks.json_object(checks.json_text(value, name))


_severity = _chosen(checks.SEVERITIES)

_TRADE_CHECKS: dict[str, Callable[[object, str], Any]] = {
    "trade_id": checks.name_text,
    "symbol": checks.name_text,
    "exchange": checks.name_text,
    "side": _chosen(checks.SIDES),
    "action": _chosen(checks.ACTIONS),
    "entry_price": checks.exact_decimal,
    "quantity": checks.exact_decimal,
    "entry_time": checks.utc,
    "leverage": checks.quotient,
    "exit_price": _nullable(checks.exact_decimal),
    "exit_time": _nullable(checks.utc),
    "realized_pnl": _nullable(checks.exact_decimal),
    "realized_pnl_pct": _nullable(checks.quotient),
    "fee": checks.exact_decimal,
    "signal_score": _nullable(checks.quotient),
    "technical_score": _nullable(checks.quotient),
    "llm_score": _nullable(checks.quotient),
    "xgb_confidence": _nullable(checks.quotient),
    "stop_loss": _nullable(checks.exact_decimal),
    "take_profit": _nullable(checks.exact_decimal),
    "position_size_pct": _nullable(checks.quotient),
    "decision_reasons": _nullable(_checked_json),
    "llm_analysis": _nullable(_checked_json),
}

_POSITION_CHECKS: dict[str, Callable[[object, str], Any]] = {
    "symbol": checks.name_text,
    "exchange": checks.name_text,
    "side": _chosen(checks.SIDES),
    "entry_price": checks.exact_decimal,
    "quantity": checks.exact_decimal,
    "margin": checks.exact_decimal,
    "entry_time": checks.utc,
    "current_price": _nullable(checks.exact_decimal),
    "unrealized_pnl": _nullable(checks.exact_decimal),
    "status": _chosen(checks.STATUSES),
    "leverage": checks.quotient,
    "unrealized_pnl_pct": _nullable(checks.quotient),
    "liquidation_price": _nullable(checks.exact_decimal),
    "stop_loss": _nullable(checks.exact_decimal),
    "take_profit": _nullable(checks.exact_decimal),
    "trailing_stop": _nullable(checks.exact_decimal),
    "trade_id": _nullable(checks.name_text),
    "id": _nullable(checks.integer),
}


def _checked_trade(trade: Trade) -> Trade:
    if not isinstance(trade, Trade):
        raise InvalidValueError(f"a Trade is wanted, not {type(trade).__name__}")
    return Trade(**{name: check(getattr(trade, name), name) for name, check in _TRADE_CHECKS.items()})


def _same(stored: object, given: object) -> bool:
    # as text, as to Python true is 1
    if isinstance(stored, dict) and isinstance(given, dict):
        return json.dumps(stored, sort_keys=True) == json.dumps(given, sort_keys=True)
    return stored == given


def _checked_position(position: Position) -> Position:
    if not isinstance(position, Position):
        raise InvalidValueError(f"a Position is wanted, not {type(position).__name__}")
    return Position(**{name: check(getattr(position, name), name) for name, check in _POSITION_CHECKS.items()})


def _check_field_names(changes: dict[str, Any]) -> None:
    known = {field.name for field in fields(Trade)}
    for name in changes:
        if name in _TRADE_CHECKS:
            continue
        if name in known:
            raise InvalidValueError(f"{name} is kept by the store and cannot be set")
        settable = ", ".join(field for field in _TRADE_CHECKS if field != "trade_id")
        raise InvalidValueError(f"a trade has no field {shown(name)}; those that can be set are {settable}")
