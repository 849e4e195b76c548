"""Collects the converted rows of another program's database in a temporary database of iftb-store, which is then copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from iftb_store.abilities import ConnectedStore
from iftb_store.batches.arrow import to_rows
from iftb_store.errors import InvalidValueError
from iftb_store.foreign.reports import RefusedRow
from iftb_store.registry import get_stores
from iftb_store.schema.row_checks import ROW_CHECKS
from iftb_store.schema.table_spec import BARS, GREATEST_ID, POSITIONS, TRADES, ColumnKind, TableSpec
from iftb_store.values import checks
from iftb_store.values.timeframes import check_timeframe

_BATCH = 2_000


class Staging:
    """Checks rows and writes them to the temporary database.

    Args:
        db: the temporary database.
        accept: whether a row that is refused, but can be corrected, is stored with the correction.

    Attributes:
        read: the number of rows that were read, by their table.
        refused: the rows that were refused, or accepted with a correction.
        notes: remarks for the user.
    """

    def __init__(self, db: ConnectedStore, *, accept: bool) -> None:
        self._db, self._accept = db, accept
        self.read = dict[str, int]()
        self.refused: list[RefusedRow] = []
        self.notes: list[str] = []
        self._waiting = dict[TableSpec, list[Any]]()

    def count(self, table: str, rows: int) -> None:
        """Count the rows that were read from a table of the other program."""
        self.read[table] = self.read.get(table, 0) + rows

    def refuse(self, table: str, number: int, reason: str, correction: str = "") -> bool:
        """Record that a row is refused; return whether it may be stored with its correction."""
        accepted = self._accept and bool(correction)
        self.refused.append(RefusedRow(table, number, reason, correction, accepted))
        return accepted

    async def add(self, table: TableSpec, values: dict[str, Any], origin: tuple[str, int]) -> bool:
        """Check a row and store it, or record that it is refused.

        Args:
            table: the table of iftb-store.
            values: the values by column; a column that is left out has its default.
            origin: the table and the id of the row in the other database.

        Returns:
            Whether the row is stored.
        """
        values = _complete(table, values)
        try:
            row = table.model(**{name: check(name, value) for name, value, check in _list_checks(table, values)})
            if table is TRADES or (table is POSITIONS and row.status == "open"):
                checks.check_quantity(row.quantity, "a trade" if table is TRADES else "an open position")
        except InvalidValueError as error:
            self.refuse(*origin, str(error))
            return False
        waiting = self._waiting.setdefault(table, [])
        waiting.append(row)
        if len(waiting) >= _BATCH:
            await self._write(table)
        return True

    async def finish(self) -> None:
        """Store the rows that are still waiting."""
        for table in list(self._waiting):
            await self._write(table)

    async def _write(self, table: TableSpec) -> None:
        objects = self._waiting.pop(table, [])
        # bars of a batch are written in the order of their keys
        objects.sort(key=lambda row: [getattr(row, name) for name in table.key])

        async def write(session: Any) -> None:
            await get_stores(session).write_rows(table, to_rows(table, objects))

        await self._db.run(write, idempotent=True)


def _complete(table: TableSpec, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with the times that the store sets.

    A row without such a time gets that of its trade or position, so that it is the same at every repetition; bars get now.
    """
    moment = datetime.now(UTC) if table is BARS else values.get(table.time)
    kept = [name for name, spec in table.specs.items() if spec.kept and spec.kind == ColumnKind.TIME]
    return values | {name: moment for name in kept if values.get(name) is None}


def _list_checks(table: TableSpec, values: dict[str, Any]) -> list[tuple[str, Any, Callable[[str, Any], Any]]]:
    known = {item.name for item in fields(table.model)}
    return [(name, value, _find_check(table, name)) for name, value in values.items() if name in known]


def _find_check(table: TableSpec, name: str) -> Callable[[str, Any], Any]:
    spec = table.specs[name]
    if name == "id":
        return _check_id
    if spec.kept:
        return lambda name, value: checks.utc(value, name)
    if table is not BARS:
        return lambda name, value: ROW_CHECKS[table.name][name](value, name)
    by_kind: dict[ColumnKind, Callable[[str, Any], Any]] = {
        ColumnKind.DECIMAL: lambda name, value: checks.rounded_decimal(value, name),
        ColumnKind.TIME: lambda name, value: checks.utc(value, name),
        ColumnKind.INTEGER: lambda name, value: checks.integer(value, name),
        ColumnKind.TEXT: lambda name, value: checks.name_text(value, name),
    }
    check = by_kind[spec.kind] if name != "timeframe" else lambda name, value: check_timeframe(value)
    return (lambda name, value: None if value is None else check(name, value)) if spec.nullable else check


def _check_id(name: str, value: object) -> int:
    number = checks.integer(value, name, least=1)
    if number > GREATEST_ID:
        raise InvalidValueError(f"id is greater than {GREATEST_ID}, which would leave too few ids for new rows")
    return number
