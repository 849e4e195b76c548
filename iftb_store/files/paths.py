"""Finds the files that an argument of an import names, and copies stdin to a temporary file."""

from __future__ import annotations

import glob
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from iftb_store.errors import InvalidValueError
from iftb_store.files.formats import SUFFIXES, TEXT_FORMATS
from iftb_store.files.readers.binance import DumpError
from iftb_store.values import checks
from iftb_store.values.display import show, to_one_line

#: The argument that means stdin.
STDIN = "-"

_TEXTS = (".json", *(suffix for suffix, format in SUFFIXES.items() if format in TEXT_FORMATS))
#: The suffixes of the files that are taken out of a folder.
IMPORTED = (".zip", *dict.fromkeys((*SUFFIXES, *_TEXTS)), *(f"{suffix}.gz" for suffix in _TEXTS))


def find_paths(given: str | os.PathLike[str]) -> list[Path]:
    """Return the files that an argument names: one file, the files of a folder, or all files that match a pattern.

    Patterns are expanded here because not every shell expands them. A folder and the folders in it are searched for files that
    have a known suffix and are not hidden.

    Raises:
        InvalidValueError: there is no such file, or the path cannot be read.
    """
    pattern = checks.text(os.fspath(given), "the path of a file")
    if not pattern:
        raise InvalidValueError("the path of a file is empty; give a file name, e.g. BTCUSDT-1m-2024-02.zip")
    try:
        return _find_files(pattern)
    except OSError as error:
        # e.g. a name that is too long; a folder that this user may not read
        raise InvalidValueError(f"the path of a file {_quote(pattern)} cannot be read: {error.strerror}") from error


def _find_files(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.name.lower().endswith(IMPORTED) and file.is_file()]
        found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not found:
            raise InvalidValueError(
                f"{_quote(pattern)} is a folder without files to import; their names end in {', '.join(IMPORTED)}"
            )
        return found
    if path.exists():
        return [path]
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if not Path(name).is_dir()]  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not found:
        raise InvalidValueError(
            f"there is no file at the path {_quote(pattern)}; a database URL contains :// or starts with env:"
        )
    return found


def _quote(path: str) -> str:
    # without the quotation marks
    return show(to_one_line(path), 200)[1:-1]


class Stdin:
    """Copies stdin to a temporary file that only its owner can read, because an import reads a file more than once.

    Attributes:
        path: the file; it exists once `read` was called.
    """

    def __init__(self) -> None:
        self._folder: TemporaryDirectory[str] | None = None
        self.path = Path(STDIN)

    def read(self) -> Path:
        """Copy stdin to the temporary file, up to the end, and return the path of the file.

        Raises:
            InvalidValueError: stdin is closed, or was replaced by an object that is not a stream of bytes.
        """
        source = getattr(sys.stdin, "buffer", None)
        if source is None or source.closed:
            raise InvalidValueError("stdin is closed or not a stream of bytes; redirect a file to it, or give the name of a file")
        self._folder = TemporaryDirectory(prefix="iftb-store-")
        self.path = Path(self._folder.name) / "stdin"
        with self.path.open("wb") as file:
            shutil.copyfileobj(source, file)
        return self.path

    def get_given(self, path: Path) -> Path:
        """Return the path as the caller wrote it: ``-`` for the temporary copy of stdin, any other path unchanged."""
        return Path(STDIN) if path == self.path else path

    def name_stdin(self, message: str) -> str:
        """Replace the path of the temporary file in a message by the word stdin."""
        return message if self._folder is None else message.replace(str(self.path), "stdin")

    @contextmanager
    def rename_errors(self) -> Iterator[None]:
        """Replace the path of the temporary file by the word stdin in errors that the block raises."""
        try:
            yield
        except (InvalidValueError, DumpError) as error:
            if self._folder is None:
                raise
            kind = DumpError if isinstance(error, DumpError) else InvalidValueError
            raise kind(self.name_stdin(str(error))) from error

    def close(self) -> None:
        """Delete the temporary file."""
        if self._folder is not None:
            self._folder.cleanup()
