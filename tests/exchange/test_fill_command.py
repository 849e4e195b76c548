"""`iftb-store fill` through ccxt, against a local server that speaks Binance's REST interface."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import pytest

from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository
from tests.conftest import Run
from tests.exchange.binance_server import PRICE, START, Exchange, make_local, serve
from tests.faults.rounds import rounds

pytestmark = pytest.mark.usefixtures("plain_environment")
ccxt = pytest.importorskip("ccxt.async_support")

WINDOW = ("--start", "2024-01-01", "--end", "2024-01-01T02:59")


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exchange]:
    """Three hours of candles, of which the minutes 50 to 54 and 100 are missing, at a server that ccxt asks."""
    given = Exchange([minute for minute in range(180) if minute not in (*range(50, 55), 100)])
    with serve(given) as port:
        monkeypatch.setattr(ccxt, "binance", make_local(port))
        yield given


@pytest.fixture
def url(sqlite_url: str) -> str:
    async def make() -> None:
        async with DatabaseManager(sqlite_url) as db:
            await db.migrate()

    asyncio.run(make())
    return sqlite_url


def read_bars(url: str, symbol: str = "BTCUSDT") -> list[OHLCVBar]:
    async def read() -> list[OHLCVBar]:
        async with DatabaseManager(url) as db:
            return await OHLCVRepository(db).get_range(symbol, "1m", START, START + timedelta(days=1))

    return asyncio.run(read())


def test_missing_candles_are_stored_exactly(run: Run, url: str, exchange: Exchange) -> None:
    code, out, _ = run("fill", url, "BTC/USDT", "1m", *WINDOW)
    assert (code, out) == (
        0,
        "binance BTCUSDT 1m: 174 candles inserted, 6 not given by the exchange (1 request)\n",
    )
    bars = read_bars(url)
    assert len(bars) == 174
    assert (bars[7].open, bars[7].close, bars[7].volume) == (Decimal(PRICE), Decimal("42000.00000007"), Decimal("0.10000001"))
    # nothing is left to ask for
    code, out, _ = run("fill", url, "BTCUSDT", "1m", *WINDOW, "--json")
    (report,) = json.loads(out)
    assert (report["symbol"], report["requests"], report["none"], report["unknown"]) == ("BTCUSDT", 0, 6, 0)
    assert [asked[0] for asked in exchange.asked] == ["BTCUSDT"]


def test_a_limit_and_another_name(run: Run, url: str, exchange: Exchange) -> None:
    code, out, _ = run("fill", url, "BTC/USDT", "1m", *WINDOW, "--limit", "70", "--as", "BTC-USDT", "--quiet")
    assert (code, out) == (0, "")
    assert len(read_bars(url, "BTC-USDT")) == 174
    assert [asked[2] for asked in exchange.asked] == [0, 75, 146]


def test_a_refusal_for_too_many_requests_is_tried_again(
    run: Run, url: str, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iftb_store.exchange.fill._FIRST_WAIT", 0.01)
    exchange.failures = 2
    assert run("fill", url, "BTC/USDT", "1m", *WINDOW)[0] == 0
    assert len(read_bars(url)) == 174


def test_all_series_are_filled(run: Run, url: str, exchange: Exchange) -> None:
    run("fill", url, "BTC/USDT", "1m", "--start", "2024-01-01T01:00", "--end", "2024-01-01T01:09")

    async def store_others() -> None:
        async with DatabaseManager(url) as db:
            (bar, *_) = await OHLCVRepository(db).get_latest("BTCUSDT", "1m", 1)
            bar.symbol = "GONEUSDT"
            await OHLCVRepository(db).insert_many([bar])
            bar.exchange = "kraken"
            await OHLCVRepository(db).insert_many([bar])

    asyncio.run(store_others())
    code, out, err = run("fill", url, "--all", "--end", "2024-01-01T01:59")
    assert (code, "kraken" in out + err) == (1, False)
    assert out.startswith("binance BTCUSDT 1m: 49 candles inserted, 1 not given")
    assert "binance GONEUSDT 1m: the exchange has no such market" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("NOPE/USDT", "1m", *WINDOW), "binance has no market NOPE/USDT"),
        (("BTC/USDT", "1m"), "--start is required"),
        (("BTC/USDT", "1m", *WINDOW, "--exchange", "binanse"), "ccxt has no exchange binanse; did you mean binance?"),
        (("BTC/USDT", "1m", "--all"), "leave out SYMBOL"),
        (("BTC/USDT", "1m", "--start", "yesterday"), "--start yesterday is not a time"),
    ],
)
def test_wrong_words_are_refused(run: Run, url: str, exchange: Exchange, words: tuple[str, ...], message: str) -> None:
    code, out, err = run("fill", url, *words)
    assert (code, out) == (2, "")
    assert message in err.replace("'", "")
    assert exchange.asked == []


def test_the_three_kinds_of_holes_are_shown(run: Run, url: str, exchange: Exchange) -> None:
    run("fill", url, "BTC/USDT", "1m", "--start", "2024-01-01", "--end", "2024-01-01T01:39")
    run("fill", url, "BTC/USDT", "1m", "--start", "2024-01-01T02:00", "--end", "2024-01-01T02:59")

    async def delete() -> None:
        async with DatabaseManager(url) as db:
            moment = START + timedelta(minutes=30)
            assert await OHLCVRepository(db).delete_range("BTCUSDT", "1m", moment, moment + timedelta(minutes=2)) == 3

    asyncio.run(delete())
    code, out, _ = run("coverage", url, "BTCUSDT", "1m")
    assert code == 0
    assert "152 of 180 candles stored, 28 missing" in out
    rows = [line.rstrip().split("  ") for line in out.splitlines() if "never asked for" in line or "none given" in line]
    known = [(row[0].strip(), row[-1].strip()[:15]) for row in rows]
    assert known == [
        ("2024-01-01 00:30", "never asked for"),
        ("2024-01-01 00:50", "none given, ask"),
        ("2024-01-01 01:40", "never asked for"),
    ]
    (found,) = json.loads(run("coverage", url, "BTCUSDT", "1m", "--json")[1])
    assert [(day["due"], day["traded"], day["none"], day["unknown"]) for day in found["days"]] == [(180, 152, 5, 23)]
    _, out, _ = run("gaps", url, "BTCUSDT", "1m", "--json")
    assert [(gap["missing"], gap["asked"]) for gap in json.loads(out)] == [(3, 0), (5, 5), (20, 0)]
    _, out, _ = run("coverage", url)
    assert out.splitlines()[-1].split() == ["binance", "BTCUSDT", "1m", "180", "152", "0", "5", "23"]


def test_a_killed_fill_leaves_whole_answers_and_resumes(url: str) -> None:
    given, chance = Exchange([minute for minute in range(3_000) if minute % 11]), random.Random(7)
    with serve(given) as port:
        command = [
            sys.executable,
            "-m",
            "tests.exchange.binance_server",
            str(port),
            "fill",
            url,
            "BTC/USDT",
            "1m",
            "--limit",
            "5",
        ]
        window = ["--start", "2024-01-01", "--end", "2024-01-03T01:59"]
        for _ in range(rounds("fill killed")):
            before = len(given.asked)
            child = subprocess.Popen([*command, *window], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while len(given.asked) < before + 2 and child.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.random() / 4)
            child.kill()
            child.wait()
            assert asyncio.run(count_covered(url)) == len(read_bars(url)) + asyncio.run(count_none(url))
        command[-1] = "1000"
        assert subprocess.run([*command, *window], stdout=subprocess.DEVNULL, check=False).returncode == 0
    bars = asyncio.run(read_all(url))
    assert [(bar.timestamp - START) // timedelta(minutes=1) for bar in bars] == given.minutes
    assert asyncio.run(count_covered(url)) == 3_000


async def read_all(url: str) -> list[OHLCVBar]:
    async with DatabaseManager(url) as db:
        return await OHLCVRepository(db).get_range("BTCUSDT", "1m", START, START + timedelta(days=9))


async def count_covered(url: str) -> int:
    async with DatabaseManager(url) as db:
        return sum(one.bars for one in await OHLCVRepository(db).get_coverage("BTCUSDT", "1m") if one.state != "unknown")


async def count_none(url: str) -> int:
    async with DatabaseManager(url) as db:
        return sum(one.bars for one in await OHLCVRepository(db).get_coverage("BTCUSDT", "1m") if one.state == "none")
