"""What a session changes in one version of the table: the rows, and the files that replace those with earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake.transaction import AddAction

from iftb_store.batches.arrow import arrow_schema
from iftb_store.batches.bars import KEY, duplicate_bar_error
from iftb_store.columnar import WHOLE, Bounds, Cursor, key_bounds
from iftb_store.schema.table_spec import BARS, SERIES
from iftb_store.schema.types import to_epoch_us
from iftb_store_lake.files import LEAST, write_files
from iftb_store_lake.layout import COLUMNS, COLUMNS_SQL, FILE, KEY_SQL, PART, ROW_GROUP, changed_sql, part_sql, same_key
from iftb_store_lake.pending import PENDING
from iftb_store_lake.snapshot import Snapshot
from iftb_store_lake.storage import Storage
from iftb_store_lake.view import View

_ROWS = (*COLUMNS, PART)
# so many rows of stored files are read at once
_MOST_LOADED = 65_536
# with more pending rows than these, a join of all columns takes long, and much memory
_MANY = 10_000


class Changes:
    """The changes that the pending rows of a session make to one version.

    Attributes:
        rows: the rows to change, in the order of the files: each with its partition, its operation ("put" or "delete"), and the
            file that has its key, NULL if none has.
        replaced: the paths of the files that the written ones replace.
    """

    def __init__(self, storage: Storage, cursor: Cursor, view: View, snapshot: Snapshot, bounds: Bounds) -> None:
        """Find the changes.

        Raises:
            IntegrityError: another client has inserted a bar that this session inserts.
        """
        self._storage = storage
        self._cursor = cursor
        self._view = view
        self._bounds = bounds
        self._window = [side["timestamp"] for side in bounds]
        self._files = self._find_files(snapshot)
        self._loaded: pa.Table | None = None
        self.rows = self._plan() if self._has_stored_key() else self._plan_new()
        self._touched = self._files.filter(pc.is_in(self._files[FILE], self.rows[FILE].unique().drop_null()))
        paths: Any = self._touched["path"].to_pylist()
        self.replaced: list[str] = paths

    def write(self) -> list[AddAction]:
        """Write files with the changed rows, and with the other rows of the files that they replace.

        Raises:
            OSError: a file cannot be written.
        """
        if not self.replaced:
            return write_files(self._storage, [self.rows.select(_ROWS)], LEAST)
        counts: Any = self._touched.group_by(PART).aggregate([("num_records", "sum")])
        # new rows join those of the same partition, so that files stay few, unless these are many to write again
        small: Any = ds.field(PART).isin(counts.filter(ds.field("num_records_sum") < LEAST)[PART].combine_chunks())
        is_put: Any = ds.field("op") == "put"
        joins: Any = ds.field(FILE).is_valid() | small
        joining = self.rows.filter(is_put & joins).select(_ROWS)
        alone = self.rows.filter(is_put & ~joins).select(_ROWS)
        files = self._rewrite(joining) if self._loaded is None else self._rewrite_loaded(self._loaded, joining)
        return files + (write_files(self._storage, [alone], LEAST) if alone.num_rows else [])

    def _find_files(self, snapshot: Snapshot) -> pa.Table:
        """Return the files that can hold a changed row: path, partition, number of rows, and name for SQL."""
        files = snapshot.find_files(self._bounds).select(["path", PART, "num_records"])
        paths: list[Any] = files["path"].to_pylist()
        return files.append_column(FILE, pa.array(map(self._storage.locate, paths), pa.string()))

    def _has_stored_key(self) -> bool:
        """Return whether a stored row may have the key of a pending one; many new rows are worth a look at the keys first."""
        if not self._files.num_rows:
            return False
        ((many,),) = self._cursor.fetch(f"SELECT count(*) > {_MANY} FROM {PENDING}")
        if not many:
            return True
        with self._reading(KEY) as stored:
            sql = f"""
                SELECT 1 FROM (SELECT {KEY_SQL} FROM {stored} WHERE timestamp BETWEEN $1 AND $2) AS stored
                SEMI JOIN {PENDING} AS own ON {same_key("own", "stored")} LIMIT 1"""
            return bool(self._cursor.fetch(sql, self._window))

    def _reading(self, columns: Sequence[str]) -> AbstractContextManager[str]:
        paths: Any = self._files["path"].to_pylist()
        return self._view.reading(paths, self._bounds, columns)

    def _load(self) -> pa.Table | None:
        """Return all rows of the files with their partition, file and number; None if they are many."""
        known: Any = self._files.drop_null()
        count: Any = pc.sum(known["num_records"]).as_py()
        if count is None or known.num_rows != self._files.num_rows or count > _MOST_LOADED:
            return None
        parts = list[pa.Table]()
        for file in known.to_pylist():
            rows = self._storage.load(file["path"], COLUMNS).cast(arrow_schema(BARS))
            for name in (PART, FILE):
                rows = rows.append_column(name, pa.repeat(pa.scalar(file[name], pa.string()), rows.num_rows))
            parts.append(rows)
        loaded = pa.concat_tables(parts)
        ones: Any = pa.repeat(pa.scalar(1, pa.int64()), loaded.num_rows)
        return loaded.append_column("number", pc.cumulative_sum(ones))

    def _plan(self) -> pa.Table:
        """Find the rows to change.

        Another program may have stored a bar twice: both rows are changed or deleted; a row that replaces both is returned for
        each.
        """
        kept = ", ".join(
            f"CASE WHEN own.op = 'upsert' THEN coalesce(stored.{name}, own.{name}) ELSE own.{name} END AS {name}"
            if name in ("id", "created_at")
            else f"own.{name}"
            for name in COLUMNS
        )
        self._loaded = self._load()
        first, last = self._window
        with ExitStack() as stack:
            if self._loaded is None:
                name = stack.enter_context(self._reading((*COLUMNS, FILE)))
                stored = f"(SELECT *, NULL::BIGINT AS number FROM (SELECT {COLUMNS_SQL}, {FILE} FROM {name}))"
            else:
                # Arrow skips the other rows faster
                near: Any = ds.field("timestamp").cast(pa.int64())
                near = (near >= to_epoch_us(first)) & (near <= to_epoch_us(last))
                stored = stack.enter_context(self._cursor.register(self._loaded.filter(near)))
            table, _ = self._cursor.table(
                f"""
                SELECT {kept}, {part_sql("own", self._bounds)} AS {PART},
                    CASE own.op WHEN 'delete' THEN own.op ELSE 'put' END AS op,
                    stored.{FILE}, stored.number, own.op = 'insert' AND stored.timestamp IS NOT NULL AS clashes
                FROM {PENDING} AS own LEFT JOIN (
                    SELECT {COLUMNS_SQL}, {FILE}, number FROM {stored} WHERE timestamp BETWEEN $1 AND $2
                ) AS stored ON {same_key("own", "stored")}
                WHERE own.op = 'insert' OR own.op = 'replace'
                    OR (own.op = 'upsert' AND (stored.timestamp IS NULL OR {changed_sql("own", "stored")}))
                    OR (own.op = 'delete' AND stored.timestamp IS NOT NULL)
                ORDER BY {PART}, {KEY_SQL}""",
                self._window,
            )
        clashing = table.filter(table["clashes"]).slice(0, 1).select(KEY).to_pylist()
        if clashing:
            # another client has stored it since the session looked
            raise duplicate_bar_error(tuple(clashing[0].values()), twice=False)
        return table

    def _plan_new(self) -> pa.Table:
        """Return the rows to add, as no file can hold one of them; see `_plan`."""
        least, greatest = self._bounds
        sql = f"""
            SELECT {COLUMNS_SQL}, {part_sql("own", self._bounds)} AS {PART}, 'put' AS op, NULL::VARCHAR AS {FILE}
            FROM {PENDING} AS own WHERE op <> 'delete'"""
        if all(least[name] == greatest[name] for name in SERIES):
            table, _ = self._cursor.table(sql)
            times: Any = table["timestamp"].cast(pa.int64()).combine_chunks()
            if pc.all(pc.less(times[:-1], times[1:])).as_py() is not False:
                return table
        return self._cursor.table(f"{sql} ORDER BY {PART}, {KEY_SQL}")[0]

    def _rewrite_loaded(self, loaded: pa.Table, joining: pa.Table) -> list[AddAction]:
        """Write the rows of the replaced files, of which the changed ones are left out, and those that join them."""
        touched = pc.is_in(loaded[FILE], self._touched[FILE].combine_chunks())
        unchanged = pc.invert(pc.is_in(loaded["number"], self.rows["number"].drop_null().combine_chunks()))
        if len(pc.unique(joining["id"])) < joining.num_rows:
            joining = joining.group_by(list(_ROWS), use_threads=False).aggregate([])
        rows = pa.concat_tables(
            [loaded.filter(pc.and_(touched, unchanged)).select(_ROWS), joining.cast(loaded.select(_ROWS).schema)]
        )
        if not rows.num_rows:
            return []
        bounds = key_bounds(BARS, rows)
        names = [PART, *(name for name in KEY if bounds.least[name] != bounds.greatest[name])]
        if len(pc.unique(rows[PART])) == 1:
            names.remove(PART)
        rows = rows.sort_by([(name, "ascending") for name in names]) if names else rows
        return write_files(self._storage, [rows], LEAST)

    def _rewrite(self, joining: pa.Table) -> list[AddAction]:
        """Do what `_rewrite_loaded` does, without holding all rows at once."""
        sets = (self._touched, self.rows.select(KEY), joining)
        with ExitStack() as stack:
            named, changed, fresh = (stack.enter_context(self._cursor.register(table)) for table in sets)
            stored = stack.enter_context(self._view.reading(self.replaced, WHOLE, (*COLUMNS, FILE)))
            # another program may have left the partition out
            part = f"coalesce(named.{PART}, {part_sql('stored')})" if self._touched[PART].null_count else f"named.{PART}"
            sql = f"""
                SELECT {", ".join(f"stored.{name}" for name in COLUMNS)}, {part} AS {PART}
                FROM {stored} AS stored JOIN {named} AS named USING ({FILE})
                ANTI JOIN {changed} AS changed ON {same_key("stored", "changed")}
                UNION ALL SELECT DISTINCT {COLUMNS_SQL}, {PART} FROM {fresh}
                ORDER BY {PART}, {KEY_SQL}"""
            return write_files(self._storage, self._cursor.tables(sql, ROW_GROUP), LEAST)
