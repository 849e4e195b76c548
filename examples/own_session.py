"""An app with its own engine, session and ORM classes: the repositories join its transaction.

python examples/own_session.py [URL]      (default: a temporary SQLite file; or postgresql+asyncpg://…)
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from iftb_store import Base, Trade, TradeRepository


class AppBase(DeclarativeBase):
    """The app's own metadata."""


class Signal(AppBase):
    """A table of the app."""

    __tablename__ = "signals"

    id: Mapped[int] = mapped_column(primary_key=True)
    trade_id: Mapped[str]
    reason: Mapped[str]


def trade(trade_id: str) -> Trade:
    """Make a trade."""
    now = datetime.now(UTC)
    return Trade(trade_id, "BTCUSDT", "binance", "long", "open", Decimal("50000"), Decimal("0.01"), now)


async def counts(session: AsyncSession) -> str:
    """Return the number of stored signals and trades."""
    signals = await session.scalar(select(func.count()).select_from(Signal))
    return f"{signals} signals, {len(await TradeRepository(session).get_recent())} trades"


async def main(url: str) -> None:
    """Commit an ORM object and a trade together, then roll both back after a failure."""
    engine = create_async_engine(url)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with engine.begin() as connection:
        await connection.run_sync(AppBase.metadata.create_all)
        await connection.run_sync(Base.metadata.create_all)

    async with sessions() as session, session.begin():
        session.add(Signal(trade_id="APP-1", reason="breakout"))
        await TradeRepository(session).insert(trade("APP-1"))
    async with sessions() as session:
        print("committed together:", await counts(session))

    try:
        async with sessions() as session, session.begin():
            session.add(Signal(trade_id="APP-2", reason="reversal"))
            await TradeRepository(session).insert(trade("APP-2"))
            raise RuntimeError("the exchange refused the order")
    except RuntimeError as error:
        print("rolled back together:", error)
    async with sessions() as session:
        print("still stored:", await counts(session))
    await engine.dispose()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(f"sqlite+aiosqlite:///{Path(folder) / 'app.db'}"))
