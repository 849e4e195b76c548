"""Runs rows and parts, one after the other, and yields each result at once."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cases, decimals, duckdb_growth, duckdb_key, first_calls, imports, peers
from benchmarks.duckdb import DuckDB
from benchmarks.engine import Engine
from benchmarks.objects import bars
from benchmarks.plan import Plan
from benchmarks.postgres import Postgres
from benchmarks.results import Figure, Row
from benchmarks.sqlite import SQLite

ENGINES: dict[str, type[Engine]] = {"postgresql": Postgres, "sqlite": SQLite, "duckdb": DuckDB}
#: The parts that are not rows of an engine; all except the first two also run separately: `python -m benchmarks.NAME`.
PARTS = ("import", "first_call", "decimals", "duckdb_key", "peers")
ROWS = tuple(dict.fromkeys((*cases.WRITES, *cases.READS, *cases.TRADES, "growth", *PARTS)))

Table = tuple[str, list[dict[str, Any]]]


async def run(plan: Plan, engines: Iterable[str], selected: Sequence[str]) -> AsyncIterator[Row | Figure | Table]:
    """Run the selected rows on the engines, then the parts."""
    engines = tuple(engines)
    if "import" in selected:
        yield imports.measure(plan.rounds)
    for name in engines if "first_call" in selected else ():
        async for figure in first_calls.measure(name):
            yield figure
    for name in engines:
        with tempfile.TemporaryDirectory(prefix="iftb-bench-") as folder:
            engine = ENGINES[name]()
            async with engine.opened(Path(folder)):
                async for found in _rows(engine, plan, selected):
                    yield found
                if "growth" in selected and name != "duckdb":
                    async for found in cases.growth(engine, plan):
                        yield found
            gc.collect()
            if "growth" in selected and name == "duckdb":
                for measured in duckdb_growth.measure(plan.load, plan.load_batch, plan.memory_limit):
                    yield measured
    if "decimals" in selected:
        yield "decimals", await decimals.measure(plan.table // 5, plan.rounds)
    if "duckdb_key" in selected:
        yield "duckdb_key", duckdb_key.measure(plan.load)
    if "peers" in selected:
        yield "peers", await peers.measure(plan.table // 10, plan.rounds)


async def _rows(engine: Engine, plan: Plan, selected: Sequence[str]) -> AsyncIterator[Row | Figure]:
    whole = bars(max(*plan.sizes, plan.table)) if {*cases.WRITES, *cases.READS} & {*selected} else []
    for name in _in(cases.WRITES, selected):
        async for found in cases.WRITES[name](engine, whole, plan):
            yield found
    reads = _in(cases.READS, selected)
    if reads:
        del whole[plan.table :]
        await cases.fill_bars(engine, whole)
    for name in reads:
        async for found in cases.READS[name](engine, whole, plan):
            yield found
    whole.clear()
    queries = _in(cases.TRADES, selected)
    if queries:
        await cases.fill_trades(engine, plan.table)
    for name in queries:
        async for found in cases.TRADES[name](engine, whole, plan):
            yield found


def _in(known: dict[str, cases.Case], selected: Sequence[str]) -> list[str]:
    return [name for name in known if name in selected]
