"""A Delta Lake beside PostgreSQL in one run, and beside itself with ten times the bars.

``python -m benchmarks.lake``: 2,000,000 bars of 20 series in both, 20,000,000 in a second lake, and copies from PostgreSQL into
a lake and into DuckDB by the real command. ``--bars 100000`` is a small run. It counts the files that a symbol-day reads.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute
import typer

from benchmarks.objects import bars
from benchmarks.postgres import postgres_databases
from benchmarks.report import lines_to_markdown
from benchmarks.results import Results
from benchmarks.series import SYMBOL, TIMEFRAME
from benchmarks.show import table_of, terminal, verdict
from benchmarks.timing import Contender, ratio, take_turns
from benchmarks.transfer import Step, run_command
from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository
from iftb_store.abilities import SupportsCompaction
from iftb_store.protocols import Capability

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

SERIES = 20
#: The greatest ratios to PostgreSQL, of reads of the larger lake to the smaller one, and the most files that a symbol-day reads.
TARGETS = {
    "symbol-day to objects": 2.0,
    "symbol-month to objects": 0.8,
    "gaps of a month": 0.7,
    "insert 1,000 bars": 4.0,
    "upsert 100 changed bars": 8.0,
}
GROWTH, FILES, COPY = 1.2, 2, 0.7
_BEGIN, _END = "<!-- lake: begin -->", "<!-- lake: end -->"
_DAY, _MONTH = timedelta(days=1), timedelta(days=31)
# the bars of one commit, which several series share
_COMMIT = 200_000


def main(
    number: Annotated[
        int, typer.Option("--bars", min=SERIES * 1_000, help="Bars in PostgreSQL and in the smaller lake.")
    ] = 2_000_000,
    growth: Annotated[int, typer.Option(min=2, help="How many times as many bars the larger lake has.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each case; the table has the medians of their ratios.")] = 9,
    path: Annotated[Path, typer.Option("--json", help="Write the figures into this file.")] = Path("lake.json"),
    page: Annotated[Path | None, typer.Option(help="Write the table into this page, between its markers.")] = None,
) -> None:
    """Measure a lake beside PostgreSQL and beside a larger lake."""
    with tempfile.TemporaryDirectory(prefix="iftb-lake-") as name, postgres_databases(Path(name)) as create:
        folder = Path(name)
        urls = {"PostgreSQL": create(), "lake": f"delta:///{folder / 'lake'}", "large lake": f"delta:///{folder / 'large'}"}
        lines = asyncio.run(_measure(urls, number, growth, rounds))
        lines += list(_copy(urls["PostgreSQL"], folder, number))
    path.write_text(json.dumps(lines, indent=2) + "\n")
    if page is not None:
        page.write_text(_put_into(page.read_text(), lines, number))
    terminal().print(table_of(f"A lake beside PostgreSQL, {number:,} bars, and beside a lake of {number * growth:,}", lines))


async def _measure(urls: dict[str, str], number: int, growth: int, rounds: int) -> list[dict[str, Any]]:
    each = number // SERIES
    whole = bars(each * growth)
    async with AsyncExitStack() as stack:
        stores = {name: await stack.enter_async_context(DatabaseManager(url)) for name, url in urls.items()}
        for name, db in stores.items():
            await _fill(db, whole if name == "large lake" else whole[:each])
        lines = []
        for name, target in TARGETS.items():
            found = await take_turns(
                {store: _case(name, stores[store], whole[:each]) for store in ("lake", "PostgreSQL")}, rounds
            )
            lines.append(_line(name, found, "PostgreSQL", "lake", target))
        for name in list(TARGETS)[:3]:
            found = await take_turns(
                {store: _case(name, stores[store], whole[:each]) for store in ("large lake", "lake")}, rounds
            )
            lines.append(_line(f"growth: {name}", found, "lake", "large lake", GROWTH))
        for store in ("lake", "large lake"):
            with _counting(Path(urls[store].removeprefix("delta:///"))) as opened:
                async with DatabaseManager(urls[store]) as db:
                    await _case("symbol-day to objects", db, whole[:each]).run()
            lines.append(_figures(f"files read for a symbol-day, {store}", "", f"{len(opened)}", len(opened), FILES))
        return lines


async def _fill(db: DatabaseManager, whole: Sequence[OHLCVBar]) -> None:
    """Write the bars under the names of several symbols, month by month, and let the store settle."""
    if Capability.MIGRATIONS in db.capabilities:
        await db.create_tables()
    async with DatabaseManager("duckdb:///:memory:") as memory:
        await memory.create_tables()
        await OHLCVRepository(memory).insert_many(whole)
        table = (await OHLCVRepository(memory).read_arrow()).drop_columns(["id", "created_at"])
    repository, place = OHLCVRepository(db), table.schema.get_field_index("symbol")
    months: Any = pc.add(pc.multiply(pc.year(table["timestamp"]), 100), pc.month(table["timestamp"]))
    for month in pc.unique(months).to_pylist():
        part = table.filter(pc.equal(months, month))
        together = max(1, _COMMIT // part.num_rows)
        names = [SYMBOL, *(f"COIN{index:03}USDT" for index in range(1, SERIES))]
        for first in range(0, SERIES, together):
            chosen = [
                part.set_column(place, "symbol", pa.repeat(pa.scalar(name), part.num_rows))
                for name in names[first : first + together]
            ]
            await repository.write_arrow(pa.concat_tables(chosen))
    if db.url.startswith("delta"):
        await db.ability(SupportsCompaction).compact(dry_run=False, keep=timedelta(days=7), progress=lambda done, total: None)


def _case(name: str, db: DatabaseManager, whole: Sequence[OHLCVBar]) -> Contender:
    repository = OHLCVRepository(db)
    numbers = count(1)

    async def insert() -> None:
        start = whole[-1].timestamp + next(numbers) * _DAY
        await repository.insert_many(_move(whole[:1_000], start))

    async def upsert() -> None:
        extra = next(numbers)
        await repository.upsert_many([replace(bar, volume=bar.volume + Decimal(extra)) for bar in whole[-100:]])

    start = max(whole[0].timestamp, min(whole[len(whole) // 2].timestamp, whole[-1].timestamp - _MONTH))
    window = start, start + (_DAY if name.startswith("symbol-day") else _MONTH)
    work = {
        "symbol-day to objects": lambda: repository.get_range(SYMBOL, TIMEFRAME, *window),
        "symbol-month to objects": lambda: repository.get_range(SYMBOL, TIMEFRAME, *window),
        "gaps of a month": lambda: repository.get_gaps(SYMBOL, TIMEFRAME, start=window[0], end=window[1]),
        "insert 1,000 bars": insert,
        "upsert 100 changed bars": upsert,
    }
    return Contender(work[name])


def _move(chosen: Sequence[OHLCVBar], start: datetime) -> list[OHLCVBar]:
    return [replace(bar, timestamp=start + (bar.timestamp - chosen[0].timestamp)) for bar in chosen]


@contextmanager
def _counting(folder: Path) -> Iterator[set[str]]:
    """Fill the yielded set, at the end of the block, with the data files that were read in it, by their times of access."""
    files = [file for file in folder.rglob("*.parquet") if "_delta_log" not in file.parts]
    before = {}
    for file in files:
        os.utime(file, ns=(0, file.stat().st_mtime_ns))
        before[file] = file.stat().st_atime_ns
    opened = set[str]()
    yield opened
    opened.update(file.name for file in files if file.stat().st_atime_ns != before[file])


def _copy(source: str, folder: Path, number: int) -> Iterator[dict[str, Any]]:
    """Copy the bars by the command, each way in a separate process."""
    ways = {"lake": f"delta:///{folder / 'copied'}", "DuckDB": f"duckdb:///{folder / 'copied.duckdb'}"}
    steps: dict[str, Step] = {
        name: run_command(f"PostgreSQL -> {name}", number, "copy", source, url, "--table", "ohlcv", "--quiet")
        for name, url in ways.items()
    }
    speeds = {name: number / step.seconds for name, step in steps.items()}
    found = speeds["lake"] / speeds["DuckDB"]
    yield {
        "case": "copy of PostgreSQL, rows/s into DuckDB and into the lake",
        "reference": f"{speeds['DuckDB']:,.0f}",
        "lake": f"{speeds['lake']:,.0f}",
        "ratio": f"{found:.2f}",
        "target": f">= {COPY}",
        "met": verdict(found >= COPY),
    }


def _put_into(page: str, lines: list[dict[str, Any]], number: int) -> str:
    """Return the page with the table between its markers."""
    run = Results.begun({})
    cpu, cores, *others = run.machine.values()
    machine = ", ".join((cpu, f"{cores} cores", *others[:-1], f"Python {others[-1]}"))
    about = f"Run of {run.started}: {number:,} bars in PostgreSQL and in the lake; {machine}.\n\n"
    return f"{page.split(_BEGIN)[0]}{_BEGIN}\n{about}{lines_to_markdown(lines)}{_END}{page.split(_END)[1]}"


def _line(name: str, found: dict[str, list[float]], reference: str, subject: str, target: float) -> dict[str, Any]:
    middle, low, high = ratio(found[subject], found[reference])
    one, two = (f"{median(found[store]) * 1e3:.1f} ms" for store in (reference, subject))
    return _figures(name, one, two, middle, target, f"{middle:.2f} [{low:.2f} to {high:.2f}]")


def _figures(name: str, reference: str, lake: str, value: float, target: float, shown: str = "") -> dict[str, Any]:
    return {
        "case": name,
        "reference": reference,
        "lake": lake,
        "ratio": shown,
        "target": f"<= {target}",
        "met": verdict(value <= target),
    }


if __name__ == "__main__":
    typer.run(main)
