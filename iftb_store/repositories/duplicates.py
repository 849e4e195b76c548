"""Names the bar for which an insert was refused: the first one, by key, that is already stored or occurs twice in the batch."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from datetime import datetime
from itertools import groupby, pairwise

from sqlalchemy.exc import DBAPIError, IntegrityError

from iftb_store.batches.bars import BarBatch, duplicate_bar_error
from iftb_store.errors import StoreError
from iftb_store.protocols import Stores
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter

_Series = tuple[str, str, str]
_Key = tuple[str, str, str, datetime]

# bars that one query reads, and the most queries: a batch whose bars lie far apart between stored bars would need many
_READ, _QUERIES = 5_000, 300


async def explain_duplicate(stores: Stores, batch: BarBatch, error: IntegrityError) -> IntegrityError:
    """Return the error for an insert that a store refused with ``error``.

    The new error names the first duplicate bar, and says whether it is stored or occurs twice in the batch. If no duplicate is
    found, e.g. because this transaction cannot see the stored bar, or because finding it would take too many queries, the
    result is ``error``.
    """
    try:
        twice, times = await asyncio.to_thread(_sort_keys, batch)
        stored = await _find_stored(stores, times)
    except (DBAPIError, StoreError):
        return error
    if twice is not None and (stored is None or twice < stored):
        return duplicate_bar_error(twice, twice=True, cause=error)
    return error if stored is None else duplicate_bar_error(stored, twice=False, cause=error)


def _sort_keys(batch: BarBatch) -> tuple[_Key | None, dict[_Series, list[datetime]]]:
    """Return the first key that occurs twice in a batch, or None; and for each series, in order, its times in order."""
    keys = sorted(key for columns in batch.chunks() for key in zip(*columns[:4], strict=True))
    twice = next((key for key, following in pairwise(keys) if key == following), None)
    return twice, {series: [key[3] for key in group] for series, group in groupby(keys, lambda key: key[:3])}


async def _find_stored(stores: Stores, times_of: dict[_Series, list[datetime]]) -> _Key | None:
    """Return the first of the given bars, in order, that is stored; None if none is found."""
    queries = 0
    for series, times in times_of.items():
        equal: dict[str, str] = dict(zip(SERIES, series, strict=True))
        first = 0
        while first < len(times) and queries < _QUERIES:
            queries += 1
            bars = await stores.bars.read(RowFilter(BARS, equal, times[first], times[-1], limit=_READ))
            for bar in bars:
                first = bisect_left(times, bar.timestamp, first)
                if times[first] == bar.timestamp:
                    return *series, bar.timestamp
            if len(bars) < _READ:
                break
    return None
