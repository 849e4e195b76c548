"""Measures DuckDB's key: a primary key's index beside no key and a checked insert, each in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import duckdb
import typer

from benchmarks.results import peak_rss
from benchmarks.show import table_of, terminal

VARIANTS = {"key": "primary key", "checked": "no key, checked insert"}
_BATCH = 1_000_000
_SMALL = 1_000
_SAMPLES = 20

_TABLE = """
    CREATE TABLE ohlcv (
        exchange VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL, timestamp TIMESTAMPTZ NOT NULL,
        open DECIMAL(38,18) NOT NULL, high DECIMAL(38,18) NOT NULL, low DECIMAL(38,18) NOT NULL, close DECIMAL(38,18) NOT NULL,
        volume DECIMAL(38,18) NOT NULL, quote_volume DECIMAL(38,18), trades_count BIGINT, created_at TIMESTAMPTZ{}
    )"""
# twenty interleaved series, like an exchange's symbols; prices that do not compress well
_MADE = """
    SELECT 'binance' AS exchange, 'SYMBOL' || (i % 20) AS symbol, '1m' AS timeframe,
        make_timestamptz(1420070400000000 + (i // 20) * 60000000) AS timestamp,
        (50000 + hash(i) % 100000 / 100)::DECIMAL(38,18) AS open, (50000 + hash(i + 1) % 100000 / 100)::DECIMAL(38,18) AS high,
        (50000 + hash(i + 2) % 100000 / 100)::DECIMAL(38,18) AS low,
        (50000 + hash(i + 3) % 100000 / 100)::DECIMAL(38,18) AS close,
        (hash(i + 4) % 10000000 / 100000)::DECIMAL(38,18) AS volume,
        (hash(i + 5) % 1000000000 / 1000)::DECIMAL(38,18) AS quote_volume, (hash(i) % 5000)::BIGINT AS trades_count,
        make_timestamptz(1700000000000000) AS created_at
    FROM range($1, $2) made (i)"""
_CHECK = """
    SELECT 1 FROM ohlcv AS stored SEMI JOIN batch AS fresh USING (exchange, symbol, timeframe, timestamp)
    WHERE stored.timestamp BETWEEN (SELECT min(timestamp) FROM batch) AND (SELECT max(timestamp) FROM batch) LIMIT 1"""
_TWICE = "SELECT 1 FROM batch GROUP BY exchange, symbol, timeframe, timestamp HAVING count(*) > 1 LIMIT 1"


def measure(rows: int) -> list[dict[str, Any]]:
    """Return one line for each variant, measured with this many bars."""
    return [_in_process(variant, rows) for variant in VARIANTS]


def _in_process(variant: str, rows: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.duckdb_key", "--rows", str(rows), "--variant", variant]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    line: dict[str, Any] = json.loads(done.stdout)
    return line


def load(variant: str, rows: int) -> dict[str, Any]:
    """Load bars in batches of a million, then batches of a thousand; return the line."""
    with tempfile.TemporaryDirectory(prefix="iftb-bench-") as folder:
        path = Path(folder) / "key.duckdb"
        connection = duckdb.connect(str(path))
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(_TABLE.format(", PRIMARY KEY (exchange, symbol, timeframe, timestamp)" if variant == "key" else ""))
        large = [_insert(connection, variant, first, min(_BATCH, rows - first)) for first in range(0, rows, _BATCH)]
        small = [_insert(connection, variant, rows + sample * _SMALL, _SMALL) for sample in range(_SAMPLES)]
        used = connection.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchone() or (0,)
        connection.close()
        size = path.stat().st_size
        started = perf_counter()
        connection = duckdb.connect(str(path))
        connection.execute("SELECT count(*) FROM ohlcv").fetchone()
        opened = perf_counter() - started
        connection.close()
    return {
        "variant": VARIANTS[variant],
        "bars": rows,
        "load s": round(sum(large), 2),
        "first batch µs/row": round(large[0] / min(_BATCH, rows) * 1e6, 2),
        "last batch µs/row": round(large[-1] / min(_BATCH, rows) * 1e6, 2),
        "batch of 1,000 ms": round(median(small) * 1e3, 1),
        "DuckDB's memory MiB": round(used[0] / 2**20),
        "peak RSS MiB": round(peak_rss()),
        "bytes/row on disk": round(size / rows, 1),
        "open and count ms": round(opened * 1e3, 1),
    }


def _insert(connection: duckdb.DuckDBPyConnection, variant: str, first: int, count: int) -> float:
    connection.register("batch", connection.execute(_MADE, [first, first + count]).to_arrow_table())
    started = perf_counter()
    connection.begin()
    if variant == "checked" and (connection.execute(_TWICE).fetchone() or connection.execute(_CHECK).fetchone()):
        raise ValueError("the batch holds a duplicate or a stored key")
    connection.execute("INSERT INTO ohlcv SELECT * FROM batch")
    connection.commit()
    seconds = perf_counter() - started
    connection.unregister("batch")
    return seconds


def main(
    rows: Annotated[int, typer.Option(help="Bars in the table.")] = 20_000_000,
    variant: Annotated[str | None, typer.Option(help="One variant's line as JSON; key or checked.")] = None,
) -> None:
    """Measure DuckDB with and without a key."""
    if variant is not None:
        typer.echo(json.dumps(load(variant, rows)))
        return
    terminal().print(table_of("DuckDB's key", measure(rows)))


if __name__ == "__main__":
    typer.run(main)
