"""The command fill: asks an exchange, through ccxt, for the candles that are missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import import_module
from typing import Annotated, Any

import typer

from iftb_store.cli.completion import timeframes, timeframes_without_url
from iftb_store.cli.data import Argument, Json, Option, parse_time_window
from iftb_store.cli.output import print_error, print_json, say
from iftb_store.cli.progress import Progress
from iftb_store.cli.target import URL_HELP, explain_stop, run, split_url_and_rest, split_url_and_series
from iftb_store.cli.transfer import Quiet
from iftb_store.errors import InvalidValueError, MissingDriverError, StoreError
from iftb_store.exchange.fill import FillReport
from iftb_store.exchange.fill import fill as fill_series
from iftb_store.manager import DatabaseManager
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.schema.types import EPOCH
from iftb_store.values.display import show, to_one_line
from iftb_store.values.readable import format_count
from iftb_store.values.suggestions import suggest


@dataclass(frozen=True, slots=True)
class _Order:
    """One series to fill: its symbol as it is stored and as ccxt names it, its timeframe and its window."""

    symbol: str
    market: str
    timeframe: Any
    start: datetime
    end: datetime | None


def fill(
    url: Annotated[str | None, Argument(metavar="URL", help=URL_HELP)] = None,
    symbol: Annotated[
        str | None,
        Argument(
            metavar="SYMBOL", help="Symbol of ccxt or of the exchange, e.g. BTC/USDT.", autocompletion=timeframes_without_url
        ),
    ] = None,
    timeframe: Annotated[str | None, Argument(metavar="TIMEFRAME", help="Timeframe, e.g. 1m.", autocompletion=timeframes)] = None,
    exchange: Annotated[
        str, typer.Option(help="Exchange, as ccxt names it; the candles are stored under this name.")
    ] = "binance",
    start: Annotated[
        str | None,
        Option(metavar="TIME", help="Start of the time window, inclusive (default with --all: the first stored candle)."),
    ] = None,
    end: Annotated[
        str | None, Option(metavar="TIME", help="End of the time window, inclusive (default: the last candle that has ended).")
    ] = None,
    stored_as: Annotated[
        str | None, Option("--as", metavar="NAME", help="Symbol to store (default: the exchange's own, e.g. BTCUSDT).")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Fill every stored series of the exchange.")] = False,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Ask again for candles that the exchange did not give earlier.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Number of candles to ask for at once.")] = 1000,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Ask an exchange for the candles that are missing and were never asked for, and store them, oldest first.

    It needs ccxt: pip install "iftb-store[ccxt]". Each answer is stored with the range that it covers, so an interrupted fill
    resumes when run again, and candles that the exchange does not have are not asked for twice. A candle that has not ended is
    never stored, a stored one never overwritten. TIME is ISO 8601, in UTC unless it has an offset; or now, or -7d for 7 days ago
    (m minutes, h hours, d days, w weeks).
    """
    if everything:
        url, rest = split_url_and_rest(url, symbol, timeframe)
        if rest or stored_as is not None:
            raise InvalidValueError("--all fills every stored series; leave out SYMBOL, TIMEFRAME and --as")
        series = None
    else:
        url, series = split_url_and_series(url, symbol, timeframe)
        if start is None:
            raise InvalidValueError("--start is required, e.g. --start 2024-01-01 or --start -7d; --all needs none")
    first, last = parse_time_window(start, end)
    progress = Progress(quiet=quiet, unit="candles")

    async def work(db: DatabaseManager) -> list[tuple[_Order, FillReport | str]]:
        async with _open_exchange(exchange) as market:
            orders = await _find_orders(db, market, exchange, series, stored_as, first, last)
            done: list[tuple[_Order, FillReport | str]] = []
            for order in orders:
                try:
                    result: FillReport | str = await _fill(db, market, exchange, order, progress, limit=limit, recheck=recheck)
                except StoreError as error:
                    if series is not None:
                        raise
                    result = str(error)
                done.append((order, result))
                progress.end_step()
                if isinstance(result, str):
                    print_error(f"{exchange} {order.symbol} {order.timeframe}: {result}")
                elif not quiet and not as_json:
                    say(_describe(exchange, order, result))
            return done

    with explain_stop(lambda: "stopped; what was stored stays, and the same command resumes"), progress:
        done = run(url, work, create=False)
    if as_json:
        names = [{"exchange": exchange, "symbol": order.symbol, "timeframe": order.timeframe} for order, _ in done]
        print_json([name | asdict(one) for name, (_, one) in zip(names, done, strict=True) if isinstance(one, FillReport)])
    if any(isinstance(one, str) for _, one in done):
        raise typer.Exit(1)


@asynccontextmanager
async def _open_exchange(name: str) -> AsyncIterator[Any]:
    """Yield ccxt's exchange with its rate limiter and exact numbers, its markets loaded.

    Raises:
        MissingDriverError: ccxt is not installed.
        InvalidValueError: ccxt has no such exchange.
        StoreError: the exchange does not answer.
    """
    try:
        ccxt: Any = import_module("ccxt.async_support")
    except ModuleNotFoundError as error:
        raise MissingDriverError(
            f'fill needs the module {error.name!r}, which is not installed; run: pip install "iftb-store[ccxt]"'
        ) from error
    if name not in ccxt.exchanges:
        raise InvalidValueError(f"ccxt has no exchange {show(name)}; {suggest(name, ccxt.exchanges)}see ccxt.exchanges")
    market = getattr(ccxt, name)({"enableRateLimit": True})
    # so that no digit goes through a float
    market.number = str
    try:
        with _readable_errors(name):
            if not market.has.get("fetchOHLCV"):
                raise InvalidValueError(f"{name} gives no candles through ccxt; import its files instead")
            await market.load_markets()
        yield market
    finally:
        await market.close()


class _readable_errors:  # noqa: N801 - used as a function
    """Raises StoreError with one line in place of ccxt's errors."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        ccxt: Any = import_module("ccxt")
        if isinstance(error, ccxt.BaseError):
            raise StoreError(f"{self._name}: {type(error).__name__}: {to_one_line(str(error))}") from error


async def _find_orders(
    db: DatabaseManager,
    market: Any,
    exchange: str,
    series: tuple[str, str] | None,
    stored_as: str | None,
    first: datetime | None,
    last: datetime | None,
) -> list[_Order]:
    if series is not None:
        symbol, timeframe = series
        found = _find_market(market, symbol)
        if found is None:
            raise InvalidValueError(
                f"{exchange} has no market {show(symbol)}; {suggest(symbol, market.symbols)}write it as BTC/USDT"
            )
        if timeframe not in market.timeframes:
            raise InvalidValueError(f"{exchange} has no candles of {timeframe}, only of {' '.join(market.timeframes)}")
        return [_Order(stored_as or found["id"], found["symbol"], timeframe, first or EPOCH, last)]
    orders = []
    for one in await OHLCVRepository(db).list_series():
        if one.exchange != exchange:
            continue
        found = _find_market(market, one.symbol)
        name = one.symbol if found is None else found["symbol"]
        orders.append(_Order(one.symbol, name, one.timeframe, first or one.first, last))
    return orders


def _find_market(market: Any, symbol: str) -> dict[str, Any] | None:
    """Return ccxt's market with a symbol, or with the exchange's own name for it: spot first; None if there is none."""
    if symbol in market.markets:
        found: dict[str, Any] = market.markets[symbol]
        return found
    named = market.markets_by_id.get(symbol, [])
    return next((one for one in named if one.get("spot")), named[0] if named else None)


async def _fill(
    db: DatabaseManager, market: Any, exchange: str, order: _Order, progress: Progress, *, limit: int, recheck: bool
) -> FillReport:
    ccxt: Any = import_module("ccxt")
    if order.market not in market.markets:
        raise StoreError("the exchange has no such market; its candles stay as they are")
    with _readable_errors(exchange):
        return await fill_series(
            db,
            order.symbol,
            order.timeframe,
            order.start,
            order.end,
            market.fetch_ohlcv,
            exchange=exchange,
            fetch_symbol=order.market,
            limit=limit,
            retry=(ccxt.NetworkError,),
            recheck=recheck,
            progress=progress,
        )


def _describe(exchange: str, order: _Order, report: FillReport) -> str:
    parts = [f"{format_count(report.inserted, 'candle')} inserted"]
    parts += [f"{report.updated:,} changed"] if report.updated else []
    parts.append(f"{report.none:,} not given by the exchange")
    parts += [f"{report.unknown:,} still unknown"] if report.unknown else []
    requests = format_count(report.requests, "request")
    return f"{exchange} {order.symbol} {order.timeframe}: {', '.join(parts)} ({requests})"
