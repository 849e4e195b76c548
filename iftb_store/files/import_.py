"""Stores the rows of a file, all or none: an export of iftb-store with its ids, candles of other tools, or a kline dump."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from iftb_store._io.tasks import import_modules, run_to_end
from iftb_store.abilities import ConnectedStore
from iftb_store.errors import InvalidValueError
from iftb_store.files.ahead import ReadAhead
from iftb_store.files.batches import Batches, Converter
from iftb_store.files.commits import Commit, finish_commit
from iftb_store.files.databases import import_database
from iftb_store.files.detect import FileKind
from iftb_store.files.earlier import EarlierFiles, describe_unknown
from iftb_store.files.imported import ImportedFile
from iftb_store.files.klines import import_klines
from iftb_store.files.readers.binance import DumpError, KlineRows
from iftb_store.files.source import Source
from iftb_store.protocols import Capability
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import BARS, SERIES, TRADES
from iftb_store.transfer.kept import limit_scope
from iftb_store.transfer.progress import StepCallback, estimate_rows
from iftb_store.values import checks
from iftb_store.values.choices import CONFLICTS, Conflict

if TYPE_CHECKING:
    import pyarrow as pa

    from iftb_store.files.duplicates import BatchCounts


async def import_file(
    db: ConnectedStore,
    source: Source,
    *,
    insert: bool = False,
    new_ids: bool = False,
    on_conflict: Conflict = "source-wins",
    earlier: EarlierFiles | None = None,
    progress: StepCallback | None = None,
    commit: Commit[ImportedFile] | None = None,
    ahead: ReadAhead[KlineRows] | None = None,
) -> ImportedFile:
    """Store all rows of a file in one transaction, or none; the file is read batch by batch.

    Rows of an export keep their ids, except bars, and the times set by the store, and overwrite the rows with the same key.
    A stored bar that is overwritten keeps its id and created_at. A cancellation during the COMMIT waits for its end,
    for a few seconds at most.

    Args:
        db: a connected manager whose schema is in place.
        source: the file.
        insert: refuse rows that are already stored, instead of overwriting them.
        new_ids: store the rows of an export under new ids and times, as if the bot wrote them: only bars, which are identified
            by their series and time, and trades, which are identified by their trade_id and must be equal if already stored.
        on_conflict: for rows that are stored with other values: "source-wins" overwrites them, "refuse" refuses the file.
        earlier: the bars of the files that the same import has already stored; a file that contradicts them is refused, and a
            note says how many bars could not be compared.
        progress: called after each batch with (rows stored, rows of the file); the second is estimated from the bytes read.
        commit: records the state of the COMMIT; read it after a cancellation to find out whether the file is stored.
        ahead: the tables of a kline dump, if their reading has begun already; this call closes it.

    Returns:
        The number of rows written, what they changed, their series and time span; 0 rows for an empty export.

    Raises:
        DumpError: the file is damaged, or a row cannot be stored; the message names the file and the row.
        IntegrityError: with ``insert``, a row is already stored; or an id belongs to another row of the store.
        TradeConflictError: with ``new_ids``, a trade is stored with other values.
        InvalidValueError: ``new_ids`` for rows that are identified only by their id.
        Unsupported: the database does not keep the file's table.
    """
    if source.table is not None:
        limit_scope(TableScope([source.table.name]), database=db)
    refuse_changes = checks.choice(on_conflict, "on_conflict", CONFLICTS) == "refuse"
    commit, progress, earlier = commit or Commit(), progress or (lambda done, total: None), earlier or EarlierFiles()
    if source.kind is FileKind.NOTHING:
        return ImportedFile(source.path, "", 0, None, None, None)
    if source.kind is FileKind.DATABASE:
        if insert or new_ids:
            raise InvalidValueError(f"{source.path}: is a database; leave {'--insert' if insert else '--new-ids'} out for it")
        # its batches are committed one by one
        commit.state = "sent"
        return await import_database(db, source, on_conflict, progress)
    if source.dump is not None:
        return await finish_commit(_import_dump(db, source, insert, refuse_changes, earlier, progress, commit, ahead), commit)
    return await finish_commit(_import(db, source, insert, new_ids, refuse_changes, earlier, progress, commit), commit)


async def _import_dump(
    db: ConnectedStore,
    source: Source,
    insert: bool,
    refuse_changes: bool,
    earlier: EarlierFiles,
    progress: StepCallback,
    commit: Commit[ImportedFile],
    ahead: ReadAhead[KlineRows] | None,
) -> ImportedFile:
    dump: Any = source.dump
    options: dict[str, Any] = {"insert": insert, "refuse_changes": refuse_changes, "earlier": earlier, "ahead": ahead}
    done = await import_klines(db, dump, **options, progress=progress, commit=commit)
    notes = [f"bars off the timeframe's grid: {done.off_grid:,}"] if done.off_grid else []
    return ImportedFile(
        source.path,
        BARS.name,
        done.bars,
        done.series,
        done.first,
        done.last,
        done.inserted,
        done.changed,
        done.bars - done.inserted - done.changed,
        rounded=dump.rounded,
        notes=(*describe_rounding(dump.rounded), *notes, *describe_unknown(done.unknown)),
    )


async def _import(
    db: ConnectedStore,
    source: Source,
    insert: bool,
    new_ids: bool,
    refuse_changes: bool,
    earlier: EarlierFiles,
    progress: StepCallback,
    commit: Commit[ImportedFile],
) -> ImportedFile:
    if new_ids and source.table not in (None, BARS, TRADES):
        raise InvalidValueError(
            f"{source.path}: rows of {source.table.name} are identified only by their id, "
            "so they cannot be stored under new ids; import the file into an empty database"
        )
    await import_modules("pyarrow")

    from iftb_store.files.duplicates import BatchCounts, Repeats
    from iftb_store.files.row_writers import find_writer

    async def work(session: Any) -> tuple[ImportedFile, Repeats]:
        commit.state = "not sent"
        taken, repeats = _Totals(source), Repeats(earlier, refuse_changes=refuse_changes)
        options = {"insert": insert, "new_ids": new_ids, "refuse_changes": refuse_changes}
        batches = Batches(source)
        try:
            write = find_writer(session, source, repeats, **options)
            while (rows := await run_to_end(asyncio.to_thread(next, batches, None))) is not None:
                with batches.name_row():
                    taken.add(rows, await write(rows) if rows.num_rows else BatchCounts(0, 0, 0))
                progress(taken.rows, estimate_rows(taken.rows, batches.reader.bytes_read, batches.reader.size))
            if not taken.rows and source.table is None:
                raise DumpError(f"{source.path}: contains no bars")
            keeps_ids = source.table is not None and source.table.has_own_ids and not new_ids
            done = taken.result(batches.converter, [*(["ids kept"] if keeps_ids else []), *describe_unknown(repeats.unknown)])
        finally:
            # it waits until no thread reads the file
            await run_to_end(asyncio.to_thread(batches.close))
        commit.state = "sent"
        return done, repeats

    if source.table in (None, BARS) or Capability.ISOLATION not in db.capabilities:
        async with db.get_session() as session:
            done, repeats = await work(session)
    else:
        # repeatable read: otherwise a row that another session writes under one of the ids after the check would be overwritten
        done, repeats = await db.run(work, isolation="repeatable read", idempotent=not insert)
    await run_to_end(asyncio.to_thread(earlier.add, source.path, repeats.spans))
    return done


class _Totals:
    """Counts the rows of a file that were written so far, and records their series and times."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._table = source.table or BARS
        self._series: dict[str, set[str]] = {name: set() for name in SERIES}
        self._times: list[Any] = []
        self.rows = self._repeated = self._inserted = self._changed = 0

    def add(self, rows: pa.Table, counts: BatchCounts) -> None:
        """Add the rows of a batch and what they changed."""
        import pyarrow.compute as pc

        self.rows += counts.rows
        self._inserted += counts.inserted
        self._changed += counts.changed
        self._repeated += rows.num_rows - counts.rows
        found: Any = pc.min_max(rows[self._table.time]).as_py()
        ends = sorted(end for end in (*self._times, *found.values()) if end is not None)
        self._times = [ends[0], ends[-1]] if ends else []
        if self._table is BARS:
            for name, values in self._series.items():
                # two values are enough to show that the rows do not belong to one series
                if len(values) < 2:
                    values.update(value for value in rows[name].unique().slice(0, 3).to_pylist() if value is not None)

    def result(self, converter: Converter, notes: list[str]) -> ImportedFile:
        """Return the result of the import, with the notes of the converter and further notes."""
        one = all(len(values) == 1 for values in self._series.values())
        series = tuple(next(iter(self._series[name])) for name in SERIES) if one else None
        first, last = self._times or (None, None)
        repeated = [f"{self._repeated:,} more rows are duplicates of bars in the file"] if self._repeated else []
        return ImportedFile(
            self._source.path,
            self._table.name,
            self.rows,
            series,  # type: ignore[arg-type]
            first,
            last,
            self._inserted,
            self._changed,
            self.rows - self._inserted - self._changed,
            converter.rounded,
            converter.skipped,
            (*describe_rounding(converter.rounded), *converter.notes, *notes, *repeated),
        )


def describe_rounding(count: int) -> list[str]:
    """Return a note that says how many values were rounded; an empty list if none were."""
    return [f"{count:,} {'value' if count == 1 else 'values'} rounded to 18 places"] if count else []
