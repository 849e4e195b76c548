"""A copy is killed with SIGKILL at a random moment; run again it resumes, and the destination ends equal to the source."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic

import pytest

from iftb_store import DatabaseManager, OHLCVRepository, SystemEventRepository, TradeRepository
from iftb_store.cli import main
from iftb_store.testing import raw
from iftb_store.testing.samples import hourly, trade
from iftb_store.transfer import plan as partitions
from tests.faults.children import forkserver
from tests.faults.rounds import rounds
from tests.faults.tally import PATIENCE, Tally
from tests.support.filled import fill

FAULT = "copy killed"

# so many transactions per copy that a kill falls between two or into one
_BATCH = 40
_TABLES = ("ohlcv", "trades", "positions", "system_events")
_DAMAGE = (
    ("DELETE FROM {table}",),
    ("DELETE FROM {table} WHERE id % 3 = 0",),
    ("DELETE FROM {table} WHERE id > 20", "UPDATE {table} SET exchange = 'other' WHERE id % 7 = 0"),
)


def copy_until_killed(source: str, destination: str, begun: Connection, *words: str) -> None:
    """The child: copy in small batches."""
    partitions.ROWS = _BATCH
    begun.send(None)
    main(["copy", source, destination, *words])


@pytest.fixture
def source(tmp_path: Path) -> str:
    """URL of a store whose copy takes some forty transactions."""
    url = f"sqlite:///{tmp_path / 'source.db'}"

    async def more() -> None:
        await fill(url)
        async with DatabaseManager(url) as db, db.get_session() as session:
            for name in ("AAA", "BBB", "CCC"):
                await OHLCVRepository(session).insert_many(hourly(300, symbol=name))
            for number in range(300):
                await TradeRepository(session).insert(trade(f"MORE-{number}"))

    asyncio.run(more())
    return url


def copied(source: str, destination: str, after: float | None, *words: str) -> float:
    """Copy in a child that is killed ``after`` so many seconds, or never; return how long it took."""
    ours, theirs = forkserver().Pipe(duplex=False)
    child = forkserver().Process(target=copy_until_killed, args=(source, destination, theirs, *words), daemon=True)
    child.start()
    theirs.close()
    ours.recv()
    begun = monotonic()
    child.join(PATIENCE if after is None else after)
    if after is None and child.is_alive():
        raise TimeoutError("the copy did not end")
    child.kill()
    child.join()
    return monotonic() - begun


def damages() -> Iterator[tuple[str, ...]]:
    while True:
        yield from _DAMAGE


async def damage(url: str, statements: tuple[str, ...]) -> None:
    async with DatabaseManager(url) as db:
        for statement in statements:
            for table in _TABLES:
                await raw.run(db, statement.format(table=table))


@pytest.mark.one_of_each
@pytest.mark.timeout(7_200)
def test_a_killed_copy_resumes_and_ends_equal(url: str, source: str, tally: Tally) -> None:
    chance = random.Random(20_240_315)
    whole = copied(source, url, None, "--delete")
    assert main(["verify", source, url, "--quiet"]) == 0
    for _, statements in zip(range(rounds(FAULT)), damages(), strict=False):
        with tally.round():
            asyncio.run(damage(url, statements))
            copied(source, url, chance.uniform(0, whole), "--delete")
            assert main(["copy", source, url, "--quiet", "--delete"]) == 0
            if main(["verify", source, url]) != 0:
                tally.note("lost", "the copy is not equal")


async def write_own_rows(url: str) -> None:
    """Write rows whose ids are also ids of the source's rows."""
    async with DatabaseManager(url) as db:
        await db.migrate()
        await OHLCVRepository(db).insert_many(hourly(10, symbol="OWN"))
        for number in range(10):
            await TradeRepository(db).insert(trade(f"OWN-{number}", symbol="OWN"))
            await SystemEventRepository(db).log_event("own", "info", str(number), symbol="OWN")


async def count_rows(url: str) -> list[int]:
    async with DatabaseManager(url) as db:
        return [await raw.count(db, table) for table in _TABLES]


@pytest.mark.one_of_each
@pytest.mark.timeout(7_200)
def test_a_killed_copy_into_a_store_with_other_rows_doubles_none(url: str, source: str, tally: Tally) -> None:
    chance = random.Random(20_240_316)
    asyncio.run(write_own_rows(url))
    own, ours = asyncio.run(count_rows(url)), asyncio.run(count_rows(source))
    whole = copied(source, url, None)
    for _ in range(rounds(FAULT)):
        with tally.round():
            asyncio.run(damage(url, ("DELETE FROM {table} WHERE symbol IS NULL OR symbol <> 'OWN'",)))
            copied(source, url, chance.uniform(0, whole))
            # the copy checks that the destination has every row of the source
            assert main(["copy", source, url, "--quiet"]) == 0
            if asyncio.run(count_rows(url)) != [one + two for one, two in zip(own, ours, strict=True)]:
                tally.note("duplicated", "the destination has not the rows of both")
