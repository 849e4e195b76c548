"""The one write lock that this process has for each DuckDB file."""

from __future__ import annotations

import os
import threading
from weakref import WeakValueDictionary

from iftb_store.relational import FairSemaphore

_guard = threading.Lock()
_write_locks: WeakValueDictionary[str, FairSemaphore] = WeakValueDictionary()


def write_lock(path: str) -> FairSemaphore:
    """Return the one write lock that this process has for a database file, named by its real path."""
    with _guard:
        lock = _write_locks.get(path)
        if lock is None:
            lock = _write_locks[path] = FairSemaphore()
        return lock


def _forget() -> None:
    # in a forked child: whoever held one of them is not there
    global _guard
    _guard = threading.Lock()
    _write_locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
