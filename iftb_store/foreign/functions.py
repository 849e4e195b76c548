"""Copies another program's database into a store: copy_from of iftb_store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args
from zoneinfo import ZoneInfo

from sqlalchemy import URL

from iftb_store._io.tasks import import_modules
from iftb_store.abilities import ConnectedStore
from iftb_store.errors import InvalidValueError, Unsupported
from iftb_store.foreign.reports import ForeignReport, Program
from iftb_store.manager import DatabaseManager
from iftb_store.protocols import Capability
from iftb_store.registry import require_arrow
from iftb_store.transfer.access import check_store, require_distinct
from iftb_store.transfer.progress import ProgressCallback, report_steps
from iftb_store.url import bound_memory, format_url, parse_url
from iftb_store.values import checks
from iftb_store.values.choices import CONFLICTS, Conflict
from iftb_store.values.times import find_zone

_ENGINES = ("sqlite", "postgresql")


async def copy_from(
    source: str | URL,
    destination: ConnectedStore,
    program: Program | None = None,
    *,
    tz: str | ZoneInfo | None = None,
    account: str = "",
    accept: bool = False,
    on_conflict: Conflict = "source-wins",
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> ForeignReport:
    """Copy another program's SQLite or PostgreSQL database into a store, and verify the copy; nothing is changed in it.

    - "original": the storage layer that iftb-store replaces, with its tables ohlcv, trades, positions and system_events.
    - "freqtrade": trades with their orders as fills, and the open positions. Custom data, locks and the other tables are left
      out. A trade_id is "freqtrade-" with freqtrade's id; ``realized_pnl`` is freqtrade's profit with the fees added back.
    - "vnpy": the bars of dbbardata.

    The database is read from a snapshot, in batches, and converted into a temporary SQLite file of iftb-store, which then is
    copied like any other (see `copy`): it can be repeated, and an interrupted call resumes. Floats become the shortest decimals
    that convert back to them. A row that the rules of iftb-store refuse is listed and left out; the others are copied.

    Args:
        source: the URL of the other program's database.
        destination: the connected store to write; missing tables are created.
        program: the program; None: detected from the tables.
        tz: the time zone of vnpy's times, which have none, e.g. "Asia/Shanghai"; required for vnpy, and only for it.
        account: the account that freqtrade's rows belong to; empty for none.
        accept: store also the trades and positions that are refused but can be corrected, with the correction that the
            report lists, e.g. the older one of two open positions as a closed one.
        on_conflict: for rows that have other values in the destination: "source-wins" overwrites them, "refuse" raises before
            anything is written.
        dry_run: read and convert everything, report what would be copied or refused, and write nothing.
        progress: called with (step, done, total) as rows are read, compared, written and verified.

    Returns:
        The number of rows read, the refused rows, what was left out, and the report of the copy.

    Raises:
        InvalidValueError: an argument has an invalid value; the database is of no known program, or of another one than
            ``program``; or it is the destination.
        Unsupported: the source is neither SQLite nor PostgreSQL.
        CollisionError: as in `copy`.
        OperationalError: a database failed.
        MissingDriverError: pyarrow or a driver is not installed; the message contains the install command.

    Example:
        import sqlite3

        with sqlite3.connect("database.db") as vnpy:
            vnpy.execute(
                "CREATE TABLE dbbardata (id INTEGER PRIMARY KEY, symbol, exchange, datetime, interval, volume, turnover,"
                " open_interest, open_price, high_price, low_price, close_price)"
            )
            vnpy.execute(
                "INSERT INTO dbbardata VALUES (1, 'rb2405', 'SHFE', '2024-02-01 09:00:00', '1m', 12.0, 46000.0, 0.0,"
                " 3850.1, 3852.5, 3849.9, 3851.3)"
            )
        vnpy.close()
        report = await copy_from("sqlite:///database.db", db, tz="Asia/Shanghai")
        (report.program, report.read, report.refused)  # -> ('vnpy', {'dbbardata': 1}, ())
        (await ohlcv.get_latest("rb2405", "1m", exchange="SHFE"))[0].close  # -> Decimal('3851.3')
    """
    check_store(destination, "destination")
    if program is not None:
        checks.choice(program, "program", get_args(Program))
    zone = find_zone(tz)
    checks.name_or_empty(checks.short_name, account, "account")
    for name, value in (("accept", accept), ("dry_run", dry_run)):
        checks.boolean(value, name)
    checks.choice(on_conflict, "on_conflict", CONFLICTS)
    step = report_steps(progress)
    address = parse_url(source)
    if address.get_backend_name() not in _ENGINES and not address.drivername.startswith("postgres"):
        raise Unsupported(f"a database of another program is read from SQLite or PostgreSQL, not {address.drivername}")
    require_arrow()
    await import_modules("pyarrow", "iftb_store.foreign.staging")
    from iftb_store.foreign.freqtrade import convert_freqtrade
    from iftb_store.foreign.original import convert_original
    from iftb_store.foreign.reading import open_tables
    from iftb_store.foreign.staging import Staging
    from iftb_store.foreign.vnpy import convert_vnpy
    from iftb_store.transfer.functions import copy

    if address.get_backend_name() == "sqlite":
        # the file must exist, and stays as it is
        address = address.update_query_dict({"mode": "ro"})
    async with _open_temporary() as temporary, DatabaseManager(bound_memory(address)) as old:
        await require_distinct(old, destination)
        staging = Staging(temporary, accept=accept)
        async with old.get_session(isolation="snapshot" if Capability.ISOLATION in old.capabilities else None) as session:
            tables = await open_tables(session)
            found = tables.program
            if found is None or program not in (None, found):
                known = "of none of original, freqtrade and vnpy" if found is None else f"those of {found}, not of {program}"
                more = "; a database of iftb-store is copied without --from" if tables.is_ours else ""
                raise InvalidValueError(f"the tables of {format_url(address)} are {known}{more}")
            if (found == "vnpy") != (zone is not None):
                raise InvalidValueError(
                    "the times of vnpy have no time zone; give tz, that of vnpy's setting database.timezone, e.g. Asia/Shanghai"
                    if zone is None
                    else f"the times of {found} are in UTC, so leave tz out"
                )
            if account and found != "freqtrade":
                raise InvalidValueError("only the rows of freqtrade get an account; leave account out")
            if found == "original":
                await convert_original(tables, staging, step)
            else:
                with step(f"read {found}") as tell:
                    if zone is not None:
                        await convert_vnpy(tables, staging, zone, tell)
                    else:
                        await convert_freqtrade(tables, staging, account, tell)
            await staging.finish()
        copied = await copy(temporary, destination, on_conflict=on_conflict, dry_run=dry_run, progress=progress)
    return ForeignReport(found, staging.read, tuple(staging.refused), tuple(staging.notes), copied)


@asynccontextmanager
async def _open_temporary() -> AsyncIterator[DatabaseManager]:
    """Create a database in a temporary folder that only this user can read."""
    folder = await asyncio.to_thread(TemporaryDirectory, prefix="iftb-store-")
    try:
        async with DatabaseManager(f"sqlite:///{Path(folder.name, 'converted.db')}") as db:
            await db.migrate()
            yield db
    finally:
        await asyncio.to_thread(folder.cleanup)
