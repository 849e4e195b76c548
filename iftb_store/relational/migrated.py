"""The schema of a backend that runs work with SQLAlchemy's connections: migrated, created, reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from iftb_store._io.tasks import import_modules

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from iftb_store.health import SchemaStatus

T = TypeVar("T")

_MIGRATIONS = "iftb_store_migrations"


class Migrated:
    """What `iftb_store.protocols.SupportsMigrations` asks of a backend, made from its ``with_connection``."""

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """See `iftb_store.protocols.SupportsMigrations`."""
        raise NotImplementedError

    async def migrate(self) -> None:
        """Bring the schema to this version's revision."""
        await import_modules(_MIGRATIONS)
        from iftb_store_migrations import upgrade

        await self.with_connection(upgrade)

    async def create_tables(self) -> None:
        """Create the tables that are missing and stamp the newest revision."""
        await import_modules(_MIGRATIONS)
        from iftb_store_migrations import create

        await self.with_connection(create)

    async def status(self) -> SchemaStatus:
        """Return the state of the schema."""
        await import_modules(_MIGRATIONS)
        from iftb_store_migrations import status

        return await self.with_connection(status, read_only=True)
