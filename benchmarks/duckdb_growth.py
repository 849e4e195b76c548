"""DuckDB under a memory limit: many bars loaded by our insert_many, batch after batch, in a separate process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer
from sqlalchemy import text

from benchmarks.objects import bars
from benchmarks.results import Figure, Row, peak_rss
from benchmarks.series import STEP
from iftb_store import DatabaseManager, OHLCVRepository

_EDGE = 5


def measure(rows: int, batch: int, memory_limit: str) -> list[Row | Figure]:
    """Load in a separate process; return the times of the batches and the memory."""
    command = [sys.executable, "-m", "benchmarks.duckdb_growth", "--rows", str(rows), "--batch", str(batch)]
    done = subprocess.run([*command, "--memory-limit", memory_limit], capture_output=True, text=True, check=False)
    name = f"load under memory_limit {memory_limit}"
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [Figure(name, "DuckDB", rows, "bars", {"ours": 1.0}, 0.0, f"failed: {reason}")]
    found = json.loads(done.stdout)
    edge = min(_EDGE, len(found["seconds"]) // 2)
    samples = {
        "last batches": [seconds / batch for seconds in found["seconds"][-edge:]],
        "first batches": [seconds / batch for seconds in found["seconds"][:edge]],
    }
    note = f"time per row, the last {edge} of {rows // batch} batches beside the first"
    return [
        Row("growth of insert_many", "DuckDB", rows, samples, "first batches", None, note, "last batches"),
        Figure(
            name,
            "DuckDB",
            rows,
            "MiB",
            {"peak RSS": found["rss"], "of it one batch of objects": found["objects"], "DuckDB's memory": found["memory"]},
            None,
            f"{found['stored']:,} bars stored",
        ),
    ]


async def load(rows: int, batch: int, memory_limit: str) -> dict[str, Any]:
    """Load, and return the times and the memory."""
    whole = bars(batch)
    objects = peak_rss()
    span = whole[-1].timestamp - whole[0].timestamp + STEP
    seconds = []
    with tempfile.TemporaryDirectory(prefix="iftb-bench-") as folder:
        async with DatabaseManager(f"duckdb:///{Path(folder) / 'large.duckdb'}?memory_limit={memory_limit}") as db:
            await db.create_tables()
            for _ in range(rows // batch):
                started = perf_counter()
                await OHLCVRepository(db).insert_many(whole)
                seconds.append(perf_counter() - started)
                for bar in whole:
                    bar.timestamp += span
            async with db.get_session() as session:
                used = await session.execute(text("SELECT sum(memory_usage_bytes) FROM duckdb_memory()"))
                memory = float(used.scalar_one()) / 2**20
                stored = (await session.execute(text("SELECT count(*) FROM ohlcv"))).scalar()
    return {"seconds": seconds, "rss": peak_rss(), "objects": objects, "memory": memory, "stored": stored}


def main(
    rows: Annotated[int, typer.Option(help="Bars to load.")] = 20_000_000,
    batch: Annotated[int, typer.Option(help="Bars in one insert_many.")] = 1_000_000,
    memory_limit: Annotated[str, typer.Option(help="DuckDB's memory limit.")] = "2GiB",
) -> None:
    """Load bars into DuckDB under a memory limit and print the times and the memory as JSON."""
    typer.echo(json.dumps(asyncio.run(load(rows, batch, memory_limit))))


if __name__ == "__main__":
    typer.run(main)
