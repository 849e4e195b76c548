"""Names and links from strangers: names are quoted in a shown statement, links are not followed when a file is created."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager
from iftb_store.cli import main
from iftb_store.doctor import examine
from tests.conftest import Run

_INDEX = 'x; DROP TABLE trades; -- "\x1b[31m'


@pytest.fixture
def open_to_all() -> Iterator[None]:
    """A umask that lets everyone read new files."""
    before = os.umask(0)
    yield
    os.umask(before)


def rights_in(folder: Path) -> dict[str, str]:
    """Return the rights of others to each file of a folder."""
    return {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()}


async def test_a_remedy_quotes_a_name_as_the_engine_does(postgres_url: str) -> None:
    quoted = '"' + _INDEX.replace('"', '""') + '"'
    async with DatabaseManager(postgres_url) as db:
        await db.migrate()
        admin = await asyncpg.connect(postgres_url)
        await admin.execute(f"CREATE INDEX {quoted} ON trades (trade_id)")
        await admin.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass($1)::oid", quoted)

        (finding,) = [found for found in await examine(db) if found.kind == "invalid index"]
        assert finding.statements == (f"REINDEX INDEX CONCURRENTLY {quoted}",)
        # and it is what it says
        await admin.execute(finding.statements[0])
        assert [found for found in await examine(db) if found.kind == "invalid index"] == []
        await admin.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such rights")
@pytest.mark.parametrize("scheme", ["sqlite", "duckdb"])
async def test_a_file_made_through_a_dangling_link_belongs_only_to_its_owner(
    tmp_path: Path, open_to_all: None, scheme: str
) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "there.db")
    async with DatabaseManager(f"{scheme}:///{tmp_path / 'link.db'}") as db:
        await db.migrate()
        rights = rights_in(tmp_path)
    assert set(rights.values()) <= {"0o600", "0o700"}
    assert rights["there.db"] == "0o600"
    assert (tmp_path / "link.db").is_symlink()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such links")
async def test_duckdb_spills_into_no_folder_that_a_link_leads_to(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (tmp_path / "bot.duckdb.tmp").symlink_to(elsewhere)
    url = f"duckdb:///{tmp_path / 'bot.duckdb'}"

    with pytest.raises(OperationalError, match=r"bot\.duckdb\.tmp for its temporary folder, but .* \?temp_directory="):
        await DatabaseManager(url).connect()

    assert elsewhere.stat().st_mode & 0o777 == 0o755
    # a link that the user names is the user's choice
    async with DatabaseManager(f"{url}?temp_directory={tmp_path / 'bot.duckdb.tmp'}") as db:
        await db.migrate()
    (tmp_path / "bot.duckdb.tmp").unlink()
    async with DatabaseManager(url) as db:
        assert (await db.status()).state == "current"


@pytest.mark.parametrize("command", [["stats"], ["import"], ["status"]])
def test_debug_prints_nothing_that_steers_the_terminal(run: Run, tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "x\x1b]0;owned\x07.db"
    code, out, err = run(*command, f"sqlite:///{path}", "--debug", *(["y\x1b[2J.csv"] if command == ["import"] else []))

    assert code != 0
    assert "Traceback" in err
    assert [char for char in out + err if not char.isprintable() and char != "\n"] == []


def test_a_cell_that_a_spreadsheet_takes_for_a_formula_comes_back_as_it_is(
    run: Run, sqlite_url: str, duckdb_url: str, tmp_path: Path
) -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "=cmd|' /C calc'!A0", "'=1"]
    for url in (sqlite_url, duckdb_url):
        assert main(["migrate", url]) == 0
    columns = "id,event_type,severity,message,details,symbol,exchange,trade_id,position_id,stack_trace,created_at"
    cells = '{0},"{1}",info,"{1}",,"{1}","{1}",,,"{1}",2024-01-01T00:00:00Z'
    rows = [cells.format(number, text) for number, text in enumerate(texts, 1)]
    (tmp_path / "events.csv").write_text("\n".join([columns, *rows, ""]))
    first, second = str(tmp_path / "first.csv"), str(tmp_path / "second.csv")

    assert run("import", sqlite_url, str(tmp_path / "events.csv"))[::2] == (0, "")
    assert run("export", sqlite_url, "--table", "system_events", "-o", first)[::2] == (0, "")
    assert run("import", duckdb_url, first)[::2] == (0, "")
    assert run("export", duckdb_url, "--table", "system_events", "-o", second)[::2] == (0, "")

    assert Path(first).read_text() == Path(second).read_text()
    with Path(first).open(newline="") as file:
        found = list(csv.DictReader(file))
    for name in ("event_type", "message", "symbol", "exchange", "stack_trace"):
        assert [row[name] for row in found] == texts
