"""The table ``ohlcv`` that a session's SQL reads: the rows of one version, overridden by the session's own writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from operator import and_
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from iftb_store.batches.arrow import arrow_schema
from iftb_store.columnar import Bounds, Cursor
from iftb_store.schema.table_spec import BARS
from iftb_store_lake.connection import Lake
from iftb_store_lake.layout import COLUMNS, FILE, SQL_TYPES, quote, same_key
from iftb_store_lake.pending import PENDING
from iftb_store_lake.snapshot import Snapshot

_NULLS = ", ".join(f"NULL::{kind} AS {name}" for name, kind in SQL_TYPES.items())
# what Arrow calls the file of a row
_FILE = "__filename"
_NOTHING = f"(SELECT {_NULLS} WHERE false)"


class View:
    """Provides the table ``ohlcv`` for the cursor of one session."""

    def __init__(self, lake: Lake, cursor: Cursor) -> None:
        self._lake = lake
        self._cursor = cursor
        self._kept = ExitStack()
        self._shown: Any = None

    def show(self, snapshot: Snapshot, bounds: Bounds, columns: Sequence[str], *, written: bool) -> None:
        """Create the table ``ohlcv`` with at least all rows within bounds.

        Args:
            snapshot: the version to read.
            bounds: which rows are needed.
            columns: which columns are needed; the key is among them.
            written: whether the session has writes that are not committed.
        """
        paths = snapshot.pick(bounds)
        shown = (paths, written, columns, None if self._lake.storage.files is None else bounds)
        if shown == self._shown:
            return
        self.forget()
        source = self._kept.enter_context(self.reading(paths, bounds, columns))
        listed = ", ".join(columns)
        sql = f"SELECT {listed} FROM {source}"
        if written:
            sql = f"""
                SELECT {listed} FROM {source} AS stored ANTI JOIN {PENDING} AS own ON {same_key("stored", "own")}
                UNION ALL
                SELECT {", ".join(map(_own_sql, columns))} FROM (SELECT * FROM {PENDING} WHERE op <> 'delete') AS own
                LEFT JOIN {source} AS stored ON own.op = 'upsert' AND {same_key("stored", "own")}"""
        self._cursor.fetch(f"CREATE OR REPLACE TEMP VIEW ohlcv AS {sql}")
        self._shown = shown

    def forget(self) -> None:
        """Make the next `show` create the table again."""
        self._shown = None
        self._kept.close()

    @contextmanager
    def reading(self, paths: list[str], bounds: Bounds, columns: Sequence[str] = COLUMNS) -> Iterator[str]:
        """Make files readable by SQL for the duration of the block; yield the SQL to write after FROM."""
        if not paths:
            yield _NOTHING
            return
        located = [self._lake.storage.locate(path) for path in paths]
        if self._lake.storage.files is None:
            yield f"read_parquet([{', '.join(map(quote, located))}], hive_partitioning = false)"
            return
        dataset: Any = ds.dataset(located, schema=arrow_schema(BARS), format="parquet", filesystem=self._lake.storage.files)
        # a scanner, as DuckDB's own conditions on a dataset fail on files whose text has another type of Arrow
        chosen = [_FILE if name == FILE else name for name in columns]
        scanner: Any = dataset.scanner(columns=chosen, filter=_to_expression(bounds))
        with self._cursor.register(scanner) as name:
            yield f"(SELECT * RENAME ({_FILE} AS {FILE}) FROM {name})" if FILE in columns else name


def _own_sql(column: str) -> str:
    # an upserted bar keeps the id and created_at of the stored one
    if column in ("id", "created_at"):
        return f"coalesce(stored.{column}, own.{column}) AS {column}"
    return f"own.{column}"


def _to_expression(bounds: Bounds) -> Any:
    """Return Arrow's filter for rows within bounds, or None; text is cast, because delta-rs writes it in two types of Arrow."""
    conditions = [_field(name) >= _scalar(name, value) for name, value in bounds.least.items()]
    conditions += [_field(name) <= _scalar(name, value) for name, value in bounds.greatest.items()]
    return reduce(and_, conditions) if conditions else None


def _field(name: str) -> Any:
    field: Any = ds.field(name)
    return field if name == "timestamp" else field.cast(pa.string())


def _scalar(name: str, value: Any) -> Any:
    return pa.scalar(value, arrow_schema(BARS).field(name).type)
