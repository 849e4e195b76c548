"""Writes the batches of a reader one after the other, so that memory stays constant: in one transaction, or one for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
from sqlalchemy.exc import IntegrityError

from iftb_store.batches.arrow_frames import collect_rows, unreadable_data
from iftb_store.batches.arrow_input import RowError
from iftb_store.errors import InvalidValueError, PartialWriteError
from iftb_store.models import UpsertReport

# short batches are joined up to this number of rows
_ROWS = 65_536

#: Writes one batch and returns what became of its rows, or their number.
WriteBatch = Callable[[pa.Table], Awaitable[int | UpsertReport]]


def is_reader(data: object) -> bool:
    """Return whether data is read batch by batch."""
    return isinstance(data, pa.RecordBatchReader)


async def read_joined(reader: pa.RecordBatchReader) -> AsyncIterator[pa.Table]:
    """Yield the rows of a reader in tables of many rows.

    Raises:
        InvalidValueError: the reader failed.
    """
    batches = iter(reader)
    while (table := await asyncio.to_thread(_join_next, batches)) is not None:
        yield table


async def iterate_batches(data: object) -> AsyncIterator[pa.Table]:
    """Yield the batches of a reader, or the parts of an iterable, as they are; other data is one batch.

    Raises:
        InvalidValueError: the reader failed, or a part is not a table, record batch or data frame.
    """
    if is_reader(data):
        batches: Iterator[Any] = iter(data)  # type: ignore[call-overload]
        while (table := await asyncio.to_thread(_read_next, batches)) is not None:
            yield table
    elif hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__") or not isinstance(data, Iterable):
        yield await collect_rows(data)
    else:
        for part in data:
            yield await collect_rows([part])


def _join_next(batches: Iterator[pa.RecordBatch]) -> pa.Table | None:
    parts, count = list[pa.Table](), 0
    while count < _ROWS and (table := _read_next(batches)) is not None:
        parts.append(table)
        count += table.num_rows
    return pa.concat_tables(parts) if parts else None


def _read_next(batches: Iterator[pa.RecordBatch]) -> pa.Table | None:
    try:
        batch = next(batches, None)
    except Exception as error:
        # a reader runs code of another library, which may raise any exception
        raise unreadable_data(error) from error
    return None if batch is None else pa.table(batch)


async def write_together(tables: AsyncIterator[pa.Table], write: WriteBatch) -> int | UpsertReport:
    """Write all tables in the caller's transaction; return the sum of what ``write`` returned.

    Raises:
        InvalidValueError: a row cannot be stored; the message counts the rows of all tables.
    """
    before, results = 0, list[int | UpsertReport]()
    async for table in tables:
        try:
            results.append(await write(table))
        except RowError as error:
            index = error.index + 1
            message = str(error).replace(f"row {index} of {table.num_rows}", f"row {before + index:,}", 1)
            raise RowError(before + error.index, error.why, message) from error
        before += table.num_rows
    return _add(results)


async def write_apart(tables: AsyncIterator[pa.Table], write: WriteBatch) -> int | UpsertReport:
    """Write each table in a separate transaction; return the sum of what ``write`` returned.

    Raises:
        PartialWriteError: a table was not written, but earlier ones are stored.
    """
    rows, results = 0, list[int | UpsertReport]()
    try:
        async for table in tables:
            results.append(await write(table))
            rows += table.num_rows
    except Exception as error:
        # whatever stops the writes, the error says which rows are stored
        if not results:
            raise
        reason = str(error.orig) if isinstance(error, IntegrityError) else str(error)
        raise PartialWriteError(
            f"stopped at batch {len(results) + 1:,}: {reason}; the {len(results):,} before it, with {rows:,} rows, are stored",
            len(results),
            rows,
        ) from error
    return _add(results)


def _add(results: list[int | UpsertReport]) -> int | UpsertReport:
    counts = [result for result in results if isinstance(result, UpsertReport)]
    if counts:
        sums = (sum(getattr(count, name) for count in counts) for name in ("inserted", "updated", "unchanged"))
        return UpsertReport(*sums)
    return sum(result for result in results if isinstance(result, int))


def session_error() -> InvalidValueError:
    """Return the error for ``atomic=False`` in a session."""
    return InvalidValueError(
        "atomic=False commits each batch, so it needs the manager, OHLCVRepository(db); "
        "in a session, write the batches one by one and commit when you want"
    )
