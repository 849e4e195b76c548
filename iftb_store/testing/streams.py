"""Tests of streams of bars: complete, in order, from one snapshot; a stream that is closed early returns its connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, InvalidValueError, OHLCVBar, OHLCVRepository
from iftb_store.protocols import Capability
from iftb_store.testing.fixtures import SuiteFixtures, needs
from iftb_store.testing.rows import delete_bars
from iftb_store.testing.samples import HOUR, T0, bar, hourly

_SERIES: Final = ("BTCUSDT", "1h")
_ALL = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
#: The number of bars in each stream below; the batch sizes include smaller, equal and larger ones.
_BARS = 7
_SIZES = [1, 3, 6, 7, 8]
_WAYS = ["lists", "record batches"]


def open_stream(way: str, repository: OHLCVRepository, size: int) -> Any:
    """Return a stream of the series `_SERIES`, as lists of bars or as record batches."""
    if way == "lists":
        return repository.stream_range(*_SERIES, *_ALL, batch_size=size)
    return repository.stream_arrow(*_SERIES, exchange="binance", batch_size=size)


def times_of(batch: Any) -> list[datetime]:
    """Return the timestamps of the bars in a list or a record batch."""
    return [item.timestamp for item in batch] if isinstance(batch, list) else batch["timestamp"].to_pylist()


async def all_times(stream: AsyncIterator[Any]) -> list[datetime]:
    """Return the timestamps of all remaining bars of a stream."""
    return [moment async for batch in stream for moment in times_of(batch)]


def make_scattered_bars() -> list[OHLCVBar]:
    """Return bars of several series: without gaps, with a gap, off the grid, at the ends of the calendar, and far apart."""
    odd = [T0, T0 + timedelta(microseconds=1), T0 + timedelta(days=400), *_ALL]
    return [
        *hourly(5),
        *hourly(4, symbol="ETHUSDT"),
        *(bar(moment, exchange="kraken", timeframe="1s") for moment in odd),
        *(bar(datetime(2020 + year, 1, 1, tzinfo=UTC), exchange="kraken", timeframe="1M") for year in range(4)),
    ]


class StreamTests(SuiteFixtures):
    """stream_range and stream_arrow yield the rows of get_range and read_arrow in batches."""

    @pytest.mark.parametrize("size", _SIZES)
    async def test_lists_are_as_long_as_asked_for_and_hold_every_bar_once(self, db: DatabaseManager, size: int) -> None:
        await OHLCVRepository(db).insert_many(hourly(_BARS))
        lists = [batch async for batch in OHLCVRepository(db).stream_range(*_SERIES, *_ALL, batch_size=size)]
        found = [(item.timestamp - T0) / HOUR for batch in lists for item in batch]
        assert found == list(range(_BARS)), f"a stream must return every bar once, here the hours 0 to {_BARS - 1}: {found}"
        assert [item for batch in lists for item in batch] == await OHLCVRepository(db).get_range(*_SERIES, *_ALL)
        assert [len(batch) for batch in lists] == [size] * (_BARS // size) + [_BARS % size] * (_BARS % size > 0)

    @pytest.mark.parametrize("size", [3, 4, 5, 8])
    async def test_lists_are_as_long_as_asked_for_even_if_bars_are_missing(self, db: DatabaseManager, size: int) -> None:
        given = [item for index, item in enumerate(hourly(40)) if index % 4 and index not in range(20, 29)]
        await OHLCVRepository(db).insert_many(given)
        stream = OHLCVRepository(db).stream_range(*_SERIES, T0, T0 + 40 * HOUR, batch_size=size)
        lists = [times_of(batch) async for batch in stream]
        assert [moment for times in lists for moment in times] == [item.timestamp for item in given]
        assert {len(times) for times in lists[:-1]} == {size}

    @pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
    async def test_record_batches_hold_every_row_once_in_the_tables_order(self, db: DatabaseManager, size: int) -> None:
        await OHLCVRepository(db).insert_many(make_scattered_bars())
        table = await OHLCVRepository(db).read_arrow()
        batches = [batch async for batch in OHLCVRepository(db).stream_arrow(batch_size=size)]
        assert {batch.schema == table.schema for batch in batches} == {True}
        assert [row for batch in batches for row in batch.to_pylist()] == table.to_pylist()
        assert all(0 < batch.num_rows <= size for batch in batches)

    async def test_the_ends_of_a_streams_window_are_inclusive(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(6))
        repository = OHLCVRepository(db)
        start, end = T0 + HOUR, T0 + 3 * HOUR
        expected = [T0 + HOUR, T0 + 2 * HOUR, T0 + 3 * HOUR]
        assert await all_times(repository.stream_range(*_SERIES, start, end, batch_size=2)) == expected
        assert await all_times(repository.stream_arrow(*_SERIES, start, end, batch_size=2)) == expected

    async def test_bars_off_the_grid_and_far_apart_are_streamed_whole(self, db: DatabaseManager) -> None:
        odd = [bar for bar in make_scattered_bars() if bar.timeframe == "1s"]
        await OHLCVRepository(db).insert_many(odd)
        stream = OHLCVRepository(db).stream_range("BTCUSDT", "1s", *_ALL, "kraken", batch_size=2)
        assert await all_times(stream) == sorted(bar.timestamp for bar in odd)

    @pytest.mark.parametrize("way", _WAYS)
    async def test_an_empty_selection_streams_nothing(self, db: DatabaseManager, way: str) -> None:
        assert await all_times(open_stream(way, OHLCVRepository(db), 3)) == []

    @pytest.mark.parametrize("way", _WAYS)
    async def test_a_stream_of_the_manager_shows_a_snapshot(self, db: DatabaseManager, way: str) -> None:
        needs(db, Capability.ISOLATION)
        await OHLCVRepository(db).insert_many(hourly(_BARS))
        async with open_stream(way, OHLCVRepository(db), 2) as stream:
            first = times_of(await anext(stream))
            await OHLCVRepository(db).upsert_many(hourly(_BARS + 5, volume=bar().volume + 1))
            async with db.get_session() as session:
                await delete_bars(session)
            rest = await all_times(stream)
        assert first + rest == [item.timestamp for item in hourly(_BARS)]

    @pytest.mark.parametrize("way", _WAYS)
    async def test_a_stream_of_a_session_shows_what_the_session_writes_ahead_of_it(self, db: DatabaseManager, way: str) -> None:
        await OHLCVRepository(db).insert_many(hourly(4))
        async with db.get_session() as session:
            repository = OHLCVRepository(session)
            stream = open_stream(way, repository, 2)
            seen = times_of(await anext(stream))
            await repository.insert_many([bar(T0 - HOUR), bar(T0 + 4 * HOUR)])
            seen += await all_times(stream)
        assert seen == [T0 + index * HOUR for index in range(5)]

    @pytest.mark.parametrize("way", _WAYS)
    async def test_a_consumer_writes_between_the_batches_in_the_same_session(self, db: DatabaseManager, way: str) -> None:
        await OHLCVRepository(db).insert_many(hourly(_BARS))
        async with db.get_session() as session:
            repository = OHLCVRepository(session)
            async for batch in open_stream(way, repository, 2):
                await repository.upsert_many([bar(moment, symbol="COPY") for moment in times_of(batch)])
                await session.commit()
        copied = await OHLCVRepository(db).get_range("COPY", "1h", *_ALL)
        assert [item.timestamp for item in copied] == [item.timestamp for item in hourly(_BARS)]

    async def test_a_consumer_writes_through_the_manager_between_the_batches(self, db: DatabaseManager) -> None:
        needs(db, Capability.ISOLATION)
        await OHLCVRepository(db).insert_many(hourly(_BARS))
        async for batch in OHLCVRepository(db).stream_range(*_SERIES, *_ALL, batch_size=2):
            await OHLCVRepository(db).upsert_many([bar(item.timestamp, symbol="COPY") for item in batch])
        copied = await OHLCVRepository(db).get_range("COPY", "1h", *_ALL)
        assert len(copied) == _BARS

    @pytest.mark.parametrize("way", _WAYS)
    async def test_two_streams_run_side_by_side(self, db: DatabaseManager, way: str) -> None:
        await OHLCVRepository(db).insert_many(hourly(_BARS))
        streams = [open_stream(way, OHLCVRepository(db), 2) for _ in range(2)]
        found = [[*times_of(await anext(stream))] for stream in streams]
        for times, stream in zip(found, streams, strict=True):
            times += await all_times(stream)
        assert found == [[item.timestamp for item in hourly(_BARS)]] * 2

    @pytest.mark.parametrize("way", _WAYS)
    async def test_a_stream_that_was_read_holds_no_connection(self, db: DatabaseManager, way: str) -> None:
        await OHLCVRepository(db).insert_many(hourly(_BARS))
        stream = open_stream(way, OHLCVRepository(db), 2)
        await anext(stream)
        assert db.in_use == 1
        await all_times(stream)
        assert db.in_use == 0

    @pytest.mark.parametrize("way", _WAYS)
    async def test_a_closed_stream_holds_no_connection_and_gives_no_more(self, db: DatabaseManager, way: str) -> None:
        await OHLCVRepository(db).insert_many(hourly(_BARS))
        stream = open_stream(way, OHLCVRepository(db), 2)
        await anext(stream)
        await stream.aclose()
        await stream.aclose()
        assert (db.in_use, await all_times(stream)) == (0, [])

    @pytest.mark.parametrize("way", _WAYS)
    async def test_a_stream_that_was_never_read_holds_nothing(self, db: DatabaseManager, way: str) -> None:
        async with open_stream(way, OHLCVRepository(db), 2):
            assert db.in_use == 0

    @pytest.mark.parametrize("way", _WAYS)
    async def test_an_error_of_the_consumer_gives_the_connection_back(self, db: DatabaseManager, way: str) -> None:
        await OHLCVRepository(db).insert_many(hourly(_BARS))

        async def consume() -> None:
            async with open_stream(way, OHLCVRepository(db), 2) as stream:
                async for _ in stream:
                    raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await consume()
        assert db.in_use == 0

    @pytest.mark.parametrize("way", _WAYS)
    async def test_a_bare_break_gives_the_connection_back_soon(self, db: DatabaseManager, way: str) -> None:
        await OHLCVRepository(db).insert_many(hourly(_BARS))
        async for _ in open_stream(way, OHLCVRepository(db), 2):
            break
        async with asyncio.timeout(30):
            while db.in_use:  # noqa: ASYNC110 - there is no event: Python closes it in another task
                await asyncio.sleep(0)

    @pytest.mark.parametrize("way", _WAYS)
    async def test_a_cancelled_consumer_gives_the_connection_back(self, db: DatabaseManager, way: str) -> None:
        await OHLCVRepository(db).insert_many(hourly(_BARS))
        reading = asyncio.Event()

        async def consume() -> None:
            async with open_stream(way, OHLCVRepository(db), 2) as stream:
                async for _ in stream:
                    reading.set()
                    await asyncio.Event().wait()

        task = asyncio.create_task(consume())
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert db.in_use == 0

    async def test_a_stream_of_a_closed_session_says_so(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(_BARS))
        async with db.get_session() as session:
            stream = OHLCVRepository(session).stream_range(*_SERIES, *_ALL, batch_size=2)
            await anext(stream)
        with pytest.raises(OperationalError, match="closed"):
            await anext(stream)
        assert db.in_use == 0

    @pytest.mark.parametrize("size", [0, -1, True, 1.5, None])
    async def test_a_batch_size_below_one_is_refused_at_once(self, db: DatabaseManager, size: Any) -> None:
        for way in _WAYS:
            with pytest.raises(InvalidValueError, match="batch_size"):
                open_stream(way, OHLCVRepository(db), size)


class SnapshotTests(SuiteFixtures):
    """Sessions with the isolation "snapshot" read one snapshot and cannot write."""

    async def test_a_snapshot_shows_the_state_that_its_first_statement_saw(self, db: DatabaseManager) -> None:
        needs(db, Capability.ISOLATION)
        await OHLCVRepository(db).insert_many(hourly(2))
        async with db.get_session(isolation="snapshot") as session:
            before = await OHLCVRepository(session).get_range(*_SERIES, *_ALL)
            await OHLCVRepository(db).upsert_many(hourly(3, volume=bar().volume + 1))
            after = await OHLCVRepository(session).get_range(*_SERIES, *_ALL)
            (count,) = (await session.execute(text("SELECT COUNT(*) FROM ohlcv"))).one()
        assert (after, count) == (before, 2)
        assert len(await OHLCVRepository(db).get_range(*_SERIES, *_ALL)) == 3

    async def test_a_snapshot_writes_nothing_and_says_so(self, db: DatabaseManager) -> None:
        needs(db, Capability.ISOLATION)
        for write in (_insert, _delete):
            with pytest.raises(OperationalError, match=r"snapshot|read-only"):
                async with db.get_session(isolation="snapshot") as session:
                    await write(session)
        assert await OHLCVRepository(db).get_range(*_SERIES, *_ALL) == []

    async def test_a_connection_that_read_a_snapshot_writes_afterwards(self, db: DatabaseManager) -> None:
        needs(db, Capability.ISOLATION)
        for _ in range(3):
            async with db.get_session(isolation="snapshot") as session:
                await session.execute(text("SELECT COUNT(*) FROM ohlcv"))
            async with db.get_session() as session:
                await delete_bars(session)
                await OHLCVRepository(session).insert_many(hourly(2))
        assert len(await OHLCVRepository(db).get_range(*_SERIES, *_ALL)) == 2

    async def test_a_snapshot_shows_new_rows_after_commit(self, db: DatabaseManager) -> None:
        needs(db, Capability.ISOLATION)
        async with db.get_session(isolation="snapshot") as session:
            before = await OHLCVRepository(session).get_range(*_SERIES, *_ALL)
            await OHLCVRepository(db).insert_many(hourly(2))
            await session.commit()
            after = await OHLCVRepository(session).get_range(*_SERIES, *_ALL)
        assert (len(before), len(after)) == (0, 2)


async def _insert(session: Any) -> None:
    await OHLCVRepository(session).insert_many(hourly(1))


async def _delete(session: Any) -> None:
    await OHLCVRepository(session).delete_range("BTCUSDT", "1h", *_ALL)
