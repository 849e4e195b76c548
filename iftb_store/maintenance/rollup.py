"""Keeps bars of a longer timeframe of what is stored: rollup of iftb_store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from iftb_store._io.tasks import import_modules
from iftb_store.abilities import ConnectedStore
from iftb_store.batches.resampling import Buckets
from iftb_store.maintenance.reports import RolledUpSeries, RollupReport
from iftb_store.registry import require_arrow
from iftb_store.schema.scope import check_window, make_filter
from iftb_store.schema.table_spec import BARS
from iftb_store.transfer.access import check_store
from iftb_store.transfer.progress import ProgressCallback, report_steps
from iftb_store.values import checks
from iftb_store.values.timeframes import Timeframe, check_timeframe


async def rollup(
    db: ConnectedStore,
    source: Timeframe,
    target: Timeframe,
    *,
    exchange: str | None = None,
    symbol: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    partial: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> RollupReport:
    """Compute the bars of a longer timeframe that are missing, and store them; they remain when the shorter ones are pruned.

    Each bar equals that of `OHLCVRepository.resample`. A stored bar of ``target`` is never changed, also if it came from an
    exchange, so that the call can be repeated, before and after the shorter bars were pruned. Bars are computed window by window,
    each stored in its own transaction; windows whose bars are all stored are skipped. An interrupted call resumes when called
    again. Others may write meanwhile.

    Args:
        db: the connected store, e.g. a DatabaseManager.
        source: the timeframe of the stored bars, e.g. "1m".
        target: the timeframe of the bars to store, a multiple of ``source``, e.g. "1h"; for 1M, ``source`` must divide the day.
        exchange: only series of this exchange; None: of all.
        symbol: only the series of this symbol; None: of all.
        start: start of the time window, inclusive; naive times are UTC. A bar that begins before is not computed from a part of
            its time. None: from the first bar.
        end: end of the time window, inclusive. None: now.
        partial: whether to store also bars whose time has ended although bars of ``source`` are missing in it; otherwise only
            complete ones.
        dry_run: count the bars that would be stored, and store none.
        progress: called with ("roll up", series done, series in total).

    Returns:
        The number of stored bars of each series; no series if none has the timeframe ``source``.

    Raises:
        InvalidValueError: an argument has an invalid value, ``target`` is not a multiple of ``source``, or a sum of volumes
            exceeds the range of its column.
        SchemaError: the store has no tables.
        OperationalError: rows are hidden from the role of the store; or the database failed.
        MissingDriverError: pyarrow is not installed; the message contains the install command.

    Example:
        report = await rollup(db, "1h", "4h")
        report.stored  # -> 5
        (await rollup(db, "1h", "4h")).stored  # -> 0
    """
    check_store(db, "db")
    check_timeframe(source, "source")
    check_timeframe(target, "target")
    Buckets(source, target)
    window = make_filter(BARS, start, end, exchange=exchange, symbol=symbol, timeframe=source)
    checks.boolean(partial, "partial")
    checks.boolean(dry_run, "dry_run")
    step = report_steps(progress)
    require_arrow()
    await import_modules("pyarrow", "iftb_store.maintenance.rolling")
    from iftb_store.maintenance.rolling import Roller, list_series_in

    last, first = window.end or datetime.now(UTC), window.start
    roller = Roller(source, target, last, partial=partial, dry=dry_run)
    if first is not None:
        check_window(first, last)
        if roller.begin(first) < first:
            # the bar that began before has only a part of its time in the window
            first = roller.end(first) + timedelta(microseconds=1)
    done = []
    with step("roll up") as tell:
        found = await list_series_in(db, window)
        for number, ((of_exchange, of_symbol, _), _) in enumerate(found):
            stored = await roller.roll_up(db, of_exchange, of_symbol, first)
            done.append(RolledUpSeries(of_exchange, of_symbol, stored))
            tell(number + 1, len(found))
    return RollupReport(source, target, tuple(done), dry_run)
