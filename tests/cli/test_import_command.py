"""The command import: what each file brings, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import zipfile
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import func, select

from iftb_store import (
    DatabaseManager,
)
from iftb_store.schema.tables import Base
from tests.cli.stores import line, write_dump
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("plain_environment")


DATA = Path(__file__).parents[3] / "shared" / "data"


def count_bars(url: str) -> int:
    async def count() -> int:
        async with DatabaseManager(url) as db, db.get_session() as session:
            found: int = (await session.execute(select(func.count()).select_from(Base.metadata.tables["ohlcv"]))).scalar_one()
            return found

    return asyncio.run(count())


def test_an_import_reports_the_rows_of_each_file_and_the_total(run: Run, stored: str) -> None:
    write_dump("BTCUSDT-1m-2024-02.csv", line(0), line(1), line(3))
    write_dump("ETHUSDT-1m-2024-02.csv", line(0))

    code, out, err = run("import", stored, "BTCUSDT*.csv", "ETHUSDT-1m-2024-02.csv", "*.csv")

    new = "inserted, 0 changed, 0 equal"
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"BTCUSDT-1m-2024-02.csv: binance BTCUSDT 1m, 3 bars (3 {new}), 2024-02-01 00:00 to 2024-02-01 00:03 UTC",
        f"ETHUSDT-1m-2024-02.csv: binance ETHUSDT 1m, 1 bar (1 {new}), 2024-02-01 00:00 to 2024-02-01 00:00 UTC",
        "2 of 2 files imported, 4 bars (4 inserted, 0 changed, 0 equal)",
    ]


def test_a_second_import_changes_nothing(run: Run, stored: str) -> None:
    write_dump("BTCUSDT-1m-2024-02.csv", line(0), line(1))
    run("import", stored, "BTCUSDT-1m-2024-02.csv")
    before = run("latest", stored, "BTCUSDT", "1m", "--json")

    assert run("import", stored, "BTCUSDT-1m-2024-02.csv")[0] == 0

    assert run("latest", stored, "BTCUSDT", "1m", "--json") == before


def test_an_import_that_refuses_duplicates_says_which_file_has_them(run: Run, stored: str) -> None:
    write_dump("BTCUSDT-1m-2024-02.csv", line(0), line(1))
    run("import", stored, "BTCUSDT-1m-2024-02.csv", "--insert")

    code, out, err = run("import", stored, "BTCUSDT-1m-2024-02.csv", "--insert")

    assert (code, out) == (1, "0 of 1 file imported, 0 bars\n")
    assert err.startswith("error: BTCUSDT-1m-2024-02.csv: ")
    assert "no row of this file was stored" in err


def test_a_damaged_file_is_named_with_its_line_and_the_others_are_imported(run: Run, stored: str) -> None:
    write_dump("ADABTC-1m-2024-02.csv", line(0), "damaged\n")
    write_dump("BTCUSDT-1m-2024-02.csv", line(0))

    code, out, err = run("import", stored, "*.csv")

    assert code == 1
    assert "1 of 2 files imported, 1 bar (1 inserted, 0 changed, 0 equal)\n" in out
    assert err.startswith("error: ADABTC-1m-2024-02.csv, line 2: ")
    assert err.endswith("no row of this file was stored\n")
    assert count_bars(stored) == 1


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="every file can be read by the superuser")
def test_a_file_that_cannot_be_read_is_named(run: Run, stored: str) -> None:
    write_dump("BTCUSDT-1m-2024-02.csv", line(0)).chmod(0)

    code, _, err = run("import", stored, "*.csv")

    assert (code, err) == (1, "error: BTCUSDT-1m-2024-02.csv: Permission denied; no row of this file was stored\n")


def test_symbol_timeframe_and_exchange_can_be_given(run: Run, stored: str) -> None:
    write_dump("candles.csv", line(0))

    words = ["--symbol", "BTC/USDT", "--timeframe", "1m", "--exchange", "okx"]
    assert run("import", stored, "candles.csv")[0] == 2
    assert run("import", stored, "candles.csv", *words)[0] == 0

    assert "2024-02-01 00:00" in run("latest", stored, "BTC/USDT", "1m", "--exchange", "okx")[1]


def test_files_of_two_symbols_are_not_mixed_into_one(run: Run, stored: str) -> None:
    write_dump("BTCUSDT-1m-2024-02.csv", line(0))
    write_dump("ETHUSDT-1m-2024-02.csv", line(0))

    code, _, err = run("import", stored, "*.csv", "--symbol", "BTCUSDT")

    assert code == 2
    assert "would merge the files of BTCUSDT and ETHUSDT" in err


def test_a_timeframe_that_contradicts_the_file_s_name_is_refused(run: Run, stored: str) -> None:
    write_dump("BTCUSDT-1m-2024-02.csv", line(0))

    code, out, err = run("import", stored, "BTCUSDT-1m-2024-02.csv", "--timeframe", "1h")

    assert (code, out) == (2, "")
    assert "BTCUSDT-1m-2024-02.csv: the file name contradicts --timeframe 1h" in err


@pytest.mark.skipif(not DATA.exists(), reason="the exchange's own dumps are not here")
def test_the_exchanges_own_dumps_go_in_whole_and_twice(run: Run, url: str) -> None:
    run("migrate", url)
    with zipfile.ZipFile(DATA / "FILUSDT-1m-2023-04.zip") as archive:
        last = archive.read("FILUSDT-1m-2023-04.csv").decode().splitlines()[-1].split(",")

    first, second = (run("import", url, str(DATA / "*.zip")) for _ in range(2))

    assert first[1].splitlines()[-1] == "2 of 2 files imported, 84,960 bars (84,960 inserted, 0 changed, 0 equal)"
    assert second[1].splitlines()[-1] == "2 of 2 files imported, 84,960 bars (0 inserted, 0 changed, 84,960 equal)"
    assert count_bars(url) == 84_960
    (newest,) = json.loads(run("latest", url, "FILUSDT", "1m", "--limit", "1", "--json")[1])
    names = ["open", "high", "low", "close", "volume", "quote_volume"]
    assert [Decimal(newest[name]) for name in names] == [Decimal(last[column]) for column in (1, 2, 3, 4, 5, 7)]
