"""Runs COPY, whose connection may be lost while asyncpg waits until it can send more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Literal

import asyncpg


async def send(
    connection: asyncpg.Connection,
    table: str,
    columns: Sequence[str],
    source: AsyncIterator[bytes],
    format: Literal["text", "csv", "binary"],
    schema: str | None = None,
) -> None:
    """Run one COPY into a table.

    If the connection is lost while asyncpg waits until it can send more, asyncpg would wait forever. This function then cancels
    the COPY.

    Raises:
        asyncpg.ConnectionDoesNotExistError: the server ended the connection during the COPY.
        TimeoutError: the COPY took longer than the client's limit; it may have failed on the server before.
    """
    copying = asyncio.ensure_future(
        connection.copy_to_table(table, schema_name=schema, source=source, columns=columns, format=format)
    )

    def end(_connection: object) -> None:
        copying.cancel()

    connection.add_termination_listener(end)
    try:
        await copying
    except asyncio.CancelledError:
        if connection.is_closed() and not _is_cancelled():
            raise asyncpg.ConnectionDoesNotExistError("the server ended the connection during a COPY") from None
        raise
    except AttributeError as error:
        # asyncpg's own, when its limit ends and the server had refused a row or cancelled the COPY before
        if isinstance(error.__context__, TimeoutError):
            raise error.__context__ from None
        raise
    finally:
        connection.remove_termination_listener(end)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
