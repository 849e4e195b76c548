"""The screens of the commands: docs/screens.md is current, lines fit, and no number or time is broken."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
import typer

from iftb_store import DatabaseManager, OHLCVRepository, Position, PositionRepository, TradeRepository
from iftb_store.cli.output import fit_table
from iftb_store.testing.samples import LARGEST, SMALLEST, T0, bar, trade
from tests.support.screens import COMMANDS, HEAD, PAGE, run_on_screen, write_sections

# a number, a time, or a duration; of a long number each part between two commas
_NUMBER = re.compile(r"[0-9][0-9.:-]*")
# these print their own tables; tests/doctor tests doctor's
_TABLES = [words for words in COMMANDS.values() if words[0] not in ("doctor", "verify", "performance")]


@pytest.fixture(scope="module", autouse=True)
def built_once() -> Iterator[None]:
    """Build Typer's commands once: that takes most of the time of a command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of rows with as many digits as columns hold."""
    made = tmp_path_factory.mktemp("screens")
    asyncio.run(_fill_with_extremes(f"sqlite:///{made / 'bot.db'}"))
    return made


async def _fill_with_extremes(url: str) -> None:
    async with DatabaseManager(url) as db:
        await db.migrate()
        price = LARGEST
        bars = [bar(T0 + timedelta(minutes=n), timeframe="1m", open=price, high=price, low=SMALLEST, close=price) for n in (0, 2)]
        await OHLCVRepository(db).insert_many(bars)
        figures = {"exit_price": price, "exit_time": T0, "realized_pnl": LARGEST.copy_negate(), "fee": SMALLEST}
        await TradeRepository(db).insert(trade("T-1", action="close", entry_price=price, quantity=LARGEST, **figures))
        position = Position("BTCUSDT", "binance", "long", price, LARGEST, LARGEST, T0, unrealized_pnl=LARGEST.copy_negate())
        await PositionRepository(db).update_position(position)


@pytest.mark.parametrize("names", [("series", "trades", "watch"), pytest.param(None, marks=pytest.mark.full)])
def test_the_page_is_current(names: tuple[str, ...] | None) -> None:
    chosen = COMMANDS if names is None else {key: words for key, words in COMMANDS.items() if words[0] in names}
    sections = list(write_sections(chosen))
    assert [section for section in sections if section not in PAGE.read_text()] == [], "`python -m tests.support.screens`"
    assert names is not None or PAGE.read_text() == HEAD + "".join(sections)


@pytest.mark.parametrize("words", _TABLES, ids=lambda words: words[0])
def test_no_number_is_broken_however_narrow_the_terminal(
    words: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    given = [*words, "--partial"] if words[0] == "resample" else words
    whole = set(_NUMBER.findall("\n".join(run_on_screen(given, 1_000))))
    for columns, encoding, colour in ((80, "utf-8", True), (60, "ascii", False)):
        lines = run_on_screen(given, columns, encoding=encoding, colour=colour)
        assert [line for line in lines if len(line) > columns] == []
        assert set(_NUMBER.findall("\n".join(lines))) <= whole
        assert encoding == "utf-8" or "\n".join(lines).isascii()


def test_columns_go_before_rows_are_turned() -> None:
    titles, rows = ["name", "words", "price"], [["BTCUSDT", "some words of a text that is long", "42612.310000000000000001"]]

    def draw(width: int) -> list[str]:
        from rich.console import Console

        console = Console(width=width, color_system=None, legacy_windows=False)
        with console.capture() as captured:
            console.print(fit_table(titles, rows, ["name"], width=width, right=["price"], wrapped=["words"]))
        return [line.rstrip() for line in captured.get().splitlines()]

    assert draw(80)[2] == "BTCUSDT  some words of a text that is long  42612.310000000000000001"
    assert draw(60)[2:] == [
        "BTCUSDT  some words of a text that  42612.310000000000000001",
        "         is long",
    ]
    assert draw(52)[2:] == ["some words of a text that   42612.310000000000000001", "is long"]
    assert draw(40) == ["BTCUSDT", "  words some words of a text that is", "  long", "  price 42612.310000000000000001"]
