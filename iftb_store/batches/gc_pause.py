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
        age()
    finally:
        with _guard:
            _pauses -= 1
            if not _pauses and _was_enabled:
                gc.enable()


def age() -> None:
    """Let the objects that a pause has made by the thousand count as old now, a portion at a time.

    Else the first collection after the pause would look through all of them at once, or through all that the process holds,
    and the event loop wait for it.
    """
    # a threshold of 0 is another way to switch the collector off
    if _was_enabled and 0 < gc.get_threshold()[0] < 2 * gc.get_count()[0]:
        gc.collect(1)
