"""Progress of a long command: on a terminal a bar with rate and remaining time, otherwise a plain line every 10 seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.filesize import decimal
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from iftb_store.cli.output import console
from iftb_store.values.display import escape_unprintable

# seconds between two plain lines
_OFTEN = 10.0


class Progress:
    """Shows the progress of a command on stderr; shows nothing if ``quiet``."""

    def __init__(self, *, quiet: bool = False) -> None:
        screen = console(stderr=True)
        self._lines = None if quiet or screen.is_terminal else screen
        columns = (TextColumn("{task.description}"), BarColumn(), _Amount(), TimeRemainingColumn())
        self._bars = Bars(
            *columns, console=screen, transient=True, redirect_stdout=False, disable=quiet or not screen.is_terminal
        )

    @contextmanager
    def step(self, name: str, unit: str = "rows") -> Iterator[Callable[[int, int | None], None]]:
        """Show the progress of one step while the block runs; yield a callback that takes (units done, total units or None)."""
        task = self._bars.add_task(escape_unprintable(name), total=None, unit=unit)
        said = monotonic()

        def tell(done: int, total: int | None) -> None:
            nonlocal said
            self._bars.update(task, completed=done, total=total)
            if self._lines is not None and monotonic() - said >= _OFTEN:
                said = monotonic()
                self._lines.print(Text.assemble(f"{escape_unprintable(name)}: ", self._amount(task)))

        with self._bars:
            try:
                yield tell
            finally:
                self._bars.remove_task(task)

    def _amount(self, task: TaskID) -> Text:
        return _Amount().render(next(found for found in self._bars.tasks if found.id == task))


class _Amount(ProgressColumn):
    """The amount done, the total and the speed: ``120,000 of 2,000,000 rows, 410,000 rows/s``."""

    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        show = decimal if unit == "bytes" else lambda count: f"{count:,}"
        done = show(int(task.completed)) if task.total is None else f"{show(int(task.completed))} of {show(int(task.total))}"
        speed = task.finished_speed or task.speed
        words = "" if unit == "bytes" else f" {unit}"
        return Text(f"{done}{words}" + ("" if speed is None else f", {show(int(speed))}{words}/s"))
