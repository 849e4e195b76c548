"""What a repository's stream is: an asynchronous iterator that can be closed half-read."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Stream(Generic[T]):
    """Batches, one after the other; ``async with`` closes what is left of them."""

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
        """Read no more; give back what the stream holds. Closing twice does nothing the second time."""
        await self._batches.aclose()
