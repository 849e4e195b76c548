"""Tests of the blocking façade, iftb_store.sync: it does what the async classes do, also while an event loop is running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from iftb_store import DatabaseManager, InvalidValueError, NotConnectedError, OHLCVRepository, Series
from iftb_store.errors import operational_error
from iftb_store.sync import SyncOHLCVRepository, SyncSession, SyncStore, open_store
from iftb_store.testing.fixtures import Interruption, SuiteFixtures
from iftb_store.testing.samples import HOUR, T0, Clock, bar, hourly


def count(store: SyncStore) -> int:
    """Return the number of stored bars."""
    return sum(series.count for series in store.ohlcv.list_series())


def write_and_raise(store: SyncStore, error: BaseException) -> None:
    """Write a bar in a session and raise the error inside it."""
    with store.get_session() as session:
        session.ohlcv.insert_many([bar()])
        raise error


class BlockingTests(SuiteFixtures):
    """Each test runs in an event loop, as the cells of a notebook do."""

    @pytest.fixture
    def store(self, db: DatabaseManager, url: str) -> Iterator[SyncStore]:
        """An open blocking store of a database with tables."""
        with open_store(url) as store:
            yield store

    async def test_blocking_calls_read_and_write_as_the_async_ones_do(self, db: DatabaseManager, store: SyncStore) -> None:
        bars = hourly(30)
        assert store.ohlcv.insert_many(bars) == 30
        latest = store.ohlcv.get_latest("BTCUSDT", "1h", 5)
        assert latest == await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 5)
        assert [item.timestamp for item in latest] == [T0 + hour * HOUR for hour in (29, 28, 27, 26, 25)]
        assert store.ohlcv.list_series() == [Series("binance", "BTCUSDT", "1h", T0, T0 + 29 * HOUR, 30, 0)]

    async def test_a_blocking_session_commits_its_writes_together(self, store: SyncStore) -> None:
        with store.get_session() as session:
            session.ohlcv.insert_many([bar()])
            session.ohlcv.insert_many([bar(T0 + HOUR)])
        assert count(store) == 2

    async def test_a_blocking_session_rolls_back_on_an_exception(self, store: SyncStore) -> None:
        with pytest.raises(Interruption):
            write_and_raise(store, Interruption())
        assert count(store) == 0

    async def test_ctrl_c_inside_a_blocking_session_rolls_it_back(self, store: SyncStore) -> None:
        with pytest.raises(KeyboardInterrupt):
            write_and_raise(store, KeyboardInterrupt())
        assert store.ohlcv.insert_many([bar()]) == 1

    async def test_a_blocking_session_is_usable_after_a_caught_duplicate(self, store: SyncStore) -> None:
        with store.get_session() as session:
            session.ohlcv.insert_many([bar()])
            with pytest.raises(IntegrityError):
                session.ohlcv.insert_many([bar()])
            session.ohlcv.insert_many([bar(T0 + HOUR)])
        assert count(store) == 2

    async def test_a_blocking_session_is_refused_after_its_end(self, store: SyncStore) -> None:
        with store.get_session() as session:
            repository = session.ohlcv
        with pytest.raises(Exception, match="closed"):
            repository.insert_many([bar()])
        assert count(store) == 0

    async def test_a_blocking_stream_yields_every_bar_and_closes(self, store: SyncStore) -> None:
        store.ohlcv.insert_many(hourly(25))
        window: Any = ("BTCUSDT", "1h", T0, T0 + 24 * HOUR)
        assert [len(bars) for bars in store.ohlcv.stream_range(*window, batch_size=10)] == [10, 10, 5]
        with store.ohlcv.stream_range(*window, batch_size=10) as stream:
            assert len(next(stream)) == 10
        assert store.in_use == 0
        assert list(stream) == []
        stream.close()

    async def test_run_calls_blocking_work_in_the_calling_thread_and_retries_it(self, store: SyncStore) -> None:
        threads: list[threading.Thread] = []

        def work(session: SyncSession) -> int:
            threads.append(threading.current_thread())
            written = session.ohlcv.insert_many([bar()])
            if len(threads) == 1:
                raise operational_error("a conflict", transient=True)
            return written

        assert store.run(work) == 1
        assert threads == [threading.current_thread()] * 2
        assert count(store) == 1

    async def test_ctrl_c_inside_run_rolls_back_and_is_not_retried(self, store: SyncStore) -> None:
        def work(session: SyncSession) -> None:
            session.ohlcv.insert_many([bar()])
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.run(work)
        assert count(store) == 0

    async def test_several_threads_share_a_blocking_store(self, store: SyncStore) -> None:
        def write(number: int) -> int:
            return store.ohlcv.insert_many(hourly(20, symbol=f"COIN-{number}"))

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(write, range(12))) == [20] * 12
        assert count(store) == 240

    async def test_a_blocking_repository_takes_a_clock(self, store: SyncStore, clock: Clock) -> None:
        SyncOHLCVRepository(store, clock=clock).insert_many([bar()])
        assert store.ohlcv.get_latest("BTCUSDT", "1h")[0].created_at == clock.now
        wrong: Any = object()
        with pytest.raises(InvalidValueError, match="must be a store from open_store"):
            SyncOHLCVRepository(wrong)

    async def test_a_blocking_store_closes_twice_and_opens_again(self, store: SyncStore) -> None:
        store.disconnect()
        store.disconnect()
        with pytest.raises(NotConnectedError, match=r"is closed; open it with `with open_store\(url\) as db`"):
            store.ohlcv.list_series()
        store.connect()
        assert store.ohlcv.list_series() == []
