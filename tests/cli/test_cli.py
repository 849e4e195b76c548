"""The command iftb-store: right and wrong input to each command, exit codes, and that no secret is printed."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from iftb_store import (
    DatabaseManager,
    __version__,
)
from iftb_store.schema.tables import Base
from iftb_store.values.display import hide_password
from tests.cli.stores import bar, line, store_bars, write_dump
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("plain_environment")


SECRET = "s3cret-sentinel"


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
        (["events", "sqlite:///:memory:", "--severity", "loud"], "--severity must be one of debug, info"),
        (["import"], "no FILE is given"),
        (["import", "sqlite:///:memory:"], "no FILE is given"),
        (["import", "sqlite:///:memory:", "absent.zip"], "no file at the path absent.zip"),
        (["import", "sqlite:///:memory:", "*.zip"], r"no file at the path \*.zip"),
        (["import", "sqlite:///:memory:", "."], "is a folder without files to import"),
        (["import", "sqlite:///:memory:", ""], "the path of a file is empty"),
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
    # the test's PostgreSQL server is named by an option of the URL, which a shell would read
    given = hide_password(shlex.quote(url) if "?" in url else url)
    assert f"`iftb-store migrate {given}` creates " in hide_password(before[2])
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
    assert f"`iftb-store migrate {sqlite_url}` adds it" in out


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


def test_the_demo_runs_and_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    code, out, err = run("demo")

    assert (code, err) == (0, "")
    assert "12 are missing" in out
    assert re.search(r"pnl before fees +20\.899\n", out)
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
    assert r"binance \u5e01\u5b89\u4eba\u751fUSDT 1m, 1 bar (1 inserted," in done.stdout


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
