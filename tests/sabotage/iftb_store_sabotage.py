"""A fourth backend, based on SQLite, that breaks the rule of the contract that IFTB_STORE_SABOTAGE names.

It is found through its entry point in the dist-info directory beside it, like any third party's backend.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
from sqlalchemy import URL, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store import OHLCVBar, Position, SystemEvent, Trade
from iftb_store.batches.bars import BarBatch
from iftb_store.models import TradeTotals
from iftb_store.protocols import EventStore, Isolation, OHLCVStore, PositionStore, Stores, TradeStore
from iftb_store.schema.types import to_epoch_us
from iftb_store_sqlite import SQLiteBackend

_SABOTAGE = os.environ["IFTB_STORE_SABOTAGE"]


class SabotagedBackend(SQLiteBackend):
    """SQLite with one fault."""

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        super().__init__(url.set(drivername="sqlite"), pool_size=pool_size, max_overflow=max_overflow, echo=echo)

    @asynccontextmanager
    async def session(self, isolation: Isolation | None = None) -> AsyncIterator[Any]:
        if _SABOTAGE == "keeps a connection" and self.engine is not None and not self.in_use:
            self._kept = await self.engine.connect()
        async with super().session(None if _SABOTAGE == "forgets isolation" else isolation) as session:
            try:
                yield session
            except Exception:
                if _SABOTAGE == "commits on error":
                    await session.commit()
                raise

    @classmethod
    def stores(cls, session: AsyncSession) -> Any:
        if _SABOTAGE == "answers nothing":
            return _Silent(SQLiteBackend.stores(session))
        return _SabotagedStores(SQLiteBackend.stores(session), session)


class _Silent:
    """Stores that do every call and return only empty results."""

    def __init__(self, sound: Any) -> None:
        self._sound = sound

    def __getattr__(self, name: str) -> Any:
        part = getattr(self._sound, name)
        if not callable(part):
            return _Silent(part)

        method: Any = part

        async def answer(*args: Any) -> Any:
            return _emptied(await method(*args))

        return answer


def _emptied(answer: Any) -> Any:
    if isinstance(answer, TradeTotals):
        return TradeTotals(0, 0, 0, *[Decimal(0)] * 5)
    if isinstance(answer, bool | int | list | tuple):
        return type(answer)()
    return answer.slice(0, 0) if isinstance(answer, pa.Table) else None


class _SabotagedStores:
    def __init__(self, sound: Stores, session: AsyncSession) -> None:
        self.read_rows = sound.read_rows
        self.write_rows = sound.write_rows
        self.delete_rows = sound.delete_rows
        self.ohlcv = _Bars(sound.ohlcv, session)
        self.trades = _Trades(sound.trades)
        self.positions = _Positions(sound.positions, session)
        self.events = _Events(sound.events)


class _Bars:
    def __init__(self, sound: OHLCVStore, session: AsyncSession) -> None:
        self._sound = sound
        self._session = session
        self.upsert_counted = sound.upsert_counted
        self.resample = sound.resample
        self.list_series = sound.list_series
        self.delete_range = sound.delete_range
        self.get_latest = sound.get_latest
        self.get_gaps = sound.get_gaps

    async def insert_many(self, batch: BarBatch) -> None:
        try:
            await self._sound.insert_many(batch)
        except IntegrityError:
            if _SABOTAGE != "swallows a duplicate":
                raise
        if _SABOTAGE == "loses a row" and len(batch) > 2_000:
            await self._session.execute(text("DELETE FROM ohlcv WHERE id = (SELECT MAX(id) FROM ohlcv)"))

    async def upsert_many(self, batch: BarBatch) -> None:
        await self._sound.upsert_many(batch)
        if _SABOTAGE == "moves created_at":
            await self._session.execute(text("UPDATE ohlcv SET created_at = :now"), {"now": to_epoch_us(batch.created_at)})

    async def get_range(self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str) -> list[OHLCVBar]:
        if _SABOTAGE == "never ends":
            await asyncio.Event().wait()
        last = end - timedelta(microseconds=1) if _SABOTAGE == "leaves out the end" else end
        return await self._sound.get_range(symbol, timeframe, start, last, exchange)

    async def get_page(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str, limit: int
    ) -> list[OHLCVBar]:
        first = datetime.min.replace(tzinfo=UTC) if _SABOTAGE == "never ends" else start
        return await self._sound.get_page(symbol, timeframe, first, end, exchange, limit)


class _Trades:
    def __init__(self, sound: TradeStore) -> None:
        self._sound = sound
        self.update = sound.update
        self.get_by_trade_id = sound.get_by_trade_id
        self.get_recent = sound.get_recent
        self.get_by_symbol = sound.get_by_symbol

    async def insert(self, trade: Trade, now: datetime) -> int:
        if _SABOTAGE == "rounds a decimal":
            trade = replace(trade, entry_price=round(trade.entry_price, 8))
        return await self._sound.insert(trade, now)

    async def get_by_id(self, trade_id: int) -> Trade | None:
        trade = await self._sound.get_by_id(trade_id)
        if _SABOTAGE == "drops tzinfo" and trade is not None:
            return replace(trade, entry_time=trade.entry_time.replace(tzinfo=None))
        return trade

    async def get_totals(self, since: datetime, exchange: str) -> TradeTotals:
        totals = await self._sound.get_totals(since, exchange)
        if _SABOTAGE == "sums floats":
            return totals._replace(profit=Decimal(float(totals.profit)), loss=Decimal(float(totals.loss)))
        return totals


class _Positions:
    def __init__(self, sound: PositionStore, session: AsyncSession) -> None:
        self._sound = sound
        self._session = session
        self.get_open = sound.get_open
        self.find_open = sound.find_open
        self.upsert = sound.upsert
        self.close = sound.close
        self.exists = sound.exists

    async def update(self, position: Position, now: datetime) -> bool:
        if _SABOTAGE == "reopens a position":
            await self._session.execute(text("UPDATE positions SET status = 'open' WHERE id = :id"), {"id": position.id})
        return await self._sound.update(position, now)


class _Events:
    def __init__(self, sound: EventStore) -> None:
        self._sound = sound
        self.insert = sound.insert

    async def get_recent(self, severity: str | None, limit: int) -> list[SystemEvent]:
        events = await self._sound.get_recent(severity, limit)
        if _SABOTAGE == "orders ties oldest first":
            # a sort only by time keeps the order of equal times
            oldest_first = events[::-1]
            return sorted(oldest_first, key=lambda event: str(event.created_at), reverse=True)
        return events
