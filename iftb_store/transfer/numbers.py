"""A compact set of integers, for the ids of a whole table."""

from __future__ import annotations

from collections.abc import Iterable


class Numbers:
    """A set of integers that uses one bit per number; compact for numbers that lie close together, as ids do."""

    _BITS = 10

    def __init__(self) -> None:
        self._pages: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._pages)

    def __contains__(self, number: int) -> bool:
        return bool(self._pages.get(number >> self._BITS, 0) >> number % (1 << self._BITS) & 1)

    def add(self, numbers: Iterable[int]) -> None:
        """Add numbers."""
        for number in numbers:
            page = number >> self._BITS
            self._pages[page] = self._pages.get(page, 0) | 1 << number % (1 << self._BITS)

    def meets(self, other: Numbers) -> bool:
        """Return whether the two sets have a number in common."""
        return any(bits & other._pages.get(page, 0) for page, bits in self._pages.items())
