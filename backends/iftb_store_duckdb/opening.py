"""Opens a DuckDB database so that no SQL, not even the file's own, can read other files or change a setting."""

from __future__ import annotations

import duckdb

from iftb_store_duckdb.url import Options

# set before the file is opened: DuckDB would download an extension to read a file of another format
_CONFIG = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    # otherwise a name that is not a table would be looked up among Python's variables
    "python_enable_replacements": "false",
}
_TIME_ZONE = ("SET GLOBAL TimeZone = 'UTC'", "SET TimeZone = 'UTC'")
# the lock comes last, because no setting can be changed after it
_CLOSED = ("SET enable_external_access = false", "SET lock_configuration = true")
_SETTINGS = """
    SELECT system.main.current_setting('TimeZone'), system.main.current_setting('enable_external_access')::VARCHAR,
        system.main.current_setting('lock_configuration')::VARCHAR"""


def connect_closed(options: Options) -> duckdb.DuckDBPyConnection:
    """Connect to a database; the caller must check it for macros that replace built-in functions.

    Unless ``options.external_access`` is set, SQL on the connection can neither use other files nor change settings.

    Raises:
        duckdb.Error: the file cannot be opened, or this process has it open with other options.
    """
    # DuckDB compares these options, not later SET commands, so a manager with other access cannot share the open database
    access = {"enable_external_access": "true"} if options.external_access else {}
    connection = duckdb.connect(options.path, config={**options.config, **_CONFIG, **access})
    try:
        _set_up(connection, options)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: duckdb.DuckDBPyConnection, options: Options) -> None:
    try:
        for setting in _TIME_ZONE if options.external_access else (*_TIME_ZONE, *_CLOSED):
            connection.execute(setting)
    except duckdb.InvalidInputException:
        # another manager of this process shares the database, and has locked its settings
        if connection.execute(_SETTINGS).fetchall() != [("UTC", "false", "true")]:
            raise
