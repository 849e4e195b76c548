"""Renders docs/performance.md from a run's JSON, so that its figures cannot drift: `python -m benchmarks.report FILE.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results import NAIVE, Figure, Results, Row
from benchmarks.show import TITLES, headline, ratio_of, target_of, time_of, values_of, verdict

#: The page's text, written by hand, with a mark in the place of the figures.
PAGE = Path(__file__).with_name("page.md")
TRANSFER = Path(__file__).with_name("last_transfer.json")
GROWTH = Path(__file__).with_name("last_growth.json")
_MARK = "<!-- results -->"


def render(results: Results, page: str) -> str:
    """Return the page with the figures at its mark."""
    parts = [
        f"## The last {results.options.get('plan', '')} run\n",
        _paragraphs(headline(results)),
        _summary([*results.rows, *results.figures]),
    ]
    for engine in dict.fromkeys(row.engine for row in results.rows):
        rows = [row for row in results.rows if row.engine == engine]
        parts += [f"### {'Any engine' if engine == '-' else engine}\n", _ratios(rows)]
    if results.figures:
        parts += ["### Sizes, waits, memory\n", _figures(results)]
    for name, lines in results.tables.items():
        parts += [f"### {TITLES[name]}\n", lines_to_markdown(lines)]
    return page.replace(_MARK, "\n".join(parts).strip())


def _paragraphs(text: str) -> str:
    return text.replace("\n", "  \n") + "\n"


def _summary(found: Sequence[Row | Figure]) -> str:
    judged = [item for item in found if item.met() is not None]
    missed = [f"{item.engine} {item.name} at {item.size:,}" for item in judged if not item.met()]
    return f"{len(judged) - len(missed)} of {len(judged)} targets are met{'; missed: ' + ', '.join(missed) if missed else ''}.\n"


def _ratios(rows: Iterable[Row]) -> str:
    lines = [
        {
            "row": row.name,
            "size": f"{row.size:,}",
            "ours": time_of(row.seconds(row.subject), row),
            "reference": f"{time_of(row.seconds(row.reference), row)} ({row.reference})",
            "naive ORM": time_of(row.seconds(NAIVE), row) if NAIVE in row.samples and row.reference != NAIVE else "",
            "ratio": ratio_of(row),
            "target": target_of(row),
            "met": f"**{verdict(row.met())}**" if row.met() is False else verdict(row.met()),
            "note": row.note,
        }
        for row in rows
    ]
    return lines_to_markdown(lines)


def _figures(results: Results) -> str:
    lines = [
        {
            "engine": figure.engine,
            "what": figure.name,
            "size": f"{figure.size:,}",
            "values": values_of(figure),
            "limit": "" if figure.limit is None else f"≤ {figure.limit:g} {figure.unit}",
            "met": f"**{verdict(figure.met())}**" if figure.met() is False else verdict(figure.met()),
            "note": figure.note,
        }
        for figure in results.figures
    ]
    return lines_to_markdown(lines)


def lines_to_markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return lines with the same keys as a table."""
    names = list(lines[0])
    table = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    table += [f"| {' | '.join(map(_cell, line.values()))} |" for line in lines]
    return "\n".join(table) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return (f"{value:,}" if isinstance(value, int | float) else str(value)).replace("|", "/")


def main(
    file: Annotated[Path, typer.Argument(help="The JSON that `python -m benchmarks --json` wrote.")],
    transfer: Annotated[Path, typer.Option(help="The JSON that `python -m benchmarks.transfer` wrote, if it exists.")] = TRANSFER,
    growth: Annotated[Path, typer.Option(help="The JSON that `python -m benchmarks.growth` wrote, if it exists.")] = GROWTH,
    page: Annotated[Path, typer.Option(help="The page to write.")] = Path("docs/performance.md"),
) -> None:
    """Write docs/performance.md."""
    results = Results.load(file)
    for name, path in (("transfer", transfer), ("growth", growth)):
        if path.exists():
            results.tables[name] = json.loads(path.read_text())
    page.write_text(render(results, PAGE.read_text()))


if __name__ == "__main__":
    typer.run(main)
