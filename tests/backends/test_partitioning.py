"""Partitions of ohlcv on PostgreSQL: the move of a table that is in use, and the partitions that come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from iftb_store import (
    DatabaseManager,
    InvalidValueError,
    OHLCVRepository,
    SchemaError,
    StoreError,
    TransientError,
    Unsupported,
    backup,
    copy,
    create_partitions,
    examine,
    list_partitions,
    partition_bars,
    restore,
    verify,
)
from iftb_store.testing.samples import HOUR, T0, bar, hourly
from iftb_store_migrations import differences
from iftb_store_postgres import moves
from tests.conftest import Run

METHODS = ("month", "year", "hash:4")
_DAYS = 100
_BARS = 24 * _DAYS


@pytest.fixture
async def db(postgres_tables_url: str) -> AsyncIterator[DatabaseManager]:
    """The manager of a database with 100 days of hourly bars of two symbols."""
    async with DatabaseManager(postgres_tables_url) as manager:
        for symbol in ("BTCUSDT", "ETHUSDT"):
            await OHLCVRepository(manager).insert_many(hourly(_BARS, symbol=symbol))
        yield manager


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def read_all(db: DatabaseManager) -> list[tuple[Any, ...]]:
    async with db.get_session() as session:
        found = await session.execute(text("SELECT * FROM ohlcv ORDER BY exchange, symbol, timeframe, timestamp"))
        return [tuple(row) for row in found]


async def list_differences(db: DatabaseManager) -> list[Any]:
    found: list[Any] = await db._backend.with_connection(differences)  # type: ignore[attr-defined]
    return found


async def list_left(db: DatabaseManager) -> list[str]:
    async with db.get_session() as session:
        found = await session.execute(text("SELECT relname FROM pg_class WHERE relname LIKE 'iftb_store_%' ORDER BY 1"))
        return [row[0] for row in found if not row[0].startswith("iftb_store_version")]


class Interrupted(Exception):
    """Raised by the callback of a test, to end a move."""


def interrupt_at(step: str) -> Any:
    def progress(now: str, done: int, total: int | None) -> None:
        if now == step:
            raise Interrupted

    return progress


@pytest.mark.parametrize("by", METHODS)
async def test_all_bars_are_moved_with_their_ids_and_the_schema_is_the_same(db: DatabaseManager, by: str) -> None:
    before = await read_all(db)

    found = await partition_bars(db, by)

    assert (found.by, await read_all(db)) == (by, before)
    assert (await list_differences(db), await list_left(db)) == ([], [])
    await OHLCVRepository(db).insert_many(hourly(_BARS + 1)[_BARS:])
    (newest,) = await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 1)
    assert newest.id == 2 * _BARS + 1


@pytest.mark.parametrize("by", METHODS)
async def test_an_empty_table_is_partitioned_and_a_second_call_changes_nothing(postgres_tables_url: str, by: str) -> None:
    async with DatabaseManager(postgres_tables_url) as db:
        first = await partition_bars(db, by, ahead=2)
        assert await partition_bars(db, by, ahead=2) == first == await list_partitions(db)
        assert len(first.partitions) == (4 if by.startswith("hash") else 3 + 1)
        assert await create_partitions(db, ahead=2) == ()


async def test_a_table_partitioned_in_another_way_is_refused(db: DatabaseManager) -> None:
    await partition_bars(db, "year")
    with pytest.raises(SchemaError, match="already partitioned, by year; to partition it by month, copy it to a new database"):
        await partition_bars(db, "month")


@pytest.mark.parametrize("step", ["copy", "compare", "wait for older transactions", "exchange the tables"])
async def test_an_interrupted_move_shows_all_bars_and_continues(
    db: DatabaseManager, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(moves, "BATCH", 1_000)
    before = await read_all(db)
    with pytest.raises(Interrupted):
        await partition_bars(db, "month", progress=interrupt_at(step))
    assert await read_all(db) == before
    assert {one.kind for one in await examine(db) if "move" in one.kind} == {"unfinished move"}

    copied: list[int] = []
    await partition_bars(db, "month", progress=lambda now, done, total: copied.append(done) if now == "copy" else None)

    assert (await read_all(db), await list_left(db)) == (before, [])
    assert copied == ([2_000, 3_000, 4_000, 4_800] if step == "copy" else [])


async def test_writes_during_a_move_are_in_the_new_table(db: DatabaseManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "BATCH", 1_000)
    bars = OHLCVRepository(db)
    with pytest.raises(Interrupted):
        await partition_bars(db, "month", progress=interrupt_at("copy"))
    # a bar that was copied and one that was not: changed, deleted, and given another key by raw SQL; and new ones
    changed = [one for number in (3, _BARS - 3) for one in hourly(number + 1, symbol="BTCUSDT")[number:]]
    for one in changed:
        one.volume += 1
    await bars.upsert_many(changed)
    await bars.insert_many(hourly(_BARS + 500, symbol="ETHUSDT")[_BARS:])
    async with db.get_session() as session:
        for number in (5, _BARS - 5):
            moment = {"moment": T0 + number * HOUR}
            await session.execute(text("DELETE FROM ohlcv WHERE timestamp = :moment"), moment)
            moment = {"moment": T0 + (number + 2) * HOUR}
            await session.execute(
                text("UPDATE ohlcv SET symbol = 'XRP' WHERE timestamp = :moment AND symbol = 'BTCUSDT'"), moment
            )
    stored = await read_all(db)
    assert len(stored) == 2 * _BARS + 500 - 4

    await partition_bars(db, "month")

    assert await read_all(db) == stored


async def test_a_truncated_table_stays_empty(db: DatabaseManager) -> None:
    with pytest.raises(Interrupted):
        await partition_bars(db, "hash:2", progress=interrupt_at("compare"))
    async with db.get_session() as session:
        await session.execute(text("TRUNCATE ohlcv"))
    await partition_bars(db, "hash:2")
    assert await read_all(db) == []


async def test_an_older_snapshot_does_not_see_the_new_table_without_its_bars(db: DatabaseManager) -> None:
    async with db.get_session(isolation="snapshot") as session:
        # the snapshot is older than the move, and holds no lock on ohlcv
        await session.execute(text("SELECT 1"))
        moving = asyncio.ensure_future(partition_bars(db, "month"))
        async with asyncio.timeout(60):
            while await count_waiting(db) == 0:
                pass
        assert not moving.done()
        assert await session.scalar(text("SELECT count(*) FROM ohlcv")) == 2 * _BARS
    assert (await moving).by == "month"


async def count_waiting(db: DatabaseManager) -> int:
    async with db.get_session() as session:
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'virtualxid'")
        return int(await session.scalar(waiting) or 0)


async def test_a_delete_in_a_transaction_older_than_the_copy_fails_like_a_conflict(
    db: DatabaseManager, postgres_url: str
) -> None:
    async with connected(postgres_url) as writer:
        transaction = writer.transaction(isolation="repeatable_read")
        await transaction.start()
        await writer.fetch("SELECT 1")
        with pytest.raises(Interrupted):
            await partition_bars(db, "month", progress=interrupt_at("compare"))
        # the copied bar is not visible to this transaction
        with pytest.raises(asyncpg.SerializationError):
            await writer.execute("DELETE FROM ohlcv WHERE timestamp = $1", T0)
        await transaction.rollback()
    await partition_bars(db, "month")
    assert len(await read_all(db)) == 2 * _BARS


async def test_writes_that_fire_no_trigger_are_found_and_the_next_run_begins_anew(db: DatabaseManager) -> None:
    with pytest.raises(Interrupted):
        await partition_bars(db, "month", progress=interrupt_at("compare"))
    async with db.get_session() as session:
        await session.execute(text("SET LOCAL session_replication_role = replica"))
        await session.execute(text("UPDATE ohlcv SET volume = 7 WHERE timestamp = :moment"), {"moment": T0})
    with pytest.raises(StoreError, match=r"ohlcv has 4,800 bars and the partitioned table 4,800, or they differ in a value"):
        await partition_bars(db, "month")
    assert await list_left(db) == []
    await partition_bars(db, "month")
    assert len(await read_all(db)) == 2 * _BARS


async def test_two_processes_move_together(db: DatabaseManager, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "BATCH", 500)
    before = await read_all(db)
    async with DatabaseManager(postgres_url) as other:
        found = await asyncio.gather(*(partition_bars(one, "month") for one in (db, other)))
    assert {one.by for one in found} == {"month"}
    assert (await read_all(db), await list_left(db)) == (before, [])


async def test_rights_and_the_view_are_kept(db: DatabaseManager, postgres_url: str) -> None:
    async with connected(postgres_url) as owner:
        await owner.execute('DROP ROLE IF EXISTS "the reader"; CREATE ROLE "the reader"')
        try:
            await owner.execute(
                'GRANT SELECT ON ohlcv, ohlcv_view TO "the reader"; GRANT INSERT (open), UPDATE (open) ON ohlcv TO PUBLIC; '
                'GRANT UPDATE ON SEQUENCE ohlcv_id_seq TO "the reader" WITH GRANT OPTION; '
                'ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT DELETE ON TABLES TO "the reader"'
            )
            rights = """
                SELECT CAST(relname AS text), CAST(relacl AS text), (
                    SELECT string_agg(concat(attname, attacl), ' ' ORDER BY attnum) FROM pg_attribute
                    WHERE attrelid = pg_class.oid AND attacl IS NOT NULL)
                FROM pg_class WHERE relname IN ('ohlcv', 'ohlcv_view', 'ohlcv_id_seq') ORDER BY 1"""
            before = [tuple(row) for row in await owner.fetch(rights)]
            await partition_bars(db, "year")
            assert [tuple(row) for row in await owner.fetch(rights)] == before
            assert await owner.fetchval("SELECT count(*) FROM ohlcv_view") == 2 * _BARS
        finally:
            await owner.execute('DROP OWNED BY "the reader"; DROP ROLE "the reader"')


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE VIEW mine AS SELECT open FROM ohlcv", "the view public.mine"),
        ("CREATE INDEX mine ON ohlcv (timestamp)", "the index mine"),
        ("ALTER TABLE ohlcv ADD CONSTRAINT mine CHECK (open > 0)", "the constraint mine"),
        ("ALTER TABLE ohlcv ENABLE ROW LEVEL SECURITY", "row-level security"),
        ("ALTER TABLE ohlcv ADD COLUMN note text", r"another set of columns \(note\)"),
        (
            "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            "CREATE TRIGGER mine AFTER INSERT ON ohlcv EXECUTE FUNCTION mine()",
            "the trigger mine",
        ),
        (
            "CREATE TABLE mine (exchange text, symbol text, timeframe text, timestamp timestamptz, "
            "FOREIGN KEY (exchange, symbol, timeframe, timestamp) REFERENCES ohlcv)",
            "the foreign key mine_.* of public.mine",
        ),
    ],
)
async def test_what_the_new_table_would_lack_is_named_and_nothing_is_changed(
    db: DatabaseManager, postgres_url: str, statement: str, named: str
) -> None:
    async with connected(postgres_url) as owner:
        await owner.execute(statement)
    with pytest.raises(SchemaError, match=f"ohlcv cannot be partitioned, .*{named}.*Nothing was changed"):
        await partition_bars(db, "month")
    assert await list_left(db) == []


async def test_a_role_that_is_not_the_owner_is_refused(db: DatabaseManager, postgres_url: str) -> None:
    async with connected(postgres_url) as owner:
        await owner.execute("DROP ROLE IF EXISTS stranger; CREATE ROLE stranger LOGIN; GRANT USAGE ON SCHEMA public TO stranger")
        try:
            url = postgres_url.replace("postgres:@", "stranger:@").replace("postgres@", "stranger@")
            async with DatabaseManager(url) as other:
                with pytest.raises(OperationalError, match="permission denied to set role"):
                    await partition_bars(other, "month")
        finally:
            await owner.execute("DROP OWNED BY stranger; DROP ROLE stranger")


async def test_a_table_that_stays_locked_ends_the_move_with_a_transient_error(
    db: DatabaseManager, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iftb_store_postgres.partitions._PATIENCE", 0.0)
    monkeypatch.setattr("iftb_store_postgres.partitions._LOCK_WAIT", 10)
    async with connected(postgres_url) as other, other.transaction():
        await other.execute("UPDATE ohlcv SET volume = volume")
        with pytest.raises(TransientError, match=r"kept the table of bars locked .*run this again, which continues"):
            await partition_bars(db, "month")
    assert (await partition_bars(db, "month")).by == "month"


@pytest.mark.parametrize("by", ["month", "year"])
async def test_bars_outside_of_the_partitions_are_kept_and_move_into_their_own(db: DatabaseManager, by: str) -> None:
    await partition_bars(db, by, ahead=1)
    late = T0.replace(year=2031, month=5)
    outside = [bar(moment) for moment in (late, late + timedelta(days=9), T0.replace(year=1), T0.replace(year=9999))]
    await OHLCVRepository(db).insert_many(outside)
    stored = await read_all(db)
    (finding,) = [one for one in await examine(db) if one.kind == "default partition"]
    assert (finding.severity, finding.count) == ("warning", 4)

    made = await create_partitions(db, ahead=2)

    names = {"ohlcv_0001_01", "ohlcv_2031_05"} if by == "month" else {"ohlcv_0001", "ohlcv_2031"}
    assert names <= {*made}
    # the next year of the year 9999 is in no calendar
    assert [one.count for one in await examine(db) if one.kind == "default partition"] == [1]
    assert await read_all(db) == stored
    assert await create_partitions(db, ahead=2) == ()


async def test_the_partitions_from_a_start_on_are_created(db: DatabaseManager) -> None:
    await partition_bars(db, "month", ahead=0)
    made = await create_partitions(db, ahead=0, start=datetime(2023, 11, 5))
    assert made[:2] == ("ohlcv_2023_11", "ohlcv_2023_12")
    assert made[2] == "ohlcv_2024_05"
    starts = [one.start for one in (await list_partitions(db)).partitions]
    assert starts == [*sorted(filter(None, starts)), None]


async def test_two_crons_at_once_create_each_partition_once(db: DatabaseManager, postgres_url: str) -> None:
    await partition_bars(db, "month", ahead=0)
    async with DatabaseManager(postgres_url) as other:
        made = await asyncio.gather(*(create_partitions(one, ahead=24) for one in (db, other)))
    assert len({*made[0], *made[1]}) == len(made[0]) + len(made[1]) == 24


async def test_a_reader_of_other_partitions_does_not_wait_for_a_new_one(db: DatabaseManager, postgres_url: str) -> None:
    await partition_bars(db, "month", ahead=0)
    async with connected(postgres_url) as reader, reader.transaction():
        await reader.fetch("SELECT FROM ohlcv WHERE timestamp >= '2024-02-01' AND timestamp < '2024-02-02'")
        assert len(await create_partitions(db, ahead=1)) == 1


@pytest.mark.parametrize(("by", "plain"), [("month", False), ("hash:2", False), (None, True)])
async def test_partitions_ahead_of_a_hash_or_a_plain_table(db: DatabaseManager, by: str | None, plain: bool) -> None:
    if by is not None:
        await partition_bars(db, by)
    if plain:
        with pytest.raises(SchemaError, match="ohlcv is not partitioned; `iftb-store migrate URL --partition-by month`"):
            await create_partitions(db)
    else:
        assert await create_partitions(db) == ()


async def test_partitions_of_others_are_left_alone(postgres_tables_url: str) -> None:
    async with connected(postgres_tables_url) as owner, DatabaseManager(postgres_tables_url) as db:
        await partition_bars(db, "month", ahead=0)
        await owner.execute(
            "DROP TABLE ohlcv_default; CREATE TABLE rest PARTITION OF ohlcv FOR VALUES FROM ('2100-01-05') TO (MAXVALUE);"
            "CREATE TABLE week PARTITION OF ohlcv FOR VALUES FROM ('2099-01-05') TO ('2099-01-12')"
        )
        assert (await list_partitions(db)).by == "other"
        with pytest.raises(SchemaError, match="neither months nor years"):
            await create_partitions(db)
        await owner.execute("DROP TABLE week; DROP TABLE rest")
        start = datetime.now(UTC).replace(day=10) + timedelta(days=35)
        await owner.execute(
            f"CREATE TABLE half PARTITION OF ohlcv FOR VALUES FROM ('{start:%Y-%m}-10') TO ('{start:%Y-%m}-12');"
            "CREATE TABLE ohlcv_2100_01 PARTITION OF ohlcv FOR VALUES FROM ('2100-01-01') TO ('2100-02-01')"
        )
        with pytest.raises(SchemaError, match="the partition half overlaps with the month"):
            await create_partitions(db)


@pytest.mark.parametrize("by", ["week", "hash", "hash:1", "hash:257", "Month", 3, None])
async def test_a_wrong_method_is_refused(db: DatabaseManager, by: Any) -> None:
    with pytest.raises(InvalidValueError, match="by must be month, year or hash:N with N from 2 to 256"):
        await partition_bars(db, by)


@pytest.mark.parametrize("call", [partition_bars, create_partitions, list_partitions])
async def test_other_engines_have_no_partitions(sqlite_url: str, call: Any) -> None:
    async with DatabaseManager(sqlite_url) as db:
        with pytest.raises(Unsupported, match="does not support partitions; only PostgreSQL divides its table of bars"):
            await call(db)


@pytest.mark.parametrize("by", METHODS)
async def test_the_schema_goes_down_and_up_on_a_partitioned_table(db: DatabaseManager, by: str) -> None:
    import iftb_store_migrations as migrations

    await partition_bars(db, by)
    backend: Any = db._backend
    before = await read_all(db)
    for revision in [*migrations.revisions()[:-1]][::-1]:
        await backend.with_connection(partial(migrations.downgrade, revision=revision))
    await db.migrate()
    assert ((await list_partitions(db)).by, await read_all(db), await list_differences(db)) == (by, before, [])
    await backend.with_connection(migrations.downgrade)
    await db.migrate()
    # without its tables, the database has no partitions
    assert (await list_partitions(db)).by is None


@pytest.mark.parametrize("by", METHODS)
async def test_copies_between_a_partitioned_and_another_store_are_equal(db: DatabaseManager, sqlite_url: str, by: str) -> None:
    await partition_bars(db, by)
    async with DatabaseManager(sqlite_url) as other:
        await other.create_tables()
        await copy(db, other)
        assert (await verify(db, other)).equal
        async with db.get_session() as session:
            await session.execute(text("DELETE FROM ohlcv WHERE symbol = 'ETHUSDT'"))
        await copy(other, db)
        assert (await verify(other, db)).equal


async def test_a_backup_of_partitions_is_restored_into_partitions(db: DatabaseManager, tmp_path: Path) -> None:
    await partition_bars(db, "month")
    before = [row[1:] for row in await read_all(db)]
    await backup(db, str(tmp_path / "bot.backup"))
    async with db.get_session() as session:
        await session.execute(text("DELETE FROM ohlcv WHERE symbol = 'ETHUSDT'"))
    await restore(str(tmp_path / "bot.backup"), db, overwrite=True)
    assert [row[1:] for row in await read_all(db)] == before


def test_the_commands_partition_and_list(run: Run, postgres_url: str) -> None:
    assert run("partitions", postgres_url)[0] == 1
    assert run("migrate", postgres_url)[0] == 0
    assert "ohlcv is not partitioned" in run("partitions", postgres_url)[1]
    code, out, _ = run("migrate", postgres_url, "--partition-by", "month")
    assert (code, out.splitlines()[1]) == (0, "ohlcv is partitioned by month: 5 partitions")
    for new in (2, 0):
        code, out, _ = run("partitions", postgres_url, "--ahead", "5", "--json")
        found = json.loads(out)
        assert (code, found["by"], len(found["created"]), len(found["partitions"])) == (0, "month", new, 7)
    code, out, _ = run("partitions", postgres_url, "--start", "2020-01-01")
    assert (code, "ohlcv_2020_01" in out, "new" in out) == (0, True, True)
    assert run("migrate", postgres_url, "--partition-by", "week")[0] == 2
    assert run("doctor", postgres_url)[0] == run("status", postgres_url)[0] == 0
