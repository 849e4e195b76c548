"""The schema of a backend with SQLAlchemy connections: migration, creation, status."""

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
    """The methods of `iftb_store.protocols.SupportsMigrations`, implemented with the backend's ``with_connection``."""

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """See `iftb_store.protocols.SupportsMigrations`."""
        raise NotImplementedError

    async def migrate(self) -> None:
        """Migrate the schema to this version's revision."""
        await import_modules(_MIGRATIONS)
        from iftb_store_migrations import upgrade

        await self.with_connection(upgrade)

    async def create_tables(self) -> None:
        """Create missing tables and stamp the newest revision."""
        await import_modules(_MIGRATIONS)
        from iftb_store_migrations import create

        await self.with_connection(create)

    async def status(self) -> SchemaStatus:
        """Return the state of the schema."""
        await import_modules(_MIGRATIONS)
        from iftb_store_migrations import status

        return await self.with_connection(status, read_only=True)
