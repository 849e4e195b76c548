"""Chooses the size of batches, and the pauses between them, so that others can write during a long call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic

from iftb_store.abilities import ConnectedStore, SupportsLargeBatches
from iftb_store.errors import Unsupported

_FIRST, _LEAST, _MOST = 500, 50, 10_000
# seconds that a batch should take, as the writers of an engine with one writer at a time wait for it
_AIM = 0.05
_LONGEST_PAUSE = 1.0


class Pace:
    """The number of rows in the next batch: as many as take about a twentieth of a second.

    On a backend whose commits are slow, it is the number that the backend declares, and there are no pauses.

    Attributes:
        rows: the number of rows in the next batch.
    """

    def __init__(self, db: ConnectedStore) -> None:
        self.rows = _FIRST
        self._is_fixed = False
        with suppress(Unsupported):
            self.rows = db.ability(SupportsLargeBatches).batch_rows
            self._is_fixed = True

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[None]:
        """Measure the block, which writes a batch, and then wait as long as it took."""
        began = monotonic()
        yield
        seconds = monotonic() - began
        if self._is_fixed:
            return
        if seconds > 2 * _AIM:
            self.rows = max(_LEAST, self.rows // 2)
        elif seconds < _AIM / 2:
            self.rows = min(_MOST, self.rows * 2)
        await asyncio.sleep(min(seconds, _LONGEST_PAUSE))
