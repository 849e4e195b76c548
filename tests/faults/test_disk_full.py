"""The disk is full: a clear error, the file still opens, every earlier commit is complete, and writes resume with more space."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iftb_store import DatabaseManager
from iftb_store.cli import main
from iftb_store.testing import raw
from tests.faults import limits, linked
from tests.faults.children import forkserver
from tests.faults.rounds import rounds
from tests.faults.tally import PATIENCE, Tally

FAULT = "disk full"

_SUFFIX = {"sqlite": "db", "duckdb": "duckdb"}
# enough for the tables of either engine and some sessions
_ROOM = 2_000_000
_CLEAR = r"disk|full|limit|space|File too large"

pytestmark = pytest.mark.timeout(7_200)


@pytest.fixture
def engine(file_engine: str) -> str:
    return file_engine


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, int | None]]:
    """A directory that is soon full: (directory, None), or if nothing can be mounted, (directory, file size limit)."""
    with limits.small_disk(tmp_path / "disk", str(_ROOM)) as mounted:
        yield tmp_path / "disk", None if mounted else _ROOM


@pytest.fixture
def limited(tmp_path: Path) -> tuple[Path, int | None]:
    """A directory, and the limit that a child gets for each file in it."""
    return tmp_path, _ROOM


@pytest.mark.one_of_each
@pytest.mark.parametrize("place", ["disk", "limited"])
def test_a_full_disk_is_a_clear_error_and_what_was_committed_is_whole(
    engine: str, place: str, request: pytest.FixtureRequest, tally: Tally
) -> None:
    folder, limit = request.getfixturevalue(place)
    for _ in range(rounds(FAULT)):
        url = f"{engine}:///{folder / f'bot{tally.rounds}.{_SUFFIX[engine]}'}"
        with tally.round():
            assert main(["migrate", url]) == 0
            *acknowledged, error = answers_of(limits.write_until_full, url, tally.rounds, limit)
            assert acknowledged
            if not clear(error):
                tally.note("lost", f"the error is not clear: {error}")
            if place == "disk" and limit is None:
                limits.grow(folder, str(_ROOM + 1_000_000))
            linked.judge(tally, asyncio.run(open_and_write(url, 1_000_000)), {*acknowledged, 1_000_000})
            assert main(["status", url]) == 0
        for file in folder.glob("bot*"):
            file.unlink()
        if place == "disk" and limit is None:
            limits.grow(folder, str(_ROOM))


@pytest.mark.one_of_each
def test_an_import_onto_a_full_disk_keeps_only_whole_files(engine: str, tmp_path: Path, tally: Tally) -> None:
    # two batches per file; the limits differ by a part of a file, so that the disk is full in either batch
    bars = 10_000
    files = [dump(tmp_path, f"S{index}USDT", bars) for index in range(5)]
    for limit in range(_ROOM, 2 * _ROOM, _ROOM // 4):
        url = f"{engine}:///{tmp_path / f'bot{limit}.{_SUFFIX[engine]}'}"
        assert main(["migrate", url]) == 0
        with tally.round():
            ((code, out, err),) = answers_of(limits.import_until_full, url, files, limit)
            if code != 1 or not clear(err):
                tally.note("lost", f"exit code {code}: {err}")
            stored = asyncio.run(bars_by_symbol(url))
            for symbol, count in stored.items():
                if count != bars or f"{symbol}-1m" not in out:
                    tally.note("lost", f"{count} bars of {symbol} are stored; the command said {out}")
            assert len(stored) < len(files)


async def bars_by_symbol(url: str) -> dict[str, int]:
    async with DatabaseManager(url) as db:
        rows = await raw.fetch(db, "SELECT symbol, count(*) FROM ohlcv GROUP BY symbol")
    return {symbol: int(count) for symbol, count in rows}


def clear(error: object) -> bool:
    return isinstance(error, str) and not error.startswith("not ours") and re.search(_CLEAR, error) is not None


async def open_and_write(url: str, number: int) -> dict[int, linked.Counts]:
    async with DatabaseManager(url) as db:
        async with db.get_session() as session:
            await linked.write(session, number)
        return await linked.found(db)


def answers_of(work: Callable[..., None], url: str, what: Any, limit: int | None) -> list[Any]:
    """Run a child and return all that it sent."""
    ours, theirs = forkserver().Pipe(duplex=False)
    child = forkserver().Process(target=work, args=(url, what, limit, theirs), daemon=True)
    child.start()
    theirs.close()
    answers: list[Any] = []
    try:
        while True:
            if not ours.poll(PATIENCE):
                raise TimeoutError("the child neither wrote nor failed")
            answers.append(ours.recv())
    except EOFError:
        pass
    finally:
        child.kill()
        child.join()
    assert answers, "the child died without an answer"
    return answers


def dump(folder: Path, symbol: str, bars: int) -> str:
    """Write a dump of one-minute candles as Binance publishes them, and return its name."""
    path = folder / f"{symbol}-1m-2024-02.csv"
    minute, first = 60_000, 1_706_745_600_000
    rest = "42000.1,42100.2,41900.3,42050.4,12.5,{},525000.5,100,6,2,0"
    times = range(first, first + bars * minute, minute)
    path.write_text("".join(f"{time},{rest.format(time + minute - 1)}\n" for time in times))
    return str(path)
