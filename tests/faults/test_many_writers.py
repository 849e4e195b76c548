"""Many concurrent writers of one file: SQLite in several processes, DuckDB in tasks and managers of one; counts stay exact."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from iftb_store import DatabaseManager
from tests.faults import linked, writers
from tests.faults.children import forkserver
from tests.faults.rounds import rounds
from tests.faults.tally import PATIENCE, Tally

FAULT = "many writers"

_PROCESSES, _TASKS = 4, 4
# sessions of each task in one round
_SESSIONS = 5

pytestmark = pytest.mark.timeout(7_200)


@pytest.fixture
def engine() -> str:
    return "sqlite"


async def prepare(url: str) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        await writers.begin_count(db)


async def judge(db: DatabaseManager, tally: Tally, numbers: range) -> None:
    linked.judge(tally, await linked.found(db), numbers)
    count = await writers.counted(db)
    if count != len(numbers):
        tally.note("lost", f"the counter says {count}, not {len(numbers)}")


def test_processes_write_one_sqlite_file_and_none_finds_it_locked(sqlite_url: str, tally: Tally) -> None:
    asyncio.run(prepare(sqlite_url))
    size = _TASKS * _SESSIONS
    for _ in range(rounds(FAULT)):
        with tally.round():
            first = (tally.rounds - 1) * _PROCESSES * size
            shares = [range(first + index * size, first + (index + 1) * size) for index in range(_PROCESSES)]
            for outcome in run_processes(sqlite_url, shares):
                if outcome is not None:
                    tally.note("lost", f"a process ended with {outcome}")

    async def look() -> None:
        async with DatabaseManager(sqlite_url) as db:
            await judge(db, tally, range(tally.rounds * _PROCESSES * size))

    asyncio.run(look())


@pytest.mark.one_of_each
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_processes_that_record_and_apply_fills_at_once_lose_none(
    engine: str, request: pytest.FixtureRequest, tally: Tally
) -> None:
    url = str(request.getfixturevalue("postgres_url" if engine == "postgresql" else "sqlite_url"))
    asyncio.run(writers.open_trade(url))
    size = 2 * _TASKS
    for _ in range(rounds(FAULT)):
        with tally.round():
            first = (tally.rounds - 1) * _PROCESSES * size
            # neighbours record half of their fills both, as an exchange that reports fills twice
            shares = [range(first + index * size, first + (index + 1) * size + size // 2) for index in range(_PROCESSES - 1)]
            shares.append(range(first + (_PROCESSES - 1) * size, first + _PROCESSES * size))
            for outcome in run_processes(url, shares, writers.book):
                if outcome is not None:
                    tally.note("lost", f"a process ended with {outcome}")
    counts = asyncio.run(writers.count_booked(url))
    number = tally.rounds * _PROCESSES * size
    if any(count != number for count in counts):
        tally.note("lost", f"{counts} fills are stored and applied, not {number}")


def run_processes(url: str, shares: list[range], target: Callable[..., None] = writers.process) -> list[str | None]:
    """Let one process per share of the numbers write concurrently; return the outcome of each."""
    pipes = [forkserver().Pipe(duplex=False) for _ in shares]
    children = [
        forkserver().Process(target=target, args=(url, share, _TASKS, theirs), daemon=True)
        for share, (_, theirs) in zip(shares, pipes, strict=True)
    ]
    for child in children:
        child.start()
    outcomes: list[str | None] = []
    for ours, theirs in pipes:
        theirs.close()
        if not ours.poll(PATIENCE):
            raise TimeoutError("a writing process did not end")
        outcomes.append(ours.recv())
    for child in children:
        child.join()
    return outcomes


@pytest.mark.one_of_each
@pytest.mark.parametrize("engine", ["duckdb"])
@pytest.mark.parametrize("managers", [1, 2])
async def test_tasks_write_one_duckdb_file_through_one_manager_or_two(duckdb_url: str, tally: Tally, managers: int) -> None:
    await prepare(duckdb_url)
    tasks = 2 * _TASKS // managers
    size = tasks * _SESSIONS
    async with DatabaseManager(duckdb_url) as first, DatabaseManager(duckdb_url) as second:
        for number in range(rounds(FAULT)):
            async with tally.bounded():
                begin = number * managers * size
                await asyncio.gather(
                    *(
                        writers.write_side_by_side(db, range(begin + index * size, begin + (index + 1) * size), tasks)
                        for index, db in enumerate((first, second)[:managers])
                    )
                )
        await judge(first, tally, range(tally.rounds * managers * size))


@pytest.fixture
async def readers(duckdb_url: str) -> AsyncIterator[list[int]]:
    """What three processes read from one DuckDB file that all of them have open at the same time."""
    await prepare(duckdb_url)
    pipes = [forkserver().Pipe() for _ in range(3)]
    children = [
        forkserver().Process(target=writers.reader, args=(f"{duckdb_url}?access_mode=read_only", theirs), daemon=True)
        for _, theirs in pipes
    ]
    for child in children:
        child.start()
    assert all([await asyncio.to_thread(ours.poll, PATIENCE) for ours, _ in pipes])
    yield [ours.recv() for ours, _ in pipes]
    for ours, _ in pipes:
        ours.send("enough")
    for child in children:
        child.join()


async def test_several_processes_read_one_duckdb_file_at_the_same_time(readers: list[int]) -> None:
    assert readers == [0, 0, 0]
