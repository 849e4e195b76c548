"""Lets DuckDB answer the lookups that `iftb_store.relational` has in SQL; see `iftb_store.abilities.Lookups`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from iftb_store.relational import Row, SqlDialect, Statement
from iftb_store.schema.types import to_epoch_us
from iftb_store_duckdb.session import DuckDBSession
from iftb_store_duckdb.statements import SQLALCHEMY_DIALECT


def _encode(value: Any) -> Any:
    return to_epoch_us(value) if isinstance(value, datetime) else value


_SQL = SqlDialect(
    dialect=SQLALCHEMY_DIALECT,
    octets="strlen({})",
    month="year({0}) * 12 + month({0})",
    microseconds="epoch_us({})",
    time_parameter="make_timestamptz(CAST(:{} AS BIGINT))",
    divided="//",
    seeks=False,
    encode=_encode,
)


class DuckDBQueryRunner:
    """Runs queries in one session."""

    dialect = _SQL

    def __init__(self, session: DuckDBSession) -> None:
        self._session = session

    async def read(self, statement: Statement, args: Row) -> Sequence[Row]:
        """Run a query and return its rows."""
        return await self._session.run(lambda cursor: cursor.rows(statement.sql, args))
