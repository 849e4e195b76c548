"""Writes docs/screens.md, what the commands print at 80 and 60 columns: ``python -m tests.support.screens``."""

from __future__ import annotations

import asyncio
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import patch

from iftb_store import (
    DatabaseManager,
    OHLCVBar,
    OHLCVRepository,
    Position,
    PositionRepository,
    SystemEventRepository,
    Trade,
    TradeRepository,
)
from iftb_store.cli import main
from iftb_store.testing.samples import Clock
from tests.support.documents import DOCS

PAGE = DOCS / "screens.md"
WIDTHS = (80, 60)
URL, COPY = "sqlite:///bot.db", "sqlite:///copy.db"
NOW = datetime(2024, 2, 2, 6, 30, 12, tzinfo=UTC)
_FIRST = datetime(2024, 2, 1, tzinfo=UTC)
_MINUTE = timedelta(minutes=1)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# what a refreshed screen is erased with
_ERASED = "\x1b[2K"

#: The commands of the page, by the sentence that introduces each.
COMMANDS: dict[str, tuple[str, ...]] = {
    "The stored series, how complete they are, and how late their newest bar is.": ("series", URL),
    "Where bars are missing.": ("gaps", URL, "BTCUSDT", "1m"),
    "The newest bars and a line of their closes.": ("latest", URL, "BTCUSDT", "1m", "--limit", "5"),
    "Bars of a longer timeframe.": ("resample", URL, "BTCUSDT", "1m", "1h", "--limit", "3"),
    "The newest trades.": ("trades", URL, "--limit", "4"),
    "Statistics of the trades.": ("stats", URL, "--days", "36500"),
    "The performance of the trades.": ("performance", URL, "--balance", "10000"),
    "The open positions.": ("positions", URL),
    "The last events.": ("events", URL),
    "All of it, refreshed in place until Ctrl-C.": ("watch", URL, "BTCUSDT", "1m", "--limit", "3", "--times", "1"),
    "One SQL statement that reads.": (
        "sql",
        URL,
        "SELECT symbol, COUNT(*) AS trades, SUM(realized_pnl - fee) AS net FROM trades_view GROUP BY symbol ORDER BY symbol",
    ),
    "What a deletion would delete.": ("delete", URL, "BTCUSDT", "1m", "--end", "2024-02-01T12:00", "--dry-run"),
    "What is wrong with the database.": ("doctor", URL),
    "Whether a copy equals its source.": ("verify", URL, COPY, "--table", "trades"),
}

HEAD = """\
# Screens

What the commands print on a terminal of 80 and of 60 columns; `python -m tests.support.screens` runs them and writes this page.
On a narrow terminal the least important columns go, then each row is turned into lines: no number and no time is broken. In a
pipe, lines have any length; `--json` prints the same for programs.
"""


class _Terminal(io.TextIOWrapper):
    """A stream in memory that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def run_on_screen(words: Sequence[str], columns: int, *, encoding: str = "utf-8", colour: bool = False) -> list[str]:
    """Run a command in this process on a terminal of this width; return its lines, as they are left there."""
    written = io.BytesIO()
    changed = {"COLUMNS": str(columns), "LINES": "100", "TERM": "xterm", **({} if colour else {"NO_COLOR": "1"})}
    terminal = _Terminal(written, encoding=encoding, write_through=True)
    with patch.dict(os.environ, changed), patch.object(sys, "stdout", terminal), at_fixed_time():
        assert main(words) == 0, words
        terminal.flush()
    text = written.getvalue().decode(encoding).replace("\r", "")
    return [line.rstrip() for line in _ESCAPES.sub("", text.rpartition(_ERASED)[2]).splitlines()]


@contextmanager
def at_fixed_time() -> Iterator[None]:
    """Let the commands show lags as at NOW."""
    # the package has the commands under the names of their modules
    series, watch = (sys.modules[f"iftb_store.cli.{name}"] for name in ("series", "watch"))
    with patch.object(series, "read_clock", lambda: NOW), patch.object(watch, "read_clock", lambda: NOW):
        yield


async def fill_store(url: str) -> None:
    """Migrate an empty database and store bars with gaps, trades, a position and events in it."""
    clock = Clock(NOW)
    async with DatabaseManager(url) as db:
        await db.migrate()
        bars = OHLCVRepository(db, clock=clock)
        missing = {*range(500, 520), 777}
        await bars.insert_many(
            [_bar("BTCUSDT", "1m", minute * _MINUTE, "42612.31") for minute in range(1_800) if minute not in missing]
        )
        await bars.insert_many([_bar("ETHUSDT", "1h", hour * 60 * _MINUTE, "2287.05") for hour in range(30)])
        trades = TradeRepository(db, clock=clock)
        for number, pnl in enumerate((None, "18.20", "-6.75", "31.4", None, "-2.1")):
            await trades.insert(_trade(number, None if pnl is None else Decimal(pnl)))
        amounts: dict[str, Any] = {"unrealized_pnl": Decimal("-3.21"), "leverage": Decimal(5), "account": "bot-a"}
        position = Position(
            "BTCUSDT", "binance", "long", Decimal("42612.31"), Decimal("0.0125"), Decimal("106.53"), _FIRST, **amounts
        )
        await PositionRepository(db, clock=clock).update_position(position)
        events = SystemEventRepository(db, clock=clock)
        refused = "the exchange refused the order: not enough margin for 0.0125 BTC at 42612.31"
        await events.log_event("order_rejected", "error", refused, symbol="BTCUSDT", at=_FIRST)
        await events.log_event("started", "info", "the bot is running", at=_FIRST + 5 * _MINUTE)


def _bar(symbol: str, timeframe: str, after: timedelta, price: str) -> OHLCVBar:
    step = after // _MINUTE
    close = Decimal(price) + (step * 37 % 211 - 105)
    prices = close - Decimal("1.25"), close + 3, close - 4, close
    name: Any = timeframe
    return OHLCVBar(symbol, "binance", name, _FIRST + after, *prices, Decimal("12.50391") + step, trades_count=1_200 + step)


def _trade(number: int, pnl: Decimal | None) -> Trade:
    entry = _FIRST + timedelta(hours=number)
    done: dict[str, Any] = {}
    if pnl is not None:
        done = {"exit_price": Decimal("42701.5"), "exit_time": entry + 40 * _MINUTE, "realized_pnl": pnl, "exit_reason": "target"}
    side: Any = "short" if number == 2 else "long"
    action: Any = "open" if pnl is None else "close"
    own: dict[str, Any] = {
        "fee": Decimal("0.21306"),
        "account": "bot-a",
        "strategy": "breakout",
        "tags": ["night"] if number else [],
    }
    symbol = "ETHUSDT" if number % 2 else "BTCUSDT"
    return Trade(f"T-{number}", symbol, "binance", side, action, Decimal("42612.31"), Decimal("0.0125"), entry, **done, **own)


def write_sections(commands: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield the section of each command: its screens at each width."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        asyncio.run(fill_store(URL))
        asyncio.run(fill_store(COPY))
        for sentence, words in commands.items():
            shown = " ".join(f'"{word}"' if " " in word else word for word in words)
            section = f"\n## {words[0]}\n\n{sentence}\n"
            for columns in WIDTHS:
                lines = "\n".join(run_on_screen(words, columns))
                command = f"$ iftb-store {shown}\n" if columns == WIDTHS[0] else ""
                section += f"\n{columns} columns:\n\n```txt\n{command}{lines}\n```\n"
            yield section


if __name__ == "__main__":
    PAGE.write_text(HEAD + "".join(write_sections(COMMANDS)))
