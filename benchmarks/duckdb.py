"""DuckDB: duckdb and pyarrow as a skilled user drives them, on a file with our schema and a separate table of bars with a key."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow as pa

from benchmarks.engine import DECIMAL, SERIES, TIME, Disk
from benchmarks.objects import READ, TRADE, WRITTEN, trade_values, written
from benchmarks.series import EXCHANGE, SYMBOL
from benchmarks.timing import Work
from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository, Trade
from iftb_store.schema.types import from_epoch_us

_TIMES = ("timestamp", "created_at")

_KEYED = """
    CREATE TABLE raw_ohlcv (
        id BIGINT NOT NULL DEFAULT nextval('ohlcv_id_seq'),
        exchange VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL, timestamp TIMESTAMPTZ NOT NULL,
        open DECIMAL(38,18) NOT NULL, high DECIMAL(38,18) NOT NULL, low DECIMAL(38,18) NOT NULL, close DECIMAL(38,18) NOT NULL,
        volume DECIMAL(38,18) NOT NULL, quote_volume DECIMAL(38,18), trades_count BIGINT, created_at TIMESTAMPTZ,
        PRIMARY KEY (exchange, symbol, timeframe, timestamp)
    )"""
_INSERT = f"INSERT INTO raw_ohlcv ({', '.join(WRITTEN)}, created_at) SELECT {', '.join(WRITTEN)}, $1 FROM batch"
# the driver needs pytz to convert a TIMESTAMPTZ to a datetime, and is slower than this
_COLUMNS = ", ".join(f"epoch_us({name})" if name in _TIMES else name for name in READ)
_SERIES = "exchange = $1 AND symbol = $2 AND timeframe = $3"
_RANGE = f"SELECT {_COLUMNS} FROM raw_ohlcv WHERE {_SERIES} AND timestamp BETWEEN $4 AND $5 ORDER BY timestamp"
_WHOLE = f"SELECT {', '.join(READ)} FROM raw_ohlcv WHERE {_SERIES} ORDER BY timestamp"
_LATEST = f"SELECT {_COLUMNS} FROM raw_ohlcv WHERE {_SERIES} ORDER BY timestamp DESC LIMIT $4"
_GAPS = f"""
    SELECT earlier, later
    FROM (
        SELECT lag(moment) OVER (ORDER BY moment) AS earlier, moment AS later
        FROM (SELECT epoch_us(timestamp) AS moment FROM raw_ohlcv WHERE {_SERIES})
    )
    WHERE later - earlier > 60000000 ORDER BY earlier"""
_STATISTICS = """
    SELECT count(*), count(*) FILTER (realized_pnl > 0), count(*) FILTER (realized_pnl < 0),
        sum(realized_pnl) FILTER (realized_pnl > 0), sum(realized_pnl) FILTER (realized_pnl < 0), sum(fee),
        max(realized_pnl), min(realized_pnl)
    FROM trades
    WHERE exchange = $1 AND realized_pnl IS NOT NULL AND coalesce(exit_time, updated_at) >= $2"""
_TRADE_COLUMNS = (*TRADE, "created_at", "updated_at")
_INSERT_TRADE = (
    f"INSERT INTO trades ({', '.join(_TRADE_COLUMNS)}) VALUES ({', '.join(f'${n + 1}' for n in range(len(_TRADE_COLUMNS)))})"
)
_NAIVE = f"INSERT INTO raw_ohlcv ({', '.join(WRITTEN)}) VALUES ({', '.join(f'${n + 1}' for n in range(len(WRITTEN)))})"


class DuckDB:
    """See `benchmarks.engine.Engine`."""

    name: ClassVar[str] = "DuckDB"
    naive_bars: ClassVar[int] = 500
    db: DatabaseManager
    _raw: duckdb.DuckDBPyConnection
    _folder: Path

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[None]:
        """Make two files with our schema, and a third as the template of fresh ones."""
        self._folder = folder
        async with DatabaseManager(f"duckdb:///{folder / 'template.duckdb'}") as template:
            await template.create_tables()
        with duckdb.connect(str(folder / "template.duckdb")) as connection:
            connection.execute(_KEYED)
        await self._open_ours()
        await self._open_reference()
        try:
            yield
        finally:
            await self.db.disconnect()
            self._raw.close()

    async def empty_ours(self) -> None:
        """See Engine: a fresh file, because a file whose rows were deleted behaves differently."""
        await self.db.disconnect()
        await self._open_ours()

    async def empty_reference(self) -> None:
        """See Engine: a fresh file."""
        self._raw.close()
        await self._open_reference()

    async def settle(self) -> None:
        """See Engine: closing makes a checkpoint."""
        await self.db.disconnect()
        await self._connect()
        self._raw.close()
        self._raw = _connect(self._folder / "raw.duckdb")

    async def write(self, bars: Sequence[OHLCVBar]) -> None:
        """See Engine: columns of text, cast to decimals by Arrow, one INSERT SELECT."""
        columns = zip(*map(written, bars), strict=True)
        arrays = [_array(name, column) for name, column in zip(WRITTEN, columns, strict=True)]
        self._raw.register("batch", pa.table(arrays, names=list(WRITTEN)))
        self._raw.execute(_INSERT, [datetime.now(UTC)])
        self._raw.unregister("batch")

    async def read(self, start: datetime, end: datetime) -> list[OHLCVBar]:
        """See Engine: fetchall in this thread."""
        return _bars(self._raw.execute(_RANGE, [*SERIES, start, end]).fetchall())

    async def latest(self, limit: int) -> list[OHLCVBar]:
        """See Engine: execute and fetchall in this thread."""
        return _bars(self._raw.execute(_LATEST, [*SERIES, limit]).fetchall())

    def arrow(self) -> Mapping[str, Work]:
        """See Engine."""
        return {"DuckDB's own": self._fetch}

    async def _fetch(self) -> pa.Table:
        table: pa.Table = self._raw.sql(_WHOLE, params=list(SERIES)).to_arrow_table()
        return table

    async def gaps(self) -> list[tuple[datetime, datetime]]:
        """See Engine."""
        rows = self._raw.execute(_GAPS, SERIES).fetchall()
        return [(from_epoch_us(earlier), from_epoch_us(later)) for earlier, later in rows]

    async def fill_trades(self, trades: Sequence[Trade]) -> None:
        """See Engine."""
        await self.db.disconnect()
        self._raw.close()
        now = datetime.now(UTC)
        columns = zip(*([*trade_values(trade), now, now] for trade in trades), strict=True)
        arrays = [_guess_array(column) for column in columns]
        batch = pa.table(arrays, names=list(_TRADE_COLUMNS))
        for name in ("ours", "raw"):
            with duckdb.connect(str(self._folder / f"{name}.duckdb")) as connection:
                connection.execute("DELETE FROM trades")
                connection.register("batch", batch)
                connection.execute(f"INSERT INTO trades ({', '.join(_TRADE_COLUMNS)}) SELECT * FROM batch")
        self._raw = _connect(self._folder / "raw.duckdb")
        await self._connect()

    async def statistics(self) -> Sequence[Any]:
        """See Engine: its sums overflow past the range of one column; ours do not."""
        row = self._raw.execute(_STATISTICS, [EXCHANGE, datetime.now(UTC) - timedelta(days=30)]).fetchone()
        return row or ()

    async def insert_trade(self, trade: Trade) -> None:
        """See Engine."""
        now = datetime.now(UTC)
        self._raw.begin()
        self._raw.execute(_INSERT_TRADE, [*trade_values(trade), now, now])
        self._raw.commit()

    async def naive_write(self, bars: Sequence[OHLCVBar]) -> None:
        """See Engine: executemany into the reference's table, because there is no ORM for DuckDB here."""
        self._raw.executemany(_NAIVE, [written(bar) for bar in bars])

    async def disk(self) -> Disk:
        """See Engine: whole files, less the empty one."""
        await self.settle()
        empty = (self._folder / "template.duckdb").stat().st_size
        return Disk(*((self._folder / f"{name}.duckdb").stat().st_size - empty for name in ("ours", "raw")))

    async def _open_ours(self) -> None:
        self._fresh("ours")
        await self._connect()

    async def _connect(self) -> None:
        self.db = DatabaseManager(f"duckdb:///{self._folder / 'ours.duckdb'}")
        await self.db.connect()
        await OHLCVRepository(self.db).get_latest(SYMBOL, "1m", 1)

    async def _open_reference(self) -> None:
        self._raw = _connect(self._fresh("raw"))

    def _fresh(self, name: str) -> Path:
        path = self._folder / f"{name}.duckdb"
        path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
        shutil.copyfile(self._folder / "template.duckdb", path)
        return path


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(str(path))
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _array(name: str, column: Sequence[Any]) -> Any:
    if name == "timestamp":
        return pa.array(column, TIME)
    return pa.array(list(map(str, column)), pa.string()).cast(DECIMAL) if isinstance(column[0], Decimal) else pa.array(column)


def _guess_array(column: Sequence[Any]) -> Any:
    kind = next((type(value) for value in column if value is not None), str)
    if kind is Decimal:
        return pa.array([None if value is None else format(value, "f") for value in column], pa.string()).cast(DECIMAL)
    return pa.array(column, {str: pa.string(), datetime: TIME}[kind])


def _bars(rows: Iterable[Any]) -> list[OHLCVBar]:
    at = datetime.fromtimestamp
    return [
        OHLCVBar(
            symbol,
            exchange,
            timeframe,
            at(timestamp / 1_000_000, UTC),
            open_,
            high,
            low,
            close,
            volume,
            quote,
            count,
            number,
            at(created_at / 1_000_000, UTC),
        )
        for symbol, exchange, timeframe, timestamp, open_, high, low, close, volume, quote, count, number, created_at in rows
    ]
