"""The event loop's longest wait in the first call of a process, each in a new Python process.

`python -m benchmarks.first_calls URL CALL` is that process: it opens an empty or migrated database, makes one call and prints
the milliseconds.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median

from benchmarks.results import Figure
from benchmarks.timing import longest_wait
from iftb_store import (
    DatabaseManager,
    OHLCVBar,
    OHLCVRepository,
    Position,
    PositionRepository,
    SystemEventRepository,
    Trade,
    TradeRepository,
    backup,
    copy,
    examine,
    export_table,
    import_files,
    restore,
    verify,
)

#: The most milliseconds that a call may block the loop.
LIMIT_MS = 50.0
PROCESSES = 10

_START = datetime(2024, 1, 1, tzinfo=UTC)
_END = _START + timedelta(days=1)
_PRICE = Decimal("1.5")

Call = Callable[[DatabaseManager], Awaitable[object]]


def _bars() -> list[OHLCVBar]:
    times = (_START + timedelta(hours=hour) for hour in range(10))
    return [OHLCVBar("BTCUSDT", "binance", "1h", time, _PRICE, _PRICE, _PRICE, _PRICE, _PRICE) for time in times]


def _trade() -> Trade:
    return Trade("T-1", "BTCUSDT", "binance", "long", "open", _PRICE, _PRICE, _START)


async def _drain(batches: AsyncIterable[object]) -> None:
    async for _ in batches:
        pass


async def _write_frame(db: DatabaseManager) -> None:
    # like a Polars frame, which does not import pyarrow
    class Frame:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            import pyarrow as pa

            rows = [{name: getattr(bar, name) for name in pa_names} for bar in _bars()]
            return pa.Table.from_pylist(rows).__arrow_c_stream__(requested_schema)  # type: ignore[no-untyped-call]

    pa_names = ("symbol", "exchange", "timeframe", "timestamp", "open", "high", "low", "close", "volume")
    await OHLCVRepository(db).write_arrow(Frame())


async def _run_serializable(db: DatabaseManager) -> None:
    async def work(session: object) -> None:
        await TradeRepository(session).get_recent()  # type: ignore[arg-type]

    await db.run(work, isolation="serializable")


async def _backup(db: DatabaseManager) -> None:
    with tempfile.TemporaryDirectory(prefix="iftb-bench-") as folder:
        await backup(db, Path(folder, "store.backup"))


async def _restore(db: DatabaseManager) -> None:
    with tempfile.TemporaryDirectory(prefix="iftb-bench-") as folder:
        await backup(db, Path(folder, "store.backup"))
        await restore(Path(folder, "store.backup"), db)


async def _transfer(db: DatabaseManager, work: Callable[[DatabaseManager, DatabaseManager], Awaitable[object]]) -> None:
    with tempfile.TemporaryDirectory(prefix="iftb-bench-") as folder:
        # its driver is another one than that of ``db``
        async with await asyncio.to_thread(DatabaseManager, f"sqlite:///{folder}/other.db") as other:
            await other.create_tables()
            await work(db, other)


async def _export(db: DatabaseManager, file: str) -> None:
    with tempfile.TemporaryDirectory(prefix="iftb-bench-") as folder:
        await export_table(db, Path(folder, file))


async def _import(db: DatabaseManager) -> None:
    with tempfile.TemporaryDirectory(prefix="iftb-bench-") as folder:
        path = Path(folder, "BTCUSDT-1h.csv")
        await asyncio.to_thread(path.write_text, "timestamp,open,high,low,close,volume\n2024-01-01,1,2,1,1,5\n")
        await import_files(db, path)


#: The calls, ordered so that each finds the tables that it needs.
CALLS: dict[str, Call] = {
    "migrate": lambda db: db.migrate(),
    "create_tables": lambda db: db.create_tables(),
    "get_latest": lambda db: OHLCVRepository(db).get_latest("BTCUSDT", "1h"),
    "upsert_many": lambda db: OHLCVRepository(db).upsert_many(_bars()),
    "upsert_many, report": lambda db: OHLCVRepository(db).upsert_many(_bars(), report=True),
    "get_gaps": lambda db: OHLCVRepository(db).get_gaps("BTCUSDT", "1h"),
    "resample": lambda db: OHLCVRepository(db).resample("BTCUSDT", "1h", "1d", _START, _END),
    "stream_range": lambda db: _drain(OHLCVRepository(db).stream_range("BTCUSDT", "1h", _START, _END)),
    "read_arrow": lambda db: OHLCVRepository(db).read_arrow(),
    "stream_arrow": lambda db: _drain(OHLCVRepository(db).stream_arrow()),
    "write_arrow": _write_frame,
    "record": lambda db: TradeRepository(db).record(_trade()),
    "get_statistics": lambda db: TradeRepository(db).get_statistics(),
    "get_performance": lambda db: TradeRepository(db).get_performance(),
    "trades.read_arrow": lambda db: TradeRepository(db).read_arrow(),
    "update_position": lambda db: PositionRepository(db).update_position(
        Position("BTCUSDT", "binance", "long", _PRICE, _PRICE, _PRICE, _START)
    ),
    "log_event": lambda db: SystemEventRepository(db).log_event("start", "info", ""),
    "run, serializable": _run_serializable,
    "ping": lambda db: db.ping(),
    "identity": lambda db: db.identity(),
    "status": lambda db: db.status(),
    "health": lambda db: db.health(),
    "examine": lambda db: examine(db),
    "backup": _backup,
    "restore": _restore,
    "copy": lambda db: _transfer(db, copy),
    "verify": lambda db: _transfer(db, verify),
    "export_table": lambda db: _export(db, "bars.parquet"),
    "export_table, csv": lambda db: _export(db, "bars.csv"),
    "import_files": _import,
}
#: The calls that a benchmark run measures: a read, a write, rows as Arrow, the schema, everything.
TIMED = ("get_latest", "upsert_many", "read_arrow", "status", "backup")


async def measure(engine: str, processes: int = PROCESSES, calls: Sequence[str] = TIMED) -> AsyncIterator[Figure]:
    """Yield the median and the longest of the processes' waits for each call, on a database with tables."""
    async with _database(engine) as (name, url):
        for call in calls:
            waits = [await asyncio.to_thread(wait_of, url, call) for _ in range(processes)]
            values = {"median": median(waits), "longest": max(waits)}
            note = f"{processes} processes, each with this call as its first"
            yield Figure(f"longest wait of the loop, first {call}", name, 1, "ms", values, LIMIT_MS, note)


def wait_of(url: str, call: str) -> float:
    """Return the longest wait of a new process's loop during its first call, in milliseconds."""
    command = [sys.executable, "-m", "benchmarks.first_calls", url, call]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@asynccontextmanager
async def _database(engine: str) -> AsyncIterator[tuple[str, str]]:
    """Make a database with tables; yield the engine's name and the database's URL."""
    with tempfile.TemporaryDirectory(prefix="iftb-bench-") as folder:
        if engine == "postgresql":
            # imported here, because the new processes must import only the driver that they use
            from benchmarks.postgres import Postgres

            server = Postgres()
            async with server.opened(Path(folder)):
                yield server.name, server.url
            return
        url = f"{engine}:///{folder}/store.db"
        async with DatabaseManager(url) as db:
            await db.create_tables()
        yield {"sqlite": "SQLite", "duckdb": "DuckDB"}[engine], url


async def _main(url: str, call: str) -> None:
    async with DatabaseManager(url) as db:
        sys.stdout.write(f"{1_000 * await longest_wait(lambda: CALLS[call](db))}\n")


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
