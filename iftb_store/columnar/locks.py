"""The write locks of databases and tables: one per file or table in this process."""

from __future__ import annotations

import os
import threading
from weakref import WeakValueDictionary

from iftb_store._io.semaphore import FairSemaphore

_guard = threading.Lock()
_write_locks: WeakValueDictionary[str, FairSemaphore] = WeakValueDictionary()


def write_lock(path: str) -> FairSemaphore:
    """Return the write lock of a database file, one per file in this process; ``path`` is the file's real path."""
    with _guard:
        lock = _write_locks.get(path)
        if lock is None:
            lock = _write_locks[path] = FairSemaphore()
        return lock


def _forget() -> None:
    # in a forked child, because the task that held a lock does not exist there
    global _guard
    _guard = threading.Lock()
    _write_locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
