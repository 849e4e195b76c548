"""The tally of a fault: rounds, lost, duplicated, hung. Each test adds a line to the table of `nox -s soak`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

#: A round of more seconds counts as hung; every wait of the store has a shorter limit.
PATIENCE = 90.0


@dataclass
class Tally:
    """The figures of one fault on one engine.

    Attributes:
        rounds: how often the fault struck.
        lost: acknowledged writes that are not completely stored, and others that are partly stored.
        duplicated: rows that are stored more often than they were written.
        hung: rounds that did not end within `PATIENCE`.
    """

    fault: str
    engine: str
    rounds: int = 0
    lost: int = 0
    duplicated: int = 0
    hung: int = 0
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def round(self) -> Iterator[None]:
        """Count one round; one that ends with a TimeoutError hung, one that ends with another error is a loss."""
        self.rounds += 1
        try:
            yield
        except TimeoutError as error:
            self.hung += 1
            self.notes.append(f"round {self.rounds} hung: {error}")
        except Exception as error:
            # counted as a failure, and raised again
            self.note("lost", repr(error))
            raise

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """Count one round, and end it if it takes too long."""
        with self.round():
            async with asyncio.timeout(PATIENCE):
                yield

    def note(self, kind: str, what: str) -> None:
        """Count one loss (``lost``) or one duplicate (``duplicated``)."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.notes.append(f"round {self.rounds}, {kind}: {what}")

    def close(self) -> None:
        """Write the line, then check that nothing was lost, duplicated or hung."""
        self.write()
        assert (self.lost, self.duplicated, self.hung) == (0, 0, 0), "\n".join(self.notes[:20])

    def write(self) -> None:
        """Write the line, if IFTB_STORE_SOAK_REPORT names a file."""
        report = os.environ.get("IFTB_STORE_SOAK_REPORT")
        if report:
            line = {name: value for name, value in asdict(self).items() if name != "notes"}
            with Path(report).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
