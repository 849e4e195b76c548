"""The files of a database, made before DuckDB opens them: it makes them by the umask, which is the whole process's."""

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
    """Create a database that its owner alone can read.

    DuckDB takes no empty file; so it makes one in a private directory, whose link then appears under the final name,
    unless another process was faster.
    """
    # where no link can be made, DuckDB says what is wrong with the path, or creates the file itself
    with suppress(OSError), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder) / "new.duckdb"
        duckdb.connect(str(fresh)).close()
        fresh.chmod(0o600)
        path.hardlink_to(fresh)


def create_log(path: str) -> None:
    """Create the log beside a database, where it is missing, with the database's own rights.

    Raises:
        OperationalError: it cannot be made.
    """
    try:
        mode = Path(path).stat().st_mode & 0o666
        with suppress(FileExistsError):
            os.close(os.open(f"{path}.wal", os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    except OSError as error:
        raise operational_error(f"the log beside {path} cannot be created: {error.strerror}", error) from error


def refuse_foreign(path: Path) -> None:
    """Refuse what is no DuckDB database: DuckDB would look for an extension that reads such a file, SQLite's say.

    Raises:
        duckdb.IOException: it is none.
    """
    with suppress(OSError):
        if read_engine(path) != "duckdb":
            raise duckdb.IOException(FOREIGN)


class SpillFolder:
    """The folder for what does not fit in memory, its owner's alone: DuckDB would make it for everyone to read.

    DuckDB leaves a folder that was there before it, so the last of this process to leave removes it.
    """

    def __init__(self, path: str, *, given: bool) -> None:
        self.path = path
        self._given = given

    def check(self) -> None:
        """Refuse a folder that somebody else put there to read what is written into it; one that the user names is left alone.

        Raises:
            OperationalError: it is a link, no folder, or another's.
        """
        if self._given:
            return
        path = Path(self.path)
        try:
            found = path.lstat()
        except OSError:
            # nothing is there, or what opens the database says what is wrong
            return
        is_ours = not hasattr(os, "geteuid") or found.st_uid in (os.geteuid(), path.parent.stat().st_uid)
        if not stat.S_ISDIR(found.st_mode) or not is_ours:
            raise operational_error(
                f"{self.path} is in the way of DuckDB's temporary folder: it is a link, a file or another user's; remove it, "
                "or set a folder in the URL: ?temp_directory=/path/of/a/folder"
            )

    def enter(self) -> None:
        """Make the folder; where it cannot be made, DuckDB says so when it wants it. One that the user names may be there."""
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
        """Remove the folder, if it is ours, nobody else of this process uses it and nothing is in it."""
        with _guard, suppress(OSError):
            _users[self.path] -= 1
            if _users[self.path] == 0:
                del _users[self.path]
                if self.path in _made:
                    _made.remove(self.path)
                    Path(self.path).rmdir()
