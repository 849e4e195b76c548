"""The error of a command that found nothing for a symbol: it names similar symbols that are stored."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import URL

from iftb_store.cli.target import run
from iftb_store.errors import NotFoundError
from iftb_store.manager import DatabaseManager
from iftb_store.protocols import Capability
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.repositories.trades import TradeRepository
from iftb_store.values.suggestions import find_near

# the newest trades whose symbols are known
_NEWEST = 1_000


def report_unknown(url: str | URL | None, symbols: Sequence[str], nothing: str) -> None:
    """Raise NotFoundError if one of the symbols is not stored; the message names similar symbols that are stored.

    Args:
        url: the database in which nothing was found.
        symbols: the symbols that the user gave.
        nothing: the beginning of the message.
    """
    unknown = run(url, lambda db: _find_unknown(db, symbols)) if symbols else {}
    if unknown:
        raise NotFoundError(
            f"{nothing}; {describe_near([name for near in unknown.values() for name in near], 'bar or recent trade')}"
        )


def describe_near(near: Sequence[str], compared: str) -> str:
    """Return the end of a message about an unknown symbol: a question that names similar symbols, or that there are none.

    Args:
        near: the similar symbols.
        compared: the kind of rows whose symbols were compared, e.g. "bar".
    """
    return f"did you mean {' or '.join(near)}?" if near else f"no {compared} has a similar symbol"


async def _find_unknown(db: DatabaseManager, symbols: Sequence[str]) -> dict[str, list[str]]:
    """Return the symbols that are not stored, each with the similar symbols that are stored."""
    stored = {one.symbol for one in await OHLCVRepository(db).list_series(counts=False)}
    if Capability.RECORDS in db.capabilities:
        stored |= {trade.symbol for trade in await TradeRepository(db).get_recent(_NEWEST)}
    return {symbol: find_near(symbol, stored) for symbol in symbols if symbol not in stored}
