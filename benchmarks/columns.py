"""Compares columns and transfers with an earlier version and with peers: processor time and time, in turns, with verdicts.

``python -m benchmarks.columns --first /path/to/python``: the interpreter of an environment with the earlier version, 5bdf4d4 for
the targets. Each sample is a new process with a new database; the processor time includes the PostgreSQL server's.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from uuid import uuid4

import asyncpg
import typer
from rich.table import Table
from sqlalchemy import make_url

from benchmarks.postgres import postgres_server
from benchmarks.show import terminal

_WORKER = Path(__file__).parent / "column_worker.py"
_FEW, _MANY = 170_000, 1_000_000


@dataclass(frozen=True)
class Comparison:
    """One piece of work on one engine, with the target: our part of the first version's processor time."""

    case: str
    engine: str
    size: int
    target: float
    peers: tuple[str, ...] = ()


ROWS = (
    Comparison("parse", "", _FEW, 0.25, ("duckdb", "polars")),
    Comparison("import", "duckdb", _FEW, 0.25),
    Comparison("import", "sqlite", _FEW, 0.35),
    Comparison("import", "postgresql", _FEW, 0.35),
    Comparison("write_arrow upsert", "duckdb", 200_000, 0.60),
    Comparison("write_arrow upsert", "sqlite", 200_000, 0.60, ("adbc",)),
    Comparison("write_arrow upsert", "postgresql", 200_000, 0.40, ("adbc",)),
    Comparison("write_arrow insert", "postgresql", 200_000, 0.50),
    Comparison("copy from SQLite", "duckdb", 500_000, 0.80),
    Comparison("copy from SQLite", "postgresql", 500_000, 0.60),
    Comparison("get_gaps", "sqlite", _MANY, 0.40),
    Comparison("list_series", "sqlite", _MANY, 0.45),
    Comparison("list_series without counts", "postgresql", _MANY, 0.05),
    Comparison("resample", "duckdb", _MANY, 0.50),
)


def main(
    first: Annotated[Path, typer.Option(help="Python of an environment with the earlier version.")],
    rounds: Annotated[int, typer.Option(min=1, help="Samples of each side.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Only rows whose name has this word; repeatable.")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="Only rows of this engine; repeatable.")] = None,
    path: Annotated[Path, typer.Option("--json", help="Write every sample into this file.")] = Path("columns.json"),
) -> None:
    """Print a table of our times, the first version's and the peers', in microseconds of processor time a row."""
    chosen = [
        row
        for row in ROWS
        if (not only or any(word in row.case for word in only)) and (not engine or row.engine in ("", *engine))
    ]
    table = Table("work", "engine", "rows", "ours", "first", "peers", "ratio", "ratio of times", "target", "met")
    lines = []
    with TemporaryDirectory(prefix="iftb-columns-") as name:
        server: Any = postgres_server(Path(name)) if any(row.engine == "postgresql" for row in chosen) else None
        try:
            for row in chosen:
                samples = measure(row, first, rounds, Path(name), server)
                lines.append({"work": row.case, "engine": row.engine, "rows": row.size, "samples": samples})
                path.write_text(json.dumps(lines, indent=2) + "\n")
                table.add_row(*describe(row, samples))
        finally:
            if server is not None:
                server.cleanup()
    terminal().print(table)


def measure(row: Comparison, first: Path, rounds: int, folder: Path, server: Any) -> dict[str, list[dict[str, float]]]:
    """Run every side in turns; return the samples of each."""
    sides = {"ours": sys.executable, "first": str(first), **dict.fromkeys(row.peers, sys.executable)}
    samples: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, python in sides.items():
            with TemporaryDirectory(dir=folder) as place, _database(row.engine, Path(place), server) as url:
                # the earlier version must not find this one
                environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
                if row.engine == "postgresql":
                    environment["IFTB_STORE_BENCH_POSTMASTER"] = (folder / "postgres" / "postmaster.pid").read_text().split()[0]
                command = [python, "-P", str(_WORKER), row.case, side, str(row.size), url]
                done = subprocess.run(command, cwd=place, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                samples[side].append(json.loads(done.stdout.splitlines()[-1]))
    return samples


def describe(row: Comparison, samples: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """Yield the cells of a row of the table."""

    def ratio(measured: str) -> float:
        return median(ours[measured] / first[measured] for ours, first in zip(samples["ours"], samples["first"], strict=True))

    shown = {side: f"{median(sample['processor'] for sample in found) / row.size * 1e6:.2f}" for side, found in samples.items()}
    yield from (row.case, row.engine, f"{row.size:,}", shown["ours"], shown["first"])
    yield ", ".join(f"{peer} {shown[peer]}" for peer in row.peers)
    yield from (f"{ratio('processor'):.2f}", f"{ratio('seconds'):.2f}", f"<= {row.target:.2f}")
    yield "yes" if ratio("processor") <= row.target else "NO"


@contextmanager
def _database(engine: str, folder: Path, server: Any) -> Iterator[str]:
    """Yield the URL of a new database; on PostgreSQL it is dropped at the end."""
    if engine != "postgresql":
        yield f"{engine}:///{folder / 'store.db'}"
        return
    base = make_url(server.get_uri()).set(drivername="postgresql")
    name = f"iftb_columns_{uuid4().hex}"

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(base.render_as_string(hide_password=False))
        await connection.execute(statement)
        await connection.close()

    asyncio.run(execute(f"CREATE DATABASE {name}"))
    try:
        yield base.set(database=name).render_as_string(hide_password=False)
    finally:
        asyncio.run(execute(f"DROP DATABASE {name} WITH (FORCE)"))


if __name__ == "__main__":
    typer.run(main)
