"""Forks while a manager is connected: ``python -m tests.faults.forking URL ROUNDS`` prints what was lost, as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys

from iftb_store import DatabaseManager, NotConnectedError, SystemEventRepository
from iftb_store.testing import raw

_SECONDS = 60


async def log(db: DatabaseManager, name: str) -> None:
    """Write one event."""
    await SystemEventRepository(db).log_event("tick", "info", name)


def child_ends(db: DatabaseManager) -> None:
    """Use the manager in this fork and exit: with 0 if it was refused."""
    code = 1
    try:
        asyncio.run(asyncio.wait_for(log(db, "from a fork"), _SECONDS))
    except NotConnectedError as error:
        code = 0 if "fork" in str(error) else 2
    finally:
        os._exit(code)


async def main(url: str, rounds: int) -> dict[str, int]:
    """Fork so many times while the parent writes."""
    chance = random.Random(20_240_413)
    figures = {"rounds": 0, "lost": 0, "duplicated": 0, "hung": 0}
    async with DatabaseManager(url) as db:
        await db.create_tables()
        names: list[str] = []
        for number in range(rounds):
            figures["rounds"] += 1
            writing = [asyncio.create_task(log(db, f"{number}-{task}")) for task in range(3)]
            for _ in range(chance.choice((0, 1, 5, 50))):
                await asyncio.sleep(0)
            child = os.fork()
            if not child:
                child_ends(db)
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            figures["hung"] += status != 0
            await asyncio.wait_for(asyncio.gather(*writing), _SECONDS)
            names += [f"{number}-{task}" for task in range(3)]
        stored = [message for (message,) in await raw.fetch(db, "SELECT message FROM system_events")]
    figures["lost"] = len(set(names) - set(stored))
    figures["duplicated"] = len(stored) - len(names)
    return figures


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2])))))  # noqa: T201
