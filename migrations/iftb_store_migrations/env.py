"""The environment script of the ``alembic`` command: it connects to the database, takes the lock and configures Alembic.

The URL comes from ``-x url=…`` (or ``-x url=env:NAME``), otherwise from the settings. Create a new revision with, e.g., ``alembic
revision --rev-id 0003 -m "Add funding rates"``. The package itself migrates without this file; see history.py.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from alembic import command, context
from alembic.operations import Operations
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from iftb_store._io.atomic_files import create_private_files
from iftb_store.abilities import SupportsMigrations
from iftb_store.config import resolve_url
from iftb_store.errors import StoreError
from iftb_store.manager import DatabaseManager
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store.url import parse_url
from iftb_store.values.display import error_line
from iftb_store_migrations.catalog import refuse_foreign
from iftb_store_migrations.history import adopt_or_refuse
from iftb_store_migrations.lock import hold_migration_lock


def database_url() -> str:
    """Return the URL of the command's option ``-x url=…``, otherwise the URL of the settings."""
    given = context.get_x_argument(as_dictionary=True).get("url")
    return resolve_url(given if isinstance(given, str) else None)


def print_sql() -> None:
    """Print the SQL statements of the command for the URL's engine, without connecting; called for the option ``--sql``."""
    scheme = parse_url(database_url()).get_backend_name()
    context.configure(
        dialect_name="postgresql" if scheme == "postgres" else scheme,
        version_table=VERSION_TABLE,
        transactional_ddl=True,
        literal_binds=True,
    )
    run()


def migrate(conn: Connection) -> None:
    """Run the alembic command in the connection's transaction, under the lock that excludes other migrations."""
    with hold_migration_lock(conn):
        options = context.config.cmd_opts
        if options is not None and options.cmd[0] in (command.upgrade, command.downgrade):
            adopt_or_refuse(conn)
        context.configure(connection=conn, version_table=VERSION_TABLE, transactional_ddl=True)
        run()
        refuse_foreign(conn)


def run() -> None:
    """Apply the revisions that the command requires, and report each on stderr; a revision gets Operations as an argument."""
    options = context.config.cmd_opts
    if options is not None and not options.quiet:
        logging.basicConfig(format="%(message)s")
        logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)
    with context.begin_transaction():
        context.run_migrations(op=Operations(context.get_context()))


async def connect_and_migrate() -> None:
    """Open the database with DatabaseManager and migrate it, so that the URL's options and iftb-store's error messages apply."""
    async with DatabaseManager(database_url()) as db:
        await db.ability(SupportsMigrations).with_connection(migrate)


@create_private_files()
def main() -> None:
    """Run the command; print an error of iftb_store or of the database in one line and exit with code 1."""
    options = context.config.cmd_opts
    try:
        if context.is_offline_mode():
            print_sql()
        else:
            asyncio.run(connect_and_migrate())
    except (StoreError, SQLAlchemyError) as error:
        if options is None or options.raiseerr:
            raise
        print(error_line(str(getattr(error, "orig", None) or error)), file=sys.stderr)  # noqa: T201 - a command
        raise SystemExit(1) from error


main()
