"""What only a lake does: its folder, its commits beside those of others, and what it refuses to read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.transaction import AddAction
from sqlalchemy import make_url, text
from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store import CommitOutcomeUnknown, DatabaseManager, OHLCVRepository, TransientError, Unsupported, URLError
from iftb_store.columnar import write_lock
from iftb_store.testing import raw
from iftb_store.testing.rows import add, change, read_names, read_value
from iftb_store.testing.samples import HOUR, T0, as_given, bar, hourly
from iftb_store_lake.connection import Lake
from iftb_store_lake.layout import PART, SCHEMA
from iftb_store_lake.storage import Storage
from tests.conftest import Run


def folder_of(url: str) -> Path:
    return Path(str(make_url(url).database))


def version_of(url: str) -> int:
    return DeltaTable(folder_of(url)).version()


async def read_refusal(url: str) -> str:
    with pytest.raises(OperationalError) as caught:
        await DatabaseManager(url).connect()
    return str(caught.value)


async def test_a_folder_with_other_files_is_left_alone(lake_url: str) -> None:
    folder = folder_of(lake_url)
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert "its folder has other files" in await read_refusal(lake_url)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


async def test_another_delta_table_is_refused(lake_url: str) -> None:
    write_deltalake(folder_of(lake_url), pa.table({"symbol": ["BTCUSDT"]}))
    assert "holds another Delta table" in await read_refusal(lake_url)


async def test_a_first_start_beside_another_one_opens_the_table_of_the_other(
    lake_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = Storage.prepare

    def prepare_late(storage: Storage) -> None:
        monkeypatch.setattr(Storage, "prepare", prepare)
        asyncio.run(start_first())
        prepare(storage)

    async def start_first() -> None:
        async with DatabaseManager(lake_url) as other:
            await add(other)

    monkeypatch.setattr(Storage, "prepare", prepare_late)
    async with DatabaseManager(lake_url) as db:
        assert await read_names(db) == ["ROW"]


async def test_a_missing_file_is_no_transient_error_whatever_the_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "connection timeout"
    async with DatabaseManager(f"delta:///{folder}") as db:
        await add(db)
        next(folder.glob("part=*/*")).unlink()
        with pytest.raises(OperationalError, match="a file of the table is missing") as caught:
            await read_names(db)
    assert not isinstance(caught.value, TransientError)


@pytest.mark.parametrize(
    "url",
    [
        "delta://",
        "delta:///",
        "delta://host/folder",
        "delta:///a*b",
        "delta:///lake?threads=1",
        "delta:///lake?busy_timeout=soon",
        "delta:///lake?region=x",
        "delta+s3:///prefix",
        "delta+s3://bucket/a/../b",
        "delta+s3://bucket/a?endpoint=ftp://host",
        "delta+s3://bucket/a?endpoint=http://minio:9000",
        "delta+s3://key@bucket/a",
        "delta+s3://bucket/a?auth=guess",
        "delta+s3://bucket/a?request_timeout=0",
    ],
)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(URLError, match="delta"):
        DatabaseManager(url)


def test_no_message_shows_the_keys_of_a_url() -> None:
    manager = DatabaseManager("delta+s3://access:sEcReT@bucket/lake")
    assert "sEcReT" not in repr(manager)
    assert "sEcReT" not in repr(vars(manager))


def test_a_command_that_reads_creates_no_lake(lake_url: str, run: Run) -> None:
    code, _, err = run("doctor", lake_url)
    assert (code, folder_of(lake_url).exists()) == (1, False)
    assert "there is no database file" in err


def test_the_status_shows_the_version_and_the_files(lake_url: str, run: Run) -> None:
    async def fill() -> None:
        async with DatabaseManager(lake_url) as db:
            await OHLCVRepository(db).insert_many(hourly(10))

    asyncio.run(fill())
    code, out, _ = run("status", lake_url)
    assert code == 0
    assert "table version 1" in out
    assert "files     1" in out


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1600, 5, 6, 7, 8, 9, 16, tzinfo=UTC),
        datetime(2024, 5, 6, 7, 8, 9, 999_999, tzinfo=UTC),
        datetime(9900, 4, 3, 4, 5, 6, 362_493, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
)
async def test_a_bar_of_any_time_is_changed_and_deleted(lake_url: str, moment: datetime) -> None:
    async with DatabaseManager(lake_url) as db:
        repository = OHLCVRepository(db)
        await repository.insert_many([bar(moment)])
        await repository.upsert_many([bar(moment, volume=Decimal(7))])
        assert [item.volume for item in await repository.get_range("BTCUSDT", "1h", moment, moment)] == [7]
        assert await repository.delete_range("BTCUSDT", "1h", moment, moment) == 1
        assert await read_names(db) == []


async def test_an_upsert_that_changes_nothing_makes_no_commit(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        await OHLCVRepository(db).insert_many(hourly(10))
        before = version_of(lake_url)
        await OHLCVRepository(db).upsert_many(hourly(10))
        assert version_of(lake_url) == before


async def test_a_session_is_one_commit(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        await OHLCVRepository(db).insert_many(hourly(10))
        before = version_of(lake_url)
        async with db.get_session() as session:
            repository = OHLCVRepository(session)
            await repository.insert_many([bar(symbol="NEW")])
            await repository.upsert_many(hourly(5, volume=Decimal(7)))
            await repository.delete_range("BTCUSDT", "1h", T0 + 8 * HOUR, T0 + 9 * HOUR)
        assert version_of(lake_url) == before + 1
        volumes = [item.volume for item in await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0 + 10 * HOUR)]
        assert volumes == [Decimal(7)] * 5 + [Decimal("100.5")] * 3


async def test_a_bar_that_is_deleted_and_inserted_again_is_a_new_bar(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        await add(db)
        ((before,),) = await raw.fetch(db, "SELECT id FROM ohlcv")
        async with db.get_session() as session:
            await OHLCVRepository(session).delete_range("ROW", "1h", T0, T0)
            await OHLCVRepository(session).insert_many([bar(symbol="ROW", volume=Decimal(7))])
            await OHLCVRepository(session).upsert_many([bar(symbol="ROW", volume=Decimal(8))])
        ((after, volume),) = await raw.fetch(db, "SELECT id, volume FROM ohlcv")
        assert (after > before, volume) == (True, 8)


async def test_a_bar_inserted_by_another_client_meanwhile_is_an_integrity_error_at_the_commit(lake_url: str) -> None:
    async def insert_both() -> None:
        async with db.get_session() as session:
            await add(session, "first")
            await add(session, "second")
            await add(other, "second")

    async with DatabaseManager(lake_url) as db, DatabaseManager(lake_url) as other:
        with pytest.raises(IntegrityError, match=r"second.* is already stored; nothing was inserted; upsert_many"):
            await insert_both()
        assert await read_names(db) == ["second"]


async def test_after_a_caught_error_of_the_commit_the_exit_says_that_writes_are_lost(lake_url: str) -> None:
    async def insert_both() -> None:
        async with db.get_session() as session:
            await add(session, "second")
            await add(other, "second")
            with pytest.raises(IntegrityError):
                await session.commit()

    async with DatabaseManager(lake_url) as db, DatabaseManager(lake_url) as other:
        with pytest.raises(OperationalError, match="were rolled back after an error"):
            await insert_both()


async def test_a_commit_that_a_timeout_cancels_is_stored_and_the_session_continues(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        async with db.get_session() as session:
            await add(session, "first")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await session.commit()
            await add(session, "second")
        assert await read_names(db) == ["first", "second"]


class Panic(BaseException):
    """Stands for the PanicException of delta-rs, which is no Exception."""


@pytest.mark.parametrize("error", [Panic, KeyboardInterrupt, MemoryError])
async def test_a_commit_that_is_stored_counts_although_delta_rs_fails_after_it(
    lake_url: str, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    commit = Lake.commit

    def commit_and_fail(lake: Lake, files: Sequence[AddAction], replaced: Sequence[str], token: str) -> None:
        commit(lake, files, replaced, token)
        raise error

    async with DatabaseManager(lake_url) as db:
        with monkeypatch.context() as patch:
            patch.setattr(Lake, "commit", commit_and_fail)
            await add(db, "first")
        await add(db, "second")
        assert await read_names(db) == ["first", "second"]


async def test_a_commit_that_panics_and_may_still_arrive_is_of_unknown_outcome(
    lake_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Panic

    async with DatabaseManager(lake_url) as db:
        with monkeypatch.context() as patch:
            patch.setattr(Lake, "commit", fail)
            with pytest.raises(CommitOutcomeUnknown):
                await add(db, "first")
        await add(db, "second")
        assert await read_names(db) == ["second"]


async def test_a_commit_that_panics_and_cannot_arrive_any_more_is_rolled_back(
    lake_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Lake.commit

    def fail(lake: Lake, files: Sequence[AddAction], replaced: Sequence[str], token: str) -> None:
        commit(lake, files, replaced, "of another client")
        raise Panic

    async with DatabaseManager(lake_url) as db:
        monkeypatch.setattr(Lake, "commit", fail)
        with pytest.raises(OperationalError, match="could not be stored: Panic") as caught:
            await add(db, "first")
        assert not isinstance(caught.value, CommitOutcomeUnknown)


async def test_a_first_write_that_fails_does_not_fix_the_version_that_a_session_reads(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        await add(db, "first")
        async with db.get_session() as session:
            with pytest.raises(IntegrityError):
                await add(session, "first")
            await add(db, "second")
            assert await read_names(session) == ["first", "second"]


async def test_a_first_write_that_fails_fixes_the_version_of_an_isolated_session(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        await add(db, "first")
        async with db.get_session(isolation="repeatable read") as session:
            with pytest.raises(IntegrityError):
                await add(session, "first")
            await add(db, "second")
            assert await read_names(session) == ["first"]


async def test_a_read_after_an_upsert_fixes_the_version_that_a_session_reads(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        async with db.get_session() as session:
            await OHLCVRepository(session).upsert_many([bar(T0)])
            await OHLCVRepository(db).insert_many([bar(T0 + HOUR)])
            assert len(await OHLCVRepository(session).get_latest("BTCUSDT", "1h", 9)) == 2
            await OHLCVRepository(db).insert_many([bar(T0 + 2 * HOUR)])
            assert len(await OHLCVRepository(session).get_latest("BTCUSDT", "1h", 9)) == 2
        assert len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 9)) == 3


async def test_a_disconnect_does_not_wait_as_long_as_a_commit_that_waits_for_another(lake_url: str) -> None:
    db = DatabaseManager(f"{lake_url}?busy_timeout=3600")
    await db.connect()
    waiting = asyncio.Event()

    async def insert() -> None:
        async with db.get_session() as session:
            await add(session)
            waiting.set()

    lock = write_lock(str(folder_of(lake_url)))
    async with asyncio.timeout(60), lock:
        task = asyncio.create_task(insert())
        await waiting.wait()
        await db.disconnect(grace=0)
    with pytest.raises(OperationalError, match="none of its writes were stored"):
        await task
    async with DatabaseManager(lake_url) as other:
        assert await read_names(other) == []


async def test_writers_that_have_not_read_each_others_bars_all_commit_and_the_last_one_wins(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db, DatabaseManager(lake_url) as other:
        await add(db)
        async with db.get_session() as session:
            await change(session, "ROW", 1)
            await change(other, "ROW", 2)
        assert await read_value(other) == 1


async def test_a_session_that_has_read_what_another_changed_is_a_transient_error(lake_url: str) -> None:
    async def raise_by_one() -> None:
        async with db.get_session() as session:
            await change(session, "OWN", 1)
            found = await read_value(session, "ROW")
            await change(other, "ROW", 7)
            await change(session, "ROW", (found or 0) + 1)

    async with DatabaseManager(lake_url) as db, DatabaseManager(lake_url) as other:
        await add(db)
        with pytest.raises(TransientError):
            await raise_by_one()
        assert await read_value(other) == 7
        assert await read_value(other, "OWN") is None


async def test_sql_reads_no_file_outside_of_the_lake(lake_url: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    async with DatabaseManager(lake_url) as db, db.get_session() as session:
        for path in (secret, folder_of(lake_url) / ".." / "secret.txt"):
            with pytest.raises(OperationalError):
                await session.execute(text(f"SELECT * FROM read_text('{path}')"))


async def test_bars_that_another_program_adds_are_read(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        await OHLCVRepository(db).insert_many(hourly(2))
        row = (await OHLCVRepository(db).read_arrow()).slice(0, 1)
        moved = row.set_column(
            row.schema.get_field_index("timestamp"), "timestamp", pa.array([T0 - HOUR], SCHEMA.field("timestamp").type)
        )
        write_deltalake(folder_of(lake_url), moved.append_column(PART, pa.array(["binance.1h.2023"])), mode="append")
        found = await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0 - timedelta(days=1), T0 + HOUR)
        assert [item.timestamp for item in found] == [T0 - HOUR, T0, T0 + HOUR]
        assert [as_given(item) for item in found[1:]] == hourly(2)


async def test_names_that_a_file_system_does_not_bear_are_kept(lake_url: str) -> None:
    names = ["a/b", "..", "é" * 255, "%2F", "x=y", "CON", "'", "a" * 255, "\U00020000", '\x10\x7f"\\']
    async with DatabaseManager(lake_url) as db:
        await OHLCVRepository(db).insert_many([bar(exchange=name, symbol=name) for name in names])
        await OHLCVRepository(db).upsert_many([bar(exchange=name, symbol=name, volume=Decimal(7)) for name in names])
        listed = await OHLCVRepository(db).list_series()
        assert sorted(series.exchange for series in listed) == sorted(names)
        for name in names:
            assert [item.volume for item in await OHLCVRepository(db).get_range(name, "1h", T0, T0, name)] == [7]


@pytest.mark.parametrize("far", [timedelta(days=200), timedelta(hours=2)])
async def test_the_newest_bars_are_found_however_far_back(lake_url: str, far: timedelta) -> None:
    async with DatabaseManager(lake_url) as db:
        repository = OHLCVRepository(db)
        await repository.insert_many([*hourly(5), bar(T0 + far, symbol="LATER")])
        await repository.insert_many([bar(T0 - timedelta(days=400))])
        assert [item.timestamp for item in await repository.get_latest("BTCUSDT", "1h", 2)] == [T0 + 4 * HOUR, T0 + 3 * HOUR]
        assert [item.timestamp for item in await repository.get_latest("BTCUSDT", "1h", 6)][-1] == T0 - timedelta(days=400)
        async with db.get_session() as session:
            await OHLCVRepository(session).upsert_many([bar(T0 + timedelta(days=900))])
            (newest,) = await OHLCVRepository(session).get_latest("BTCUSDT", "1h", 1)
            assert newest.timestamp == T0 + timedelta(days=900)


_WRITING = ("EXPLAIN ANALYZE ", "explain analyse ", "EXPLAIN /* ; */ ANALYZE ", "\ufeffEXPLAIN ANALYZE ", "")


@pytest.mark.parametrize("begin", _WRITING)
async def test_raw_sql_writes_no_file(lake_url: str, begin: str) -> None:
    async with DatabaseManager(lake_url) as db, db.get_session() as session:
        with pytest.raises(Unsupported):
            await session.execute(text(f"{begin}COPY (SELECT 1) TO '{folder_of(lake_url)}/x.parquet'"))
        assert not (folder_of(lake_url) / "x.parquet").exists()
        assert (await session.execute(text("EXPLAIN SELECT 1"))).all()


async def test_health_leaves_no_file(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        before = sorted(folder_of(lake_url).rglob("*"))
        assert (await db.health()).writable
        assert sorted(folder_of(lake_url).rglob("*")) == before
