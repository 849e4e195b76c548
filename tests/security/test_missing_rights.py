"""Each command as a PostgreSQL role that lacks a right: the owner's result, or one sentence that names the GRANT."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, OHLCVRepository, TradeRepository
from iftb_store.cli import main
from iftb_store.testing.samples import hourly, trade
from tests.faults.rounds import FULL
from tests.security.rows import execute, fill

Run = Callable[..., tuple[int, str, str]]

_DUMP = "BTCUSDT-1h-2024-01.csv"
_ALL = ("ohlcv", "trades", "positions", "system_events")


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        words: its words; `Places.line` fills those in braces.
        reads: the tables whose rows it reads.
        inserts: whether it inserts into them.
        shows: whether it returns the rows that its role can see, and reports that they may be incomplete.
    """

    words: str
    reads: tuple[str, ...] = ()
    inserts: bool = False
    shows: bool = False


_COMMANDS = {
    "status": Command("status {url}", _ALL, inserts=True, shows=True),
    "doctor": Command("doctor {url}", _ALL),
    "migrate": Command("migrate {url}"),
    "gaps": Command("gaps {url} BTCUSDT 1h", ("ohlcv",), shows=True),
    "latest": Command("latest {url} BTCUSDT 1h", ("ohlcv",), shows=True),
    "stats": Command("stats {url}", ("trades",), shows=True),
    "positions": Command("positions {url}", ("positions",), shows=True),
    "events": Command("events {url}", ("system_events",), shows=True),
    "export": Command("export {url} --table trades -o {folder}/trades.csv --overwrite", ("trades",)),
    "export of bars": Command("export {url} --table ohlcv -o {folder}/bars.csv --overwrite", ("ohlcv",)),
    "import": Command(f"import {{url}} {{folder}}/{_DUMP}", ("ohlcv",), inserts=True),
    "import of trades": Command("import {url} {folder}/kept.jsonl", ("trades",), inserts=True),
    "copy": Command("copy {url} {copy}", _ALL),
    "copy of bars": Command("copy {url} {copy} --table ohlcv", ("ohlcv",)),
    "copy into": Command("copy {copy} {url}", _ALL, inserts=True),
    "copy of bars into": Command("copy {copy} {url} --table ohlcv", ("ohlcv",), inserts=True),
    "verify": Command("verify {url} {copy}", _ALL),
    "verify of bars": Command("verify {url} {copy} --table ohlcv", ("ohlcv",)),
    "verify of trades": Command("verify {url} {copy} --table trades", ("trades",)),
    "verify against": Command("verify {copy} {url} --table ohlcv", ("ohlcv",)),
    "backup": Command("backup {url} {folder}/bot.backup --overwrite", _ALL),
    "restore": Command("restore {folder}/whole.db {url}", _ALL, inserts=True),
}

#: What takes a right away; {role} is the role.
_REVOKES = {
    "usage": "REVOKE USAGE ON SCHEMA public FROM PUBLIC, {role}",
    "version": "REVOKE SELECT ON iftb_store_version FROM {role}",
    "select": "REVOKE SELECT ON trades FROM {role}",
    "insert": "REVOKE INSERT ON ALL TABLES IN SCHEMA public FROM {role}",
    "policies": "ALTER TABLE trades ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON trades USING (id <= 3)",
    "policies of bars": "ALTER TABLE ohlcv ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON ohlcv USING (volume < 0)",
}


def sentence(right: str, command: Command) -> str:
    """Return a pattern of a command's error; empty if it does not need the right."""
    if right == "usage":
        return r"the role {role} may not use the schema public.*GRANT USAGE ON SCHEMA public TO {role}"
    if right == "version":
        return r"the role {role} may not read iftb_store_version.*GRANT SELECT ON iftb_store_version TO {role}"
    if right == "select" and "trades" in command.reads:
        return r"GRANT SELECT\b[^;]* ON trades TO {role}"
    if right == "insert" and command.inserts:
        return r"GRANT (SELECT, )?INSERT\b[^;]* ON [\w, ]+ TO {role}"
    if ("trades" if right == "policies" else "ohlcv") in command.reads and right.startswith("policies"):
        return "row-level security"
    return ""


@dataclass(frozen=True)
class Places:
    """A database in which a role lacks a right, and the other databases and files that commands use."""

    right: str
    role: str
    owner: str
    reader: str
    folder: Path

    def line(self, command: Command, url: str) -> list[str]:
        """Return the words of a command line."""
        copy = f"sqlite:///{self.folder / 'whole.db'}"
        return [word.format(url=url, copy=copy, folder=self.folder) for word in command.words.split()]


@pytest.fixture(scope="module", params=_REVOKES)
def places(
    request: pytest.FixtureRequest,
    postgres_server: str,
    postgres_connection: Callable[[str], Callable[[str], None]],
    reader: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Places]:
    """One database for each right: commands write the rows that it has already."""
    name, folder = f"iftb_{uuid4().hex}", tmp_path_factory.mktemp("rights")
    server = postgres_connection(postgres_server)
    server(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    owner = make_url(postgres_server).set(database=name)
    role = owner.set(username=reader, password=reader)
    urls = (url.render_as_string(hide_password=False) for url in (owner, role))
    places = Places(request.param, reader, next(urls), next(urls), folder)
    asyncio.run(fill(places.owner, reader))
    (folder / _DUMP).write_text("1704067200000,1,2,0.5,1.5,10,1704070799999,10,5,5,5,0\n")
    for command in ("import {url} {folder}/" + _DUMP, "copy {url} {copy}", "export {url} --table trades -o {folder}/kept.jsonl"):
        assert main(places.line(Command(command), places.owner)) == 0
    # which the doctor examines
    asyncio.run(execute(places.owner, f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {reader}"))
    asyncio.run(execute(places.owner, _REVOKES[request.param].format(role=reader)))
    yield places
    server(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("name", _COMMANDS)
def test_a_missing_right_is_named_and_nothing_is_taken_for_absent(places: Places, run: Run, name: str) -> None:
    # each right and each command at least once; all of their pairs in `nox -s full`
    if not FULL and (list(_COMMANDS).index(name) + list(_REVOKES).index(places.right)) % len(_REVOKES):
        pytest.skip("one command for each right, and one right for each command; the others in nox -s full")
    command = _COMMANDS[name]
    code, out, err = run(*places.line(command, places.reader))
    expected = sentence(places.right, command).format(role=places.role)
    assert not re.search(r"Traceback|--debug|no tables|`iftb-store migrate", out + err)
    if not expected:
        owners_code, owners_out, _ = run(*places.line(command, places.owner))
        assert (code, shape(out)) == (owners_code, shape(owners_out)), err
        return
    assert re.search(expected, out + err)
    if places.right.startswith("policies") and command.shows:
        # a command that finds nothing for a symbol exits with 1
        assert code == ("no bars of" in err)
        return
    assert code == 1
    assert not re.search("(is|and) verified|equal: ", out + err)
    # the doctor's findings are its result
    assert len(re.findall("^error: ", err, re.MULTILINE)) == (0 if name == "doctor" and out else 1)


def shape(out: str) -> str:
    """Return an output without what differs between roles and runs."""
    return re.sub(r"in [\d.]+ ms|//\S*@", "", out)


async def test_a_write_names_what_writing_needs(owner: str, hidden: str, reader: str) -> None:
    await execute(owner, f"REVOKE UPDATE ON ohlcv FROM {reader}; REVOKE INSERT ON trades FROM {reader}")
    async with DatabaseManager(hidden) as db:
        for write, table in (
            (OHLCVRepository(db).upsert_many(hourly(2)), "ohlcv"),
            (TradeRepository(db).insert(trade()), "trades"),
        ):
            with pytest.raises(OperationalError, match=f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {reader}"):
                await write


async def test_a_policy_that_refuses_a_row_is_named(owner: str, hidden: str) -> None:
    await execute(owner, "ALTER TABLE trades ENABLE ROW LEVEL SECURITY")
    async with DatabaseManager(hidden) as db:
        with pytest.raises(OperationalError, match=r"row-level security policy.*BYPASSRLS"):
            await TradeRepository(db).insert(trade(trade_id="new"))


async def test_raw_sql_without_a_right_keeps_the_words_of_the_server(owner: str, hidden: str, reader: str) -> None:
    await execute(owner, f"REVOKE DELETE ON trades FROM {reader}")
    async with DatabaseManager(hidden) as db:
        with pytest.raises(OperationalError, match=r"permission denied for table trades; .*GRANT"):
            async with db.get_session() as session:
                await session.execute(text("DELETE FROM trades"))
