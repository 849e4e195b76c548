"""Runs work to its end despite a cancellation, and imports modules in a thread so that the event loop stays free."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Coroutine
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from iftb_store._io.gc_pause import pause_gc

T = TypeVar("T")

# the shared libraries of pyarrow, each after those that it needs
_ARROW_LIBRARIES = ("libarrow.so*", "libarrow_compute.so*", "libarrow_python.so*")

_imported: set[str] = set()


async def import_modules(*names: str) -> None:
    """Import modules in a thread, once each, because pyarrow or Alembic takes a tenth of a second or more.

    A later import statement then finds the modules loaded. That statement must not run before this function has returned: Python
    locks each module during its import, so the statement would block the event loop until the thread is done.
    """
    for name in names:
        if name not in _imported:
            await asyncio.to_thread(_import, name)
            _imported.add(name)


def _import(name: str) -> None:
    """Import a module without full garbage collections, each of which would hold the GIL, and so block the event loop."""
    with pause_gc():
        if name == "pyarrow":
            _load_arrow_libraries()
        module = import_module(name)
        if name == "pyarrow":
            # imports pandas, if it is installed, which pyarrow does when it first makes an array
            module.array([0])


def _load_arrow_libraries() -> None:
    """Load pyarrow's shared libraries without the GIL; ``import pyarrow`` would hold it meanwhile and so block the event loop.

    The function does nothing on systems on which the libraries have other names.
    """
    spec = find_spec("pyarrow")
    if spec is None or spec.origin is None:
        return
    for pattern in _ARROW_LIBRARIES:
        for library in Path(spec.origin).parent.glob(pattern):
            with suppress(OSError):
                ctypes.CDLL(str(library))


async def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Wait until ``work`` has finished, even if this task is cancelled; return the result, or then raise the cancellation."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()
        raise cancelled
    return task.result()
