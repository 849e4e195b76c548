"""The folder for data of DuckDB that does not fit in memory, shared by all users of one database in this process."""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

from iftb_store.errors import operational_error

_guard = threading.Lock()
_users: Counter[str] = Counter()
_made: set[str] = set()


class SpillFolder:
    """The folder for data that does not fit in memory, readable only by its owner; DuckDB would create it readable by everyone.

    DuckDB does not remove a folder that it did not create, so the last user of the folder in this process removes it.
    """

    def __init__(self, path: str, *, given: bool) -> None:
        self.path = path
        self._given = given

    def check(self) -> None:
        """Raise if another user may have created the folder to read its files; a folder that the URL names is not checked.

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
                f"DuckDB needs the path {self.path} for its temporary folder, but there is a link, a file or a folder of another "
                "user; remove it, or name another folder in the URL: ?temp_directory=/path/of/a/folder"
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
        """Count one user of the folder in this process less; after the last user, remove the folder.

        The folder is removed only if it is empty and this process created it or made it private.
        """
        with _guard, suppress(OSError):
            _users[self.path] -= 1
            if _users[self.path] == 0:
                del _users[self.path]
                if self.path in _made:
                    _made.remove(self.path)
                    Path(self.path).rmdir()
