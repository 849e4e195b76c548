"""What an import reads: stdin, folders, packed files, files without a header; and whose candles they are."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import pytest_asyncio

from iftb_store import (
    DatabaseManager,
    InvalidValueError,
    OHLCVRepository,
    PositionRepository,
    RefusedFilesError,
    TradeRepository,
    export_table,
    import_files,
)
from iftb_store.files import duplicates, spans
from iftb_store.files.markets import check_series_in_name, read_series_in_name
from iftb_store.files.readers.binance import DumpError
from iftb_store.testing.samples import HOUR, T0, bar, hourly, position, trade
from iftb_store.values.choices import Conflict

SPOT = "1698793200000,34015.27,34100,34000,34050.1,12.5,1698796799999,425000,900,6,204000,0\n"
FUTURE = "1698793200000,34010.1,34101,33990,34049.9,300.25,1698796799999,10210000,7000,150,5105000,0\n"
NAME = "BTCUSDT-1h-2023-11.csv"
KRAKEN = "1381095255,122.0,123.5,122.0,122.0,0.1,1\n1381098855,123,123.5,121,122.0,0.2,4\n"
SERIES: dict[str, Any] = {"symbol": "XBTUSD", "timeframe": "1h", "exchange": "kraken"}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path / "files")


@pytest_asyncio.fixture
async def db(url: str) -> AsyncIterator[DatabaseManager]:
    """An empty store, on each of the three engines in turn."""
    async with DatabaseManager(url) as manager:
        await manager.migrate()
        yield manager


@pytest_asyncio.fixture
async def sqlite_db(sqlite_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(sqlite_url) as manager:
        await manager.migrate()
        yield manager


def write(name: str, content: str | bytes) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


async def refuse(db: DatabaseManager, *paths: str, **options: Any) -> list[str]:
    """Import files of which some are refused; return the reasons."""
    with pytest.raises(RefusedFilesError) as caught:
        await import_files(db, paths, **options)
    return [file.reason for file in caught.value.report.refused]


async def closes(db: DatabaseManager) -> list[Any]:
    return (await OHLCVRepository(db).read_arrow(decimals="float"))["close"].to_pylist()


@pytest.mark.parametrize("folder", ["futures/um", "futures/cm/monthly/klines", "um", "x/markPriceKlines", "x/indexPriceKlines/d"])
async def test_a_folder_of_another_market_is_asked_about(sqlite_db: DatabaseManager, folder: str) -> None:
    write(f"{folder}/{NAME}", FUTURE)
    (reason,) = await refuse(sqlite_db, f"{folder}/{NAME}")
    assert "name the market with --exchange, e.g. --exchange binance-um, or with --symbol" in reason
    assert await closes(sqlite_db) == []
    await import_files(sqlite_db, f"{folder}/{NAME}", exchange="binance-um")
    assert await closes(sqlite_db) == [34049.9]


async def test_dumps_of_three_markets_leave_only_the_spot_prices(db: DatabaseManager) -> None:
    for folder, line in (("spot", SPOT), ("futures/um", FUTURE), ("futures/um/markPriceKlines", FUTURE.replace("300.25", "0"))):
        write(f"{folder}/{NAME}", line)
    reasons = await refuse(db, ".")
    assert len(reasons) == 2
    (stored,) = await OHLCVRepository(db).get_latest("BTCUSDT", "1h")
    assert (stored.close, stored.volume) == (Decimal("34050.1"), Decimal("12.5"))


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
async def test_a_file_with_another_bar_than_an_earlier_file_is_refused(db: DatabaseManager, suffix: str) -> None:
    name = NAME.replace("csv", suffix)
    for folder, line in (("a", SPOT), ("b", SPOT), ("c", FUTURE)):
        write(f"{folder}/{name}", gzip.compress(line.encode()) if suffix == "csv.gz" else line)
    (reason,) = await refuse(db, "a", "b", "c")
    assert f"c/{name}" in reason
    assert f"has another bar of binance BTCUSDT 1h 2023-10-31 23:00:00 than a/{name}; " in reason
    assert await closes(db) == [34050.1]
    # a stored bar of an earlier command is overwritten, and counted
    (file,) = (await import_files(db, f"c/{name}")).files
    assert (file.inserted, file.changed, file.equal) == (0, 1, 0)
    assert await closes(db) == [34049.9]


@pytest.mark.parametrize("name", [NAME, "BTCUSDT-1h.json"])
async def test_bars_that_are_not_compared_with_earlier_files_are_counted(
    sqlite_db: DatabaseManager, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # so that a small file has too many gaps
    monkeypatch.setattr(spans, "_MOST_SPANS", 3)
    candle = "[[{},2,3,1,2,5]]" if name.endswith("json") else "{},2,3,1,2,5,{},1,1,1,1,0\n"
    for place, hour in enumerate((0, 2, 4, 6, 8, 4, 11)):
        time = 1698793200000 + hour * 3_600_000
        write(f"{place}/{name}", candle.format(time, time + 3_599_999))
    files = (await import_files(sqlite_db, [f"{place}/{name}" for place in range(7)])).files
    note = "bars not compared with earlier files, which have too many gaps or series to be remembered: 1"
    assert [note in file.notes for file in files] == [False] * 5 + [True, False]


@pytest.mark.parametrize("name", [NAME, "BTCUSDT-1h.json"])
async def test_an_import_counts_what_it_inserts_changes_and_leaves(db: DatabaseManager, name: str) -> None:
    rows = [[1698793200000 + index * 3_600_000, 2, 3, 1, 2, 5] for index in range(4)]

    def write_rows() -> None:
        lines = [f"{row[0]},{','.join(map(str, row[1:]))},{row[0] + 3_599_999},1,1,1,1,0\n" for row in rows]
        write(name, json.dumps(rows) if name.endswith("json") else "".join(lines))

    write_rows()
    (file,) = (await import_files(db, name)).files
    assert (file.rows, file.inserted, file.changed, file.equal) == (4, 4, 0, 0)
    rows[1][4] = 1
    rows.append([1698793200000 + 4 * 3_600_000, 2, 3, 1, 2, 5])
    write_rows()
    assert (
        "would change the stored bar of binance BTCUSDT 1h 2023-11-01 00:00:00; leave --on-conflict refuse out"
        in (await refuse(db, name, on_conflict="refuse"))[0]
    )
    assert await closes(db) == [2.0] * 4
    (file,) = (await import_files(db, name)).files
    assert (file.rows, file.inserted, file.changed, file.equal) == (5, 1, 1, 3)
    (file,) = (await import_files(db, name, on_conflict="refuse")).files
    assert (file.rows, file.inserted, file.changed, file.equal) == (5, 0, 0, 5)


async def test_an_export_counts_what_it_inserts_changes_and_leaves(db: DatabaseManager) -> None:
    await OHLCVRepository(db).insert_many(hourly(3))
    first, second = [await TradeRepository(db).insert(trade(name)) for name in ("A", "B")]
    await export_table(db, "ohlcv.parquet")
    await export_table(db, "trades.jsonl", table="trades")
    await OHLCVRepository(db).upsert_many([bar(T0, volume=Decimal(7))])
    await OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0 + HOUR, T0 + HOUR)
    await TradeRepository(db).update(first, fee=Decimal(1))
    reasons = await refuse(db, "ohlcv.parquet", "trades.jsonl", on_conflict="refuse")
    assert "would change the stored bar of binance BTCUSDT 1h 2024-01-01 00:00:00" in reasons[0]
    assert f"would change the stored row of trades with the id {first}" in reasons[1]
    files = (await import_files(db, ["ohlcv.parquet", "trades.jsonl"])).files
    assert [(file.inserted, file.changed, file.equal) for file in files] == [(1, 1, 1), (0, 1, 1)]
    files = (await import_files(db, ["ohlcv.parquet", "trades.jsonl"], on_conflict="refuse")).files
    assert [(file.inserted, file.changed, file.equal) for file in files] == [(0, 0, 3), (0, 0, 2)]
    assert second > first


@pytest.fixture
def scan_many_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many series are so few that the tests are quick."""
    monkeypatch.setattr(duplicates, "_ONE_BY_ONE", 100)


@pytest.mark.usefixtures("scan_many_series")
@pytest.mark.parametrize("on_conflict", ["source-wins", "refuse"])
async def test_bars_of_many_series_are_equal_when_imported_again(db: DatabaseManager, on_conflict: Conflict) -> None:
    bars = [one for number in range(150) for one in hourly(1 + number % 4, symbol=f"S{number * 7 % 150}USDT")]
    await OHLCVRepository(db).insert_many(bars)
    await export_table(db, "all.parquet")
    await export_table(db, "some.parquet", symbols=[f"S{number}USDT" for number in range(2, 150, 3)], start=T0 + HOUR)
    rows = pq.read_table("all.parquet")
    pq.write_table(rows.drop_columns(["id", "created_at"]).replace_schema_metadata(), "candles.parquet")
    for name in ("all.parquet", "some.parquet", "candles.parquet"):
        (file,) = (await import_files(db, name, on_conflict=on_conflict)).files
        assert (file.inserted, file.changed, file.equal) == (0, 0, file.rows)
        assert file.rows == pq.read_table(name).num_rows > 60


@pytest.mark.usefixtures("scan_many_series")
async def test_a_changed_bar_of_many_series_is_named(db: DatabaseManager) -> None:
    await OHLCVRepository(db).insert_many([bar(symbol=f"S{number}") for number in range(150)])
    await export_table(db, "a.parquet")
    await OHLCVRepository(db).upsert_many([bar(symbol="S123", volume=Decimal(7))])
    await OHLCVRepository(db).delete_range("S7", "1h", T0, T0)
    (reason,) = await refuse(db, "a.parquet", on_conflict="refuse")
    assert "would change the stored bar of binance S123 1h 2024-01-01 00:00:00" in reason
    (file,) = (await import_files(db, "a.parquet")).files
    assert (file.inserted, file.changed, file.equal) == (1, 1, 148)
    await OHLCVRepository(db).upsert_many([bar(symbol="S140", volume=Decimal(8))])
    await export_table(db, "b.parquet")
    (reason,) = await refuse(db, "a.parquet", "b.parquet")
    assert "has another bar of binance S140 1h 2024-01-01 00:00:00 than a.parquet" in reason


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("BTC_USDT-5m.feather", "BTC/USDT"),
        ("BTC_USDT_USDT-1h-futures.feather", "BTC/USDT:USDT"),
        ("BTC_USD_BTC-1h-futures.feather", "BTC/USD:BTC"),
        ("BTC_USDT_USDT-240329-1h-futures.feather", "BTC/USDT:USDT-240329"),
        ("BTCUSDT-1h.csv", "BTCUSDT"),
    ],
)
def test_a_pair_of_freqtrade_is_read_from_the_name(name: str, pair: str) -> None:
    assert read_series_in_name(Path(name))[0] == pair


@pytest.mark.parametrize("name", ["_AI_USDT-5m.json.gz", "A_B_USDT-5m.json", "BTC_USDT_-5m.json", "A_B_C_USDT-1h-futures.json"])
def test_a_name_in_which_freqtrade_replaced_a_character_is_asked_about(name: str) -> None:
    with pytest.raises(DumpError, match=r"freqtrade writes _ for each of / : \$ \. \+ @; give the pair with --symbol"):
        check_series_in_name(Path(name))
    assert read_series_in_name(Path(name)) == (None, "1h" if "1h" in name else "5m")


async def test_a_name_that_does_not_show_the_pair_does_not_matter_where_the_file_has_symbols(sqlite_db: DatabaseManager) -> None:
    await OHLCVRepository(sqlite_db).insert_many([bar(symbol="EXPORTED")])
    await export_table(sqlite_db, "my_bars_all-1m.parquet")
    write("all_my_coins-1m.csv", "timestamp,symbol,open,high,low,close,volume\n2024-01-01,X,1,3,1,2,5\n")
    write("A_B_USDT-1m.csv", "timestamp,open,high,low,close,volume\n2024-01-01,1,3,1,2,5\n")
    assert "A_B_USDT-1m.csv: the file name does not show the pair" in (await refuse(sqlite_db, "."))[0]
    (exported,) = await OHLCVRepository(sqlite_db).get_latest("EXPORTED", "1h")
    (named,) = await OHLCVRepository(sqlite_db).get_latest("X", "1m")
    assert (exported.symbol, named.close) == ("EXPORTED", Decimal(2))


async def test_a_file_without_a_header_is_asked_for_its_columns(sqlite_db: DatabaseManager) -> None:
    write("XBTUSD_60.csv", KRAKEN)
    columns = ["timestamp", "open", "high", "low", "close", "volume", "trades_count"]
    with pytest.raises(ValueError, match=f"name its 7 columns, e.g. --columns {','.join(columns)}"):
        await import_files(sqlite_db, "XBTUSD_60.csv", **SERIES)
    with pytest.raises(ValueError, match="has 7 columns, but --columns has 2 names"):
        await import_files(sqlite_db, "XBTUSD_60.csv", columns=columns[:2], **SERIES)
    await import_files(sqlite_db, "XBTUSD_60.csv", columns=columns, **SERIES)
    stored = await OHLCVRepository(sqlite_db).get_latest("XBTUSD", "1h", exchange="kraken")
    assert [(item.timestamp.hour, item.high, item.trades_count) for item in stored] == [
        (22, Decimal("123.5"), 4),
        (21, Decimal("123.5"), 1),
    ]


async def test_a_word_in_the_first_row_of_a_file_without_a_header_is_no_name(sqlite_db: DatabaseManager) -> None:
    columns = ["timestamp", "symbol", "open", "high", "low", "close", "volume"]
    write("a.csv", "2024-01-01,BTC,1,3,1,2,5\n2024-01-02,ETH,1,3,1,2,6\n")
    (file,) = (await import_files(sqlite_db, "a.csv", columns=columns, timeframe="1d")).files
    assert file.inserted == 2
    write("b.csv", "Time,Symbol,O,H,L,C,V\n2024-01-01,BTC,1,3,1,2,5\n")
    with pytest.raises(ValueError, match="the columns of this file have names, and --columns is for CSV files without"):
        await import_files(sqlite_db, "b.csv", columns=columns, timeframe="1d")


async def test_a_packed_dump_is_read_without_the_suffix_of_its_packing(sqlite_db: DatabaseManager) -> None:
    write(NAME, gzip.compress(SPOT.encode()))
    await import_files(sqlite_db, NAME)
    assert await closes(sqlite_db) == [34050.1]


async def test_a_packed_file_of_a_binary_format_is_to_be_unpacked(sqlite_db: DatabaseManager) -> None:
    await OHLCVRepository(sqlite_db).insert_many(hourly(3))
    await export_table(sqlite_db, "f.parquet")
    write("f.parquet.gz", gzip.compress(Path("f.parquet").read_bytes()))  # noqa: ASYNC240 - nothing else runs
    (reason,) = await refuse(sqlite_db, "f.parquet.gz")
    assert "f.parquet.gz: is packed with gzip, which is supported only for CSV and JSON; unpack it first" in reason


@pytest.mark.parametrize("suffix", ["json.gz", "csv.gz"])
async def test_packed_files_are_read(sqlite_db: DatabaseManager, suffix: str) -> None:
    content = "[[1698793200000,1,3,1,2,5]]" if suffix == "json.gz" else "date,open,high,low,close,volume\n2024-01-01,1,3,1,2,5\n"
    write(f"BTC_USDT-1h.{suffix}", gzip.compress(content.encode()))
    await import_files(sqlite_db, f"BTC_USDT-1h.{suffix}")
    assert await closes(sqlite_db) == [2.0]


async def test_stdin_is_read_to_its_end(sqlite_db: DatabaseManager, monkeypatch: pytest.MonkeyPatch) -> None:
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    give(gzip.compress(SPOT.encode()))
    with pytest.raises(ValueError, match=r"^stdin: the file name does not contain the symbol"):
        await import_files(sqlite_db, "-")
    give(gzip.compress(SPOT.encode()))
    (file,) = (await import_files(sqlite_db, "-", symbol="BTCUSDT", timeframe="1h")).files
    assert (file.path, file.inserted) == (Path("-"), 1)
    give(b"[[1698793200000,1,3,1]]")
    assert (await refuse(sqlite_db, "-", symbol="A", timeframe="1h"))[0].startswith("stdin: is JSON, but neither")


async def test_the_content_of_stdin_is_deleted_after_an_error(
    sqlite_db: DatabaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await PositionRepository(sqlite_db).update_position(position())
    content = io.BytesIO()
    await export_table(sqlite_db, content, table="positions", format="jsonl")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.getvalue())))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(InvalidValueError, match=r"^stdin: rows of positions are identified only by their id"):
        await import_files(sqlite_db, "-", new_ids=True)
    assert [*(tmp_path / "temporary").iterdir()] == []


async def test_a_file_of_another_kind_in_a_folder_does_not_stop_the_others(sqlite_db: DatabaseManager) -> None:
    write("in/a_trades.csv", "id,amount\n1,2\n")
    write("in/candles.csv", "timestamp,open,high,low,close,volume\n2024-01-01,1,3,1,2,5\n")
    write(f"in/{NAME}", SPOT)
    write("in/timeframe=7m/X.csv", "timestamp,symbol,open,high,low,close,volume\n2024-01-01,X,1,3,1,2,5\n")
    columns, symbol, timeframe = sorted(await refuse(sqlite_db, "in"))
    assert "a_trades.csv: has no column" in columns
    assert "candles.csv: the file name does not contain the symbol" in symbol
    assert "X.csv: unknown timeframe '7m'" in timeframe
    assert await closes(sqlite_db) == [34050.1]
    with pytest.raises(ValueError, match=r"^unknown timeframe '7m'"):
        await import_files(sqlite_db, "in", timeframe="7m")


@pytest.mark.parametrize("stdin", [None, io.StringIO(SPOT)])
async def test_stdin_without_bytes_is_refused(
    sqlite_db: DatabaseManager, monkeypatch: pytest.MonkeyPatch, stdin: io.StringIO | None
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(
        ValueError, match="stdin is closed or not a stream of bytes; redirect a file to it, or give the name of a file"
    ):
        await import_files(sqlite_db, "-")


async def test_a_folder_is_its_files(sqlite_db: DatabaseManager) -> None:
    await OHLCVRepository(sqlite_db).insert_many([bar(symbol="EXPORTED")])
    write("in/ETH_USDT-1h.json", "[[1698793200000,1,3,1,2,5]]")
    await export_table(sqlite_db, "in/bars.feather")
    write(f"in/deep/{NAME}", SPOT)
    write("in/deep/SHA.CHECKSUM", "0123")
    write("in/.hidden/BTC_USDT-1h.csv", "nothing")
    files = (await import_files(sqlite_db, "in")).files
    assert [file.path.name for file in files] == ["ETH_USDT-1h.json", "bars.feather", NAME]
