"""Imports an SQLite database of another program, as one file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

from iftb_store.abilities import ConnectedStore
from iftb_store.errors import CollisionError, InvalidValueError
from iftb_store.files.imported import ImportedFile
from iftb_store.files.readers.binance import DumpError
from iftb_store.files.source import Source
from iftb_store.foreign.functions import copy_from
from iftb_store.foreign.reading import open_tables
from iftb_store.foreign.reports import ForeignReport
from iftb_store.manager import DatabaseManager
from iftb_store.schema.table_spec import BARS, TRADES
from iftb_store.transfer.progress import StepCallback
from iftb_store.values.choices import Conflict
from iftb_store.values.readable import format_count


async def import_database(db: ConnectedStore, source: Source, on_conflict: Conflict, progress: StepCallback) -> ImportedFile:
    """Copy the rows of another program's database; see `iftb_store.copy_from`. Its rows are committed in batches.

    Raises:
        DumpError: the database is of no known program, or a row is stored with other values and must not be overwritten.
    """
    address = URL.create("sqlite", database=str(source.path.absolute()))
    try:
        await _require_readable(source.path, address)
        report = await copy_from(address, db, tz=source.hints.zone, on_conflict=on_conflict)
    except (InvalidValueError, CollisionError) as error:
        raise DumpError(f"{source.path}: is a database: {error}") from error
    size = (await asyncio.to_thread(source.path.stat)).st_size
    progress(size, size)
    return describe_import(source.path, report)


async def _require_readable(path: Path, address: URL) -> None:
    """Raise DumpError if the file cannot be read as a database, so that it is refused and other files are imported."""
    try:
        async with DatabaseManager(address.update_query_dict({"mode": "ro"})) as old, old.get_session() as session:
            await open_tables(session)
    except OperationalError as error:
        raise DumpError(f"{path}: is a database, but cannot be read: {error.orig}") from error


def describe_import(path: Path, report: ForeignReport) -> ImportedFile:
    """Return the result as that of a file; all rows are counted together, and the notes name the tables."""
    parts = report.copied.parts
    names = dict.fromkeys(part.table for part in parts)
    rows = {name: sum(part.source.rows or part.inserted for part in parts if part.table == name) for name in names}
    notes = [f"{name}: {format_count(count, 'row')}" for name, count in rows.items() if count]
    refused = [
        f"{format_count(len(report.refused), 'row')} refused, e.g. {one.table} {one.id}: {one.reason}; `iftb-store copy "
        "--from` lists all"
        for one in report.refused[:1]
    ]
    return ImportedFile(
        path,
        BARS.name if report.program == "vnpy" else TRADES.name,
        sum(rows.values()),
        None,
        None,
        None,
        sum(part.inserted for part in parts),
        sum(part.updated for part in parts),
        sum(part.unchanged for part in parts),
        notes=(f"a database of {report.program}", *notes, *refused, *report.notes),
    )
