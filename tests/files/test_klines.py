"""The reader of kline dumps, and the import of one dump in one transaction."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from iftb_store import DatabaseManager, InvalidValueError, OHLCVBar, OHLCVRepository
from iftb_store.files.klines import import_klines
from iftb_store.files.readers.binance import BATCH, DumpError, KlineDump

DATA = Path(__file__).parents[3] / "shared" / "data"
HEADER = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
FIRST = "1706745600000,2.8210,2.8350,2.8190,2.8350,124314,1706745659999,351525.3510,986,76178,215424.4960,0"
SECOND = "1706745660000,2.8350,2.8380,2.8320,2.8360,75272,1706745719999,213403.5590,513,32980,93511.3580,0"
NAME = "NEARUSDT-1m-2024-02.csv"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_csv(*lines: str, name: str = NAME, end: str = "\n") -> Path:
        path = tmp_path / name
        path.write_bytes("".join(line + end for line in lines).encode())
        return path

    return write_csv


@pytest.fixture
def pack(tmp_path: Path) -> Write:
    def write_zip(members: dict[str, str], compression: int = zipfile.ZIP_DEFLATED) -> Path:
        path = tmp_path / "NEARUSDT-1m-2024-02.zip"
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path

    return write_zip


def read(path: Path) -> list[OHLCVBar]:
    return [bar for batch in KlineDump(path).batches() for bar in batch]


def changed(line: str, column: int, value: str) -> str:
    fields = line.split(",")
    return ",".join([*fields[:column], value, *fields[column + 1 :]])


def test_a_line_becomes_a_bar_with_its_exact_values(write: Write) -> None:
    (bar,) = read(write(FIRST))

    assert bar == OHLCVBar(
        symbol="NEARUSDT",
        exchange="binance",
        timeframe="1m",
        timestamp=datetime(2024, 2, 1, tzinfo=UTC),
        open=Decimal("2.8210"),
        high=Decimal("2.8350"),
        low=Decimal("2.8190"),
        close=Decimal("2.8350"),
        volume=Decimal("124314"),
        quote_volume=Decimal("351525.3510"),
        trades_count=986,
    )


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        "Open time,Open,High,Low,Close,Volume,Close time,Quote asset volume,Number of trades,Taker base,Taker quote,Ignore",
        "\ufeff" + HEADER,
    ],
)
def test_a_header_line_is_passed_over(write: Write, header: str) -> None:
    assert read(write(header, FIRST, SECOND)) == read(write(FIRST, SECOND))


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_empty_lines_at_the_end_and_windows_line_ends_are_taken(write: Write, end: str) -> None:
    assert len(read(write(HEADER, FIRST, SECOND, "", "", end=end))) == 2


def test_a_missing_line_end_at_the_end_is_taken(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text(f"{FIRST}\n{SECOND}")

    assert len(read(path)) == 2


def test_microseconds_give_the_same_times_as_milliseconds(write: Write) -> None:
    micro = changed(changed(FIRST, 0, "1706745600000000"), 6, "1706745659999999")

    assert read(write(micro)) == read(write(FIRST))


def test_the_bars_come_in_batches_and_the_bytes_read_are_counted(write: Write) -> None:
    dump = KlineDump(write(FIRST, SECOND, FIRST))

    batches = list(dump.batches(size=2))

    assert [len(batch) for batch in batches] == [2, 1]
    assert dump.bytes_read == dump.size == dump.path.stat().st_size


def test_a_rare_but_exact_number_is_taken(write: Write) -> None:
    line = changed(changed(changed(FIRST, 3, "-1E-8"), 5, "0E-8"), 1, "1.00000000000000000000")

    (bar,) = read(write(line))

    assert (bar.open, bar.low, bar.volume) == (Decimal(1), Decimal("-0.00000001"), Decimal(0))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (FIRST.rpartition(",")[0], "11 columns instead of 12"),
        (FIRST[:40], "columns instead of 12; the line may be cut off"),
        (FIRST + ",1", "13 columns instead of 12"),
        (changed(FIRST, 0, "1706745600"), "open time '1706745600' is neither epoch milliseconds"),
        (changed(FIRST, 0, "17067456000000"), "is neither epoch milliseconds"),
        (changed(FIRST, 0, "1706745600000.0"), "is neither epoch milliseconds"),
        (changed(FIRST, 0, "1706745600000000"), "close time 1706745659999 does not follow open time 1706745600000000"),
        (changed(FIRST, 6, "1706745599999"), "close time 1706745599999 does not follow"),
        (changed(changed(FIRST, 6, "1706745599999"), 1, "1e0"), "close time 1706745599999 does not follow"),
        (changed(FIRST, 1, ""), "open '' is not a number"),
        (changed(FIRST, 2, "NaN"), "high 'NaN' is not a number"),
        (changed(FIRST, 3, "Infinity"), "low 'Infinity' is not a number"),
        (changed(FIRST, 4, "1_000"), "close '1_000' is not a number"),
        (changed(FIRST, 4, "٣"), r"is not a number"),
        (changed(FIRST, 5, '"1"'), "volume '\"1\"' is not a number"),
        (changed(FIRST, 9, "x"), "taker buy volume 'x' is not a number"),
        (changed(FIRST, 11, "0\r0"), "the line contains a carriage return"),
        (changed(FIRST, 8, "1.5"), "trades count '1.5' is not a whole number"),
        (changed(FIRST, 8, "-1"), "trades_count must lie between 0 and"),
        (changed(FIRST, 8, "1e30"), "trades count '1e30' is not a whole number"),
        (
            changed(FIRST, 1, "0.0000000000000000001"),
            "open 1E-19 has more than 18 digits after the point; use",
        ),
        (changed(FIRST, 1, "123456789012345678901"), "open 123456789012345678901 has more than 20 digits before the point"),
        (changed(FIRST, 2, "1e999"), "high 1E.999 has more than 20 digits before the point"),
        (changed(FIRST, 2, "2.8"), "high 2.8 is below low 2.8190"),
        (changed(FIRST, 5, "-1"), "volume -1 is negative"),
        (changed(FIRST, 7, "-1"), "quote_volume -1 is negative"),
        ("x" * 5_000, "longer than 1000 bytes"),
        ("\0" * 50, "1 columns instead of 12"),
    ],
)
def test_a_damaged_line_is_an_error_that_names_file_and_line(write: Write, line: str, problem: str) -> None:
    with pytest.raises(DumpError, match=problem) as caught:
        read(write(HEADER, SECOND, line, FIRST))

    assert f"{NAME}, line 3: " in str(caught.value)


def test_a_change_of_the_time_unit_within_a_file_is_refused(write: Write) -> None:
    micro = changed(changed(SECOND, 0, "1706745660000000"), 6, "1706745719999999")

    with pytest.raises(DumpError, match="line 2: open time changes between milliseconds and microseconds"):
        read(write(FIRST, micro))


def test_an_empty_line_between_others_is_refused(write: Write) -> None:
    with pytest.raises(DumpError, match="line 2: empty, though more lines follow"):
        read(write(FIRST, "", "", SECOND))


@pytest.mark.parametrize("header", [HEADER.replace("open,high", "high,open"), "time,price", HEADER + ",more"])
def test_the_header_of_another_table_is_refused(write: Write, header: str) -> None:
    with pytest.raises(DumpError, match=r"line 1: .* is not the header of a kline dump"):
        read(write(header, FIRST))


@pytest.mark.parametrize("lines", [(), (HEADER,), ("", "")])
def test_a_file_without_bars_is_refused(write: Write, lines: tuple[str, ...]) -> None:
    with pytest.raises(DumpError, match="contains no bars"):
        read(write(*lines))


@pytest.mark.parametrize(
    ("name", "symbol", "timeframe"),
    [
        ("FILUSDT-1m-2023-04.zip", "FILUSDT", "1m"),
        ("ADABTC-1m-2021-11-27.csv", "ADABTC", "1m"),
        ("BTCUSDT_230630-12h-2023-06.zip", "BTCUSDT_230630", "12h"),
        ("BTCUSDT-1mo-2023-06.ZIP", "BTCUSDT", "1M"),
        ("1000PEPEUSDT-1d-2024-02 (1).zip", "1000PEPEUSDT", "1d"),
    ],
)
def test_symbol_and_timeframe_come_from_the_name(name: str, symbol: str, timeframe: str) -> None:
    dump = KlineDump(name)

    assert (dump.symbol, dump.timeframe) == (symbol, timeframe)


def test_what_is_given_goes_before_the_name() -> None:
    dump = KlineDump(NAME, symbol="NEAR/USDT", timeframe="5m", exchange="okx")

    assert (dump.symbol, dump.timeframe, dump.exchange) == ("NEAR/USDT", "5m", "okx")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("candles.csv", "does not contain the symbol"),
        ("BTCUSDT-7m-2024-01.csv", r"BTCUSDT-7m-2024-01\.csv: unknown timeframe '7m'"),
        ("BTCUSDT-1m-2024-01.txt", r"is a \.csv or a \.zip file"),
    ],
)
def test_a_name_that_says_too_little_is_refused(name: str, problem: str) -> None:
    with pytest.raises(InvalidValueError, match=problem):
        KlineDump(name)


@pytest.mark.parametrize(
    "members",
    [
        {"NEARUSDT-1m-2024-02.csv": ""},
        {"data/spot/NEARUSDT-1m-2024-02.CSV": ""},
        {"x.csv": "", "__MACOSX/._x.csv": "resource", "x.csv.CHECKSUM": "sum"},
    ],
)
def test_an_archive_with_one_csv_is_read_wherever_the_csv_lies(pack: Write, members: dict[str, str]) -> None:
    path = pack({name: content or f"{HEADER}\n{FIRST}\n" for name, content in members.items()})

    assert len(read(path)) == 1


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({}, "contains no .csv files"),
        ({"x.txt": "x"}, "contains no .csv files"),
        ({"a.csv": FIRST, "b.csv": SECOND}, "contains 2 .csv files"),
    ],
)
def test_an_archive_without_exactly_one_csv_is_refused(pack: Write, members: dict[str, str], problem: str) -> None:
    with pytest.raises(DumpError, match=problem):
        read(pack(members))


def test_a_file_that_is_no_archive_is_refused(pack: Write) -> None:
    path = pack({"x.csv": FIRST})
    path.write_bytes(path.read_bytes()[:-30])

    with pytest.raises(DumpError, match="the archive is damaged"):
        read(path)


def test_a_flipped_byte_in_an_archive_is_refused(pack: Write) -> None:
    path = pack({"x.csv": FIRST}, compression=zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"124314", b"124315", 1))

    with pytest.raises(DumpError, match="the archive is damaged"):
        read(path)


@pytest.mark.parametrize(
    ("marker", "offset", "value"),
    [
        pytest.param(b"PK\x03\x04", 0, 0, id="magic number"),
        pytest.param(b"PK\x01\x02", 6, 255, id="version"),
        pytest.param(b"PK\x01\x02", 45, 255, id="offset of the member"),
        pytest.param(b"PK\x05\x06", 15, 255, id="size of the directory"),
    ],
)
def test_a_broken_archive_header_is_refused(pack: Write, marker: bytes, offset: int, value: int) -> None:
    path = pack({"x.csv": FIRST})
    content = bytearray(path.read_bytes())
    content[content.index(marker) + offset] = value
    path.write_bytes(content)

    with pytest.raises(DumpError, match="the archive is damaged"):
        read(path)


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "NEARUSDT-1m-2024-02.zip")


def test_an_encrypted_archive_is_refused(pack: Write) -> None:
    path = pack({"x.csv": FIRST})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)

    with pytest.raises(DumpError, match="encrypted"):
        read(path)


def test_another_compression_is_refused(pack: Write) -> None:
    with pytest.raises(DumpError, match="other than deflate"):
        read(pack({"x.csv": FIRST}, compression=zipfile.ZIP_BZIP2))


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(pack: Write) -> None:
    with pytest.raises(DumpError, match="refused as a decompression bomb"):
        read(pack({"x.csv": f"{FIRST}\n" * 200_000}))


async def test_an_import_stores_every_bar_of_the_file(url: str, write: Write) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()

        result = await import_klines(db, KlineDump(write(HEADER, FIRST, SECOND)))

        stored = await OHLCVRepository(db).get_range("NEARUSDT", "1m", result.first, result.last)
    assert (result.bars, len(stored)) == (2, 2)
    assert (stored[1].close, stored[1].quote_volume) == (Decimal("2.8360"), Decimal("213403.5590"))


async def test_nothing_of_a_damaged_file_is_stored_not_even_whole_batches(url: str, write: Write) -> None:
    path = write(*[FIRST] * BATCH, SECOND, "damaged")
    async with DatabaseManager(url) as db:
        await db.create_tables()

        with pytest.raises(DumpError, match=f"line {BATCH + 2}"):
            await import_klines(db, KlineDump(path))

        assert await OHLCVRepository(db).get_latest("NEARUSDT", "1m") == []


async def test_an_import_that_refuses_duplicates_stores_nothing_of_such_a_file(sqlite_url: str, write: Write) -> None:
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        await import_klines(db, KlineDump(write(SECOND)), insert=True)

        with pytest.raises(IntegrityError):
            await import_klines(db, KlineDump(write(FIRST, SECOND)), insert=True)

        assert len(await OHLCVRepository(db).get_latest("NEARUSDT", "1m")) == 1


async def test_progress_is_reported_up_to_the_end(sqlite_url: str, write: Write) -> None:
    reports: list[tuple[int, int | None]] = []
    dump = KlineDump(write(FIRST, SECOND))
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()

        await import_klines(db, dump, progress=lambda rows, total: reports.append((rows, total)))

    assert reports == [(2, 2)]


@pytest.mark.skipif(not DATA.exists(), reason="the exchange's own dumps are not here")
@pytest.mark.parametrize(
    ("name", "bars"), [("FILUSDT-1m-2023-04.zip", 43_200), ("NEARUSDT-1m-2024-02.zip", 41_760), ("ADABTC-1m-2021-11-27.csv", 10)]
)
def test_the_exchanges_own_dumps_are_read_whole(name: str, bars: int) -> None:
    assert len(read(DATA / name)) == bars
