"""The rows of the targets table, the same for every engine: ours, the raw driver and the naive path, run in turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from itertools import islice
from statistics import median

from benchmarks.engine import Engine, orm_insert_trade, orm_latest, orm_read
from benchmarks.objects import NewTrades, bars, every_other, trades
from benchmarks.plan import Plan
from benchmarks.results import NAIVE, OURS, RAW, Figure, Row
from benchmarks.series import EXCHANGE, SYMBOL, TIMEFRAME
from benchmarks.timing import Contender, longest_wait, take_turns
from iftb_store import OHLCVBar, OHLCVRepository, TradeRepository
from iftb_store.sync import open_store

Found = AsyncIterator[Row | Figure]
Bars = Sequence[OHLCVBar]

#: The highest ratios allowed, by engine.
INSERT_TARGETS = {"PostgreSQL": 0.65, "SQLite": 1.0, "DuckDB": 1.0}
#: Below a million bars; the other engines have no target there.
SMALLER_INSERT_TARGETS = {"PostgreSQL": 0.75}
NAIVE_TARGETS = {"PostgreSQL": 1 / 12, "SQLite": 1 / 25}
UPSERT_TARGETS = {"PostgreSQL": 1.6, "SQLite": 1.2, "DuckDB": 1.3}
RANGE_TARGETS = {"PostgreSQL": 1.05, "SQLite": 1.2, "DuckDB": 0.6}
LATEST_TARGETS = {"PostgreSQL": 1.6, "SQLite": 2.0, "DuckDB": 1.3}
BLOCKING_TARGETS = {"SQLite": 1.3}
TRADE_TARGETS = {"PostgreSQL": 1.6, "SQLite": 1.6}
ARROW_TARGETS = {"PostgreSQL": 1.1, "SQLite": 1.3, "DuckDB": 1.1}
QUERY_TARGET = 1.1
GROWTH_TARGET = 1.3
PERFORMANCE_TARGET = 2.0
LONGEST_WAIT_MS = 50.0

_OPEN_SESSION = "ours, session open"
_ASYNC = "ours, async"
_CHANGED = "ours, changed"
_SCAN = "ours, the trades as objects"
_LATEST = 100
_PERFORMANCE = 100_000
# a smaller batch measures the transaction, not the bulk write
_BULK = 10_000
_MILLION = 1_000_000


async def insert_many(engine: Engine, whole: Bars, plan: Plan) -> Found:
    """Bars from objects to committed rows, into empty tables."""
    for size in plan.sizes:
        batch = whole[:size]
        sample = batch[: min(plan.naive, engine.naive_bars)]
        samples = await take_turns(
            {
                OURS: Contender(_insert(engine, batch), engine.empty_ours),
                RAW: Contender(_write(engine, batch), engine.empty_reference),
                NAIVE: Contender(_naive_write(engine, sample), _empty(engine), scale=size / len(sample)),
            },
            plan.rounds_for(size),
        )
        yield Row("insert_many", engine.name, size, samples, RAW, _insert_target(engine, size, plan))
        target = NAIVE_TARGETS.get(engine.name) if size >= _BULK else None
        yield Row("insert_many, naive", engine.name, size, samples, NAIVE, target, _describe_sample(len(sample), size))


async def upsert_many(engine: Engine, whole: Bars, plan: Plan) -> Found:
    """Bars of which half are stored, beside our insert_many of the same number into an empty table."""
    for size in plan.sizes:
        batch = whole[:size]
        rounds = plan.rounds_for(size)
        samples = await take_turns(
            {
                "insert_many": Contender(_insert(engine, batch), engine.empty_ours),
                OURS: Contender(_upsert(engine, batch), _stored(engine, every_other(batch, changed=False))),
                _CHANGED: Contender(_upsert(engine, batch), _stored(engine, every_other(batch, changed=True))),
            },
            rounds,
        )
        target = UPSERT_TARGETS[engine.name] if size >= _BULK else None
        yield Row("upsert_many, half stored", engine.name, size, samples, "insert_many", target, "the stored half unchanged")
        note = "every stored bar with another volume"
        yield Row("upsert_many, half changed", engine.name, size, samples, "insert_many", None, note, _CHANGED)


async def waits_of_writes(engine: Engine, whole: Bars, plan: Plan) -> Found:
    """How long a callback on the event loop waits while bars are written."""
    batch = whole[: plan.table]
    ours, raw = [], []
    for _ in range(plan.rounds):
        await engine.empty_ours()
        ours.append(await longest_wait(_insert(engine, batch)))
        await engine.empty_reference()
        raw.append(await longest_wait(_write(engine, batch)))
    yield _waits("longest wait, insert_many", engine, len(batch), ours, raw)


async def get_range(engine: Engine, whole: Bars, plan: Plan) -> Found:
    """Bars from the filled table to objects."""
    for size in plan.sizes:
        sample = whole[: min(size, plan.naive * 5)]
        contenders = {
            OURS: Contender(_range(engine, whole[:size]), calls=_calls(size)),
            RAW: Contender(_read(engine, whole[:size]), calls=_calls(size)),
        }
        if engine.name in NAIVE_TARGETS:
            contenders[NAIVE] = Contender(_orm_range(engine, sample), scale=size / len(sample), calls=_calls(size))
        samples = await take_turns(contenders, plan.rounds_for(size))
        note = _describe_sample(len(sample), size) if NAIVE in samples else ""
        yield Row("get_range", engine.name, size, samples, RAW, RANGE_TARGETS[engine.name] if size >= _BULK else None, note)


async def waits_of_reads(engine: Engine, whole: Bars, plan: Plan) -> Found:
    """How long a callback on the event loop waits while bars are read."""
    batch = whole[: plan.table]
    ours, raw = [], []
    for _ in range(plan.rounds):
        ours.append(await longest_wait(_range(engine, batch)))
        raw.append(await longest_wait(_read(engine, batch)))
    yield _waits("longest wait, get_range", engine, len(batch), ours, raw)


async def get_latest(engine: Engine, whole: Bars, plan: Plan) -> Found:
    """The newest 100 of the filled table: the median call."""
    async with engine.db.get_session() as session:
        opened = OHLCVRepository(session)
        contenders = {
            OURS: Contender(lambda: OHLCVRepository(engine.db).get_latest(SYMBOL, TIMEFRAME, _LATEST), calls=plan.calls),
            _OPEN_SESSION: Contender(lambda: opened.get_latest(SYMBOL, TIMEFRAME, _LATEST), calls=plan.calls),
            RAW: Contender(lambda: engine.latest(_LATEST), calls=plan.calls),
        }
        if engine.name in NAIVE_TARGETS:
            contenders[NAIVE] = Contender(lambda: orm_latest(engine.db, _LATEST), calls=plan.calls)
        samples = await take_turns(contenders, plan.rounds_for(_LATEST))
    target = LATEST_TARGETS[engine.name]
    yield Row("get_latest(100)", engine.name, len(whole), samples, RAW, target, "a new session for each call")
    yield Row("get_latest(100), session open", engine.name, len(whole), samples, RAW, target, "", _OPEN_SESSION)


async def get_latest_blocking(engine: Engine, whole: Bars, plan: Plan) -> Found:
    """The newest 100 of the filled table by the blocking façade, beside our async call: the median call."""
    repository = OHLCVRepository(engine.db)
    # no engine of the benchmark has a password
    with open_store(engine.db._url) as store:

        async def blocking() -> object:
            return store.ohlcv.get_latest(SYMBOL, TIMEFRAME, _LATEST)

        contenders = {
            OURS: Contender(blocking, calls=plan.calls),
            _ASYNC: Contender(lambda: repository.get_latest(SYMBOL, TIMEFRAME, _LATEST), calls=plan.calls),
        }
        samples = await take_turns(contenders, plan.rounds_for(_LATEST))
    target = BLOCKING_TARGETS.get(engine.name)
    yield Row("get_latest(100), blocking", engine.name, len(whole), samples, _ASYNC, target, "reference: the async call")


async def get_gaps(engine: Engine, whole: Bars, plan: Plan) -> Found:
    """The gaps of the whole series, beside LAG written by hand."""
    ours = Contender(lambda: OHLCVRepository(engine.db).get_gaps(SYMBOL, TIMEFRAME))
    samples = await take_turns({OURS: ours, RAW: Contender(engine.gaps)}, plan.rounds)
    yield Row("get_gaps", engine.name, len(whole), samples, RAW, QUERY_TARGET, "reference: hand-written LAG over the key's index")


async def get_statistics(engine: Engine, whole: Bars, plan: Plan) -> Found:
    """The statistics of as many trades as there are bars, beside exact sums written by hand."""
    ours = Contender(lambda: TradeRepository(engine.db).get_statistics(days=30))
    samples = await take_turns({OURS: ours, RAW: Contender(engine.statistics)}, plan.rounds)
    yield Row("get_statistics", engine.name, plan.table, samples, RAW, QUERY_TARGET, "reference: hand-written exact sums in SQL")


async def get_performance(engine: Engine, whole: Bars, plan: Plan) -> Found:
    """The performance of trades, every figure and group, beside the scan that reads them as objects."""
    count = min(plan.table, _PERFORMANCE)
    await fill_trades(engine, count)
    ours = Contender(lambda: TradeRepository(engine.db).get_performance(exchange=None))
    edges = datetime.min, datetime.max
    scan = Contender(lambda: TradeRepository(engine.db).get_range(*edges, exchange=None))
    samples = await take_turns({OURS: ours, _SCAN: scan}, plan.rounds)
    yield Row("get_performance", engine.name, count, samples, _SCAN, PERFORMANCE_TARGET, "reference: get_range of the trades")


async def insert_trade(engine: Engine, whole: Bars, plan: Plan) -> Found:
    """One trade inserted and committed, into the filled table: the median call."""
    made = NewTrades()
    contenders = {
        OURS: Contender(lambda: TradeRepository(engine.db).insert(made.next()), calls=plan.calls),
        RAW: Contender(lambda: engine.insert_trade(made.next()), calls=plan.calls),
    }
    if engine.name in NAIVE_TARGETS:
        contenders[NAIVE] = Contender(lambda: orm_insert_trade(engine.db, made.next()), calls=plan.calls)
    samples = await take_turns(contenders, plan.rounds_for(1))
    yield Row("one trade, committed", engine.name, plan.table, samples, RAW, TRADE_TARGETS.get(engine.name))


async def read_arrow(engine: Engine, whole: Bars, plan: Plan) -> Found:
    """The whole series to an Arrow table of exact decimals and UTC times, beside the engine's ways to the same table."""
    ours = Contender(lambda: OHLCVRepository(engine.db).read_arrow(SYMBOL, TIMEFRAME, exchange=EXCHANGE))
    samples = await take_turns({OURS: ours, **{name: Contender(read) for name, read in engine.arrow().items()}}, plan.rounds)
    best = min(engine.arrow(), key=lambda name: median(samples[name]))
    note = f"reference: {best}; to the same schema"
    yield Row("read_arrow", engine.name, len(whole), samples, best, ARROW_TARGETS[engine.name], note)


async def disk(engine: Engine, whole: Bars, plan: Plan) -> Found:
    """What a bar takes on disk, its index included."""
    found = await engine.disk()
    values = {OURS: found.ours / len(whole), RAW: found.reference / len(whole)}
    yield Figure("size on disk", engine.name, len(whole), "bytes/row", values)


async def growth(engine: Engine, plan: Plan) -> Found:
    """The time per row in a large call beside that in a small one, for writes and reads."""
    small, large = plan.growth
    names = {size: f"{size:,} bars" for size in plan.growth}
    whole = bars(large)
    samples = await take_turns(
        {names[size]: Contender(_insert(engine, whole[:size]), engine.empty_ours, scale=1 / size) for size in plan.growth},
        plan.growth_rounds,
    )
    note = "time per row; one call each"
    yield Row("growth of insert_many", engine.name, large, samples, names[small], GROWTH_TARGET, note, names[large])
    await engine.settle()
    edges = {size: (whole[0].timestamp, whole[size - 1].timestamp) for size in plan.growth}
    whole.clear()
    samples = await take_turns(
        {names[size]: Contender(_between(engine, *edges[size]), scale=1 / size) for size in plan.growth}, plan.growth_rounds
    )
    yield Row("growth of get_range", engine.name, large, samples, names[small], GROWTH_TARGET, note, names[large])


async def fill_bars(engine: Engine, whole: Bars) -> None:
    """Empty both tables of bars and fill them."""
    await engine.empty_ours()
    await OHLCVRepository(engine.db).insert_many(whole)
    await engine.empty_reference()
    await engine.write(whole)
    await engine.settle()


async def fill_trades(engine: Engine, count: int) -> None:
    """Replace the rows of both tables of trades."""
    await engine.fill_trades(list(islice(trades(count), count)))
    await engine.settle()


Case = Callable[[Engine, Bars, Plan], Found]

WRITES: dict[str, Case] = {"insert_many": insert_many, "upsert_many": upsert_many, "waits": waits_of_writes}
READS: dict[str, Case] = {
    "get_range": get_range,
    "get_latest": get_latest,
    "get_latest_blocking": get_latest_blocking,
    "get_gaps": get_gaps,
    "waits": waits_of_reads,
    "read_arrow": read_arrow,
    "disk": disk,
}
TRADES: dict[str, Case] = {"get_statistics": get_statistics, "insert_trade": insert_trade, "get_performance": get_performance}


def _insert_target(engine: Engine, size: int, plan: Plan) -> float | None:
    if size >= _MILLION:
        return INSERT_TARGETS[engine.name]
    if size > _BULK and engine.name in SMALLER_INSERT_TARGETS:
        return SMALLER_INSERT_TARGETS[engine.name]
    return INSERT_TARGETS[engine.name] if size == plan.sizes[-1] and size > _BULK else None


def _insert(engine: Engine, batch: Bars) -> Callable[[], Awaitable[object]]:
    return lambda: OHLCVRepository(engine.db).insert_many(batch)


def _upsert(engine: Engine, batch: Bars) -> Callable[[], Awaitable[object]]:
    return lambda: OHLCVRepository(engine.db).upsert_many(batch)


def _write(engine: Engine, batch: Bars) -> Callable[[], Awaitable[object]]:
    return lambda: engine.write(batch)


def _naive_write(engine: Engine, batch: Bars) -> Callable[[], Awaitable[object]]:
    return lambda: engine.naive_write(batch)


def _range(engine: Engine, batch: Bars) -> Callable[[], Awaitable[object]]:
    return _between(engine, batch[0].timestamp, batch[-1].timestamp)


def _between(engine: Engine, start: datetime, end: datetime) -> Callable[[], Awaitable[object]]:
    return lambda: OHLCVRepository(engine.db).get_range(SYMBOL, TIMEFRAME, start, end)


def _read(engine: Engine, batch: Bars) -> Callable[[], Awaitable[object]]:
    return lambda: engine.read(batch[0].timestamp, batch[-1].timestamp)


def _orm_range(engine: Engine, batch: Bars) -> Callable[[], Awaitable[object]]:
    return lambda: orm_read(engine.db, batch[0].timestamp, batch[-1].timestamp)


def _empty(engine: Engine) -> Callable[[], Awaitable[None]]:
    async def empty() -> None:
        await engine.empty_ours()
        await engine.empty_reference()

    return empty


def _stored(engine: Engine, stored: Bars) -> Callable[[], Awaitable[None]]:
    async def store() -> None:
        await engine.empty_ours()
        await OHLCVRepository(engine.db).insert_many(stored)

    return store


def _describe_sample(sample: int, size: int) -> str:
    return f"naive: {sample:,} bars timed, scaled" if sample < size else ""


def _calls(size: int) -> int:
    return 20 if size <= 1_000 else 1


def _waits(name: str, engine: Engine, size: int, ours: Sequence[float], raw: Sequence[float]) -> Figure:
    values = {OURS: 1_000 * max(ours), RAW: 1_000 * max(raw)}
    return Figure(name, engine.name, size, "ms", values, LONGEST_WAIT_MS, f"the longest of {len(ours)} rounds")
