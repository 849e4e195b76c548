"""Writes the SQL conditions of a selection of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iftb_store.relational.dialect import SqlDialect
from iftb_store.schema.table_spec import POSITIONS, ColumnKind, RowFilter, TableSpec
from iftb_store.schema.tables import OPEN
from iftb_store.values.tags import encode_item

_OPEN = dict(POSITIONS.unique_among)


def filter_sql(rows: RowFilter, dialect: SqlDialect) -> tuple[list[str], dict[str, Any]]:
    """Return the conditions on the rows' values, tag and time, and the values of their parameters."""
    conditions, values = equal_sql(rows.table, rows.equal, dialect)
    for name, sign, moment in rows.bounds:
        conditions.append(f"{rows.table.time} {sign} {dialect.time_parameter.format(name)}")
        values[name] = moment
    if rows.tag is not None:
        conditions.append(tag_sql(dialect))
        values["tag"] = encode_item(rows.tag)
    return conditions, values


def tag_sql(dialect: SqlDialect) -> str:
    """Return the condition that the list of tags contains the tag whose stored text is the parameter ``tag``."""
    return dialect.contains.format(dialect.text_column.format("tags"), dialect.text_parameter.format("tag"))


def equal_sql(table: TableSpec, equal: Mapping[str, Any], dialect: SqlDialect) -> tuple[list[str], dict[str, Any]]:
    """Return the conditions that rows have the values ``equal`` (None: NULL), and the values of their parameters."""
    conditions: list[str] = []
    for column, value in equal.items():
        if value is None:
            conditions.append(f"{column} IS NULL")
        elif {column: value} == _OPEN:
            # a literal, so that the engine can use its index on the open positions
            conditions.append(OPEN)
        elif table.kinds[column] == ColumnKind.TEXT:
            conditions.append(f"{dialect.text_column.format(column)} = {dialect.text_parameter.format(f'is_{column}')}")
        else:
            as_sql = {ColumnKind.TIME: dialect.time_parameter, ColumnKind.DECIMAL: dialect.decimal_parameter}
            conditions.append(f"{column} = {as_sql.get(table.kinds[column], ':{}').format(f'is_{column}')}")
    return conditions, {f"is_{column}": value for column, value in equal.items()}
