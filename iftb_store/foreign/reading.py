"""Reads the tables of another program's database in SQLite or PostgreSQL, in batches and from a snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlalchemy import Connection, inspect, text

from iftb_store.errors import InvalidValueError
from iftb_store.foreign.reports import Program
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store.values.display import show

_ROWS = 2_000
# the columns by which a program's database is known, in one of its tables
_KNOWN: dict[Program, tuple[str, tuple[str, ...]]] = {
    "freqtrade": ("trades", ("pair", "is_open", "open_rate", "stake_amount")),
    "vnpy": ("dbbardata", ("symbol", "exchange", "datetime", "interval", "open_price")),
    "original": ("ohlcv", ("symbol", "exchange", "timeframe", "timestamp", "close")),
}


class ForeignTables:
    """The tables of another program's database, read in one session.

    Attributes:
        columns: the columns of each table.
    """

    def __init__(self, session: Any, columns: dict[str, tuple[str, ...]], *, as_text: bool) -> None:
        self._session, self.columns, self._as_text = session, columns, as_text

    @property
    def is_ours(self) -> bool:
        """Whether these are tables of iftb-store."""
        return VERSION_TABLE in self.columns

    @property
    def program(self) -> Program | None:
        """The program whose tables these are; None if they are of none, or of iftb-store itself."""
        if self.is_ours:
            return None
        for program, (table, needed) in _KNOWN.items():
            if set(needed) <= set(self.columns.get(table, ())):
                return program
        return None

    async def count(self, table: str) -> int:
        """Return the number of rows of a table; 0 if there is no such table."""
        if table not in self.columns:
            return 0
        found = await self._session.execute(text(f"SELECT count(*) FROM {quote(table)}"))
        return int(found.scalar_one())

    async def stream(
        self, table: str, wanted: Sequence[str], numbers: Collection[str] = ()
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the rows of a table in batches, ordered by id; a column that the table lacks is None in each row.

        Args:
            table: the table.
            wanted: the columns.
            numbers: those of them that are numbers; PostgreSQL returns them as text, so that a float keeps its shortest digits.
        """
        stored = self.columns.get(table, ())
        shown = [
            f"CAST({quote(name)} AS text) AS {quote(name)}" if self._as_text and name in numbers else quote(name)
            for name in dict.fromkeys(("id", *wanted))
            if name in stored
        ]
        if not shown:
            return
        lacking = dict.fromkeys(name for name in wanted if name not in stored)
        sql = text(f"SELECT {', '.join(shown)} FROM {quote(table)} WHERE id > CAST(:after AS BIGINT) ORDER BY id LIMIT {_ROWS}")
        after = -(2**63) + 1
        while True:
            rows = [dict(row) | lacking for row in (await self._session.execute(sql, {"after": after})).mappings()]
            if not rows:
                return
            yield rows
            after = rows[-1]["id"]

    async def select(self, sql: str) -> list[Any]:
        """Run a query and return its rows."""
        return list(await self._session.execute(text(sql)))


async def open_tables(session: Any) -> ForeignTables:
    """Find the tables of the database and their columns."""

    def look(connection: Connection) -> tuple[dict[str, tuple[str, ...]], str]:
        catalog = inspect(connection)
        found = {name: tuple(column["name"] for column in catalog.get_columns(name)) for name in catalog.get_table_names()}
        return found, connection.dialect.name

    connection = await session.connection()
    columns, engine = await connection.run_sync(look)
    return ForeignTables(session, columns, as_text=engine == "postgresql")


def quote(name: str) -> str:
    """Return a name quoted as SQL."""
    return '"' + name.replace('"', '""') + '"'


def to_decimal(value: object, name: str) -> Decimal | None:
    """Return a stored number as a Decimal, of a float the shortest that converts back to it; None for NULL.

    Raises:
        InvalidValueError: the value is not a number, or not a finite one.
    """
    if value is None:
        return None
    try:
        number = Decimal(repr(value) if isinstance(value, float) else str(value))
    except InvalidOperation as error:
        raise InvalidValueError(f"{name} {show(value)} is not a number") from error
    if not number.is_finite():
        raise InvalidValueError(f"{name} {number} is not a finite number")
    return number


def to_time(value: object, name: str, zone: tzinfo = UTC) -> datetime | None:
    """Return a stored time in UTC; a time without an offset is in ``zone``. None for NULL.

    Raises:
        InvalidValueError: the value is not a time; or it occurs twice or never in ``zone``, because clocks were changed.
    """
    if value is None:
        return None
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError as error:
        raise InvalidValueError(f"{name} {show(value)} is not a time") from error
    if moment.tzinfo is not None:
        return moment.astimezone(UTC)
    early, late = (moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if early.utcoffset() != late.utcoffset():
        raise InvalidValueError(f"{name} {moment} occurs twice or never in {zone}, because clocks are changed")
    try:
        return early.astimezone(UTC)
    except OverflowError as error:
        raise InvalidValueError(f"{name} {moment} is outside the years 1 to 9999 in UTC") from error
