"""Reads the answers of an exchange: rows [milliseconds, open, high, low, close, volume], as ccxt's fetch_ohlcv returns them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from iftb_store.errors import InvalidValueError
from iftb_store.models import OHLCVBar
from iftb_store.values import checks
from iftb_store.values.ccxt import CCXT_COLUMNS, read_milliseconds, read_number
from iftb_store.values.display import show, type_name
from iftb_store.values.timeframes import is_off_grid


def read_answer(answer: object, names: tuple[str, str, str], *, from_float: bool) -> dict[datetime, OHLCVBar | None]:
    """Return the bars of an answer by their opening times, in order; None for a row that has a None and so is no bar.

    Args:
        answer: the rows, in any order.
        names: the exchange, symbol and timeframe of the bars.
        from_float: whether numbers may be floats, of which the shortest decimal is taken.

    Raises:
        InvalidValueError: the answer is not a list of rows, a row cannot be read, lies off the grid of the timeframe, or has the
            time of another row with other values.
    """
    if not isinstance(answer, list | tuple):
        raise InvalidValueError(f"fetch must return a list of rows [ms, open, high, low, close, volume], not {type_name(answer)}")
    exchange, symbol, timeframe = names
    where = f"{exchange} {symbol} {timeframe}"
    found: dict[datetime, OHLCVBar | None] = {}
    for row in answer:
        if not isinstance(row, list | tuple) or len(row) < len(CCXT_COLUMNS):
            raise InvalidValueError(f"{where}: a row of the answer is {show(row)}, not [ms, open, high, low, close, volume]")
        moment = read_milliseconds(row[0])
        if is_off_grid(moment, timeframe):
            raise InvalidValueError(
                f"{where}: the answer has a row of {moment.isoformat()}, at which no bar of {timeframe} begins; "
                "check the timeframe that fetch asks for"
            )
        bar = None
        if None not in row[1 : len(CCXT_COLUMNS)]:
            try:
                open_, high, low, close, volume = (
                    _read(value, name, from_float=from_float) for name, value in zip(CCXT_COLUMNS[1:], row[1:6], strict=True)
                )
            except InvalidValueError as error:
                raise InvalidValueError(f"{where} {moment.isoformat()}: {error}") from error
            bar = OHLCVBar(symbol, exchange, timeframe, moment, open_, high, low, close, volume)  # type: ignore[arg-type]
        if moment in found and found[moment] != bar:
            raise InvalidValueError(
                f"{where}: the answer has two different rows of {moment.isoformat()}; nothing of it was stored"
            )
        found[moment] = bar
    return dict(sorted(found.items()))


def _read(value: Any, name: str, *, from_float: bool) -> Decimal:
    if isinstance(value, float) and not from_float:
        raise InvalidValueError(
            f"{name} is the float {value!r}; set `exchange.number = str` so that ccxt returns the exchange's digits, or accept "
            'the shortest decimals of floats: decimals="from_float"'
        )
    return read_number(value, name) if from_float else checks.exact_decimal(read_number(value, name), name)
