"""iftb-store verify: the same rows on any two engines, and the report of rows that differ."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from iftb_store import DatabaseManager
from iftb_store.cli import main
from iftb_store.testing import raw
from iftb_store.testing.samples import NOW
from iftb_store.transfer import plan as partitions
from tests.support.filled import ROWS, fill

Verify = Callable[..., tuple[int, str, str]]


@pytest.fixture
def other(tmp_path: Path) -> str:
    """URL of a SQLite file that holds what `fill` writes."""
    url = f"sqlite:///{tmp_path / 'other.db'}"
    asyncio.run(fill(url))
    return url


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    """Run the command; return (exit code, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["verify", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def change(url: str, sql: str) -> None:
    """Run raw SQL."""

    async def work() -> None:
        async with DatabaseManager(url) as db:
            await raw.run(db, sql)

    asyncio.run(work())


def test_the_same_rows_are_equal_on_every_engine(url: str, other: str, verify: Verify) -> None:
    asyncio.run(fill(url))
    code, out, err = verify(url, other)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"equal: {sum(ROWS.values())} rows in each"
    assert "NO" not in out


def test_a_digit_that_was_changed_by_raw_sql_is_named(url: str, other: str, verify: Verify) -> None:
    asyncio.run(fill(url))
    price = "'e12501.26'" if url.startswith("sqlite") else "12501.26"
    change(url, f"UPDATE ohlcv SET close = {price} WHERE id = 6")
    code, out, err = verify(url, other)
    assert code == 1
    assert err == ("error: ohlcv binance BTCUSDT 1h 2024-01-01 05:00:00+00:00: close is 12501.26 in SRC and 12501.25 in DST\n")
    assert [line.split()[-1] for line in out.splitlines() if "binance BTCUSDT 1h" in line] == ["NO"]
    assert out.count("NO") == 1


def test_a_row_that_one_of_the_two_lacks_is_named(url: str, other: str, verify: Verify) -> None:
    asyncio.run(fill(url))
    change(url, "DELETE FROM trades WHERE id = 2")
    change(other, "DELETE FROM ohlcv WHERE id = 50")
    _, _, err = verify(url, other)
    assert err.splitlines() == [
        "error: ohlcv binance BTCUSDT 1h 2024-01-03 01:00:00+00:00: only in SRC",
        "error: trades 2: only in DST",
    ]


def test_only_the_first_rows_that_differ_are_named(other: str, sqlite_url: str, verify: Verify) -> None:
    asyncio.run(fill(sqlite_url, NOW + timedelta(microseconds=1)))
    assert verify(sqlite_url, other, "--timeframe", "1h")[0] == 0
    change(sqlite_url, "UPDATE ohlcv SET trades_count = 7 WHERE timeframe = '1h'")
    code, _, err = verify(sqlite_url, other, "--timeframe", "1h", "--json")
    assert code == 1
    assert [line.split()[6] for line in err.splitlines()] == ["23:00:00+00:00:", *(f"0{hour}:00:00+00:00:" for hour in range(4))]


def test_json_that_is_written_in_another_way_is_equal(other: str, sqlite_url: str, verify: Verify) -> None:
    asyncio.run(fill(sqlite_url))
    change(
        sqlite_url,
        """UPDATE system_events SET details = '{"a":{"x" : 100000000000000000000},"b" : [1,2.5,null,"ü"]}' WHERE id = 2""",
    )
    assert verify(sqlite_url, other)[0] == 0


@pytest.mark.parametrize(
    "scope",
    [
        ["--table", "trades"],
        ["--table", "ohlcv", "--exchange", "kraken"],
        ["--symbol", "ETHUSDT"],
        ["--timeframe", "1h", "--start", "2024-01-01T06:00"],
        ["--timeframe", "1h", "--end", "2024-01-01T04:59:59.999999"],
    ],
)
def test_what_is_not_chosen_may_differ(scope: list[str], other: str, sqlite_url: str, verify: Verify) -> None:
    asyncio.run(fill(sqlite_url))
    change(sqlite_url, "UPDATE ohlcv SET close = 'a1' WHERE id = 6")
    assert verify(sqlite_url, other, *scope)[0] == 0
    assert verify(sqlite_url, other)[0] == 1


def test_a_program_gets_json(other: str, sqlite_url: str, verify: Verify) -> None:
    asyncio.run(fill(sqlite_url))
    change(sqlite_url, "UPDATE positions SET leverage = 'a2' WHERE id = 2")
    code, out, _ = verify(sqlite_url, other, "--table", "positions", "--json")
    (found,) = json.loads(out)["parts"]
    assert code == 1
    assert not found["equal"]
    assert found["differences"] == [{"row": {"id": 2}, "column": "leverage", "source": "2", "destination": "1"}]


def test_a_day_may_hold_more_rows_than_a_batch(
    other: str, sqlite_url: str, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(fill(sqlite_url))
    monkeypatch.setattr(partitions, "ROWS", 7)
    assert verify(sqlite_url, other)[0] == 0
    change(sqlite_url, "UPDATE ohlcv SET close = 'a1' WHERE id IN (6, 23)")
    _, _, err = verify(sqlite_url, other)
    assert [line.split()[6] for line in err.splitlines()] == ["05:00:00+00:00:", "22:00:00+00:00:"]


def test_a_store_with_a_duplicate_row_is_not_equal(duckdb_url: str, other: str, verify: Verify) -> None:
    asyncio.run(fill(duckdb_url))
    change(duckdb_url, "INSERT INTO ohlcv SELECT * FROM ohlcv WHERE id = 6")
    code, _, err = verify(duckdb_url, other)
    assert code == 1
    assert err == "error: ohlcv binance BTCUSDT 1h 2024-01-01 05:00:00+00:00: duplicate in SRC\n"


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["{other}"], 2, "Missing argument"),
        (["{other}", "{other}"], 2, "the source and the destination are the same database"),
        (["{other}", "sqlite:///absent.db"], 1, "there is no database file absent.db"),
        (["sqlite:///absent.db", "{other}"], 1, "there is no database file absent.db"),
        (["{other}", "duckdb:///:memory:"], 1, "run `iftb-store migrate duckdb:///:memory:`"),
        (["{other}", "env:NOT_SET"], 1, "NOT_SET is not set"),
        (["{other}", "duckdb:///:memory:", "--table", "candles"], 2, "there is no table 'candles'"),
        (["{other}", "duckdb:///:memory:", "--table", "trades", "--timeframe", "1h"], 2, "has no column timeframe"),
        (["{other}", "duckdb:///:memory:", "--start", "yesterday"], 2, "--start 'yesterday' is not a time"),
    ],
)
def test_wrong_usage_is_reported(words: list[str], code: int, why: str, other: str, verify: Verify) -> None:
    found, out, err = verify(*(word.format(other=other) for word in words))
    assert (found, out) == (code, "")
    assert why in err


def test_the_same_file_by_another_name_is_reported(other: str, tmp_path: Path, verify: Verify) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "other.db")
    assert "are the same database" in verify(other, f"sqlite:///{tmp_path / 'link.db'}")[2]


def test_quiet_says_nothing_but_what_differs(other: str, sqlite_url: str, verify: Verify) -> None:
    asyncio.run(fill(sqlite_url))
    assert verify(sqlite_url, other, "--quiet") == (0, "", "")


async def test_an_error_of_one_side_ends_the_other() -> None:
    order: list[str] = []

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("ended")

    with pytest.raises(ValueError):  # noqa: PT011 - nothing else can raise it
        await partitions.gather_both(fails(), waits())
    assert order == ["ended"]
