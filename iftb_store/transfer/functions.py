"""Copies a store into another, compares two stores, and restores a backup: copy, verify and restore of iftb_store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from iftb_store._io.tasks import import_modules
from iftb_store.abilities import ConnectedStore
from iftb_store.errors import InvalidValueError, URLError
from iftb_store.manager import DatabaseManager
from iftb_store.registry import find_backend, require_arrow
from iftb_store.schema.scope import TableScope
from iftb_store.transfer.access import check_store
from iftb_store.transfer.kept import limit_scope
from iftb_store.transfer.progress import ProgressCallback, report_steps
from iftb_store.transfer.reports import CopyReport, RestoreReport, VerifyReport, report_copied, report_verified
from iftb_store.url import bound_memory
from iftb_store.values import checks
from iftb_store.values.choices import Conflict
from iftb_store.values.display import type_name
from iftb_store.values.file_identity import file_identity
from iftb_store.values.times import Since, find_start


async def copy(
    source: ConnectedStore,
    destination: ConnectedStore,
    *,
    tables: str | Collection[str] = (),
    exchanges: str | Collection[str] = (),
    symbols: str | Collection[str] = (),
    timeframes: str | Collection[str] = (),
    accounts: str | Collection[str] = (),
    start: datetime | None = None,
    end: datetime | None = None,
    since: Since | None = None,
    on_conflict: Conflict = "source-wins",
    delete: bool = False,
    keep_ids: bool = False,
    full: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> CopyReport:
    """Copy the rows that are missing or different in another store, of any engine, then verify the copy.

    The source is read from a snapshot, so that all its rows are consistent. It may be of an older schema revision: then the
    columns that it lacks get their defaults, e.g. no account, and the tables that it lacks are left out. Rows are committed in
    batches: if the copy is interrupted, the rows written so far stay, and it resumes when called again. Missing tables are
    created. Other clients may write to the destination during the copy.

    Args:
        source: the connected store to read, e.g. a DatabaseManager.
        destination: the connected store to write.
        tables: copy only these tables, e.g. ohlcv or trades; if empty, every table that both stores have,
            without those that lack a selected column. Here and in the next four, one name may be given as text.
        exchanges: copy only rows of these exchanges.
        symbols: copy only rows of these symbols.
        timeframes: copy only bars of these timeframes.
        accounts: copy only rows of these accounts, and no bars; the empty text names the rows without an account.
        start: start of the time window, inclusive; naive times are UTC. It applies to the entry_time of trades and positions,
            the created_at of events, and the timestamp of all other rows.
        end: end of the time window, inclusive.
        since: an alternative to ``start``: how long before now the time window starts, as a timedelta or as text, e.g. "30m",
            "12h", "7d" or "2w"; or the start itself, as a datetime.
        on_conflict: for rows that have other values in the destination: "source-wins" overwrites them, "refuse" raises before
            anything is written.
        delete: delete the selected rows that only the destination has; otherwise they are kept and counted.
        keep_ids: require that trades, positions and events have the ids of the source in the destination.
        full: read every selected row of the destination. Without it, a day of bars whose checksum is the same in both stores
            is skipped, except one random day in 30 (see `CopiedPart.unread`). A source on PostgreSQL or DuckDB computes the
            checksum itself, so its bars are not read either. With ``on_conflict`` "refuse" every row is read.
        dry_run: report what would be copied or refused, and write nothing.
        progress: called with (step, done, total) as rows are compared, written and verified.

    Returns:
        The number of rows inserted, updated, deleted and kept in each series and table, and the tables that were left out.

    Raises:
        CollisionError: a row of the source conflicts with a different row of the destination, or rows differ and
            ``on_conflict`` is "refuse". Nothing was written, unless the destination's row was added during the copy.
        InvalidValueError: an argument has an invalid value, or both stores are the same database.
        SchemaError: the source has no tables or was migrated by a newer version, or the destination is of another revision.
        Unsupported: ``tables`` names a table that one of the stores does not keep.
        OperationalError: rows are hidden from the role of a store, or it may not insert; or the database failed.
        StoreError: the destination was written to and differs from the source at the end; or a row of the source cannot be
            copied, e.g. a duplicate.
        NotConnectedError: before connect().
        MissingDriverError: pyarrow is not installed; the message contains the install command.

    Example:
        report = await copy(source, destination, symbols=["BTCUSDT"], start=start)
        [(part.table, part.series, part.inserted) for part in report.parts][0]  # -> ('ohlcv', 'binance BTCUSDT 1h', 23)
    """
    start = find_start(start, since)
    scope = TableScope(tables, exchanges, symbols, timeframes, start, end, accounts)
    step = report_steps(progress)
    flags = {"delete": delete, "keep_ids": keep_ids, "full": full, "dry_run": dry_run}
    for name, value in flags.items():
        checks.boolean(value, name)
    check_store(source, "source")
    check_store(destination, "destination")
    require_arrow()
    await import_modules("pyarrow", "iftb_store.transfer.copy", "iftb_store.transfer.older")
    from iftb_store.transfer.copy import Copy, prepare
    from iftb_store.transfer.older import open_older
    from iftb_store.transfer.plan import require_schema

    source = await open_older(source)
    copying = Copy(source, destination, scope, on_conflict=on_conflict, delete=delete, keep_ids=keep_ids, full=full, step=step)
    # before anything is created in the destination
    await require_schema(source, limit_scope(scope, source=source, destination=destination)[0].tables)
    created = not dry_run and await prepare(destination, scope)
    done = await copying.run(dry=dry_run)
    return CopyReport(report_copied(done), done.left_out, created, dry_run)


async def verify(
    source: ConnectedStore,
    destination: ConnectedStore,
    *,
    tables: str | Collection[str] = (),
    exchanges: str | Collection[str] = (),
    symbols: str | Collection[str] = (),
    timeframes: str | Collection[str] = (),
    accounts: str | Collection[str] = (),
    start: datetime | None = None,
    end: datetime | None = None,
    since: Since | None = None,
    progress: ProgressCallback | None = None,
) -> VerifyReport:
    """Compare the rows of two stores by counts and checksums of their values, and find the first rows that differ.

    Each store is read from a snapshot, in bounded memory, and neither is changed. The source may be of an older schema
    revision, as in `copy`.

    Args:
        source: a connected store, e.g. a DatabaseManager.
        destination: another connected store.
        tables: compare only these tables, e.g. ohlcv or trades; if empty, every table that both stores have,
            without those that lack a selected column. Here and in the next four, one name may be given as text.
        exchanges: compare only rows of these exchanges.
        symbols: compare only rows of these symbols.
        timeframes: compare only bars of these timeframes.
        accounts: compare only rows of these accounts, and no bars; the empty text names the rows without an account.
        start: start of the time window, inclusive; naive times are UTC. It applies to the entry_time of trades and positions,
            the created_at of events, and the timestamp of all other rows.
        end: end of the time window, inclusive.
        since: an alternative to ``start``: how long before now the time window starts, as a timedelta or as text, e.g. "30m",
            "12h", "7d" or "2w"; or the start itself, as a datetime.
        progress: called with (step, done, total), in rows of both stores.

    Returns:
        Whether the stores are equal, and the counts, checksums and first differences of each series and table. Differences are
        reported, not raised.

    Raises:
        InvalidValueError: an argument has an invalid value, or both stores are the same database.
        SchemaError: one of the stores has no tables or was migrated by a newer version, or the destination is of another
            revision.
        Unsupported: ``tables`` names a table that one of the stores does not keep.
        OperationalError: rows are hidden from the role of a store, or the database failed.
        NotConnectedError: before connect().
        MissingDriverError: pyarrow is not installed; the message contains the install command.

    Example:
        await copy(source, destination)
        report = await verify(source, destination, tables="ohlcv")
        [(part.series, part.source.rows, part.equal) for part in report.parts]  # -> [('binance BTCUSDT 1h', 23, True)]
    """
    scope = TableScope(tables, exchanges, symbols, timeframes, find_start(start, since), end, accounts)
    step = report_steps(progress)
    check_store(source, "source")
    check_store(destination, "destination")
    require_arrow()
    await import_modules("pyarrow", "iftb_store.transfer.verify", "iftb_store.transfer.older")
    from iftb_store.transfer.older import open_older
    from iftb_store.transfer.verify import compare_stores

    found = await compare_stores(await open_older(source), destination, scope, step=step)
    return VerifyReport(all(part.equal for part in found), report_verified(found), found.left_out)


async def restore(
    path: str | os.PathLike[str],
    db: ConnectedStore,
    *,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> RestoreReport:
    """Restore a backup into a store of any engine, with all ids and times, and verify the result.

    The engine of the file is detected from its content. The backup may be of an older schema revision, as the source of `copy`.
    It is read once completely before anything is written. Missing tables are created. If the restore is interrupted, the rows
    written so far stay, and it resumes when called again.

    Args:
        path: the backup file, see `backup`.
        db: the connected store to restore into, e.g. a DatabaseManager.
        overwrite: overwrite rows that differ from the backup, and delete rows that are not in it; otherwise the restore fails
            if there are such rows.
        progress: called with (step, done, total), in rows; in tables while the backup is checked.

    Returns:
        The number of rows inserted, updated and deleted in each series and table, and the tables that were left out.

    Raises:
        CollisionError: the store has a row that differs from the backup or is not in it; nothing was written.
        InvalidValueError: the file cannot be read, is not a backup or is the database itself, or an argument has another type.
        SchemaError: the backup has no tables of iftb-store, or a newer version made it; or the store has tables of another
            revision.
        OperationalError: the backup is damaged; or rows of the store are hidden from its role, or it may not insert; or the
            database failed.
        StoreError: another client wrote to the store during the restore.
        NotConnectedError: before connect().
        MissingDriverError: pyarrow or the driver of the backup's engine is not installed; the message contains the install
            command.

    Example:
        await backup(source, "bot.backup")
        report = await restore("bot.backup", destination)
        sum(part.source.rows for part in report.parts)  # -> 35
    """
    if not isinstance(path, str | os.PathLike):
        raise InvalidValueError(f"path must be a file name, not {type_name(path)}")
    checks.text(os.fspath(path), "path")
    checks.boolean(overwrite, "overwrite")
    step = report_steps(progress)
    check_store(db, "db")
    require_arrow()
    await import_modules("pyarrow", "iftb_store.transfer.restore")
    from iftb_store.transfer.restore import backup_url, restore_rows

    try:
        address = backup_url(path)
    except URLError as error:
        raise InvalidValueError(f"the path of a backup is wrong: {error}") from error
    # import the driver in a thread, because the import would block the event loop
    await asyncio.to_thread(find_backend, address.drivername)
    if file_identity(os.fspath(path)) == await db.identity():
        raise InvalidValueError(f"{path} is the database itself; give the path of its backup, or the URL of another database")
    async with DatabaseManager(bound_memory(address)) as backup:
        done = await restore_rows(backup, db, overwrite=overwrite, step=step)
    return RestoreReport(Path(path), report_copied(done), done.left_out)
