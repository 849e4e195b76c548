"""Known words that are like a mistyped one."""

from __future__ import annotations

import pytest

from iftb_store.values.suggestions import find_near

_KNOWN = ["BTCUSDT", "ETHUSDT", "BTC/USDT:USDT", "币安人生", "btc-perp"]


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("BTCUSD", ["BTCUSDT"]),
        ("btcusdt", ["BTCUSDT"]),
        ("BTC-USDT", ["BTCUSDT"]),
        ("BTC/USDT", ["BTCUSDT"]),
        ("BTCPERP", ["btc-perp"]),
        ("EHTUSDT", ["ETHUSDT"]),
        ("币安人", ["币安人生"]),
        ("XRPEUR", []),
        ("", []),
        ("/", []),
    ],
)
def test_a_mistyped_word_is_near_to_the_known_one(word: str, near: list[str]) -> None:
    assert find_near(word, _KNOWN)[:1] == near


def test_a_known_word_is_not_near_to_itself() -> None:
    assert "BTCUSDT" not in find_near("BTCUSDT", ["BTCUSDT", "BTCUSDC"])
    assert find_near("A" * 255, []) == []
