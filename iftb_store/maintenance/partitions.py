"""Partitions of the table of bars, on an engine that has them: PostgreSQL."""

from __future__ import annotations

import re
from datetime import datetime

from iftb_store.abilities import ConnectedStore, SupportsPartitions
from iftb_store.errors import InvalidValueError
from iftb_store.health import Partitioning
from iftb_store.transfer.access import check_store
from iftb_store.transfer.progress import ProgressCallback, check_progress
from iftb_store.values import checks
from iftb_store.values.display import show

#: How many coming months or years get a partition if the caller gives no number.
AHEAD = 3
_MOST_AHEAD = 120
_MOST_HASHES = 256
_HASH = re.compile(r"hash:([1-9]\d{0,3})")


async def partition_bars(
    db: ConnectedStore, by: str = "month", *, ahead: int = AHEAD, progress: ProgressCallback | None = None
) -> Partitioning:
    """Divide the table of bars into partitions; readers and writers continue meanwhile.

    An ordinary table is copied in batches into a partitioned one, which then takes its place: this needs about as much disk again
    as the table has. Until the end every write is made in both tables; a write of a bar that is being copied waits for the batch.
    The exchange at the end, after the two tables were compared, takes milliseconds; it waits for transactions that use the table.
    An interrupted call changes nothing for others, and the next call continues.

    Args:
        db: the connected manager of a PostgreSQL database, whose role is a member of the tables' owner.
        by: "month" or "year" of the timestamp (UTC), or "hash:N": N partitions by the hash of exchange and symbol.
        ahead: how many coming months or years get a partition, 0 to 120. Bars of a month that has none are in the default
            partition; `create_partitions` creates the coming ones.
        progress: called with (step, bars done, bars in total or None) in the event loop; None: not called.

    Returns:
        The method and the partitions. If the table is already partitioned by this method, only missing partitions are created.

    Raises:
        InvalidValueError: an argument has an invalid value.
        Unsupported: the engine has no partitions.
        SchemaError: there is no table of bars; or it is partitioned in another way; or it has something that the new table
            would lack, e.g. a trigger or a policy, or a view of somebody else; or there would be more than 600 partitions.
        OperationalError: the database failed; a TransientError if others kept the table locked for minutes.
        StoreError: the two tables differ at the end, because somebody wrote without firing triggers.

    Example:
        async with DatabaseManager("postgresql://bot:secret@localhost/iftb") as db:
            await db.migrate()
            (await partition_bars(db, "hash:4")).by  # -> 'hash:4'
    """
    check_store(db, "db")
    method = check_method(by, "by")
    coming = _check_ahead(ahead)
    if progress is None:
        progress = _report_nothing
    check_progress(progress)
    backend = db.ability(SupportsPartitions)
    return await backend.partition_bars(method, ahead=coming, progress=progress)


async def create_partitions(db: ConnectedStore, *, ahead: int = AHEAD, start: datetime | None = None) -> tuple[str, ...]:
    """Create the partitions of the current and the coming months or years, and of those that have bars in the default partition.

    Run it regularly, e.g. by cron: repeated and simultaneous calls are safe. Readers and writers continue; only those that use
    the default partition wait, for milliseconds, or, if it has bars of the new partition, until these are moved. Each partition
    is created in its own transaction.

    Args:
        db: the connected manager of a PostgreSQL database, whose role is a member of the tables' owner.
        ahead: how many coming months or years get a partition, 0 to 120.
        start: also create the missing partitions from this time on, e.g. before old bars are imported; a naive time is UTC.
            None: only the current and the coming ones.

    Returns:
        The names of the new partitions, oldest first; empty if none was missing, or the bars are divided by hash.

    Raises:
        InvalidValueError: an argument has an invalid value.
        Unsupported: the engine has no partitions.
        SchemaError: the table of bars is not partitioned, or not by months or years.
        OperationalError: the database failed; a TransientError if others kept the default partition locked for minutes.

    Example:
        async with DatabaseManager("postgresql://bot:secret@localhost/iftb") as db:
            await db.migrate()
            await partition_bars(db, "month", ahead=3)
            await create_partitions(db, ahead=3)  # -> ()
    """
    check_store(db, "db")
    first = checks.optional(checks.utc, start, "start")
    return await db.ability(SupportsPartitions).create_partitions(ahead=_check_ahead(ahead), start=first)


async def list_partitions(db: ConnectedStore) -> Partitioning:
    """Return how the table of bars is divided into partitions, and their sizes.

    Args:
        db: the connected manager of a PostgreSQL database.

    Returns:
        The method, None if the table is not partitioned, and the partitions; empty if there are none.

    Raises:
        Unsupported: the engine has no partitions.
        SchemaError: there is no table of bars.
        OperationalError: the database failed.

    Example:
        async with DatabaseManager("postgresql://bot:secret@localhost/iftb") as db:
            await db.migrate()
            (await list_partitions(db)).by  # -> None
    """
    check_store(db, "db")
    return await db.ability(SupportsPartitions).list_partitions()


def check_method(by: object, name: str) -> str:
    """Return a method of partitioning: month, year or hash:N.

    Raises:
        InvalidValueError: it is none of these, or N is not from 2 to 256; the message names the parameter or option ``name``.
    """
    if by in ("month", "year") and isinstance(by, str):
        return by
    found = _HASH.fullmatch(by) if isinstance(by, str) else None
    if found is None or not 2 <= int(found[1]) <= _MOST_HASHES:
        raise InvalidValueError(
            f"{name} must be month, year or hash:N with N from 2 to {_MOST_HASHES}, e.g. hash:16, not {show(by)}"
        )
    return found[0]


def _check_ahead(ahead: object) -> int:
    number = checks.integer(ahead, "ahead")
    if number > _MOST_AHEAD:
        raise InvalidValueError(f"ahead must be at most {_MOST_AHEAD}, not {number}")
    return number


def _report_nothing(step: str, done: int, total: int | None) -> None:
    pass
