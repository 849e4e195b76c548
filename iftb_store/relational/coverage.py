"""The store of the table coverage, and the runs of bars with and without volume, in SQL adapted by a `SqlDialect`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from iftb_store.errors import explain_unreadable
from iftb_store.relational.dialect import SqlDialect
from iftb_store.relational.driver import StatementRunner, bind
from iftb_store.relational.rows import RowForm
from iftb_store.schema.table_spec import BARS, COVERAGE, AskedRange, RowFilter

_FORM = RowForm(COVERAGE)
# ranges of one INSERT: few, so that the parameters stay within a driver's limits
_ROWS = 100
# the mark of the row, after the first bars of the runs, that ends the last run
_END = 2


class RelationalCoverage:
    """Reads and writes the coverage of one session; see `iftb_store.abilities.CoverageStore`."""

    def __init__(self, driver: StatementRunner) -> None:
        self._driver = driver

    async def lock(self, series: RowFilter) -> None:
        """Hold off other sessions that would change the ranges of the series, until the transaction ends."""
        named = "\0".join(series.equal.values()).encode()
        key = int.from_bytes(blake2b(named, digest_size=8).digest(), signed=True)
        await self._driver.change(*bind(self._driver, self._driver.dialect.lock_series, {"key": key}))

    async def read(self, series: RowFilter) -> list[AskedRange]:
        """Return the ranges of which a part lies in the window, oldest first."""
        dialect = self._driver.dialect
        where, values = _select_ranges(dialect, series)
        statement, args = bind(self._driver, _FORM.select_sql(dialect, f"{where} ORDER BY {', '.join(COVERAGE.key)}"), values)
        return _FORM.decode(dialect, await self._driver.read(statement, args))

    async def replace(self, series: RowFilter, ranges: Sequence[AskedRange]) -> None:
        """Delete the ranges of the window, and store others in their place."""
        dialect = self._driver.dialect
        where, values = _select_ranges(dialect, series)
        await self._driver.change(*bind(self._driver, f"DELETE FROM coverage {where}", values))
        for begin in range(0, len(ranges), _ROWS):
            rows, given = list[str](), dict[str, Any]()
            for number, one in enumerate(ranges[begin : begin + _ROWS]):
                rows.append(f"({', '.join(_name_parameter(dialect, name, number) for name in COVERAGE.columns)})")
                given |= {f"{name}_{number}": getattr(one, name) for name in COVERAGE.columns}
            sql = f"INSERT INTO coverage ({', '.join(COVERAGE.columns)}) VALUES {', '.join(rows)}"
            await self._driver.change(*bind(self._driver, sql, given))

    async def read_runs(self, series: RowFilter) -> list[tuple[datetime, datetime, bool, int]]:
        """Return the runs of stored bars in the window, oldest first, as (first, last, whether volume is 0, number of bars)."""
        dialect = self._driver.dialect
        sql = _runs_sql(dialect, series)
        values = {**series.equal, "start": series.start, "end": series.end, "zero": Decimal(0)}
        time = dialect.decode_time
        with explain_unreadable(BARS.name):
            rows = sorted(await self._driver.read(*bind(self._driver, sql, values)), key=lambda row: (row[2] == _END, row[3]))
            *starts, end = [tuple(row) for row in rows]
            following = [*starts[1:], (None, end[0], _END, end[3] + 1)] if starts else []
            return [
                (time(first), time(last), bool(quiet), int(beyond - place))
                for (first, _, quiet, place), (_, last, _, beyond) in zip(starts, following, strict=True)
            ]


def _name_parameter(dialect: SqlDialect, column: str, number: int) -> str:
    return _FORM.parameter(dialect, column).replace(f":{column}", f":{column}_{number}")


def _select_ranges(dialect: SqlDialect, series: RowFilter) -> tuple[str, dict[str, Any]]:
    conditions, values = [dialect.equal(name) for name in series.equal], dict[str, Any](series.equal)
    for name, condition, moment in (("start", "last >= {}", series.start), ("end", "first <= {}", series.end)):
        if moment is not None:
            conditions.append(condition.format(dialect.time_parameter.format(name)))
            values[name] = moment
    return f"WHERE {' AND '.join(conditions)}" if conditions else "", values


def _runs_sql(dialect: SqlDialect, series: RowFilter) -> str:
    """Return the query for the first bar of each run, with the bar before it, and for the end of the last run."""
    conditions = [dialect.series]
    for name, sign, moment in (("start", ">=", series.start), ("end", "<=", series.end)):
        if moment is not None:
            conditions.append(f"timestamp {sign} {dialect.time_parameter.format(name)}")
    where = " AND ".join(conditions)
    is_quiet = f"CASE WHEN volume = {dialect.decimal_parameter.format('zero')} THEN 1 ELSE 0 END"
    return f"""
        SELECT later, earlier, quiet, place
        FROM (
            SELECT timestamp AS later, quiet, ROW_NUMBER() OVER (ORDER BY timestamp) AS place,
                {dialect.lag}(timestamp) OVER (ORDER BY timestamp) AS earlier,
                {dialect.lag}(quiet) OVER (ORDER BY timestamp) AS quiet_before
            FROM (SELECT timestamp, {is_quiet} AS quiet FROM ohlcv WHERE {where}) bars
        ) pairs
        WHERE earlier IS NULL OR quiet <> quiet_before OR {dialect.gap_sql(series.equal["timeframe"])}
        UNION ALL
        SELECT MAX(timestamp), MAX(timestamp), {_END}, COUNT(*) FROM ohlcv WHERE {where}"""
