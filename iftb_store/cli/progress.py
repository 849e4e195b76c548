"""Progress of a long command: on a terminal a bar with rate and remaining time, otherwise a plain line every 10 seconds."""

from __future__ import annotations

from time import monotonic
from types import TracebackType

from rich.filesize import decimal
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from iftb_store.cli.output import console
from iftb_store.values.display import replace_unprintable

# seconds between two plain lines
_OFTEN = 10.0


class Progress:
    """Shows the progress of a command on stderr, step by step; shows nothing if ``quiet``.

    The object is passed as the progress callback. At the end of its ``with`` block the bar is removed.

    Attributes:
        unit: the unit of the amounts: "rows" or "bytes".
        done: the amount done of each step.
    """

    def __init__(self, *, quiet: bool = False, unit: str = "rows") -> None:
        screen = console(stderr=True)
        self.unit = unit
        self.done: dict[str, int] = {}
        self._lines = None if quiet or screen.is_terminal else screen
        columns = (TextColumn("{task.description}"), BarColumn(), _Amount(), TimeRemainingColumn())
        self._bars = Bars(
            *columns, console=screen, transient=True, redirect_stdout=False, disable=quiet or not screen.is_terminal
        )
        self._step: tuple[str, TaskID] | None = None
        self._said = 0.0

    def __call__(self, step: str, done: int, total: int | None) -> None:
        """Show the amount of a step that is done; a new step replaces the one before."""
        if self._step is None or self._step[0] != step:
            self.end_step()
            self._step = step, self._bars.add_task(replace_unprintable(step), total=None, unit=self.unit)
            self._said = monotonic()
            self._bars.start()
        self.done[step] = done
        task = self._step[1]
        self._bars.update(task, completed=done, total=total)
        if self._lines is not None and monotonic() - self._said >= _OFTEN:
            self._said = monotonic()
            self._lines.print(Text.assemble(f"{replace_unprintable(step)}: ", self._amount(task)))

    def end_step(self) -> None:
        """Remove the bar, so that lines can be printed."""
        if self._step is not None:
            self._bars.stop()
            self._bars.remove_task(self._step[1])
            self._step = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end_step()

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
