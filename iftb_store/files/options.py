"""The options of an import for what a file does not contain, e.g. the symbol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

#: The remedy for a value with too many places in a file.
ROUNDING = "use --decimals from-float to round it to 18 places"
#: The remedy for floats in a file.
FLOATS = "use --decimals from-float to store for each the shortest decimal that converts back to the same float"


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
        from_float: accept floats, store for each the shortest decimal that converts back to the same float, and round decimals
            half-even to 18 places.
        skip_empty: skip rows without prices.
        covers: the first and the last time that the files cover; None for those of each file's bars.
        header: the names of the columns of a file without a header, in their order.
    """

    symbol: str | None = None
    timeframe: str | None = None
    exchange: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    zone: ZoneInfo | None = None
    fold: Literal["earlier", "later"] | None = None
    from_float: bool = False
    skip_empty: bool = False
    header: tuple[str, ...] = ()
    covers: tuple[datetime, datetime] | None = None
