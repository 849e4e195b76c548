"""Records what each first call imports on the event loop's thread: ``python -m tests.support.importing URL CALL...``.

Every call runs in a fork that has imported only what connecting imports.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from contextlib import suppress

from benchmarks.first_calls import CALLS, Call
from iftb_store import DatabaseManager, Unsupported


async def imported_by(db: DatabaseManager, call: Call) -> list[str]:
    """Return the modules of other packages that a call imports while the event loop waits, in their order."""
    loop_thread = threading.get_ident()
    imported: list[str] = []
    is_calling = False

    def record(event: str, arguments: tuple[object, ...]) -> None:
        if event == "import" and is_calling and threading.get_ident() == loop_thread:
            imported.append(str(arguments[0]))

    async with db:
        sys.addaudithook(record)
        is_calling = True
        with suppress(Unsupported):
            await call(db)
        is_calling = False
    return [name for name in imported if _is_foreign(name)]


def _is_foreign(name: str) -> bool:
    root = name.partition(".")[0]
    return root not in sys.stdlib_module_names and not root.startswith("iftb_store") and root != "benchmarks"


def main(url: str, *names: str) -> None:
    """Print, as JSON, what each of these calls imported, with the name of its error, if any."""
    db = DatabaseManager(url)
    found: dict[str, list[str]] = {}
    for name in names:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                imported = asyncio.run(imported_by(db, CALLS[name]))
            except BaseException as error:
                # the child must not return from the fork
                imported = [repr(error)]
            os.write(writer, json.dumps(imported).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            found[name] = json.load(answer)
        os.waitpid(child, 0)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
