"""Random programmes on the three engines: every answer and every error equals the model's.

A failure names its seed; with IFTB_STORE_SEED set to it the same programmes run again.
"""

from __future__ import annotations

import os
import secrets

import pytest

import iftb_store_postgres.bars
import iftb_store_sqlite.session
from iftb_store.testing.machine import compare_with_model
from tests.faults.rounds import FULL, SOAK, rounds
from tests.faults.tally import Tally

#: Equal parts of the programmes, so that the tests' two processes share them.
PARTS = 4


@pytest.mark.timeout(36_000 if SOAK else 900)
@pytest.mark.parametrize("part", range(PARTS) if FULL else range(1, 2))
def test_any_programme_gives_on_every_engine_what_the_model_gives(
    part: int, postgres_url: str, sqlite_url: str, duckdb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if part % 2:
        # the methods for long batches: COPY and a staging table, a savepoint around chunks
        monkeypatch.setattr(iftb_store_postgres.bars, "FEW", 1)
        monkeypatch.setattr(iftb_store_sqlite.session, "CHUNK", 1)
    urls = {"PostgreSQL": postgres_url, "SQLite": sqlite_url, "DuckDB": duckdb_url}
    count = rounds("random programme") // PARTS
    # every soak uses another seed
    seed = int(os.environ.get("IFTB_STORE_SEED") or (secrets.randbits(32) if SOAK else part))
    compare_with_model(urls, examples=count, seed=seed)
    Tally("random programme", "all three", count).close()
