"""The row of the greatest id, which a copy writes first: ids that the destination gives meanwhile lie past all that come."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import select

from iftb_store.collisions import REMEDY
from iftb_store.errors import StoreError, readable
from iftb_store.registry import stores_of
from iftb_store.scope import Scope
from iftb_store.selections import BARS, GREATEST_ID, ScannedTable, Selection
from iftb_store.stretches import Scanner, conditions
from iftb_store.tables import Base


async def greatest(session: Any, scope: Scope, table: ScannedTable) -> pa.Table:
    """Return the row of the greatest id among the chosen ones; none where none is chosen.

    Raises:
        StoreError: past that id the destination would have hardly any for its own rows.
    """
    columns = Base.metadata.tables[table.name]
    named = [columns.c[name] for name in ("id", *(table.key if table is BARS else ()))]
    found: list[tuple[Any, ...]] = []
    for selection in scope.selections(table):
        chosen = select(*named).where(*conditions(columns, selection)).order_by(columns.c.id.desc()).limit(1)
        with readable(table.name):
            found += [tuple(row) for row in (await session.execute(chosen)).all()]
    if not found:
        return await stores_of(session).scan(Selection(table, limit=1))
    number, *key = max(found)
    if number > GREATEST_ID:
        raise StoreError(
            f"{table.name}: a row of the source has the id {number}; the destination gives ids past all that come, and past "
            f"{GREATEST_ID} there are too few left; give the row a smaller id in the source, or {REMEDY}"
        )
    rows = await stores_of(session).scan(_of(table, number, key))
    # a bar that stands twice is told where the whole series is read
    return rows.slice(0, 1)


async def leading(destination: Scanner, table: ScannedTable, row: pa.Table, closing: pa.Table) -> pa.Table:
    """Return what is written first: ``row``, unless the destination has it, and the positions that others wait for."""
    values = row.to_pylist()[0]
    stored = await destination.scan(_of(table, values["id"], [values[name] for name in table.key] if table is BARS else []))
    is_stored: Any = pc.is_in(row["id"], value_set=stored["id"].combine_chunks())
    is_closing: Any = pc.is_in(row["id"], value_set=closing["id"].combine_chunks())
    rows = row.filter(pc.invert(pc.or_(is_stored, is_closing)))
    return pa.concat_tables([rows, closing]).sort_by(table.key[-1])


def _of(table: ScannedTable, number: int, key: list[Any]) -> Selection:
    """Return the selection of one row: of a bar by its key, as there is no scan by its id."""
    if table is not BARS:
        return Selection(table, after=(number - 1,), limit=1)
    *series, moment = key
    return Selection(table, dict(zip(table.key, series, strict=False)), start=moment, end=moment, limit=1)
