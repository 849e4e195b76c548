"""What the user says of files that do not say it themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from zoneinfo import ZoneInfo


@dataclass(frozen=True)
class Hints:
    """What the user says of files that do not say it themselves.

    Attributes:
        symbol: of a file whose name does not tell it, or instead of that.
        timeframe: of a file whose name does not tell it.
        exchange: of files without a column of that name; None for binance.
        columns: a file's name for each of our columns.
        zone: of times that name none; None for UTC.
        fold: which of the two is meant where a clock that was set back shows a time twice; None refuses it.
        from_float: take floats, as the shortest decimal that gives each.
    """

    symbol: str | None = None
    timeframe: str | None = None
    exchange: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    zone: ZoneInfo | None = None
    fold: Literal["earlier", "later"] | None = None
    from_float: bool = False
