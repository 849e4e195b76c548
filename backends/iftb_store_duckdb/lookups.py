"""Runs the SQL lookups of `iftb_store.relational` on DuckDB; see `iftb_store.abilities.Lookups`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from iftb_store.columnar import SQLALCHEMY_DIALECT
from iftb_store.relational import Row, SqlDialect, Statement
from iftb_store.schema.table_spec import BARS
from iftb_store.schema.types import to_epoch_us
from iftb_store_duckdb.session import DuckDBSession


def _encode(value: Any) -> Any:
    return to_epoch_us(value) if isinstance(value, datetime) else value


def _make_day_fingerprints() -> str:
    """Return the query for the fingerprint of each day: the sum of the hashes of the day's bars.

    In DuckDB some negative decimals have the same hash as a positive one, so the signs are hashed too. In a hash of several
    values, the last one is only XORed to the result, so the result is hashed once more before the sum.
    """
    columns = ("timestamp", *BARS.overwritten)
    signs = " + ".join(f"CASE WHEN {name} < 0 THEN {2**number} ELSE 0 END" for number, name in enumerate(BARS.overwritten))
    return f"""
        SELECT CASE WHEN system.main.isfinite(day) THEN day - DATE '1970-01-01' END, system.main.count(*),
            'duckdb2 ' || system.main.version() || ' ' || system.main.sum(CAST(hash AS HUGEINT))
        FROM (
            SELECT CAST(timestamp AS DATE) AS day,
                system.main.hash(system.main.hash({", ".join(columns)}), {signs}) AS hash
            FROM ohlcv{{}}
        ) GROUP BY day"""


_SQL = SqlDialect(
    dialect=SQLALCHEMY_DIALECT,
    octets="strlen({})",
    month="(year({0}) * 12 + month({0}))",
    microseconds="epoch_us({})",
    difference="epoch_us({1}) - epoch_us({0})",
    time_parameter="make_timestamptz(CAST(:{} AS BIGINT))",
    divided="//",
    seeks=False,
    day_fingerprints=_make_day_fingerprints(),
    encode=_encode,
)


class DuckDBQueryRunner:
    """Runs queries and single writes in one session."""

    dialect = _SQL

    def __init__(self, session: DuckDBSession) -> None:
        self._session = session

    async def read(self, statement: Statement, args: Row) -> Sequence[Row]:
        """Run a query and return its rows."""
        return await self._session.run(lambda cursor: cursor.rows(statement.sql, args))

    async def change(self, statement: Statement, args: Row) -> int:
        """Run one writing statement and return the number of changed rows."""
        ((count,),) = await self._session.run(lambda cursor: cursor.rows(statement.sql, args), write=True)
        return int(count)
