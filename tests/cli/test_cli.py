"""The command iftb-store: right and wrong input to each command, exit codes, and that no secret is printed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import func, make_url, select

from iftb_store import (
    DatabaseManager,
    OHLCVBar,
    OHLCVRepository,
    Position,
    PositionRepository,
    SystemEventRepository,
    Trade,
    TradeRepository,
    __version__,
)
from iftb_store.cli import main
from iftb_store.schema.tables import Base
from tests.conftest import Run

SECRET = "s3cret-sentinel"
DATA = Path(__file__).parents[3] / "shared" / "data"
START = datetime(2024, 2, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

pytestmark = pytest.mark.usefixtures("plain_environment")


@pytest.fixture
def stored(sqlite_url: str) -> str:
    """URL of a migrated SQLite file without rows."""
    assert main(["migrate", sqlite_url]) == 0
    return sqlite_url


def line(minute: int, price: str = "1.5") -> str:
    opened = 1706745600000 + minute * 60_000
    return f"{opened},{price},{price},{price},{price},10,{opened + 59_999},15,3,5,7.5,0\n"


def write_dump(name: str, *lines: str) -> Path:
    path = Path(name)
    path.write_text("".join(lines))
    return path


def bar(minute: int) -> OHLCVBar:
    price = Decimal("1.5")
    return OHLCVBar(
        "BTCUSDT", "binance", "1m", START + minute * MINUTE, price, price, price, price, Decimal("10.250"), trades_count=1_234
    )


def store_bars(url: str, *bars: OHLCVBar) -> None:
    async def insert() -> None:
        async with DatabaseManager(url) as db:
            await OHLCVRepository(db).insert_many(bars)

    asyncio.run(insert())


def store_trade(url: str) -> None:
    now = datetime.now(UTC)

    async def insert() -> None:
        async with DatabaseManager(url) as db, db.get_session() as session:
            await TradeRepository(session).insert(
                Trade(
                    "T1",
                    "BTCUSDT",
                    "binance",
                    "long",
                    "close",
                    Decimal(100),
                    Decimal(3),
                    now,
                    realized_pnl=Decimal(20),
                    exit_time=now,
                )
            )
            await TradeRepository(session).insert(
                Trade(
                    "T2",
                    "BTCUSDT",
                    "binance",
                    "long",
                    "close",
                    Decimal(100),
                    Decimal(3),
                    now,
                    realized_pnl=Decimal(-6),
                    exit_time=now,
                )
            )
            await TradeRepository(session).insert(
                Trade(
                    "T3",
                    "BTCUSDT",
                    "binance",
                    "long",
                    "close",
                    Decimal(100),
                    Decimal(3),
                    now,
                    realized_pnl=Decimal(0),
                    exit_time=now,
                )
            )
            await PositionRepository(session).update_position(
                Position("BTCUSDT", "binance", "short", Decimal("50000.10"), Decimal("0.01"), Decimal(100), START)
            )
            events = SystemEventRepository(session)
            await events.log_event("started", "info", "up \x1b[31mand running [bold]", details={"price": Decimal("1.10")})
            await events.log_event("failed", "error", "down", symbol="BTCUSDT")

    asyncio.run(insert())


def count_bars(url: str) -> int:
    async def count() -> int:
        async with DatabaseManager(url) as db, db.get_session() as session:
            found: int = (await session.execute(select(func.count()).select_from(Base.metadata.tables["ohlcv"]))).scalar_one()
            return found

    return asyncio.run(count())


def process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "iftb_store", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60, check=False)


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version") == (0, f"iftb-store {__version__}\n", "")


def test_help_fits_a_narrow_terminal_and_says_where_the_url_comes_from() -> None:
    done = process("--help", COLUMNS="80", NO_COLOR="1")

    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "env:NAME" in done.stdout
    assert "Exit codes" in done.stdout


def test_no_arguments_show_the_help(run: Run) -> None:
    code, out, err = run()

    assert code == 2
    assert "Usage: iftb-store" in out + err
    assert "error:" not in err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["stats", "--nonsense"], "No such option: --nonsense"),
        (["stats", "sqlite:///:memory:", "more"], "unexpected extra argument"),
        (["gaps"], "SYMBOL and TIMEFRAME are required"),
        (["gaps", "sqlite:///:memory:", "BTCUSDT"], "SYMBOL and TIMEFRAME are required"),
        (["gaps", "BTCUSDT", "1m", "more"], "SYMBOL and TIMEFRAME are required"),
        (["gaps", "sqlite:///:memory:", "BTCUSDT", "7m"], "unknown timeframe '7m'"),
        (["gaps", "sqlite:///:memory:", "BTCUSDT", "1m", "--start", "today"], "--start 'today' is not a time"),
        (["gaps", "sqlite:///:memory:", "BTCUSDT", "1m", "--start", "2024-02-02", "--end", "2024-02-01"], "is after end"),
        (["latest", "sqlite:///:memory:", "BTCUSDT", "1m", "--limit", "0"], "--limit"),
        (["stats", "sqlite:///:memory:", "--days", "many"], "--days"),
        (["events", "sqlite:///:memory:", "--severity", "loud"], "severity must be one of debug, info"),
        (["import"], "no FILE is given"),
        (["import", "sqlite:///:memory:"], "no FILE is given"),
        (["import", "sqlite:///:memory:", "absent.zip"], "no file absent.zip"),
        (["import", "sqlite:///:memory:", "*.zip"], r"no file \*.zip"),
        (["import", "sqlite:///:memory:", "."], "is a folder without Parquet files"),
        (["import", "sqlite:///:memory:", ""], "FILE is an empty text"),
        (["stats", "oracle://x"], "no backend is installed for the URL scheme 'oracle'"),
        (["stats", "sqlite:///:memory:?nonsense=1"], "unknown option 'nonsense'"),
        (["migrate", "not a url"], "cannot be parsed"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run: Run, words: list[str], problem: str) -> None:
    code, out, err = run(*words)

    assert (code, out) == (2, "")
    assert re.fullmatch(rf"error: .*{problem}.*\n", err)


@pytest.mark.parametrize(
    "words",
    [
        ["stats", f"postgresql://trader:{SECRET}@127.0.0.1:1/bot"],
        ["--debug", "stats", f"postgresql://trader:{SECRET}@127.0.0.1:1/bot?connect_timeout=1"],
        ["stats", f"oracle://trader:{SECRET}@host/bot"],
        ["stats", f"postgresql://trader:{SECRET}@host:port/bot"],
        ["stats", f"postgresql://trader:{SECRET}@host/bot", f"postgresql://trader:{SECRET}@host/bot"],
        [f"postgresql://trader:{SECRET}@host/bot"],
        ["import", "sqlite:///x.db", f"postgresql://trader:{SECRET}@host/bot"],
        ["import", "sqlite:///x.db", f"postgresql:/trader:{SECRET}@host/bot"],
        ["import", f"trader:{SECRET}@host/bot"],
        ["gaps", "BTCUSDT", f"postgresql://trader:{SECRET}@host/bot", "1m"],
        ["latest", "BTCUSDT", "1m", "--limit", f"postgresql://trader:{SECRET}@host/bot"],
        ["stats", "env:TRIAL_URL"],
        ["stats"],
    ],
)
def test_no_output_shows_a_password(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, words: list[str]
) -> None:
    monkeypatch.setenv("TRIAL_URL", f"postgresql://trader:{SECRET}@127.0.0.1:1/bot")
    monkeypatch.setenv("IFTB_STORE_URL", f"postgresql://trader:{SECRET}@127.0.0.1:1/bot")

    code, out, err = run(*words)

    assert code in (1, 2)
    assert "error: " in err
    assert SECRET not in out + err + caplog.text


def test_a_failure_shows_its_traceback_on_demand_only(run: Run) -> None:
    plain = run("stats", "env:ABSENT")
    debug = run("stats", "env:ABSENT", "--debug")

    assert plain == (1, "", "error: env:ABSENT was given, but the environment variable ABSENT is not set\n")
    assert debug[0] == 1
    assert "Traceback" in debug[2]


def test_an_unforeseen_error_is_one_line_that_names_the_option_for_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(f"broken at postgresql://trader:{SECRET}@host/bot")

    monkeypatch.setattr("iftb_store.cli.data.run", fail)

    assert run("stats") == (1, "", "error: RuntimeError: broken at postgresql://***@host/bot; --debug shows the traceback\n")
    code, _, err = run("stats", "--debug")
    assert code == 1
    assert "Traceback" in err
    assert SECRET not in err


def test_migrate_and_status_on_each_engine(run: Run, url: str) -> None:
    before = run("status", url)
    migrated = run("migrate", url)
    again = run("migrate", url)
    after = run("status", url)

    assert before[0] == 1
    assert "iftb-store migrate URL" in before[2]
    assert migrated[0] == again[0] == 0
    assert "is at revision" in migrated[1]
    assert after[0] == 0
    assert re.search(r"ohlcv +0", after[1])
    assert "(current)" in after[1]


def test_status_of_tables_without_a_revision_says_that_they_can_be_used(run: Run, sqlite_url: str) -> None:
    async def create() -> None:
        async with DatabaseManager(sqlite_url) as db, db.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    asyncio.run(create())

    code, out, err = run("status", sqlite_url)

    assert (code, err) == (0, "")
    assert "(unstamped)" in out
    assert "adds the revision" in out


@pytest.mark.parametrize("command", [["gaps", "BTCUSDT", "1m"], ["stats"], ["positions"], ["events"]])
def test_a_database_without_a_schema_is_a_failure_that_names_the_command(run: Run, sqlite_url: str, command: list[str]) -> None:
    write_dump(str(make_url(sqlite_url).database))

    code, out, err = run(command[0], sqlite_url, *command[1:])

    assert (code, out) == (1, "")
    assert "iftb-store migrate" in err


@pytest.mark.parametrize("url", ["sqlite:///typo.db", "duckdb:///typo.duckdb"])
@pytest.mark.parametrize("command", ["status", "stats"])
def test_a_database_file_that_is_not_there_is_not_made_by_looking_at_it(run: Run, tmp_path: Path, url: str, command: str) -> None:
    code, out, err = run(command, url)

    assert (code, out) == (1, "")
    assert "there is no database file typo." in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["literal", "env", "IFTB_STORE_URL", "default"])
def test_the_url_is_literal_or_named_or_from_the_settings(run: Run, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    url = "sqlite:///iftb.db"
    monkeypatch.setenv("NAMED", url)
    given = {"literal": [url], "env": ["env:NAMED"]}.get(where, [])
    if where == "IFTB_STORE_URL":
        monkeypatch.setenv("IFTB_STORE_URL", url)
    assert run("migrate", *given)[0] == 0
    write_dump("BTCUSDT-1m-2024-02.csv", line(0))

    assert run("import", *given, "BTCUSDT-1m-2024-02.csv")[0] == 0

    assert run("gaps", *given, "BTCUSDT", "1m")[:2] == (0, "no gaps in binance BTCUSDT 1m\n")
    assert Path("iftb.db").exists()


def test_an_import_reports_the_rows_of_each_file_and_the_total(run: Run, stored: str) -> None:
    write_dump("BTCUSDT-1m-2024-02.csv", line(0), line(1), line(3))
    write_dump("ETHUSDT-1m-2024-02.csv", line(0))

    code, out, err = run("import", stored, "BTCUSDT*.csv", "ETHUSDT-1m-2024-02.csv", "*.csv")

    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "BTCUSDT-1m-2024-02.csv: binance BTCUSDT 1m, 3 bars, 2024-02-01 00:00 to 2024-02-01 00:03 UTC",
        "ETHUSDT-1m-2024-02.csv: binance ETHUSDT 1m, 1 bar, 2024-02-01 00:00 to 2024-02-01 00:00 UTC",
        "2 of 2 files imported, 4 bars",
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
    assert "1 of 2 files imported, 1 bar\n" in out
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
    assert "BTCUSDT-1m-2024-02.csv: its name contradicts --timeframe 1h" in err


@pytest.mark.skipif(not DATA.exists(), reason="the exchange's own dumps are not here")
def test_the_exchanges_own_dumps_go_in_whole_and_twice(run: Run, url: str) -> None:
    run("migrate", url)
    with zipfile.ZipFile(DATA / "FILUSDT-1m-2023-04.zip") as archive:
        last = archive.read("FILUSDT-1m-2023-04.csv").decode().splitlines()[-1].split(",")

    first, second = (run("import", url, str(DATA / "*.zip")) for _ in range(2))

    assert first == second
    assert first[1].splitlines()[-1] == "2 of 2 files imported, 84,960 bars"
    assert count_bars(url) == 84_960
    (newest,) = json.loads(run("latest", url, "FILUSDT", "1m", "--limit", "1", "--json")[1])
    names = ["open", "high", "low", "close", "volume", "quote_volume"]
    assert [Decimal(newest[name]) for name in names] == [Decimal(last[column]) for column in (1, 2, 3, 4, 5, 7)]


def test_gaps_are_shown_with_the_number_of_missing_bars(run: Run, stored: str) -> None:
    store_bars(stored, bar(0), bar(1), bar(5), bar(7))

    code, out, _ = run("gaps", stored, "BTCUSDT", "1m")

    assert code == 0
    assert re.search(r"2024-02-01 00:01 +2024-02-01 00:05 +3\n", out)
    assert out.endswith("2 gaps, 4 bars missing (times in UTC)\n")


def test_gaps_at_the_edges_of_a_window_are_shown_as_json(run: Run, stored: str) -> None:
    store_bars(stored, bar(0))

    code, out, _ = run(
        "gaps", stored, "BTCUSDT", "1m", "--start", "2024-01-31T23:59", "--end", "2024-02-01T01:00+01:00", "--json"
    )

    assert code == 0
    assert json.loads(out) == [
        {"last_before": "2024-01-31T23:58:00+00:00", "first_after": "2024-02-01T00:00:00+00:00", "missing": 1}
    ]


def test_missing_months_are_counted_by_the_calendar(run: Run, stored: str) -> None:
    months = [
        replace(bar(0), timeframe="1M", timestamp=datetime(year, month, 1, tzinfo=UTC)) for year, month in ((2023, 11), (2024, 2))
    ]
    store_bars(stored, *months)

    assert run("gaps", stored, "BTCUSDT", "1M")[1].endswith("1 gap, 2 bars missing (times in UTC)\n")


def test_a_series_without_bars_differs_from_one_without_gaps(run: Run, stored: str) -> None:
    nothing = "no bars of binance BTCUSDT 1m are stored\n"

    assert run("gaps", stored, "BTCUSDT", "1m") == (0, nothing, "")
    assert run("latest", stored, "BTCUSDT", "1m") == (0, nothing, "")
    assert run("latest", stored, "BTCUSDT", "1m", "--json") == (0, "[]\n", "")


def test_latest_shows_the_newest_first_and_no_more_than_asked_for(run: Run, stored: str) -> None:
    store_bars(stored, bar(0), bar(1), replace(bar(2), trades_count=None, timestamp=START + timedelta(seconds=120.5)))

    code, out, _ = run("latest", stored, "BTCUSDT", "1m", "--limit", "2")

    assert code == 0
    times = re.findall(r"^2024-\S+ \S+", out, re.MULTILINE)
    assert times == ["2024-02-01 00:02:00.500000", "2024-02-01 00:01"]
    assert re.search(r"1\.5 +1\.5 +1\.5 +1\.5 +10\.25 +1,234\n", out)


def test_latest_as_json_has_decimals_as_text_and_times_in_utc(run: Run, url: str) -> None:
    run("migrate", url)
    store_bars(url, bar(0))

    (found,) = json.loads(run("latest", url, "BTCUSDT", "1m", "--json")[1])

    assert found["timestamp"] == "2024-02-01T00:00:00+00:00"
    assert (found["open"], found["volume"], found["quote_volume"], found["trades_count"]) == ("1.5", "10.25", None, 1_234)


def test_stats_show_the_figures(run: Run, stored: str) -> None:
    store_trade(stored)

    code, out, _ = run("stats", stored, "--days", "1")

    assert code == 0
    shown = dict(re.findall(r"^(\w[\w ]*\w) {2,}(.+)$", out, re.MULTILINE))
    assert (shown["total trades"], shown["win rate"], shown["net pnl"], shown["profit factor"]) == (
        "3",
        "33.33 %",
        "14",
        "3.33333333",
    )


def test_stats_as_json_have_every_place(run: Run, stored: str) -> None:
    store_trade(stored)

    figures = json.loads(run("stats", stored, "--json")[1])

    assert (figures["total_trades"], figures["win_rate"], figures["largest_loss"]) == (3, "33.333333333333333333", "6")


def test_stats_without_trades_have_no_profit_factor(run: Run, stored: str) -> None:
    assert "none (no losses)" in run("stats", stored)[1]


def test_positions_are_shown(run: Run, stored: str) -> None:
    empty = run("positions", stored)
    store_trade(stored)

    assert empty == (0, "no open positions on binance\n", "")
    assert re.search(r"1 +BTCUSDT +short +2024-02-01 00:00 +0\.01 +50000\.1 +100 +1\s", run("positions", stored)[1])
    (found,) = json.loads(run("positions", stored, "--json")[1])
    assert (found["side"], found["entry_price"], found["entry_time"]) == ("short", "50000.1", "2024-02-01T00:00:00+00:00")


def test_events_are_shown_newest_first_without_steering_the_terminal(run: Run, stored: str) -> None:
    empty = run("events", stored)
    store_trade(stored)

    code, out, _ = run("events", stored)

    assert empty == (0, "no events are stored\n", "")
    assert code == 0
    assert out.index("failed") < out.index("started")
    assert "up \N{REPLACEMENT CHARACTER}[31mand running [bold]" in out


def test_events_of_one_severity_are_shown_as_json(run: Run, stored: str) -> None:
    store_trade(stored)

    (found,) = json.loads(run("events", stored, "--severity", "info", "--json")[1])

    assert (found["event_type"], found["message"], found["details"]) == (
        "started",
        "up \x1b[31mand running [bold]",
        {"price": "1.10"},
    )
    assert run("events", stored, "--severity", "debug")[1] == "no events of severity debug are stored\n"


def test_the_demo_runs_and_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    code, out, err = run("demo")

    assert (code, err) == (0, "")
    assert "12 are missing" in out
    assert re.search(r"net pnl +20\.899\n", out)
    assert "To try next" in out
    assert list(tmp_path.iterdir()) == []


def test_the_demo_keeps_its_files_in_the_given_folder(run: Run) -> None:
    first = run("demo", "--path", "kept")
    second = run("demo", "--path", "kept")

    assert first[0] == 0
    assert run("stats", "sqlite:///kept/demo.db")[0] == 0
    assert second[0] == 2
    assert "already exists" in second[2]


def test_what_the_terminal_cannot_show_is_escaped(stored: str) -> None:
    write_dump("币安人生USDT-1m-2024-02.csv", line(0))

    done = process("import", stored, "币安人生USDT-1m-2024-02.csv", PYTHONIOENCODING="ascii")

    assert done.returncode == 0
    assert r"binance \u5e01\u5b89\u4eba\u751fUSDT 1m, 1 bar," in done.stdout


def test_a_directory_that_cannot_be_made_is_a_failure(run: Run) -> None:
    write_dump("file")

    assert run("demo", "--path", "file/kept") == (1, "", "error: file/kept: Not a directory\n")


def test_a_pipe_that_closes_early_is_quiet(stored: str) -> None:
    store_bars(stored, *map(bar, range(3_000)))
    command = [sys.executable, "-m", "iftb_store", "latest", stored, "BTCUSDT", "1m", "--limit", "3000", "--json"]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        err = running.stderr.read()

    assert err == b""
    assert running.returncode == 1
