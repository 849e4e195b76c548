"""Writes the rows of a file into a session: candles, trades under new ids, or complete rows; reports what they changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.errors import InvalidValueError, integrity_error
from iftb_store.files.duplicates import BatchCounts, Repeats
from iftb_store.files.source import Source
from iftb_store.models import Trade
from iftb_store.protocols import Stores
from iftb_store.registry import get_stores
from iftb_store.repositories.ohlcv import OHLCVRepository, write_checked
from iftb_store.repositories.streams import record_batches
from iftb_store.repositories.trades import TradeRepository
from iftb_store.schema.table_spec import BARS, TRADES, ColumnKind, RowFilter, TableSpec
from iftb_store.transfer.diff import compare_rows
from iftb_store.transfer.digests import encode_rows
from iftb_store.transfer.lookups import get_lookups
from iftb_store.values.checks import json_object
from iftb_store.values.tags import decode_texts

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

# numbers of stored rows, and bytes of their texts, that are read at a time to compare them; of trades that are looked up
_ROWS_AT_ONCE, _BYTES_AT_ONCE, _NAMES_AT_ONCE = 2_000, 16 << 20, 500


def find_writer(
    session: Any, source: Source, repeats: Repeats, *, insert: bool, new_ids: bool, refuse_changes: bool
) -> Callable[[pa.Table], Awaitable[BatchCounts]]:
    """Return the function that writes a batch of rows of a file and returns what the batch contained and changed.

    Args:
        session: the session.
        source: the file.
        repeats: the bars of the file that were already written.
        insert: whether to refuse a row that is stored.
        new_ids: whether the store assigns the ids.
        refuse_changes: whether to refuse a row that is stored with other values.
    """
    stores, table = get_stores(session), source.table

    async def write_candles(rows: pa.Table) -> BatchCounts:
        counts = await repeats.add_rows(rows, session)
        report = await write_checked(OHLCVRepository(session), rows, "insert" if insert else "upsert")
        return BatchCounts(counts.rows, report.inserted, report.updated)

    async def write_trades(rows: pa.Table) -> BatchCounts:
        repository, lookups, known = TradeRepository(session), get_lookups(stores), 0
        names: list[Any] = rows["trade_id"].to_pylist()
        for first in range(0, len(names), _NAMES_AT_ONCE):
            known += len(await lookups.find_ids(TRADES, "trade_id", names[first : first + _NAMES_AT_ONCE]))
        for row in rows.to_pylist():
            objects = {name: json_object(row[name]) for name, kind in TRADES.kinds.items() if kind == ColumnKind.JSON}
            lists = {name: decode_texts(row[name]) for name, kind in TRADES.kinds.items() if kind == ColumnKind.TEXTS}
            await repository.record(Trade(**{**row, **objects, **lists}))
        return BatchCounts(rows.num_rows, rows.num_rows - known, 0)

    async def write_complete_rows(rows: pa.Table) -> BatchCounts:
        if table is None or table is BARS:
            counts = await (write_candles(rows) if insert else repeats.add_rows(rows, session, count=True))
            if insert:
                # no bar was stored, or `write_candles` would have raised; the rows written now have the times of the export
                await stores.delete_rows(BARS, rows)
        else:
            counts = await _compare_rows(stores, table, rows, insert=insert, refuse_changes=refuse_changes)
        await stores.write_rows(table or BARS, rows)
        return counts

    if table is None or (new_ids and table is BARS):
        return write_candles
    return write_trades if new_ids else write_complete_rows


async def _compare_rows(stores: Stores, table: TableSpec, rows: pa.Table, *, insert: bool, refuse_changes: bool) -> BatchCounts:
    """Raise an error if storing the rows would overwrite a row that must not change; count the new and changed rows.

    A stored row is the same row as a new one if its id, its created_at and its identity columns are equal. The rows are in the
    order of their ids.

    Raises:
        IntegrityError: an id belongs to another row; or, with ``insert``, an id is already stored.
        InvalidValueError: with ``refuse_changes``, a row is stored with other values.
    """

    def compare(stored: pa.Table) -> tuple[int, int]:
        stored = stored.filter(pc.is_in(stored["id"], rows["id"].combine_chunks()))
        if insert and stored.num_rows:
            raise integrity_error(f"the id {stored['id'][0]} is already stored")
        diff = compare_rows(table, rows, stored)
        names = tuple(dict.fromkeys(("created_at", *table.identity)))
        others = diff.changed.filter(pc.not_equal(*(encode_rows(side, table, names) for side in (diff.changed, diff.stored))))
        if others.num_rows:
            raise integrity_error(f"the id {others['id'][0]} belongs to another row")
        if refuse_changes and diff.changed.num_rows:
            raise InvalidValueError(
                f"would change the stored row of {table.name} with the id {diff.changed['id'][0]}; "
                "leave --on-conflict refuse out to overwrite it"
            )
        return stored.num_rows, diff.changed.num_rows

    known = changed = 0
    selection = RowFilter(table, after=(rows["id"][0].as_py() - 1,), limit=_ROWS_AT_ONCE, size=_BYTES_AT_ONCE)
    async with aclosing(record_batches(stores, selection)) as batches:
        async for batch in batches:
            counts = await asyncio.to_thread(compare, pa.table(batch))
            known, changed = known + counts[0], changed + counts[1]
            if batch["id"][-1].as_py() >= rows["id"][-1].as_py():
                break
    return BatchCounts(rows.num_rows, rows.num_rows - known, changed)
