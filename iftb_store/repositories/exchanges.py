"""The exchange of a read: one, all, or the default one, for which a warning is logged if only other exchanges have rows."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any
from weakref import WeakSet

from iftb_store.abilities import SupportsExchanges
from iftb_store.errors import InvalidValueError
from iftb_store.protocols import Stores
from iftb_store.registry import find_lookups
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.values import checks
from iftb_store.values.display import show

#: The exchange of a call that names none.
DEFAULT_EXCHANGE = "binance"

_log = logging.getLogger(__name__)
# the backends, one for each manager, for which the warning was logged
_warned: WeakSet[Any] = WeakSet()


def select_exchange(exchange: object) -> dict[str, str]:
    """Return `RowFilter.equal` for the rows of an exchange; None selects all exchanges."""
    return {} if exchange is None else {"exchange": checks.name_text(exchange, "exchange")}


def check_one_exchange(exchange: object, method: str) -> str:
    """Return the exchange; raise InvalidValueError for None, as the method works on the rows of one exchange."""
    if exchange is None:
        raise InvalidValueError(f"exchange is None, but {method} works on one exchange; give its name")
    return checks.name_text(exchange, "exchange")


def sort_by_exchange(rows: Iterable[Any], second: str = "symbol") -> list[Any]:
    """Sort rows, which are already ordered by time, by exchange, the column ``second`` and time; text is compared by its bytes.

    Rows that have None in the column come first.
    """
    return sorted(rows, key=lambda row: (row.exchange, getattr(row, second) or ""))


async def find_exchanges(stores: Stores, series: RowFilter) -> list[str]:
    """Return the exchanges that have bars with the symbol and timeframe of ``series`` in its window, ordered by their bytes."""
    equal = {name: value for name, value in series.equal.items() if name != "exchange"}
    window = RowFilter(BARS, equal, series.start, series.end)
    for finder in (stores.bars, find_lookups(stores)):
        if isinstance(finder, SupportsExchanges):
            return await finder.find_exchanges(window)
    names = [one.exchange for one in await stores.bars.list_series() if (one.symbol, one.timeframe) == tuple(equal.values())]
    if series.start is series.end is None:
        return names
    return [name for name in names if await stores.bars.read(replace(window, equal={"exchange": name, **equal}, limit=1))]


async def warn_of_bars(backend: object, stores: Stores, series: RowFilter) -> None:
    """After a read that found nothing on the default exchange: log a warning if ``series`` has bars on another exchange only."""

    async def find() -> str | None:
        if await stores.bars.read(replace(series, limit=1)):
            return None
        # a bar of the default exchange may have been stored meanwhile
        names = await find_exchanges(stores, series)
        return next((f"the exchange {show(name)}" for name in names if name != DEFAULT_EXCHANGE), None)

    await warn_of_others(backend, series, find)


async def warn_of_records(backend: object, stores: Stores, rows: RowFilter) -> None:
    """After a read that found nothing on the default exchange: log a warning if rows of another exchange match ``rows``."""

    async def find() -> str | None:
        equal = {name: value for name, value in rows.equal.items() if name != "exchange"}
        others = await stores.records.select(replace(rows, equal=equal, limit=1))
        # a row of the default exchange may have been stored meanwhile
        other = others[0].exchange if others else DEFAULT_EXCHANGE
        return f"the exchange {show(other)}" if other != DEFAULT_EXCHANGE else None

    await warn_of_others(backend, rows, find)


async def warn_of_others(backend: object, rows: RowFilter, find: Callable[[], Awaitable[str | None]]) -> None:
    """After a read that found nothing on the default exchange: log a warning if ``find`` names exchanges with rows that match.

    Only one warning is logged for each manager. Nothing happens if the read named another exchange than the default.
    """
    if rows.equal.get("exchange") != DEFAULT_EXCHANGE or backend in _warned:
        return
    other = await find()
    if other is None or backend in _warned:
        return
    _warned.add(backend)
    symbol = f" of {show(rows.equal['symbol'])}" if "symbol" in rows.equal else ""
    _log.warning(
        "nothing matches in %s%s on the exchange %r, the default, but rows of %s do; name it with exchange=, "
        "or read all exchanges with exchange=None. This is logged once",
        rows.table.name,
        symbol,
        DEFAULT_EXCHANGE,
        other,
    )
