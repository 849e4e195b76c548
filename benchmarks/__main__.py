"""The benchmark's command: runs the selected rows, prints tables, writes JSON and a chart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.plan import FULL, QUICK, Plan
from benchmarks.results import Figure, Results, Row
from benchmarks.run import ENGINES, ROWS, run
from benchmarks.show import chart, show, terminal


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes and fewer rounds, in under three minutes.")] = False,
    engine: Annotated[list[str] | None, typer.Option(help=f"Only this engine, of {', '.join(ENGINES)}; repeatable.")] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"Only this row, of {', '.join(ROWS)}; repeatable.")] = None,
    json: Annotated[Path, typer.Option(help="Write every sample into this file.")] = Path("bench.json"),
    chart_file: Annotated[Path, typer.Option("--chart", help="Draw the ratios into this PNG.")] = Path("bench.png"),
    rounds: Annotated[int | None, typer.Option(min=1, help="Samples of each contender.")] = None,
) -> None:
    """Time iftb-store beside the raw drivers and the naive ORM path, and beside its peers."""
    plan = QUICK if quick else FULL
    if rounds is not None:
        plan = replace(plan, rounds=rounds, small_rounds=rounds, growth_rounds=rounds)
    engines, selected = _select(engine, tuple(ENGINES), "--engine"), _select(only, ROWS, "--only")
    if quick and not only:
        # installing the peers takes longer than everything else
        selected = tuple(row for row in selected if row != "peers")
    options = {"plan": "quick" if quick else "full", "engines": " ".join(engines), "rows": " ".join(selected)}
    results = Results.begun(options)
    console = terminal()
    asyncio.run(collect(results, plan, engines, selected, json, console))
    show(results, console)
    if results.rows:
        chart(results, chart_file)


async def collect(
    results: Results, plan: Plan, engines: Sequence[str], selected: Sequence[str], path: Path, console: Console
) -> None:
    """Run, and save each result in ``results`` and at once in the file, so that an interrupted run keeps its results."""
    started = perf_counter()
    async for found in run(plan, engines, selected):
        if isinstance(found, Row):
            results.rows.append(found)
            brief = f"{found.engine} {found.name} {found.size:,}: {found.ratio().middle:.2f}"
        elif isinstance(found, Figure):
            results.figures.append(found)
            brief = f"{found.engine} {found.name}: {found.note}"
        else:
            results.tables[found[0]] = found[1]
            brief = found[0]
        results.seconds = perf_counter() - started
        console.print(f"{results.seconds:6.0f} s  {brief}", style="dim", highlight=False)
        results.save(path)


def _select(given: Sequence[str] | None, known: Sequence[str], option: str) -> tuple[str, ...]:
    for name in given or ():
        if name not in known:
            raise typer.BadParameter(f"{name} is not one of {', '.join(known)}", param_hint=option)
    return tuple(name for name in known if not given or name in given)


if __name__ == "__main__":
    typer.run(main)
