"""Records the rights of every file that ever appears in a folder and below: Linux's inotify, in a thread."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from pathlib import Path

_CREATE, _MOVED_TO, _ATTRIB = 0x100, 0x80, 0x4
_EVENT = struct.Struct("iIII")


class Watch:
    """A context manager; `seen` is complete after its end.

    Attributes:
        seen: the rights (lowest nine bits) that each path was ever seen with.
    """

    def __init__(self, folder: Path) -> None:
        self.seen: dict[Path, set[int]] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._libc.inotify_init()
        self._folders: dict[int, Path] = {}
        self._end = folder / "end of the watch"
        self._thread = threading.Thread(target=self._look)
        self._follow(folder)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.touch()
        self._thread.join()
        self._end.unlink()
        os.close(self._inotify)

    def _follow(self, folder: Path) -> None:
        number = self._libc.inotify_add_watch(self._inotify, os.fsencode(folder), _CREATE | _MOVED_TO | _ATTRIB)
        if number >= 0:
            self._folders[number] = folder
            for path in folder.iterdir():
                self._note(path)

    def _note(self, path: Path) -> None:
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return
        self.seen.setdefault(path, set()).add(mode & 0o777)

    def _look(self) -> None:
        while True:
            data, at = os.read(self._inotify, 65_536), 0
            while at < len(data):
                number, _, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                path = self._folders[number] / os.fsdecode(data[at - length : at].rstrip(b"\0"))
                if path == self._end:
                    return
                self._note(path)
                if path.is_dir() and path not in self._folders.values():
                    self._follow(path)
