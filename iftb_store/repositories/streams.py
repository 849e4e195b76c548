"""The streams of the repositories: asynchronous iterators that a caller can close before the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from iftb_store.protocols import Stores
from iftb_store.schema.table_spec import RowFilter

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

# if texts may be long: the number of rows in the first fetch, and the factor by which each next fetch may grow at most
_FIRST, _GROWTH = 64, 8


async def record_batches(stores: Stores, selection: RowFilter) -> AsyncGenerator[pa.RecordBatch]:
    """Yield the selected rows in batches of at most ``selection.limit`` rows, or of fewer rows if their texts are long."""
    most, limit = selection.limit, selection.limit
    if selection.size is not None and most is not None:
        # the first fetch is small: to find how many rows fit, an engine may read the texts of as many rows as the limit
        limit = min(most, _FIRST)
    while (found := await stores.read_rows(replace(selection, limit=limit))).num_rows:
        (batch,) = found.combine_chunks().to_batches()
        place = batch.slice(batch.num_rows - 1).to_pylist()[0]
        selection = replace(selection, after=tuple(place[name] for name in selection.order))
        yield batch
        if selection.size is not None and most is not None and limit is not None:
            limit = max(1, min(most, _GROWTH * limit, selection.size * batch.num_rows // max(batch.nbytes, 1)))


class Stream(Generic[T]):
    """An asynchronous iterator of batches; ``async with`` closes it at the end of the block.

    A stream is read once. Its session, and with it a connection, is in use from the first batch until the stream ends or is
    closed.

    Example:
        async with ohlcv.stream_range("BTCUSDT", "1h", start, start + timedelta(days=1), batch_size=10) as stream:
            first = await anext(stream)
        len(first)  # -> 10
    """

    def __init__(self, batches: AsyncGenerator[T]) -> None:
        self._batches = batches

    def __aiter__(self) -> Stream[T]:
        return self

    async def __anext__(self) -> T:
        return await anext(self._batches)

    async def __aenter__(self) -> Stream[T]:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop reading and give the connection back to the pool. A second call has no effect.

        Example:
            stream = ohlcv.stream_range("BTCUSDT", "1h", start, start + timedelta(days=1), batch_size=10)
            len(await anext(stream))  # -> 10
            await stream.aclose()
            [bars async for bars in stream]  # -> []
        """
        await self._batches.aclose()
