"""Counts rows and finds ids, series and exchanges in SQL, adapted by a `SqlDialect`; see `iftb_store.abilities.Lookups`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from iftb_store.errors import readable
from iftb_store.models import SeriesSpan
from iftb_store.relational.dialect import Row
from iftb_store.relational.driver import QueryRunner, bind
from iftb_store.relational.scans import scan_sql
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter, TableSpec


class RelationalLookups:
    """The lookups of one session."""

    def __init__(self, reader: QueryRunner) -> None:
        self._reader = reader

    async def count_rows(self, selection: RowFilter) -> list[tuple[tuple[Any, ...], int]]:
        """Return the number of selected rows: of each series if the table is ohlcv, or of the whole of another table."""
        keys = selection.order[:-1]
        if keys and selection.table is BARS and selection.bounds and self._reader.dialect.seeks:
            return await self._count_windows(selection)
        where, values = self._where(selection)
        grouped = f" GROUP BY {', '.join(keys)}" if keys else ""
        sql = f"SELECT {', '.join((*keys, 'COUNT(*)'))} FROM {selection.table.name}{where}{grouped}"
        return [(tuple(series), int(count)) for *series, count in await self._read(sql, values)]

    async def _count_windows(self, selection: RowFilter) -> list[tuple[tuple[Any, ...], int]]:
        """Return each series that has bars in a time window, and their number; read only that part of the index."""
        found = list[tuple[tuple[Any, ...], int]]()
        keys = selection.order[:-1]
        for series in await self.find_series(selection):
            names = {name: value for name, value in zip(SERIES, series, strict=True) if name in keys}
            ((_, count),) = await self.count_rows(replace(selection, equal=selection.equal | names))
            if count:
                found.append((tuple(names.values()), count))
        return found

    async def find_series(self, selection: RowFilter) -> list[tuple[str, str, str]]:
        """Return the stored series of an exchange, a timeframe, both or all; see `iftb_store.abilities.SupportsSeries`."""
        if not self._reader.dialect.seeks:
            where, values = self._where(RowFilter(BARS, selection.equal))
            names = ", ".join(SERIES)
            rows = await self._read(f"SELECT DISTINCT {names} FROM {BARS.name}{where} ORDER BY {names}", values)
            return [(str(exchange), str(symbol), str(timeframe)) for exchange, symbol, timeframe in rows]
        found, after = list[tuple[str, str, str]](), None
        while True:
            # the first bar of the next series
            first = RowFilter(BARS, selection.equal, after=after, limit=1, only=SERIES)
            rows = await self._read(*scan_sql(first, self._reader.dialect, lambda column, _: column))
            if not rows:
                return found
            series = selection.equal | dict(zip(first.columns, rows[0], strict=True))
            found.append((series["exchange"], series["symbol"], series["timeframe"]))
            after = tuple(series[name] for name in selection.order[:-1])

    async def find_spans(self, selection: RowFilter) -> list[SeriesSpan]:
        """Return the series of find_series with their ends; see `iftb_store.abilities.SupportsSeries`."""
        dialect, names, ends = self._reader.dialect, ", ".join(SERIES), ("MIN(timestamp)", "MAX(timestamp)")
        if dialect.seeks:
            # each end has a subquery, because SQLite reads all bars of a series for a MIN and a MAX in one query
            bars = f"FROM {BARS.name} WHERE {dialect.equal(*SERIES)}"
            sql = f"SELECT {', '.join(f'(SELECT {end} {bars})' for end in ends)}"
            rows = [
                (*series, *(await self._read(sql, dict(zip(SERIES, series, strict=True))))[0])
                for series in await self.find_series(selection)
            ]
        else:
            where, values = self._where(RowFilter(BARS, selection.equal))
            grouped = f"FROM {BARS.name}{where} GROUP BY {names} ORDER BY {names}"
            rows = [tuple(row) for row in await self._read(f"SELECT {names}, {', '.join(ends)} {grouped}", values)]
        time = dialect.decode_time
        with readable(BARS.name):
            return [
                SeriesSpan(exchange, symbol, timeframe, time(first), time(last))
                for exchange, symbol, timeframe, first, last in rows
            ]

    async def find_greatest_id(self, selection: RowFilter) -> int | None:
        """Return the greatest id of the selected rows, or None if no row is selected."""
        where, values = self._where(selection)
        limit = self._reader.dialect.limit.format(":limit")
        rows = await self._read(f"SELECT id FROM {selection.table.name}{where} ORDER BY id DESC {limit}", values | {"limit": 1})
        return int(rows[0][0]) if rows else None

    async def find_exchanges(self, window: RowFilter) -> list[str]:
        """Return the exchanges that have bars with a symbol and a timeframe in a time window, in bytewise order."""
        dialect = self._reader.dialect
        if not dialect.seeks:
            where, values = self._where(window)
            rows = await self._read(f"SELECT DISTINCT exchange FROM {BARS.name}{where} ORDER BY exchange", values)
            return [str(name) for (name,) in rows]
        found, after = list[str](), ""
        limit = dialect.limit.format(":limit")
        behind = f"{dialect.text_column.format('exchange')} > {dialect.text_parameter.format('after')}"
        following = f"SELECT exchange FROM {BARS.name} WHERE {behind} ORDER BY exchange {limit}"
        while rows := await self._read(following, {"after": after, "limit": 1}):
            after = str(rows[0][0])
            where, values = self._where(replace(window, equal={"exchange": after, **window.equal}))
            if await self._read(f"SELECT exchange FROM {BARS.name}{where} {limit}", values | {"limit": 1}):
                found.append(after)
        return found

    async def find_values(self, selection: RowFilter, columns: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the different values of the selected rows in columns of text; see `iftb_store.abilities.SupportsValues`."""
        where, values = self._where(selection)
        rows = await self._read(f"SELECT DISTINCT {', '.join(columns)} FROM {selection.table.name}{where}", values)
        return [tuple(map(str, row)) for row in rows]

    async def fingerprint_days(self, window: RowFilter) -> list[tuple[int | None, int, str]] | None:
        """Return the fingerprint of each day of a series; None if the dialect has no query for it."""
        template = self._reader.dialect.day_fingerprints
        if not template:
            return None
        where, values = self._where(window)
        rows = await self._read(template.format(where), values)
        return [(None if day is None else int(day), int(count), str(fingerprint)) for day, count, fingerprint in rows]

    async def find_ids(self, table: TableSpec, column: str, values: Sequence[str]) -> dict[str, int]:
        """Find rows by the values of a unique text column; return {value: id of the row} for the values that are stored."""
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
