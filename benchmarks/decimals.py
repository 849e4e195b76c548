"""Measures representations of decimals on SQLite: their cost, and whether each is exact and sorts in SQL."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import typer

from benchmarks.objects import bars
from benchmarks.show import table_of, terminal
from benchmarks.timing import Contender, take_turns
from iftb_store import OHLCVBar
from iftb_store.schema.types import to_epoch_us
from iftb_store.values.decimals import CONTEXT, format_plain, from_sortable, to_sortable

_MIDDLE = 1 << 127
_LARGEST = "99999999999999999999.99999999999999999"
#: The range of DECIMAL(38,18), with neighbours that are equal as floats.
_RANGE = [
    *map(Decimal, (f"{_LARGEST}9", f"{_LARGEST}8", f"-{_LARGEST}9", f"-{_LARGEST}8", "0.000000000000000001")),
    *map(Decimal, ("0", "-1.5", "-1.25", "-10", "9", "10", "50000.25", "50000.250000000000000001", "0.1")),
]


class Representation(NamedTuple):
    """How a column represents a decimal."""

    name: str
    affinity: str
    encode: Callable[[Decimal], Any]
    decode: Callable[[Any], Decimal]
    note: str


def _to_scaled(value: Decimal) -> int:
    return int(value.scaleb(8, CONTEXT))


def _from_scaled(value: int) -> Decimal:
    return Decimal(value).scaleb(-8, CONTEXT)


def _to_blob(value: Decimal) -> bytes:
    return (int(value.scaleb(18, CONTEXT)) + _MIDDLE).to_bytes(16, "big")


def _from_blob(value: bytes) -> Decimal:
    return Decimal(int.from_bytes(value, "big") - _MIDDLE).scaleb(-18, CONTEXT)


REPRESENTATIONS = (
    Representation("plain TEXT", "TEXT", str, Decimal, "as str() gives it"),
    Representation(
        "sortable TEXT (ours)", "TEXT", lambda value: to_sortable(format_plain(value) or "0"), from_sortable,
        "value by value here; insert_many encodes whole columns, faster",
    ),
    Representation("INTEGER of 1E-8", "INTEGER", _to_scaled, _from_scaled, "8 places, up to 92 billion; SUM in SQL"),
    Representation("BLOB of 16 bytes", "BLOB", _to_blob, _from_blob, "a 128-bit integer of 1E-18, big-endian"),
    Representation("REAL", "REAL", float, lambda value: Decimal(repr(value)), "a float: 15 to 17 digits"),
)  # fmt: skip


async def measure(rows: int, rounds: int) -> list[dict[str, Any]]:
    """Return one line for each representation."""
    whole = bars(rows)
    with tempfile.TemporaryDirectory(prefix="iftb-bench-") as folder:
        files = {kind.name: Path(folder) / f"{number}.db" for number, kind in enumerate(REPRESENTATIONS)}
        writes = await take_turns(
            {
                kind.name: Contender(_writer(kind, whole, files[kind.name]), _fresh(kind, files[kind.name]))
                for kind in REPRESENTATIONS
            },
            rounds,
        )
        sizes = {name: path.stat().st_size for name, path in files.items()}
        reads = await take_turns({kind.name: Contender(_reader(kind, files[kind.name])) for kind in REPRESENTATIONS}, rounds)
    return [
        {
            "representation": kind.name,
            "write µs/row": round(median(writes[kind.name]) / rows * 1e6, 2),
            "read µs/row": round(median(reads[kind.name]) / rows * 1e6, 2),
            "bytes/row": round(sizes[kind.name] / rows, 1),
            "exact over the range": _yes(_is_exact(kind)),
            "comparable in SQL": _yes(_sorts(kind)),
            "note": kind.note,
        }
        for kind in REPRESENTATIONS
    ]


def _schema(kind: Representation) -> str:
    return f"""
        CREATE TABLE ohlcv (
            id INTEGER PRIMARY KEY,
            exchange TEXT NOT NULL, symbol TEXT NOT NULL, timeframe TEXT NOT NULL, timestamp INTEGER NOT NULL,
            open {kind.affinity}, high {kind.affinity}, low {kind.affinity}, close {kind.affinity}, volume {kind.affinity},
            quote_volume {kind.affinity}, UNIQUE (exchange, symbol, timeframe, timestamp)
        )"""


def _fresh(kind: Representation, path: Path) -> Callable[[], Any]:
    async def make() -> None:
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(_schema(kind))
        connection.close()

    return make


def _writer(kind: Representation, whole: Sequence[OHLCVBar], path: Path) -> Callable[[], Any]:
    encode = kind.encode

    async def write() -> None:
        rows = [
            (
                bar.exchange, bar.symbol, bar.timeframe, to_epoch_us(bar.timestamp), encode(bar.open), encode(bar.high),
                encode(bar.low), encode(bar.close), encode(bar.volume), encode(bar.quote_volume or Decimal(0)),
            )
            for bar in whole
        ]  # fmt: skip
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.executemany("INSERT INTO ohlcv VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.close()

    return write


def _reader(kind: Representation, path: Path) -> Callable[[], Any]:
    decode = kind.decode

    async def read() -> object:
        with sqlite3.connect(path) as connection:
            rows = connection.execute(
                "SELECT open, high, low, close, volume, quote_volume FROM ohlcv ORDER BY timestamp"
            ).fetchall()
        connection.close()
        return [tuple(map(decode, row)) for row in rows]

    return read


def _round_trip(kind: Representation, order: str) -> list[Decimal]:
    with sqlite3.connect(":memory:") as connection:
        connection.execute(f"CREATE TABLE numbers (value {kind.affinity})")
        connection.executemany("INSERT INTO numbers VALUES (?)", [(kind.encode(value),) for value in _RANGE])
        return [kind.decode(value) for (value,) in connection.execute(f"SELECT value FROM numbers ORDER BY {order}")]


def _is_exact(kind: Representation) -> bool:
    try:
        return _round_trip(kind, "rowid") == _RANGE
    except OverflowError:
        return False


def _sorts(kind: Representation) -> bool:
    try:
        back = _round_trip(kind, "value")
    except OverflowError:
        # it cannot hold the ends of the range, but the values that it holds sort as numbers
        return kind.affinity == "INTEGER"
    return back == sorted(back)


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"


def main(
    rows: Annotated[int, typer.Option(help="Bars to write and read.")] = 200_000,
    rounds: Annotated[int, typer.Option(help="Samples of each.")] = 5,
) -> None:
    """Measure representations of decimals on SQLite."""
    terminal().print(table_of("Decimals on SQLite", asyncio.run(measure(rows, rounds))))


if __name__ == "__main__":
    typer.run(main)
