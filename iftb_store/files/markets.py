"""Refuses files of futures and indexes whose names look like spot candles; Binance's folders and freqtrade's names show them."""

from __future__ import annotations

import re
from pathlib import Path

from iftb_store.files.readers.binance import DumpError, find_series_in_name
from iftb_store.values.display import show
from iftb_store.values.timeframes import MONTH, SECONDS

# freqtrade's names, e.g. BTC_USDT-5m.feather or BTC_USDT_USDT-1h-futures.feather; M is Mo
_FREQTRADE = re.compile(r"(?P<pair>\w[\w-]*?)-(?P<timeframe>\d+[A-Za-z]{1,2})(?:-(?P<candles>[A-Za-z_]+))?(?:\.\w+)+")
# kinds of candles in freqtrade's file names that are computed from trades; None if the name has no kind
_TRADED = (None, "spot", "futures")
# the last folders of Binance's public data whose files have the names of those of the spot market, in lower case
_MARKETS = {
    "futures": "a futures market",
    "um": "the USD-M futures",
    "cm": "the COIN-M futures",
    "option": "options",
    "markpriceklines": "a mark price",
    "indexpriceklines": "a price index",
    "premiumindexklines": "a premium index",
}


def read_series_in_name(path: Path) -> tuple[str | None, str | None]:
    """Return (symbol, timeframe) from a file's name, each None if the name does not contain it.

    Two forms are recognised: Binance's dumps (FILUSDT-1m-2023-04.zip) and freqtrade's candles. BTC_USDT-5m.feather contains the
    pair BTC/USDT, and BTC_USDT_USDT-1h-futures.feather the pair BTC/USDT:USDT.
    """
    match = _match_name(path)
    if match is None:
        return find_series_in_name(path)
    return _read_pair(match["pair"]), _read_timeframe(match["timeframe"])


def check_series_in_name(path: Path) -> None:
    """Raise an error if a file has a name of freqtrade's that does not show for which pair it contains candles of trades.

    Raises:
        DumpError: the candles are not computed from trades (mark, index, funding_rate), or the name may mean several pairs.
    """
    match = _match_name(path)
    if match is None:
        return
    if match["candles"] not in _TRADED:
        raise DumpError(
            f"{path}: contains {match['candles']} candles of a future, which are not computed from trades; "
            "use --symbol to store them under another name"
        )
    if _read_pair(match["pair"]) is None:
        raise DumpError(
            f"{path}: the file name does not show the pair, as freqtrade writes _ for each of / : $ . + @; "
            "give the pair with --symbol, e.g. --symbol '$AI/USDT'"
        )


def _match_name(path: Path) -> re.Match[str] | None:
    """Return the parts of a file name of freqtrade; None for any other name, e.g. that of a Binance dump."""
    match = _FREQTRADE.fullmatch(path.name)
    if match is None or find_series_in_name(path) != (None, None) or _read_timeframe(match["timeframe"]) not in SECONDS:
        return None
    return match


def _read_timeframe(text: str) -> str:
    return MONTH if text.lower() == "1mo" else text


def _read_pair(text: str) -> str | None:
    """Return the pair in a freqtrade file name; None if an underscore may replace a character other than / and :."""
    base, *rest = text.split("_")
    if not rest:
        return text
    if not base or not all(rest):
        return None
    if len(rest) == 1:
        return f"{base}/{rest[0]}"
    # a future is settled in its quote or its base currency, and may have a date: BTC_USDT_USDT-240329
    if len(rest) == 2 and rest[1].partition("-")[0] in (base, rest[0]):
        return f"{base}/{rest[0]}:{rest[1]}"
    return None


def check_market(path: Path) -> None:
    """Raise an error if a file is named like a Binance dump and a folder in its path (e.g. futures) shows it is not spot data.

    Raises:
        DumpError: a folder names another market or a price index.
    """
    if find_series_in_name(path) == (None, None):
        return
    folders = [part for part in path.absolute().parts[:-1] if part.lower() in _MARKETS]
    if folders:
        raise DumpError(
            f"{path}: the folder {show(folders[-1])} is of {_MARKETS[folders[-1].lower()]}, whose files are named like "
            "those of the spot market; name the market with --exchange, e.g. --exchange binance-um, or with --symbol"
        )
