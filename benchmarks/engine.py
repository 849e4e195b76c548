"""What the benchmark requires of an engine: our store, and the raw-driver references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import pyarrow as pa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.objects import READ, TRADE, WRITTEN
from benchmarks.series import EXCHANGE, SYMBOL, TIMEFRAME
from benchmarks.timing import Work
from iftb_store import DatabaseManager, OHLCVBar, Trade
from iftb_store.schema.tables import OHLCVRow, TradeRow

SERIES = (EXCHANGE, SYMBOL, TIMEFRAME)
# the schema that every way to Arrow must return
DECIMAL = pa.decimal128(38, 18)
TIME = pa.timestamp("us", tz="UTC")
_KINDS: list[pa.DataType] = [*[pa.string()] * 3, TIME, *[DECIMAL] * 6, *[pa.int64()] * 2, TIME]
ARROW = pa.schema(list(zip(READ, _KINDS, strict=True)))
TIMEOUT_OFF = "statement_timeout=0"


class Disk(NamedTuple):
    """Bytes that the bars take, ours and the reference's."""

    ours: int
    reference: int


class Engine(Protocol):
    """One engine with two equal databases (or tables): ours, written through iftb_store, and the reference's."""

    name: ClassVar[str]
    #: The most bars that the naive path writes or reads in one sample; times for more are scaled. 0: there is no ORM.
    naive_bars: ClassVar[int]
    db: DatabaseManager

    def opened(self, folder: Path) -> AbstractAsyncContextManager[None]:
        """Start or create the databases in the folder; close them at the end."""
        ...

    async def empty_ours(self) -> None:
        """Empty our tables, and leave ``db`` connected and warm."""
        ...

    async def empty_reference(self) -> None:
        """Empty the reference's tables, and leave its connection open and warm."""
        ...

    async def settle(self) -> None:
        """After both are filled: do what the engine would later do by itself (vacuum, checkpoint)."""
        ...

    async def write(self, bars: Sequence[OHLCVBar]) -> None:
        """Write bars from objects to committed rows with the raw driver, as a skilled user would."""
        ...

    async def read(self, start: datetime, end: datetime) -> list[OHLCVBar]:
        """Read bars to objects with the raw driver."""
        ...

    async def latest(self, limit: int) -> list[OHLCVBar]:
        """Read the newest bars to objects with the raw driver."""
        ...

    def arrow(self) -> Mapping[str, Work]:
        """Return the ways to read the whole series to an Arrow table with the raw driver or another, by name."""
        ...

    async def gaps(self) -> list[tuple[datetime, datetime]]:
        """Find the gaps by SQL written by hand."""
        ...

    async def fill_trades(self, trades: Sequence[Trade]) -> None:
        """Store trades in both databases."""
        ...

    async def statistics(self) -> Sequence[Any]:
        """Compute the sums of trade statistics, exactly, by SQL written by hand."""
        ...

    async def insert_trade(self, trade: Trade) -> None:
        """Insert one trade and commit with the raw driver."""
        ...

    async def naive_write(self, bars: Sequence[OHLCVBar]) -> None:
        """Write bars to our tables in the most obvious way."""
        ...

    async def disk(self) -> Disk:
        """Measure what the bars take on disk."""
        ...


@contextmanager
def adbc(driver: str, uri: str) -> Iterator[Any]:
    """Connect with the ADBC driver of an engine; None if it is not installed."""
    try:
        dbapi = import_module(f"adbc_driver_{driver}.dbapi")
    except ImportError:
        yield None
        return
    with dbapi.connect(uri) as connection:
        yield connection


async def orm_write(db: DatabaseManager, bars: Sequence[OHLCVBar]) -> None:
    """Write bars as ORM objects, committed."""
    async with AsyncSession(db.engine) as session:
        session.add_all([OHLCVRow(**{name: getattr(bar, name) for name in WRITTEN}) for bar in bars])
        await session.commit()


async def orm_read(db: DatabaseManager, start: datetime, end: datetime) -> Sequence[OHLCVRow]:
    """Read bars as ORM objects."""
    row: Any = OHLCVRow
    query = (
        select(OHLCVRow)
        .where(row.exchange == EXCHANGE, row.symbol == SYMBOL, row.timeframe == TIMEFRAME)
        .where(row.timestamp.between(start, end))
        .order_by(row.timestamp)
    )
    async with AsyncSession(db.engine) as session:
        return (await session.execute(query)).scalars().all()


async def orm_latest(db: DatabaseManager, limit: int) -> Sequence[OHLCVRow]:
    """Read the newest bars as ORM objects."""
    row: Any = OHLCVRow
    query = (
        select(OHLCVRow)
        .where(row.exchange == EXCHANGE, row.symbol == SYMBOL, row.timeframe == TIMEFRAME)
        .order_by(row.timestamp.desc())
        .limit(limit)
    )
    async with AsyncSession(db.engine) as session:
        return (await session.execute(query)).scalars().all()


async def orm_insert_trade(db: DatabaseManager, trade: Trade) -> None:
    """Insert one trade as an ORM object, committed."""
    async with AsyncSession(db.engine) as session:
        session.add(TradeRow(**{name: getattr(trade, name) for name in TRADE}))
        await session.commit()
