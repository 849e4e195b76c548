"""Prepared statements behind PgBouncer in transaction mode: without the option the error names it; no answer is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, OHLCVRepository, TradeRepository, TransientError
from iftb_store.testing.samples import hourly, trade
from tests.pgbouncer.bouncer import running

_START, _END = hourly(1)[0].timestamp, hourly(400)[-1].timestamp
_OPTION = r"prepared statement .* does not exist.*statement_cache_size=0"

_CALLS: dict[str, Callable[[DatabaseManager], Awaitable[object]]] = {
    "a read": lambda db: TradeRepository(db).get_recent(),
    "many bars": lambda db: OHLCVRepository(db).get_range("BTCUSDT", "1h", _START, _END),
    "Arrow": lambda db: OHLCVRepository(db).read_arrow("BTCUSDT", "1h", _START, _END),
    "a write": lambda db: OHLCVRepository(db).upsert_many(hourly(2)),
    "raw SQL": lambda db: db.run(lambda session: session.execute(text("SELECT 1"))),
}


@pytest.mark.parametrize("call", _CALLS)
async def test_a_statement_prepared_on_another_server_connection_names_the_option(
    postgres_server: str, database: str, call: str
) -> None:
    with running(postgres_server, "transaction") as bouncer:
        async with DatabaseManager(bouncer.through(database)) as db:
            await db.create_tables()
            await _CALLS[call](db)
            other = await asyncpg.connect(bouncer.through(database), statement_cache_size=0)
            # uses the only server connection so far
            await other.execute("BEGIN")
            with pytest.raises(OperationalError, match=_OPTION) as caught:
                await _CALLS[call](db)
            assert not isinstance(caught.value, TransientError)
            await other.close()


async def test_every_read_is_right_with_the_option_whichever_server_connection_runs_it(transaction_url: str) -> None:
    async with DatabaseManager(transaction_url) as db:
        await db.create_tables()
        bars, trades = OHLCVRepository(db), TradeRepository(db)
        await bars.insert_many(hourly(400))
        await trades.insert(trade())
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await (await stack.enter_async_context(db.get_session())).execute(text("SELECT 1"))
        pids = set()
        for _ in range(6):
            assert len(await bars.get_range("BTCUSDT", "1h", _START, _END)) == 400
            assert (await bars.read_arrow("BTCUSDT", "1h", _START, _END)).num_rows == 400
            assert len(await trades.get_recent()) == 1
            async with db.get_session() as session:
                pids.add(await session.scalar(text("SELECT pg_backend_pid()")))
        assert len(pids) > 1


def test_a_process_meets_no_statement_of_another_by_its_name(postgres_server: str, database: str) -> None:
    with running(postgres_server, "transaction", default_pool_size="1") as bouncer:
        program = f"""
import asyncio
from iftb_store import DatabaseManager, TradeRepository
async def main():
    async with DatabaseManager({bouncer.through(database)!r}) as db:
        await db.create_tables()
        print(await TradeRepository(db).get_recent())
asyncio.run(main())
"""
        for _ in range(2):
            process = subprocess.run(
                [sys.executable, "-c", program], env={**os.environ}, capture_output=True, text=True, timeout=60, check=False
            )
            assert (process.stdout, process.stderr) == ("[]\n", "")


async def test_clients_take_turns_with_the_staging_table_of_one_connection(postgres_server: str, database: str) -> None:
    with running(postgres_server, "transaction", default_pool_size="1") as bouncer:
        url = bouncer.through(database, statement_cache_size="0")
        async with DatabaseManager(url) as one, DatabaseManager(url) as other:
            await one.create_tables()
            for number in range(1, 4):
                await OHLCVRepository(one).upsert_many(hourly(500, symbol="A", volume=number))
                await OHLCVRepository(other).upsert_many(hourly(400, symbol="B", volume=number))
            for symbol, count in (("A", 500), ("B", 400)):
                found = await OHLCVRepository(other).get_latest(symbol, "1h", 1_000)
                assert [bar.volume for bar in found] == [3] * count
