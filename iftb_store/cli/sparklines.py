"""Draws series of numbers as one line of text: eight heights, in ASCII where the terminal's encoding is not UTF-8."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from iftb_store.analytics.figures import EquityPoint

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.:-=+*#"


def sample_equity(points: Sequence[EquityPoint], width: int) -> list[tuple[Decimal, Decimal]]:
    """Return the equity at the end of each of ``width`` equal parts of the time, and the deepest drawdown in the part."""
    first, last = points[0].time, points[-1].time
    length = (last - first) / width
    found: list[tuple[Decimal, Decimal]] = []
    place = 0
    for part in range(1, width + 1):
        edge = last if part == width else first + part * length
        fall = points[place].drawdown
        while place + 1 < len(points) and points[place + 1].time <= edge:
            place += 1
            fall = max(fall, points[place].drawdown)
        found.append((points[place].equity, fall))
    return found


def draw_levels(values: Sequence[Decimal], *, utf8: bool) -> str:
    """Return a line whose heights span the values; equal values are in the middle."""
    low, high = min(values), max(values)
    if low == high:
        return _draw([4] * len(values), utf8)
    return _draw([int((value - low) * 8 / (high - low)) for value in values], utf8)


def draw_depths(values: Sequence[Decimal], *, utf8: bool) -> str:
    """Return a line whose heights are depths, from 0: blank where there is none."""
    deepest = max(values)
    heights = [int(value * 8 / deepest) if value else -1 for value in values]
    return _draw(heights, utf8)


def _draw(heights: Sequence[int], utf8: bool) -> str:
    blocks = _BLOCKS if utf8 else _ASCII
    return "".join(" " if height < 0 else blocks[min(height, 7)] for height in heights)
