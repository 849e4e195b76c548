"""Messages suggest the word that was meant: timeframes, fields, tables, options, URLs, variables."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import make_url

from iftb_store import (
    ConfigurationError,
    DatabaseManager,
    InvalidValueError,
    OHLCVRepository,
    SchemaError,
    TradeRepository,
    URLError,
    check_timeframe,
    get_settings,
)
from iftb_store.cli import app
from iftb_store.schema.scope import TableScope
from iftb_store.url import quote_url
from iftb_store.values.suggestions import suggest, suggest_url
from tests.conftest import Run


@pytest.mark.parametrize(
    ("given", "meant"),
    [("1H", "1h"), ("60m", "1h"), ("60min", "1h"), ("1hour", "1h"), ("H4", "4h"), ("24h", "1d"), ("D", "1d"), ("1mo", "1M")],
)
def test_another_name_of_a_timeframe_suggests_ours(given: str, meant: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"^unknown timeframe '{given}'; did you mean {meant}\? the known ones are 1s "):
        check_timeframe(given)


@pytest.mark.parametrize("given", ["5M", "7h", "", "x", "1" * 1000, 3, None])
def test_a_timeframe_that_is_not_near_suggests_nothing(given: object) -> None:
    with pytest.raises(InvalidValueError, match=r"^unknown timeframe [^;]*; the known ones are "):
        check_timeframe(given)


async def test_an_unknown_field_of_a_trade_suggests_the_known_one(sqlite_tables_url: str) -> None:
    changes: dict[str, Any] = {"exit_prize": 1}
    async with DatabaseManager(sqlite_tables_url) as db:
        with pytest.raises(InvalidValueError, match=r"a trade has no field 'exit_prize'; did you mean exit_price\? the fields"):
            await TradeRepository(db).update(1, **changes)


async def test_an_unknown_column_of_a_bar_suggests_the_known_one(sqlite_tables_url: str) -> None:
    async with DatabaseManager(sqlite_tables_url) as db:
        with pytest.raises(InvalidValueError, match=r"a bar has no column 'Volumes'; did you mean volume\? the columns"):
            await OHLCVRepository(db).write_arrow(pa.table({"Volumes": [1]}))


def test_an_unknown_table_suggests_the_known_one() -> None:
    with pytest.raises(InvalidValueError, match=r"there is no table 'trade'; did you mean trades\? the tables are"):
        TableScope("trade")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("bot.db", "sqlite:///bot.db"),
        ("data/bot.sqlite3", "sqlite:///data/bot.sqlite3"),
        ("/srv/bot.db", "sqlite:////srv/bot.db"),
        ("research.duckdb", "duckdb:///research.duckdb"),
        ("sqlite:bot.db", "sqlite:///bot.db"),
        ("sqlite:/srv/bot.db", "sqlite:////srv/bot.db"),
        ("sqlite://bot.db", "sqlite:///bot.db"),
        ("duckdb://data/research.duckdb", "duckdb:///data/research.duckdb"),
        ("sqlite:///bot.db?cachesize=5", "cache_size"),
        ("duckdb:///bot.duckdb?memorylimit=5GB", "memory_limit"),
        ("postgresql://localhost/bot?ssl_mode=require", "sslmode"),
        ("sqllite:///bot.db", "sqlite"),
    ],
)
def test_a_mistyped_url_suggests_the_corrected_one(given: str, meant: str) -> None:
    with pytest.raises(URLError) as caught:
        DatabaseManager(given)
    assert f"did you mean {meant}?" in str(caught.value)


@pytest.mark.parametrize("given", ["bot:hunter2@host.db", "hunter2", "postgresql:bot:hunter2.db", "a" * 501 + ".db", "\0.db"])
def test_what_may_hold_a_password_is_not_suggested(given: str) -> None:
    assert suggest_url(given) == ""


def test_a_path_in_the_home_folder_is_suggested_in_full() -> None:
    assert suggest_url("~/bot.db") == f"did you mean sqlite:///{Path.home() / 'bot.db'}? "


def test_a_word_that_is_not_near_suggests_nothing() -> None:
    assert [suggest(word, ["side", "symbol"]) for word in ("", "x", "s" * 1000, None)] == [""] * 4


@pytest.mark.usefixtures("plain_environment")
def test_a_mistyped_variable_suggests_the_known_one(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("IFTB_STORE_URI", "sqlite:///bot.db")
    with caplog.at_level(logging.WARNING):
        get_settings().database.get_async_url()
    assert "IFTB_STORE_URI is set: did you mean IFTB_STORE_URL?" in caplog.text
    for name in ("DB_HOST", "DB_DATABASE", "DB_USERNAME", "DB_PASWORD"):
        monkeypatch.setenv(name, "bot")
    monkeypatch.delenv("IFTB_STORE_URI")
    with pytest.raises(
        ConfigurationError, match=r"DB_PASSWORD is not set, .*; DB_PASWORD is set: did you mean DB_PASSWORD\? set all"
    ):
        get_settings().database.get_async_url()


@pytest.mark.usefixtures("plain_environment")
@pytest.mark.parametrize("words", [["status", "bot.db"], ["latest", "bot.db", "BTCUSDT", "1h"], ["positions", "bot.db"]])
def test_a_command_suggests_the_url_of_a_file(run: Run, words: list[str]) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert "did you mean sqlite:///bot.db?" in err


@pytest.mark.parametrize("command", [None, *(command.name for command in app.registered_commands)])
def test_every_command_has_the_short_option_for_help(run: Run, command: str | None) -> None:
    words = [] if command is None else [command]
    code, out, err = run(*words, "-h")
    assert (code, err) == (0, "")
    assert f"Usage: iftb-store {command or '[OPTIONS]'}" in out


@pytest.mark.usefixtures("plain_environment")
def test_a_remedy_names_the_url_that_was_given(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "`iftb-store migrate sqlite:///bot.db` creates it" in run("latest", "sqlite:///bot.db", "BTCUSDT", "1h")[2]
    monkeypatch.setenv("BOT_URL", "sqlite:///bot.db?timeout=5")
    assert "`iftb-store migrate env:BOT_URL` creates it" in run("latest", "env:BOT_URL", "BTCUSDT", "1h")[2]
    Path("bot.db").touch()
    assert "run `iftb-store migrate env:BOT_URL` or" in run("latest", "env:BOT_URL", "BTCUSDT", "1h")[2]
    assert "`iftb-store migrate env:BOT_URL` creates them" in run("status", "env:BOT_URL")[2]
    assert "`iftb-store migrate env:BOT_URL` creates them" in run("doctor", "env:BOT_URL")[1]
    assert "`iftb-store migrate 'sqlite:///bot.db?timeout=5'` creates them" in run("status", "sqlite:///bot.db?timeout=5")[2]


async def test_an_error_names_the_url_of_the_manager_without_its_password(url: str) -> None:
    async with DatabaseManager(url) as db:
        for call in (OHLCVRepository(db).list_series(), TradeRepository(db).get_recent()):
            with pytest.raises(SchemaError, match=re.escape(f"`iftb-store migrate {shlex.quote(db.url)}`")):
                await call
    assert quote_url(make_url("postgresql://bot:hunter2@localhost/bot?sslmode=require")) == (
        "'postgresql://bot:***@localhost/bot?sslmode=require'"
    )
