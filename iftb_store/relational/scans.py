"""Builds the query for a selection of rows (a RowFilter); a `SqlDialect` adds what is specific to an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iftb_store.relational.conditions import tag_sql
from iftb_store.relational.dialect import SqlDialect
from iftb_store.schema.table_spec import ColumnKind, RowFilter
from iftb_store.values.tags import encode_item


def fitting_sql(selection: RowFilter, dialect: SqlDialect) -> tuple[str, dict[str, Any]]:
    """Return a query, and its parameters, for the number of first rows whose texts fit into ``selection.size`` bytes.

    The texts are the values of the columns ``selection.texts``.
    """
    sql, values = scan_sql(
        selection,
        dialect,
        lambda column, kind: f"{dialect.octets.format(column)} AS {column}" if column in selection.texts else column,
    )
    octets = " + ".join(f"COALESCE({column}, 0)" for column in selection.texts)
    order = ", ".join(selection.order)
    running = f"SELECT SUM({octets}) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) AS octets FROM ({sql}) asked"
    return f"SELECT COUNT(*) FROM ({running}) added WHERE octets <= :size", values | {"size": selection.size}


def scan_sql(selection: RowFilter, dialect: SqlDialect, shown: Callable[[str, ColumnKind], str]) -> tuple[str, dict[str, Any]]:
    """Return a SELECT for a selection, with ``:name`` parameters, and the parameters' values.

    Args:
        selection: the rows and columns to select; ``after`` may have only the values of the first columns of ``order``, and then
            the selection begins after all rows with these values.
        dialect: the SQL dialect.
        shown: returns the SQL expression of a column from its name and its kind; see `TableSpec.kinds`.
    """
    table, kinds = selection.table, selection.table.kinds
    values: dict[str, Any] = dict(selection.equal)
    # order by every key column from the first column of the selection's order on: without one of them, the index could not find
    # the row after which to resume
    order = table.key[table.key.index(selection.order[0]) :] if selection.order else table.key[-1:]
    # a batch of later rows is read in the order of the ids: with an index of another column, the engine would find and sort all
    # rows of the selection again for each batch
    form = dialect.unindexed if selection.after is not None and order == ("id",) else "{}"
    # for a column in ORDER BY, use BETWEEN instead of =, or SQLite drops the column from the order and sorts all rows by the
    # other columns
    conditions = [
        f"{form.format(dialect.text_column.format(column))} {f'BETWEEN {mark} AND {mark}' if column in order else f'= {mark}'}"
        for column, mark in ((column, dialect.text_parameter.format(column)) for column in selection.equal)
    ]
    for name, sign, moment in selection.bounds:
        conditions.append(f"{form.format(table.time)} {sign} {dialect.time_parameter.format(name)}")
        values[name] = moment
    if selection.tag is not None:
        conditions.append(tag_sql(dialect))
        values["tag"] = encode_item(selection.tag)
    if selection.after is not None:
        after = selection.equal | dict(zip(selection.order, selection.after, strict=False))
        behind = [column for column in order if column in after]
        as_sql = {ColumnKind.TIME: dialect.time_parameter, ColumnKind.TEXT: dialect.text_parameter}
        marks = (as_sql.get(kinds[column], ":{}").format(f"after_{column}") for column in behind)
        place = (dialect.text_column.format(column) if kinds[column] == ColumnKind.TEXT else column for column in behind)
        conditions.append(_after_sql(list(place), list(marks), dialect))
        values |= {f"after_{column}": after[column] for column in behind}
    sql = f"SELECT {', '.join(shown(column, kinds[column]) for column in selection.columns)} FROM {table.name}"
    if conditions:
        sql += f" WHERE {' AND '.join(conditions)}"
    sql += f" ORDER BY {', '.join(order)}"
    if selection.limit is not None:
        sql += f" {dialect.limit.format(':limit')}"
        values["limit"] = selection.limit
    return sql, values


def _after_sql(columns: list[str], marks: list[str], dialect: SqlDialect) -> str:
    """Return the SQL condition that a row sorts after the row with the values ``marks`` in ``columns``."""
    if dialect.row_values:
        return f"({', '.join(columns)}) > ({', '.join(marks)})"
    column, mark = columns[0], marks[0]
    if len(columns) == 1:
        return f"{column} > {mark}"
    return f"({column} > {mark} OR ({column} = {mark} AND {_after_sql(columns[1:], marks[1:], dialect)}))"
