"""Child processes that start within milliseconds: forked from a server that has imported the packages already."""

from __future__ import annotations

import multiprocessing
from functools import cache
from multiprocessing.context import ForkServerContext

_PRELOADED = [
    "asyncpg",
    "iftb_store.cli",
    "iftb_store.testing.samples",
    "iftb_store_duckdb",
    "iftb_store_lake",
    "iftb_store_migrations",
    "iftb_store_postgres",
    "iftb_store_sqlite",
    "tests.faults.linked",
]


@cache
def forkserver() -> ForkServerContext:
    """Return the start method: forks of a single-threaded server, as a fork of this process would copy its locks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *_PRELOADED])
    return context
