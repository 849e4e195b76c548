"""A TCP proxy in front of a PostgreSQL server that a test can silence, close or make drop messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from sqlalchemy import URL, make_url

_COMMIT = b"COMMIT;\0"
_COMMITTED = b"COMMIT\0"


class Wire:
    """Forwards bytes between asyncpg and the server.

    Attributes:
        turns_away: new connections are closed at once; ``turned_away`` counts them.
        is_silent: no bytes are forwarded in either direction.
        drops_commits: connections are cut when a COMMIT passes: None, "before" the server has it, or "after" its answer.
    """

    def __init__(self, server: URL) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()
        self.turns_away = False
        self.turned_away = asyncio.Event()
        self.is_silent = False
        self.drops_commits: str | None = None
        self.commits_dropped = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of a client."""
        if self.turns_away:
            self.turned_away.set()
            writer.close()
            return
        host = self._server.query.get("host", self._server.host or "localhost")
        port = self._server.port or 5432
        if str(host).startswith("/"):
            up_reader, up_writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            up_reader, up_writer = await asyncio.open_connection(str(host), port)

        async def to_server(data: bytes) -> bool:
            if self.is_silent:
                return True
            if self.drops_commits == "before" and _COMMIT in data:
                self.commits_dropped += 1
                return False
            up_writer.write(data)
            return True

        async def to_client(data: bytes) -> bool:
            if self.is_silent:
                return True
            if self.drops_commits == "after" and _COMMITTED in data:
                self.commits_dropped += 1
                return False
            writer.write(data)
            return True

        ways = [asyncio.ensure_future(_pass_on(*way)) for way in ((reader, to_server), (up_reader, to_client))]
        self._tasks.update(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, up_writer):
            end.transport.abort()

    async def end(self) -> None:
        """Wait until all bytes are forwarded."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def wire(server_url: str, **options: str) -> AsyncIterator[tuple[Wire, str]]:
    """Open a proxy to a server; yield it and the URL through it."""
    url = make_url(server_url)
    passing = Wire(url)
    listener = await asyncio.start_server(passing.accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    through = url.set(host="127.0.0.1", port=port, query={"sslmode": "disable", **options})
    try:
        yield passing, through.render_as_string(hide_password=False)
    finally:
        listener.close()
        await passing.end()


async def _pass_on(reader: asyncio.StreamReader, send: Callable[[bytes], Awaitable[bool]]) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            if not await send(data):
                return
