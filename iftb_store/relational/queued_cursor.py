"""A cursor for streams of rows: each fetch waits for its turn among the calls of the session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.util.concurrency import await_

from iftb_store._io.turns import Turns


class QueuedCursor:
    """The cursor of a stream of rows; each fetch waits for its turn in the session."""

    def __init__(self, cursor: Any, turns: Turns) -> None:
        self._cursor = cursor
        self._turns = turns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def fetchone(self) -> Any:
        """Return the next row, or None at the end."""
        return self._in_turn(self._cursor.fetchone)

    def fetchmany(self, size: int | None = None) -> Any:
        """Return the next rows, at most ``size``."""
        return self._in_turn(self._cursor.fetchmany, size)

    def fetchall(self) -> Any:
        """Return all remaining rows."""
        return self._in_turn(self._cursor.fetchall)

    def close(self) -> None:
        """Close the cursor; do nothing if the session has ended, because the end of the session closes its cursors."""
        # the end of a session closes its connection, and with it the cursor
        if self._turns.end_reason is None:
            self._in_turn(self._cursor.close)

    def _in_turn(self, fetch: Callable[..., Any], *args: Any) -> Any:
        await_(self._turns.__aenter__())
        try:
            return fetch(*args)
        finally:
            await_(self._turns.__aexit__(None, None, None))
