"""The option --from of the command copy: copies a database of another program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from iftb_store.cli.completion import one_of
from iftb_store.cli.output import print_error, say
from iftb_store.cli.progress import Progress
from iftb_store.cli.target import explain_stop, require_file, run
from iftb_store.config import resolve_url
from iftb_store.errors import InvalidValueError
from iftb_store.foreign.functions import copy_from
from iftb_store.foreign.reports import ForeignReport, Program
from iftb_store.manager import DatabaseManager
from iftb_store.url import bound_memory
from iftb_store.values import checks
from iftb_store.values.choices import Conflict
from iftb_store.values.readable import format_count

PROGRAMS = get_args(Program)
complete_program = one_of(PROGRAMS)
# refused rows that are printed; --json has all
_MOST = 100


def copy_foreign(
    source: str,
    destination: str,
    program: str,
    *,
    tz: str | None,
    accounts: Sequence[str],
    accept: bool,
    on_conflict: Conflict,
    dry_run: bool,
    refused_options: Sequence[str],
    quiet: bool,
) -> ForeignReport:
    """Run `copy_from`; ``refused_options`` are the given options that do not apply to it.

    Raises:
        InvalidValueError: an option does not apply, or has an invalid value.
    """
    name: Program = checks.choice(program, "--from", PROGRAMS)
    if refused_options:
        raise InvalidValueError(f"{refused_options[0]} cannot be used with --from, which copies everything")
    if len(accounts) > 1:
        raise InvalidValueError("with --from, give --account once: the account that the rows of freqtrade belong to")
    old, new = resolve_url(source), resolve_url(destination)
    require_file(old)
    options: dict[str, Any] = {"tz": tz, "accept": accept, "on_conflict": on_conflict, "dry_run": dry_run}

    async def work(db: DatabaseManager) -> ForeignReport:
        return await copy_from(old, db, name, account="".join(accounts), **options, progress=progress)

    stop = "stopped; the rows copied so far stay, and SRC is unchanged; run the same command again to resume"
    with explain_stop(lambda: stop), Progress(quiet=quiet) as progress:
        return run(bound_memory(new), work, create=not dry_run)


def show_foreign(report: ForeignReport, *, quiet: bool) -> None:
    """Print what was read, and the refused rows as errors."""
    if not quiet:
        read = ", ".join(f"{table} {rows:,}" for table, rows in report.read.items()) or "no rows"
        say(f"{report.program}: read {read}")
        for note in report.notes:
            say(note)
    for row in report.refused[:_MOST]:
        end = f"; stored: {row.correction}" if row.accepted else f"; with --accept {row.correction}" if row.correction else ""
        if not (row.accepted and quiet):
            print_error(f"{row.table} {row.id}: {row.reason}{end}")
    if len(report.refused) > _MOST:
        print_error(f"{format_count(len(report.refused) - _MOST, 'more row')} refused; --json lists all")
    left = sum(not row.accepted for row in report.refused)
    if left:
        print_error(f"{format_count(left, 'row')} refused and not copied; the others are")
