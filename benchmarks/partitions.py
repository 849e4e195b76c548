"""What partitions of PostgreSQL cost: the waits of others during the move, and calls on months and hashes beside the plain table.

``python -m benchmarks.partitions``: 5,000,000 bars of 10 series move into months while a writer and a reader work, by the real
command, which is killed several times and run again; then all bars are compared. ``--bars 500000`` is a smaller run, ``--part
costs`` only compares the calls. It fails if a bar is lost or an error is not a TransientError.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from random import Random
from statistics import median, quantiles
from time import perf_counter
from typing import Annotated, Any

import typer
from sqlalchemy import text

from benchmarks.objects import bars
from benchmarks.postgres import postgres_databases
from benchmarks.series import EXCHANGE, START, SYMBOL, TIMEFRAME
from benchmarks.show import table_of, terminal
from benchmarks.timing import Contender, ratio, take_turns
from iftb_store import (
    DatabaseManager,
    OHLCVBar,
    OHLCVRepository,
    Timeframe,
    TransientError,
    check_timeframe,
    list_partitions,
    partition_bars,
)

SERIES = 10
_MINUTE = timedelta(minutes=1)
_FILL = """
    INSERT INTO ohlcv (exchange, symbol, timeframe, timestamp, open, high, low, close, volume, quote_volume, trades_count)
    SELECT 'binance', CASE number WHEN 0 THEN 'BTCUSDT' ELSE concat('COIN', number, 'USDT') END, CAST(:timeframe AS text),
        CAST(CAST(:start AS text) AS timestamptz) + minute * CAST(:step AS int) * interval '1 minute',
        price, price + 5, price - 5, price + 1,
        CAST(minute % 997 AS numeric) / 7, CAST(minute % 991 AS numeric) * price, minute % 5000
    FROM generate_series(0, CAST(:minutes AS int) - 1) AS minute, generate_series(0, CAST(:series AS int) - 1) AS number,
        LATERAL (SELECT CAST(50000 + (minute * 7 + number) % 1000 AS numeric(38, 18)) / 8 AS price) AS drawn"""
# the calls are compared on the shortest of these timeframes, in minutes, whose bars take this many days
_TIMEFRAMES: dict[Timeframe, int] = {"1m": 1, "5m": 5, "15m": 15, "1h": 60}
_DAYS = 1_000
_CALLS = (
    "get_latest(100)", "get_range, 1 day", "get_range, 60 days", "insert 100 bars of 1 series", "upsert 1,000 bars, unchanged",
    "upsert 100 bars of 10 series", "list_series",
)  # fmt: skip


def main(
    number: Annotated[int, typer.Option("--bars", min=SERIES * 1_000, help="Bars that are moved.")] = 5_000_000,
    kills: Annotated[int, typer.Option(min=0, help="How often the command is killed and run again.")] = 3,
    by: Annotated[str, typer.Option(help="The method of the move.")] = "month",
    part: Annotated[str, typer.Option(help="move, costs or all.")] = "all",
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each call; the table has the medians of their ratios.")] = 9,
) -> None:
    """Run the benchmark; the exit code is 1 if a bar is lost, or an error was not a TransientError."""
    lost = 0
    with tempfile.TemporaryDirectory(prefix="iftb-store-") as folder, postgres_databases(Path(folder)) as create:
        if part in ("move", "all"):
            lost = asyncio.run(_move(create(), number, kills, by))
        if part in ("costs", "all"):
            asyncio.run(_compare([create() for _ in range(3)], max(1_000, number // SERIES), rounds))
    sys.exit(1 if lost else 0)


@dataclass
class Work:
    """What a task did: the seconds of its calls by phase, and its errors by their names."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    phase: str = "before"

    async def call(self, call: Callable[[], Awaitable[object]]) -> None:
        """Run a call, again after a TransientError, and note its seconds."""
        begun, phase = perf_counter(), self.phase
        while True:
            try:
                await call()
                break
            except TransientError:
                self.errors["TransientError"] = self.errors.get("TransientError", 0) + 1
            except Exception as error:
                # counted, and reported with the figures
                self.errors[repr(error)] = self.errors.get(repr(error), 0) + 1
                break
        self.seconds.setdefault(phase, []).append(perf_counter() - begun)


async def _move(url: str, number: int, kills: int, by: str) -> int:
    """Move the bars while others work; return the number of lost bars and wrong errors."""
    async with DatabaseManager(url) as db:
        await _fill(db, number // SERIES)
        works, stop = {"writer": Work(), "deleter": Work(), "reader": Work()}, asyncio.Event()
        expected = _Expected(number // SERIES)
        tasks = [
            asyncio.ensure_future(_write(db, works["writer"], expected, stop)),
            asyncio.ensure_future(_delete(db, works["deleter"], expected, stop)),
            asyncio.ensure_future(_read(db, works["reader"], stop)),
        ]
        await asyncio.sleep(10)
        _begin_phase(works, "move")
        begun = perf_counter()
        runs = await _run_command(url, by, kills, number)
        seconds = perf_counter() - begun
        _begin_phase(works, "after")
        await asyncio.sleep(10)
        stop.set()
        await asyncio.gather(*tasks)
        lost = await _count_lost(db, expected)
        found = await list_partitions(db)
    lines = [_line(name, phase, samples) for name, work in works.items() for phase, samples in work.seconds.items()]
    terminal().print(table_of(f"{number:,} bars into {len(found.partitions)} partitions in {seconds:.0f} s, {runs} runs", lines))
    errors = {name: work.errors for name, work in works.items()}
    wrong = sum(count for work in works.values() for kind, count in work.errors.items() if kind != "TransientError")
    terminal().print(f"lost or wrong bars: {lost}; errors: {errors}", highlight=False)
    return lost + wrong


def _begin_phase(works: dict[str, Work], phase: str) -> None:
    for work in works.values():
        work.phase = phase


def _line(name: str, phase: str, samples: Sequence[float]) -> dict[str, Any]:
    cuts = quantiles(samples, n=100, method="inclusive") if len(samples) > 1 else list(samples) * 99
    return {
        "task": name,
        "phase": phase,
        "calls": len(samples),
        "median ms": round(median(samples) * 1e3, 1),
        "99 % ms": round(cuts[98] * 1e3, 1),
        "longest ms": round(max(samples) * 1e3, 1),
    }


async def _run_command(url: str, by: str, kills: int, number: int) -> int:
    """Run the command until it succeeds, killed several times; return how often it ran."""
    words = ("-m", "iftb_store", "migrate", url, "--partition-by", by, "--quiet")
    run = 0
    while True:
        run += 1
        process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.DEVNULL)
        if run <= kills:
            try:
                # in the smallest run it may end before
                await asyncio.wait_for(process.wait(), 4 + number / 1_000_000 * run)
            except TimeoutError:
                process.kill()
        if await process.wait() == 0:
            return run
        if run > kills:
            raise RuntimeError(f"the command ended with {process.returncode}")


class _Expected:
    """The bars that the tasks have changed, by their keys: the volume that is stored, or None for a deleted bar."""

    def __init__(self, minutes: int) -> None:
        self.minutes = minutes
        self.volumes: dict[tuple[str, datetime], Decimal | None] = {}


def _symbol(number: int) -> str:
    return SYMBOL if number == 0 else f"COIN{number}USDT"


def _bar(symbol: str, moment: datetime, volume: Decimal) -> OHLCVBar:
    price = Decimal(100)
    return OHLCVBar(symbol, EXCHANGE, TIMEFRAME, moment, price, price, price, price, volume)


async def _write(db: DatabaseManager, work: Work, expected: _Expected, stop: asyncio.Event) -> None:
    """Store the newest minute of every series, and change some old bars, in each call."""
    draw, repository = Random(1), OHLCVRepository(db)
    for minute in count(expected.minutes):
        if stop.is_set():
            return
        moments = [(number, START + minute * _MINUTE) for number in range(SERIES)]
        # even minutes are the writer's, odd ones the deleter's
        moments += [(draw.randrange(SERIES), START + draw.randrange(0, expected.minutes, 2) * _MINUTE) for _ in range(20)]
        chosen = {(_symbol(number), moment): Decimal(minute) for number, moment in moments}
        batch = [_bar(symbol, moment, volume) for (symbol, moment), volume in chosen.items()]
        await work.call(lambda batch=batch: repository.upsert_many(batch))  # type: ignore[misc]
        expected.volumes |= chosen
        await asyncio.sleep(0.02)


async def _delete(db: DatabaseManager, work: Work, expected: _Expected, stop: asyncio.Event) -> None:
    draw = Random(2)
    sql = text("DELETE FROM ohlcv WHERE exchange = 'binance' AND symbol = :symbol AND timeframe = '1m' AND timestamp = :moment")
    while not stop.is_set():
        symbol, moment = _symbol(draw.randrange(SERIES)), START + draw.randrange(1, expected.minutes, 2) * _MINUTE

        async def delete(symbol: str = symbol, moment: datetime = moment) -> None:
            async with db.get_session() as session:
                await session.execute(sql, {"symbol": symbol, "moment": moment})

        await work.call(delete)
        expected.volumes[symbol, moment] = None
        await asyncio.sleep(0.1)


async def _read(db: DatabaseManager, work: Work, stop: asyncio.Event) -> None:
    draw, repository = Random(3), OHLCVRepository(db)
    while not stop.is_set():
        symbol = _symbol(draw.randrange(SERIES))
        await work.call(lambda symbol=symbol: repository.get_latest(symbol, TIMEFRAME, 100))  # type: ignore[misc]
        await asyncio.sleep(0.02)


async def _count_lost(db: DatabaseManager, expected: _Expected) -> int:
    """Return how many bars are lost, stored though they were deleted, or have another volume than was stored last."""
    async with db.get_session() as session:
        found = {
            (row.symbol, row.timestamp): row.volume
            for row in await session.execute(text("SELECT symbol, timestamp, volume FROM ohlcv WHERE timeframe = '1m'"))
        }
    wrong = sum(1 for key, volume in expected.volumes.items() if found.get(key) != volume)
    untouched = {(_symbol(number), START + minute * _MINUTE) for number in range(SERIES) for minute in range(expected.minutes)}
    return wrong + len((untouched - {*expected.volumes}) - {*found}) + len({*found} - untouched - {*expected.volumes})


async def _fill(db: DatabaseManager, number: int, timeframe: Timeframe = "1m") -> None:
    await db.migrate()
    values = {"start": str(START), "minutes": number, "series": SERIES, "timeframe": timeframe, "step": _TIMEFRAMES[timeframe]}
    async with db.get_session() as session:
        await session.execute(text(_FILL), values)


async def _compare(urls: Sequence[str], length: int, rounds: int) -> None:
    """Print the ratios of calls on months and hashes, of series of so many bars, to the plain table."""
    timeframe = check_timeframe(next((name for name, step in _TIMEFRAMES.items() if length * step >= _DAYS * 1_440), "1h"))
    async with AsyncExitStack() as stack:
        stores = {
            name: await stack.enter_async_context(DatabaseManager(url))
            for name, url in zip(("plain", "month", "hash:16"), urls, strict=True)
        }
        for name, db in stores.items():
            await _fill(db, length, timeframe)
            if name != "plain":
                await partition_bars(db, name)
            async with db.engine.connect() as connection:
                own = await connection.execution_options(isolation_level="AUTOCOMMIT")
                await own.execute(text("VACUUM (ANALYZE) ohlcv"))
        lines = []
        for call in _CALLS:
            taken = await take_turns({name: _make_case(call, db, length, timeframe) for name, db in stores.items()}, rounds)
            ratios = {name: ratio(taken[name], taken["plain"]) for name in ("month", "hash:16")}
            shown = {name: f"{one.middle:.2f} [{one.low:.2f} to {one.high:.2f}]" for name, one in ratios.items()}
            lines.append({"call": call, "plain": f"{median(taken['plain']) * 1e3:.2f} ms", **shown})
        parts = len((await list_partitions(stores["month"])).partitions)
    terminal().print(
        table_of(f"{length * SERIES:,} bars of {timeframe}: ratios to the plain table; month has {parts} partitions", lines)
    )


def _make_case(call: str, db: DatabaseManager, length: int, timeframe: Timeframe) -> Contender:
    repository, numbers, step = OHLCVRepository(db), count(1), _TIMEFRAMES[timeframe] * _MINUTE
    end = START + (length - 1) * step
    whole = bars(1_000)

    def moved(number: int, first: datetime, symbols: int = 1) -> list[OHLCVBar]:
        return [
            replace(whole[index], symbol=_symbol(series), timeframe=timeframe, timestamp=first + index * step)
            for series in range(symbols)
            for index in range(number // symbols)
        ]

    async def insert() -> None:
        await repository.insert_many(moved(100, end + 100 * next(numbers) * step))

    async def upsert() -> None:
        await repository.upsert_many([replace(one, volume=Decimal(next(numbers))) for one in moved(100, START + 7 * step, 10)])

    unchanged = moved(1_000, START)
    window = {"get_range, 1 day": 1, "get_range, 60 days": 60}.get(call, 0)
    first = max(START, end - timedelta(days=window + 1))
    work: dict[str, Callable[[], Awaitable[object]]] = {
        "get_latest(100)": lambda: repository.get_latest(SYMBOL, timeframe, 100),
        "insert 100 bars of 1 series": insert,
        "upsert 1,000 bars, unchanged": lambda: repository.upsert_many(unchanged),
        "upsert 100 bars of 10 series": upsert,
        "list_series": repository.list_series,
    }
    run = work.get(call, lambda: repository.get_range(SYMBOL, timeframe, first, first + timedelta(days=window)))
    return Contender(run, calls=1 if call == "list_series" else 5)


if __name__ == "__main__":
    typer.run(main)
