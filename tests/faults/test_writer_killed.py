"""A writer is killed with SIGKILL at a random moment: acknowledged sessions are stored completely, others so or not at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from itertools import count
from multiprocessing.connection import Connection

import pytest

from iftb_store import DatabaseManager
from iftb_store.cli import main
from tests.faults import linked
from tests.faults.children import forkserver
from tests.faults.rounds import rounds
from tests.faults.tally import PATIENCE, Tally

FAULT = "writer killed"

# the kill falls between the opening of the database and this many sessions
_SESSIONS = 4
# about two sessions' time, so that every part of one is struck
_MOMENT = 0.02


def write_until_killed(url: str, first: int, acknowledged: Connection) -> None:
    """The child: commit one linked session after the other, and acknowledge each."""

    async def write() -> None:
        async with DatabaseManager(url) as db:
            for number in count(first):
                async with db.get_session() as session:
                    await linked.write(session, number)
                acknowledged.send(number)

    asyncio.run(write())


def killed_at_random(url: str, first: int, chance: random.Random) -> Iterator[int]:
    """Start a writer, kill it, and yield the numbers that it acknowledged."""
    ours, theirs = forkserver().Pipe(duplex=False)
    writer = forkserver().Process(target=write_until_killed, args=(url, first, theirs), daemon=True)
    writer.start()
    theirs.close()
    try:
        for _ in range(chance.randint(0, _SESSIONS)):
            if not ours.poll(PATIENCE):
                raise TimeoutError("the writer acknowledged nothing")
            yield ours.recv()
        writer.join(chance.uniform(0, _MOMENT))
        assert writer.is_alive(), "the writer ended by itself"
    finally:
        writer.kill()
        writer.join()
    while ours.poll():
        try:
            yield ours.recv()
        except EOFError:
            break


@pytest.mark.timeout(7_200)
def test_acknowledged_sessions_are_complete_and_others_complete_or_absent(url: str, tally: Tally) -> None:
    chance = random.Random(20_240_315)
    assert main(["migrate", url]) == 0
    every: set[int] = set()
    first = 0
    for _ in range(rounds(FAULT)):
        with tally.round():
            acknowledged = set(killed_at_random(url, first, chance))
            linked.judge(tally, asyncio.run(stored(url, first)), acknowledged)
            assert main(["status", url]) == 0
            every |= acknowledged
            # the last session may be stored
            first = max(acknowledged, default=first - 1) + 2
    linked.judge(tally, asyncio.run(stored(url, 0)), every)
    assert every


async def stored(url: str, first: int) -> dict[int, linked.Counts]:
    async with DatabaseManager(url) as db:
        return await linked.found(db, first)
