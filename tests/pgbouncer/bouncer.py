"""A PgBouncer for a run, with Debian's defaults except its port, users and mode."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from sqlalchemy import URL, make_url

# the user as whom Debian's package runs it
_USER = "postgres"
_STARTED_WITHIN = 20.0


@dataclass(frozen=True)
class Bouncer:
    """A running PgBouncer.

    Attributes:
        url: URL through it, without a database.
        log: the file that it writes.
    """

    url: URL
    log: Path

    def through(self, database: str, **options: str) -> str:
        """Return the URL of a database through it."""
        return self.url.set(database=make_url(database).database, query=options).render_as_string(hide_password=False)


@contextmanager
def running(server_url: str, mode: str, **settings: str) -> Iterator[Bouncer]:
    """Run a PgBouncer in front of a server for the duration of a block."""
    server = make_url(server_url)
    parameters = {
        "host": server.query.get("host", server.host or "localhost"),
        "port": server.port or 5432,
        "user": server.username,
        "password": server.password,
    }
    port = _free_port()
    options = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        # no client needs a password; the server gets the one of the line above
        "auth_type": "any",
        "pool_mode": mode,
        **settings,
    }
    folder = Path(tempfile.mkdtemp(prefix="iftb-store-bouncer-"))
    ini = folder / "pgbouncer.ini"
    database = " ".join(f"{name}={value}" for name, value in parameters.items() if value)
    lines = ["[databases]", f"* = {database}", "[pgbouncer]", *(f"{name} = {value}" for name, value in options.items())]
    ini.write_text("\n".join(lines) + "\n")
    ini.chmod(0o600)
    user = _unprivileged(str(parameters["host"])) if os.geteuid() == 0 else None
    if user is not None:
        for path in (folder, ini):
            shutil.chown(path, user)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["pgbouncer", str(ini)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=user)
    try:
        _wait_until_listening(process, port, folder / "log")
        yield Bouncer(server.set(host="127.0.0.1", port=port, database=None, query={}), folder / "log")
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _unprivileged(host: str) -> str:
    """Return the user to run it as, as it refuses root: the server's user, who may be the only one with access to its socket."""
    return Path(host, ".s.PGSQL.5432").owner() if host.startswith("/") else _USER


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = monotonic() + _STARTED_WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or monotonic() > end:
                raise RuntimeError(f"PgBouncer did not start: {log.read_text()}") from None
            sleep(0.05)
        else:
            return
