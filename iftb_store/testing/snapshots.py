"""Tests that each read shows one committed state of the database, and that neither reads nor the status wait for a writer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final

import pytest

from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository, PositionRepository, TradeRepository
from iftb_store.abilities import SupportsMigrations
from iftb_store.protocols import Capability
from iftb_store.registry import get_backend
from iftb_store.testing.bars import stored
from iftb_store.testing.fixtures import SuiteFixtures, describe_error, find_error, needs
from iftb_store.testing.rows import add
from iftb_store.testing.samples import HOUR, T0, hourly, position, trade

Read = Callable[[Any], Awaitable[Any]]

_SERIES: Final = ("BTCUSDT", "1h")
#: The bars in each state. The writer of another state changes all of them, and stores or deletes those in the middle.
_BARS, _MIDDLE = 900, slice(300, 600)
_WINDOW = (T0, T0 + _BARS * HOUR)
_CHANGES = 4


def _values(bars: list[OHLCVBar]) -> list[OHLCVBar]:
    return [replace(bar, id=None, created_at=None) for bar in bars]


async def _get_range(source: Any) -> Any:
    return _values(await OHLCVRepository(source).get_range(*_SERIES, *_WINDOW))


async def _get_latest(source: Any) -> Any:
    return _values(await OHLCVRepository(source).get_latest(*_SERIES, limit=_BARS))


async def _get_gaps(source: Any) -> Any:
    return await OHLCVRepository(source).get_gaps(*_SERIES, start=T0, end=_WINDOW[1])


async def _resample(source: Any) -> Any:
    return await OHLCVRepository(source).resample("BTCUSDT", "1h", "1d", *_WINDOW, partial=True)


async def _read_arrow(source: Any) -> Any:
    return (await OHLCVRepository(source).read_arrow(*_SERIES)).drop_columns(["id", "created_at"]).to_pylist()


async def _list_series(source: Any) -> Any:
    return await OHLCVRepository(source).list_series()


async def _stream_range(source: Any) -> Any:
    return [
        bar async for bars in OHLCVRepository(source).stream_range(*_SERIES, *_WINDOW, batch_size=250) for bar in _values(bars)
    ]


async def _get_recent(source: Any) -> Any:
    return [item.fee for item in await TradeRepository(source).get_recent()]


async def _get_statistics(source: Any) -> Any:
    return await TradeRepository(source).get_statistics(days=36_500)


async def _get_performance(source: Any) -> Any:
    return await TradeRepository(source).get_performance()


async def _get_open_positions(source: Any) -> Any:
    return [item.margin for item in await PositionRepository(source).get_open_positions()]


#: Reads that show one state everywhere, by their names, and reads that do so only in a snapshot, as the manager's are.
_READS: dict[str, Read] = {
    read.__name__.removeprefix("_"): read
    for read in (
        _get_range,
        _get_latest,
        _get_gaps,
        _resample,
        _list_series,
        _read_arrow,
        _get_recent,
        _get_statistics,
        _get_performance,
        _get_open_positions,
    )
}
#: Of these, the reads of records.
_RECORDS = ("get_recent", "get_statistics", "get_performance", "get_open_positions")
_SNAPSHOTS: dict[str, Read] = {"stream_range": _stream_range}


async def write_state(session: Any, number: int) -> None:
    """Write one of two states: with an even ``number`` all bars, with an odd one no bars in the middle of the series.

    The values of the bars, and of the trades and positions if the backend keeps them, show the state too.
    """
    bars = OHLCVRepository(session)
    given = hourly(_BARS, trades_count=number % 2)
    if number % 2:
        middle = given[_MIDDLE]
        await bars.delete_range(*_SERIES, middle[0].timestamp, middle[-1].timestamp)
        del given[_MIDDLE]
    await bars.upsert_many(given)
    if Capability.RECORDS not in get_backend(session).capabilities:
        return
    trades = TradeRepository(session)
    for item in await trades.get_recent():
        await trades.update(item.id or 0, fee=Decimal(number % 2), realized_pnl=Decimal(number % 2 + 1))
    for side in ("long", "short"):
        await PositionRepository(session).update_position(position(side=side, margin=Decimal(number % 2)))


class OneStateTests(SuiteFixtures):
    """A read shows the database after one committed transaction, never with a part of the next transaction."""

    async def test_a_read_never_mixes_two_states_of_the_database(self, db: DatabaseManager) -> None:
        keeps_records = Capability.RECORDS in db.capabilities
        in_session = {name: read for name, read in _READS.items() if keeps_records or name not in _RECORDS}
        reads = in_session | (_SNAPSHOTS if Capability.ISOLATION in db.capabilities else {})
        for name in ("a", "b", "c") if keeps_records else ():
            await TradeRepository(db).insert(trade(name, exit_time=T0 + timedelta(days=1)))
        answers: dict[str, list[Any]] = {name: [] for name in reads}
        for number in range(2):
            await db.run(partial(write_state, number=number))
            for name, read in reads.items():
                answers[name].append(await read(db))

        async def change() -> None:
            for number in range(_CHANGES):
                await db.run(partial(write_state, number=number))

        changing = asyncio.create_task(change())
        mixed: set[str] = set()
        while not changing.done():
            for name, read in reads.items():
                if await read(db) not in answers[name]:
                    mixed.add(name)
            async with db.get_session() as session:
                for name, read in in_session.items():
                    if await read(session) not in answers[name]:
                        mixed.add(f"{name} in a session")
        await changing
        assert not mixed, (
            f"a read must show one committed state of the database, but these reads mixed two states: {sorted(mixed)}"
        )


async def _read_status(db: DatabaseManager) -> None:
    needs(db, Capability.MIGRATIONS)
    await db.status()


async def _look_without_writing(db: DatabaseManager) -> None:
    needs(db, Capability.MIGRATIONS)
    await db.ability(SupportsMigrations).with_connection(lambda connection: None, read_only=True)


async def _read_a_snapshot(db: DatabaseManager) -> None:
    needs(db, Capability.ISOLATION)
    async with db.get_session(isolation="snapshot") as session:
        await OHLCVRepository(session).get_range(*_SERIES, *_WINDOW)


async def _read_the_identity(db: DatabaseManager) -> None:
    await db.identity()


async def _ping(db: DatabaseManager) -> None:
    await db.ping()


_LOOKS: dict[str, Callable[[DatabaseManager], Awaitable[None]]] = {
    "status": _read_status,
    "with_connection(read_only=True)": _look_without_writing,
    "a snapshot session": _read_a_snapshot,
    "identity": _read_the_identity,
    "ping": _ping,
    "list_series": _list_series,
    "stream_range": _stream_range,
    "get_range": _get_range,
    "get_statistics": _get_statistics,
}


async def _look_briefly(db: DatabaseManager, look: str) -> None:
    async with asyncio.timeout(30):
        await _LOOKS[look](db)


class ReadersTakeNoLockTests(SuiteFixtures):
    """Calls that only read take no write lock: they neither wait for a writer nor make a writer wait."""

    @pytest.mark.parametrize("look", _LOOKS)
    async def test_what_only_reads_works_while_a_session_writes(self, db: DatabaseManager, look: str) -> None:
        if look in _RECORDS:
            needs(db, Capability.RECORDS)
        async with db.get_session() as session:
            await add(session)
            # in this task, not in another: on an engine with one writer it gets an error at once if it takes its session's lock
            error = await find_error(_look_briefly(db, look))
        assert error is None, (
            f"{look} only reads and must take no write lock, but failed while a session wrote: {describe_error(error)}"
        )

    async def test_a_writer_does_not_wait_for_a_session_that_reads(self, db: DatabaseManager) -> None:
        needs(db, Capability.ISOLATION)
        async with db.get_session(isolation="snapshot") as snapshot, db.get_session() as reader:
            for session in (snapshot, reader):
                await OHLCVRepository(session).list_series()
            error = await find_error(OHLCVRepository(db).insert_many(hourly(3)))
            assert error is None, (
                f"a session that only reads must take no write lock, but a writer failed: {describe_error(error)}"
            )
            assert await stored(db) != []


class SnapshotReadTests(OneStateTests, ReadersTakeNoLockTests):
    """All tests of the state that a read shows, and of the locks that it takes."""
