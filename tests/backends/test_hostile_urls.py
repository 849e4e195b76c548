"""URLs with every reserved character in every part: each reaches the driver unchanged, or is refused without showing a secret."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, make_url
from sqlalchemy.exc import OperationalError

from iftb_store import ConfigurationError, DatabaseManager, StoreError, URLError, get_settings
from tests.faults.rounds import SOAK, rounds

SECRET = "s3cret-sentinel"
RESERVED = "@:/?#[]%&=+ ;,'\"\\|^`{}<>!$*()~-._\u00fc\u20ac\U0001f511"
WORDS = [*(f"a{char}b" for char in RESERVED), RESERVED, "%40", "%2F%00", "%%", " a ", "//", "'; DROP DATABASE bot; --", "\u202ea"]
NO_WORDS = ["a\0b", "a\ud800b", "x" * 5_000]


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith("DB_") or name.upper() == "IFTB_STORE_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@asynccontextmanager
async def listener() -> AsyncIterator[tuple[int, dict[str, str]]]:
    """Listen as a server that asks for a password and refuses it; yield the port and what the last client sent."""
    sent: dict[str, str] = {}

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        startup = await _message(reader)
        words = [word.decode() for word in startup[4:].split(b"\0")]
        sent.clear()
        sent.update(zip(words[::2], words[1::2], strict=False))
        writer.write(b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big"))
        await reader.readexactly(1)
        sent["password"] = (await _message(reader))[:-1].decode()
        refusal = b"SFATAL\0C28P01\0Mrefused\0\0"
        writer.write(b"E" + (len(refusal) + 4).to_bytes(4, "big") + refusal)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], sent


async def _message(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)


async def test_reserved_characters_in_user_password_database_and_options_arrive() -> None:
    async with listener() as (port, sent):
        for word in WORDS:
            options = {"sslmode": "disable", "application_name": word, "search_path": word}
            url = URL.create("postgresql", word, word, "127.0.0.1", port, word, options).render_as_string(hide_password=False)
            with pytest.raises(OperationalError, match="password was refused"):
                await DatabaseManager(url).connect()
            found = [sent[name] for name in ("user", "password", "database", "application_name", "search_path")]
            assert found == [word] * 5


async def test_reserved_characters_in_the_settings_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listener() as (port, sent):
        monkeypatch.setenv("DB_HOST", "127.0.0.1")
        monkeypatch.setenv("DB_PORT", str(port))
        for word in WORDS:
            for name in ("DATABASE", "USERNAME", "PASSWORD"):
                monkeypatch.setenv(f"DB_{name}", word)
            url = make_url(get_settings().database.get_async_url()).update_query_dict({"sslmode": "disable"})
            with pytest.raises(OperationalError, match="password was refused"):
                await DatabaseManager(url).connect()
            assert [sent[name] for name in ("user", "password", "database")] == [word] * 3


async def test_reserved_characters_in_a_database_s_name_arrive(postgres_url: str) -> None:
    for word in WORDS:
        url = make_url(postgres_url).set(database=word[:16]).render_as_string(hide_password=False)
        with pytest.raises(OperationalError, match="database does not exist"):
            await DatabaseManager(url).connect()


# the host ends at / or ?
@pytest.mark.one_of_each
@pytest.mark.parametrize("char", sorted(set(RESERVED) - set("/?:,-._\u00fc")))
def test_a_reserved_character_in_the_host_is_refused(char: str) -> None:
    url = URL.create("postgresql", "trader", SECRET, f"db{char}example", database="bot").render_as_string(hide_password=False)

    with pytest.raises(URLError) as refused:
        DatabaseManager(url)

    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("char", "/?")
def test_a_host_in_the_settings_that_would_be_another_url_is_refused(monkeypatch: pytest.MonkeyPatch, char: str) -> None:
    for name, value in {"HOST": f"db{char}example", "DATABASE": "bot", "USERNAME": "trader", "PASSWORD": SECRET}.items():
        monkeypatch.setenv(f"DB_{name}", value)

    with pytest.raises(ConfigurationError, match=r"^DB_HOST is ") as refused:
        get_settings().database.get_async_url()

    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "host",
    [
        f"postgresql://other:{SECRET}@db.example:5432/bot",
        f"postgresql://other:{SECRET}@db.example",
        f"other:{SECRET}@db.example:5432",
        "db.example:5432/bot",
        "db.example:5432",
        "[::1",
    ],
)
def test_a_url_in_the_host_s_variable_is_refused_without_its_value(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    for name, value in {"HOST": host, "DATABASE": "bot", "USERNAME": "trader", "PASSWORD": "pass"}.items():
        monkeypatch.setenv(f"DB_{name}", value)

    with pytest.raises(ConfigurationError, match=r"^DB_HOST is neither a host name") as refused:
        get_settings().database.get_async_url()

    assert host not in str(refused.value)
    assert SECRET not in str(refused.value)
    assert refused.value.__context__ is None


@pytest.mark.skipif(os.name == "nt", reason="the environment is text there")
@pytest.mark.parametrize("name", ["DB_HOST", "DB_DATABASE", "DB_USERNAME", "DB_PASSWORD"])
def test_bytes_in_the_settings_that_are_no_text_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for part in ("DB_HOST", "DB_DATABASE", "DB_USERNAME", "DB_PASSWORD"):
        monkeypatch.setenv(part, "plain")
    monkeypatch.setenv(name, os.fsdecode(SECRET.encode() + b"\xff"))

    with pytest.raises(ConfigurationError, match=f"^{name} contains bytes that are not UTF-8") as refused:
        get_settings().database.get_async_url()

    assert SECRET not in str(refused.value)


@pytest.mark.one_of_each
@pytest.mark.parametrize("scheme", ["sqlite", "duckdb"])
@pytest.mark.parametrize("word", [word for word in WORDS if not {"/", "\\", "?"} & set(word)])
async def test_a_database_file_gets_exactly_the_name_in_the_url(tmp_path: Path, scheme: str, word: str) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    name = f"x{word}.db"

    async with DatabaseManager(URL.create(scheme, database=str(folder / name)).render_as_string()) as db:
        await db.create_tables()

    assert {path.name for path in folder.iterdir()} == {name}


@pytest.mark.skipif(os.name == "nt", reason="a backslash is no part of a name there")
@pytest.mark.parametrize("char", ["\\", "?"])
async def test_what_duckdb_misreads_in_a_file_s_name_is_kept_or_refused(tmp_path: Path, char: str) -> None:
    path = tmp_path / f"a{char}b.db"

    async with DatabaseManager(URL.create("sqlite", database=str(path))) as db:
        await db.create_tables()

    assert path.exists()
    with pytest.raises(URLError, match="which DuckDB reads incorrectly"):
        DatabaseManager(URL.create("duckdb", database=str(path)))


@pytest.mark.parametrize("scheme", ["postgresql", "sqlite", "duckdb"])
@pytest.mark.parametrize("word", NO_WORDS, ids=["NUL", "lone surrogate", "long"])
@pytest.mark.parametrize("part", ["database", "password", "option"])
def test_a_part_that_no_engine_takes_is_refused(scheme: str, word: str, part: str) -> None:
    parts: dict[str, Any] = {"query": {"mode": word}} if part == "option" else {part: f"{SECRET}{word}"}

    with pytest.raises(URLError) as refused:
        DatabaseManager(URL.create(scheme, **parts))

    assert SECRET not in str(refused.value)
    assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("url", [None, 1, b"sqlite:///x.db", ["sqlite://"], object(), True, Path("x.db")])
def test_what_is_no_text_is_no_url(url: Any) -> None:
    with pytest.raises(URLError, match="must be text"):
        DatabaseManager(url)


@pytest.mark.parametrize("scheme", ["sqlite", "duckdb"])
@pytest.mark.parametrize(
    "path", ["x" * 300, "absent/x.db", "file/x.db", ""], ids=["long name", "absent", "under a file", "folder"]
)
async def test_a_path_that_cannot_be_opened_is_an_operational_error(tmp_path: Path, scheme: str, path: str) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(OperationalError):
        await DatabaseManager(URL.create(scheme, database=str(tmp_path / path))).connect()


_parts = st.text(st.sampled_from([*RESERVED, "a", "0", "\0", "\n", "\x1b"]), max_size=12)


@pytest.mark.timeout(36_000 if SOAK else 300)
@pytest.mark.soaks("hostile url", "urls")
@settings(
    max_examples=rounds("hostile url"),
    deadline=None,
    derandomize=not SOAK,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    scheme=st.sampled_from(["postgresql", "postgres", "postgresql+asyncpg", "sqlite", "duckdb", "oracle", ""]) | _parts,
    head=st.sampled_from(["://", ":", "//", ":///", ":////", ""]),
    parts=st.lists(_parts | st.just(SECRET), max_size=5),
    between=st.lists(
        st.sampled_from(["@", ":", "/", "?", "=", "&", "#", "[", "]", "?password=", "?mode=", "?port="]), max_size=6
    ),
)
def test_any_text_is_a_url_or_refused(scheme: str, head: str, parts: list[str], between: list[str]) -> None:
    tail = "".join(part + sign for part, sign in zip(parts, [*between, ""] * 5, strict=False))

    try:
        manager = DatabaseManager(f"{scheme}{head}{tail}")
    except StoreError as error:
        assert 0 < len(str(error)) < 1_000  # noqa: PT017 - accepting it is right, too
    else:
        assert repr(manager).isprintable()
