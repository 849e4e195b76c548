"""The doctor's report is reliable: every warning can be resolved, no remedy undoes another, commands run as printed."""

from __future__ import annotations

import asyncio
import re
import shlex
from datetime import timedelta

import pytest

from iftb_store import DatabaseManager, OHLCVRepository, TradeRepository
from iftb_store.cli import main
from iftb_store.doctor import examine
from iftb_store.testing import raw
from iftb_store.testing.samples import T0, bar, trade
from iftb_store.transfer.copy import Copy


async def test_ids_that_a_rollback_left_out_are_no_fault_of_the_copy(postgres_url: str, sqlite_url: str) -> None:
    async with DatabaseManager(postgres_url) as live, DatabaseManager(sqlite_url) as copied:
        for db in (live, copied):
            await db.migrate()
        await TradeRepository(live).insert(trade("A"))
        async with live.get_session() as session:
            await TradeRepository(session).insert(trade("B"))
            await session.rollback()
        await TradeRepository(live).insert(trade("C"))
        await Copy(live, copied).run()

        found = [*await examine(live), *await examine(copied)]

    assert [(finding.severity, finding.kind, finding.rows) for finding in found] == [("note", "missing ids", ("2",))] * 2


async def test_a_sequence_is_never_set_back(postgres_url: str) -> None:
    async with DatabaseManager(postgres_url) as db:
        await db.migrate()
        await TradeRepository(db).insert(trade("A"))
        await raw.run(db, "ALTER SEQUENCE trades_id_seq RESTART WITH 1000")
        (finding,) = [found for found in await examine(db) if found.kind == "sequence behind its ids"]

        for statement in finding.statements:
            await raw.run(db, statement)

        assert await examine(db) == []
        assert await TradeRepository(db).insert(trade("B")) == 1001


async def test_a_printed_command_runs_whatever_the_symbol(sqlite_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with DatabaseManager(sqlite_url) as db:
        await db.migrate()
        names = {"symbol": "--help it's", "exchange": "-e $HOME"}
        await OHLCVRepository(db).insert_many([bar(T0, **names), bar(T0 + timedelta(hours=2), **names)])
        (finding,) = [found for found in await examine(db) if found.kind == "holes"]

    (command,) = re.findall("`(iftb-store gaps .*?)` lists", finding.remedy)
    words = [sqlite_url if word == "URL" else word for word in shlex.split(command)[1:]]

    assert await asyncio.to_thread(main, words) == 0
    assert "1 gap, 1 bar missing" in capsys.readouterr().out


async def test_series_that_are_not_shown_are_counted(url: str) -> None:
    async with DatabaseManager(url) as db:
        await db.migrate()
        hours = (timedelta(minutes=1), timedelta(hours=2))
        await OHLCVRepository(db).insert_many([bar(T0 + hour, symbol=f"S{at}") for at in range(103) for hour in hours])

        found = await examine(db)

    assert [(finding.count, finding.where) for finding in found if finding.kind == "more series"] == [(3, ""), (3, "")]
