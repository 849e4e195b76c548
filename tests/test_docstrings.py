"""The docstrings of the public methods and functions: each explains its parameters and its result, and its example is right."""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import os
import shutil
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import exc, text

import iftb_store
from iftb_store import (
    BalanceSnapshot,
    DatabaseManager,
    Fill,
    LedgerEntry,
    OHLCVBar,
    Position,
    Trade,
    sync,
)
from tests.support.docstrings import (
    find_blocking,
    find_documented,
    find_lacks,
    find_section,
    list_names,
    prepare_example,
)

_DOCUMENTED = find_documented()
_BLOCKING = find_blocking()
_REPOSITORIES = {
    "ohlcv": "OHLCV",
    "trades": "Trade",
    "positions": "Position",
    "events": "SystemEvent",
    "fills": "Fill",
    "ledger": "Ledger",
    "balances": "Balance",
}
_START = datetime(2024, 2, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_KLINE = "1706745660000,2.8350,2.8380,2.8320,2.8360,75272,1706745719999,213403.5590,513,32980,93511.3580,0\n"


def _now() -> datetime:
    return _START + timedelta(days=1)


def _bar(hour: int) -> OHLCVBar:
    price = Decimal(42_600)
    return OHLCVBar(
        "BTCUSDT", "binance", "1h", _START + hour * _HOUR, price, price + 50, price - 50, price + hour, Decimal("1.5")
    )


def _trade(trade_id: str, symbol: str = "BTCUSDT", **changes: Any) -> Trade:
    plain = Trade(trade_id, symbol, "binance", "long", "open", Decimal("42600"), Decimal("0.01"), _START + _HOUR)
    return dataclasses.replace(plain, **changes)


def _fill(fill_id: str, side: Any, price: str, moment: datetime) -> Fill:
    return Fill(fill_id, "BTCUSDT", "binance", side, Decimal(price), Decimal("0.01"), moment, trade_id="T-1")


def _position(symbol: str, trade_id: str) -> Position:
    price, quantity, margin = Decimal("42600"), Decimal("0.01"), Decimal("85.2")
    return Position(symbol, "binance", "long", price, quantity, margin, entry_time=_START, trade_id=trade_id)


@pytest.fixture(scope="module")
def example_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database of what the examples find: 23 bars of a day, two trades with their fills, a position, two events."""
    path = tmp_path_factory.mktemp("filled") / "bot.db"
    with sync.open_store(f"sqlite:///{path}") as db:
        db.migrate()
        db.ohlcv.insert_many([_bar(hour) for hour in range(24) if hour != 7])
        done: dict[str, Any] = {
            "action": "close",
            "exit_price": Decimal("42677.5"),
            "exit_time": _START + 2 * _HOUR,
            "fee": Decimal("0.05"),
        }
        db.trades.insert(_trade("T-1", realized_pnl=Decimal("0.775"), tags=["breakout"], **done))
        db.trades.insert(_trade("T-2", entry_time=_START + 3 * _HOUR))
        db.positions.update_position(_position("BTCUSDT", "T-2"))
        db.fills.record(_fill("F-1", "buy", "42600", _START + _HOUR))
        db.fills.record(_fill("F-2", "sell", "42677.5", _START + 2 * _HOUR))
        db.ledger.record_many(
            [
                LedgerEntry("deposit", "USDT", Decimal(1000), _START, "binance", external_id="D-1"),
                LedgerEntry("funding", "USDT", Decimal("-1.25"), _START + _HOUR, "binance", symbol="BTCUSDT", external_id="P-1"),
            ]
        )
        db.balances.record_many(
            [
                BalanceSnapshot("binance", "USDT", _START, Decimal(1000)),
                BalanceSnapshot("binance", "USDT", _START + _HOUR, Decimal("998.75")),
                BalanceSnapshot("binance", "BTC", _START, Decimal("0.01")),
            ]
        )
        events = sync.SyncSystemEventRepository(db, clock=_now)
        events.log_event("trade_opened", "info", "long 0.01 BTCUSDT", symbol="BTCUSDT", exchange="binance", trade_id="T-2")
        events.log_event("order_refused", "error", "not enough margin", {"code": -2019}, symbol="ETHUSDT")
    return path


@pytest.fixture
def folder(example_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a new folder, with the database of a bot and a file of candles."""
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    shutil.copy(example_database, "bot.db")
    Path("BTCUSDT-1m-2024-01.csv").write_text(_KLINE)
    for variable in [name for name in os.environ if name.startswith(("DB_", "IFTB_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("IFTB_STORE_URL", "sqlite:///bot.db")


def _names() -> dict[str, Any]:
    """Return the names that examples may use without defining them, but those of the stores."""
    return {
        **{name: getattr(iftb_store, name) for name in iftb_store.__all__},
        "UTC": UTC,
        "datetime": datetime,
        "timedelta": timedelta,
        "Decimal": Decimal,
        "text": text,
        "start": _START,
        "new_bars": [_bar(7), _bar(24)],
        "new_trade": _trade("T-3", "ETHUSDT"),
        "new_position": _position("ETHUSDT", "T-3"),
    }


def _examples(documented: dict[str, Any]) -> dict[str, str]:
    return {name: example for name, thing in documented.items() if (example := find_section(thing, "Example"))}


_CLASSES = {name: thing for name in iftb_store.__all__ if inspect.isclass(thing := getattr(iftb_store, name))}
_EXAMPLES = _examples({**_CLASSES, **_DOCUMENTED})
# the URL of an example that needs PostgreSQL
_POSTGRES = "postgresql://bot:secret@localhost/iftb"
_BLOCKING_EXAMPLES = _examples({"SyncStream": sync.SyncStream, **_BLOCKING})


@pytest.fixture
def located(request: pytest.FixtureRequest, name: str) -> str:
    """The URL of an empty PostgreSQL database, for an example that names one."""
    examples = (_EXAMPLES.get(name, ""), _BLOCKING_EXAMPLES.get(name, ""))
    return str(request.getfixturevalue("postgres_url")) if any(_POSTGRES in example for example in examples) else _POSTGRES


@pytest.mark.parametrize("name", _EXAMPLES)
@pytest.mark.usefixtures("folder")
async def test_the_example_of_a_docstring_is_right(name: str, located: str) -> None:
    example = _EXAMPLES[name].replace(_POSTGRES, located)
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(DatabaseManager("sqlite:///bot.db"))
        classes = {each: getattr(iftb_store, f"{kind}Repository") for each, kind in _REPOSITORIES.items()}
        names = {**_names(), "db": db, "source": db, **{each: kind(db, clock=_now) for each, kind in classes.items()}}
        if "destination" in example:
            names["destination"] = await stack.enter_async_context(DatabaseManager("sqlite:///copy.db"))
        run, find_wrong = prepare_example(example, names)
        if (begun := run()) is not None:
            await begun
    assert find_wrong() == []


@pytest.mark.parametrize("name", _BLOCKING_EXAMPLES)
@pytest.mark.usefixtures("folder")
def test_the_example_of_a_docstring_of_the_facade_is_right(name: str, located: str) -> None:
    example = _BLOCKING_EXAMPLES[name].replace(_POSTGRES, located)
    with ExitStack() as stack:
        db = stack.enter_context(sync.open_store("sqlite:///bot.db"))
        functions = {each: thing for each, thing in _BLOCKING.items() if "." not in each}
        classes = {each: getattr(sync, f"Sync{kind}Repository") for each, kind in _REPOSITORIES.items()}
        repositories = {each: kind(db, clock=_now) for each, kind in classes.items()}
        names = {**_names(), **functions, "db": db, "source": db, **repositories}
        if "destination" in example:
            names["destination"] = stack.enter_context(sync.open_store("sqlite:///copy.db"))
        run, find_wrong = prepare_example(example, names)
        run()
    assert find_wrong() == []


@pytest.mark.parametrize("documented", [_DOCUMENTED, _BLOCKING], ids=["iftb_store", "iftb_store.sync"])
def test_every_public_function_explains_its_parameters_and_result_and_has_an_example(documented: dict[str, Any]) -> None:
    assert {name: lacks for name, thing in documented.items() if (lacks := find_lacks(thing))} == {}


def _get_nothing(symbol: str, limit: int = 100) -> list[str]:
    """Return nothing.

    Args:
        symbol: the symbol.

    Example:
        _get_nothing("BTCUSDT")
    """
    return []


def test_what_a_docstring_lacks_is_found() -> None:
    assert find_lacks(_get_nothing) == [
        "Args explains ['symbol'], and the parameters are ['symbol', 'limit']",
        "Returns does not match the annotation list[str]",
        "no Example shows a value",
    ]


@pytest.mark.parametrize(
    ("example", "wrong"),
    [
        ("1 + 1  # -> 2", []),
        ("1 + 1  # -> 3", ["1 + 1  # -> 3: is 2"]),
        ("for number in []:\n    number  # -> 1", ["number  # -> 1: was not reached"]),
        ("number = 1  # -> 1", ["number = 1  # -> 1: was not reached"]),
    ],
)
def test_an_example_that_is_wrong_is_found(example: str, wrong: list[str]) -> None:
    run, find_wrong = prepare_example(example, {})
    run()
    assert find_wrong() == wrong


def test_every_error_that_a_docstring_names_exists() -> None:
    named = {error for thing in _DOCUMENTED.values() for error in list_names(find_section(thing, "Raises"))}
    assert "InvalidValueError" in named
    homes = (iftb_store, exc, builtins)
    assert [error for error in named if not any(hasattr(home, error) for home in homes)] == []
