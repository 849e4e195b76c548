"""A copy is killed with SIGKILL at a random moment; run again it resumes, and the destination ends equal to the source."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic

import pytest

from iftb_store import DatabaseManager, OHLCVRepository, TradeRepository
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
_DAMAGE = (
    ("DELETE FROM {table}",),
    ("DELETE FROM {table} WHERE id % 3 = 0",),
    ("DELETE FROM {table} WHERE id > 20", "UPDATE {table} SET exchange = 'other' WHERE id % 7 = 0"),
)


def copy_until_killed(source: str, destination: str, begun: Connection) -> None:
    """The child: copy in small batches."""
    partitions.ROWS = _BATCH
    begun.send(None)
    main(["copy", source, destination, "--delete"])


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


def copied(source: str, destination: str, after: float | None) -> float:
    """Copy in a child that is killed ``after`` so many seconds, or never; return how long it took."""
    ours, theirs = forkserver().Pipe(duplex=False)
    child = forkserver().Process(target=copy_until_killed, args=(source, destination, theirs), daemon=True)
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
            for table in ("ohlcv", "trades", "positions", "system_events"):
                await raw.run(db, statement.format(table=table))


@pytest.mark.one_of_each
@pytest.mark.timeout(7_200)
def test_a_killed_copy_resumes_and_ends_equal(url: str, source: str, tally: Tally) -> None:
    chance = random.Random(20_240_315)
    whole = copied(source, url, None)
    assert main(["verify", source, url, "--quiet"]) == 0
    for _, statements in zip(range(rounds(FAULT)), damages(), strict=False):
        with tally.round():
            asyncio.run(damage(url, statements))
            copied(source, url, chance.uniform(0, whole))
            assert main(["copy", source, url, "--quiet", "--delete"]) == 0
            if main(["verify", source, url]) != 0:
                tally.note("lost", "the copy is not equal")
