"""Fills missing bars while bars are read: flat bars at the last close, where the exchange was asked for bars and gave none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from iftb_store.analytics.states import count_slots, list_states, move
from iftb_store.models import OHLCVBar
from iftb_store.protocols import Stores
from iftb_store.repositories.covered import require_coverage, select_asked
from iftb_store.schema.table_spec import BARS, AskedRange, RowFilter
from iftb_store.values import checks
from iftb_store.values.timeframes import align, shift

if TYPE_CHECKING:
    import pyarrow as pa

#: How a read fills missing bars: with the close of the bar before.
FillMode: TypeAlias = Literal["previous"]
FILL_MODES: Final = ("previous",)

_MICROSECOND = timedelta(microseconds=1)
# the values of a filled bar that are not its prices
_EMPTY: dict[str, Any] = {"volume": Decimal(0), "quote_volume": Decimal(0), "trades_count": 0, "id": None, "created_at": None}


def check_fill(fill: object) -> bool:
    """Return whether a read fills missing bars; raise InvalidValueError for an unknown word."""
    return checks.optional_choice(fill, "fill", FILL_MODES) is not None


@dataclass(slots=True)
class Filler:
    """Fills the bars of one series, which are given in order of time.

    Attributes:
        window: the selection of the series, with or without a window.
        asked: the ranges that were asked for, oldest first.
        position: the opening time of the next bar; None before the first bar of a window without a start.
        close: the close of the last bar; None if there is none before the window.
    """

    window: RowFilter
    asked: Sequence[AskedRange]
    position: datetime | None
    close: Decimal | None

    @classmethod
    async def begin(cls, stores: Stores, window: RowFilter) -> Filler:
        """Read what was asked for in the window, and the close before it."""
        asked = await require_coverage(stores).read(select_asked(window, window.start, window.end))
        if window.start is None:
            # the first bar gives the first close
            return cls(window, asked, None, None)
        timeframe, close = window.equal["timeframe"], None
        position = align(window.start, timeframe, up=True)
        if asked:
            before = replace(window, start=None, end=window.start - _MICROSECOND, limit=1)
            for bar in await stores.bars.read(before, descending=True):
                close = bar.close
                position = shift(bar.timestamp, timeframe, 1)
                if position < window.start:
                    # keep the phase of the stored bars, which only those of 3d can have
                    position = shift(position, timeframe, count_slots(position, window.start - _MICROSECOND, timeframe))
        return cls(window, asked, position, close)

    def find_times(self, until: datetime) -> list[datetime]:
        """Return the opening times to fill before a stored bar, or up to the end of the window."""
        if self.position is None or self.close is None:
            return []
        timeframe = self.window.equal["timeframe"]
        times: list[datetime] = []
        for one in list_states((), self.asked, timeframe, self.position, until):
            if one.state == "none":
                times += (shift(one.first, timeframe, number) for number in range(one.bars))
        return times

    def take(self, moment: datetime, close: Decimal) -> list[datetime]:
        """Return the opening times to fill before a stored bar, then move on to it."""
        timeframe = self.window.equal["timeframe"]
        times = [] if self.position == moment else self.find_times(move(moment, timeframe, -1))
        self.position, self.close = move(moment, timeframe, 1), close
        return times

    def finish(self) -> list[datetime]:
        """Return the opening times to fill after the last stored bar."""
        end = self.window.end
        if end is None:
            end = self.asked[-1].last if self.asked else None
        return [] if end is None or self.position is None or end < self.position else self.find_times(end)

    def fill(self, bars: Sequence[OHLCVBar], *, last: bool) -> list[OHLCVBar]:
        """Return the bars with those that are filled between them; with ``last`` also those after them."""
        filled: list[OHLCVBar] = []
        for bar in bars:
            close = self.close
            filled += self._make(self.take(bar.timestamp, bar.close), close)
            filled.append(bar)
        return [*filled, *(self._make(self.finish(), self.close) if last else ())]

    def _make(self, times: Sequence[datetime], close: Any) -> Iterator[OHLCVBar]:
        return (
            OHLCVBar(**self.window.equal, timestamp=moment, open=close, high=close, low=close, close=close, **_EMPTY)
            for moment in times
        )

    def fill_table(self, rows: pa.Table, *, last: bool) -> pa.Table:
        """Return the rows of an Arrow table with those that are filled between them; see `fill`."""
        import pyarrow as pa

        times, closes = rows["timestamp"], rows["close"]
        made: list[dict[str, Any]] = []

        def add(moments: list[datetime], close: Decimal | None) -> None:
            values = dict.fromkeys(("open", "high", "low", "close"), close)
            made.extend({**self.window.equal, "timestamp": moment, **values, **_EMPTY} for moment in moments)

        for place in _find_edges(times, self.window.equal["timeframe"]):
            moment, close = times[place].as_py(), self.close
            if place:
                # between two edges no bar is missing
                self.position, close = (
                    move(times[place - 1].as_py(), self.window.equal["timeframe"], 1),
                    closes[place - 1].as_py(),
                )
                self.close = close
            add(self.take(moment, closes[place].as_py()), close)
        if rows.num_rows:
            self.position = move(times[-1].as_py(), self.window.equal["timeframe"], 1)
            self.close = closes[-1].as_py()
        if last:
            add(self.finish(), self.close)
        if not made:
            return rows
        return pa.concat_tables([rows, pa.Table.from_pylist(made, rows.schema)]).sort_by("timestamp")


def _find_edges(times: Any, timeframe: str) -> list[int]:
    """Return the places of the rows before which bars may be missing: the first, and those more than a step after another."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute
    if not len(times):
        return []
    numbers = pc.cast(times, pa.int64()).combine_chunks()
    apart = pc.subtract(numbers.slice(1), numbers.slice(0, len(numbers) - 1))
    # the bars of a month, too, lie further apart than those of 28 days only where they may be missing; `take` looks
    step = timedelta(days=28) if timeframe == "1M" else shift(times[0].as_py(), timeframe, 1) - times[0].as_py()
    wide = pc.greater(apart, step // _MICROSECOND)
    return [0, *(place + 1 for place in pc.indices_nonzero(wide).to_pylist())]


async def fill_lists(filler: Filler, lists: AsyncIterator[list[OHLCVBar]], size: int) -> AsyncGenerator[list[OHLCVBar]]:
    """Yield the bars of lists, filled, in lists of at most ``size`` bars."""
    async for bars in lists:
        filled = await asyncio.to_thread(filler.fill, bars, last=False)
        for first in range(0, len(filled), size):
            yield filled[first : first + size]
    filled = filler.fill((), last=True)
    for first in range(0, len(filled), size):
        yield filled[first : first + size]


async def fill_batches(filler: Filler, batches: AsyncIterator[pa.RecordBatch], size: int) -> AsyncGenerator[pa.RecordBatch]:
    """Yield the rows of record batches, filled, in batches of at most ``size`` rows."""
    import pyarrow as pa

    from iftb_store.batches.arrow import arrow_schema

    async for batch in batches:
        filled = await asyncio.to_thread(filler.fill_table, pa.Table.from_batches([batch]), last=False)
        for part in filled.combine_chunks().to_batches(max_chunksize=size):
            yield part
    rest = await asyncio.to_thread(filler.fill_table, arrow_schema(BARS).empty_table(), last=True)
    for part in rest.combine_chunks().to_batches(max_chunksize=size):
        yield part
