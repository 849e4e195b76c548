"""The table of a soak: ``python -m tests.faults.table REPORT [PAGE]`` prints it and writes it into a page between markers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"

_FIGURES = ("rounds", "lost", "duplicated", "hung")


def summed(lines: Iterable[str]) -> dict[tuple[str, str], list[int]]:
    """Return the figures of each (fault, engine); several tests may share one."""
    rows: dict[tuple[str, str], list[int]] = {}
    for line in lines:
        entry: dict[str, Any] = json.loads(line)
        figures = rows.setdefault((entry["fault"], entry["engine"]), [0] * len(_FIGURES))
        for index, name in enumerate(_FIGURES):
            figures[index] += entry[name]
    return dict(sorted(rows.items()))


def as_markdown(rows: dict[tuple[str, str], list[int]]) -> str:
    """Return the table as Markdown."""
    head = f"| fault | engine | {' | '.join(_FIGURES)} |\n|---|---|{'--:|' * len(_FIGURES)}\n"
    return head + "".join(f"| {' | '.join([*key, *(f'{figure:,}' for figure in figures)])} |\n" for key, figures in rows.items())


def put_into(page: str, table: str) -> str:
    """Return the page with the table between its markers."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table}{END}{rest.split(END)[1]}"


def main(report: str, page: str | None = None) -> int:
    """Print the table; return 1 if anything was lost, duplicated or hung, or if no round ran."""
    rows = summed(Path(report).read_text(encoding="utf-8").splitlines())
    table = Table("fault", "engine")
    for name in _FIGURES:
        table.add_column(name, justify="right")
    for key, figures in rows.items():
        table.add_row(*key, *(f"{figure:,}" for figure in figures))
    Console().print(table)
    if page is not None:
        path = Path(page)
        path.write_text(put_into(path.read_text(encoding="utf-8"), as_markdown(rows)), encoding="utf-8")
    return 0 if rows and not any(any(figures[1:]) for figures in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
