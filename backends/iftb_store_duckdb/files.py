"""Creates a database's files with private permissions, because DuckDB would create them with the permissions of the umask."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import duckdb

from iftb_store.errors import operational_error
from iftb_store.values.file_identity import read_engine
from iftb_store_duckdb.errors import FOREIGN


def create_private(path: Path) -> None:
    """Create a database file that only its owner can read.

    DuckDB does not open an empty file. So DuckDB creates the file in a private directory, and a hard link then gives it its final
    name, unless another process has created a file of that name first.
    """
    # if no link can be created, DuckDB reports what is wrong with the path, or creates the file itself
    with suppress(OSError), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder) / "new.duckdb"
        duckdb.connect(str(fresh)).close()
        fresh.chmod(0o600)
        path.hardlink_to(fresh)


def create_log(path: str) -> None:
    """Create the log file beside a database with the database file's permissions, if the log does not exist.

    Raises:
        OperationalError: the log cannot be created.
    """
    try:
        mode = Path(path).stat().st_mode & 0o666
        with suppress(FileExistsError):
            os.close(os.open(f"{path}.wal", os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    except OSError as error:
        raise operational_error(f"the log beside {path} cannot be created: {error.strerror}", error) from error


def refuse_foreign(path: Path) -> None:
    """Raise if a file is not a DuckDB database: DuckDB would look for an extension that reads its format, e.g. SQLite's.

    Raises:
        duckdb.IOException: the file is not a DuckDB database.
    """
    with suppress(OSError):
        if read_engine(path) != "duckdb":
            raise duckdb.IOException(FOREIGN)
