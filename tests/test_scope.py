"""The part of a store that a command works on."""

from __future__ import annotations

import pytest

from iftb_store.errors import InvalidValueError
from iftb_store.schema.scope import TABLES, TableScope


def test_without_a_choice_the_scope_is_every_row_of_every_table() -> None:
    scope = TableScope()
    assert [table.name for table in scope.tables] == list(TABLES)
    assert [selection.equal for table in scope.tables for selection in scope.list_selections(table)] == [{}] * len(TABLES)


def test_an_account_selects_no_bars_and_may_be_the_empty_text() -> None:
    scope = TableScope(accounts=["bot-a", ""])
    assert [table.name for table in scope.tables] == [name for name in TABLES if name != "ohlcv"]
    assert [selection.equal for selection in scope.list_selections(TABLES["fills"])] == [{"account": "bot-a"}, {"account": ""}]


def test_each_series_chosen_is_a_separate_selection() -> None:
    scope = TableScope(exchanges=["binance", "bybit"], symbols=["BTCUSDT"], timeframes=["1h"])
    assert [table.name for table in scope.tables] == ["ohlcv"]
    assert [list(selection.equal.values()) for selection in scope.list_selections(TABLES["ohlcv"])] == [
        ["binance", "BTCUSDT", "1h"],
        ["bybit", "BTCUSDT", "1h"],
    ]


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        ({"tables": ["candles"]}, "there is no table 'candles'; the tables are ohlcv, trades, positions, system_events, fills"),
        ({"tables": ["trades"], "timeframes": ["1h"]}, "the table trades has no column timeframe to select by"),
        ({"timeframes": ["7h"]}, "7h"),
        ({"symbols": [""]}, "symbol"),
        ({"accounts": [" "]}, "account"),
        ({"tables": ["ohlcv"], "accounts": ["a"]}, "the table ohlcv has no column account to select by"),
    ],
)
def test_what_no_row_can_have_is_refused(chosen: dict[str, list[str]], why: str) -> None:
    with pytest.raises(InvalidValueError, match=why):
        TableScope(**chosen)  # type: ignore[arg-type]
