"""Types of the callbacks that report the progress of a transfer, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

#: Called with the amount done and the total amount, which is None if it is unknown.
ProgressCallback = Callable[[int, int | None], None]
#: Starts a step, given its name, as `iftb_store.cli.progress.Progress.step` does.
ProgressFactory = Callable[[str], AbstractContextManager[ProgressCallback]]


@contextmanager
def report_nothing(name: str) -> Iterator[ProgressCallback]:
    """Yield a progress callback that does nothing; the default of functions that can report progress."""
    yield lambda done, total: None


def count_rows(tell: ProgressCallback, total: int | None) -> Callable[[int], None]:
    """Return a function that takes the number of rows of each batch and reports their sum."""
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        tell(done, total)

    return count
