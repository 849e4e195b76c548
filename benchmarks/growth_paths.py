"""The bulk paths whose growth is measured; `python -m benchmarks.growth_paths NAME WARM PLACE` runs one in this process.

It runs the path in two places, the first with a few rows, which imports and connects all that the path needs, and prints the
seconds of the second and the peak memory as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from time import perf_counter
from typing import Any

import pyarrow as pa

from benchmarks.objects import WRITTEN, bars
from benchmarks.results import peak_rss
from benchmarks.series import EXCHANGE, START, STEP, SYMBOL, TIMEFRAME
from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository, copy, examine, export_table, import_files, verify
from iftb_store.batches.arrow import arrow_schema
from iftb_store.schema.table_spec import BARS

#: Bars in one call that writes.
BATCH = 20_000
_SERIES: dict[str, Any] = {"symbols": SYMBOL, "timeframes": TIMEFRAME, "start": START}


@dataclass(frozen=True)
class Place:
    """Where a path runs: the databases that it reads and writes, a file, and the number of bars."""

    source: str
    destination: str
    file: str
    rows: int

    def text(self) -> str:
        """Return the place as JSON."""
        return json.dumps(asdict(self))


class Stopwatch:
    """Adds up the seconds of the blocks that it times."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._begun = perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += perf_counter() - self._begun


def _batches(rows: int) -> Iterator[list[OHLCVBar]]:
    """Yield consecutive bars of one series; each batch reuses the objects of the one before, so that memory stays flat."""
    whole = bars(min(BATCH, rows))
    span = whole[-1].timestamp - whole[0].timestamp + STEP
    for first in range(0, rows, BATCH):
        yield whole[: rows - first]
        for bar in whole:
            bar.timestamp += span


async def _insert_many(place: Place, watch: Stopwatch) -> None:
    async with _created(place.destination) as db:
        for batch in _batches(place.rows):
            with watch:
                await OHLCVRepository(db).insert_many(batch)


async def _write_arrow(place: Place, watch: Stopwatch) -> None:
    schema = pa.schema([arrow_schema(BARS).field(name) for name in WRITTEN])
    async with _created(place.destination) as db:
        for batch in _batches(place.rows):
            table = pa.table({name: [getattr(bar, name) for bar in batch] for name in WRITTEN}, schema=schema)
            with watch:
                await OHLCVRepository(db).write_arrow(table)


async def _import(place: Place, watch: Stopwatch) -> None:
    async with _created(place.destination) as db:
        with watch:
            await import_files(db, place.file)


async def _copy(place: Place, watch: Stopwatch) -> None:
    async with DatabaseManager(place.source) as source, _created(place.destination) as destination:
        with watch:
            await copy(source, destination)


async def _verify(place: Place, watch: Stopwatch) -> None:
    async with DatabaseManager(place.source) as source, DatabaseManager(place.destination) as destination:
        with watch:
            found = await verify(source, destination, tables=BARS.name, **_SERIES)
        assert found.equal


async def _export(place: Place, watch: Stopwatch) -> None:
    async with DatabaseManager(place.source) as db:
        with watch:
            await export_table(db, place.file, overwrite=True, **_SERIES)


async def _stream_range(place: Place, watch: Stopwatch) -> None:
    async with DatabaseManager(place.source) as db:
        end = START + timedelta(days=36_500)
        with watch:
            await _drain(OHLCVRepository(db).stream_range(SYMBOL, TIMEFRAME, START, end, EXCHANGE))


async def _stream_arrow(place: Place, watch: Stopwatch) -> None:
    async with DatabaseManager(place.source) as db:
        with watch:
            await _drain(OHLCVRepository(db).stream_arrow(SYMBOL, TIMEFRAME, START, exchange=EXCHANGE, batch_size=16_384))


async def _list_series(place: Place, watch: Stopwatch) -> None:
    async with DatabaseManager(place.source) as db:
        with watch:
            await OHLCVRepository(db).list_series()


async def _doctor(place: Place, watch: Stopwatch) -> None:
    async with DatabaseManager(place.source) as db:
        with watch:
            await examine(db)


#: The paths, ordered so that each finds what it needs: the first fills the source, and the file is written before it is read.
PATHS: dict[str, Callable[[Place, Stopwatch], Awaitable[None]]] = {
    "insert_many": _insert_many,
    "write_arrow": _write_arrow,
    "stream_range": _stream_range,
    "stream_arrow": _stream_arrow,
    "list_series": _list_series,
    "doctor": _doctor,
    "export": _export,
    "import": _import,
    "copy": _copy,
    "verify": _verify,
}


async def _drain(batches: AsyncIterable[object]) -> None:
    async for _ in batches:
        pass


@asynccontextmanager
async def _created(url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(url) as db:
        await db.migrate()
        yield db


async def _main(name: str, warm: str, place: str) -> None:
    await PATHS[name](Place(**json.loads(warm)), Stopwatch())
    watch = Stopwatch()
    await PATHS[name](Place(**json.loads(place)), watch)
    sys.stdout.write(json.dumps({"seconds": watch.seconds, "peak": peak_rss()}))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
