"""Copies a store through every engine with the real commands, and measures each step: rate, processor, peak memory.

``python -m benchmarks.transfer --rows 2000000 [DUMP.zip …]``: PostgreSQL -> DuckDB -> Parquet -> SQLite -> PostgreSQL, verified
at each step; raw SQL changes one digit, and verify must find it; then the rows of one more night are copied.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, Any

import asyncpg
import pyarrow as pa
import typer
from rich.table import Table
from sqlalchemy import make_url, text

from benchmarks.objects import NewTrades, bars
from benchmarks.postgres import URL_VARIABLE, postgres_server
from benchmarks.show import terminal
from iftb_store import DatabaseManager, OHLCVRepository, PositionRepository, SystemEventRepository, TradeRepository
from iftb_store.schema.scope import TABLES
from iftb_store.testing.samples import position

SERIES = 20
_ONE_DIGIT = "UPDATE ohlcv SET volume = volume + 0.000000000000000001 WHERE id = (SELECT max(id) / 2 FROM ohlcv)"
#: The other tables have one row for this many bars.
OTHERS = 200


# rusage also counts the parent's memory, which the child shares until it runs another program
_CHILD = """
import sys
from iftb_store.cli import main
code = main(sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""


@dataclass(frozen=True)
class Step:
    """One command: its name, its rows, its seconds, its processor seconds, its peak memory in MiB."""

    name: str
    rows: int
    seconds: float
    processor: float
    peak: float

    def line(self) -> dict[str, str | int | float]:
        """Return the displayed values."""
        return {
            "step": self.name,
            "rows": self.rows,
            "seconds": round(self.seconds, 1),
            "rows/s": round(self.rows / self.seconds),
            "µs/row": round(self.seconds / self.rows * 1e6, 2),
            "processor s": round(self.processor, 1),
            "peak MiB": round(self.peak),
        }


def main(
    dumps: Annotated[list[Path] | None, typer.Argument(help="Real kline dumps to import as well.")] = None,
    rows: Annotated[int, typer.Option(min=SERIES * OTHERS, help="Bars.")] = 100_000,
    path: Annotated[Path, typer.Option("--json", help="Write the figures into this file.")] = Path("transfer.json"),
) -> None:
    """Measure copies between the engines."""
    with TemporaryDirectory(prefix="iftb-transfer-") as name:
        folder = Path(name)
        given = os.environ.get(URL_VARIABLE)
        server: Any = None if given else postgres_server(folder)
        base = given or server.get_uri()
        live, back = (asyncio.run(_database(base, f"iftb_transfer_{os.getpid()}_{which}")) for which in ("live", "back"))
        try:
            steps = list(_steps(rows, dumps or [], live, back, folder))
        finally:
            asyncio.run(_drop(base, [live, back]))
            if server is not None:
                server.cleanup()
    lines = [step.line() for step in steps]
    path.write_text(json.dumps(lines, indent=2) + "\n")
    shown = Table(*lines[0])
    for line in lines:
        shown.add_row(*(str(value) for value in line.values()))
    terminal().print(shown)


def _steps(rows: int, dumps: list[Path], live: str, back: str, folder: Path) -> Iterator[Step]:
    total = asyncio.run(_fill(live, rows))
    if dumps:
        brought = run_command("dumps -> PostgreSQL", total, "import", live, *map(str, dumps), "--quiet")
        total = asyncio.run(_count(live))
        yield replace(brought, rows=total - brought.rows)
    research, laptop = f"duckdb:///{folder / 'research.duckdb'}", f"sqlite:///{folder / 'laptop.db'}"
    legs = [("PostgreSQL", live), ("DuckDB", research), ("SQLite", laptop), ("PostgreSQL", back)]
    for (one, source), (two, destination) in pairwise(legs):
        way = f"{one} -> {two}"
        if one == "DuckDB":
            yield from _through_parquet(total, source, destination, folder)
        else:
            yield run_command(way, total, "copy", source, destination, "--quiet")
        yield run_command(f"{way}, verify", total, "verify", source, destination, "--quiet")
        yield run_command(f"{way}, nothing new", total, "copy", source, destination, "--quiet")
    yield run_command("PostgreSQL -> PostgreSQL, verify all", total, "verify", live, back, "--quiet")
    asyncio.run(_change_a_digit(back))
    yield run_command("one digit changed, verify", total, "verify", live, back, "--quiet", expected=1)
    grown = asyncio.run(_night(live))
    yield run_command(f"PostgreSQL -> DuckDB, a night of {grown:,} rows", total + grown, "copy", live, research, "--quiet")
    yield run_command("PostgreSQL -> DuckDB, verify", total + grown, "verify", live, research, "--quiet")


def _through_parquet(total: int, source: str, destination: str, folder: Path) -> Iterator[Step]:
    """Export each table into a file, and import them all."""
    files = [str(folder / f"{table}.parquet") for table in TABLES]
    written = [
        run_command("", total, "export", source, "-o", file, "--table", table, "--quiet")
        for file, table in zip(files, TABLES, strict=True)
    ]
    yield Step(
        "DuckDB -> Parquet",
        total,
        sum(step.seconds for step in written),
        sum(step.processor for step in written),
        max(step.peak for step in written),
    )
    run_command("", total, "migrate", destination)
    yield run_command("Parquet -> SQLite", total, "import", destination, *files, "--quiet")


def run_command(name: str, rows: int, *words: str, expected: int = 0) -> Step:
    """Run a command in a separate process."""
    begun, before = perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", _CHILD, *words], stdout=subprocess.PIPE, check=False)
    seconds, after = perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != expected:
        raise RuntimeError(f"{name or words[0]} ended with {done.returncode} instead of {expected}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Step(name, rows, seconds, processor, int(done.stdout.split()[-1]) / 1024)


async def _fill(url: str, rows: int) -> int:
    """Write bars of some series, and rows of the other tables; return the number of rows."""
    others = rows // OTHERS
    async with DatabaseManager(url) as db:
        await db.migrate()
        async with db.get_session() as session:
            repository = OHLCVRepository(session)
            await repository.insert_many(bars(rows // SERIES))
            whole = (await repository.read_arrow()).drop_columns(["id", "created_at"])
            for number in range(1, SERIES):
                names = pa.repeat(pa.scalar(f"COIN{number}USDT"), whole.num_rows)
                await repository.write_arrow(whole.set_column(whole.schema.get_field_index("symbol"), "symbol", names))
            await _others(session, others)
    return rows // SERIES * SERIES + 3 * others


async def _others(session: object, count: int) -> None:
    new, trades = NewTrades(), TradeRepository(session)  # type: ignore[arg-type]
    positions, events = PositionRepository(session), SystemEventRepository(session)  # type: ignore[arg-type]
    for number in range(count):
        await trades.insert(new.next())
        await positions.update_position(position(symbol=f"COIN{number}USDT"))
        await events.log_event("order", "info", f"order {number} was filled", {"number": number, "venue": "x"})


async def _count(url: str) -> int:
    async with DatabaseManager(url) as db:
        return sum((await db.status()).tables.values())


async def _change_a_digit(url: str) -> None:
    """Change the last digit of one volume with raw SQL."""
    async with DatabaseManager(url) as db, db.get_session() as session:
        await session.execute(text(_ONE_DIGIT))


async def _night(url: str) -> int:
    """Write one more day of each series."""
    async with DatabaseManager(url) as db:
        repository = OHLCVRepository(db)
        grown = 0
        for series in await repository.list_series():
            fresh = bars(series.count + 1_440)[series.count :]
            grown += await repository.upsert_many([replace(bar, symbol=series.symbol) for bar in fresh])
    return grown


async def _database(base: str, name: str) -> str:
    connection = await asyncpg.connect(make_url(base).set(drivername="postgresql").render_as_string(hide_password=False))
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    await connection.close()
    return make_url(base).set(drivername="postgresql", database=name).render_as_string(hide_password=False)


async def _drop(base: str, urls: list[str]) -> None:
    connection = await asyncpg.connect(make_url(base).set(drivername="postgresql").render_as_string(hide_password=False))
    for url in urls:
        await connection.execute(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")
    await connection.close()


if __name__ == "__main__":
    typer.run(main)
