"""Pauses of Python's garbage collector while thousands of objects are made: it would take half of the time."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_guard = threading.Lock()
_pauses = 0
_was_enabled = False


@contextmanager
def pause_gc() -> Iterator[None]:
    """Pause the collector for synchronous work, never across an await.

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
        age_objects()
    finally:
        with _guard:
            _pauses -= 1
            if not _pauses and _was_enabled:
                gc.enable()


def age_objects() -> None:
    """Move the thousands of objects made in a pause to the old generation, a portion at a time.

    Otherwise the first collection after the pause would scan all of them at once, or all objects of the process,
    and the event loop would wait for it.
    """
    # a threshold of 0 also switches the collector off
    if _was_enabled and 0 < gc.get_threshold()[0] < 2 * gc.get_count()[0]:
        gc.collect(1)
