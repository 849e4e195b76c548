"""The command doctor: report problems of a database and how to fix them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from iftb_store.cli.data import Json, Url
from iftb_store.cli.output import console, name_given_url, print_json, say
from iftb_store.cli.target import run
from iftb_store.doctor import examine
from iftb_store.doctor.checks import SEVERITY_ORDER, SHOWN_ROWS, Finding
from iftb_store.values.display import replace_unprintable
from iftb_store.values.readable import format_count

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_INDENT = " " * 9
_FINDING_WIDTH, _COUNT_WIDTH = 31, 9


def doctor(
    url: Url = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing; only set the exit code.")] = False,
) -> None:
    """Check the rows, the ids and the schema, and report each problem and how to fix it; change nothing.

    The exit code is 1 if there are errors or warnings. Take a backup before you run a reported statement. Errors are listed
    first, in the order in which to fix them.
    """
    screen = console(stderr=True)
    waiting = screen.status("examining every row …") if screen.is_terminal and not quiet else nullcontext()
    with waiting:
        findings = run(url, lambda db: examine(db))
    if not quiet:
        if as_json:
            print_json(findings)
        else:
            _show(findings)
    if any(finding.severity != "note" for finding in findings):
        raise typer.Exit(1)


def _show(findings: Sequence[Finding]) -> None:
    screen = console()
    if findings:
        screen.print(_line("severity", "finding", "where", "count", "bold"))
    for finding in findings:
        where = f"{finding.table} {finding.where}".strip()
        screen.print(_line(finding.severity, finding.kind, where, f"{finding.count:,}", _STYLES[finding.severity]))
        for line in filter(None, (_rows(finding), name_given_url(finding.remedy))):
            folded = Text(replace_unprintable(line)).wrap(screen, screen.width - len(_INDENT))
            for part in folded:
                say(f"{_INDENT}{part.plain.rstrip()}")
        for statement in finding.statements:
            # on one line, however long, so that it can be copied
            say(f"{statement};")
        say()
    counts = Counter(finding.severity for finding in findings)
    said = ", ".join(format_count(counts[severity], severity) for severity in SEVERITY_ORDER if counts[severity])
    say(said if counts["error"] + counts["warning"] else "; ".join(filter(None, ["no problems found", said])))


def _line(severity: str, finding: str, where: str, count: str, style: str) -> Table:
    is_terminal = console().is_terminal
    line = Table.grid(padding=(0, 1, 0, 0), expand=is_terminal)
    line.add_column(width=len(_INDENT) - 1, style=style)
    line.add_column(width=_FINDING_WIDTH, overflow="fold")
    line.add_column(ratio=1 if is_terminal else None, overflow="fold")
    line.add_column(justify="right", min_width=_COUNT_WIDTH if is_terminal else None)
    line.add_row(*(Text(replace_unprintable(cell)) for cell in (severity, finding, where, count)))
    return line


def _rows(finding: Finding) -> str:
    rows, more = finding.rows, finding.count - len(finding.rows)
    if not rows:
        return ""
    label = "at" if finding.table == "ohlcv" and finding.where != "id" else "id"
    return f"{label} {', '.join(rows)}{f' and {more:,} more' if len(rows) == SHOWN_ROWS and more > 0 else ''}"
