"""Tools for backends on SQLAlchemy: sessions, a connection pool, stores that run on any SQL engine, and migrations."""

from __future__ import annotations

from iftb_store._io.gc_pause import age_objects, pause_gc
from iftb_store._io.semaphore import FairSemaphore
from iftb_store._io.tasks import import_modules, run_to_end
from iftb_store._io.turns import Turns
from iftb_store.relational.backends import EngineBackend
from iftb_store.relational.bars import RelationalBars
from iftb_store.relational.calls import hold_connection, run_in_turn
from iftb_store.relational.conditions import filter_sql
from iftb_store.relational.coverage import RelationalCoverage
from iftb_store.relational.dialect import Row, SqlDialect, Statement, prepare_statement
from iftb_store.relational.driver import Driver, bind
from iftb_store.relational.lookups import RelationalLookups
from iftb_store.relational.migrated import Migrated
from iftb_store.relational.open_sessions import DISCONNECTED, ENDED, OpenSessions, blame_parent, check_own_lock, own_sessions
from iftb_store.relational.pool import StorePool
from iftb_store.relational.reads import is_read, may_write
from iftb_store.relational.records import RelationalRecords
from iftb_store.relational.rows import RowForm
from iftb_store.relational.scans import fitting_sql, scan_sql
from iftb_store.relational.sessions import (
    StoreSession,
    before_write,
    find_session,
    is_isolated,
    is_snapshot,
    note_error,
    watch,
)
from iftb_store.relational.sql_backend import SqlBackend
from iftb_store.relational.sql_driver import SqlDriver
from iftb_store.relational.stores import RelationalStores
from iftb_store.schema.visibility import Hidden, describe, find_hidden, find_obstacles
from iftb_store.url import quote_url

__all__ = [
    "DISCONNECTED",
    "ENDED",
    "Driver",
    "EngineBackend",
    "FairSemaphore",
    "Hidden",
    "Migrated",
    "OpenSessions",
    "RelationalBars",
    "RelationalCoverage",
    "RelationalLookups",
    "RelationalRecords",
    "RelationalStores",
    "Row",
    "RowForm",
    "SqlBackend",
    "SqlDialect",
    "SqlDriver",
    "Statement",
    "StorePool",
    "StoreSession",
    "Turns",
    "age_objects",
    "before_write",
    "bind",
    "blame_parent",
    "check_own_lock",
    "describe",
    "filter_sql",
    "find_hidden",
    "find_obstacles",
    "find_session",
    "fitting_sql",
    "hold_connection",
    "import_modules",
    "is_isolated",
    "is_read",
    "is_snapshot",
    "may_write",
    "note_error",
    "own_sessions",
    "pause_gc",
    "prepare_statement",
    "quote_url",
    "run_in_turn",
    "run_to_end",
    "scan_sql",
    "watch",
]
