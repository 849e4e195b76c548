"""Opens a DuckDB database, and holds what its sessions share: the options, the write lock, the check of the schema."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from pathlib import Path

import duckdb

from iftb_store.columnar import Cursor, connect_closed, run_in_thread, write_lock
from iftb_store.errors import operational_error
from iftb_store.relational import FairSemaphore
from iftb_store.schema.revision import NEWEST_COLUMN, VERSION_TABLE, check_revision
from iftb_store_duckdb.errors import FOREIGN, cannot_open_error, is_held_elsewhere
from iftb_store_duckdb.files import create_log, create_private, refuse_foreign
from iftb_store_duckdb.strangers import refuse_foreign_objects, refuse_shadows
from iftb_store_duckdb.url import Options

_RETRY_OPEN = 0.05
_ENGINE = "SELECT type FROM system.main.duckdb_databases() WHERE database_name = system.main.current_database()"


class Database:
    """The state that the sessions of one backend share.

    Attributes:
        options: the options of the URL.
        shown_url: the URL with the password hidden, quoted for the commands that messages contain.
        lock: the write lock, which all sessions of this process on the file share.
        schema_checked: whether the schema was checked and found usable, so that later sessions need not check it.
    """

    def __init__(self, options: Options, shown_url: str) -> None:
        self.options = options
        self.shown_url = shown_url
        self.lock = FairSemaphore() if options.in_memory else write_lock(options.path)
        self.schema_checked = False

    async def open(self, executor: Executor, deadline: float) -> duckdb.DuckDBPyConnection:
        """Open the file; if another process holds it, retry until the deadline.

        Raises:
            OperationalError: the file cannot be opened; the message gives the reason.
        """
        opened: list[duckdb.DuckDBPyConnection] = []
        while True:
            try:
                await run_in_thread(executor, lambda: opened.append(_open(self.options)))
                return opened.pop()
            except asyncio.CancelledError:
                # the thread may have opened the file, which would stay locked until Python's garbage collector closes the
                # connection
                for connection in opened:
                    await run_in_thread(executor, connection.close)
                raise
            except duckdb.Error as error:
                if not is_held_elsewhere(error) or asyncio.get_running_loop().time() >= deadline:
                    raise cannot_open_error(self.options.path, error) from error
            except OSError as error:
                raise operational_error(f"cannot open {self.options.path}: {error.strerror}", error) from error
            await asyncio.sleep(_RETRY_OPEN)

    def begin(self, cursor: Cursor) -> None:
        """Create the write-ahead log with the permissions of the database file, then begin a transaction that may write.

        Raises:
            OperationalError: the database is open read-only, or the log cannot be created.
        """
        if self.options.read_only:
            raise operational_error("the database is read-only; open it without access_mode=read_only to write")
        if not self.options.in_memory:
            create_log(self.options.path)
        cursor.begin()

    def check_schema(self, cursor: Cursor) -> bool:
        """Check that the tables of iftb-store exist and that their revision is the current one; see `check_revision`.

        Raises:
            SchemaError: the tables are missing or are at another revision; or something that is not a table, e.g. a view, has
                the name of an iftb-store table; or a table has a trigger, a generated column or an expression that iftb-store
                did not create.
        """
        refuse_foreign_objects(cursor.fetch, trusted=self.options.trusted)
        found = cursor.rows(
            "SELECT table_name FROM duckdb_tables() WHERE table_name IN ('ohlcv', $1) AND schema_name = current_schema()"
            " AND database_name = current_database()",
            [VERSION_TABLE],
        )
        names = {name for (name,) in found}
        stamps = cursor.rows(f"SELECT version_num FROM {VERSION_TABLE}") if VERSION_TABLE in names else []
        table, column = NEWEST_COLUMN
        columns = cursor.rows(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = $1 AND schema_name = current_schema()"
            " AND database_name = current_database()",
            [table],
        )
        has_newest = not columns or (column,) in columns
        stamped = stamps[0][0] if stamps else None
        return check_revision("ohlcv" in names, stamped, self.shown_url, has_newest=has_newest)


def _open(options: Options) -> duckdb.DuckDBPyConnection:
    if not options.in_memory and not options.read_only and not Path(options.path).exists():
        # create the file that a symbolic link points to; DuckDB would create it with the permissions of the umask
        create_private(Path(options.path).resolve())
    try:
        connection = connect_closed(options.path, options.config, external_access=options.external_access)
    except duckdb.Error:
        # only after DuckDB failed: closing a file that this process has open would release DuckDB's lock on it
        refuse_foreign(Path(options.path))
        raise
    try:
        ((engine,),) = connection.execute(_ENGINE).fetchall()
        if engine != "duckdb":
            # an extension that the user has installed reads files of another format
            raise duckdb.IOException(FOREIGN)
        refuse_shadows(lambda sql: connection.execute(sql).fetchall())
    except BaseException:
        connection.close()
        raise
    return connection
