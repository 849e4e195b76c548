"""Places where a password could remain: frames of a cancelled connect, settings errors, mistyped URLs, pickles."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store import DatabaseManager, StoreError, URLError
from iftb_store.cli import main
from iftb_store.config import DatabaseSettings, Settings
from iftb_store.values.display import hide_password
from tests.cli.test_secrets import ENCODED, PASSWORD, SECRET, collect_error_text
from tests.faults.cancelling import Cancelled
from tests.support.scripted_server import LETS_IN, NOTICE, READY, authentication, scripted

# SCRAM as far as a client answers it: the server's first message names the methods
SCRAM = authentication(10, b"SCRAM-SHA-256\0\0")


@pytest.fixture(autouse=True)
def plain_settings(plain_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGPASSWORD", "PGSSLMODE", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)


SERVERS = {
    "lets it in": [NOTICE, LETS_IN + READY],
    "asks for SCRAM": [SCRAM],
    "asks for MD5": [authentication(5, b"salt"), None, LETS_IN],
    "asks for clear text": [authentication(3), None, LETS_IN],
    "says nothing": [],
}
WAYS = {
    "in the address": "bot:{0}@127.0.0.1:{1}/bot?connect_timeout=300ms",
    "among the options": "bot@127.0.0.1:{1}/bot?password={0}&sslpassword={0}&connect_timeout=300ms",
}


@pytest.mark.each_once
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("options", ["", "&sslmode=disable", "&sslrootcert=system"])
@pytest.mark.parametrize("script", SERVERS.values(), ids=SERVERS)
async def test_a_connect_that_is_cancelled_at_any_await_keeps_no_password(
    script: list[bytes | None], options: str, way: str
) -> None:
    async with scripted(*script) as server:
        url = f"postgresql://{way.format(ENCODED, server.port)}&statement_timeout=100ms{options}"
        for turns in range(3):
            at, failure = 0, BaseException()
            # past the last await these servers keep it waiting until the connect timeout, or refuse it
            while not isinstance(failure, OperationalError):
                at += 1
                with pytest.raises((asyncio.CancelledError, OperationalError)) as caught:
                    await asyncio.ensure_future(Cancelled(DatabaseManager(url).connect(), at, turns))
                failure = caught.value
                assert SECRET not in collect_error_text(failure, variables=True)
            assert at > 1


@pytest.mark.each_once
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("script", SERVERS.values(), ids=SERVERS)
async def test_a_connect_that_a_timeout_ends_keeps_no_password(script: list[bytes | None], way: str) -> None:
    async with scripted(*script) as server:
        url = f"postgresql://{way.format(ENCODED, server.port).replace('300ms', '20')}&sslmode=disable"
        with pytest.raises((TimeoutError, OperationalError)) as caught:
            async with asyncio.timeout(0.05):
                await DatabaseManager(url).connect()
    assert SECRET not in collect_error_text(caught.value, variables=True)


async def test_a_session_that_is_cancelled_as_it_opens_a_connection_keeps_no_password(postgres_url: str) -> None:
    url = make_url(postgres_url).set(password=PASSWORD)
    async with DatabaseManager(url) as db:

        async def use() -> None:
            async with db.get_session() as held, db.get_session() as session:
                assert isinstance(held, AsyncSession)
                assert isinstance(session, AsyncSession)
                await held.connection()
                await session.connection()

        at, is_done = 0, False
        while not is_done:
            at += 1
            failure: BaseException | None
            (failure,) = await asyncio.gather(asyncio.ensure_future(Cancelled(use(), at)), return_exceptions=True)
            is_done = failure is None
            assert failure is None or SECRET not in collect_error_text(failure, variables=True)
            await db.engine.dispose()
    assert at > 3


def shown_by(error: ValidationError) -> str:
    return "\n".join([collect_error_text(error), repr(error.errors()), error.json(), repr(error.title)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: DatabaseSettings(port="x", password=PASSWORD),
        lambda: DatabaseSettings(password={"is": PASSWORD}),
        lambda: DatabaseSettings(IFTB_STORE_URL={"is": PASSWORD}),
        lambda: DatabaseSettings(host={"is": PASSWORD}),
        lambda: DatabaseSettings.model_validate({"password": {"is": PASSWORD}, "port": "x"}),
        lambda: DatabaseSettings.model_validate({"password": PASSWORD, "port": "x"}),
        lambda: DatabaseSettings.model_validate_json(f'{{"password": ["{SECRET}"]}}'),
        lambda: DatabaseSettings.model_validate_json(f'{{"password": "{SECRET}", "port": [1]}}'),
        lambda: DatabaseSettings.model_validate(PASSWORD),
        lambda: Settings.model_validate({"databse": {"password": PASSWORD}}),
        lambda: Settings.model_validate({"database": PASSWORD}),
        lambda: Settings.model_validate({"database": {"password": PASSWORD, "port": "x"}}),
        lambda: Settings(database={"password": PASSWORD, "port": "x"}),  # type: ignore[arg-type]
    ],
)
def test_the_errors_of_the_settings_hold_no_password(make: Callable[[], BaseModel]) -> None:
    with pytest.raises(ValidationError) as caught:
        make()
    assert SECRET not in shown_by(caught.value)


def test_the_errors_of_settings_from_the_environment_hold_none_in_their_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    monkeypatch.setenv("DB_PORT", "x")
    with pytest.raises(ValidationError) as caught:
        DatabaseSettings()
    assert SECRET not in shown_by(caught.value) + collect_error_text(caught.value, variables=True)


def test_the_errors_of_the_settings_still_name_what_is_wrong() -> None:
    with pytest.raises(ValidationError) as caught:
        DatabaseSettings(port=70_000, pool_size="x", password=PASSWORD)
    found = {problem["loc"]: problem["input"] for problem in caught.value.errors()}
    assert found == {("port",): 70_000, ("pool_size",): "x"}
    assert "less than or equal to 65535" in str(caught.value)


RAW = [
    f"postgresql://host?password=p@{SECRET}",
    f"postgresql://bot@host?password=p@{SECRET}",
    f"postgresql://host:5432?password=p@{SECRET}",
    f"postgresql://?password=p@{SECRET}",
    f"postgresql://host?user=bot&password=p@{SECRET}:5432/bot",
    f"postgresql://bot@host?sslmode=disable&password=p@{SECRET}",
    f"postgresql://bot@127.0.0.1:1/bot?password=p@{SECRET}",
    f"postgresql://host:1/bot?user=bot&password=p@{SECRET}&sslmode=disable",
    f"postgresql://host?sslpassword=p@{SECRET}",
]


@pytest.mark.parametrize("url", RAW)
def test_a_raw_at_sign_in_a_password_among_the_options_makes_no_host(url: str) -> None:
    with pytest.raises(URLError, match="percent-encode") as caught:
        DatabaseManager(url)
    assert SECRET not in collect_error_text(caught.value)


@pytest.mark.parametrize("url", RAW[:-1])
def test_nor_in_a_url_that_was_parsed_before(url: str) -> None:
    with pytest.raises(URLError) as caught:
        DatabaseManager(make_url(url))
    assert SECRET not in collect_error_text(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://bot@nowhere.invalid/bot?password=p@{SECRET}&sslmode=disable",
        f"postgresql://nowhere.invalid/bot?user=bot&password=p@{SECRET}&sslmode=disable",
    ],
)
async def test_an_at_sign_after_the_path_belongs_to_the_password(url: str) -> None:
    with pytest.raises(OperationalError, match=r"cannot connect to PostgreSQL at nowhere\.invalid:5432: ") as caught:
        await DatabaseManager(url).connect()
    assert SECRET not in collect_error_text(caught.value, variables=True) + repr(DatabaseManager(url))


def test_the_rest_of_a_password_with_an_ampersand_is_no_option_that_is_named() -> None:
    with pytest.raises(URLError, match="percent-encode & and =") as caught:
        DatabaseManager(f"postgresql://bot@host/bot?password=p&{SECRET}=x")
    assert SECRET not in collect_error_text(caught.value)


MISTYPED = [
    f"postgresql:/bot:{SECRET} and more@host/bot",
    f"postgresql:/bot:more and {SECRET}@host/bot",
    f"postgresql//bot:{SECRET} and more@host/bot",
    f"postgresql:bot:a {SECRET} b@host/bot",
    f"bot:{SECRET} and more@host/bot",
    f"postgresql://bot@host/bot?password=p@{SECRET}",
    f"postgresql://bot@host/bot?password=a b {SECRET}",
    f"postgresql:/bot@host/bot?password=a&b {SECRET}&sslmode=disable",
    f"postgresql:/bot:a\n{SECRET} b@host/bot",
]


@pytest.mark.each_once
@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["", "debug"])
@pytest.mark.parametrize("words", [["status"], ["migrate"], ["import", "sqlite:///x.db"], ["gaps", "BTCUSDT"], ["stats"]])
@pytest.mark.parametrize("url", MISTYPED)
def test_no_part_of_a_password_in_a_mistyped_url_is_printed(
    url: str, words: list[str], debug: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, url, *debug]) in (1, 2)
    captured = capfd.readouterr()
    assert "error: " in captured.err
    assert SECRET not in captured.out + captured.err


@pytest.mark.parametrize("piece", ["://", ":x", "x@", "password=", "&x=", ":/", "&", "password=&", "a b:"])
def test_cutting_passwords_out_of_a_long_text_goes_through_it_once(piece: str) -> None:
    # by the old patterns it took 14 s for 200,000 characters, and a hundred times as long for ten times as many
    text = f"{piece * (4_000_000 // len(piece))}\npassword={SECRET}"
    assert SECRET not in hide_password(text)


@pytest.mark.parametrize("write", [pickle.dumps, copy.copy, copy.deepcopy])
async def test_a_backend_is_not_pickled_or_copied(url: str, write: Callable[[object], object]) -> None:
    async with DatabaseManager(url) as db:
        for backend in (db._backend, DatabaseManager(url)._backend):
            with pytest.raises(StoreError, match="cannot be pickled or copied"):
                write(backend)


def test_what_holds_the_password_is_not_pickled(postgres_url: str) -> None:
    manager: Any = DatabaseManager(make_url(postgres_url).set(password=PASSWORD).update_query_dict({"sslpassword": PASSWORD}))
    backend = manager._backend
    for held in (manager, backend, backend._options.password, backend._options.key_password, {"manager": manager}):
        with pytest.raises(StoreError, match="cannot be pickled or copied"):
            pickle.dumps(held)
    assert SECRET.encode() not in pickle.dumps(backend._options.dsn) + pickle.dumps(manager._url)
