"""The numbers of ccxt's candles: prices as floats, texts or numbers, times as milliseconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from iftb_store.errors import InvalidValueError
from iftb_store.values import checks
from iftb_store.values.decimals import NUMBER, decimal, to_index
from iftb_store.values.display import describe_value, show

#: The values of a row of ccxt, in this order.
CCXT_COLUMNS = ("timestamp", "open", "high", "low", "close", "volume")
# as milliseconds since 1970, numbers between this and checks.LEAST_MILLISECONDS lie in 1970 to 1973, before any candle
_LEAST_SECONDS = 100_000_000


def read_number(value: object, name: str) -> Decimal:
    """Return a price or a volume of a row as a Decimal; a float as its shortest decimal, rounded half-even to 18 places."""
    if isinstance(value, float):
        return checks.round_to_places(Decimal(float.__repr__(value)), name)
    if isinstance(value, str):
        if not NUMBER.fullmatch(value):
            raise InvalidValueError(f"{name} {show(value)} is not a decimal number")
        return decimal(Decimal(value), name)
    return decimal(value, name)


def read_milliseconds(value: object) -> datetime:
    """Return the time of a row, milliseconds since 1970, as an aware datetime in UTC."""
    number = int(value) if isinstance(value, float) and value.is_integer() else to_index(value)
    if number is not None and _LEAST_SECONDS <= number < checks.LEAST_MILLISECONDS:
        raise InvalidValueError(
            f"timestamp {number} is in seconds since 1970, but a row of ccxt has milliseconds; multiply by 1000"
        )
    if number is None:
        raise InvalidValueError(f"timestamp must be a whole number of milliseconds since 1970, not {describe_value(value)}")
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=number)
    except OverflowError as error:
        raise InvalidValueError(
            f"timestamp {number} lies outside the years 1 to 9999; it is in milliseconds since 1970"
        ) from error
