"""Measures copies into stores that grow, and the copy of one more night; each with this version and, if given, an older one.

``python -m benchmarks.night --rows 4000000 [--older PYTHON]``: PYTHON is the interpreter of an environment with the
older version, e.g. with the first version's commit. Both run the same commands on databases that they filled themselves.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, time
from typing import Annotated, Any

import typer

from benchmarks.growth import CreateDatabase
from benchmarks.postgres import postgres_databases
from benchmarks.show import table_of, terminal

SERIES = 4
#: Bars of one night: 1m candles of a day of all series.
NIGHT = SERIES * 1_440

# writes (series, first minute, minutes) with the version of iftb_store that runs it
_FILL = """
import asyncio, sys
import pyarrow as pa, pyarrow.compute as pc
from iftb_store import DatabaseManager, OHLCVRepository

_STEP = 100_000

def bars(symbol, first, count):
    numbers = pa.array(range(first, first + count), pa.int64())
    def price(divisor, by):
        whole = pc.add(pc.subtract(numbers, pc.multiply(pc.divide(numbers, divisor), divisor)), by)
        return pc.binary_join_element_wise(whole.cast(pa.string()), "25", ".").cast(pa.decimal128(38, 18))
    low, high, volume = price(997, 5_000), price(991, 20_000), price(9_973, 1)
    text = lambda value: pa.repeat(pa.scalar(value), count)
    return pa.table({
        "exchange": text("binance"), "symbol": text(symbol), "timeframe": text("1m"),
        "timestamp": pc.multiply(numbers, 60_000_000).cast(pa.timestamp("us", "UTC")),
        "open": low, "high": high, "low": low, "close": high, "volume": volume,
    })

async def main(url, prefix, series, first, count):
    async with DatabaseManager(url) as db:
        await db.migrate()
        for number in range(int(series)):
            for start in range(int(first), int(first) + int(count), _STEP):
                rows = bars(f"{prefix}{number}", start, min(_STEP, int(first) + int(count) - start))
                await OHLCVRepository(db).write_arrow(rows, "insert")

asyncio.run(main(*sys.argv[1:]))
"""
_COMMAND = "import sys; from iftb_store.cli import main; sys.exit(main(sys.argv[1:]))"
# the minute at which every series ends, so that `--since` finds the newest days
_END = 28_900_000


class Version:
    """One installed version of iftb_store."""

    def __init__(self, python: str) -> None:
        self._python = python

    def fill(self, url: str, prefix: str, series: int, first: int, count: int) -> None:
        """Write bars of ``count`` minutes from the minute ``first`` on into each of some series."""
        self._run(_FILL, url, prefix, str(series), str(first), str(count))

    def copy(self, *words: str) -> float:
        """Run `iftb-store copy` and return its seconds."""
        begun = perf_counter()
        self._run(_COMMAND, "copy", *words, "--quiet")
        return perf_counter() - begun

    def _run(self, program: str, *words: str) -> None:
        subprocess.run([self._python, "-P", "-c", program, *words], check=True)


def main(
    rows: Annotated[int, typer.Option(min=10 * NIGHT, help="Bars of the large store.")] = 4_000_000,
    older: Annotated[str | None, typer.Option(help="The Python interpreter of an older version.")] = None,
    path: Annotated[Path, typer.Option("--json", help="Write the figures into this file.")] = Path("night.json"),
) -> None:
    """Measure copies as stores grow."""
    lines: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix="iftb-night-") as folder, postgres_databases(Path(folder)) as create:
        lines += measure_growth(create, Path(folder), rows)
        lines += measure_nights(create, Path(folder), rows, [sys.executable, *([older] if older else [])])
    path.write_text(json.dumps(lines, indent=2) + "\n")
    terminal().print(table_of("Copies as a store grows", lines))


def measure_growth(create: CreateDatabase, folder: Path, rows: int) -> list[dict[str, Any]]:
    """Return the time a row of copies into an empty and a full PostgreSQL, and of a short and a long series into SQLite."""
    version, part = Version(sys.executable), rows // 8 // SERIES
    source, full, empty = f"sqlite:///{folder / 'part.db'}", create(), create()
    version.fill(source, "NEW", SERIES, 0, part)
    version.fill(full, "OLD", SERIES, 0, rows // SERIES)
    version.fill(empty, "OLD", 1, 0, 1)
    lines = [
        _line("into PostgreSQL with 1 bar", part * SERIES, version.copy(source, empty)),
        _line(f"into PostgreSQL with {rows:,} bars", part * SERIES, version.copy(source, full)),
    ]
    for count in (rows // 16, rows * 3 // 4):
        one = f"sqlite:///{folder / f'one{count}.db'}"
        version.fill(one, "ONE", 1, 0, count)
        seconds = version.copy(one, f"sqlite:///{folder / f'copy{count}.db'}")
        lines.append(_line(f"one series of {count:,} bars, SQLite to SQLite", count, seconds))
    return lines


def measure_nights(create: CreateDatabase, folder: Path, rows: int, pythons: Sequence[str]) -> list[dict[str, Any]]:
    """Return the seconds of the copy of one more night, PostgreSQL to DuckDB, whole and with --since, of each version."""
    lines = []
    for number, python in enumerate(pythons):
        version, name = Version(python), "this version" if python == sys.executable else "the older version"
        for size in (rows // 4, rows):
            source, count = create(), size // SERIES
            destination = f"duckdb:///{folder / f'night{number}_{size}.duckdb'}"
            version.fill(source, "S", SERIES, _END - count, count)
            version.copy(source, destination)
            # the first night fills what a destination keeps
            for night in range(3):
                version.fill(source, "S", SERIES, _END + night * 1_440, 1_440)
                words = ["--since", _since(_END + night * 1_440)] if night == 2 and number == 0 else []
                if number and night == 2:
                    continue
                seconds = version.copy(source, destination, *words)
                if night:
                    kind = "with --since" if words else "whole"
                    lines.append(_line(f"a night of {NIGHT:,} bars into {size:,}, {kind}, {name}", NIGHT, seconds))
    return lines


def _since(minute: int) -> str:
    """Return the duration from a day before a minute until now, in the form that --since takes."""
    return f"{round(time() / 60) - minute + 1_440}m"


def _line(name: str, rows: int, seconds: float) -> dict[str, Any]:
    return {"copy": name, "rows": rows, "seconds": round(seconds, 2), "µs/row": round(seconds / rows * 1e6, 2)}


if __name__ == "__main__":
    typer.run(main)
