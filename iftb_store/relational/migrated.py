"""Schema migrations for backends with SQLAlchemy connections: upgrade the schema, create tables, report the status."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeVar

from iftb_store._io.tasks import import_modules

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from iftb_store.health import SchemaStatus
    from iftb_store.schema.dialect import SchemaDialect

T = TypeVar("T")

_MIGRATIONS = "iftb_store_migrations"


class Migrated(ABC):
    """Implements `iftb_store.abilities.SupportsMigrations` through the backend's ``with_connection``."""

    #: The engine's DDL, if the migrations of iftb-store have none for it.
    schema: ClassVar[SchemaDialect | None] = None

    @abstractmethod
    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """Run ``work`` with a SQLAlchemy connection and return its result; see `iftb_store.abilities.SupportsMigrations`."""

    async def migrate(self) -> None:
        """Migrate the database's schema to the newest revision of this version."""
        await import_modules(_MIGRATIONS)
        from iftb_store_migrations import upgrade

        await self.with_connection(partial(upgrade, schema=self.schema))

    async def create_tables(self) -> None:
        """Create the missing tables and record the newest revision in the database."""
        await import_modules(_MIGRATIONS)
        from iftb_store_migrations import create

        await self.with_connection(partial(create, schema=self.schema))

    async def status(self) -> SchemaStatus:
        """Return the schema's revision and whether it is usable."""
        await import_modules(_MIGRATIONS)
        from iftb_store_migrations import status

        return await self.with_connection(partial(status, schema=self.schema), read_only=True)
