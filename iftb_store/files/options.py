"""The options with which a user supplies what an imported file does not contain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from zoneinfo import ZoneInfo


@dataclass(frozen=True)
class Hints:
    """What the user knows about a file to import: its series, its column names, and how to read its times and floats.

    Attributes:
        symbol: the symbol, if the file's name does not contain it, or to replace it.
        timeframe: the timeframe, if the file's name does not contain it.
        exchange: the exchange, if the file has no such column; None for binance.
        columns: the file's column name for each column of iftb-store.
        zone: the time zone of times without an offset; None for UTC.
        fold: which of two times is meant if a local time occurs twice because clocks are set back; None refuses such times.
        from_float: accept floats and store the shortest decimal of each.
    """

    symbol: str | None = None
    timeframe: str | None = None
    exchange: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    zone: ZoneInfo | None = None
    fold: Literal["earlier", "later"] | None = None
    from_float: bool = False
