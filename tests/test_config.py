"""Settings from the environment."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from sqlalchemy import make_url

from iftb_store import ConfigurationError, DatabaseManager, URLError, get_settings

SECRET = "s3cret-sentinel"
PARTS = {"DB_HOST": "db.example", "DB_DATABASE": "bot", "DB_USERNAME": "trader", "DB_PASSWORD": SECRET}


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith(("DB_", "IFTB_STORE_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PARTS.items():
        monkeypatch.setenv(name, value)


def test_the_whole_url_is_returned_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFTB_STORE_URL", "duckdb:///research.duckdb?threads=2")

    assert get_settings().database.get_async_url() == "duckdb:///research.duckdb?threads=2"


@pytest.mark.usefixtures("parts")
def test_the_whole_url_wins_over_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFTB_STORE_URL", "sqlite:///bot.db")

    assert get_settings().database.get_async_url() == "sqlite:///bot.db"


@pytest.mark.usefixtures("parts")
def test_the_parts_make_a_postgresql_url_with_the_default_port() -> None:
    url = make_url(get_settings().database.get_async_url())

    assert url.drivername == "postgresql+asyncpg"
    assert (url.host, url.port, url.database, url.username, url.password) == ("db.example", 5432, "bot", "trader", SECRET)


@pytest.mark.usefixtures("parts")
def test_the_url_is_one_that_the_manager_takes() -> None:
    manager = DatabaseManager(get_settings().database.get_async_url())

    assert "db.example" in repr(manager)
    assert SECRET not in repr(manager)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(
    "password", ["p@ss", "a:b", "a/b", "100%", "a#b", "a?b=c", "a b", "a+b", "a&b", "%40", "ü€🔑", "[x]", "'\"\\"]
)
def test_special_characters_in_the_password_survive(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    monkeypatch.setenv("DB_PASSWORD", password)

    url = make_url(get_settings().database.get_async_url())

    assert (url.password, url.host) == (password, "db.example")


@pytest.mark.usefixtures("parts")
def test_the_directory_of_a_unix_socket_is_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_HOST", "/run/postgresql")

    url = make_url(get_settings().database.get_async_url())

    assert url.host is None
    assert dict(url.query) == {"host": "/run/postgresql", "port": "5432"}


@pytest.mark.parametrize("host", ["db.example", "/run/postgresql"])
@pytest.mark.usefixtures("parts")
def test_timeouts_become_options_of_the_url(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    given = {"connect_timeout": "3", "pool_timeout": "500ms", "statement_timeout": "2min"}
    monkeypatch.setenv("DB_HOST", host)
    for name, value in given.items():
        monkeypatch.setenv(f"DB_{name.upper()}", value)

    url = make_url(get_settings().database.get_async_url())

    assert {name: url.query[name] for name in given} == given
    DatabaseManager(url)


@pytest.mark.parametrize("host", ["db.example", "/run/postgresql"])
@pytest.mark.usefixtures("parts")
def test_tls_becomes_options_of_the_url(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    given = {"sslmode": "verify-full", "sslrootcert": "/etc/tls/all & more/ca=1.pem"}
    monkeypatch.setenv("DB_HOST", host)
    for name, value in given.items():
        monkeypatch.setenv(f"DB_{name.upper()}", value)

    url = make_url(get_settings().database.get_async_url())

    assert {name: url.query[name] for name in given} == given
    DatabaseManager(url)


@pytest.mark.usefixtures("parts")
def test_an_unknown_sslmode_is_refused_by_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_SSLMODE", "always")

    with pytest.raises(URLError, match="sslmode must be one of"):
        DatabaseManager(get_settings().database.get_async_url())


@pytest.mark.usefixtures("parts")
def test_a_timeout_that_is_no_time_is_refused_by_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_STATEMENT_TIMEOUT", "soon")

    with pytest.raises(URLError, match="statement_timeout must be a time like"):
        DatabaseManager(get_settings().database.get_async_url())


@pytest.mark.parametrize("missing", ["DB_HOST", "DB_DATABASE", "DB_USERNAME", "DB_PASSWORD"])
@pytest.mark.usefixtures("parts")
def test_a_missing_part_is_an_error_that_names_only_it(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delenv(missing)

    with pytest.raises(ConfigurationError, match=f"^{missing} is not set, but") as caught:
        get_settings().database.get_async_url()

    assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("parts")
def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "")

    with pytest.raises(ConfigurationError, match=r"^DB_PASSWORD is not set"):
        get_settings().database.get_async_url()


@pytest.mark.parametrize("name", ["DB_PORT", "DB_POOL_SIZE", "DB_MAX_OVERFLOW"])
def test_any_db_variable_means_postgresql(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "7")

    with pytest.raises(
        ConfigurationError, match=f"^DB_HOST and DB_DATABASE and DB_USERNAME and DB_PASSWORD are not set, but {name} is"
    ):
        get_settings().database.get_async_url()


def test_nothing_set_means_a_file_here_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert get_settings().database.get_async_url() == "sqlite+aiosqlite:///iftb.db"

    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(Path("iftb.db").absolute()) in caplog.text


def test_the_pool_has_its_defaults() -> None:
    database = get_settings().database

    assert (database.pool_size, database.max_overflow) == (5, 10)


def test_the_pool_is_set_beside_a_whole_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFTB_STORE_URL", "postgresql://bot@localhost/bot")
    monkeypatch.setenv("DB_POOL_SIZE", "20")
    monkeypatch.setenv("DB_MAX_OVERFLOW", "0")

    database = get_settings().database

    assert (database.pool_size, database.max_overflow) == (20, 0)
    assert database.get_async_url() == "postgresql://bot@localhost/bot"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_PORT", "abc"),
        ("DB_PORT", "0"),
        ("DB_PORT", "65536"),
        ("DB_POOL_SIZE", "0"),
        ("DB_POOL_SIZE", "1.5"),
        ("DB_MAX_OVERFLOW", "-1"),
    ],
)
@pytest.mark.usefixtures("parts")
def test_a_wrong_value_is_an_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=f"^{name} is '{value}'") as caught:
        get_settings()

    assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("parts")
def test_no_representation_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFTB_STORE_URL", f"postgresql://trader:{SECRET}@db.example/bot")

    settings = get_settings()

    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.database)
    assert SECRET not in settings.model_dump_json()


@pytest.mark.usefixtures("parts")
def test_settings_are_read_again_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    before = get_settings()

    monkeypatch.setenv("DB_HOST", "other.example")

    assert (before.database.host, get_settings().database.host) == ("db.example", "other.example")
