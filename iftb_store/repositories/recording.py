"""Stores rows that have a natural key, e.g. fills, so that a call may be repeated: an equal row is stored once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from sqlalchemy.exc import IntegrityError

from iftb_store._io.tasks import import_modules
from iftb_store.errors import InvalidValueError, operational_error
from iftb_store.protocols import Stores
from iftb_store.schema.row_checks import TRADE_CHECKS
from iftb_store.schema.table_spec import TRADES, RowFilter, TableSpec
from iftb_store.values.display import show
from iftb_store.values.suggestions import suggest

#: Returns the error for a stored row that differs from the given one in the named fields.
MakeConflict = Callable[[Any, tuple[str, ...]], Exception]
RowKey = tuple[Any, ...]

# how often rows are written again after another session has stored some of them
_ATTEMPTS = 3
# rows of one market that are looked up at once, in the time between the first and the last
_TOGETHER = 500
# fewer rows are looked up one by one
_FEW = 8


def read_key(table: TableSpec, row: Any) -> RowKey:
    """Return the values of a row in the columns that are unique."""
    return tuple(getattr(row, name) for name in table.unique)


def list_differing_fields(stored: Any, given: Any, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the fields in which two rows differ."""
    return tuple(name for name in names if not _same(getattr(stored, name), getattr(given, name)))


def _same(stored: object, given: object) -> bool:
    # JSON is compared as text, because in Python True == 1, although JSON distinguishes true from 1
    if isinstance(stored, dict) and isinstance(given, dict):
        return json.dumps(stored, sort_keys=True) == json.dumps(given, sort_keys=True)
    return stored == given


async def record_row(stores: Stores, table: TableSpec, row: Any, fields: Iterable[str], conflict: MakeConflict) -> bool:
    """Store a row unless an equal one is stored; return whether it was new.

    Raises:
        Exception: the result of ``conflict``, if a row with the same key differs in one of the ``fields``.
        TransientError: a row with the same key is stored, but the session does not see it.
    """
    try:
        await stores.records.insert(table, row)
    except IntegrityError as error:
        found = await stores.records.select(_select_key(table, read_key(table, row)))
        if not found:
            # e.g. after the snapshot of this transaction, or deleted again
            raise operational_error("another session has stored the same row", error, transient=True) from error
        if differing := list_differing_fields(found[0], row, fields):
            raise conflict(row, differing) from None
        return False
    return True


async def record_rows(
    stores: Stores, table: TableSpec, rows: Mapping[RowKey, Any], fields: Sequence[str], conflict: MakeConflict
) -> set[RowKey]:
    """Store the rows, by key, of which no equal one is stored, all or none; return the keys of the new ones.

    Raises:
        Exception: the result of ``conflict``, if a row with the same key differs in one of the ``fields``.
    """
    # in the order of the keys, so that two sessions that store the same rows do not deadlock
    new = dict(sorted(rows.items()))
    if find_spec("pyarrow") is None:
        await _drop_stored(stores, table, new, fields, conflict, by_key=True)
        return {key for key, row in new.items() if await record_row(stores, table, row, fields, conflict)}
    for attempt in range(_ATTEMPTS):
        if not new:
            break
        try:
            await _write(stores, table, list(new.values()))
            break
        except IntegrityError as error:
            if attempt == _ATTEMPTS - 1:
                raise operational_error("other sessions store the same rows at the same time", error, transient=True) from error
            # the second time, some are stored with another time than the given one
            await _drop_stored(stores, table, new, fields, conflict, by_key=attempt > 0)
    return set(new)


async def _write(stores: Stores, table: TableSpec, rows: Sequence[Any]) -> None:
    await import_modules("pyarrow", "iftb_store.batches.arrow")
    from iftb_store.batches.arrow import to_rows

    await stores.write_rows(table, await asyncio.to_thread(to_rows, table, rows))


async def _drop_stored(
    stores: Stores, table: TableSpec, new: dict[RowKey, Any], fields: Sequence[str], conflict: MakeConflict, *, by_key: bool
) -> None:
    """Remove the rows of which an equal one is stored."""
    for selection in _select(table, new, by_key=by_key):
        for stored in await stores.records.select(selection):
            key = read_key(table, stored)
            if key in new and (differing := list_differing_fields(stored, new[key], fields)):
                raise conflict(new[key], differing)
            new.pop(key, None)


def _select(table: TableSpec, rows: Mapping[RowKey, Any], *, by_key: bool) -> list[RowFilter]:
    """Return selections that together contain the stored rows with the given keys; unless ``by_key`` if their times are equal."""
    markets: dict[RowKey, list[RowKey]] = {}
    for key in rows:
        markets.setdefault(key[:-1], []).append(key)
    selections: list[RowFilter] = []
    for market, keys in markets.items():
        if by_key or len(keys) < _FEW:
            selections += [_select_key(table, key) for key in keys]
            continue
        times = sorted(getattr(rows[key], table.time) for key in keys)
        equal = dict(zip(table.unique, market, strict=False))
        for first in range(0, len(times), _TOGETHER):
            part = times[first : first + _TOGETHER]
            selections.append(RowFilter(table, equal, part[0], part[-1]))
    return selections


def _select_key(table: TableSpec, key: RowKey) -> RowFilter:
    return RowFilter(table, dict(zip(table.unique, key, strict=True)))


def check_field_names(changes: dict[str, Any]) -> None:
    """Raise InvalidValueError if a field of a trade to change does not exist or is set by the store."""
    for name in (name for name in changes if name not in TRADE_CHECKS):
        if name in TRADES.columns:
            raise InvalidValueError(f"{name} is set by the store and cannot be changed")
        settable = [field for field in TRADE_CHECKS if field != "trade_id"]
        raise InvalidValueError(
            f"a trade has no field {show(name)}; {suggest(name, settable)}the fields that can be set are {', '.join(settable)}"
        )
