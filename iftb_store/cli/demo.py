"""The command demo: a tour of the library on an SQLite file, from import to trade statistics."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from iftb_store._io.background import run_blocking
from iftb_store.cli.files import summary
from iftb_store.cli.output import console, say
from iftb_store.cli.records import make_statistics_table
from iftb_store.errors import InvalidValueError
from iftb_store.files.import_ import import_file
from iftb_store.files.options import Hints
from iftb_store.files.source import Source
from iftb_store.manager import DatabaseManager
from iftb_store.models import OHLCVBar, Position, Trade
from iftb_store.repositories.events import SystemEventRepository
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.repositories.positions import PositionRepository
from iftb_store.repositories.trades import TradeRepository
from iftb_store.schema.types import to_epoch_us
from iftb_store.values.checks import text
from iftb_store.values.readable import format_moment, format_number

_SYMBOL = "BTCUSDT"
_DATABASE = "demo.db"
_MINUTE = timedelta(minutes=1)
_MINUTES = 1_440
_GAP = range(600, 612)
_ENTRY, _EXIT = 480, 1_260
_QUANTITY = Decimal("0.05")
_FEE_RATE = Decimal("0.0004")


def demo(
    path: Annotated[
        Path | None, typer.Option(help="Keep the files in this directory instead of a temporary one.", show_default=False)
    ] = None,
) -> None:
    """Run a demonstration on an SQLite file, from importing candles to trade statistics.

    The demo generates candles with a gap in Binance's file format, imports them and finds the gap. It then opens a trade
    with its position and event, closes it, and shows the statistics.
    """
    if path is None:
        with tempfile.TemporaryDirectory(prefix="iftb-store-demo-") as folder:
            run_blocking(partial(_run, Path(folder)))
        say()
        say("The files were temporary and have been deleted. To try next:")
        _commands("iftb-store demo --path iftb-demo", "iftb-store --help")
        return
    text(str(path), "--path")
    if (path / _DATABASE).exists():
        raise InvalidValueError(f"{path / _DATABASE} already exists; remove it, or give another directory")
    path.mkdir(parents=True, exist_ok=True)
    run_blocking(partial(_run, path))
    url = f"sqlite:///{(path / _DATABASE).as_posix()}"
    say()
    say("To try next:")
    _commands(
        f"iftb-store latest {url} {_SYMBOL} 1m --limit 5",
        f"iftb-store events {url}",
        f"iftb-store stats {url} --json",
        f"iftb-store import {url} <a dump from data.binance.vision>.zip",
    )


async def _run(folder: Path) -> None:
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    _step(1, "Candles in the exchange's file format")
    dump = _write_dump(folder, day)
    say(f"{dump.name}: one day of generated one-minute candles, {len(_GAP)} of them left out.")

    async with DatabaseManager(f"sqlite:///{(folder / _DATABASE).as_posix()}") as db:
        _step(2, "A database and its schema")
        await db.migrate()
        say(f"{_DATABASE}: an SQLite file; the same code runs on PostgreSQL and DuckDB, only the URL differs.")

        _step(3, "Import: exact decimals, the whole file or nothing")
        source = Source(dump, Hints())
        say(summary(await import_file(db, source)))
        say(f"again: {(await import_file(db, source)).rows:,} bars overwritten with the same values, none added")

        _step(4, "Gaps, found by a query in the database")
        for before, after in await OHLCVRepository(db).get_gaps(_SYMBOL, "1m"):
            say(
                f"after {format_moment(before)} the next candle is {format_moment(after)}: "
                f"{(after - before) // _MINUTE - 1} are missing"
            )

        held = await OHLCVRepository(db).get_range(_SYMBOL, "1m", day + _ENTRY * _MINUTE, day + _EXIT * _MINUTE)
        await _trade(db, held[0], held[-1])

        _step(7, "Statistics of the last 30 days")
        make_statistics_table(await TradeRepository(db).get_statistics(days=30))


async def _trade(db: DatabaseManager, opened: OHLCVBar, closed: OHLCVBar) -> None:
    _step(5, "Open: trade, position and event in one transaction")
    names: dict[str, Any] = {"symbol": _SYMBOL, "trade_id": "DEMO-001"}
    entry = {**names, "exchange": "binance", "side": "long", "leverage": Decimal(5), "quantity": _QUANTITY}
    entry |= {"entry_price": opened.close, "entry_time": opened.timestamp}
    async with db.get_session() as session:
        trade = Trade(**entry, action="open", decision_reasons={"signal": "demo", "price": opened.close})
        trade_id = await TradeRepository(session).insert(trade)
        await PositionRepository(session).update_position(Position(**entry, margin=opened.close * _QUANTITY / 5))
        message = f"long {_QUANTITY} {_SYMBOL} at {format_number(opened.close)}"
        await SystemEventRepository(session).log_event("trade_opened", "info", message, **names)
    (position,) = await PositionRepository(db).get_open_positions()
    say(
        f"long {position.quantity} {position.symbol} at {format_number(position.entry_price)}, "
        f"margin {format_number(position.margin)}"
    )

    _step(6, "Close: trade, position and event in one transaction")
    pnl = (closed.close - opened.close) * _QUANTITY
    fee = (closed.close + opened.close) * _QUANTITY * _FEE_RATE
    async with db.get_session() as session:
        await TradeRepository(session).update(
            trade_id, action="close", exit_price=closed.close, exit_time=closed.timestamp, realized_pnl=pnl, fee=fee
        )
        if position.id is not None:
            await PositionRepository(session).close_position(position.id)
        message = f"closed at {format_number(closed.close)}, pnl {format_number(pnl)}"
        await SystemEventRepository(session).log_event("trade_closed", "info", message, **names)
    say(f"closed at {format_number(closed.close)}: pnl {format_number(pnl)}, fee {format_number(fee)}; open positions left: none")


def _step(index: int, title: str) -> None:
    say()
    console().print(Text(f"{index}. {title}", style="bold"))


def _commands(*commands: str) -> None:
    for command in commands:
        say(f"  {command}")


def _write_dump(folder: Path, day: datetime) -> Path:
    name = f"{_SYMBOL}-1m-{day:%Y-%m-%d}"
    header = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
    with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.csv", "\n".join([header, *_lines(day)]) + "\n")
    return folder / f"{name}.zip"


def _lines(day: datetime) -> Iterator[str]:
    """Yield the CSV lines of one day's 1-minute candles.

    The prices are made up but the same on every run; minutes in the gap are left out.
    """
    cents = 6_000_000
    for minute in range(_MINUTES):
        opened, cents = cents, cents + (minute * minute * 37 + minute * 101) % 4_001 - 1_960
        if minute in _GAP:
            continue
        high, low = max(opened, cents) + minute % 7 * 50, min(opened, cents) - minute % 5 * 50
        volume = 5_000 + minute * 7_919 % 20_000
        start = to_epoch_us(day + minute * _MINUTE) // 1_000
        prices = ",".join(f"{price // 100}.{price % 100:02}" for price in (opened, high, low, cents))
        volumes = [Decimal(amount).scaleb(-3) for amount in (volume, volume // 2)]
        quotes = [amount * Decimal(cents).scaleb(-2) for amount in volumes]
        count = 100 + minute % 50
        yield f"{start},{prices},{volumes[0]},{start + 59_999},{quotes[0]},{count},{volumes[1]},{quotes[1]},0"
