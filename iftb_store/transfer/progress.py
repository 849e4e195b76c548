"""How far a transfer is: reported step by step to whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

#: Called with how much is done, of how much; None if nobody knows.
ProgressCallback = Callable[[int, int | None], None]
#: Begins a step of the work by its name, as `iftb_store.cli.progress.Progress.step` does.
ProgressFactory = Callable[[str], AbstractContextManager[ProgressCallback]]


@contextmanager
def report_nothing(name: str) -> Iterator[ProgressCallback]:
    """Show nothing of a step."""
    yield lambda done, total: None
