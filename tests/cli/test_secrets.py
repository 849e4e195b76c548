"""A password goes through every error path and must appear in no message, log or warning."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import pytest
from pydantic import ValidationError
from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store import ConfigurationError, DatabaseManager, OHLCVRepository, StoreError, TradeRepository, URLError
from iftb_store.cli import main
from iftb_store.config import DatabaseSettings, Settings, get_settings
from iftb_store.testing.samples import hourly, trade
from tests.cli.test_alembic_command import alembic

# no encoding changes its first part, so that one search finds it in all
SECRET = "s3ntinel"
PASSWORD = f"{SECRET}:@/?#&= %"
ENCODED = quote(PASSWORD, safe="")

_TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def heard(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[[], str]]:
    """All output, log records of any level and warnings of this test; none of it contains the password."""
    for name in [name for name in os.environ if name.upper().startswith(("DB_", "PG", "IFTB_STORE_URL"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ["", *logging.root.manager.loggerDict]:
        caplog.set_level(logging.DEBUG, logger=name or None)
    written: list[str] = []
    # echo gives SQLAlchemy's logger a handler for good
    monkeypatch.setattr(logging.getLogger("sqlalchemy"), "handlers", [])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")

        def everything() -> str:
            captured = capfd.readouterr()
            written.extend((captured.out, captured.err))
            records = [f"{record.getMessage()} {record.args!r} {record.exc_text} {vars(record)}" for record in caplog.records]
            return "\n".join([*written, *records, *(str(warning.message) for warning in warned)])

        yield everything
    assert SECRET not in everything()


def collect_error_text(error: BaseException, *, variables: bool = False) -> str:
    """Return the text of an exception and of all that led to it, including those that a traceback leaves out.

    With ``variables`` also the variables of all frames except the tests', as Rich or an error tracker shows them.
    """
    waiting, known, lines = [error], set[int](), list[str]()
    while waiting:
        one = waiting.pop()
        if id(one) in known:
            continue
        known.add(id(one))
        lines += [str(one), repr(one), repr(one.args), repr(vars(one)), *traceback.format_exception(one)]
        if variables:
            lines += [repr(dict(frame.f_locals)) for frame, _ in traceback.walk_tb(one.__traceback__) if not _ours(frame)]
        waiting += [other for other in (one.__cause__, one.__context__, getattr(one, "orig", None)) if other is not None]
    return "\n".join(lines)


def _ours(frame: FrameType) -> bool:
    return Path(frame.f_code.co_filename).is_relative_to(_TESTS)


async def failure(work: Awaitable[object]) -> str:
    """Return the text of the failure of ``work``, variables included."""
    with pytest.raises((OperationalError, IntegrityError, StoreError)) as caught:
        await work
    return collect_error_text(caught.value, variables=True)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://bot:{ENCODED}@host:port/bot",
        f"postgresql://bot:{ENCODED}@host:99999/bot",
        f"postgresql://bot:{PASSWORD}@host/bot",
        f"postgresql://bot:p@{SECRET}@host/bot",
        f"postgresql://bot:1/{SECRET}@host:x/bot",
        f"postgresql:/bot:{ENCODED}@host/bot",
        f"postgresql//bot:{ENCODED}@host/bot",
        f"bot:{ENCODED}@host/bot",
        f"postgresql://host/bot;password={SECRET}",
        f"oracle://bot:{ENCODED}@host/bot",
        f"postgresql+psycopg://bot:{ENCODED}@host/bot",
        f"postgresql://bot:{ENCODED}@[::1/bot",
        f"postgresql://bot:{ENCODED}@h\N{ACCOUNT OF}st/bot",
        f"postgresql://bot:{ENCODED}@host/bot?unknown=1",
        f"postgresql://bot:{ENCODED}@host/bot?passwd={ENCODED}",
        f"postgresql://bot:{ENCODED}@host/bot?password={ENCODED}&password={ENCODED}",
        f"postgresql://bot:{ENCODED}@host/bot?sslmode=maybe&sslpassword={ENCODED}",
        f"postgresql://bot:{ENCODED}@host/bot?connect_timeout=soon",
        f"postgresql://bot:{ENCODED}\0@host/bot",
        f"sqlite://bot:{ENCODED}@host/bot.db",
        f"sqlite:///postgresql://bot:{ENCODED}@host/bot",
        f"sqlite:///bot.db?password={ENCODED}",
        f"duckdb://bot:{ENCODED}@host/bot.duckdb",
        f"duckdb:///bot.duckdb?password={ENCODED}",
    ],
)
def test_a_url_that_is_refused(url: str) -> None:
    with pytest.raises(URLError) as caught:
        DatabaseManager(url)
    assert SECRET not in collect_error_text(caught.value)


def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    # a path of its own, as a backend that was found once is kept
    monkeypatch.syspath_prepend("nowhere")
    monkeypatch.setitem(__import__("sys").modules, "iftb_store_postgres", None)
    with pytest.raises(StoreError) as caught:
        DatabaseManager(f"postgresql://bot:{ENCODED}@host/bot")
    assert SECRET not in collect_error_text(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://bot:{ENCODED}@host/bot",
        f"postgresql://bot@host/bot?password={ENCODED}&sslpassword={ENCODED}",
        make_url(f"postgresql://bot:{ENCODED}@host/bot?sslpassword={ENCODED}"),
    ],
)
async def test_a_manager_and_what_it_is_made_of(url: Any) -> None:
    manager = DatabaseManager(url)
    shown = f"{manager} {manager!r} {vars(manager)} {vars(manager._backend)}"
    failures = [await failure(work()) for work in (manager.migrate, manager.status, manager.create_tables)]
    with pytest.raises(StoreError) as caught:
        manager.get_session()
    assert SECRET not in "\n".join([shown, *failures, collect_error_text(caught.value, variables=True)])
    assert "***" in shown


async def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFTB_STORE_URL", f"postgresql://bot:{ENCODED}@host/bot")
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    settings = get_settings()
    database = settings.database
    shown = f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()} {vars(database)} {dict(database)}"
    assert SECRET not in shown + json.dumps(database.model_dump(mode="json"))
    monkeypatch.delenv("IFTB_STORE_URL")
    database = get_settings().database
    with pytest.raises(ConfigurationError) as incomplete:
        database.get_async_url()
    monkeypatch.setenv("DB_PORT", "x")
    with pytest.raises(ConfigurationError) as wrong:
        get_settings()
    assert SECRET not in collect_error_text(incomplete.value, variables=True) + collect_error_text(wrong.value, variables=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DatabaseSettings.model_validate({"password": {"is": PASSWORD}}),
        lambda: DatabaseSettings.model_validate({"password": PASSWORD, "port": "x"}),
        lambda: DatabaseSettings.model_validate(PASSWORD),
        lambda: Settings.model_validate({"databse": {"password": PASSWORD}}),
        lambda: Settings.model_validate({"database": PASSWORD}),
        lambda: setattr(DatabaseSettings(), "password", PASSWORD),
    ],
)
def test_settings_of_a_wrong_shape(make: Callable[[], object]) -> None:
    with pytest.raises((ValidationError, AttributeError)) as caught:
        make()
    assert SECRET not in collect_error_text(caught.value)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[int]:
    """A port on which ``serve`` answers each connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(8)


async def quoting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ask for the password in clear text and close the connection, like a server that is shut down."""
    await reader.read(1_000)
    writer.write(b"R\0\0\0\x08\0\0\0\x03")
    await reader.read(1_000)


@pytest.mark.each_once
@pytest.mark.parametrize("serve", [silent, garbage, closing, quoting])
@pytest.mark.parametrize(
    "options", ["", "&sslmode=disable", "&sslmode=verify-full&sslrootcert=/absent.pem", "&sslcert=/absent.pem"]
)
async def test_a_server_that_is_none(serve: Serve, options: str) -> None:
    async with served(serve) as port:
        url = f"postgresql://bot:{ENCODED}@127.0.0.1:{port}/bot?connect_timeout=200ms&sslpassword={ENCODED}{options}"
        assert SECRET not in await failure(DatabaseManager(url).connect())


@pytest.mark.each_once
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid", "[::1]:1", ""])
@pytest.mark.parametrize("way", ["bot:{}@{}/bot?", "bot@{1}/bot?password={0}&"])
async def test_a_server_that_is_not_there(address: str, way: str) -> None:
    url = f"postgresql://{way.format(ENCODED, address)}connect_timeout=2{'' if address else '&host=/absent'}"
    assert SECRET not in await failure(DatabaseManager(url).connect())


@pytest.fixture(scope="module")
def role(postgres_server: str, postgres_connection: Callable[[str], Callable[[str], None]]) -> Iterator[str]:
    """A role whose password the server asks for, even if it trusts all others."""
    name = f"iftb_{uuid4().hex}"
    execute = postgres_connection(postgres_server)
    execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    rules = Path(asyncio.run(_setting(postgres_server, "hba_file")))
    trusting = "" if "IFTB_STORE_TEST_POSTGRES_URL" in os.environ else rules.read_text()
    if trusting:
        rules.write_text(f"local all {name} scram-sha-256\nhost all {name} all scram-sha-256\n{trusting}")
        execute("SELECT pg_reload_conf()")
        asyncio.run(_until_refused(make_url(postgres_server).set(username=name, password="wrong")))
    yield name
    if trusting:
        rules.write_text(trusting)
        execute("SELECT pg_reload_conf()")
    execute(f"DROP ROLE {name}")


async def _until_refused(url: URL) -> None:
    """Connect until the server has reloaded its rules."""
    with suppress(asyncpg.InvalidPasswordError):
        for _ in range(10_000):
            await (await asyncpg.connect(url.render_as_string(hide_password=False))).close()
        pytest.fail("the server never read its rules again")


async def _setting(url: str, name: str) -> str:
    connection = await asyncpg.connect(url)
    value: str = await connection.fetchval(f"SHOW {name}")
    await connection.close()
    return value


@pytest.fixture
def role_url(role: str, postgres_url: str) -> str:
    """URL of the role, with its password."""
    return make_url(postgres_url).set(username=role, password=PASSWORD).render_as_string(hide_password=False)


def changed(url: str, password: str | None = PASSWORD, database: str | None = None, query: Any = None, **options: str) -> str:
    parts = make_url(url)
    # set() takes None as no change
    parts = parts._replace(password=password, database=database or parts.database)
    parts = parts.update_query_dict({**(query or {}), **options})
    return parts.render_as_string(hide_password=False)


async def test_a_wrong_password(role_url: str) -> None:
    url = changed(role_url, password=f"{PASSWORD}wrong")
    shown = await failure(DatabaseManager(url).connect())
    assert "the password was refused" in shown
    assert SECRET not in shown


async def test_a_wrong_password_in_a_passfile_or_one_that_others_can_read(role_url: str, tmp_path: Path) -> None:
    file = tmp_path / "pass"
    file.write_text(f"*:*:*:*:{SECRET}wrong\n")
    url = changed(role_url, password=None, passfile=str(file))
    for mode in (0o600, 0o644):
        file.chmod(mode)
        assert SECRET not in await failure(DatabaseManager(url).connect())


async def test_a_wrong_database(role_url: str) -> None:
    assert SECRET not in await failure(DatabaseManager(changed(role_url, database="absent")).connect())


@pytest.mark.parametrize("way", ["address", "query"])
async def test_statements_that_fail_in_a_pool_that_is_full_with_all_logged(role_url: str, way: str) -> None:
    secret: dict[str, Any] = {"password": PASSWORD} if way == "address" else {"password": None, "query": {"password": PASSWORD}}
    manager = DatabaseManager(changed(role_url, pool_timeout="10ms", **secret), pool_size=1, max_overflow=0, echo=True)
    shown = []
    async with manager as db:
        shown.append(await failure(TradeRepository(db).insert(trade())))
        shown.append(await failure(OHLCVRepository(db).insert_many(hourly(400))))
        shown.append(await failure(db.migrate()))
        shown.append(await failure(db.create_tables()))
        async with db.get_session() as session:
            await session.execute(text("SELECT 1"))
            shown.append(await failure(TradeRepository(db).get_recent()))
            shown.append(await failure(session.execute(text("SELECT no_such_column"))))
            await session.rollback()
        async with db.get_session() as session:
            await session.execute(text("SELECT 1"))
            shown.append(await failure(session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))))
            await session.rollback()
        shown += [repr(db), repr(db.engine), repr(db.engine.url), repr(db.engine.pool), repr(vars(db.engine.sync_engine))]
    shown.append(await failure(_use(manager)))
    assert SECRET not in "\n".join(shown)


async def _use(manager: DatabaseManager) -> None:
    async with manager.get_session():
        pass


_GOOD = f"postgresql://bot:{ENCODED}@127.0.0.1:1/bot"


@pytest.mark.each_once
@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize(
    "words",
    [
        ["migrate", _GOOD],
        ["status", _GOOD],
        ["status", f"postgresql://bot@127.0.0.1:1/bot?password={ENCODED}&sslpassword={ENCODED}"],
        ["status", f"postgresql://bot:{PASSWORD}@127.0.0.1:1/bot"],
        ["status", f"postgresql://bot:{ENCODED}@127.0.0.1:1/bot?unknown=1"],
        ["status", f"oracle://bot:{ENCODED}@host/bot"],
        ["status", f"sqlite:///postgresql://bot:{ENCODED}@host/bot"],
        ["status", "env:SENTINEL_URL"],
        ["status", f"env:{_GOOD}"],
        ["status", f"env:{SECRET}:@x"],
        ["status"],
        ["doctor", _GOOD],
        ["doctor", _GOOD, "--json"],
        ["doctor", "env:SENTINEL_URL", "--quiet"],
        ["import", _GOOD, "absent.csv"],
        ["import", f"postgresql:/bot:{ENCODED}@host/bot", "absent.csv"],
        ["import", "sqlite:///x.db", _GOOD],
        ["copy", _GOOD, "sqlite:///x.db"],
        ["copy", _GOOD, _GOOD],
        ["copy", f"postgresql:/bot:{ENCODED}@host/bot", "env:SENTINEL_URL"],
        ["copy", "sqlite:///x.db", "sqlite:///y.db", "--table", _GOOD],
        ["verify", "sqlite:///x.db", _GOOD],
        ["verify", "env:SENTINEL_URL", f"postgresql://bot@127.0.0.1:1/bot?password={ENCODED}&sslpassword={ENCODED}"],
        ["verify", "sqlite:///x.db", "sqlite:///y.db", "--start", _GOOD],
        ["export", _GOOD, "-o", "absent.csv"],
        ["export", "sqlite:///x.db", "-o", _GOOD],
        ["export", "sqlite:///x.db", "-o", "absent.csv", "--table", _GOOD],
        ["export", "sqlite:///x.db", "-o", "absent.csv", "--symbol", _GOOD],
        ["import", "sqlite:///x.db", "README.md", "--map", _GOOD],
        ["import", "sqlite:///x.db", "README.md", "--tz", _GOOD],
        ["gaps", _GOOD, "BTCUSDT", "1m"],
        ["gaps", _GOOD, "BTCUSDT", "1m", "--start", _GOOD],
        ["gaps", "BTCUSDT", _GOOD, "1m"],
        ["latest", _GOOD, "BTCUSDT", "1m", "--limit", _GOOD],
        ["stats", _GOOD, "--days", _GOOD],
        ["positions", _GOOD, _GOOD],
        ["events", "sqlite:///x.db", "--severity", _GOOD],
        ["backup", _GOOD],
        ["backup", _GOOD, "saved"],
        ["backup", "sqlite:///x.db", _GOOD],
        ["backup", "sqlite:///x.db", _GOOD, "--overwrite"],
        ["restore", _GOOD],
        ["restore", "saved", _GOOD],
        ["restore", _GOOD, _GOOD],
        ["demo", _GOOD],
        [_GOOD],
        ["--url", _GOOD],
    ],
)
def test_a_command(words: list[str], debug: list[str], monkeypatch: pytest.MonkeyPatch, heard: Callable[[], str]) -> None:
    for name in ("SENTINEL_URL", "IFTB_STORE_URL"):
        monkeypatch.setenv(name, _GOOD)
    assert main([*words, *debug]) in (1, 2)
    assert "error: " in heard()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (_GOOD, ["upgrade", "head"]),
        (_GOOD, ["upgrade", "head", "--sql"]),
        (_GOOD, ["--raiseerr", "upgrade", "head"]),
        (f"postgresql://bot:{PASSWORD}@127.0.0.1/bot", ["--raiseerr", "upgrade", "head"]),
        ("sqlite://", ["-x", f"url={_GOOD}", "upgrade", "head"]),
    ],
)
def test_the_alembic_command(url: str, words: list[str]) -> None:
    done = alembic(url, *words)
    assert done.stdout + done.stderr != ""
    assert SECRET not in done.stdout + done.stderr
