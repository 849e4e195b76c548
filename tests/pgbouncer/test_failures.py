"""A server or pooler that fails: iftb-store's errors behind PgBouncer, which has only one SQLSTATE for all its errors."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from iftb_store import CommitOutcomeUnknown, DatabaseManager, TradeRepository, TransientError
from iftb_store.testing.samples import trade
from tests.pgbouncer.bouncer import running

_SLOW_COMMIT = """
    CREATE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(1);
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON trades DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION wait_for_test();
"""
_END_WAITING = """DO $$ DECLARE waiting integer; BEGIN
    LOOP
        SELECT pid INTO waiting FROM pg_locks WHERE locktype = 'advisory' AND NOT granted;
        EXIT WHEN waiting IS NOT NULL;
        PERFORM pg_sleep(0.01);
    END LOOP;
    PERFORM pg_terminate_backend(waiting, 10000);
END $$"""


async def test_a_server_connection_lost_in_a_transaction_is_run_again(pooled_url: str, admin: Any) -> None:
    runs = 0

    async def work(session: Any) -> None:
        nonlocal runs
        runs += 1
        await TradeRepository(session).insert(trade())
        if runs == 1:
            number = await session.scalar(text("SELECT pg_backend_pid()"))
            await admin.execute(f"SELECT pg_terminate_backend({number}, 10000)")

    async with DatabaseManager(pooled_url) as db:
        await db.create_tables()
        await db.run(work)
        assert (runs, len(await TradeRepository(db).get_recent())) == (2, 1)


async def test_a_server_connection_lost_during_commit_leaves_its_outcome_unknown(pooled_url: str, admin: Any) -> None:
    async with DatabaseManager(pooled_url) as db:
        await db.create_tables()
        await admin.execute(_SLOW_COMMIT)
        async with admin.transaction():
            await admin.execute("SELECT pg_advisory_xact_lock(1)")
            writing = asyncio.create_task(TradeRepository(db).insert(trade()))
            await admin.execute(_END_WAITING)
            with pytest.raises(CommitOutcomeUnknown):
                await writing


async def test_a_pooler_without_a_place_left_is_a_transient_error(postgres_server: str, database: str) -> None:
    with running(postgres_server, "session", max_client_conn="2") as bouncer:
        async with DatabaseManager(bouncer.through(database)) as db, db.get_session() as one, db.get_session() as other:
            for session in (one, other):
                await session.execute(text("SELECT 1"))
            with pytest.raises(TransientError, match="no more connections allowed"):
                await db.ping()


async def test_a_database_that_is_not_there_is_no_transient_error(postgres_server: str, database: str) -> None:
    with running(postgres_server, "session") as bouncer:
        with pytest.raises(Exception, match="does not exist") as caught:
            await DatabaseManager(bouncer.through(database.replace("iftb_", "no_"))).connect()
        assert not isinstance(caught.value, TransientError)
