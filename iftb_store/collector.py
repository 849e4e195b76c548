"""Python's garbage collector, paused while objects by the thousand are made: half of the time would go there."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_guard = threading.Lock()
_pauses = 0
_was_enabled = False


@contextmanager
def paused() -> Iterator[None]:
    """Pause the collector for a synchronous piece of work, never across an await.

    Pauses may overlap, also in several threads; when the last one ends the collector is as it was before the first.
    """
    global _pauses, _was_enabled
    with _guard:
        if not _pauses:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _guard:
            _pauses -= 1
            if not _pauses and _was_enabled:
                gc.enable()
