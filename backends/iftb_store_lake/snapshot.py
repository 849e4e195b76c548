"""One version of the table: its files, their statistics, and which of them can hold the rows of a selection."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from iftb_store.batches.arrow import TIME
from iftb_store.columnar import Bounds
from iftb_store.errors import operational_error
from iftb_store.schema.table_spec import RowFilter
from iftb_store.schema.types import to_epoch_us
from iftb_store_lake.layout import BOUNDED, PART

#: Microseconds by which the statistics cut times, as they have milliseconds.
CUT = 1_000
_UNREADABLE = {"deletionVectors", "columnMapping"}


@dataclass(frozen=True)
class Snapshot:
    """One version of the table.

    Attributes:
        version: the number of the version.
        files: a row for each file: path, size, rows, part, and least and greatest values of the columns `BOUNDED`; a value that
            is not known is NULL.
    """

    version: int
    files: pa.Table

    def pick(self, bounds: Bounds) -> list[str]:
        """Return the paths of the files that can hold rows within bounds."""
        return [str(path) for path in self.find_files(bounds)["path"].to_pylist()]

    def find_newest(self, bounds: Bounds) -> int | None:
        """Return a time in microseconds after which no row within bounds follows; None if it is not known."""
        picked: Any = self.find_files(bounds)["max.timestamp"]
        newest: Any = None if picked.null_count else pc.max(picked.cast(pa.int64())).as_py()
        return None if newest is None else newest + CUT

    def find_files(self, bounds: Bounds) -> pa.Table:
        """Return the files that can hold rows within bounds."""
        files: Any = self.files
        keep: Any = None
        for column, value in bounds.least.items():
            keep = _both(keep, pc.greater_equal(files[f"max.{column}"], _scalar(column, value, -CUT)))
        for column, value in bounds.greatest.items():
            keep = _both(keep, pc.less_equal(files[f"min.{column}"], _scalar(column, value, CUT)))
        found: pa.Table = files if keep is None else files.filter(pc.fill_null(keep, True))
        return found

    @property
    def bytes(self) -> int:
        """The size of all files."""
        total: Any = pc.sum(self.files["size_bytes"])
        return total.as_py() or 0

    @cached_property
    def greatest_id(self) -> int:
        """The greatest id in the statistics of the files; 0 if they have none."""
        greatest: Any = pc.max(self.files["max.id"])
        return greatest.as_py() or 0


def read_snapshot(table: DeltaTable) -> Snapshot:
    """Return the version that a handle of the table has loaded.

    Raises:
        OperationalError: another program has switched on features of Delta that change the meaning of the files.
    """
    features = set(table.protocol().reader_features or ()) & _UNREADABLE
    if features:
        raise operational_error(
            f"the lake cannot be read: another program has switched on {' and '.join(sorted(features))}, which this "
            "backend does not support; switch it off and rewrite the files there"
        )
    actions: Any = pa.table(table.get_add_actions(flatten=True))
    columns = {"path": pa.string(), "size_bytes": pa.int64(), "num_records": pa.int64()}
    kinds = {name: pa.int64() if name == "id" else TIME if name == "timestamp" else pa.string() for name in BOUNDED}
    columns |= {f"{side}.{name}": kind for side in ("min", "max") for name, kind in kinds.items()} | {
        f"partition.{PART}": pa.string()
    }
    nothing: Any = pa.nulls(actions.num_rows)
    arrays: dict[str, Any] = {
        name: actions[name].cast(kind) if name in actions.column_names else nothing.cast(kind) for name, kind in columns.items()
    }
    return Snapshot(table.version(), pa.table(arrays).rename_columns([name.removeprefix("partition.") for name in arrays]))


def find_bounds(selection: RowFilter) -> Bounds:
    """Return the bounds of the selected rows."""
    least: dict[str, Any] = dict(selection.equal)
    greatest: dict[str, Any] = dict(selection.equal)
    start = selection.start
    if selection.after is not None:
        after = dict(zip(selection.order, selection.after, strict=True))
        first = selection.order[0]
        if first == "timestamp":
            start = after[first] if start is None else max(start, after[first])
        else:
            least[first] = after[first]
    if start is not None:
        least["timestamp"] = start
    if selection.end is not None:
        greatest["timestamp"] = selection.end
    return Bounds(least, greatest)


def _both(keep: Any, condition: Any) -> Any:
    # unknown bounds exclude nothing
    return condition if keep is None else pc.and_kleene(keep, condition)


def _scalar(column: str, value: Any, widened: int) -> Any:
    if isinstance(value, datetime):
        return pa.scalar(to_epoch_us(value) + widened, pa.int64()).cast(TIME)
    return pa.scalar(value, pa.int64() if column == "id" else pa.string())
