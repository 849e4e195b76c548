"""The streams of the repositories: asynchronous iterators that can be closed before they end."""

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


async def record_batches(stores: Stores, selection: RowFilter) -> AsyncGenerator[pa.RecordBatch]:
    """Yield the selected rows in batches; the selection's limit is the size of a batch."""
    while (found := await stores.read_rows(selection)).num_rows:
        (batch,) = found.combine_chunks().to_batches()
        place = batch.slice(batch.num_rows - 1).to_pylist()[0]
        selection = replace(selection, after=tuple(place[name] for name in selection.order))
        yield batch


class Stream(Generic[T]):
    """An asynchronous iterator of batches; ``async with`` closes it at the end of the block."""

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
        """Stop reading and return the stream's connection. Closing twice does nothing the second time."""
        await self._batches.aclose()
