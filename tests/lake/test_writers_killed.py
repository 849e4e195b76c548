"""One of four writers is killed with SIGKILL at a random moment: acknowledged batches are stored, others whole or not at all."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

import pytest
from sqlalchemy import make_url

from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository
from iftb_store.testing.samples import T0, bar
from tests.faults.children import forkserver
from tests.faults.rounds import rounds
from tests.faults.tally import PATIENCE, Tally

FAULT = "lake writer killed"

_WRITERS = 4
_MINUTE = timedelta(minutes=1)
# a batch replaces the last bars of the one before and adds as many, so that commits both merge and append
_BARS = 20
_MOMENT = 0.4


def write_until_killed(url: str, writer: int, first: int, acknowledged: Connection) -> None:
    """The child: upsert one batch after the other and acknowledge each."""

    async def write() -> None:
        async with DatabaseManager(url) as db:
            for number in count(first):
                await OHLCVRepository(db).upsert_many(batch(writer, number))
                acknowledged.send(number)

    asyncio.run(write())


def batch(writer: int, number: int) -> list[OHLCVBar]:
    """Return the bars of a batch: their volume is its number; half of them are those of the batch before."""
    start = T0 + number * _BARS * _MINUTE
    moments = (start + index * _MINUTE for index in range(-_BARS, _BARS))
    return [bar(moment, symbol=f"W{writer}", timeframe="1m", volume=Decimal(number)) for moment in moments]


def expect(last: int) -> list[int]:
    """Return the volumes of a writer's bars in order of time after the batches up to ``last``."""
    blocks = [min(number + 1, last) for number in range(-1, last + 1)] if last >= 0 else []
    return [volume for volume in blocks for _ in range(_BARS)]


class Writer:
    """One of the writers, which is started anew after each kill."""

    def __init__(self, url: str, number: int) -> None:
        self.number = number
        self._url = url
        self._last = -1
        self._start()

    def _start(self) -> None:
        self._acknowledged, theirs = forkserver().Pipe(duplex=False)
        arguments = (self._url, self.number, self._last + 1, theirs)
        self._process: ForkServerProcess = forkserver().Process(target=write_until_killed, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def await_batches(self, wanted: int) -> None:
        """Wait until more batches are acknowledged."""
        for _ in range(wanted):
            if not self._acknowledged.poll(PATIENCE):
                raise TimeoutError("the writer acknowledged nothing")
            self._last = self._acknowledged.recv()

    def kill(self) -> None:
        """Kill the process, and read what it has acknowledged."""
        assert self._process.is_alive(), "the writer ended by itself"
        self._process.kill()
        self._process.join()
        with suppress(EOFError):
            while self._acknowledged.poll():
                self._last = self._acknowledged.recv()
        self._acknowledged.close()

    def judge(self, tally: Tally) -> None:
        """Count what is wrong with the bars of this writer, which is killed."""
        volumes = asyncio.run(read_volumes(self._url, self.number))
        # the batch after the last acknowledged one may be stored
        found = self._last + 1 if volumes == expect(self._last + 1) else self._last
        if len(volumes) > len(expect(found)):
            tally.note("duplicated", f"writer {self.number} has {len(volumes)} bars after batch {self._last}")
        elif volumes != expect(found):
            tally.note("lost", f"writer {self.number} has {volumes[-3 * _BARS :]} at its end after batch {self._last}")
        self._last = found

    def restart(self) -> None:
        """Let the writer continue."""
        self._start()


async def read_volumes(url: str, writer: int) -> list[int]:
    """Return the volumes of a writer's bars in order of time."""
    async with DatabaseManager(url) as db:
        bars = await OHLCVRepository(db).get_range(f"W{writer}", "1m", T0 - timedelta(days=1), T0 + timedelta(days=3_650))
    return [int(each.volume) for each in bars]


@pytest.mark.timeout(7_200)
@pytest.mark.one_of_each
@pytest.mark.parametrize("place", ["lake_url", "s3_url"])
def test_batches_of_four_writers_are_stored_whole_after_a_kill(place: str, request: pytest.FixtureRequest) -> None:
    # on a busy machine a writer loses to the others many times in a row
    given = make_url(request.getfixturevalue(place)).update_query_dict({"busy_timeout": str(PATIENCE)})
    url = given.render_as_string(hide_password=False)
    tally, chance = Tally(FAULT, place.removesuffix("_url")), random.Random(20_240_315)
    writers = [Writer(url, number) for number in range(_WRITERS)]
    try:
        for _ in range(rounds(FAULT)):
            with tally.round():
                writer = chance.choice(writers)
                writer.await_batches(chance.randint(1, 2))
                time.sleep(chance.uniform(0, _MOMENT))
                writer.kill()
                writer.judge(tally)
                writer.restart()
    finally:
        for writer in writers:
            writer.kill()
    for writer in writers:
        writer.judge(tally)
    tally.close()
