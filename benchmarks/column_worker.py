"""Does one piece of work of `benchmarks.columns` and prints its seconds; runs with this version and with an earlier one.

``python column_worker.py CASE SIDE SIZE URL``; SIDE is ours, first or a peer. It imports only what both versions have.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from time import perf_counter, process_time
from typing import Any
from zipfile import ZipFile

import pyarrow as pa

START = datetime(2024, 1, 1, tzinfo=UTC)
_PRICES = ("open", "high", "low", "close", "volume", "quote_volume")
_DECIMAL = pa.decimal128(38, 18)


def make_table(series: int, size: int) -> pa.Table:
    """Return one-minute bars of some series with two to four decimals, in key order."""
    each, first = size // series, int(START.timestamp())
    times = pa.array([first + 60 * index for index in range(each)]).cast(pa.timestamp("s", "UTC")).cast(pa.timestamp("us", "UTC"))
    columns: dict[str, Any] = {"timestamp": times}
    for place, name in enumerate(_PRICES):
        shift = {"high": 200_000, "low": -200_000}.get(name, 0)
        numbers = [f"{(300_000 + shift + index * (7 + place) % 90_001) / 10_000:.4f}" for index in range(each)]
        columns[name] = pa.array(numbers).cast(_DECIMAL)
    columns["trades_count"] = pa.array([index % 997 for index in range(each)], pa.int64())
    parts = []
    for number in range(series):
        names = {"exchange": "binance", "symbol": f"S{number:03}", "timeframe": "1m"}
        parts.append(pa.table({**{name: pa.repeat(pa.scalar(value), each) for name, value in names.items()}, **columns}))
    return pa.concat_tables(parts).combine_chunks()


def write_dumps(folder: Path, size: int) -> list[Path]:
    """Write four zipped kline dumps with together ``size`` bars."""
    each, paths = size // 4, list[Path]()
    for symbol in ("AAA", "BBB", "CCC", "DDD"):
        path = folder / f"{symbol}-1m-2024-01.zip"
        lines = BytesIO()
        for index in range(each):
            opened = int(START.timestamp() + 60 * index) * 1_000
            price, volume = 2 + index % 1_009 / 1_000, 1_000 + index % 99_991 / 10
            line = f"{opened},{price:.4f},{price + 1:.4f},{price - 1:.4f},{price:.4f},{volume:.1f},{opened + 59_999}"
            lines.write(f"{line},{volume * price:.4f},{index % 997},{volume / 2:.1f},{volume:.4f},0\n".encode())
        with ZipFile(path, "w", 8) as archive:
            archive.writestr(f"{path.stem}.csv", lines.getvalue())
        paths.append(path)
    return paths


def _server_seconds() -> float:
    """Return the processor time of the PostgreSQL server whose process IFTB_STORE_BENCH_POSTMASTER names."""
    master = os.environ.get("IFTB_STORE_BENCH_POSTMASTER", "")
    total = 0
    for path in Path("/proc").iterdir() if master else ():
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split() if path.name.isdigit() else []
        except OSError:
            continue
        if path.name == master:
            total += sum(map(int, fields[11:15]))
        elif fields and fields[1] == master:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


class Clock:
    """Measures the block: seconds, and processor seconds with those of the server."""

    def __enter__(self) -> Clock:
        self._started = perf_counter(), process_time() + _server_seconds()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = perf_counter() - self._started[0]
        self.processor = process_time() + _server_seconds() - self._started[1]


def _parse(side: str, size: int, url: str) -> Clock:
    paths = write_dumps(Path.cwd(), size)
    for path in paths if side in _PEERS else ():
        with ZipFile(path) as archive:
            archive.extractall()
    read = {"ours": _read_ours, "first": _read_first, **_PEERS}[side]
    # the first call of a process imports modules
    read(paths[:1])
    with Clock() as clock:
        count = read(paths)
    if count != size:
        raise AssertionError(f"{count} bars were read, not {size}")
    return clock


def _read_ours(paths: list[Path]) -> int:
    from iftb_store.files.readers.binance import KlineDump

    return sum(part.table.num_rows for path in paths for part in KlineDump(path).tables())


def _read_first(paths: list[Path]) -> int:
    from iftb_store.klines import KlineDump  # type: ignore[import-not-found]

    return sum(len(batch) for path in paths for batch in KlineDump(path).batches())


def _read_duckdb(paths: list[Path]) -> int:
    import duckdb

    kinds = ["BIGINT", *["DECIMAL(38,18)"] * 5, "BIGINT", "DECIMAL(38,18)", "BIGINT", *["VARCHAR"] * 3]
    columns = {f"c{place}": kind for place, kind in enumerate(kinds)}
    return sum(duckdb.read_csv(f"{path.stem}.csv", header=False, columns=columns).to_arrow_table().num_rows for path in paths)


def _read_polars(paths: list[Path]) -> int:
    import polars

    kinds: list[Any] = [
        polars.Int64,
        *[polars.Decimal(38, 18)] * 5,
        polars.Int64,
        polars.Decimal(38, 18),
        polars.Int64,
        *[polars.String] * 3,
    ]
    return sum(int(polars.read_csv(f"{path.stem}.csv", has_header=False, schema_overrides=kinds).height) for path in paths)


_PEERS = {"duckdb": _read_duckdb, "polars": _read_polars}


def _import(side: str, size: int, url: str) -> Clock:
    from iftb_store.cli import main

    paths, folder = write_dumps(Path.cwd(), size), Path.cwd() / "first"
    folder.mkdir()
    shutil.copy(paths[0], folder / "ZZZ-1m-2024-01.zip")
    # the first import of a process imports modules
    for words in (["migrate", url], ["import", url, str(folder / "ZZZ-1m-2024-01.zip"), "--quiet"]):
        _require(main(words))
    with Clock() as clock:
        code = main(["import", url, *map(str, paths), "--quiet"])
    _require(code)
    return clock


def _copy(side: str, size: int, url: str) -> Clock:
    from iftb_store.cli import main

    source = f"sqlite:///{Path.cwd() / 'source.db'}"
    asyncio.run(_fill(source, 1, size))
    _require(main(["migrate", url]))
    with Clock() as clock:
        code = main(["copy", source, url, "--quiet"])
    _require(code)
    return clock


def _require(code: int) -> None:
    if code:
        raise AssertionError(f"the command ended with {code}")


async def _fill(url: str, series: int, size: int) -> None:
    from iftb_store import DatabaseManager, OHLCVRepository

    async with DatabaseManager(url) as db:
        await db.create_tables()
        await OHLCVRepository(db).write_arrow(make_table(series, size))


def _write(mode: Any) -> Callable[[str, int, str], Clock]:
    async def write(size: int, url: str) -> Clock:
        from iftb_store import DatabaseManager, OHLCVRepository

        table, warm = make_table(4, size), make_table(1, 1_000)
        warm = warm.set_column(warm.column_names.index("symbol"), "symbol", pa.repeat(pa.scalar("WARM"), 1_000))
        async with DatabaseManager(url) as db:
            await db.create_tables()
            await OHLCVRepository(db).write_arrow(warm, mode)
            with Clock() as clock:
                await OHLCVRepository(db).write_arrow(table, mode)
        return clock

    def work(side: str, size: int, url: str) -> Clock:
        return _ingest(size, url) if side == "adbc" else asyncio.run(write(size, url))

    return work


def _ingest(size: int, url: str) -> Clock:
    """Insert with ADBC, which does not look for stored bars."""
    asyncio.run(_fill(url, 1, 1_000))
    table = make_table(4, size)
    table = table.set_column(1, "symbol", pa.array([f"T{name}" for name in table["symbol"].to_pylist()]))
    table = table.append_column("created_at", pa.repeat(pa.scalar(START, pa.timestamp("us", "UTC")), table.num_rows))
    if url.startswith("sqlite"):
        from adbc_driver_sqlite import dbapi as driver

        target = url.removeprefix("sqlite:///")
        for name in _PRICES:
            table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
        for name in ("timestamp", "created_at"):
            table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.int64()))
    else:
        from adbc_driver_postgresql import dbapi as driver  # type: ignore[import-untyped, no-redef]

        target = url
    with driver.connect(target) as connection, connection.cursor() as cursor:
        with Clock() as clock:
            cursor.adbc_ingest("ohlcv", table, mode="append")
            connection.commit()
        return clock


def _query(name: str) -> Callable[[str, int, str], Clock]:
    async def run(side: str, size: int, url: str) -> Clock:
        from iftb_store import DatabaseManager, OHLCVRepository

        await _fill(url, 1, size)
        async with DatabaseManager(url) as db:
            repository = OHLCVRepository(db)
            calls: dict[str, Callable[[], Any]] = {
                "get_gaps": lambda: repository.get_gaps("S000", "1m"),
                "list_series": repository.list_series,
                # the first version always counts
                "list_series without counts": lambda: repository.list_series(**({"counts": False} if side == "ours" else {})),
                "resample": lambda: repository.resample("S000", "1m", "1h", START, datetime(2030, 1, 1, tzinfo=UTC)),
            }
            await calls[name]()
            with Clock() as clock:
                await calls[name]()
        return clock

    return lambda side, size, url: asyncio.run(run(side, size, url))


CASES: dict[str, Callable[[str, int, str], Clock]] = {
    "parse": _parse,
    "import": _import,
    "write_arrow upsert": _write("upsert"),
    "write_arrow insert": _write("insert"),
    "copy from SQLite": _copy,
    **{name: _query(name) for name in ("get_gaps", "list_series", "list_series without counts", "resample")},
}

if __name__ == "__main__":
    case, side, size, url = sys.argv[1:]
    done = CASES[case](side, int(size), url)
    print(json.dumps({"seconds": done.seconds, "processor": done.processor}))  # noqa: T201 - read by the parent
