"""Features of the DuckDB backend: files and processes, options, the write lock, lost transactions, types."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import pytest_asyncio
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError, ObjectNotExecutableError, OperationalError

from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository, SystemEventRepository
from iftb_store._io.semaphore import FairSemaphore
from iftb_store.abilities import SupportsMigrations
from iftb_store.batches.arrow import to_rows
from iftb_store.columnar.locks import write_lock
from iftb_store.errors import SchemaError, Unsupported, URLError
from iftb_store.schema.table_spec import BARS as OHLCV
from iftb_store.schema.tables import Base
from iftb_store_duckdb.errors import cannot_open_error
from tests.support.strangers import as_stranger

START = datetime(2024, 1, 1, tzinfo=UTC)
EVENTS, BARS = (Base.metadata.tables[name] for name in ("system_events", "ohlcv"))
SLOW = text("SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b")
SLOW_WRITE = text("INSERT INTO system_events (event_type, severity, message) SELECT 'a', 'info', 'b' FROM range(100000000000)")

_HOLDER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def bar(hour: int = 0, price: str = "100", **other: Any) -> OHLCVBar:
    value = Decimal(price)
    moment = START + timedelta(hours=hour)
    return OHLCVBar("BTCUSDT", "binance", "1h", moment, value, value, value, value, Decimal(1), **other)


async def count_bars(db: DatabaseManager) -> int:
    async with db.get_session() as session:
        return int(await session.scalar(text("SELECT count(*) FROM ohlcv")))


async def messages(db: DatabaseManager) -> list[str]:
    return [event.message for event in await SystemEventRepository(db).get_recent_events()]


async def test_the_tables_that_a_session_wrote_are_freed_before_its_commit(duckdb_tables_url: str) -> None:
    # the tables share no memory with each other
    tables = [to_rows(OHLCV, [bar(hour + first) for hour in range(5_000)]) for first in range(0, 30_000, 5_000)]
    size = tables[0].nbytes
    async with DatabaseManager(duckdb_tables_url) as db, db.get_session() as session:
        await OHLCVRepository(session).write_arrow(tables[0])
        before = pa.total_allocated_bytes()
        for table in tables[1:]:
            await OHLCVRepository(session).write_arrow(table)
        kept = pa.total_allocated_bytes() - before
    # most of a written table's memory is the caller's table
    assert kept < size / 2, f"writes of five tables of {size:,} bytes kept {kept:,} bytes in memory until the commit"


@pytest_asyncio.fixture
async def db(duckdb_tables_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(duckdb_tables_url) as manager:
        yield manager


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.duckdb"


@pytest_asyncio.fixture
async def holder(path: Path) -> AsyncIterator[Process]:
    """Another process that holds the file until its input ends."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _HOLDER, str(path), stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    await process.stdout.readline()
    yield process
    await process.communicate(b"")


async def test_of_two_managers_that_insert_one_key_at_once_exactly_one_wins(db: DatabaseManager, duckdb_url: str) -> None:
    async with DatabaseManager(duckdb_url) as other:
        results = await asyncio.gather(
            *(OHLCVRepository(manager).insert_many([bar()]) for manager in (db, other, db, other)), return_exceptions=True
        )

    assert sorted(type(result).__name__ for result in results) == ["IntegrityError"] * 3 + ["int"]
    assert await count_bars(db) == 1


async def test_managers_in_different_event_loops_share_the_write_lock(db: DatabaseManager, duckdb_url: str) -> None:
    async def insert_elsewhere() -> int:
        async with DatabaseManager(duckdb_url) as other:
            return await OHLCVRepository(other).insert_many([bar()])

    async with db.get_session() as session:
        await OHLCVRepository(session).insert_many([bar()])
        elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, insert_elsewhere()))
        await OHLCVRepository(session).insert_many([bar(1)])

    with pytest.raises(IntegrityError, match="already stored"):
        await elsewhere
    assert await count_bars(db) == 2


async def test_a_writer_whose_wait_times_out_gets_the_name_of_the_other(db: DatabaseManager, duckdb_url: str) -> None:
    async with DatabaseManager(f"{duckdb_url}?busy_timeout=0.01") as other, db.get_session() as session:
        await OHLCVRepository(session).insert_many([bar()])

        with pytest.raises(OperationalError, match="another session of this process is writing"):
            await as_stranger(OHLCVRepository(other).insert_many([bar(1)]))
        with pytest.raises(OperationalError, match="another session of this process is writing"):
            await as_stranger(other.create_tables())


async def test_readers_continue_while_a_session_writes(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        await OHLCVRepository(session).insert_many([bar()])

        assert await count_bars(db) == 0


async def test_a_file_that_another_process_holds_names_the_holder(duckdb_url: str, holder: Process) -> None:
    with pytest.raises(OperationalError, match=f"another process has it open: .*PID {holder.pid}"):
        await DatabaseManager(f"{duckdb_url}?connect_timeout=0.1").connect()


async def test_a_second_manager_keeps_the_file_closed_to_other_processes(db: DatabaseManager, duckdb_url: str) -> None:
    async with DatabaseManager(duckdb_url):
        program, path = "import sys, duckdb; duckdb.connect(sys.argv[1])", duckdb_url.removeprefix("duckdb:///")
        other = await asyncio.create_subprocess_exec(sys.executable, "-c", program, path, stderr=asyncio.subprocess.PIPE)
        _, said = await other.communicate()
    assert b"Conflicting lock" in said


async def test_connect_waits_for_a_file_that_another_process_gives_back(duckdb_url: str, holder: Process) -> None:
    db = DatabaseManager(f"{duckdb_url}?connect_timeout=60")
    connecting = asyncio.create_task(db.connect())
    await holder.communicate(b"")

    await connecting
    await db.disconnect()


def test_a_holder_that_duckdb_does_not_name_is_still_a_holder() -> None:
    error = cannot_open_error("a.duckdb", duckdb.IOException("Could not set lock on file"))

    assert "another process has it open: a process that DuckDB does not name" in str(error)


def test_a_damaged_file_is_called_one(duckdb_url: str, path: Path) -> None:
    path.write_bytes(b"no database")

    with pytest.raises(OperationalError, match="damaged or not a DuckDB database"):
        asyncio.run(DatabaseManager(duckdb_url).connect())


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperationalError, match=r"cannot open .*missing.*No such file or directory"):
        await DatabaseManager(f"duckdb:///{tmp_path}/missing/store.duckdb").connect()


async def test_one_process_cannot_open_a_file_with_different_options(db: DatabaseManager, duckdb_url: str) -> None:
    with pytest.raises(OperationalError, match="open with other options"):
        await DatabaseManager(f"{duckdb_url}?threads=1").connect()


async def test_a_new_file_and_its_log_belong_only_to_the_owner(db: DatabaseManager, path: Path) -> None:
    async with db.get_session() as session:
        await session.execute(text("CHECKPOINT"))
    await OHLCVRepository(db).insert_many([bar()])

    assert {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {
        path.name: 0o600,
        f"{path.name}.wal": 0o600,
        f"{path.name}.tmp": 0o700,
    }


async def test_a_read_only_manager_reads_and_refuses_to_write(duckdb_url: str) -> None:
    async with DatabaseManager(duckdb_url) as writer:
        await writer.create_tables()
        await OHLCVRepository(writer).insert_many([bar()])

    async with DatabaseManager(f"{duckdb_url}?access_mode=read_only") as reader:
        assert await count_bars(reader) == 1
        with pytest.raises(OperationalError, match="read-only"):
            await OHLCVRepository(reader).insert_many([bar(1)])


@pytest.mark.parametrize(
    "query",
    [
        "nothing=1",
        "threads=0",
        "threads=many",
        "access_mode=write",
        "memory_limit=much",
        "busy_timeout=-1",
        "busy_timeout=inf",
        "connect_timeout=soon",
    ],
)
def test_an_unknown_option_or_value_is_refused_with_the_known_ones(query: str) -> None:
    with pytest.raises(URLError, match=r"access_mode, threads, memory_limit, temp_directory, busy_timeout, connect_timeout"):
        DatabaseManager(f"duckdb:///store.duckdb?{query}")


@pytest.mark.parametrize(
    "url", ["duckdb://store.duckdb", "duckdb:///a.duckdb?threads=1&threads=2", "duckdb:///:memory:?access_mode=read_only"]
)
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(URLError):
        DatabaseManager(url)


async def test_options_reach_duckdb(tmp_path: Path) -> None:
    url = f"duckdb:///{tmp_path}/a.duckdb?threads=1&memory_limit=512MiB&temp_directory={tmp_path}/spill"
    names = ("threads", "memory_limit", "temp_directory", "TimeZone", "autoload_known_extensions", "autoinstall_known_extensions")
    async with DatabaseManager(url) as db, db.get_session() as session:
        query = text("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))

        settings = (await session.execute(query)).one()

    assert settings == (1, "512.0 MiB", f"{tmp_path}/spill", "UTC", False, False)


@pytest.mark.parametrize("url", ["duckdb://", "duckdb:///:memory:"])
async def test_a_database_in_memory_is_one_for_its_manager_and_no_other(url: str) -> None:
    async with DatabaseManager(url) as first, DatabaseManager(url) as second:
        await first.create_tables()
        await OHLCVRepository(first).insert_many([bar()])

        assert await count_bars(first) == 1
        with pytest.raises(SchemaError):
            await OHLCVRepository(second).insert_many([bar()])


async def test_a_cancelled_write_leaves_nothing_and_frees_the_lock(db: DatabaseManager) -> None:
    async def write() -> None:
        async with db.get_session() as session:
            await SystemEventRepository(session).log_event("a", "info", "before")
            began.set()
            await session.execute(SLOW_WRITE)

    began = asyncio.Event()
    task = asyncio.create_task(write())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await SystemEventRepository(db).log_event("a", "info", "after")
    assert await messages(db) == ["after"]


async def test_a_write_that_timed_out_inside_a_session_is_not_lost_silently(db: DatabaseManager) -> None:
    async def work() -> None:
        async with db.get_session() as session:
            await SystemEventRepository(session).log_event("a", "info", "before")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await session.execute(SLOW_WRITE)

    with pytest.raises(OperationalError, match=r"rolled back after an error: a statement was interrupted"):
        await work()

    assert await messages(db) == []


async def test_a_read_that_timed_out_before_the_first_write_loses_nothing(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await session.execute(SLOW)
        await SystemEventRepository(session).log_event("a", "info", "kept")

    assert await messages(db) == ["kept"]


async def test_a_caught_error_in_a_transaction_is_named_by_what_follows_and_by_the_exit(db: DatabaseManager) -> None:
    async def work() -> None:
        async with db.get_session() as session:
            await SystemEventRepository(session).log_event("a", "info", "before")
            with pytest.raises(OperationalError):
                await session.execute(text("SELECT * FROM nothing_there"))
            with pytest.raises(OperationalError, match="nothing_there"):
                await SystemEventRepository(session).get_recent_events()
            with pytest.raises(OperationalError, match="nothing_there"):
                await session.commit()

    with pytest.raises(OperationalError, match=r"rolled back after an error: .*nothing_there"):
        await work()

    assert await messages(db) == []


async def test_after_a_rollback_a_session_continues(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        await SystemEventRepository(session).log_event("a", "info", "before")
        with pytest.raises(OperationalError):
            await session.execute(text("SELECT * FROM nothing_there"))
        await session.rollback()
        await SystemEventRepository(session).log_event("a", "info", "after")

    assert await messages(db) == ["after"]


async def test_an_error_of_a_read_before_the_first_write_loses_nothing(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        with pytest.raises(OperationalError, match="nothing_there"):
            await session.execute(text("SELECT * FROM nothing_there"))
        await SystemEventRepository(session).log_event("a", "info", "kept")

    assert await messages(db) == ["kept"]


async def test_a_constraint_that_raw_sql_breaks_is_an_integrity_error_without_the_value(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        with pytest.raises(IntegrityError) as caught:
            await session.execute(
                text("INSERT INTO system_events (event_type, severity, message) VALUES ('a', :severity, 'b')"),
                {"severity": "secret"},
            )
        await session.rollback()

    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, duckdb.ConstraintException)


async def test_a_value_that_does_not_convert_is_not_shown(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        with pytest.raises(OperationalError) as caught:
            await session.execute(text("SELECT CAST(:value AS INTEGER)"), {"value": "secret"})

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("sql", ["BEGIN", "COMMIT", "SELECT 1; SELECT 2", ""])
async def test_transactions_and_several_statements_are_refused(db: DatabaseManager, sql: str) -> None:
    async with db.get_session() as session:
        with pytest.raises(Unsupported):
            await session.execute(text(sql))


async def test_plain_text_is_no_statement(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        with pytest.raises(ObjectNotExecutableError):
            await session.execute("SELECT 1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_select_that_writes_takes_the_write_lock_and_rolls_back(db: DatabaseManager) -> None:
    values = "INSERT INTO system_events (event_type, severity, message) VALUES ('a', 'info', 'b') RETURNING id"
    async with db.get_session() as session:
        await session.execute(text(f"WITH written AS ({values}) SELECT id FROM written"))
        await session.rollback()

    assert await messages(db) == []


async def test_values_come_back_as_what_python_has_for_them(db: DatabaseManager) -> None:
    query = text(
        "SELECT :moment, 170141183460469231731687303715884105727::HUGEINT, INTERVAL 1 DAY, NULL::HUGEINT, NULL::TIMESTAMPTZ"
    )
    async with db.get_session() as session:
        row = (await session.execute(query, {"moment": START})).one()

    assert row == (START, 170141183460469231731687303715884105727, timedelta(days=1), None, None)
    assert row[0].tzinfo is UTC


async def test_core_statements_are_executed_and_their_values_decoded(db: DatabaseManager) -> None:
    rows = [{"event_type": "a", "severity": "info", "message": name, "details": {"name": name}} for name in ("one", "two")]
    async with db.get_session() as session:
        written = await session.execute(insert(EVENTS), rows)
        query = select(EVENTS.c.message, EVENTS.c.details).where(EVENTS.c.message.in_(["one", "two"]))
        found = await session.execute(query.order_by(EVENTS.c.message))
        count = await session.execute(select(func.count()).select_from(BARS))

    assert written.all() == []
    assert list(map(tuple, found.all())) == [("one", {"name": "one"}), ("two", {"name": "two"})]
    assert count.scalar() == 0


async def test_tiny_and_missing_decimals_come_back_exactly(db: DatabaseManager) -> None:
    given = [bar(0, "0.000000000000000001", quote_volume=Decimal(0)), bar(1, "0.00000015"), bar(2, "1200")]
    await OHLCVRepository(db).insert_many(given)

    stored = await OHLCVRepository(db).get_latest("BTCUSDT", "1h")

    assert [str(item.open) for item in reversed(stored)] == ["1E-18", "1.5E-7", "1200"]
    assert [item.quote_volume for item in stored] == [None, None, Decimal(0)]


async def test_sessions_beyond_the_pool_wait_for_a_place(duckdb_url: str) -> None:
    async with DatabaseManager(duckdb_url, pool_size=1, max_overflow=0) as db:
        await db.create_tables()

        await asyncio.gather(*(OHLCVRepository(db).insert_many([bar(hour)]) for hour in range(5)))

        assert await count_bars(db) == 5


async def test_disconnecting_rolls_open_sessions_back_and_lets_go_of_the_file(duckdb_url: str, path: Path) -> None:
    db = DatabaseManager(duckdb_url)
    await db.connect()
    await db.create_tables()

    async def work() -> None:
        async with db.get_session() as session:
            await SystemEventRepository(session).log_event("a", "info", "lost")
            await db.disconnect(grace=0.1)

    with pytest.raises(OperationalError, match="the manager was disconnected"):
        await work()

    with duckdb.connect(str(path), config={"threads": 1}) as raw:
        assert raw.sql("SELECT count(*) FROM system_events").fetchall() == [(0,)]


async def test_tables_that_vanish_are_a_schema_error_that_names_the_command(db: DatabaseManager) -> None:
    await count_bars(db)
    await OHLCVRepository(db).insert_many([bar()])
    async with db.get_session() as session:
        await session.execute(text("DROP TABLE ohlcv"))

    with pytest.raises(SchemaError, match="iftb-store migrate"):
        await OHLCVRepository(db).get_latest("BTCUSDT", "1h")


async def test_migration_work_that_fails_is_rolled_back_and_mapped(db: DatabaseManager) -> None:
    def work(connection: Any) -> None:
        connection.execute(text("DROP TABLE ohlcv"))
        connection.execute(text("SELECT * FROM nothing_there"))

    with pytest.raises(OperationalError, match="nothing_there"):
        await db.ability(SupportsMigrations).with_connection(work)

    assert await count_bars(db) == 0


async def test_echo_logs_statements_without_parameters(duckdb_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with DatabaseManager(duckdb_url, echo=True) as db, db.get_session() as session:
        await session.execute(text("SELECT :value"), {"value": "secret"})

    assert "SELECT $1" in caplog.messages
    assert "secret" not in caplog.text


async def test_a_permit_goes_to_the_one_who_waited_longest() -> None:
    semaphore, order = FairSemaphore(), list[int]()

    async def pass_through(number: int) -> None:
        await semaphore.acquire(60)
        order.append(number)
        semaphore.release()

    await semaphore.acquire(0)
    waiting = [asyncio.create_task(pass_through(number)) for number in range(5)]
    await asyncio.sleep(0)
    semaphore.release()
    await asyncio.gather(*waiting)

    assert order == [0, 1, 2, 3, 4]


async def test_a_permit_given_to_a_task_that_is_cancelled_goes_to_the_next() -> None:
    semaphore = FairSemaphore()
    await semaphore.acquire(0)
    first, second = (asyncio.create_task(semaphore.acquire(60)) for _ in range(2))
    await asyncio.sleep(0)
    semaphore.release()
    first.cancel()

    assert await second


def test_one_file_has_one_write_lock() -> None:
    lock = write_lock("/a")

    assert write_lock("/a") is lock
    assert write_lock("/b") is not lock


@pytest.mark.parametrize("engine", ["sqlite", "nobody"])
async def test_a_file_of_another_kind_is_refused_without_a_download(tmp_path: Path, engine: str) -> None:
    foreign = tmp_path / "foreign.duckdb"
    content = {"sqlite": b"SQLite format 3\0" + bytes(4080), "nobody": b"not a database\n" * 1000}[engine]
    await asyncio.to_thread(foreign.write_bytes, content)
    with pytest.raises(OperationalError, match=r"foreign\.duckdb") as refused:
        await DatabaseManager(f"duckdb:///{foreign}").connect()
    assert "sqlite_scanner" not in str(refused.value)
