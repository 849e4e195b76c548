"""Checks the health of a backend, and finds the status of one without migrations, for the manager to report."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

from sqlalchemy.exc import DBAPIError

from iftb_store.abilities import SupportsEncryption, SupportsPoolStatus, SupportsStatus, SupportsWriteProof
from iftb_store.errors import StoreError
from iftb_store.health import (
    NO_REVISIONS,
    Encryption,
    Health,
    PoolState,
    SchemaStatus,
    StoreSize,
    advise,
    find_warnings,
    prove_writable,
)
from iftb_store.protocols import Backend, Capability, Stores
from iftb_store.registry import find_lookups, get_stores
from iftb_store.schema.scope import TABLES
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter, TableSpec
from iftb_store.schema.types import EPOCH
from iftb_store.standby import StandbyReads
from iftb_store.url import fill_url

# the number of rows in one read, if rows are read only to count them
_COUNTED = 65_536


async def measure_backend(backend: Backend, engine: str) -> SchemaStatus:
    """Return the status of a connected backend without migrations; count the rows if the backend does not know their number."""
    size = await backend.measure() if isinstance(backend, SupportsStatus) else StoreSize("")
    series, rows, records = size.series, size.rows, dict[str, int]()
    keeps_records = Capability.RECORDS in backend.capabilities
    if series is None or rows is None or keeps_records:
        async with backend.session() as session:
            stores = get_stores(session)
            if series is None or rows is None:
                found = await stores.bars.list_series()
                series, rows = len(found), sum(one.count for one in found)
            if keeps_records:
                records = {table.name: await _count_rows(stores, table) for table in TABLES.values() if table is not BARS}
    tables = {BARS.name: rows, **records}
    return SchemaStatus(
        engine, size.version, None, "", tables, NO_REVISIONS, None, series=series, files=size.files, bytes=size.bytes
    )


async def check_health(
    backend: Backend,
    standby: StandbyReads | None,
    url: str,
    ping: Callable[[float], Awaitable[float]],
    read_status: Callable[[], Awaitable[SchemaStatus]],
    within: float,
) -> Health:
    """Return the health of a connected backend; see `iftb_store.DatabaseManager.health`.

    Args:
        backend: the backend.
        standby: the standby for reads, if there is one.
        url: the URL as the messages show it in commands, quoted and with the password hidden.
        ping: runs one statement within the given number of seconds and returns its duration.
        read_status: returns the state of the schema.
        within: maximum seconds to wait for the answer to ``ping``; the check of writes may take as long again.
    """
    round_trip, schema, writable = None, None, False
    protection: Encryption | tuple[None, None] = None, None
    problems: list[str] = []
    warnings: list[str] = []
    try:
        round_trip = await ping(within)
        if isinstance(backend, SupportsEncryption):
            protection = await backend.read_encryption()
        schema = await read_status()
        warnings += find_warnings(schema.encoding)
        problems += (fill_url(problem, url) for problem in advise(schema.state))
        if schema.missing_rights:
            problems.append(schema.missing_rights)
        elif schema.tables:
            async with asyncio.timeout(within):
                await _prove_writable(backend, schema.tables)
            writable = True
    except TimeoutError:
        problems.append(f"it could not be verified within {within:g} s that the database accepts writes")
    except (DBAPIError, StoreError) as error:
        problems.append(str(error.orig if isinstance(error, DBAPIError) else error))
    if standby is not None and (problem := await standby.find_problem()) is not None:
        warnings.append(problem)
    pool = PoolState(backend.in_use, backend.capacity) if isinstance(backend, SupportsPoolStatus) else None
    healthy = writable and not problems
    return Health(healthy, round_trip is not None, round_trip, writable, pool, schema, problems, warnings, *protection)


async def _prove_writable(backend: Backend, tables: Iterable[str]) -> None:
    if isinstance(backend, SupportsWriteProof):
        await backend.prove_writable()
        return
    async with backend.session() as session:
        if Capability.RAW_WRITES in backend.capabilities:
            await prove_writable(session, tables)
        else:
            await prove_bars_writable(session)


async def prove_bars_writable(session: Any) -> None:
    """Check that bars can be written: delete the bars of a series that does not exist, which takes write locks, and roll back."""
    series = dict.fromkeys(SERIES, "iftb-store") | {"timeframe": "1m"}
    await get_stores(session).bars.delete(RowFilter(BARS, series, start=EPOCH, end=EPOCH))
    await session.rollback()


async def _count_rows(stores: Stores, table: TableSpec) -> int:
    if (lookups := find_lookups(stores)) is not None:
        return sum(count for _, count in await lookups.count_rows(RowFilter(table)))
    count, selection = 0, RowFilter(table, limit=_COUNTED)
    while (part := await stores.read_rows(selection)).num_rows:
        count += part.num_rows
        selection = replace(selection, after=(part["id"][-1].as_py(),))
    return count
