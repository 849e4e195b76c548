"""A PostgreSQL server that sends a test's script, in pieces if needed, and records all that it receives."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

#: One step: bytes to send, or a function of all received bytes; None waits for the client's next message.
Step = bytes | Callable[[bytes], bytes] | None

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


def message(kind: bytes, body: bytes) -> bytes:
    """Return a message of the protocol."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def authentication(code: int, rest: bytes = b"") -> bytes:
    """Return an Authentication message: 0 lets the client in, 3 asks for the password in clear text, 5 for MD5."""
    return message(b"R", code.to_bytes(4, "big") + rest)


NOTICE = message(b"N", b"SNOTICE\0C00000\0Mwelcome\0\0")
CLEARTEXT = authentication(3)
LETS_IN = authentication(0)
READY = message(b"S", b"server_version\x0017.0\0") + message(b"K", bytes(8)) + message(b"Z", b"I")
REFUSAL = message(b"E", b"SFATAL\0C28P01\0Mrefused\0\0")


@dataclass
class ScriptedServer:
    """Listens on one port.

    Attributes:
        script: what it sends after the client's first message, each step by itself.
        tls: the context for an SSLRequest; None refuses TLS.
        heard: all that clients sent after their first messages.
        connections: how many of them there were.
    """

    script: Sequence[Step]
    tls: ssl.SSLContext | None = None
    heard: bytes = b""
    connections: int = 0
    port: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._serve(reader, writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(8)
        if first == _SSL_REQUEST:
            writer.write(b"N" if self.tls is None else b"S")
            if self.tls is not None:
                await writer.start_tls(self.tls)
            first = await reader.readexactly(8)
        await reader.readexactly(int.from_bytes(first[:4], "big") - 8)
        for piece in self.script:
            if piece is None:
                self.heard += await reader.read(65_536)
                continue
            writer.write(piece(self.heard) if callable(piece) else piece)
            await writer.drain()
            # the next piece is sent separately: after a turn of the loop, in which the client runs too
            for _ in range(3):
                await asyncio.sleep(0)
        while data := await reader.read(65_536):
            self.heard += data


@asynccontextmanager
async def scripted(*script: Step, tls: ssl.SSLContext | None = None, at_once: bool = False) -> AsyncIterator[ScriptedServer]:
    """Run a server for the duration of the block; with TLS ``at_once`` it does not wait for an SSLRequest."""
    server = ScriptedServer(script, tls)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls if at_once else None)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


@asynccontextmanager
async def scripted_socket(folder: str, *script: Step) -> AsyncIterator[ScriptedServer]:
    """Run a server on a Unix socket of ``folder`` for the duration of the block."""
    server = ScriptedServer(script)
    listening = await asyncio.start_unix_server(server.serve, f"{folder}/.s.PGSQL.5432")
    try:
        yield server
    finally:
        listening.close()
