"""Calls with hostile values for `hostile.METHODS`: the functions that copy, compare, restore, export and import."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from iftb_store import DatabaseManager, InvalidValueError, MissingDriverError, NotConnectedError, URLError, check_timeframe
from iftb_store.files.export import export_table
from iftb_store.files.import_files import RefusedFilesError, import_files
from iftb_store.foreign.functions import copy_from
from iftb_store.html_report.functions import report
from iftb_store.maintenance.partitions import create_partitions, list_partitions, partition_bars
from iftb_store.maintenance.prune import prune
from iftb_store.maintenance.rollup import rollup
from iftb_store.registry import find_backend
from iftb_store.testing.hostile_values import Attempt, Try
from iftb_store.transfer.functions import copy, restore, verify

_CANDLES = "timestamp,open,high,low,close,volume\n"


@asynccontextmanager
async def _open_other(folder: str) -> AsyncIterator[DatabaseManager]:
    """Open another store with tables."""
    try:
        find_backend("sqlite")
    except (MissingDriverError, URLError):
        pytest.skip("SQLite, which is the other store, is not installed")
    async with DatabaseManager(f"sqlite:///{Path(folder, 'other.db')}") as other:
        await other.create_tables()
        yield other


def _is_callback(one: Try) -> bool:
    """Return whether the hostile value is a progress callback that can be called; such a call is not tested."""
    return one.parameter == "progress" and callable(one.value)


def _between_stores(function: Callable[..., Awaitable[Any]], **given: Any) -> Attempt:
    async def attempt(one: Try) -> int:
        if _is_callback(one):
            return 0
        with TemporaryDirectory() as folder:
            async with _open_other(folder) as other:
                await function(**one.changed(source=one.db, destination=other, tables="ohlcv", **given))
        return 0

    return attempt


async def _copy_from(one: Try) -> int:
    if _is_callback(one):
        return 0
    with TemporaryDirectory() as folder:
        # an empty database of SQLite: it is of no program
        path = Path(folder, "foreign.db")
        path.touch()  # noqa: ASYNC240 - no waiting  # noqa: ASYNC240 - no waiting
        with suppress(InvalidValueError):
            await copy_from(**one.changed(source=f"sqlite:///{path}", destination=one.db, dry_run=True))
    return 0


async def _restore(one: Try) -> int:
    if _is_callback(one):
        return 0
    with TemporaryDirectory() as folder:
        async with _open_other(folder) as other, DatabaseManager(f"sqlite:///{Path(folder, 'saved.db')}") as saved:
            await saved.create_tables()
            await restore(**one.changed(path=Path(folder, "saved.db"), db=other))
    return 0


async def _export(one: Try) -> int:
    if _is_callback(one):
        return 0
    with TemporaryDirectory() as folder:
        await export_table(**one.changed(db=one.db, path=Path(folder, "bars.jsonl")))
    return 0


async def _import(one: Try) -> int:
    if _is_callback(one):
        return 0
    with TemporaryDirectory() as folder:
        path = Path(folder, "HOSTILE-1h.csv")
        path.write_text(_CANDLES)  # noqa: ASYNC240 - a line
        # the file has no candle, or the value contradicts it
        with suppress(RefusedFilesError):
            await import_files(**one.changed(db=one.db, paths=path))
    return 0


async def _report(one: Try) -> int:
    with TemporaryDirectory() as folder:
        made = await report(**one.changed(db=one.db, path=Path(folder, "report.html")))
        assert made.html.startswith("<!DOCTYPE html>")
    return 0


async def _check_timeframe(one: Try) -> int:
    given = one.changed(timeframe="1h")
    assert check_timeframe(**given) == given["timeframe"]
    return 0


def _of_partitions(function: Callable[..., Awaitable[Any]]) -> Attempt:
    async def attempt(one: Try) -> int:
        # the arguments are checked first
        with suppress(NotConnectedError):
            await function(**one.changed(db=DatabaseManager(one.url)))
        return 0

    return attempt


def _of_old_rows(function: Callable[..., Awaitable[Any]], **given: Any) -> Attempt:
    async def attempt(one: Try) -> int:
        if not _is_callback(one):
            await function(**one.changed(db=one.db, dry_run=True, **given))
        return 0

    return attempt


METHODS: dict[str, Attempt] = {
    "copy": _between_stores(copy, dry_run=True),
    "verify": _between_stores(verify),
    "copy_from": _copy_from,
    "restore": _restore,
    "export_table": _export,
    "import_files": _import,
    "report": _report,
    "check_timeframe": _check_timeframe,
    "partition_bars": _of_partitions(partition_bars),
    "create_partitions": _of_partitions(create_partitions),
    "prune": _of_old_rows(prune, older_than="90d", tables="ohlcv"),
    "rollup": _of_old_rows(rollup, source="1h", target="4h"),
    "list_partitions": _of_partitions(list_partitions),
}
