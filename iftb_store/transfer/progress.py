"""Types of the callbacks that report the progress of a transfer, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

from iftb_store.errors import InvalidValueError
from iftb_store.values.display import type_name

#: A user's callback: called in the event loop with the name of the step, the amount done and the total amount, which is None if
#: it is unknown. It is called when a step begins, with 0, and after each batch. Its exceptions end the transfer.
ProgressCallback: TypeAlias = Callable[[str, int, int | None], None]
#: Called with the amount of one step that is done, and the total amount, which is None if it is unknown.
StepCallback: TypeAlias = Callable[[int, int | None], None]
#: Starts a step, given its name.
ProgressFactory: TypeAlias = Callable[[str], AbstractContextManager[StepCallback]]


@contextmanager
def report_nothing(name: str) -> Iterator[StepCallback]:
    """Yield a callback that does nothing; the default of functions that can report progress."""
    yield lambda done, total: None


def report_steps(progress: ProgressCallback | None) -> ProgressFactory:
    """Return a function that starts a step of a transfer, e.g. compare or copy, and reports progress to the callback.

    Raises:
        InvalidValueError: ``progress`` is not a function.
    """
    if progress is None:
        return report_nothing
    if not callable(progress):
        raise InvalidValueError(f"progress must be a function of (step, done, total), not {type_name(progress)}")

    @contextmanager
    def start_step(name: str) -> Iterator[StepCallback]:
        progress(name, 0, None)
        yield lambda done, total: progress(name, done, total)

    return start_step


def estimate_rows(rows: int, bytes_read: int, size: int) -> int | None:
    """Return how many rows a file of ``size`` bytes has, judged by the rows in the bytes read; None before the first."""
    return rows * size // bytes_read if bytes_read else None


def count_rows(tell: StepCallback, total: int | None) -> Callable[[int], None]:
    """Return a function that is called with the number of rows of each batch, and reports their sum as progress."""
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        tell(done, total)

    return count
