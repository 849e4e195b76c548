"""A default of a column is no row's own: a stranger's would be read, and stored, once for every row that lacks it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import duckdb
import pytest

from iftb_store import DatabaseManager, SchemaError, SystemEventRepository
from iftb_store.doctor import examine
from tests.support.filled import fill

pytestmark = pytest.mark.usefixtures("plain_environment")

_MANY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) "
_EVENTS = "INSERT INTO system_events (event_type, severity, message) SELECT '', 'info', '' FROM n"


def add_default(path: Path, length: int, rows: int = 3) -> None:
    """Store rows without their last texts, then add that column with a default."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP VIEW system_events_view")
        connection.execute("ALTER TABLE system_events DROP COLUMN stack_trace")
        connection.execute(_MANY.format(rows=rows) + _EVENTS)
        connection.execute(f"ALTER TABLE system_events ADD COLUMN stack_trace TEXT DEFAULT '{'x' * length}'")
        connection.commit()


@pytest.mark.parametrize("length", [0, 1, 1_000, 1 << 20])
async def test_a_default_of_a_column_of_ours_is_refused(sqlite_url: str, length: int) -> None:
    await fill(sqlite_url)
    add_default(Path(sqlite_url.removeprefix("sqlite:///")), length)
    async with DatabaseManager(sqlite_url) as db:
        for call in (SystemEventRepository(db).get_recent_events, db.status, db.migrate, partial(examine, db)):
            with pytest.raises(
                SchemaError, match=r"'system_events' has a (default of the column 'stack_trace'|definition of more)"
            ):
                await call()
    async with DatabaseManager(f"{sqlite_url}?trusted=true") as db:
        assert (await db.status()).tables["system_events"] == 6


async def test_a_file_of_gigabytes_of_defaults_is_refused_before_a_row_is_read(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    await fill(f"sqlite:///{path}")
    add_default(path, 60_000, rows=100_000)
    assert path.stat().st_size < 16 << 20
    async with DatabaseManager(f"sqlite:///{path}?mode=ro") as db:
        with pytest.raises(SchemaError, match="a default of the column 'stack_trace'"):
            await db.status()


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
@pytest.mark.parametrize("size", [60_000, 66_000])
async def test_the_definition_of_a_table_is_no_longer_than_it_need_be(tmp_path: Path, engine: str, size: int) -> None:
    path = tmp_path / "bot"
    url = f"{engine}:///{path}"
    await fill(url)
    with closing(sqlite3.connect(path) if engine == "sqlite" else duckdb.connect(str(path))) as connection:
        connection.execute(f"ALTER TABLE system_events ADD COLUMN note VARCHAR DEFAULT '{'x' * size}'")
        connection.commit()
    async with DatabaseManager(url) as db:
        if size < 65_536:
            assert (await db.status()).tables["system_events"] == 3
        else:
            with pytest.raises(SchemaError, match="a definition of more than 65,536 characters"):
                await db.status()


async def test_defaults_of_times_and_null_are_ours(sqlite_url: str) -> None:
    await fill(sqlite_url)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("DROP VIEW system_events_view")
        connection.execute("ALTER TABLE system_events DROP COLUMN stack_trace")
        connection.execute("ALTER TABLE system_events ADD COLUMN stack_trace TEXT DEFAULT NULL")
        connection.commit()
    async with DatabaseManager(sqlite_url) as db:
        assert len(await SystemEventRepository(db).get_recent_events()) == 3
