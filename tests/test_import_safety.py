"""Imports beside a running bot, and rows that contradict each other: nothing is lost without a word."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.exc import IntegrityError

from iftb_store import DatabaseManager, TradeRepository
from iftb_store.files.exporting import export
from iftb_store.files.hints import Hints
from iftb_store.files.importing import Source, import_file
from iftb_store.scope import Scope
from iftb_store.testing import raw
from iftb_store.testing.samples import Clock, trade
from tests.test_postgres_bulk import until_blocked


async def exported(db: DatabaseManager, path: Path) -> Source:
    """Store a trade of the id 1, export it and delete it."""
    await TradeRepository(db, clock=Clock()).insert(trade("FILE"))
    await export(db, Scope(["trades"]), path)
    await raw.run(db, "DELETE FROM trades")
    return Source(path, Hints())


async def test_a_trade_that_the_bot_has_under_way_is_not_overwritten(postgres_url: str, tmp_path: Path) -> None:
    admin = await asyncpg.connect(postgres_url)
    async with DatabaseManager(postgres_url) as db:
        await db.create_tables()
        source = await exported(db, tmp_path / "trades.parquet")
        await raw.run(db, "ALTER SEQUENCE trades_id_seq RESTART")

        async with db.get_session() as session:
            await TradeRepository(session).insert(trade("BOT"))
            importing = asyncio.create_task(import_file(db, source))
            await until_blocked(admin, importing)

        with pytest.raises(IntegrityError, match="the id 1 belongs to another row"):
            await importing
        assert [stored.trade_id for stored in await TradeRepository(db).get_recent()] == ["BOT"]
    await admin.close()


async def test_a_trade_is_known_again_by_its_trade_id_too(url: str, tmp_path: Path) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        source = await exported(db, tmp_path / "trades.parquet")
        await import_file(db, source)
        await raw.run(db, "UPDATE trades SET trade_id = 'OTHER'")

        with pytest.raises(IntegrityError, match="the id 1 belongs to another row"):
            await import_file(db, source)
