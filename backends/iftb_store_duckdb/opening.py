"""Opens a DuckDB database so that no SQL, that of the file itself included, reads other files or changes a setting."""

from __future__ import annotations

import duckdb

from iftb_store_duckdb.url import Options

# known before the file is: one that is no DuckDB's would have an extension fetched to look into it
_CONFIG = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    # a name that is no table would be looked up among Python's variables
    "python_enable_replacements": "false",
}
_TIME_ZONE = ("SET GLOBAL TimeZone = 'UTC'", "SET TimeZone = 'UTC'")
# the lock last: after it no setting can be changed, these neither
_CLOSED = ("SET enable_external_access = false", "SET lock_configuration = true")
_SETTINGS = """
    SELECT system.main.current_setting('TimeZone'), system.main.current_setting('enable_external_access')::VARCHAR,
        system.main.current_setting('lock_configuration')::VARCHAR"""


def connect_closed(options: Options) -> duckdb.DuckDBPyConnection:
    """Connect to the file; its macros, which could take the place of any function, are not looked at here.

    Raises:
        duckdb.Error: it cannot be opened, or this process has it open with other options.
    """
    # a manager that may not share what another has opened: DuckDB compares these options, not what is SET later
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
        # another manager of this process shares the database, and has locked it
        if connection.execute(_SETTINGS).fetchall() != [("UTC", "false", "true")]:
            raise
