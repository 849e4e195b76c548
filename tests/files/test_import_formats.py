"""Imports of other tools' files, detected by content: freqtrade, ccxt, pandas, Polars and CSV, exactly or refused by row."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository
from iftb_store.cli import main
from iftb_store.testing.samples import LARGEST, SMALLEST, T0, bar

Import = Callable[..., tuple[int, str, str]]
Stored = Callable[[], list[OHLCVBar]]

T1 = datetime(2024, 2, 1, tzinfo=UTC)
CLOSES = [0.1, 0.2, 0.1 + 0.2, 1e-7, 42_000.5]


@pytest.fixture
def url(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty store; the tests write their files in an empty folder."""
    monkeypatch.chdir(tmp_path)
    assert main(["migrate", sqlite_url]) == 0
    return sqlite_url


@pytest.fixture
def take(url: str, capsys: pytest.CaptureFixture[str]) -> Import:
    """Run the import; returns its exit code and output."""
    capsys.readouterr()

    def take(*words: str) -> tuple[int, str, str]:
        code = main(["import", url, *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return take


@pytest.fixture
def stored(url: str) -> Stored:
    """Return the stored bars, in key order."""

    async def read() -> list[OHLCVBar]:
        async with DatabaseManager(url) as db:
            rows = (await OHLCVRepository(db).read_arrow()).to_pylist()
            return [OHLCVBar(**{**row, "id": None, "created_at": None}) for row in rows]

    return lambda: asyncio.run(read())


def frame(**changes: Any) -> pd.DataFrame:
    """Return candles in freqtrade's format."""
    times = pd.date_range(T1, periods=5, freq="5min", unit="ms")
    columns = {"date": times, "open": CLOSES, "high": 50_000.0, "low": 0.0, "close": CLOSES, "volume": [0.0, 1.5, 2, 3, 4e-8]}
    return pd.DataFrame({**columns, **changes})


def candles(*volumes: Any) -> list[list[Any]]:
    return [[1706745600000 + 60_000 * index, 1.5, "2.25", 1, 2, volume] for index, volume in enumerate(volumes)]


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("BTC_USDT-5m.feather", "BTC/USDT"),
        ("BTC_USDT_USDT-5m-futures.feather", "BTC/USDT:USDT"),
        ("ETH_BTC-5m.parquet", "ETH/BTC"),
        ("1000PEPE_USDT-5m.feather", "1000PEPE/USDT"),
    ],
)
def test_freqtrade_s_candles_are_taken_as_their_shortest_decimals(take: Import, stored: Stored, name: str, symbol: str) -> None:
    (frame().to_feather if name.endswith("feather") else frame().to_parquet)(name)

    code, out, err = take(name)

    bars = stored()
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == (
        f"{name}: binance {symbol} 5m, 5 bars (5 inserted, 0 changed, 0 equal), 2024-02-01 00:00 to 2024-02-01 00:20 UTC "
        "(floats stored as the shortest decimals that convert back to them)"
    )
    assert [bar.close for bar in bars] == [Decimal(repr(close)) for close in CLOSES]
    assert bars[0].timestamp == T1
    assert bars[4].volume == Decimal("0.00000004")


def test_freqtrade_s_months_are_months(take: Import, stored: Stored) -> None:
    frame(date=pd.date_range(T1, periods=5, freq="MS")).to_feather("BTC_USDT-1Mo.feather")

    assert take("BTC_USDT-1Mo.feather")[0] == 0

    assert {bar.timeframe for bar in stored()} == {"1M"}


def test_candles_of_a_mark_price_are_not_taken_for_those_of_trades(take: Import) -> None:
    frame().to_feather("BTC_USDT_USDT-5m-mark.feather")

    code, _, err = take("BTC_USDT_USDT-5m-mark.feather")
    named = take("BTC_USDT_USDT-5m-mark.feather", "--symbol", "BTC/USDT:USDT mark")

    assert code == 1
    assert "contains mark candles of a future, which are not computed from trades; use --symbol" in err
    assert named[0] == 0


@pytest.mark.parametrize("name", ["SOL_USDT-1m.json", "SOL_USDT-1m.json.gz", "SOL_USDT-1m.txt"])
def test_arrays_of_candles_are_detected_by_their_content(take: Import, stored: Stored, name: str) -> None:
    content = json.dumps(candles(0.1, "3.250", 7)).encode()
    Path(name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)

    assert take(name)[0] == 0

    bars = stored()
    assert [bar.volume for bar in bars] == [Decimal("0.1"), Decimal("3.25"), Decimal(7)]
    assert (bars[0].open, bars[0].high, bars[0].symbol) == (Decimal("1.5"), Decimal("2.25"), "SOL/USDT")


def test_a_number_of_json_is_its_text_and_no_float(take: Import, stored: Stored) -> None:
    Path("X-1m.json").write_text(f"[[1706745600000, {LARGEST}, {LARGEST}, 1E-18, 0.30000000000000004, {SMALLEST:f}]]")

    assert take("X-1m.json")[0] == 0

    (found,) = stored()
    assert (found.open, found.low, found.close, found.volume) == (LARGEST, SMALLEST, Decimal("0.30000000000000004"), SMALLEST)


def test_a_volume_that_ccxt_does_not_know_is_0_and_is_reported(take: Import, stored: Stored) -> None:
    Path("X-1m.json").write_text(json.dumps(candles(1, None, None)))

    out = take("X-1m.json")[1]

    assert "(rows without a volume, stored with volume 0: 2)" in out
    assert [bar.volume for bar in stored()] == [1, 0, 0]


def test_binance_s_own_arrays_and_objects_are_read(take: Import, stored: Stored) -> None:
    kline = [1706745600000, "1.5", "2", "1", "1.75", "10.5", 1706745659999, "15.5", 7, "1", "2", "0"]
    Path("A-1m.json").write_text(json.dumps([kline]))
    Path("B-1m.json").write_text(json.dumps([{"t": 1, "timestamp": 1706745600000, "o": "1.5", "h": 2, "l": 1, "c": 1, "v": 3}]))
    Path("C-1m.jsonl").write_text('{"time": "2024-02-01T00:00:00Z", "open": 1, "high": 1, "low": 1, "c": 1.10, "volume": 2}\n')

    assert take("A-1m.json", "B-1m.json", "C-1m.jsonl")[0] == 0

    first, second, third = stored()
    assert (first.quote_volume, first.trades_count) == (Decimal("15.5"), 7)
    assert (second.open, second.timestamp) == (Decimal("1.5"), T1)
    assert (third.close, third.timestamp) == (Decimal("1.1"), T1)


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("timestamp,open,high,low,close,volume", "2024-02-01T00:00:00.000000Z,1,2,0.5,1.5,10"),
        ("Date,Open,High,Low,Close,Volume", "2024-02-01,1,2,0.5,1.5,10"),
        ("DateTime;Open;High;Low;Close;Vol", "2024-02-01 00:00:00;1;2;0.5;1.5;10"),
        ("time\tO\tH\tL\tC\tV", "2024-02-01 01:00:00+01:00\t1\t2\t0.5\t1.5\t10"),
        ("Open Time,open,high,low,close,volume", "1706745600,1,2,0.5,1.5,10"),
        ("open_time,open,high,low,close,volume", "1706745600000,1,2,0.5,1.5,10"),
        ("\ufeffunix,open,high,low,close,volume", "1706745600000000,1,2,0.5,1.5,10"),
        ("volume,close,low,high,open,ts,note", '10,1.5,0.5,2,1,1706745600000000000,"a, b"'),
    ],
)
def test_a_csv_s_columns_and_times_are_understood(take: Import, stored: Stored, head: str, row: str) -> None:
    Path("BTCUSDT-1h.csv").write_text(f"{head}\n{row}\n", encoding="utf-8")

    assert take("BTCUSDT-1h.csv")[0] == 0

    assert stored() == [bar(T1, open=Decimal(1), high=Decimal(2), low=Decimal("0.5"), close=Decimal("1.5"), volume=Decimal(10))]


def test_columns_with_other_names_are_mapped_by_an_option(take: Import, stored: Stored) -> None:
    Path("candles.csv").write_text("Tag,Erster,Hoch,Tief,Letzter,Menge,open\n2024-02-01 00:00,1,2,0.5,1.5,10,9\n")
    words = ("candles.csv", "--symbol", "BTCUSDT", "--timeframe", "1h")
    mapped = ("--map", "timestamp=Tag,open=Erster,high=Hoch", "--map", "low=Tief,close=Letzter,volume=Menge")

    refused, taken = take(*words), take(*words, *mapped)

    assert refused[0] == 2
    assert "has no column timestamp; name the column with --map timestamp=NAME; its columns are 'Tag', 'Erster'" in refused[2]
    assert taken[0] == 0
    assert stored()[0].open == 1


def test_two_columns_that_may_both_be_the_time_are_asked_about(take: Import, stored: Stored) -> None:
    Path("X-1h.csv").write_text("unix,date,open,high,low,close,volume\n1706745600,2024-02-01,1,1,1,1,1\n")

    refused, taken = take("X-1h.csv"), take("X-1h.csv", "--map", "timestamp=unix")

    assert refused[0] == 2
    assert "'date' and 'unix' could both be the timestamp; select one, e.g. --map timestamp=date" in refused[2]
    assert (taken[0], stored()[0].timestamp) == (0, T1)


def test_columns_name_the_series(take: Import, stored: Stored) -> None:
    rows = ["BTC,okx,1h,1706745600,1,1,1,1,1", "ETH,okx,1m,1706745600,1,1,1,1,1"]
    Path("all.csv").write_text("\n".join(["symbol,exchange,timeframe,time,open,high,low,close,volume", *rows, ""]))

    out = take("all.csv")[1]
    mixed = take("all.csv", "--symbol", "X")
    contradicted = take("all.csv", "--timeframe", "1d")

    assert out.splitlines()[0] == (
        "all.csv: ohlcv, 2 bars (2 inserted, 0 changed, 0 equal), 2024-02-01 00:00 to 2024-02-01 00:00 UTC"
    )
    assert [(bar.symbol, bar.exchange, bar.timeframe) for bar in stored()] == [("BTC", "okx", "1h"), ("ETH", "okx", "1m")]
    assert "--symbol X would merge 'BTC' and 'ETH' into one series" in mixed[2]
    assert "its column timeframe holds '1h', which contradicts 1d" in contradicted[2]


BERLIN = ("--tz", "Europe/Berlin")


def write_times(*times: str) -> None:
    lines = [f"{time},1,1,1,1,1" for time in times]
    Path("X-1h.csv").write_text("\n".join(["time,open,high,low,close,volume", *lines, ""]))


def test_naive_times_are_of_the_given_zone(take: Import, stored: Stored) -> None:
    write_times("2024-02-01 01:00", "2024-07-01 02:00")

    assert take("X-1h.csv", *BERLIN)[0] == 0

    assert [bar.timestamp for bar in stored()] == [T1, datetime(2024, 7, 1, tzinfo=UTC)]


def test_an_ambiguous_time_is_refused_by_row_unless_an_option_resolves_it(take: Import, stored: Stored) -> None:
    write_times("2024-10-27 01:00", "2024-10-27 02:00", "2024-10-27 03:00")

    refused = take("X-1h.csv", *BERLIN)
    hours = []
    for fold in ("earlier", "later"):
        assert take("X-1h.csv", *BERLIN, "--fold", fold)[0] == 0
        hours.append({bar.timestamp.hour for bar in stored()})

    assert refused[0] == 1
    assert "X-1h.csv, row 2: time 2024-10-27 02:00:00 occurs twice in Europe/Berlin" in refused[2]
    assert hours == [{23, 0, 2}, {23, 0, 1, 2}]


@pytest.mark.parametrize("fold", [(), ("--fold", "later")])
def test_a_time_that_was_skipped_is_refused_by_row(take: Import, fold: tuple[str, ...]) -> None:
    write_times("2024-03-31 01:00", "2024-03-31 02:30")

    code, _, err = take("X-1h.csv", *BERLIN, *fold)

    assert code == 1
    assert "X-1h.csv, row 2: time 2024-03-31 02:30:00 does not exist in Europe/Berlin" in err


@pytest.mark.parametrize("name", ["X-1h.parquet", "X-1h.arrow", "indexed X-1h.parquet"])
def test_frames_of_exact_columns_are_taken_as_they_are(take: Import, stored: Stored, name: str) -> None:
    prices = pl.Series(["1.5", "2", "2.000000000000000001"]).cast(pl.Decimal(38, 18))
    times = [T1 + timedelta(hours=hour) for hour in range(3)]
    columns = {"Open": prices, "high": [9, 9, 9], "LOW": [1, 1, 1], "close": prices, "volume": ["1", "2", "3.25"]}
    frame = pl.DataFrame({"Timestamp": times, **columns})
    if name.endswith("arrow"):
        frame.write_ipc(name, compression="zstd")
    elif "indexed" in name:
        frame.to_pandas().set_index("Timestamp").rename_axis(None).to_parquet(name)
    else:
        frame.write_parquet(name)

    code, out, err = take(name, "--symbol", "X", "--timeframe", "1h")

    bars = stored()
    assert (code, err) == (0, "")
    assert "shortest" not in out
    assert [bar.open for bar in bars] == [Decimal("1.5"), 2, 2 + SMALLEST]
    assert [bar.volume for bar in bars] == [1, 2, Decimal("3.25")]
    assert [bar.timestamp for bar in bars] == times


def test_floats_of_others_are_taken_on_demand_only(take: Import, stored: Stored) -> None:
    frame(note=1).to_parquet("BTCUSDT-5m.parquet")

    refused, taken = take("BTCUSDT-5m.parquet"), take("BTCUSDT-5m.parquet", "--decimals", "from-float")

    assert refused[0] == 1
    assert "its column 'open' holds floats, which are not exact decimals; use --decimals from-float" in refused[2]
    assert "(floats stored as the shortest decimals that convert back to them)" in taken[1]
    assert stored()[2].close == Decimal("0.30000000000000004")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("A-1m.json", '[[1706745600000,1,2,1,1,5],[1706745660000,1,2,1,"x",5]]', "row 2: close 'x' is not a decimal number"),
        ("A-1m.json", "[[1706745600000,1,2,1,1,5],[1706745660000,1,2", "row 2: "),
        ("A-1m.json", "[[1706745600000,1,2,1,1,5],]", "row 2: "),
        ("A-1m.json", "[[1706745600000,1,2,1,1,5]", "row 2: the file ends inside the array"),
        ("A-1m.json", "[[1706745600000,1,2,1,1,5] [1]]", "row 2: a comma is missing after the row before"),
        ("A-1m.json", "[[1706745600000,1,2,1,1,5]] []", "row 2: there is more text after the array"),
        ("A-1m.json", "[[1706745600000,1,2,1,1,5],[1]]", "row 2: is not an array of 6 values"),
        ("A-1m.json", "[[1706745600000,1,2,1,1,NaN]]", "row 1: NaN is not a number"),
        ("A-1m.json", "[[1706745600000,1,2,1,1,true]]", "row 1: volume is bool"),
        ("A-1m.json", "[[1706745600000,1,2,1,[1],1]]", "row 1: close is list"),
        (
            "A-1m.json",
            "[[1706745600000,1,2,1,1,1e-19]]",
            "row 1: volume 1E-19 has more than 18 digits after the point; use",
        ),
        ("A-1m.json", "[[1706745600000,1,0.5,1,1,1]]", "row 1: high is below low"),
        (
            "A-1m.json",
            "[[170674560,1,2,1,1,1],[1706745600000,1,2,1,1,1]]",
            "row 2: time '1706745600000' is not a number of s since 1970",
        ),
        ("A-1m.json", "[[17067456000,1,2,1,1,1]]", "row 1: time '17067456000' is not a number of s, ms, us or ns since 1970"),
        ("A-1m.json", "[" * 100_000, "row 1: nested too deeply"),
        ("A-1m.json", "[" + "9" * 5_000 + "]", "neither an array of candles"),
        ("A-1m.json", "[]", "neither an array of candles"),
        ("A-1m.json", '{"a": {"b": 1}}', "has no column timestamp"),
        ("A-1m.csv", "time,open,high,low,close,volume\n", "contains no bars"),
        (
            "A-1m.csv",
            "time,open,high,low,close,volume\n2024-02-30,1,1,1,1,1\n",
            "row 1: time '2024-02-30T00:00:00' is not a time",
        ),
        ("A-1m.csv", "time,open,high,low,close,volume\n1706745600,1,1,1,1,1\n1706745660,1,1,1,1,\n", "row 2: volume is null"),
        (
            "A-1m.csv",
            "time,open,high,low,close,volume\n1706745600,1,1,1,1,1\n1706745660,1,1\n",
            "cannot be read (CSV parse error",
        ),
        (
            "A-1m.csv",
            "time,open,high,low,close,volume,trades\n1706745600,1,1,1,1,1,1.5\n",
            "row 1: trades_count '1.5' is not a whole",
        ),
        ("A-1m.csv", "time,open,open,high,low,close,volume\n1706745600,1,1,1,1,1,1\n", "different column names"),
        ("A-1m.csv", "", "is empty"),
        (
            "A-1m.csv",
            "time,open,high,low,close,volume\n1706745600,1,1,1,1,1_000\n",
            "row 1: volume '1_000' is not a decimal number",
        ),
        ("A-1m.csv", "time,open,high,low,close,volume\n1706745600,1, 1,1,1,1\n", "row 1: high ' 1' is not a decimal number"),
        ("A-1m.feather", "FEA1", "a Feather file of version 1"),
        ("A-1m.feather", "ARROW1\0\0", "cannot be read"),
        ("A-1m.parquet", "PAR1", "cannot be read"),
        ("A-1m.parquet", "PK\3\4", "is a zip archive; rename it to .zip"),
        ("A-1m.db", "SQLite format 3\0", "is a database"),
        ("A-1m.bin", "\0\1\2", "has no supported format"),
    ],
)
def test_what_is_wrong_is_named_with_its_row_and_nothing_is_stored(
    take: Import, stored: Stored, name: str, content: str, problem: str
) -> None:
    Path(name).write_text(content)

    code, _, err = take(name)

    assert code in (1, 2)
    assert f"error: {name}" in err
    assert problem in err
    assert err.count("\n") == 1
    assert stored() == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--map", "nonsense=x"], "there is no column 'nonsense' to map to 'x'"),
        (["--map", "open"], "--map 'open' is not COLUMN=NAME"),
        (["--map", "open=absent"], "has no column 'absent'"),
        (["--tz", "Nowhere"], "--tz 'Nowhere' is not a known time zone"),
        (["--tz", "../../etc/passwd"], "is not a known time zone"),
        (["--fold", "never"], "fold must be one of earlier, later"),
        (["--decimals", "round"], "--decimals must be one of from-float"),
        (["--timeframe", "1d"], "the file name contradicts --timeframe 1d"),
    ],
)
def test_wrong_usage_is_one_line(take: Import, words: list[str], problem: str) -> None:
    write_times("2024-02-01")

    code, out, err = take("X-1h.csv", *words)

    assert (code, out) == (2, "")
    assert problem in err
    assert err.count("\n") == 1


def test_a_partitioned_export_is_taken_and_one_without_any_is_refused(take: Import, url: str, stored: Stored) -> None:
    async def store() -> None:
        async with DatabaseManager(url) as db:
            await OHLCVRepository(db).insert_many([bar(), bar(T0 + timedelta(days=31))])

    asyncio.run(store())
    Path("none").mkdir()
    assert main(["export", url, "-o", "bars", "--partitioned"]) == 0

    code, out, err = take("bars")

    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "2 of 2 files imported, 2 bars (0 inserted, 0 changed, 2 equal)"
    assert "exchange=binance/symbol=BTCUSDT/timeframe=1h/month=2024-02/bars.parquet: binance BTCUSDT 1h, 1 bar" in out
    assert "is a folder without files to import" in take("none")[2]


def test_json_lists_what_each_file_brought(take: Import) -> None:
    write_times("2024-02-01")

    report = json.loads(take("X-1h.csv", "--json")[1])

    assert report["refused"] == []
    (result,) = report["files"]
    assert result == {
        "path": "X-1h.csv",
        "table": "ohlcv",
        "rows": 1,
        "series": ["binance", "X", "1h"],
        "first": "2024-02-01T00:00:00+00:00",
        "last": "2024-02-01T00:00:00+00:00",
        "inserted": 1,
        "changed": 0,
        "equal": 0,
        "rounded": 0,
        "skipped": 0,
        "notes": [],
    }


def test_quiet_prints_only_errors(take: Import) -> None:
    write_times("2024-02-01")

    assert take("X-1h.csv", "--quiet") == (0, "", "")
