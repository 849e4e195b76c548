"""Lookups by count, id and other unique values, as queries on DuckDB; see `iftb_store.abilities.Lookups`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, func, select

from iftb_store.errors import readable
from iftb_store.protocols import Session
from iftb_store.schema.table_spec import BARS, ColumnKind, RowFilter, TableSpec
from iftb_store.schema.tables import Base
from iftb_store.schema.types import CastText


class DuckDBLookups:
    """The lookups of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def count_rows(self, selection: RowFilter) -> list[tuple[tuple[Any, ...], int]]:
        """Return the number of the selected rows of each series of bars, or of another table."""
        columns = _columns(selection.table)
        keys = selection.order[:-1]
        counts = select(*(columns.c[name] for name in keys), func.count()).select_from(columns)
        rows: Sequence[Any] = (await self._session.execute(counts.where(*_conditions(columns, selection)).group_by(*keys))).all()
        return [(tuple(series), int(count)) for *series, count in rows]

    async def measure_ids(self, table: TableSpec) -> tuple[int, int]:
        """Return the number of rows of a table and their greatest id."""
        columns = _columns(table)
        row: Any = (await self._session.execute(select(func.count(), func.max(columns.c.id)).select_from(columns))).one()
        return int(row[0]), row[1] or 0

    async def find_last(self, selection: RowFilter) -> dict[str, Any] | None:
        """Return the id and the key of the selected row with the greatest id."""
        columns, names = _columns(selection.table), tuple(dict.fromkeys(("id", *selection.table.key)))
        newest = select(*(columns.c[name] for name in names)).where(*_conditions(columns, selection))
        with readable(selection.table.name):
            row = (await self._session.execute(newest.order_by(columns.c.id.desc()).limit(1))).first()
        return None if row is None else dict(zip(names, row, strict=True))

    async def find_rows(self, table: TableSpec, column: str, values: Sequence[Any] | range) -> list[dict[str, Any]]:
        """Return the rows that have one of the values in a column: id, exchange, symbol, time, key and this column."""
        columns, names = _columns(table), dict.fromkeys(("id", "exchange", "symbol", table.time, *table.key, column))
        looked_at: ColumnElement[Any] = columns.c[column]
        if table.kinds[column] is ColumnKind.TEXT:
            looked_at = CastText(looked_at)
        chosen = looked_at.between(values.start, values.stop - 1) if isinstance(values, range) else looked_at.in_(values)
        rows = (await self._session.execute(select(*(columns.c[name] for name in names)).where(chosen))).all()
        return [dict(zip(names, row, strict=True)) for row in rows]

    async def find_shared_id(self, ids: range) -> int | None:
        """Return an id that two bars have."""
        number = _columns(BARS).c.id
        shared = select(number).where(number.between(ids.start, ids.stop - 1)).group_by(number).having(func.count() > 1).limit(1)
        row = (await self._session.execute(shared)).first()
        return None if row is None else int(row[0])


def _columns(table: TableSpec) -> Table:
    return Base.metadata.tables[table.name]


def _conditions(columns: Table, selection: RowFilter) -> Iterator[ColumnElement[bool]]:
    for name, value in selection.equal.items():
        yield CastText(columns.c[name]) == value
    if selection.start is not None:
        yield columns.c[selection.table.time] >= selection.start
    if selection.end is not None:
        yield columns.c[selection.table.time] <= selection.end
