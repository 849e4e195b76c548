"""Shows a run: tables in the terminal, and a bar chart of the ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.results import NAIVE, Figure, Results, Row

TITLES = {
    "transfer": "A store through every engine, by the commands",
    "growth": "Time a row as a store grows: one series, each path in a separate process, after a first run on a few rows",
    "decimals": "Decimals on SQLite",
    "duckdb_key": "DuckDB's key",
    "peers": "Peers, the same bars",
}
_WIDEST = 3.0
_WIDTH = 180
_COLORS = {True: "#3a7d44", False: "#c0392b", None: "#7f8c8d"}


def terminal() -> Console:
    """Return a console that is wide enough for the tables if the output is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def show(results: Results, console: Console) -> None:
    """Print all results of a run."""
    console.print(headline(results), highlight=False)
    if results.rows:
        console.print(_ratios(results.rows))
    if results.figures:
        console.print(_figures(results.figures))
    for name, lines in results.tables.items():
        console.print(table_of(TITLES[name], lines))


def headline(results: Results) -> str:
    """Return the time, machine and versions of a run."""
    versions = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    machine = results.machine
    return (
        f"{results.options.get('plan', '')} run of {results.started}, {results.seconds / 60:.1f} minutes\n"
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory']}, {machine['system']}, Python {machine['python']}\n"
        f"{versions}"
    )


def time_of(seconds: float, row: Row) -> str:
    """Return a time for display: microseconds per row if rows are moved, otherwise milliseconds per call."""
    if row.name.startswith("growth"):
        return f"{seconds * 1e6:.2f} µs/row"
    if row.name.startswith(("insert_many", "upsert_many", "get_range")):
        return f"{seconds / row.size * 1e6:.2f} µs/row"
    return f"{seconds * 1e3:.2f} ms"


def ratio_of(row: Row) -> str:
    """Return a ratio with its quartiles."""
    middle, low, high = row.ratio()
    return f"{middle:.3g} [{low:.3g} to {high:.3g}]"


def target_of(row: Row) -> str:
    """Return a target as the targets table displays it."""
    if row.target is None:
        return ""
    return f"≤ {row.target:.3g}" if row.target > 0.2 else f"≤ 1/{1 / row.target:.0f}"


def verdict(met: bool | None) -> str:
    """Return whether a target is met, as one word."""
    return {True: "yes", False: "NO", None: ""}[met]


def table_of(title: str, lines: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of a part's lines."""
    table = Table(title=title, title_justify="left")
    for name in lines[0] if lines else ():
        table.add_column(name, justify="right" if isinstance(lines[0][name], int | float) else "left")
    for line in lines:
        table.add_row(
            *("" if value is None else f"{value:,}" if isinstance(value, int | float) else value for value in line.values())
        )
    return table


def _ratios(rows: Sequence[Row]) -> Table:
    table = Table(title="Times, medians; ratio with its quartiles", title_justify="left")
    for name in ("engine", "row", "size", "ours", "reference", "", "ratio", "target", "met?"):
        table.add_column(name, justify="right" if name in ("size", "ours", "reference") else "left", no_wrap=name != "")
    for row in rows:
        style = "" if row.met() is not False else "bold red"
        table.add_row(
            row.engine,
            row.name,
            f"{row.size:,}",
            time_of(row.seconds(row.subject), row),
            time_of(row.seconds(row.reference), row),
            row.reference,
            ratio_of(row),
            target_of(row),
            verdict(row.met()),
            style=style,
        )
    return table


def _figures(figures: Sequence[Figure]) -> Table:
    table = Table(title="Sizes, waits, memory", title_justify="left")
    for name in ("engine", "what", "size", "values", "limit", "met?", "note"):
        table.add_column(name, justify="right" if name == "size" else "left")
    for figure in figures:
        table.add_row(
            figure.engine,
            figure.name,
            f"{figure.size:,}",
            values_of(figure),
            "" if figure.limit is None else f"≤ {figure.limit:g} {figure.unit}",
            verdict(figure.met()),
            figure.note,
            style="" if figure.met() is not False else "bold red",
        )
    return table


def values_of(figure: Figure) -> str:
    """Return a figure's values in one line."""
    return ", ".join(f"{name} {value:,.4g} {figure.unit}" for name, value in figure.values.items())


def chart(results: Results, path: Path) -> None:
    """Draw the ratios as bars, one panel per engine, each with its quartiles and its target."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in results.rows if row.reference != NAIVE]
    engines = list(dict.fromkeys(row.engine for row in rows))
    shown = {engine: [row for row in rows if row.engine == engine] for engine in engines}
    heights = [len(lines) * 0.32 + 0.9 for lines in shown.values()]
    figure, panels = pyplot.subplots(
        len(shown), 1, figsize=(11, sum(heights) + 1.2), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for panel, (engine, lines) in zip(panels[:, 0], shown.items(), strict=True):
        _panel(panel, engine, lines)
    figure.suptitle(
        "iftb-store: time beside the reference (1 = as fast; shorter is faster)\n"
        f"{results.options.get('plan', '')} run of {results.started}, {results.machine['cpu']}, {results.machine['cores']} cores",
        fontsize=11,
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _panel(panel: Any, engine: str, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    ratios = [row.ratio() for row in rows]
    errors = [[item.middle - item.low for item in ratios], [item.high - item.middle for item in ratios]]
    panel.barh(places, [item.middle for item in ratios], color=[_COLORS[row.met()] for row in rows], height=0.62)
    panel.errorbar([item.middle for item in ratios], places, xerr=errors, fmt="none", ecolor="black", elinewidth=1, capsize=2)
    for place, row, item in zip(places, rows, ratios, strict=True):
        if row.target is not None:
            panel.plot([row.target, row.target], [place - 0.42, place + 0.42], color="black", linewidth=2.2)
        end = min(max(item.high, row.target or 0), _WIDEST)
        panel.annotate(f"{item.middle:.2f}", (end, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
    panel.axvline(1, color="#34495e", linewidth=0.8, linestyle=":")
    panel.set_yticks(places, [f"{row.name}  {row.size:,}" for row in rows], fontsize=8)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    # a longer bar would make the others short; its ratio is printed as a number
    panel.set_xlim(0, _WIDEST * 1.08)
    name = "Any engine" if engine == "-" else engine
    panel.set_title(f"{name}   (green: target met, red: missed, grey: none set; black mark: the target)", fontsize=9, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
