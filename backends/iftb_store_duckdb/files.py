"""Creates a database's files with private permissions, because DuckDB would create them with the permissions of the umask."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import duckdb

from iftb_store.errors import operational_error
from iftb_store.values.file_identity import read_engine
from iftb_store_duckdb.errors import FOREIGN

_guard = threading.Lock()
_users: Counter[str] = Counter()
_made: set[str] = set()


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


class SpillFolder:
    """The folder for data that does not fit in memory, readable only by its owner; DuckDB would create it readable by everyone.

    DuckDB does not remove a folder that it did not create, so the last user of the folder in this process removes it.
    """

    def __init__(self, path: str, *, given: bool) -> None:
        self.path = path
        self._given = given

    def check(self) -> None:
        """Raise if another user may have created the folder to read the data in it; a folder that the URL names is not checked.

        Raises:
            OperationalError: the path is a link or a file, or the folder belongs to another user.
        """
        if self._given:
            return
        path = Path(self.path)
        try:
            found = path.lstat()
        except OSError:
            # nothing exists at the path, or opening the database will report the problem
            return
        is_ours = not hasattr(os, "geteuid") or found.st_uid in (os.geteuid(), path.parent.stat().st_uid)
        if not stat.S_ISDIR(found.st_mode) or not is_ours:
            raise operational_error(
                f"{self.path} is in the way of DuckDB's temporary folder: it is a link, a file or another user's; remove it, "
                "or set a folder in the URL: ?temp_directory=/path/of/a/folder"
            )

    def enter(self) -> None:
        """Count one more user of the folder in this process, and create the folder if it does not exist.

        An existing folder is made private, unless the URL names the folder. If the folder cannot be created, this method raises
        no error, because DuckDB raises one when it needs the folder.
        """
        with _guard, suppress(OSError):
            _users[self.path] += 1
            try:
                Path(self.path).mkdir(mode=0o700, parents=True)
                _made.add(self.path)
            except FileExistsError:
                if not self._given:
                    Path(self.path).chmod(0o700)
                    _made.add(self.path)

    def leave(self) -> None:
        """Count one user of the folder in this process fewer; after the last user, remove the folder.

        The folder is removed only if it is empty and this process created it or made it private.
        """
        with _guard, suppress(OSError):
            _users[self.path] -= 1
            if _users[self.path] == 0:
                del _users[self.path]
                if self.path in _made:
                    _made.remove(self.path)
                    Path(self.path).rmdir()
