"""What the backends on SQLAlchemy and a driver's own connection share: sessions, and statements written once as SQL."""

from __future__ import annotations

from iftb_store.relational.backends import EngineBackend
from iftb_store.relational.driver import Flavor, Row, Statement, statement
from iftb_store.relational.pool import StorePool
from iftb_store.relational.reads import is_read, may_write
from iftb_store.relational.scans import fitting_sql, scan_sql
from iftb_store.relational.sessions import (
    StoreSession,
    before_write,
    isolated,
    joined,
    note_error,
    session_of,
    snapshot,
    watch,
)
from iftb_store.relational.stores import RelationalStores
from iftb_store.relational.visibility import Hidden, describe, find_hidden, obstacles
from iftb_store.threads import uncancelled

__all__ = [
    "EngineBackend",
    "Flavor",
    "Hidden",
    "RelationalStores",
    "Row",
    "Statement",
    "StorePool",
    "StoreSession",
    "before_write",
    "describe",
    "find_hidden",
    "fitting_sql",
    "is_read",
    "isolated",
    "joined",
    "may_write",
    "note_error",
    "obstacles",
    "scan_sql",
    "session_of",
    "snapshot",
    "statement",
    "uncancelled",
    "watch",
]
