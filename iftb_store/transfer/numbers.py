"""A compact set of integers, for the ids of a whole table."""

from __future__ import annotations

from collections.abc import Iterable


class Numbers:
    """A set of integers that uses one bit per number; compact for numbers that lie close together, as ids do."""

    _BITS = 16

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def __bool__(self) -> bool:
        return bool(self._pages)

    def __contains__(self, number: int) -> bool:
        page = self._pages.get(number >> self._BITS)
        return page is not None and bool(page[(number & (1 << self._BITS) - 1) >> 3] >> (number & 7) & 1)

    def add(self, numbers: Iterable[int]) -> None:
        """Add numbers."""
        low = (1 << self._BITS) - 1
        for number in numbers:
            page = self._pages.get(number >> self._BITS)
            if page is None:
                page = self._pages[number >> self._BITS] = bytearray(1 << self._BITS - 3)
            page[(number & low) >> 3] |= 1 << (number & 7)

    def meets(self, other: Numbers) -> bool:
        """Return whether the two sets have a number in common."""
        return any(
            int.from_bytes(page) & int.from_bytes(other._pages[number])
            for number, page in self._pages.items()
            if number in other._pages
        )
