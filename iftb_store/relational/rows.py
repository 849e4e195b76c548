"""Converts between rows of a table and objects of its dataclass, and writes the SQL that lists the table's columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from iftb_store.errors import explain_unreadable
from iftb_store.relational.dialect import Row, SqlDialect
from iftb_store.schema.table_spec import ColumnKind, TableSpec
from iftb_store.values.checks import json_object
from iftb_store.values.tags import decode_texts, encode_texts


def shown_column(dialect: SqlDialect, column: str, kind: ColumnKind) -> str:
    """Return the SQL expression that selects a column in the form that the dialect's functions decode."""
    as_sql = {ColumnKind.JSON: dialect.json_column, ColumnKind.DECIMAL: dialect.decimal_column}
    return as_sql.get(kind, "{}").format(column)


class RowForm:
    """Converts the rows of one table to objects, and writes the SQL that lists the columns of the table."""

    def __init__(self, table: TableSpec) -> None:
        self.table = table
        #: The columns that an INSERT sets: all except the id, which the database generates.
        self.written = tuple(column for column in table.columns if column != "id")

    def select_sql(self, dialect: SqlDialect, rest: str) -> str:
        """Return a SELECT of all columns, in the order of the dataclass's fields; ``rest`` is the SQL after the table's name."""
        return f"SELECT {self._select_list(dialect)} FROM {self.table.name} {rest}"

    @lru_cache(maxsize=64)  # noqa: B019 - there are as many objects as tables
    def _select_list(self, dialect: SqlDialect) -> str:
        return ", ".join(shown_column(dialect, column, kind) for column, kind in self.table.kinds.items())

    @lru_cache(maxsize=64)  # noqa: B019
    def insert_sql(self, dialect: SqlDialect) -> str:
        """Return an INSERT statement for all columns except id."""
        parameters = (self.parameter(dialect, column) for column in self.written)
        return f"INSERT INTO {self.table.name} ({', '.join(self.written)}) VALUES ({', '.join(parameters)})"

    @lru_cache(maxsize=256)  # noqa: B019
    def update_sql(self, dialect: SqlDialect, columns: tuple[str, ...], where: str) -> str:
        """Return an UPDATE statement that sets ``columns`` in the rows that the condition ``where`` selects."""
        changes = ", ".join(f"{column} = {self.parameter(dialect, column)}" for column in columns)
        return f"UPDATE {self.table.name} SET {changes} WHERE {where}"

    def parameter(self, dialect: SqlDialect, column: str) -> str:
        """Return the SQL of the parameter for a column; the parameter has the name of the column."""
        as_sql = {
            ColumnKind.TIME: dialect.time_parameter,
            ColumnKind.JSON: dialect.json_parameter,
            ColumnKind.DECIMAL: dialect.decimal_parameter,
        }
        return as_sql.get(self.table.kinds[column], ":{}").format(column)

    def values(self, row: Any) -> dict[str, Any]:
        """Return the values of an object by column, lists of texts as they are stored."""
        return self.encode_lists({name: getattr(row, name) for name in self.table.columns})

    def encode_lists(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values by column, with lists of texts as they are stored; `SqlDialect.encode` converts the other values."""
        return {name: encode_texts(value) if isinstance(value, list) else value for name, value in values.items()}

    def decode(self, dialect: SqlDialect, rows: Sequence[Row]) -> list[Any]:
        """Convert rows that a `select_sql` statement returned to objects."""
        decoders: dict[ColumnKind, Callable[[Any], Any]] = {
            ColumnKind.DECIMAL: dialect.decode_decimal,
            ColumnKind.TIME: dialect.decode_time,
            ColumnKind.JSON: json_object,
            ColumnKind.TEXTS: decode_texts,
        }
        decoded = [(index, decoders[kind]) for index, kind in enumerate(self.table.kinds.values()) if kind in decoders]
        objects: list[Any] = []
        with explain_unreadable(self.table.name):
            for row in rows:
                values = list(row)
                for index, decoder in decoded:
                    if values[index] is not None:
                        values[index] = decoder(values[index])
                objects.append(self.table.model(*values))
        return objects
