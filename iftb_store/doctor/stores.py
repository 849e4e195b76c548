"""Checks rows without SQL, for any backend: reads the rows through the stores of the backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from iftb_store._io.tasks import import_modules
from iftb_store.abilities import ConnectedStore
from iftb_store.doctor.bars import (
    AGAIN,
    BEYOND,
    DUPLICATES,
    MOST_SERIES,
    NEGATIVE_PRICE,
    NEGATIVE_VOLUME,
    OFF_GRID,
    make_holes_finding,
)
from iftb_store.doctor.checks import SEVERITY_ORDER, SHOWN_ROWS, Finding, FindingSeverity
from iftb_store.doctor.coverage import examine_coverage
from iftb_store.errors import InvalidValueError, StoreError
from iftb_store.models import Series
from iftb_store.protocols import Stores
from iftb_store.registry import get_stores, require_arrow
from iftb_store.schema.row_checks import find_check
from iftb_store.schema.table_spec import BARS, SERIES, ColumnKind, ColumnSpec, RowFilter, TableSpec
from iftb_store.schema.types import to_epoch_us
from iftb_store.transfer.kept import find_kept_tables
from iftb_store.values.checks import json_object, name_text
from iftb_store.values.tags import decode_texts
from iftb_store.values.timeframes import MONTH, SECONDS, grid

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class _Problem:
    """A kind of problem in one place, e.g. a series or a column, with the number of rows found so far."""

    kind: str
    severity: FindingSeverity
    table: str
    where: str
    remedy: str
    rows: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, row: object) -> None:
        """Count a row that has the problem, and keep the names of the first few rows."""
        self.count += 1
        if len(self.rows) < SHOWN_ROWS:
            self.rows.append(row.replace(tzinfo=None).isoformat(" ") if isinstance(row, datetime) else str(row))

    def finding(self) -> Finding:
        """Return the finding that reports the problem."""
        return Finding(self.kind, self.severity, self.table, self.where, tuple(self.rows), self.count, self.remedy)


class _Named:
    """The exchange, symbol and timeframe of a series, for messages."""

    def __init__(self, series: Series) -> None:
        self.exchange, self.symbol = series.exchange, series.symbol
        self.timeframe: str = series.timeframe
        self.shown = f"{self.exchange} {self.symbol} {self.timeframe}"


async def examine_stores(db: ConnectedStore) -> list[Finding]:
    """Return the problems of the rows of every table that the backend keeps, read from a snapshot."""
    require_arrow()
    await import_modules("pyarrow", "pyarrow.compute", "iftb_store.transfer.plan")
    from iftb_store.transfer.plan import open_snapshot

    tables = find_kept_tables(db)
    async with open_snapshot(db, tables) as session:
        stores = get_stores(session)
        findings = await _examine_bars(stores)
        for table in (table for table in tables if table is not BARS):
            findings += await _examine_records(stores, table)
        findings += await examine_coverage(stores)
    return findings


async def _examine_bars(stores: Stores) -> list[Finding]:
    try:
        listed = await stores.bars.list_series()
    except StoreError as error:
        return [_unreadable(BARS, "", error)]
    findings = list[Finding]()
    worst = list[tuple[bool, list[Finding]]]()
    for series in listed:
        found = await _examine_series(stores, series)
        if found:
            worst.append((all(one.severity == SEVERITY_ORDER[-1] for one in found), found))
    # errors and warnings first, as only some series are reported
    worst.sort(key=lambda item: item[0])
    for _, found in worst[:MOST_SERIES]:
        findings += found
    if worst[MOST_SERIES:]:
        more = f"only {MOST_SERIES} series with problems are reported; fix these, then run the doctor again"
        findings.append(Finding("more series", "note", BARS.name, "", (), len(worst) - MOST_SERIES, more))
    return findings


async def _examine_series(stores: Stores, series: Series) -> list[Finding]:
    named = _Named(series)
    selection = RowFilter(BARS, {name: getattr(series, name) for name in SERIES})
    problems = {problem.kind: problem for problem in _bar_problems(named.shown)}
    findings = list(_check_names(series, named.shown))
    last: list[Any] = []

    def check(rows: pa.RecordBatch) -> None:
        for kind, times in _find_wrong_bars(rows, series.timeframe):
            for moment in times:
                problems[kind].add(moment)
        times = [*last, *rows["timestamp"].to_pylist()]
        for before, moment in pairwise(times):
            if moment == before:
                problems["duplicate bars"].add(moment)
        last[:] = times[-1:]

    try:
        async for rows in _read(stores, selection):
            await asyncio.to_thread(check, rows)
        gaps = await stores.bars.get_gaps(selection, None, None) if series.missing else []
    except StoreError as error:
        return [*findings, _unreadable(BARS, named.shown, error)]
    findings += [problem.finding() for problem in problems.values() if problem.count]
    return [*findings, make_holes_finding(named, len(gaps), series.missing)] if gaps else findings


def _bar_problems(where: str) -> Iterator[_Problem]:
    texts: list[tuple[str, FindingSeverity, str]] = [
        ("duplicate bars", "error", DUPLICATES),
        ("off the grid", "warning", OFF_GRID),
        ("high below low", "error", AGAIN),
        ("open or close beyond", "warning", BEYOND),
        ("negative volume", "error", NEGATIVE_VOLUME),
        ("negative price", "note", NEGATIVE_PRICE),
    ]
    for kind, severity, remedy in texts:
        yield _Problem(kind, severity, BARS.name, where, remedy)


def _check_names(series: Series, where: str) -> Iterator[Finding]:
    for column in SERIES:
        try:
            name_text(getattr(series, column), column)
        except InvalidValueError as error:
            yield Finding("unusable name", "error", BARS.name, where, (), series.count, f"{error}; {AGAIN}")


def _find_wrong_bars(rows: pa.RecordBatch, timeframe: str) -> Iterator[tuple[str, list[Any]]]:
    """Check the bars of a batch, and yield (kind of problem, times of the bars with this problem)."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute
    zero = pa.scalar(Decimal(0), rows.schema.field("open").type)
    times = rows["timestamp"]
    low, high, open_, close = (rows[name] for name in ("low", "high", "open", "close"))
    below = pc.less(high, low)
    beyond = [pc.greater(price, high) for price in (open_, close)] + [pc.less(price, low) for price in (open_, close)]
    wrong = {
        "high below low": below,
        "open or close beyond": pc.and_(pc.invert(below), reduce(pc.or_, beyond)),
        "negative volume": reduce(
            pc.or_,
            [
                pc.less(rows["volume"], zero),
                pc.fill_null(pc.less(rows["quote_volume"], zero), False),
                pc.fill_null(pc.less(rows["trades_count"], 0), False),
            ],
        ),
        "negative price": reduce(pc.or_, [pc.less(price, zero) for price in (open_, high, low, close)]),
    }
    if timeframe in SECONDS:
        origin, step = grid(timeframe)
        since = pc.subtract(times.cast(pa.int64()), to_epoch_us(origin))
        length = step // timedelta(microseconds=1)
        off = pc.not_equal(pc.multiply(pc.divide(since, length), length), since)
        wrong["off the grid"] = pc.or_(off, pc.not_equal(pc.day(times), 1)) if timeframe == MONTH else off
    for kind, marked in wrong.items():
        yield kind, times.filter(marked).to_pylist()


async def _examine_records(stores: Stores, table: TableSpec) -> list[Finding]:
    problems: dict[tuple[str, str], _Problem] = {}
    seen: dict[str, set[Any]] = {}

    def report(kind: str, column: str, row: dict[str, Any], remedy: str) -> None:
        problems.setdefault((kind, column), _Problem(kind, "error", table.name, column, remedy)).add(row["id"])

    def report_again(kind: str, column: str, value: Any, row: dict[str, Any]) -> None:
        if value in seen.setdefault(column, set()):
            report(kind, column, row, "only one row may have this value; check which one is correct")
        seen[column].add(value)

    last: list[int] = []

    def check(rows: pa.RecordBatch) -> None:
        for row in rows.to_pylist():
            for spec in table.specs.values():
                problem = _find_problem(spec, row[spec.name])
                if problem is not None:
                    report(problem[0], spec.name, row, f"{problem[1]}; set the correct value")
            if last == [row["id"]]:
                report("duplicate ids", "id", row, "one row keeps each id, the others get new ids")
            last[:] = [row["id"]]
            if table.unique and all(row[name] == value for name, value in table.unique_among):
                kind = "two open positions" if table.unique_among else f"duplicate {table.name}"
                report_again(kind, ", ".join(table.unique), tuple(row[name] for name in table.unique), row)

    try:
        async for rows in _read(stores, RowFilter(table)):
            await asyncio.to_thread(check, rows)
    except StoreError as error:
        return [*(problem.finding() for problem in problems.values()), _unreadable(table, "", error)]
    return [problem.finding() for problem in problems.values()]


def _find_problem(spec: ColumnSpec, value: Any) -> tuple[str, str] | None:
    """Check a value of a column; return (kind of problem, reason) if the column cannot hold the value, otherwise None."""
    try:
        decode = {ColumnKind.JSON: json_object, ColumnKind.TEXTS: decode_texts}.get(spec.kind)
        find_check(spec)(value if decode is None or value is None else decode(value), spec.name)
    except (ValueError, RecursionError) as error:
        kind = f"unknown {spec.name}" if spec.choices else "unusable name" if spec.is_name else "unreadable value"
        return kind, str(error)
    return None


def _unreadable(table: TableSpec, where: str, error: StoreError) -> Finding:
    remedy = f"{error}; after this value no more rows are examined here; {AGAIN if table is BARS else 'set the correct value'}"
    return Finding("unreadable value", "error", table.name, where, (), 1, remedy)


async def _read(stores: Stores, selection: RowFilter) -> AsyncIterator[pa.RecordBatch]:
    from iftb_store.transfer.plan import Partition, read_batches

    async with aclosing(read_batches(stores, Partition(selection))) as batches:
        async for rows in batches:
            for batch in rows.combine_chunks().to_batches():
                yield batch
