"""read_url: reads on a streaming standby that has replayed the manager's last commit, otherwise on the primary."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store import (
    BalanceRepository,
    DatabaseManager,
    FillRepository,
    LedgerRepository,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    TradeRepository,
    TransientError,
    Unsupported,
    URLError,
    copy,
    partition_bars,
    verify,
)
from iftb_store.sync import open_store
from iftb_store.testing.samples import HOUR, T0, balance, bar, fill, hourly, ledger_entry, position, trade
from tests.support.standby import Pair, fetch_value, running_pair

_RECOVERY = "SELECT pg_is_in_recovery()"
_BARS = "SELECT count(*) FROM ohlcv"


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with running_pair() as servers:
        yield servers


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iftb_store.standby.PAUSE", 0.0)


@pytest.fixture
async def db(pair: Pair) -> AsyncIterator[DatabaseManager]:
    """A manager with a standby, whose database has empty tables."""
    async with DatabaseManager(pair.url, read_url=pair.standby_url) as manager:
        async with manager.get_session() as session:
            await session.execute(text("DROP SCHEMA public CASCADE"))
            await session.execute(text("CREATE SCHEMA public"))
        await manager.create_tables()
        yield manager


async def reads_on_standby(db: DatabaseManager) -> bool:
    async with db.get_session(isolation="snapshot") as session:
        return bool(await session.scalar(text(_RECOVERY)))


async def wait_for_standby(db: DatabaseManager) -> None:
    async with asyncio.timeout(60):
        while not await reads_on_standby(db):
            pass


async def pause_replay(pair: Pair) -> None:
    await fetch_value(pair.standby_url, "SELECT pg_wal_replay_pause()")
    async with asyncio.timeout(60):
        while await fetch_value(pair.standby_url, "SELECT pg_get_wal_replay_pause_state()") != "paused":
            pass


async def resume_replay(pair: Pair) -> None:
    await fetch_value(pair.standby_url, "SELECT pg_wal_replay_resume()")


@pytest.fixture
async def paused(pair: Pair, db: DatabaseManager) -> AsyncIterator[None]:
    """The standby has all commits of the manager, and replays no more."""
    await wait_for_standby(db)
    await pause_replay(pair)
    yield
    await resume_replay(pair)


async def test_reads_go_to_the_standby_and_writes_to_the_primary(pair: Pair, db: DatabaseManager) -> None:
    await OHLCVRepository(db).insert_many(hourly(3))
    await wait_for_standby(db)
    async with db.get_session() as session:
        assert await session.scalar(text(_RECOVERY)) is False
    assert await db.run(lambda session: session.scalar(text(_RECOVERY)), isolation="snapshot") is True
    assert await db.run(lambda session: session.scalar(text(_RECOVERY)), isolation="repeatable read") is False


@pytest.mark.usefixtures("paused")
async def test_reads_of_repositories_are_those_of_the_standby_until_the_manager_commits(pair: Pair, db: DatabaseManager) -> None:
    bars, trades = OHLCVRepository(db), TradeRepository(db)
    async with DatabaseManager(pair.url) as other:
        await OHLCVRepository(other).insert_many(hourly(3))
    # the standby does not replay the commit of somebody else, which shows where the reads are answered
    assert [await bars.get_latest("BTCUSDT", "1h"), await bars.list_series(), await trades.get_recent()] == [[], [], []]
    assert [one async for one in bars.stream_range("BTCUSDT", "1h", T0, T0 + 9 * HOUR)] == []

    await SystemEventRepository(db).log_event("started", "info", "the manager's own commit")

    assert len(await bars.get_latest("BTCUSDT", "1h")) == 3
    assert len(await SystemEventRepository(db).get_recent_events()) == 1
    assert [len(one) async for one in bars.stream_range("BTCUSDT", "1h", T0, T0 + 9 * HOUR)] == [3]
    assert not await reads_on_standby(db)
    await resume_replay(pair)
    await wait_for_standby(db)


async def read_money(db: DatabaseManager) -> list[int]:
    """Return how many rows each read of fills, the ledger and balances returns."""
    fills, ledger, balances = FillRepository(db), LedgerRepository(db), BalanceRepository(db)
    return [
        len(await fills.get_by_trade("T-1")),
        len(await fills.get_range(T0, T0)),
        len([one async for one in fills.stream()]),
        len(await ledger.get_range(T0, T0)),
        len(await ledger.get_sums()),
        len([one async for one in ledger.stream()]),
        len(await balances.get_range(T0, T0)),
        len(await balances.get_latest()),
        len([one async for one in balances.stream_arrow()]),
    ]


@pytest.mark.usefixtures("paused")
async def test_fills_the_ledger_and_balances_are_read_on_the_standby(pair: Pair, db: DatabaseManager) -> None:
    async with DatabaseManager(pair.url) as other:
        await FillRepository(other).record(fill(trade_id="T-1"))
        await LedgerRepository(other).record(ledger_entry())
        await BalanceRepository(other).record(balance())
    assert await read_money(db) == [0] * 9
    await SystemEventRepository(db).log_event("started", "info", "the manager's own commit")
    assert await read_money(db) == [1] * 9


@pytest.mark.usefixtures("paused")
async def test_a_read_on_the_primary_is_no_commit(db: DatabaseManager, pair: Pair) -> None:
    await OHLCVRepository(db).insert_many(hourly(1))
    assert not await reads_on_standby(db)
    await resume_replay(pair)
    await wait_for_standby(db)
    await pause_replay(pair)
    async with DatabaseManager(pair.url) as other:
        await OHLCVRepository(other).insert_many(hourly(2)[1:])
    async with db.get_session() as session:
        assert len(await OHLCVRepository(session).get_latest("BTCUSDT", "1h")) == 2
    assert await reads_on_standby(db)


@pytest.mark.usefixtures("paused")
async def test_a_statement_that_commits_by_itself_is_a_commit(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        assert isinstance(session, AsyncSession)
        connection = await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        await connection.execute(text("INSERT INTO system_events (event_type, severity, message) VALUES ('own', 'info', '')"))
        assert len(await SystemEventRepository(db).get_recent_events()) == 1
    assert len(await SystemEventRepository(db).get_recent_events()) == 1


async def commit_in_a_session(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        await OHLCVRepository(session).insert_many(hourly(1))
        await session.commit()
        assert len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h")) == 1


async def commit_in_own_session(db: DatabaseManager) -> None:
    async with AsyncSession(db.engine) as session:
        await OHLCVRepository(session).insert_many(hourly(1))
        await session.commit()
        assert len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h")) == 1


async def commit_on_a_connection(db: DatabaseManager) -> None:
    async with db.engine.connect() as connection:
        await connection.execute(text("CREATE TABLE note (a int)"))
        await connection.commit()
        async with db.get_session(isolation="snapshot") as session:
            await session.execute(text("SELECT a FROM note"))


async def commit_a_migration(db: DatabaseManager) -> None:
    await partition_bars(db, "hash:2")
    async with db.get_session(isolation="snapshot") as session:
        assert await session.scalar(text("SELECT relkind FROM pg_class WHERE relname = 'ohlcv'")) == b"p"


@pytest.mark.parametrize("commit", [commit_in_a_session, commit_in_own_session, commit_on_a_connection, commit_a_migration])
@pytest.mark.usefixtures("paused")
async def test_every_commit_of_the_manager_counts(db: DatabaseManager, commit: Any) -> None:
    await commit(db)
    assert not await reads_on_standby(db)


async def test_a_standby_is_stopped_and_started_during_reads(
    pair: Pair, db: DatabaseManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "iftb_store.standby")
    bars, stop, progressed = OHLCVRepository(db), asyncio.Event(), asyncio.Event()
    may_write = asyncio.Event()
    written = reads = 0

    async def write() -> None:
        nonlocal written
        for number in count(1):
            if stop.is_set():
                return
            await bars.upsert_many([bar(T0 + number * HOUR)])
            written = number
            # readers alternate with the writer, so that the standby can keep up
            await may_write.wait()
            may_write.clear()

    async def read(kind: int) -> None:
        nonlocal reads
        while not stop.is_set():
            least = written
            if kind == 0:
                found = sum(one.count for one in await bars.list_series())
            elif kind == 1:
                newest = await bars.get_latest("BTCUSDT", "1h", 1)
                found = (newest[0].timestamp - T0) // HOUR if newest else 0
            else:
                found = await db.run(lambda session: session.scalar(text(_BARS)), isolation="snapshot")
            # never older than the manager's last commit
            assert found >= least
            reads += 1
            progressed.set()
            may_write.set()

    async def let_read(goal: int) -> None:
        while reads < goal:
            progressed.clear()
            await asyncio.wait([waiting := asyncio.ensure_future(progressed.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                # a task has failed
                waiting.cancel()
                return

    tasks = [asyncio.ensure_future(one) for one in (write(), read(0), read(1), read(2))]
    try:
        for _ in range(2):
            for change in (pair.stop_standby, pair.start_standby):
                await asyncio.to_thread(change)
                await let_read(reads + 30)
    finally:
        stop.set()
        may_write.set()
        await asyncio.gather(*tasks)
    await wait_for_standby(db)
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warned
    assert all("; reads go to the primary until it can be used again" in record.getMessage() for record in warned)
    assert "reads go to the standby" in caplog.text


async def test_what_is_open_on_the_standby_when_it_stops_raises_a_transient_error(pair: Pair, db: DatabaseManager) -> None:
    await OHLCVRepository(db).insert_many(hourly(30))
    await wait_for_standby(db)
    calls = 0

    async def work(session: Any) -> Any:
        nonlocal calls
        calls += 1
        recovers = await session.scalar(text(_RECOVERY))
        if calls == 1:
            await asyncio.to_thread(pair.stop_standby)
            await session.scalar(text(_BARS))
        return recovers

    stream = OHLCVRepository(db).stream_range("BTCUSDT", "1h", T0, T0 + 99 * HOUR, batch_size=10)
    try:
        assert len(await anext(stream)) == 10
        # the next attempt runs on the primary
        assert await db.run(work, isolation="snapshot") is False
        with pytest.raises(TransientError):
            await anext(stream)
        assert len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 99)) == 30
    finally:
        await asyncio.to_thread(pair.start_standby)


async def test_a_standby_that_is_away_at_first_is_used_later(pair: Pair, db: DatabaseManager) -> None:
    await asyncio.to_thread(pair.stop_standby)
    try:
        async with DatabaseManager(pair.url, read_url=pair.standby_url) as other:
            assert not await reads_on_standby(other)
            (warning,) = (await other.health()).warnings
            assert warning.startswith("the standby postgresql://")
            assert "cannot be used: cannot connect to PostgreSQL" in warning
            assert "secret" not in warning
            await asyncio.to_thread(pair.start_standby)
            await wait_for_standby(other)
            assert (await other.health()).warnings == []
    finally:
        await asyncio.to_thread(pair.start_standby)


@pytest.mark.usefixtures("paused")
async def test_health_reports_a_standby_that_lags_behind(db: DatabaseManager) -> None:
    await OHLCVRepository(db).insert_many(hourly(1))
    health = await db.health()
    assert health.healthy
    (warning,) = health.warnings
    assert "has not replayed this manager's last commit yet; reads go to the primary" in warning


async def test_a_server_that_is_no_standby_of_the_primary_is_not_read(
    pair: Pair, db: DatabaseManager, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await OHLCVRepository(db).insert_many(hourly(1))
    async with DatabaseManager(pair.url, read_url=postgres_url) as other:
        assert len(await OHLCVRepository(other).get_latest("BTCUSDT", "1h")) == 1
    assert "it belongs to another cluster than the primary; reads go to the primary" in caplog.text
    async with DatabaseManager(pair.url, read_url=pair.url) as same:
        await OHLCVRepository(same).insert_many(hourly(2)[1:])
        assert len(await OHLCVRepository(same).get_latest("BTCUSDT", "1h")) == 2
        assert (await same.health()).warnings == []


async def read_everything(db: DatabaseManager) -> list[Any]:
    """Return what each method that reads returns."""
    bars, end = OHLCVRepository(db), T0 + 99 * HOUR
    trades, positions, events = TradeRepository(db), PositionRepository(db), SystemEventRepository(db)
    return [
        await bars.get_range("BTCUSDT", "1h", T0, end),
        await bars.get_range("BTCUSDT", "1h", T0, end, exchange=None),
        await bars.get_latest("BTCUSDT", "1h", 7, exchange=None),
        await bars.get_gaps("BTCUSDT", "1h", start=T0, end=end),
        await bars.resample("BTCUSDT", "1h", "4h", T0, end),
        await bars.list_series(),
        await bars.read_arrow(),
        [one async for one in bars.stream_arrow(batch_size=20)],
        [one async for one in bars.get_gaps_all()],
        [one async for one in bars.resample_all("1d", source="1h", partial=True)],
        await trades.get_open(exchange=None),
        await trades.get_range(T0, end),
        await trades.get_recent(),
        await trades.get_by_id(1),
        await trades.get_by_trade_id("TRD-001"),
        await trades.get_by_symbol("BTCUSDT"),
        await trades.get_statistics(36_500),
        await trades.read_arrow(),
        await positions.get_open_positions(exchange=None),
        await positions.get_position("BTCUSDT"),
        await events.get_recent_events(),
        await events.get_events(event_type="started"),
    ]


async def test_every_read_gives_the_same_on_the_standby(pair: Pair, db: DatabaseManager) -> None:
    await OHLCVRepository(db).insert_many([*hourly(60)[:30], *hourly(60)[35:]])
    await TradeRepository(db).insert(trade())
    await PositionRepository(db).update_position(position())
    await SystemEventRepository(db).log_event("started", "info", "now")
    await wait_for_standby(db)
    await pause_replay(pair)
    try:
        async with DatabaseManager(pair.url) as primary:
            expected = await read_everything(primary)
            # the standby does not replay this, so that the reads below are its own
            await TradeRepository(primary).insert(trade("TRD-002"))
        assert await read_everything(db) == expected
    finally:
        await resume_replay(pair)


async def test_a_copy_and_a_verification_read_the_standby(db: DatabaseManager, sqlite_url: str) -> None:
    await OHLCVRepository(db).insert_many(hourly(50))
    await wait_for_standby(db)
    async with DatabaseManager(sqlite_url) as other:
        await other.create_tables()
        await copy(db, other)
        assert (await verify(db, other)).equal
        await OHLCVRepository(other).insert_many(hourly(60)[50:])
        await copy(other, db)
        assert (await verify(other, db)).equal


def test_the_blocking_facade_takes_a_standby(pair: Pair) -> None:
    with open_store(pair.url, read_url=pair.standby_url) as db:
        db.create_tables()
        db.ohlcv.upsert_many([bar(datetime(2030, 1, 1, tzinfo=UTC))])
        assert db.ohlcv.get_latest("BTCUSDT", "1h", 1)[0].timestamp.year == 2030
        assert db.in_use == 0


@pytest.mark.parametrize("url", ["sqlite:///:memory:", "postgresql://localhost/bot"])
def test_a_standby_of_another_engine_is_refused(url: str) -> None:
    with pytest.raises(Unsupported, match="only PostgreSQL has standbys"):
        DatabaseManager(url, read_url="sqlite:///:memory:")
    with pytest.raises(URLError):
        DatabaseManager("postgresql://localhost/bot", read_url="postgresql:/wrong")


@pytest.mark.full
def test_a_promoted_standby_is_not_read(caplog: pytest.LogCaptureFixture) -> None:
    with running_pair() as servers, open_store(servers.url, read_url=servers.standby_url) as db:
        db.create_tables()
        servers.execute_on_standby("SELECT pg_promote()")
        db.ohlcv.insert_many(hourly(1))
        assert len(db.ohlcv.get_latest("BTCUSDT", "1h", 1)) == 1
        assert "it is no standby: it is not in recovery, and is not the primary" in caplog.text


async def test_a_move_into_partitions_waits_for_an_older_snapshot_on_the_standby(
    pair: Pair, db: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting in ("hot_standby_feedback = on", "wal_receiver_status_interval = 1"):
        await fetch_value(pair.standby_url, f"ALTER SYSTEM SET {setting}")
    await fetch_value(pair.standby_url, "SELECT pg_reload_conf()")
    await OHLCVRepository(db).insert_many(hourly(3))
    await wait_for_standby(db)
    assert len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h")) == 3
    async with asyncio.timeout(60):
        while await fetch_value(pair.url, "SELECT CAST(backend_xmin AS text) FROM pg_stat_replication") is None:
            pass
    monkeypatch.setattr("iftb_store_postgres.partitions._PATIENCE", 0.0)
    async with db.get_session(isolation="snapshot") as session:
        assert await session.scalar(text("SELECT count(*) FROM trades WHERE pg_is_in_recovery()")) == 0
        with pytest.raises(TransientError, match="older snapshot"):
            await partition_bars(db)
        assert len(await OHLCVRepository(session).get_latest("BTCUSDT", "1h")) == 3
    monkeypatch.setattr("iftb_store_postgres.partitions._PATIENCE", 60.0)
    assert (await partition_bars(db)).by == "month"
    await fetch_value(pair.standby_url, "ALTER SYSTEM RESET ALL")
    await fetch_value(pair.standby_url, "SELECT pg_reload_conf()")
