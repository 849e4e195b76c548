"""Pauses Python's garbage collector while thousands of objects are created, as collections would double the time."""

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
    """Pause the garbage collector during synchronous work; never await inside the block.

    Pauses may overlap, even in several threads; the end of the last pause restores the state from before the first.
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
    """Move the objects that were created in a pause to an older generation of the collector, if there are many of them.

    Call this after each portion of the work in a long pause. Otherwise the first collection after the pause would scan all
    these objects at once, or all objects of the process, and would block the event loop.
    """
    # with a threshold of 0 the application has switched the collector off, so it is not called
    if _was_enabled and 0 < gc.get_threshold()[0] < 2 * gc.get_count()[0]:
        gc.collect(1)
