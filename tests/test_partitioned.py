"""The suite on PostgreSQL tables whose bars are divided into partitions, by month and by hash."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

import pytest
from sqlalchemy import make_url

from iftb_store.schema.revision import VERSION_TABLE
from iftb_store_migrations import creation, head
from iftb_store_postgres.partitions import create_sql
from tests import test_conformance
from tests.support.postgres_tables import KeptDatabase

# most of the suite's bars are in these months; the others, e.g. those of the year 1, go into the default partition
_MONTHS = [datetime(2024, month, 1, tzinfo=UTC) for month in range(1, 7)]


def _make_tables(by: str) -> str:
    """Return the statements that create the tables, ohlcv with partitions."""
    made = list(creation(make_url("postgresql+asyncpg://").get_dialect()()))
    key = "HASH (exchange, symbol)" if by.startswith("hash") else "RANGE (timestamp)"
    divided: dict[tuple[str, str | None], str] = {("ohlcv", None): f" PARTITION BY {key}"}
    return ";\n".join(
        (
            *(f"{sql}{divided.pop((table, part), '')}" for table, part, sql in made),
            *create_sql("ohlcv", "public", by, _MONTHS),
            f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY)",
            f"INSERT INTO {VERSION_TABLE} VALUES ('{head()}')",
        )
    )


class _Partitioned(test_conformance.TestPostgres):
    __test__ = False
    tables: ClassVar[str]

    @pytest.fixture
    def partitions_url(self, postgres_url: str, kept_postgres: KeptDatabase) -> str:
        kept_postgres.prepare(self.tables)
        return postgres_url

    @pytest.fixture
    def tables_url(self, partitions_url: str) -> str:
        return partitions_url


class TestMonths(_Partitioned):
    __test__ = True
    tables = _make_tables("month")


class TestHash(_Partitioned):
    __test__ = True
    tables = _make_tables("hash:4")
