"""Checks the server's messages while a client logs in, before asyncpg answers them.

A password is sent in clear text only over TLS, and no request of the server may block the event loop. asyncpg has no hook for
these checks, but it accepts an event loop and opens its connections with the methods of that loop.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from typing import Any

from asyncpg.protocol import Protocol as DriverProtocol

_AUTHENTICATION, _READY_FOR_QUERY = b"R"[0], b"Z"[0]
_CLEARTEXT_PASSWORD, _SASL_CONTINUE = 3, 11
# the bytes of a message's type and length
_HEADER = 5
# read as asyncpg reads it; PostgreSQL's default is 4,096 rounds, and a million take about half a second, in which the event loop
# is blocked
_ITERATIONS, _MOST_ITERATIONS = re.compile(rb",i=(\d+)"), 1_000_000
# far more than a server has to send before it admits a client; asyncpg itself would buffer two gigabytes
_LONGEST = 1_048_576

_ASKED_FOR_CLEARTEXT = (
    "the server asks for the password in clear text on a connection without TLS, so it was not sent; set up TLS on the server "
    "(sslmode=verify-full), or scram-sha-256 in its pg_hba.conf, or write sslmode=disable into the URL if nobody else can read "
    "or answer on this network"
)
_ASKED_FOR_TOO_MUCH = (
    f"the server asks for more than {_MOST_ITERATIONS:,} rounds of SCRAM, which would block this process for a long time; "
    "lower scram_iterations on the server, then set the role's password again"
)
_NO_POSTGRESQL = "the server does not speak PostgreSQL's protocol; check the host and the port in the URL"


class GuardedLoop:
    """Wraps the running event loop for one `asyncpg.connect`, and guards the TCP connections that asyncpg opens.

    Connections over Unix sockets are not guarded.

    Attributes:
        refusal: the reason why a connection was ended, or None.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, clear_text: bool) -> None:
        self._loop = loop
        self._clear_text = clear_text
        self.refusal: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], *address: Any, ssl: ssl.SSLContext | None = None, **options: Any
    ) -> tuple[Any, Any]:
        """Open a TCP connection on which a guard checks the server's messages."""
        clear_text = self._clear_text or ssl is not None

        def guarded() -> asyncio.Protocol:
            protocol = factory()
            return _Guard(self, protocol, clear_text) if isinstance(protocol, DriverProtocol) else protocol

        transport, protocol = await self._loop.create_connection(guarded, *address, ssl=ssl, **options)
        if isinstance(protocol, _Guard):
            return transport, protocol.guarded
        # asyncpg first asks whether the server supports TLS; if not, asyncpg continues on the same transport
        return _Transport(self, transport, clear_text), protocol

    async def start_tls(self, transport: Any, *arguments: Any, **options: Any) -> Any:
        """Encrypt a connection that `create_connection` opened."""
        encrypted = await self._loop.start_tls(transport.bare, *arguments, **options)
        return encrypted and _Transport(self, encrypted, clear_text=True)


class _Transport:
    """A transport that inserts a guard in front of asyncpg's protocol when asyncpg sets the protocol."""

    def __init__(self, loop: GuardedLoop, transport: asyncio.Transport, clear_text: bool) -> None:
        self._loop = loop
        self._clear_text = clear_text
        self.bare = transport
        # bound here and not found by __getattr__, because each statement calls it
        self.write = transport.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)

    def set_protocol(self, protocol: Any) -> None:
        """Pass received data to ``protocol``, through a guard if it is asyncpg's."""
        is_driver = isinstance(protocol, DriverProtocol)
        self.bare.set_protocol(_Guard(self._loop, protocol, self._clear_text, self.bare) if is_driver else protocol)


class _Guard(asyncio.Protocol):
    """Checks each message of the login and passes it to asyncpg; removes itself when the server is ready for a query.

    The guard continues after AuthenticationOk, because asyncpg also answers a later request for a password.
    """

    def __init__(self, loop: GuardedLoop, guarded: Any, clear_text: bool, transport: Any = None) -> None:
        self.guarded = guarded
        self._loop = loop
        self._clear_text = clear_text
        self._transport = transport
        self._received = bytearray()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.guarded.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (length := self._read_length()) is not None:
            message = bytes(self._received[:length])
            del self._received[:length]
            if message[0] == _AUTHENTICATION and (reason := self._objection(message)) is not None:
                self._refuse(reason)
                return
            self.guarded.data_received(message)
            if message[0] == _READY_FOR_QUERY:
                self._step_aside()
                return

    def _objection(self, message: bytes) -> str | None:
        code = int.from_bytes(message[_HEADER : _HEADER + 4], "big")
        if code == _CLEARTEXT_PASSWORD and not self._clear_text:
            return _ASKED_FOR_CLEARTEXT
        if code == _SASL_CONTINUE and (found := _ITERATIONS.search(message)):
            # the number may have too many digits for int()
            digits = found[1].lstrip(b"0")
            if len(digits) > len(str(_MOST_ITERATIONS)) or int(digits or b"0") > _MOST_ITERATIONS:
                return _ASKED_FOR_TOO_MUCH
        return None

    def _read_length(self) -> int | None:
        """Return the length of the first message, or None if part of the message is missing."""
        if len(self._received) < _HEADER:
            return None
        length = 1 + int.from_bytes(self._received[1:_HEADER], "big")
        if not _HEADER <= length <= _LONGEST:
            self._refuse(_NO_POSTGRESQL)
            return None
        return length if len(self._received) >= length else None

    def _refuse(self, reason: str) -> None:
        self._loop.refusal = reason
        self._received.clear()
        self._transport.abort()

    def _step_aside(self) -> None:
        self._transport.set_protocol(self.guarded)
        if self._received:
            self.guarded.data_received(bytes(self._received))

    def connection_lost(self, exc: Exception | None) -> None:
        self.guarded.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self.guarded.eof_received()  # type: ignore[no-any-return]

    def pause_writing(self) -> None:
        self.guarded.pause_writing()

    def resume_writing(self) -> None:
        self.guarded.resume_writing()
