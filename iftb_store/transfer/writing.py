"""Writes rows into the destination of a transfer, in batches that are committed one by one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store.abilities import ConnectedStore, SupportsLargeBatches
from iftb_store.batches.arrow import unreadable_value
from iftb_store.errors import CollisionError, StoreError, Unsupported
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import TableSpec
from iftb_store.transfer import plan
from iftb_store.transfer.access import require_complete_reads
from iftb_store.transfer.digests import find_invalid_json, read_positions
from iftb_store.transfer.matching import REMEDY
from iftb_store.transfer.verify import format_key


class RowWriter:
    """Writes rows of one table in batches, each in a separate transaction."""

    def __init__(
        self, destination: ConnectedStore, table: TableSpec, wrote: Callable[[int], None], *, replace: bool = False
    ) -> None:
        self._destination, self._table, self.wrote, self._replace = destination, table, wrote, replace
        self._most = plan.ROWS, plan.BYTES
        with suppress(Unsupported):
            backend = destination.ability(SupportsLargeBatches)
            self._most = backend.batch_rows, backend.batch_bytes
        self._clear()

    async def add(self, rows: pa.Table) -> None:
        """Add rows of one series or table, and write them when the batch is full.

        Raises:
            StoreError: two rows have the same key.
        """
        where = read_positions(rows, self._table)
        twice: Any = pc.equal(where[1:], where[:-1])
        if pc.any(twice).as_py():
            first: dict[str, Any] = rows.slice(pc.index(twice, True).as_py(), 1).select(self._table.key).to_pylist()[0]
            raise duplicate_error(self._table, first, "source")
        self._waiting.append(rows)
        self._rows += rows.num_rows
        self._size += rows.nbytes
        if self._rows >= self._most[0] or self._size >= self._most[1]:
            await self.flush()

    async def flush(self) -> None:
        """Write the rows that were added but not yet written."""
        if not self._rows:
            return
        rows = pa.concat_tables(self._waiting).combine_chunks()
        self._clear()
        if self._table.has_own_ids:
            rows = rows.sort_by("id")
        await put(self._destination, self._table, rows, replace=self._replace)
        self.wrote(rows.num_rows)

    def _clear(self) -> None:
        self._waiting: list[pa.Table] = []
        self._rows = self._size = 0


async def put(destination: ConnectedStore, table: TableSpec, rows: pa.Table, *, replace: bool = False) -> None:
    """Write rows in a transaction; see `iftb_store.protocols.Stores.write_rows`.

    Args:
        destination: the store.
        table: the table of the rows.
        rows: the rows.
        replace: first delete the stored rows with the same keys, whatever values they have.

    Raises:
        CollisionError: the destination has another row with the same key or id.
    """

    async def write_rows(session: Any) -> None:
        await require_complete_reads(session, [table], insert=True)
        if replace:
            await get_stores(session).delete_rows(table, rows)
        await get_stores(session).write_rows(table, rows)

    try:
        # written twice, rows without ids would be stored twice
        await destination.run(write_rows, idempotent=not (table.has_own_ids and rows["id"].null_count))
    except IntegrityError as error:
        if not table.has_own_ids:
            raise
        ids: Any = pc.min_max(rows["id"]).as_py()
        raise CollisionError(
            f"{table.name}: the destination refused a row with an id from {ids['min']} to {ids['max']}: {error.orig}; "
            f"another row, written there during the copy, may have the same key or id; {REMEDY}; the rows copied before stay"
        ) from error
    except OperationalError as error:
        found = find_invalid_json(rows, table)
        if found is None:
            raise
        # SQLite stores any text in a JSON column
        raise unreadable_value(table, *found) from error


async def drop(destination: ConnectedStore, table: TableSpec, rows: pa.Table) -> None:
    """Delete the rows that have the keys of ``rows``, in a transaction."""

    async def delete_rows(session: Any) -> None:
        await require_complete_reads(session, [table])
        await get_stores(session).delete_rows(table, rows)

    if rows.num_rows:
        await destination.run(delete_rows, idempotent=True)


def duplicate_error(table: TableSpec, key: dict[str, Any], where: str) -> StoreError:
    """Return the error for a store in which several rows have the same key."""
    return StoreError(f"{table.name} {format_key(key)} occurs more than once in the {where}; `iftb-store doctor` finds such rows")
