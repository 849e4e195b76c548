"""Lookups by count, id and other unique values, in SQL that a `SqlDialect` parametrises; see `iftb_store.abilities.Lookups`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from iftb_store.relational.dialect import Row
from iftb_store.relational.driver import QueryRunner, bind
from iftb_store.relational.scans import scan_sql
from iftb_store.schema.table_spec import BARS, RowFilter, TableSpec

_LAST = datetime.max.replace(tzinfo=UTC)


class RelationalLookups:
    """The lookups of one session."""

    def __init__(self, reader: QueryRunner) -> None:
        self._reader = reader

    async def count_rows(self, selection: RowFilter) -> list[tuple[tuple[Any, ...], int]]:
        """Return the number of the selected rows of each series of bars, or of another table."""
        keys = selection.order[:-1]
        if keys and selection.table is BARS and selection.bounds and self._reader.dialect.seeks:
            return await self._count_windows(selection)
        where, values = self._where(selection)
        grouped = f" GROUP BY {', '.join(keys)}" if keys else ""
        sql = f"SELECT {', '.join((*keys, 'COUNT(*)'))} FROM {selection.table.name}{where}{grouped}"
        return [(tuple(series), int(count)) for *series, count in await self._read(sql, values)]

    async def _count_windows(self, selection: RowFilter) -> list[tuple[tuple[Any, ...], int]]:
        """Return the number of bars of each series in a window; reads the index in the windows only, not all of it."""
        found, after = list[tuple[tuple[Any, ...], int]](), None
        keys = selection.order[:-1]
        while True:
            # the first bar of the next series
            first = RowFilter(BARS, selection.equal, after=after, limit=1)
            rows = await self._read(*scan_sql(first, self._reader.dialect, lambda column, _: column))
            if not rows:
                return found
            names = dict(zip(first.columns, rows[0], strict=True))
            series = {name: names[name] for name in keys}
            ((_, count),) = await self.count_rows(replace(selection, equal=selection.equal | series))
            if count:
                found.append((tuple(series.values()), count))
            after = (*series.values(), _LAST)

    async def find_greatest_id(self, selection: RowFilter) -> int | None:
        """Return the greatest id of the selected rows, or None if no row is selected."""
        where, values = self._where(selection)
        limit = self._reader.dialect.limit.format(":limit")
        rows = await self._read(f"SELECT id FROM {selection.table.name}{where} ORDER BY id DESC {limit}", values | {"limit": 1})
        return int(rows[0][0]) if rows else None

    async def find_ids(self, table: TableSpec, column: str, values: Sequence[str]) -> dict[str, int]:
        """Return, for each of the values of a unique column of text that is stored, the id of its row."""
        dialect = self._reader.dialect
        given = {f"value_{index}": value for index, value in enumerate(values)}
        marks = ", ".join(map(dialect.text_parameter.format, given))
        where = f"{dialect.text_column.format(column)} IN ({marks})"
        rows = await self._read(f"SELECT {column}, id FROM {table.name} WHERE {where}", given) if given else []
        return {str(value): int(number) for value, number in rows}

    def _where(self, selection: RowFilter) -> tuple[str, dict[str, Any]]:
        dialect, values = self._reader.dialect, dict[str, Any](selection.equal)
        conditions = [dialect.equal(column) for column in selection.equal]
        for name, sign, moment in (("start", ">=", selection.start), ("end", "<=", selection.end)):
            if moment is not None:
                conditions.append(f"{selection.table.time} {sign} {dialect.time_parameter.format(name)}")
                values[name] = moment
        return f" WHERE {' AND '.join(conditions)}" if conditions else "", values

    async def _read(self, sql: str, values: dict[str, Any]) -> Sequence[Row]:
        return await self._reader.read(*bind(self._reader, sql, values))
