"""Opens a DuckDB database so that no SQL, not even the file's own, can read other files or change a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb

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


def connect_closed(
    path: str, config: Mapping[str, str], *, external_access: bool = False, folders: Sequence[str] = ()
) -> duckdb.DuckDBPyConnection:
    """Connect to a database; the caller must check it for macros that replace built-in functions.

    Args:
        path: the file, or ``:memory:``.
        config: settings for DuckDB.
        external_access: whether SQL may use other files and change settings.
        folders: folders whose files SQL may read even without ``external_access``.

    Raises:
        duckdb.Error: the file cannot be opened, or this process has it open with other options.
    """
    # DuckDB compares these options, not later SET commands, so a manager with other access cannot share the open database
    access = {"enable_external_access": "true"} if external_access else {}
    connection = duckdb.connect(path, config={**config, **_CONFIG, **access})
    listed = ", ".join(f"'{folder}/'" for folder in (folder.replace("'", "''") for folder in folders))
    allowed = (f"SET allowed_directories = [{listed}]",) if folders else ()
    try:
        _set_up(connection, (*_TIME_ZONE, *allowed, *(() if external_access else _CLOSED)))
    except BaseException:
        # whatever fails, the database must not stay open
        connection.close()
        raise
    return connection


def _set_up(connection: duckdb.DuckDBPyConnection, settings: Sequence[str]) -> None:
    try:
        for setting in settings:
            connection.execute(setting)
    except duckdb.InvalidInputException:
        # another manager of this process shares the database, and has locked its settings
        if connection.execute(_SETTINGS).fetchall() != [("UTC", "false", "true")]:
            raise
