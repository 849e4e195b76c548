"""Allows only one migration of a database at a time, with a lock that is held until the end of the transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from iftb_store.errors import operational_error
from iftb_store.schema.dialect import SchemaDialect

WAIT_SECONDS = 60

#: The key of the advisory lock: the eight bytes of this name as a number.
LOCK_KEY = int.from_bytes(b"iftbstor", "big")

_LOCK_NOT_AVAILABLE = "55P03"
_CURRENT = text(
    "SELECT pg_catalog.current_setting('lock_timeout') AS lock_wait, "
    "pg_catalog.current_setting('statement_timeout') AS statement_wait"
)
_SET = text(
    "SELECT pg_catalog.set_config('lock_timeout', :lock_wait, true), "
    "pg_catalog.set_config('statement_timeout', :statement_wait, true)"
)


@contextmanager
def hold_migration_lock(conn: Connection, schema: SchemaDialect | None = None) -> Iterator[None]:
    """Wait for other migrations of this database, then keep them out until the transaction ends.

    With a ``schema``, its lock is used. On SQLite and DuckDB the transaction itself is the lock. On PostgreSQL it is an advisory
    lock. Inside the block, PostgreSQL statements wait at most ``WAIT_SECONDS`` for a lock, and statement_timeout is off.

    Raises:
        OperationalError: another migration did not release the lock in time.
    """
    if schema is not None or conn.dialect.name != "postgresql":
        with nullcontext() if schema is None else schema.lock(conn):
            yield
        return
    before = dict(conn.execute(_CURRENT).one()._mapping)
    conn.execute(_SET, {"lock_wait": f"{WAIT_SECONDS}s", "statement_wait": "0"})
    try:
        conn.execute(text("SELECT pg_catalog.pg_advisory_xact_lock(CAST(:key AS bigint))"), {"key": LOCK_KEY})
    except DBAPIError as error:
        if find_cause(error, _LOCK_NOT_AVAILABLE) is None:
            raise
        raise operational_error(
            f"another process has been migrating this database for {WAIT_SECONDS} seconds; "
            "wait until it ends (pg_locks shows it as an advisory lock), then run this again",
            error,
        ) from error
    yield
    conn.execute(_SET, before)


def find_cause(error: BaseException | None, sqlstate: str) -> BaseException | None:
    """Return the driver's error with this SQLSTATE among the causes of an error, or None."""
    while error is not None and getattr(error, "sqlstate", None) != sqlstate:
        error = error.__cause__
    return error
