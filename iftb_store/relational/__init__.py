"""What the backends on SQLAlchemy and a driver's own connection share: sessions, and statements written once as SQL."""

from __future__ import annotations

from iftb_store.relational.sessions import StoreSession, before_write, finish, note_error, watch
from iftb_store.relational.stores import Flavor, RelationalStores, Row, Statement, statement

__all__ = [
    "Flavor",
    "RelationalStores",
    "Row",
    "Statement",
    "StoreSession",
    "before_write",
    "finish",
    "note_error",
    "statement",
    "watch",
]
