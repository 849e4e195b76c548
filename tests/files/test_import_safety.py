"""Imports beside a running bot, and rows that contradict each other: nothing is lost silently."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy.exc import IntegrityError

from iftb_store import DatabaseManager, OHLCVRepository, TradeRepository
from iftb_store.cli import main
from iftb_store.files.export import export_table
from iftb_store.files.formats import FORMATS
from iftb_store.files.import_ import import_file
from iftb_store.files.options import Hints
from iftb_store.files.source import Source
from iftb_store.testing import raw
from iftb_store.testing.samples import Clock, bar, trade
from iftb_store.values.timeframes import is_off_grid
from tests.backends.test_postgres_bulk import until_blocked
from tests.support.whole_rows import TABLES


async def exported(db: DatabaseManager, path: Path) -> Source:
    """Store a trade with the id 1, export it and delete it."""
    await TradeRepository(db, clock=Clock()).insert(trade("FILE"))
    await export_table(db, path, table="trades")
    await raw.run(db, "DELETE FROM trades")
    return Source(path, Hints())


async def test_a_trade_that_the_bot_has_under_way_is_not_overwritten(postgres_url: str, tmp_path: Path) -> None:
    admin = await asyncpg.connect(postgres_url)
    async with DatabaseManager(postgres_url) as db:
        await db.create_tables()
        source = await exported(db, tmp_path / "trades.parquet")
        await raw.run(db, "ALTER SEQUENCE trades_id_seq RESTART")

        async with db.get_session() as session:
            await TradeRepository(session).insert(trade("BOT"))
            importing = asyncio.create_task(import_file(db, source))
            await until_blocked(admin, importing)

        with pytest.raises(IntegrityError, match="the id 1 belongs to another row"):
            await importing
        assert [stored.trade_id for stored in await TradeRepository(db).get_recent()] == ["BOT"]
    await admin.close()


async def test_a_trade_is_known_again_by_its_trade_id_too(url: str, tmp_path: Path) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        source = await exported(db, tmp_path / "trades.parquet")
        await import_file(db, source)
        await raw.run(db, "UPDATE trades SET trade_id = 'OTHER'")

        with pytest.raises(IntegrityError, match="the id 1 belongs to another row"):
            await import_file(db, source)


HEADER = "time,open,high,low,close,volume"
AS_X = ("--symbol", "X", "--timeframe", "1h")
AS_MINUTES = ("--symbol", "X", "--timeframe", "1m")
Take = Callable[..., tuple[int, str, str]]


@pytest.fixture
def take(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Take:
    """Run the import into an empty store; returns its exit code and output."""
    monkeypatch.chdir(tmp_path)
    assert main(["migrate", sqlite_url]) == 0
    capsys.readouterr()

    def take(*words: str) -> tuple[int, str, str]:
        code = main(["import", sqlite_url, *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return take


@pytest.fixture
def count(sqlite_url: str) -> Callable[[], int]:
    """Return how many bars are stored."""

    async def read() -> int:
        async with DatabaseManager(sqlite_url) as db:
            return (await OHLCVRepository(db).read_arrow()).num_rows

    return lambda: asyncio.run(read())


def arrays(rows: list[str]) -> str:
    """Return a file that is read in batches of 10,000 rows."""
    return f"[[{'],['.join(rows)}]]"


def minutes(number: int, volume: str = "1") -> list[str]:
    return [f"{1_704_067_200 + 60 * minute},1,2,1,1,{volume}" for minute in range(number)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("time,coin,open,high,low,close,volume\n1706745600,BTC,1,2,1,1,5\n1706745600,ETH,1,2,1,1,6\n", ()),
        (f"{HEADER}\n2024-10-27 02:00,1,2,1,1,5\n2024-10-27 02:00,1,2,1,1,6\n", ("--tz", "Europe/Berlin", "--fold", "later")),
    ],
    ids=["coins", "an hour twice"],
)
def test_a_row_that_contradicts_one_before_is_refused(
    take: Take, count: Callable[[], int], content: str, words: tuple[str, ...]
) -> None:
    Path("x.csv").write_text(content)

    code, _, err = take("x.csv", *AS_X, *words)

    assert (code, count()) == (1, 0)
    assert "row 2: has a different bar of binance X 1h 20" in err
    assert "than an earlier row; does another column name the symbol" in err


def test_a_row_that_contradicts_one_of_an_earlier_batch_is_refused(take: Take, count: Callable[[], int]) -> None:
    Path("x.json").write_text(arrays([*minutes(12_000), minutes(8, "2")[-1]]))

    code, _, err = take("x.json", *AS_MINUTES)

    assert (code, count()) == (1, 0)
    assert "row 12001: has a different bar of binance X 1m 2024-01-01 00:07:00 than an earlier row" in err


def test_the_same_row_again_is_taken_and_what_was_stored_is_overwritten(take: Take, count: Callable[[], int]) -> None:
    Path("before.json").write_text(arrays([minutes(9, "7")[-1]]))
    rows = minutes(12_000)
    # the bar that is stored already comes late, in a gap of the previous batch, between two repeated bars
    Path("x.json").write_text(arrays([*rows[:8], *rows[9:], *rows[:3], rows[8], rows[20]]))

    before, after = take("before.json", *AS_MINUTES), take("x.json", *AS_MINUTES)

    assert (before[0], after[0], after[2]) == (0, 0, "")
    assert count() == 12_000


def test_a_dump_whose_lines_contradict_each_other_is_refused(take: Take, count: Callable[[], int]) -> None:
    line = "1704067200000,1,2,1,1,{},1704070799999,1,1,1,1,0\n"
    Path("X-1h-2024-01.csv").write_text(line.format(1) + line.format(2))

    code, _, err = take("X-1h-2024-01.csv")

    assert (code, count()) == (1, 0)
    assert "line 2: has the same open time as the line before, but other values" in err


KLINE = "{},{},3,1,2,1,{},1,1,1,1,0\n"
DUMP_HEAD = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore\n"


def klines(prices: list[tuple[int, int]]) -> str:
    """Return the lines of a kline dump, which is read in batches of 5,000, with an opening price for each minute."""
    start = 1_704_067_200_000
    return "".join(KLINE.format(start + 60_000 * minute, price, start + 60_000 * minute + 59_999) for minute, price in prices)


@pytest.mark.parametrize("words", [(), ("--on-conflict", "refuse")])
@pytest.mark.parametrize("header", ["", DUMP_HEAD])
@pytest.mark.parametrize("between", [1, 5_000])
def test_a_dump_whose_lines_far_apart_contradict_each_other_is_refused(
    take: Take, count: Callable[[], int], between: int, header: str, words: tuple[str, ...]
) -> None:
    name = "X-1m-2024-01.csv"
    Path(name).write_text(klines([(0, 1)]))
    assert take(name)[0] == 0
    Path(name).write_text(header + klines([(minute, 1) for minute in range(between + 1)] + [(0, 2)]))

    code, _, err = take(name, *words)

    assert (code, count()) == (1, 1)
    line = between + (3 if header else 2)
    assert f"{name}, line {line}: an earlier line has other values for binance X 1m 2024-01-01 00:00:00" in err


def test_a_dump_that_repeats_bars_counts_each_once(take: Take) -> None:
    name = "X-1m-2024-01.csv"
    Path(name).write_text(klines([(minute, 1) for minute in range(100)]))
    take(name)
    Path(name).write_text(klines([(minute, 1 if minute else 2) for minute in range(5_000)] + [(0, 2), (50, 1), (4_000, 1)]))

    code, out, _ = take(name)

    assert code == 0
    assert "5,000 bars (4,900 inserted, 1 changed, 99 equal)" in out


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x.csv", f"{HEADER}\n202402290000,1,2,1,1,1\n", "row 1: time '202402290000' reads as a date without separators"),
        ("x.csv", f"{HEADER}\n2024022900,1,2,1,1,1\n2024022901,1,2,1,1,1\n", "row 1: time '2024022900' reads as a date"),
        ("x.csv", f"{HEADER}\n20240229,1,2,1,1,1\n", "row 1: time '20240229' reads as a date without separators"),
        (
            "x.csv",
            f"{HEADER}\n1706745600,1,2,1,1,1\nsoon,1,2,1,1,1\n",
            "row 2: time 'soon' is not a number of s since 1970, as in the first row",
        ),
        # Coinbase's order: low, high, open, close
        (
            "x.json",
            "[[1706745600,1,5,2,4,9],[1706749200,1,5,2,4,9]]",
            "row 1: open or close is not between low and high, as in 2",
        ),
        (
            "x.jsonl",
            '{"time":1706745600,"open":1,"high":2,"low":1,"close":1,"volume":1}\n'
            '{"time":1706745600,"open":1,"high":2,"low":1,"close":1,"volume":1,"symbol":"B"}\n',
            "row 2: has 'symbol', which the first row lacks",
        ),
    ],
)
def test_an_ambiguous_input_is_refused(take: Take, count: Callable[[], int], name: str, content: str, problem: str) -> None:
    Path(name).write_text(content)

    code, _, err = take(name, *AS_X)

    assert (code, count()) == (1, 0)
    assert problem in err


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("x.csv", f"{HEADER}\n2024-01-01T01:00Z,1,2,1,1,1\n2024-01-01T02:01Z,1,2,1,1,1\n", "bars off the timeframe's grid: 1"),
        (
            "x.csv",
            f"{HEADER}\n2024-01-01,1,2,1,3,1\n2024-01-02,1,2,1,1,1\n",
            "bars whose open or close is not between low and high: 1",
        ),
        ("X-1h-2024-01.csv", "1704067260000,1,2,1,1,1,1704070799999,1,1,1,1,0\n", "bars off the timeframe's grid: 1"),
    ],
)
def test_odd_values_are_stored_and_reported(take: Take, count: Callable[[], int], name: str, content: str, note: str) -> None:
    Path(name).write_text(content)

    code, out, err = take(name, *AS_X)

    assert (code, err) == (0, "")
    assert f"({note})" in out
    assert count() == len(content.splitlines()) - content.startswith(HEADER)


@pytest.mark.parametrize(
    ("timeframe", "moment", "is_off"),
    [
        ("1w", "2024-01-01", False),
        ("1w", "2024-01-02", True),
        ("1w", "1969-12-29", False),
        ("1M", "2024-02-01", False),
        ("1M", "2024-02-02", True),
        ("3d", "2024-02-02", False),
        ("3d", "2024-02-02T12:00", True),
        ("4h", "1969-12-31T20:00", False),
        ("4h", "1969-12-31T21:00", True),
    ],
)
def test_the_grid_is_that_of_the_doctor(take: Take, timeframe: str, moment: str, is_off: bool) -> None:
    Path("x.csv").write_text(f"{HEADER}\n{moment},1,2,1,1,1\n")

    _, out, _ = take("x.csv", "--symbol", "X", "--timeframe", timeframe)

    assert ("off the timeframe's grid" in out) == is_off
    assert is_off_grid(datetime.fromisoformat(moment).replace(tzinfo=UTC), timeframe) == is_off


def test_an_option_never_mixes_folders_nor_is_passed_over(take: Take, count: Callable[[], int], sqlite_url: str) -> None:
    columns = {name: ["1"] for name in ("open", "high", "low", "close", "volume")}
    for symbol in "AB":
        folder = Path("bars", f"symbol={symbol}", "timeframe=1h")
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"time": [1_706_745_600], **columns}), folder / "x.parquet")
    folders = take("bars", "--symbol", "X"), take("bars/symbol=A", "--timeframe", "1m"), take("bars")
    main(["export", sqlite_url, "-o", "own.csv"])
    own = [take("own.csv", *words) for words in (("--symbol", "X"), ("--timeframe", "1h"), ("--map", "open=close"))]

    assert [code for code, _, _ in folders] == [2, 2, 0]
    assert "--symbol X would merge the files of A and B into one series" in folders[0][2]
    assert "the folder name contradicts --timeframe 1m" in folders[1][2]
    assert [code for code, _, _ in own] == [2, 2, 2]
    assert all("this is an export of iftb-store, whose rows are stored unchanged; leave --" in err for _, _, err in own)
    assert count() == 2


def test_an_export_of_no_rows_comes_back_in_every_format(take: Take, sqlite_url: str) -> None:
    names = [f"{table}.{format}" for table in TABLES for format in FORMATS]
    for name in names:
        assert main(["export", sqlite_url, "-o", name, "--table", Path(name).stem, "--quiet"]) == 1

    code, out, err = take(*names)

    assert code == 0
    assert [line for line in err.splitlines() if "no row of" not in line] == []
    assert out.endswith(f"{len(names)} of {len(names)} files imported, 0 rows\n")


def test_a_key_twice_in_a_file_is_named_with_its_remedy(take: Take, sqlite_url: str) -> None:
    async def store() -> None:
        async with DatabaseManager(sqlite_url) as db:
            await TradeRepository(db).insert(trade("A"))
            await export_table(db, Path("trades.jsonl"), table="trades")
            await OHLCVRepository(db).insert_many([bar()])
            await export_table(db, Path("bar.jsonl"))

    asyncio.run(store())
    Path("bars.jsonl").write_text(2 * Path("bar.jsonl").read_text())
    line = Path("trades.jsonl").read_text()
    Path("ids.jsonl").write_text(line + line.replace('"A"', '"B"'))
    Path("trade_ids.jsonl").write_text(line + line.replace('"id": 1', '"id": 2'))

    for name, key in (
        ("ids", "id '1'"),
        ("trade_ids", "trade_id 'A'"),
        ("bars", "exchange symbol timeframe timestamp 'binance"),
    ):
        code, _, err = take(f"{name}.jsonl")
        assert (code, err.count("\n")) == (1, 1)
        assert f"{name}.jsonl, row 2: the {key}" in err
        assert "occurs in more than one row; remove one of them; no row of this file was stored\n" in err


def test_what_pandas_and_polars_leave_is_understood(take: Take, count: Callable[[], int]) -> None:
    frame = pl.DataFrame({"date": ["2024-01-01"], **dict.fromkeys(["open", "high", "low", "close", "volume", "trades"], "1")})
    frame.write_parquet("text.parquet")
    frame.with_columns(pl.all().cast(pl.Categorical)).write_ipc("categories.arrow")
    # the index has no name
    Path("index.csv").write_text(",open,high,low,close,volume\n2024-01-01 00:00:00+00:00,1,1,1,1,1\n")

    taken = [take(name, *AS_X) for name in ("text.parquet", "categories.arrow", "index.csv")]

    assert [(code, err) for code, _, err in taken] == [(0, "")] * 3
    assert count() == 1


def test_a_local_time_finer_than_microseconds_is_named_by_its_row(take: Take) -> None:
    times = pa.array([1_704_067_200_000_000_000, 1_704_070_800_000_000_001], pa.timestamp("ns"))
    pq.write_table(pa.table({"time": times, **{name: ["1", "1"] for name in HEADER.split(",")[1:]}}), "x.parquet")

    _, _, err = take("x.parquet", *AS_X, "--tz", "Asia/Tokyo")

    assert "row 2: timestamp is more precise than microseconds" in err
