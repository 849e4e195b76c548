"""Checks of bars: duplicates, times at which no bar of the timeframe begins, impossible prices, and gaps."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Protocol

from sqlalchemy import Connection, text

from iftb_store.doctor.checks import HERE, Check, Finding, SeriesRows, make_finding, select_repeated
from iftb_store.doctor.sql import Engine
from iftb_store.doctor.values import BARS
from iftb_store.schema.table_spec import SERIES
from iftb_store.schema.types import to_epoch_us
from iftb_store.values.timeframes import MONTH, SECONDS, grid

#: Maximum number of series that are reported, the worst first; run the doctor again after fixing these to find more.
MOST_SERIES = 100

_US = 1_000_000
_KEYS = ", ".join(SERIES)
_DELETE = "DELETE FROM ohlcv"
#: The remedies for wrong bars.
AGAIN = "delete these bars, and import them again from a correct source"
DUPLICATES = (
    "of each bar, the row with the smallest id is kept; if another row is correct, write its values with upsert_many afterwards"
)
BEYOND = f"they must be between low and high; {AGAIN}"
NEGATIVE_VOLUME = f"traded amounts cannot be negative; {AGAIN}"
NEGATIVE_PRICE = f"such prices are rare, but crude oil had them in April 2020; if they are wrong, {AGAIN}"
OFF_GRID = (
    "the bars of a timeframe begin at multiples of its length in UTC, weeks on Monday, months on the first; "
    f"{AGAIN}, or, if the whole series is shifted, correct its time zone"
)


def bar_findings(conn: Connection, engine: Engine, sound: str, sound_keys: str) -> Iterator[Finding]:
    """Yield the problems of bars.

    Args:
        conn: the connection.
        engine: the engine's SQL fragments.
        sound: the SQL condition that the values of a bar are valid; empty if every bar meets it.
        sound_keys: the SQL condition that the key of a bar is valid; empty if every bar meets it.
    """
    yield from _single(conn, engine, sound)
    yield from _neighbours(conn, engine, sound_keys)


def off_grid(engine: Engine, timeframe: str) -> str:
    """Return the SQL condition that a bar is off the grid: no bar of the timeframe begins at its timestamp."""
    # for 3d the grid is one day: if a series contains bars of two three-day grids, they are reported as gaps
    origin, step = grid(timeframe)
    length = f"CAST({step // timedelta(microseconds=1)} AS BIGINT)"
    off = f"({engine.microseconds.format('timestamp')} - {to_epoch_us(origin)}) % {length} <> 0"
    return f"({off} OR {engine.day.format('timestamp')} <> 1)" if timeframe == MONTH else off


def _checks(engine: Engine, grid: str) -> tuple[Check, ...]:
    """Return the checks of single bars; checks whose findings are only notes come last."""
    zero = engine.zero
    negative_volume = f"(volume < {zero} OR quote_volume < {zero} OR trades_count < 0)"
    negative_price = f"(open < {zero} OR high < {zero} OR low < {zero} OR close < {zero})"
    beyond = "high >= low AND (open > high OR close > high OR open < low OR close < low)"
    return (
        Check("off the grid", "warning", BARS, "", grid, OFF_GRID, _DELETE),
        Check("high below low", "error", BARS, "", "high < low", AGAIN, _DELETE),
        Check("open or close beyond", "warning", BARS, "", beyond, BEYOND, _DELETE),
        Check("negative volume", "error", BARS, "", negative_volume, NEGATIVE_VOLUME, _DELETE),
        Check("negative price", "note", BARS, "", negative_price, NEGATIVE_PRICE, _DELETE),
    )


def _single(conn: Connection, engine: Engine, sound: str) -> Iterator[Finding]:
    grids = " ".join(f"WHEN '{timeframe}' THEN {off_grid(engine, timeframe)}" for timeframe in SECONDS)
    counts = [
        f"COUNT(*) FILTER (WHERE {check.condition})"
        for check in _checks(engine, f"CASE {engine.compared.format('timeframe')} {grids} END")
    ]
    told, more = _by_series(conn, engine, counts, _bars(sound), urgent=len(counts) - 1)
    for series, found_here in told:
        for check, count in zip(_checks(engine, off_grid(engine, series.timeframe)), found_here, strict=True):
            if count:
                yield make_finding(conn, engine, check, count, only=sound, series=series)
    yield from _more_series(more, "there are invalid bars")


def _neighbours(conn: Connection, engine: Engine, sound: str) -> Iterator[Finding]:
    moment, month = engine.microseconds.format, engine.month.format
    between = f"{moment('timestamp')} - {moment('earlier')}"
    steps = " ".join(
        f"WHEN '{timeframe}' THEN ({between} + {seconds * _US - 1}) {engine.divided} {seconds * _US}"
        for timeframe, seconds in SECONDS.items()
        if seconds is not None
    )
    pairs = f"""(
        SELECT {_KEYS}, timestamp, earlier,
            CASE {engine.compared.format("timeframe")} {steps} ELSE {month("timestamp")} - {month("earlier")} END AS steps
        FROM (
            SELECT {_KEYS}, timestamp, {engine.lag}(timestamp) OVER (PARTITION BY {_KEYS} ORDER BY timestamp) AS earlier
            FROM {_bars(sound)}
        ) bars
        WHERE earlier IS NOT NULL
    ) pairs"""
    aggregates = [
        "COUNT(*) FILTER (WHERE timestamp = earlier)",
        "COUNT(*) FILTER (WHERE steps > 1)",
        "CAST(COALESCE(SUM(steps - 1) FILTER (WHERE steps > 1), 0) AS BIGINT)",
    ]
    told, more = _by_series(conn, engine, aggregates, pairs, urgent=1)
    for series, (duplicates, holes, missing) in told:
        if duplicates:
            repeated = select_repeated(engine, BARS, "timestamp", HERE)
            check = Check("duplicate bars", "error", BARS, "", repeated, DUPLICATES, _DELETE)
            yield make_finding(conn, engine, check, duplicates, only=sound, series=series)
        if holes:
            yield make_holes_finding(series, holes, missing)
    yield from _more_series(more, "there are duplicates or gaps")


class NamedSeries(Protocol):
    """The exchange, symbol and timeframe of a series, as text for messages; ``shown`` is all three in one text."""

    exchange: str
    symbol: str
    timeframe: str
    shown: str


def make_holes_finding(series: NamedSeries, holes: int, missing: int) -> Finding:
    """Return the finding that reports the gaps of a series: the times at which bars are missing."""
    symbol, timeframe, exchange = map(shlex.quote, (series.symbol, series.timeframe, series.exchange))
    command = f"iftb-store gaps URL {symbol} {timeframe} --exchange {exchange}"
    if series.symbol.startswith("-"):
        # without -- a symbol that begins with a dash would be read as an option
        command = f"iftb-store gaps --exchange {exchange} -- URL {symbol} {timeframe}"
    verb = "bar is" if missing == 1 else "bars are"
    remedy = f"{missing:,} {verb} missing; `{command}` lists them, `iftb-store import` fills them"
    return Finding("holes", "note", BARS.name, series.shown, (), holes, remedy)


def _bars(sound: str) -> str:
    return f"ohlcv WHERE {sound}" if sound else "ohlcv"


def _by_series(
    conn: Connection, engine: Engine, aggregates: Sequence[str], rows: str, *, urgent: int
) -> tuple[list[tuple[SeriesRows, Sequence[int]]], int]:
    """Count problems per series; return the series that have problems, with the counts, and how many more have problems.

    A series has problems if an aggregate is above 0. At most `MOST_SERIES` series are returned; those for which one of the
    first ``urgent`` aggregates is above 0 come first.

    Args:
        conn: the connection.
        engine: the engine's SQL fragments.
        aggregates: SQL expressions that count problems.
        rows: the SQL after FROM that selects the rows.
        urgent: number of aggregates at the beginning of the list that count errors or warnings, not notes.
    """
    names = [f"found_{index}" for index in range(len(aggregates))]
    selected = ", ".join(f"{sql} AS {name}" for sql, name in zip(aggregates, names, strict=True))
    sql = f"""
        SELECT {", ".join(map(engine.shown_text.format, SERIES))}, COUNT(*) OVER (), {", ".join(names)}
        FROM (SELECT {_KEYS}, {selected} FROM {rows} GROUP BY {_KEYS}) found
        WHERE {" OR ".join(f"{name} > 0" for name in names)}
        ORDER BY CASE WHEN {" OR ".join(f"{name} > 0" for name in names[:urgent])} THEN 0 ELSE 1 END, {_KEYS}
        LIMIT {MOST_SERIES}"""
    made = conn.execute(text(sql)).all()
    more = made[0][3] - len(made) if made else 0
    return [(SeriesRows(engine, key), counts) for *key, _, counts in ((*row[:4], row[4:]) for row in made)], more


def _more_series(more: int, what: str) -> Iterator[Finding]:
    if more:
        remedy = f"{what} in other series too, but only {MOST_SERIES} series are reported; fix these, then run the doctor again"
        yield Finding("more series", "note", BARS.name, "", (), more, remedy)
