"""Deletes old rows: prune of iftb_store."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from iftb_store._io.tasks import import_modules
from iftb_store.abilities import ConnectedStore
from iftb_store.errors import InvalidValueError
from iftb_store.maintenance.reports import PruneReport
from iftb_store.registry import require_arrow
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import BARS, EVENTS, POSITIONS, TRADES
from iftb_store.transfer.access import check_store
from iftb_store.transfer.kept import limit_scope
from iftb_store.transfer.progress import ProgressCallback, report_steps
from iftb_store.values import checks
from iftb_store.values.times import Since, resolve_since

#: The tables whose rows can be pruned; fills go with their trades.
PRUNED = {table.name: table for table in (BARS, TRADES, POSITIONS, EVENTS)}


async def prune(
    db: ConnectedStore,
    older_than: Since,
    tables: str | Collection[str],
    exchange: str | None = None,
    symbol: str | None = None,
    timeframe: str | None = None,
    *,
    keep_daily: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> PruneReport:
    """Delete old rows in batches, each in its own transaction, while others read and write.

    - ``ohlcv``: the bars that begin before the time. On PostgreSQL a partition whose bars are all older is dropped whole, if all
      bars are selected.
    - ``trades``: the closed trades (action close or liquidated) whose exit_time, or updated_at if they have none, is before the
      time, with their fills and their closed positions.
    - ``positions``: the closed positions whose last_updated is before the time.
    - ``system_events``: the events whose created_at is before the time.

    An open trade, an open position and the trade of an open position are never deleted, however old they are. Fills without a
    trade, ledger entries and balances are kept.

    A batch takes about a twentieth of a second, and the pause after it as long, so that writers of SQLite and DuckDB get their
    turn. If the call is interrupted, the rows deleted so far are gone, and it resumes when called again. A file on disk does not
    get smaller by itself: SQLite and DuckDB use the space again.

    Args:
        db: the connected store, e.g. a DatabaseManager.
        older_than: the age: a timedelta, or text such as "90d"; or the time before which rows are old.
        tables: the tables, at least one of ohlcv, trades, positions and system_events; one name may be given as text.
        exchange: only rows of this exchange; None: of all.
        symbol: only rows of this symbol; None: of all.
        timeframe: only bars of this timeframe; other tables are refused. None: of all.
        keep_daily: keep daily bars: bars of 1d and longer are not deleted, and from the shorter ones of each day the bar of 1d is
            stored first, if there is none (see `rollup`). Then the time is rounded down to a midnight in UTC.
        dry_run: count what would be deleted, and change nothing.
        progress: called with (step, rows done, rows in total or None), a step for each table.

    Returns:
        The number of deleted rows of each series and table, the dropped partitions and the number of new daily bars.

    Raises:
        InvalidValueError: an argument has an invalid value, no table is given, or a table cannot be pruned.
        SchemaError: the store has no tables, or those of another revision.
        Unsupported: the store keeps only bars, and another table is given.
        OperationalError: rows are hidden from the role of the store, or it may not delete; or the database failed.
        MissingDriverError: pyarrow is not installed; the message contains the install command.

    Example:
        plan = await prune(db, timedelta(days=90), ["ohlcv", "trades"], dry_run=True)
        [(part.table, part.rows) for part in plan.parts]  # -> [('ohlcv', 23), ('trades', 1), ('positions', 0), ('fills', 2)]
        report = await prune(db, timedelta(days=90), "ohlcv", keep_daily=True)
        (report.rows, report.daily_bars)  # -> (23, 1)
    """
    check_store(db, "db")
    before = resolve_since(older_than, "older_than")
    if before.replace(tzinfo=None) == datetime.min:
        raise InvalidValueError("older_than is the first moment of the year 1, before which there is no row")
    chosen = [name for name in (exchange, symbol, timeframe) if name is not None]
    scope = TableScope(
        tables,
        () if exchange is None else (checks.name_text(exchange, "exchange"),),
        () if symbol is None else (checks.name_text(symbol, "symbol"),),
        () if timeframe is None else (checks.name_text(timeframe, "timeframe"),),
    )
    if not scope.named:
        raise InvalidValueError(f"name the tables whose old rows are to be deleted: {', '.join(PRUNED)}")
    for table in scope.tables:
        if table.name not in PRUNED:
            more = "; the fills of a trade are deleted with it" if table.name == "fills" else ""
            raise InvalidValueError(f"rows of {table.name} cannot be pruned; the tables are {', '.join(PRUNED)}{more}")
    checks.boolean(keep_daily, "keep_daily")
    checks.boolean(dry_run, "dry_run")
    if keep_daily and BARS not in scope.tables:
        raise InvalidValueError("keep_daily keeps daily bars, so the table ohlcv must be one of the tables")
    step = report_steps(progress)
    require_arrow()
    await import_modules("pyarrow", "iftb_store.maintenance.pruning")
    from iftb_store.maintenance.pruning import Pruner

    scope, _ = limit_scope(scope, db=db)
    pruner = Pruner(db, before, scope, is_whole=not chosen, keep_daily=keep_daily, dry=dry_run, step=step)
    parts = await pruner.run()
    return PruneReport(pruner.before, parts, tuple(pruner.partitions), pruner.daily_bars, dry_run)
