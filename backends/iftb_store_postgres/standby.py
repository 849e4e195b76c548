"""Positions in the write-ahead log: whether a standby has replayed the commits of a backend that is connected to its primary."""

from __future__ import annotations

from typing import Any, NamedTuple

import asyncpg
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine

from iftb_store.errors import operational_error

_COMMITTING = "iftb_store.committing"
_STARTED = "CAST(pg_catalog.pg_postmaster_start_time() AS text)"
# the position behind the last record, which with synchronous_commit = off is not written yet
_POSITION = f"""
    SELECT CAST(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0') AS bigint), {_STARTED}"""
_REPLAYED = f"""
    SELECT pg_catalog.pg_is_in_recovery(),
        CAST(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), '0/0') AS bigint), {_STARTED}"""
_SYSTEM = "SELECT system_identifier FROM pg_catalog.pg_control_system()"


class Position(NamedTuple):
    """A position in the write-ahead log of a server.

    Attributes:
        lsn: the number of bytes before it.
        started: when the server was started.
        system: the identifier of the server's cluster, which its standbys share; None if the role may not read it.
    """

    lsn: int
    started: str
    system: int | None


class CommitLog:
    """Knows whether an engine has committed since the position of its server was last asked for."""

    def __init__(self) -> None:
        # the position at the start is unknown
        self._changes = 1
        self._asked = 0
        self._committing = 0
        self._position: Position | None = None

    def watch(self, engine: AsyncEngine) -> None:
        """Count the commits of the engine's connections that may have written."""
        event.listen(engine.sync_engine, "commit", self._begin_commit)
        event.listen(engine.sync_engine, "before_cursor_execute", self._begin_statement)
        event.listen(engine.sync_engine, "checkin", self._end_commit)
        event.listen(engine.sync_engine, "invalidate", self._end_commit)

    def note_commit(self) -> None:
        """Count a commit of a connection that is not watched, after it has ended."""
        self._changes += 1

    async def find_position(self, engine: AsyncEngine) -> Position:
        """Return a position behind every commit that has ended; the server is asked only if there was one since the last call."""
        changes = self._changes
        if self._position is not None and self._asked == changes:
            return self._position
        async with engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            lsn, started = await driver.fetchrow(_POSITION)
            system = await read_system(driver)
        self._position = Position(lsn, started, system)
        if not self._committing:
            # while a COMMIT runs, this position may be before it
            self._asked = changes
        return self._position

    def _begin_commit(self, connection: Connection) -> None:
        adapter: Any = connection.connection.dbapi_connection
        # a read outside a transaction, and a read-only transaction, have nothing to commit
        if adapter._transaction is None or connection.get_execution_options().get("postgresql_readonly"):
            return
        self._mark(connection)

    def _begin_statement(self, connection: Connection, *_: Any) -> None:
        adapter: Any = connection.connection.dbapi_connection
        if adapter.isolation_level == "autocommit":
            # it commits by itself; the store's own reads do not come here
            self._mark(connection)

    def _mark(self, connection: Connection) -> None:
        """Count a commit that may run until the connection is back in the pool."""
        self._changes += 1
        if not connection.info.get(_COMMITTING):
            connection.info[_COMMITTING] = True
            self._committing += 1

    def _end_commit(self, adapter: Any, record: Any, *error: Any) -> None:
        # the caller learns of the commit only after the connection is back in the pool
        if record.info.pop(_COMMITTING, False):
            self._committing -= 1
            self._changes += 1


async def read_system(driver: Any) -> int | None:
    """Return the identifier of the server's cluster; None if the role may not read it."""
    if driver.system is None:
        try:
            driver.system = (await driver.fetchval(_SYSTEM),)
        except (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError):
            driver.system = (None,)
    system: int | None = driver.system[0]
    return system


async def check_replayed(driver: Any, position: Position) -> bool:
    """Return whether the server of a connection has replayed the position.

    Call it outside a transaction: a snapshot that is older than the answer may not show what was replayed meanwhile.

    Raises:
        OperationalError: the server is neither a standby of the position's server nor this server itself.
    """
    if driver.replayed >= position.lsn:
        return True
    in_recovery, lsn, started = await driver.fetchrow(_REPLAYED)
    system = await read_system(driver)
    if None not in (system, position.system) and system != position.system:
        raise operational_error("it belongs to another cluster than the primary")
    if not in_recovery:
        if started != position.started:
            raise operational_error("it is no standby: it is not in recovery, and is not the primary")
        return True
    if lsn is None:
        raise operational_error("it replays no write-ahead log")
    # a server only goes forward as long as a connection to it lasts
    driver.replayed = lsn
    return bool(lsn >= position.lsn)
