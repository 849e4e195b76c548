"""Stores the bars of a kline dump, all or none: as Arrow tables, or without pyarrow as objects."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from operator import attrgetter
from typing import Any

from iftb_store._io.tasks import import_modules
from iftb_store.abilities import ConnectedStore
from iftb_store.batches.bars import VALUES, SeriesKey
from iftb_store.errors import InvalidValueError
from iftb_store.files.ahead import ReadAhead
from iftb_store.files.commits import Commit
from iftb_store.files.earlier import EarlierFiles, explain_change, format_bar
from iftb_store.files.readers.binance import BATCH, DumpError, KlineDump, KlineRows
from iftb_store.files.spans import Spans, split_times
from iftb_store.models import OHLCVBar, UpsertReport
from iftb_store.repositories.ohlcv import OHLCVRepository, write_checked
from iftb_store.schema.types import from_epoch_us, to_epoch_us
from iftb_store.transfer.progress import StepCallback, estimate_rows
from iftb_store.values.timeframes import SECONDS, is_off_grid

_read_values = attrgetter(*VALUES)
# what a table's import needs, imported in a thread
_MODULES = ("pyarrow", "iftb_store.files.readers.kline_blocks", "iftb_store.files.candles", "iftb_store.files.duplicates")


@dataclass(frozen=True, slots=True)
class KlineReport:
    """The result of importing one dump.

    Attributes:
        series: the series of the bars.
        bars: the number of bars written; a bar that the file contains more than once counts once.
        inserted: the number of bars that were new.
        changed: the number of bars that were stored with other values.
        first: the first opening time.
        last: the last opening time.
        off_grid: the number of bars that do not begin at a multiple of the timeframe, e.g. because the file's name is wrong.
        unknown: the number of bars that could not be compared with earlier files.
    """

    series: SeriesKey
    bars: int
    inserted: int
    changed: int
    first: datetime
    last: datetime
    off_grid: int = 0
    unknown: int = 0


async def import_klines(
    db: ConnectedStore,
    dump: KlineDump,
    *,
    insert: bool = False,
    refuse_changes: bool = False,
    earlier: EarlierFiles | None = None,
    progress: StepCallback | None = None,
    commit: Commit[Any] | None = None,
    ahead: ReadAhead[KlineRows] | None = None,
) -> KlineReport:
    """Store the bars of one dump in one transaction: all of them, or none.

    Args:
        db: a connected manager whose schema is in place.
        dump: the file; it is read in parts, each while the part before is stored.
        insert: refuse bars that are already stored, instead of overwriting them.
        refuse_changes: refuse bars that are stored with other values.
        earlier: the bars of the files that the same import has already stored; this file's bars are added to them.
        progress: called after each batch with (rows stored, rows of the file); the second is estimated from the bytes read.
        commit: records when the COMMIT is sent, see `iftb_store.files.commits.finish_commit`.
        ahead: the tables of the dump, if their reading has begun already; this call closes it.

    Returns:
        The series, the number of bars written, and the first and last opening time.

    Raises:
        DumpError: the file is damaged, two of its lines have different values for the same bar, it would change a stored bar, or
            an earlier file has different values for a bar.
        IntegrityError: with ``insert``, a bar is already stored, or occurs twice in the file.
    """
    earlier, report = earlier or EarlierFiles(), progress or (lambda done, total: None)
    if find_spec("pyarrow") is None:
        return await _import_objects(db, dump, insert, refuse_changes, earlier, report, commit)
    await import_modules(*_MODULES)
    ahead = ahead or ReadAhead(dump.tables())
    try:
        return await _import_tables(db, dump, ahead, insert, refuse_changes, earlier, report, commit)
    finally:
        await ahead.close()


async def _import_tables(
    db: ConnectedStore,
    dump: KlineDump,
    ahead: ReadAhead[KlineRows],
    insert: bool,
    refuse_changes: bool,
    earlier: EarlierFiles,
    progress: StepCallback,
    commit: Commit[Any] | None,
) -> KlineReport:
    from iftb_store.files.candles import count_off_grid
    from iftb_store.files.duplicates import Repeats

    repeats = Repeats(earlier, refuse_changes=refuse_changes)
    rows = inserted = changed = off_grid = 0
    ends: list[datetime] = []
    async with db.get_session() as session:
        repository = OHLCVRepository(session)
        while (part := await ahead.take()) is not None:
            with _name_line(dump, part):
                counts = await repeats.add_rows(part.table, session)
            report = await write_checked(repository, part.table, "insert" if insert else "upsert")
            rows, inserted, changed = rows + counts.rows, inserted + report.inserted, changed + report.updated
            found, odd = await asyncio.to_thread(count_off_grid, part.table["timestamp"], dump.timeframe)
            off_grid += odd
            ends = sorted([*ends, *found])
            ends = [ends[0], ends[-1]]
            progress(rows, estimate_rows(rows, part.bytes_read, dump.size))
        if commit is not None:
            commit.state = "sent"
    earlier.add(dump.path, repeats.spans)
    series = dump.exchange, dump.symbol, dump.timeframe
    return KlineReport(series, rows, inserted, changed, ends[0], ends[1], off_grid, repeats.unknown)


@contextmanager
def _name_line(dump: KlineDump, part: KlineRows) -> Iterator[None]:
    """Add the file, and the line of a bar that an earlier line contradicts, to an error in the block about a bar of a part."""
    from iftb_store.files.duplicates import RepeatError

    try:
        yield
    except RepeatError as error:
        raise _repeat_error(dump, error.series, error.moment, part.first_line + error.index) from error
    except InvalidValueError as error:
        raise DumpError(f"{dump.path}: {error}") from error


async def _import_objects(
    db: ConnectedStore,
    dump: KlineDump,
    insert: bool,
    refuse_changes: bool,
    earlier: EarlierFiles,
    progress: StepCallback,
    commit: Commit[Any] | None,
) -> KlineReport:
    off_grid = rows = inserted = changed = unknown = lines = 0
    ends: list[datetime] = []
    series, spans, step = (dump.exchange, dump.symbol, dump.timeframe), Spans(), (SECONDS[dump.timeframe] or 86_400) * 1_000_000
    async with db.get_session() as session:
        repository = OHLCVRepository(session)
        with closing(dump.batches()) as batches:
            for batch in batches:
                # a bar that an earlier batch contained already is not counted again
                times = sorted({to_epoch_us(bar.timestamp) for bar in batch})
                spread = split_times(series, times, step)
                try:
                    before = set(spans.add(spread))
                except InvalidValueError as error:
                    raise DumpError(f"{dump.path}: {error}") from error
                rows += len(times) - len(before)
                elsewhere = set(earlier.find(spread))
                unknown += earlier.count_unknown(spread)
                distinct = _find_distinct(dump, series, batch, lines)
                known = before | elsewhere
                compared = distinct if refuse_changes else [bar for bar in distinct if to_epoch_us(bar.timestamp) in known]
                for bar in await _find_changes(repository, compared):
                    time = to_epoch_us(bar.timestamp)
                    if time in before:
                        raise _repeat_error(dump, series, bar.timestamp, dump.header_lines + lines + batch.index(bar) + 1)
                    reason = earlier.explain(series, time, step) if time in elsewhere else explain_change(series, bar.timestamp)
                    raise DumpError(f"{dump.path}: {reason}")
                report = await _write_batch(repository, batch, insert=insert)
                inserted, changed = inserted + report.inserted, changed + report.updated
                ends = [*ends, *(from_epoch_us(times[place]) for place in (0, -1))]
                ends = [min(ends), max(ends)]
                lines += len(batch)
                off_grid += sum(is_off_grid(bar.timestamp, bar.timeframe) for bar in batch)
                progress(rows, estimate_rows(rows, dump.bytes_read, dump.size))
        if commit is not None:
            commit.state = "sent"
    earlier.add(dump.path, spans)
    return KlineReport(series, rows, inserted, changed, ends[0], ends[1], off_grid, unknown)


async def _write_batch(repository: OHLCVRepository, batch: list[OHLCVBar], *, insert: bool) -> UpsertReport:
    if insert:
        return UpsertReport(await repository.insert_many(batch), 0, 0)
    return await repository.upsert_many(batch, report=True)


def _find_distinct(dump: KlineDump, series: SeriesKey, batch: list[OHLCVBar], before: int) -> list[OHLCVBar]:
    """Return the bars of a batch without duplicates; ``before`` is the number of bars in earlier batches.

    Raises:
        DumpError: two lines have different values for the same bar.
    """
    found: dict[datetime, OHLCVBar] = {}
    for index, bar in enumerate(batch, before):
        if _read_values(found.setdefault(bar.timestamp, bar)) != _read_values(bar):
            raise _repeat_error(dump, series, bar.timestamp, dump.header_lines + index + 1)
    return list(found.values())


def _repeat_error(dump: KlineDump, series: SeriesKey, moment: datetime, line: int) -> DumpError:
    """Return the error for a bar that has other values than an earlier bar of the same time."""
    name = format_bar(series, moment)
    return DumpError(f"{dump.path}, line {line}: an earlier line has other values for {name}; remove the wrong line")


async def _find_changes(repository: OHLCVRepository, batch: list[OHLCVBar]) -> list[OHLCVBar]:
    """Return the bars that are stored with other values; all given bars belong to one series."""
    if not batch:
        return []
    given = {bar.timestamp: bar for bar in batch}
    first = batch[0]
    window = first.symbol, first.timeframe, min(given), max(given), first.exchange
    changes: list[OHLCVBar] = []
    # read in parts, because between the bars of the batch any number of others may be stored
    async with repository.stream_range(*window, batch_size=BATCH) as stored:
        async for bars in stored:
            changes += [
                given[bar.timestamp]
                for bar in bars
                if bar.timestamp in given and _read_values(bar) != _read_values(given[bar.timestamp])
            ]
    return changes
