"""db.run on SQLite and DuckDB: real locked files and conflicts, caused by connections of other programs."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from sqlalchemy import make_url

from iftb_store import DatabaseManager, Trade, TradeRepository, TransientError
from tests.support.strangers import as_stranger


def trade(trade_id: str = "T-1") -> Trade:
    return Trade(trade_id, "BTCUSDT", "binance", "long", "open", Decimal(1), Decimal(1), datetime(2024, 1, 1, tzinfo=UTC))


@contextmanager
def writing(sqlite_url: str, lock: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """Hold the write lock of an SQLite file, as another program would."""
    with closing(sqlite3.connect(str(make_url(sqlite_url).database), isolation_level=None)) as other:
        other.execute(f"BEGIN {lock}")
        yield other


async def test_a_locked_sqlite_file_is_a_transient_error(sqlite_url: str) -> None:
    async with DatabaseManager(f"{sqlite_url}?timeout=0") as db:
        await db.create_tables()
        with writing(sqlite_url), pytest.raises(TransientError, match="locked by another writer"):
            await db.run(lambda session: TradeRepository(session).insert(trade()), retries=0)
        assert db.in_use == 0


async def test_a_file_that_another_program_writes_is_opened_when_that_is_done(sqlite_url: str) -> None:
    # the file has no write-ahead log yet, and SQLite's busy timeout does not cover the switch to it
    with writing(sqlite_url) as other:
        asyncio.get_running_loop().call_later(0.1, other.execute, "COMMIT")
        async with DatabaseManager(sqlite_url) as db:
            await db.create_tables()
            assert not other.in_transaction


async def test_opening_a_file_that_another_program_writes_is_an_error_after_a_timeout(sqlite_url: str) -> None:
    with writing(sqlite_url), pytest.raises(TransientError, match="locked by another writer"):
        await DatabaseManager(f"{sqlite_url}?timeout=0.05").connect()


@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
async def test_opening_a_file_that_another_program_writes_ends_with_a_cancellation(sqlite_url: str, lock: str) -> None:
    with writing(sqlite_url, lock):
        opening = asyncio.create_task(DatabaseManager(f"{sqlite_url}?timeout=3600").connect())
        await asyncio.wait([opening], timeout=0.1)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening


async def test_run_runs_again_until_another_program_lets_go_of_a_sqlite_file(sqlite_url: str) -> None:
    runs = 0
    async with DatabaseManager(f"{sqlite_url}?timeout=0") as db:
        await db.create_tables()
        with writing(sqlite_url) as other:

            async def work(session: Any) -> int:
                nonlocal runs
                runs += 1
                if runs == 3:
                    other.execute("ROLLBACK")
                return await TradeRepository(session).insert(trade())

            number = await db.run(work)
        assert (runs, [found.id for found in await TradeRepository(db).get_recent()]) == (3, [number])


async def test_a_lock_wait_that_is_over_on_duckdb_is_a_transient_error(duckdb_url: str) -> None:
    async with DatabaseManager(duckdb_url) as db, DatabaseManager(f"{duckdb_url}?busy_timeout=0") as hasty:
        await db.create_tables()
        async with db.get_session() as session:
            await TradeRepository(session).insert(trade())
            with pytest.raises(TransientError, match="is writing"):
                await as_stranger(hasty.run(lambda other: TradeRepository(other).insert(trade("T-2")), retries=0))


async def test_run_runs_again_after_a_conflict_on_duckdb(duckdb_url: str) -> None:
    runs = 0
    async with DatabaseManager(duckdb_url) as db:
        await db.create_tables()
        number = await TradeRepository(db).insert(trade())
        # the app's own connection to the same database does not take the manager's lock
        with closing(duckdb.connect(str(make_url(duckdb_url).database), config=_CONFIG)) as other:
            other.begin()
            other.execute("DELETE FROM trades")

            async def work(session: Any) -> None:
                nonlocal runs
                runs += 1
                if runs == 2:
                    other.rollback()
                await TradeRepository(session).update(number, exit_price=Decimal(2))

            await db.run(work)
        found = await TradeRepository(db).get_by_id(number)
    assert runs == 2
    assert found is not None
    assert found.exit_price == Decimal(2)


async def test_an_isolated_session_reads_a_read_only_duckdb(duckdb_url: str) -> None:
    async with DatabaseManager(duckdb_url) as db:
        await db.create_tables()
        await TradeRepository(db).insert(trade())
    async with DatabaseManager(f"{duckdb_url}?access_mode=read_only") as db:
        found = await db.run(lambda session: TradeRepository(session).get_recent(), isolation="serializable")
    assert len(found) == 1


# like the manager: DuckDB shares a file only between connections of the same configuration
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}
