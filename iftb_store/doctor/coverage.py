"""Checks the table coverage: ranges that overlap, lie off the grid, end before they begin or in the future."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import Connection, text

from iftb_store.doctor.checks import SHOWN_ROWS, Finding, SeriesRows
from iftb_store.doctor.sql import Engine, format_text
from iftb_store.protocols import Stores
from iftb_store.repositories.covered import find_coverage
from iftb_store.schema.table_spec import COVERAGE, SERIES, ColumnKind, RowFilter
from iftb_store.schema.types import from_epoch_us
from iftb_store.values.display import join_names
from iftb_store.values.timeframes import SECONDS, is_off_grid

_REMEDY = "delete the ranges of the series: its missing bars are then unknown, and fill asks for them again"


class _Range(NamedTuple):
    series: tuple[str, str, str]
    first: datetime
    last: datetime
    statement: str = ""


def coverage_findings(conn: Connection, engine: Engine) -> Iterator[Finding]:
    """Yield the problems of the table coverage; call this within the doctor's snapshot."""
    wrong = engine.unreadable[ColumnKind.TIME]
    unreadable = " OR ".join(f"{name} IS NULL OR {wrong.format(name)}" for name in ("first", "last", "asked_at"))
    unreadable += "".join(f" OR {name} IS NULL" for name in (*SERIES, "source"))
    count = conn.execute(text(f"SELECT COUNT(*) FROM coverage WHERE {unreadable}")).scalar_one()
    if count:
        remedy = "no series with such a range can be read; delete these ranges, then fill asks for their missing bars again"
        yield Finding(
            "unreadable value", "error", COVERAGE.name, "", (), count, remedy, (f"DELETE FROM coverage WHERE {unreadable}",)
        )
    names = ", ".join(map(engine.shown_text.format, SERIES))
    times = ", ".join(engine.microseconds.format(name) for name in ("first", "last"))
    sql = f"SELECT {names}, {times} FROM coverage WHERE NOT ({unreadable}) ORDER BY exchange, symbol, timeframe, first"
    ranges = []
    for *key, first, last in conn.execute(text(sql)):
        literal = SeriesRows(engine, key).literal
        series = (format_text(key[0]), format_text(key[1]), format_text(key[2]))
        ranges.append(_Range(series, from_epoch_us(first), from_epoch_us(last), f"DELETE FROM coverage WHERE {literal}"))
    yield from _find_problems(ranges, datetime.now(UTC))


async def examine_coverage(stores: Stores) -> list[Finding]:
    """Return the problems of the coverage in one session; empty if the backend keeps none."""
    coverage = find_coverage(stores)
    if coverage is None:
        return []
    found = await coverage.read(RowFilter(COVERAGE))
    ranges = [_Range((one.exchange, one.symbol, one.timeframe), one.first, one.last) for one in found]
    return list(_find_problems(ranges, datetime.now(UTC)))


def _find_problems(ranges: Iterable[_Range], now: datetime) -> Iterator[Finding]:
    for series, group in groupby(ranges, key=lambda one: one.series):
        listed = list(group)
        for kind, wrong in _find_kinds(listed, now):
            if wrong:
                rows = tuple(f"{_show(one.first)} to {_show(one.last)}" for one in wrong[:SHOWN_ROWS])
                statements = (wrong[0].statement,) if wrong[0].statement else ()
                yield Finding(kind, "warning", COVERAGE.name, join_names(series), rows, len(wrong), _REMEDY, statements)


def _find_kinds(ranges: list[_Range], now: datetime) -> Iterator[tuple[str, list[_Range]]]:
    timeframe = ranges[0].series[2]
    if timeframe not in SECONDS:
        yield "unknown timeframe", ranges
        return
    yield "range off the grid", [one for one in ranges if is_off_grid(one.first, timeframe) or is_off_grid(one.last, timeframe)]
    yield "range ends before it begins", [one for one in ranges if one.last < one.first]
    yield "range ends in the future", [one for one in ranges if one.last > now]
    overlapping, reached = list[_Range](), datetime.min.replace(tzinfo=UTC)
    for one in ranges:
        if one.first <= reached:
            overlapping.append(one)
        reached = max(reached, one.last)
    yield "ranges overlap", overlapping


def _show(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(" ")
