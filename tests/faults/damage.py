"""Damaged, foreign or inaccessible database files, and a child that uses one and reports the outcome."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store import DatabaseManager, OHLCVRepository, StoreError, TradeRepository
from iftb_store.testing.samples import bar, trade

#: A user that exists everywhere and owns nothing.
NOBODY = 65_534

Damage = Callable[[Path, random.Random], None]


def truncated(path: Path, chance: random.Random) -> None:
    """Cut the file off somewhere."""
    os.truncate(path, chance.randrange(path.stat().st_size))


def flipped_in_header(path: Path, chance: random.Random) -> None:
    """Change bytes of the header, which the engine reads first."""
    _flip(path, chance, 0, 4096)


def flipped_in_pages(path: Path, chance: random.Random) -> None:
    """Change bytes after the header."""
    _flip(path, chance, 4096, path.stat().st_size)


def flipped_in_log(path: Path, chance: random.Random) -> None:
    """Change bytes of the log beside the file, which exists after a crash."""
    (log,) = (file for file in path.parent.glob(f"{path.name}*wal"))
    _flip(log, chance, 0, log.stat().st_size)


def truncated_log(path: Path, chance: random.Random) -> None:
    """Cut the log off somewhere."""
    (log,) = (file for file in path.parent.glob(f"{path.name}*wal"))
    truncated(log, chance)


def garbage(path: Path, chance: random.Random) -> None:
    """Replace the file by random bytes."""
    path.write_bytes(chance.randbytes(chance.choice((1, 15, 100, 4096, 20_000))))


def _flip(path: Path, chance: random.Random, first: int, end: int) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 8, 64))):
        content[chance.randrange(first, min(end, len(content)))] ^= chance.randrange(1, 256)
    path.write_bytes(content)


ALL: tuple[Damage, ...] = (truncated, flipped_in_header, flipped_in_pages, flipped_in_log, truncated_log, garbage)


def crash(url: str, done: Connection) -> None:
    """A child that leaves a database like a crash: committed sessions in the file and in its log."""

    async def write() -> None:
        async with DatabaseManager(url) as db:
            await db.create_tables()
            await use(db)
        # closing has moved all of that into the file
        async with DatabaseManager(url) as db:
            await use(db)
            await TradeRepository(db).insert(trade("last"))
            done.send(None)
            await asyncio.Event().wait()

    asyncio.run(write())


async def use(db: DatabaseManager) -> None:
    """Write and read."""
    bars = [bar(symbol=f"S{index}") for index in range(200)]
    await OHLCVRepository(db).upsert_many(bars)
    await OHLCVRepository(db).upsert_many([replace(each, trades_count=7) for each in bars])
    for each in bars[::20]:
        await OHLCVRepository(db).get_range(each.symbol, "1h", each.timestamp, each.timestamp)
    await TradeRepository(db).get_recent()
    await TradeRepository(db).get_statistics()


def tried(url: str, answer: Connection, uid: int | None = None) -> None:
    """A child: open and use a database; send "used", the class and message of iftb-store's error, or any other error."""
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)

    async def work() -> None:
        async with DatabaseManager(url) as db:
            await use(db)
            await db.status()

    try:
        asyncio.run(work())
    except (StoreError, OperationalError, IntegrityError) as error:
        answer.send(f"{type(error).__name__}: {error}")
    except BaseException as error:
        # any other error is a failure, which the parent process reports
        answer.send(f"not ours: {error!r}")
    else:
        answer.send("used")
