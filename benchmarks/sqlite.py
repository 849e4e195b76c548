"""SQLite: sqlite3 and aiosqlite as a skilled user drives them, on a file with our schema and decimals as plain text."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import aiosqlite
import pyarrow as pa

from benchmarks.engine import ARROW, DECIMAL, SERIES, TIME, Disk, adbc, orm_write
from benchmarks.objects import READ, TRADE, WRITTEN, trade_values
from benchmarks.series import EXCHANGE, SYMBOL
from benchmarks.timing import Work
from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository, Trade
from iftb_store.schema.types import EPOCH, to_epoch_us
from iftb_store.values.decimals import format_plain, to_sortable

_MICROSECOND = timedelta(microseconds=1)
_INSERT = f"INSERT INTO ohlcv ({', '.join(WRITTEN)}, created_at) VALUES ({', '.join('?' * (len(WRITTEN) + 1))})"
_READ = f"SELECT {', '.join(READ)} FROM ohlcv WHERE exchange = ? AND symbol = ? AND timeframe = ?"
_RANGE = f"{_READ} AND timestamp BETWEEN ? AND ? ORDER BY timestamp"
_WHOLE = f"{_READ} ORDER BY timestamp"
_LATEST = f"{_READ} ORDER BY timestamp DESC LIMIT ?"
_GAPS = """
    SELECT earlier, later
    FROM (
        SELECT LAG(timestamp) OVER (ORDER BY timestamp) AS earlier, timestamp AS later
        FROM ohlcv WHERE exchange = ? AND symbol = ? AND timeframe = ?
    )
    WHERE later - earlier > 60000000 ORDER BY earlier"""
_TRADE_COLUMNS = (*TRADE, "created_at", "updated_at")
_INSERT_TRADE = f"INSERT INTO trades ({', '.join(_TRADE_COLUMNS)}) VALUES ({', '.join('?' * len(_TRADE_COLUMNS))})"


def _sums(column: str, condition: str) -> str:
    # a float is not exact and a sum of 18 places exceeds 64 bits: so the whole part and two halves of the fraction
    fraction = f"substr(substr({column}, instr({column} || '.', '.') + 1) || '000000000000000000'"
    parts = (f"CAST({column} AS INTEGER)", f"CAST({fraction}, 1, 9) AS INTEGER)", f"CAST({fraction}, 10, 9) AS INTEGER)")
    return ", ".join(f"SUM({part}) FILTER (WHERE {condition})" for part in parts)


# REAL is accurate enough for this benchmark's maximum and minimum; ours are exact
_STATISTICS = f"""
    SELECT COUNT(*), COUNT(*) FILTER (WHERE realized_pnl > '0'), COUNT(*) FILTER (WHERE realized_pnl LIKE '-%'),
        {_sums("realized_pnl", "realized_pnl > '0'")}, {_sums("realized_pnl", "realized_pnl < '0'")}, {_sums("fee", "1")},
        MAX(CAST(realized_pnl AS REAL)), MIN(CAST(realized_pnl AS REAL))
    FROM trades
    WHERE exchange = ? AND realized_pnl IS NOT NULL AND COALESCE(exit_time, updated_at) >= ?"""


class SQLite:
    """See `benchmarks.engine.Engine`."""

    name: ClassVar[str] = "SQLite"
    naive_bars: ClassVar[int] = 20_000
    db: DatabaseManager
    _raw: sqlite3.Connection
    _async: aiosqlite.Connection
    _folder: Path

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[None]:
        """Make two files with our schema, and a third as the template of fresh ones."""
        self._folder = folder
        async with DatabaseManager(f"sqlite:///{folder / 'template.db'}") as template:
            await template.create_tables()
        await self._open_ours()
        await self._open_reference()
        try:
            yield
        finally:
            await self.db.disconnect()
            await self._close_reference()

    async def empty_ours(self) -> None:
        """See Engine: a fresh file, because a file whose rows were deleted behaves differently."""
        await self.db.disconnect()
        await self._open_ours()

    async def empty_reference(self) -> None:
        """See Engine: a fresh file."""
        await self._close_reference()
        await self._open_reference()

    async def settle(self) -> None:
        """See Engine."""
        for name in ("ours", "raw"):
            with sqlite3.connect(self._folder / f"{name}.db") as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()

    async def write(self, bars: Sequence[OHLCVBar]) -> None:
        """See Engine: executemany in one transaction, in this thread."""
        created_at = to_epoch_us(datetime.now(UTC))
        self._raw.execute("BEGIN IMMEDIATE")
        self._raw.executemany(_INSERT, (_plain_row(bar, created_at) for bar in bars))
        self._raw.execute("COMMIT")

    async def read(self, start: datetime, end: datetime) -> list[OHLCVBar]:
        """See Engine: fetchall in this thread."""
        return _bars(self._raw.execute(_RANGE, (*SERIES, to_epoch_us(start), to_epoch_us(end))).fetchall())

    async def latest(self, limit: int) -> list[OHLCVBar]:
        """See Engine: aiosqlite."""
        return _bars(await self._async.execute_fetchall(_LATEST, (*SERIES, limit)))

    def arrow(self) -> Mapping[str, Work]:
        """See Engine."""
        return {"sqlite3": self._columns} | ({"ADBC": self._adbc} if find_spec("adbc_driver_sqlite") else {})

    async def _columns(self) -> pa.Table:
        columns = zip(*self._raw.execute(_WHOLE, SERIES), strict=True)
        return pa.table([_array(column, kind) for column, kind in zip(columns, ARROW.types, strict=True)], names=ARROW.names)

    async def _adbc(self) -> pa.Table:
        # ADBC brings another SQLite library, which on close drops the locks and the log of this process's other connections
        copy = self._folder / "adbc.db"
        if not copy.exists():
            with closing(sqlite3.connect(copy)) as target:
                self._raw.backup(target)
        with adbc("sqlite", f"file:{copy}") as connection, connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": "65536"})
            cursor.execute(_WHOLE, SERIES)
            table: pa.Table = cursor.fetch_arrow_table().cast(ARROW)
        return table

    async def gaps(self) -> list[tuple[datetime, datetime]]:
        """See Engine: aiosqlite."""
        rows = await self._async.execute_fetchall(_GAPS, SERIES)
        return [(EPOCH + earlier * _MICROSECOND, EPOCH + later * _MICROSECOND) for earlier, later in rows]

    async def fill_trades(self, trades: Sequence[Trade]) -> None:
        """See Engine: each file with its representation of decimals."""
        now = to_epoch_us(datetime.now(UTC))
        for name, encode in (("ours", _sortable), ("raw", str)):
            with sqlite3.connect(self._folder / f"{name}.db") as connection:
                connection.execute("DELETE FROM trades")
                rows = ([*(_encode(value, encode) for value in trade_values(trade)), now, now] for trade in trades)
                connection.executemany(_INSERT_TRADE, rows)
            connection.close()

    async def statistics(self) -> Sequence[Any]:
        """See Engine: aiosqlite."""
        since = to_epoch_us(datetime.now(UTC) - timedelta(days=30))
        ((trades, wins, losses, *parts, best, worst),) = await self._async.execute_fetchall(_STATISTICS, (EXCHANGE, since))
        sums = [_put_together(sign, *parts[first : first + 3]) for sign, first in ((1, 0), (-1, 3), (1, 6))]
        return trades, wins, losses, *sums, best, worst

    async def insert_trade(self, trade: Trade) -> None:
        """See Engine: aiosqlite."""
        now = to_epoch_us(datetime.now(UTC))
        await self._async.execute("BEGIN IMMEDIATE")
        await self._async.execute(_INSERT_TRADE, [*(_encode(value, str) for value in trade_values(trade)), now, now])
        await self._async.commit()

    async def naive_write(self, bars: Sequence[OHLCVBar]) -> None:
        """See Engine."""
        await orm_write(self.db, bars)

    async def disk(self) -> Disk:
        """See Engine: whole files, less the empty one."""
        await self.settle()
        empty = (self._folder / "template.db").stat().st_size
        return Disk(*((self._folder / f"{name}.db").stat().st_size - empty for name in ("ours", "raw")))

    async def _open_ours(self) -> None:
        self.db = DatabaseManager(f"sqlite:///{self._fresh('ours')}")
        await self.db.connect()
        await OHLCVRepository(self.db).get_latest(SYMBOL, "1m", 1)

    async def _open_reference(self) -> None:
        path = self._fresh("raw")
        self._raw = sqlite3.connect(path, isolation_level=None)
        self._async = await aiosqlite.connect(path, isolation_level=None)
        for pragma in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"):
            self._raw.execute(pragma)
            await self._async.execute(pragma)
        await self.latest(1)

    async def _close_reference(self) -> None:
        await self._async.close()
        self._raw.close()

    def _fresh(self, name: str) -> Path:
        path = self._folder / f"{name}.db"
        (self._folder / "adbc.db").unlink(missing_ok=True)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(self._folder / "template.db", path)
        return path


def _array(column: Sequence[Any], kind: pa.DataType) -> Any:
    if kind == DECIMAL:
        return pa.array(column, pa.string()).cast(DECIMAL)
    return pa.array(column, pa.int64()).cast(TIME) if kind == TIME else pa.array(column, kind)


def _plain_row(bar: OHLCVBar, created_at: int) -> tuple[Any, ...]:
    return (
        bar.exchange,
        bar.symbol,
        bar.timeframe,
        (bar.timestamp - EPOCH) // _MICROSECOND,
        str(bar.open),
        str(bar.high),
        str(bar.low),
        str(bar.close),
        str(bar.volume),
        str(bar.quote_volume),
        bar.trades_count,
        created_at,
    )


def _bars(rows: Iterable[Any]) -> list[OHLCVBar]:
    at = datetime.fromtimestamp
    return [
        OHLCVBar(
            symbol,
            exchange,
            timeframe,
            at(timestamp / 1_000_000, UTC),
            Decimal(open_),
            Decimal(high),
            Decimal(low),
            Decimal(close),
            Decimal(volume),
            Decimal(quote),
            count,
            number,
            at(created_at / 1_000_000, UTC),
        )
        for symbol, exchange, timeframe, timestamp, open_, high, low, close, volume, quote, count, number, created_at in rows
    ]


def _sortable(value: Decimal) -> str:
    return to_sortable(format_plain(value) or "0")


def _encode(value: Any, encode: Any) -> Any:
    if isinstance(value, Decimal):
        return encode(value)
    return to_epoch_us(value) if isinstance(value, datetime) else value


def _put_together(sign: int, whole: int | None, high: int | None, low: int | None) -> Decimal:
    # the whole part is signed, the fractions are magnitudes
    return (whole or 0) + sign * ((high or 0) * Decimal("1E-9") + (low or 0) * Decimal("1E-18"))
