"""PostgreSQL databases that are not UTF8: an error names a text they cannot hold and the encoding, and status warns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import pyarrow as pa
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, OHLCVRepository, SystemEventRepository, TradeRepository
from iftb_store.testing.samples import T0, bar, hourly, trade
from iftb_store_postgres.errors import translate
from tests.conftest import Run

# the last of them in the second half of a batch, which uses COPY
_COIN = "币安"
_MANY = [*hourly(400), *hourly(1, symbol=_COIN)]

_CALLS: dict[str, Callable[[DatabaseManager], Awaitable[object]]] = {
    "insert of a bar": lambda db: OHLCVRepository(db).insert_many([bar(symbol=_COIN)]),
    "insert of many bars": lambda db: OHLCVRepository(db).insert_many(_MANY),
    "upsert of a bar": lambda db: OHLCVRepository(db).upsert_many([bar(symbol=_COIN)]),
    "upsert of many bars": lambda db: OHLCVRepository(db).upsert_many(_MANY),
    "upsert with a report": lambda db: OHLCVRepository(db).upsert_many(_MANY, report=True),
    "Arrow": lambda db: OHLCVRepository(db).write_arrow(_arrow()),
    "a trade": lambda db: TradeRepository(db).insert(trade(symbol=_COIN)),
    "an event": lambda db: SystemEventRepository(db).log_event("tick", "info", _COIN),
    "a read": lambda db: TradeRepository(db).get_by_symbol(_COIN),
    "a read of many bars": lambda db: OHLCVRepository(db).get_range(_COIN, "1h", T0, T0),
    "raw SQL": lambda db: db.run(lambda session: session.execute(text("SELECT CAST(:coin AS text)"), {"coin": _COIN})),
}


def _arrow() -> pa.Table:
    names = ("symbol", "exchange", "timeframe", "timestamp", "open", "high", "low", "close", "volume")
    return pa.Table.from_pylist([{name: getattr(one, name) for name in names} for one in _MANY])


@pytest.fixture
def make_database(postgres_server: str, postgres_database: tuple[str, Callable[[str], None]]) -> Iterator[Callable[[str], str]]:
    """Create databases of an encoding and return their URLs."""
    _, execute = postgres_database
    names: list[str] = []

    def make(encoding: str) -> str:
        name = f"iftb_{uuid4().hex}"
        execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
        names.append(name)
        return make_url(postgres_server).set(database=name).render_as_string(hide_password=False)

    yield make
    for name in names:
        execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def latin1_url(make_database: Callable[[str], str]) -> str:
    return make_database("LATIN1")


@pytest.fixture
async def latin1(latin1_url: str) -> AsyncIterator[DatabaseManager]:
    """A manager of a LATIN1 database with tables."""
    async with DatabaseManager(latin1_url) as db:
        await db.create_tables()
        yield db


@pytest.mark.parametrize("call", _CALLS)
async def test_what_the_encoding_cannot_hold_is_named_with_it(latin1: DatabaseManager, call: str) -> None:
    with pytest.raises(OperationalError) as caught:
        await _CALLS[call](latin1)
    for words in ("LATIN1", "'币' (U+5E01)", "ENCODING 'UTF8'"):
        assert words in str(caught.value)


def test_the_character_is_named_whatever_the_servers_language_is() -> None:
    message = "Zeichen mit Byte-Folge 0xe5 0xb8 0x81 in Kodierung »UTF8« hat keine Entsprechung in Kodierung »LATIN1«"
    translated = translate(asyncpg.exceptions.UntranslatableCharacterError(message))
    assert "encoding LATIN1 cannot hold '币' (U+5E01)" in str(translated)


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("WIN1252", "in the database's encoding WIN1252 has no equivalent in UTF8"),
        ("SQL_ASCII", "bytes that are not valid in its encoding"),
    ],
)
def test_text_that_cannot_be_read_is_an_operational_error(make_database: Callable[[str], str], encoding: str, words: str) -> None:
    url = make_database(encoding)

    async def read() -> None:
        async with DatabaseManager(url) as db:
            with pytest.raises(OperationalError, match=words):
                await db.run(lambda session: session.execute(text("SELECT chr(129)")))

    asyncio.run(read())


async def test_what_latin1_holds_comes_back_the_same(latin1: DatabaseManager) -> None:
    bars = [*hourly(400, symbol="ÄÖÜ/é"), bar(symbol="BTCUSDT")]
    await OHLCVRepository(latin1).insert_many(bars)
    assert len(await OHLCVRepository(latin1).get_latest("ÄÖÜ/é", "1h", 1_000)) == 400
    assert await OHLCVRepository(latin1).upsert_many(bars) == 401


@pytest.mark.parametrize(("encoding", "warned"), [("LATIN1", True), ("SQL_ASCII", True), ("UTF8", False)])
def test_status_warns_of_an_encoding_that_is_not_utf8(
    make_database: Callable[[str], str], run: Run, encoding: str, warned: bool
) -> None:
    url = make_database(encoding)
    assert run("migrate", url)[0] == 0
    code, out, _ = run("status", url, "--json")
    found: dict[str, Any] = json.loads(out)
    # such a database works for all text that it can hold
    assert (code, found["healthy"], found["problems"], found["schema"]["encoding"]) == (0, True, [], encoding)
    assert [encoding in warning and "ENCODING 'UTF8'" in warning for warning in found["warnings"]] == [True] * warned
    code, out, err = run("status", url)
    assert (code, encoding in out, "ENCODING 'UTF8'" in err) == (0, True, warned)
