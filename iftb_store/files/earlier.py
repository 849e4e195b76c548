"""Remembers the bars of an import's files, to find a file that has other values for a bar of an earlier file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from iftb_store.batches.bars import SeriesKey
from iftb_store.files.spans import Spans, Times, split_times
from iftb_store.schema.types import from_epoch_us
from iftb_store.values.display import show

# maximum number of spans that are kept to name a file in a message: of one file, and of all files
_MOST_SPANS, _MOST_SPANS_OF_ALL = 10_000, 200_000


class EarlierFiles:
    """The times of the bars that one import has stored so far, by file; it remembers at most 400,000 gaps between them."""

    def __init__(self) -> None:
        self._all = Spans()
        self._files: list[tuple[Path, Spans]] = []
        self._kept = 0

    def add(self, path: Path, times: Spans) -> None:
        """Add the times of a file that was stored."""
        self._all.update(times)
        if len(times) <= _MOST_SPANS and self._kept + len(times) <= _MOST_SPANS_OF_ALL:
            self._files.append((path, times))
            self._kept += len(times)

    def find(self, times: Times) -> list[int]:
        """Return the given times, in microseconds, at which an earlier file has a bar, in ascending order."""
        return self._all.find(times)

    def count_unknown(self, times: Times) -> int:
        """Count the given times for which it is unknown whether an earlier file has a bar, as not all gaps are remembered."""
        return self._all.count_unknown(times)

    def explain(self, series: SeriesKey, time: int, step: int) -> str:
        """Return the error message for a bar that differs from that of an earlier file; the message names the earlier file."""
        one = split_times(series, [time], step)
        named = (str(path) for path, times in self._files if times.find(one))
        return (
            f"has another bar of {format_bar(series, from_epoch_us(time))} than {next(named, 'an earlier file')}; "
            "if the files are of different markets, import them separately, with --exchange or --symbol"
        )


def describe_unknown(count: int) -> list[str]:
    """Return a note that says how many bars were not compared with earlier files; an empty list if all were compared."""
    return (
        [f"bars not compared with earlier files, which have too many gaps or series to be remembered: {count:,}"] if count else []
    )


def explain_change(series: SeriesKey, moment: datetime) -> str:
    """Return the error message for a file that would change a stored bar."""
    return f"would change the stored bar of {format_bar(series, moment)}; leave --on-conflict refuse out to overwrite it"


def format_bar(series: SeriesKey, moment: datetime) -> str:
    """Return the key of a bar as text for messages."""
    return show(f"{' '.join(series)} {moment.replace(tzinfo=None).isoformat(' ')}", 200)[1:-1]
