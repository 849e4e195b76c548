"""Converts vnpy's table dbbardata to bars."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

from iftb_store.errors import InvalidValueError
from iftb_store.foreign.reading import ForeignTables, to_decimal, to_time
from iftb_store.foreign.staging import Staging
from iftb_store.schema.table_spec import BARS
from iftb_store.transfer.progress import StepCallback
from iftb_store.values.display import show

_TIMEFRAMES = {"1m": "1m", "1h": "1h", "d": "1d", "w": "1w"}
_NUMBERS = {
    "open": "open_price",
    "high": "high_price",
    "low": "low_price",
    "close": "close_price",
    "volume": "volume",
    "quote_volume": "turnover",
}


async def convert_vnpy(tables: ForeignTables, staging: Staging, zone: tzinfo, tell: StepCallback) -> None:
    """Convert every bar; times are in ``zone``."""
    total, done = await tables.count("dbbardata"), 0
    wanted = ["symbol", "exchange", "datetime", "interval", *_NUMBERS.values()]
    daily = False
    async for rows in tables.stream("dbbardata", wanted, set(_NUMBERS.values())):
        for row in rows:
            origin = ("dbbardata", int(row["id"]))
            try:
                timeframe = _TIMEFRAMES.get(str(row["interval"]))
                if timeframe is None:
                    raise InvalidValueError(f"the interval {show(row['interval'])} is none of {', '.join(_TIMEFRAMES)}")
                values = {name: to_decimal(row[column], column) for name, column in _NUMBERS.items()}
                moment = to_time(row["datetime"], "datetime", zone)
                if timeframe in ("1d", "1w") and moment is not None:
                    moment, daily = _find_day(moment.astimezone(zone)), True
            except InvalidValueError as error:
                staging.refuse(*origin, str(error))
                continue
            series = {"symbol": row["symbol"], "exchange": row["exchange"], "timeframe": timeframe}
            await staging.add(BARS, {**series, "timestamp": moment, **values}, origin)
        staging.count("dbbardata", len(rows))
        done += len(rows)
        tell(done, total)
    if "open_interest" in tables.columns["dbbardata"]:
        staging.notes.append("left out: open_interest, which iftb-store does not have")
    if daily:
        staging.notes.append("bars of 1d and 1w begin at midnight UTC of their day in the time zone of the database")
    if ticks := await tables.count("dbtickdata"):
        staging.notes.append(f"left out: {ticks:,} ticks in dbtickdata")


def _find_day(moment: datetime) -> datetime:
    return datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
