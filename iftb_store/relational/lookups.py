"""Lookups by count, id and other unique values, in SQL that a `SqlDialect` parametrises; see `iftb_store.abilities.Lookups`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iftb_store.errors import readable
from iftb_store.relational.dialect import Row
from iftb_store.relational.driver import QueryRunner, bind
from iftb_store.relational.rows import shown_column
from iftb_store.schema.table_spec import BARS, ColumnKind, RowFilter, TableSpec


class RelationalLookups:
    """The lookups of one session."""

    def __init__(self, reader: QueryRunner) -> None:
        self._reader = reader

    async def count_rows(self, selection: RowFilter) -> list[tuple[tuple[Any, ...], int]]:
        """Return the number of the selected rows of each series of bars, or of another table."""
        keys = selection.order[:-1]
        where, values = self._where(selection)
        grouped = f" GROUP BY {', '.join(keys)}" if keys else ""
        sql = f"SELECT {', '.join((*keys, 'COUNT(*)'))} FROM {selection.table.name}{where}{grouped}"
        return [(tuple(series), int(count)) for *series, count in await self._read(sql, values)]

    async def measure_ids(self, table: TableSpec) -> tuple[int, int]:
        """Return the number of rows of a table and their greatest id."""
        ((count, greatest),) = await self._read(f"SELECT COUNT(*), MAX(id) FROM {table.name}", {})
        return int(count), int(greatest or 0)

    async def find_last(self, selection: RowFilter) -> dict[str, Any] | None:
        """Return the id and the key of the selected row with the greatest id."""
        names = tuple(dict.fromkeys(("id", *selection.table.key)))
        where, values = self._where(selection)
        end = f"{where} ORDER BY id DESC {self._reader.dialect.limit.format(':limit')}"
        return next(iter(await self._find(selection.table, names, end, values | {"limit": 1})), None)

    async def find_rows(self, table: TableSpec, column: str, values: Sequence[Any] | range) -> list[dict[str, Any]]:
        """Return the rows that have one of the values in a column: id, exchange, symbol, time, key and this column."""
        names, dialect = tuple(dict.fromkeys(("id", "exchange", "symbol", table.time, *table.key, column))), self._reader.dialect
        if isinstance(values, range):
            bounds = {"first": values.start, "last": values.stop - 1}
            return await self._find(table, names, f" WHERE {column} BETWEEN :first AND :last", bounds)
        shown, mark = (dialect.text_column, dialect.text_parameter) if table.kinds[column] is ColumnKind.TEXT else ("{}", ":{}")
        given = {f"value_{index}": value for index, value in enumerate(values)}
        where = f" WHERE {shown.format(column)} IN ({', '.join(map(mark.format, given))})"
        return await self._find(table, names, where, given) if given else []

    async def find_shared_id(self, ids: range) -> int | None:
        """Return an id that two bars have."""
        limit = self._reader.dialect.limit.format(":limit")
        sql = f"SELECT id FROM {BARS.name} WHERE id BETWEEN :first AND :last GROUP BY id HAVING COUNT(*) > 1 {limit}"
        rows = await self._read(sql, {"first": ids.start, "last": ids.stop - 1, "limit": 1})
        return int(rows[0][0]) if rows else None

    def _where(self, selection: RowFilter) -> tuple[str, dict[str, Any]]:
        dialect, values = self._reader.dialect, dict[str, Any](selection.equal)
        conditions = [dialect.equal(column) for column in selection.equal]
        for name, sign, moment in (("start", ">=", selection.start), ("end", "<=", selection.end)):
            if moment is not None:
                conditions.append(f"{selection.table.time} {sign} {dialect.time_parameter.format(name)}")
                values[name] = moment
        return f" WHERE {' AND '.join(conditions)}" if conditions else "", values

    async def _find(self, table: TableSpec, names: Sequence[str], where: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        dialect, kinds = self._reader.dialect, table.kinds
        shown = ", ".join(shown_column(dialect, name, kinds[name]) for name in names)
        rows = await self._read(f"SELECT {shown} FROM {table.name}{where}", values)
        with readable(table.name):
            return [
                {
                    name: dialect.decode_time(value) if kinds[name] is ColumnKind.TIME and value is not None else value
                    for name, value in zip(names, row, strict=True)
                }
                for row in rows
            ]

    async def _read(self, sql: str, values: dict[str, Any]) -> Sequence[Row]:
        return await self._reader.read(*bind(self._reader, sql, values))
