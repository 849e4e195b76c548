"""TLS to PostgreSQL: sslmode means what it means in libpq, tested with a TLS proxy in front of the server."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@dataclass
class Front:
    """A TLS proxy in front of the real server, which is built without TLS.

    Attributes:
        server: URL of the real server.
        tls: its certificate and requests; None refuses TLS, like a server without it.
        port: where it listens, on localhost.
        encrypted: connections that were upgraded.
        plain: connections that were not.
    """

    server: str
    tls: ssl.SSLContext | None
    port: int = 0
    encrypted: int = 0
    plain: int = 0

    def url(self, **options: object) -> str:
        """URL of the server through this proxy."""
        query = {name: str(value) for name, value in options.items()}
        return make_url(self.server).set(host="localhost", port=self.port, query=query).render_as_string(hide_password=False)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer SSLRequest, then pass bytes on in both directions."""
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(8)
        upgraded = False
        if first == _SSL_REQUEST:
            writer.write(b"N" if self.tls is None else b"S")
            if self.tls is not None:
                await writer.start_tls(self.tls)
                upgraded = True
            first = await reader.readexactly(8)
        self.encrypted += upgraded
        self.plain += not upgraded
        real_reader, real_writer = await self._real()
        real_writer.write(first)
        passing = [asyncio.ensure_future(_pass_on(reader, real_writer)), asyncio.ensure_future(_pass_on(real_reader, writer))]
        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        real_writer.close()
        writer.close()
        await asyncio.wait(passing)

    async def _real(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        url = make_url(self.server)
        folder = url.query.get("host")
        if isinstance(folder, str):
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{url.port or 5432}")
        return await asyncio.open_connection(url.host or "localhost", url.port or 5432)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def fronted(server: str, tls: ssl.SSLContext | None, host: str = "localhost") -> AsyncIterator[Front]:
    front = Front(server, tls)
    listening = await asyncio.start_server(front.serve, host, 0, family=socket.AF_INET)
    front.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield front


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The authority that signs the server's certificate."""
    return trustme.CA()


@pytest.fixture(scope="module")
def trusted(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file for sslrootcert."""
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture(autouse=True)
def no_certificates_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL"):
        monkeypatch.delenv(name, raising=False)


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture
async def front(postgres_url: str, authority: trustme.CA) -> AsyncIterator[Front]:
    """A TLS proxy with a valid certificate for localhost."""
    async with fronted(postgres_url, server_context(authority.issue_cert("localhost"))) as end:
        yield end


@pytest.fixture
async def without_tls(postgres_url: str) -> AsyncIterator[Front]:
    """A proxy that refuses TLS."""
    async with fronted(postgres_url, None) as end:
        yield end


async def works(url: str) -> None:
    async with DatabaseManager(url) as db, db.get_session() as session:
        assert (await session.execute(text("SELECT 1"))).scalar_one() == 1


async def refusal(url: str) -> str:
    with pytest.raises(OperationalError) as caught:
        await DatabaseManager(url).connect()
    return str(caught.value)


async def test_verify_full_accepts_the_trusted_authoritys_certificate_for_the_host(front: Front, trusted: Path) -> None:
    url = front.url(sslmode="verify-full", sslrootcert=trusted)
    async with DatabaseManager(url) as db:
        await db.migrate()
        assert (await db.status()).state == "current"
    assert (front.encrypted > 0, front.plain) == (True, 0)


async def test_verify_full_refuses_another_authority(postgres_url: str, trusted: Path) -> None:
    async with fronted(postgres_url, server_context(trustme.CA().issue_cert("localhost"))) as front:
        message = await refusal(front.url(sslmode="verify-full", sslrootcert=trusted))
    assert "the server's certificate was refused: " in message
    assert (front.encrypted, front.plain) == (0, 0)


async def test_verify_full_refuses_another_host_name(postgres_url: str, authority: trustme.CA, trusted: Path) -> None:
    async with fronted(postgres_url, server_context(authority.issue_cert("db.example"))) as front:
        message = await refusal(front.url(sslmode="verify-full", sslrootcert=trusted))
    assert "certificate was refused: Hostname mismatch, certificate is not valid for 'localhost'" in message
    assert (front.encrypted, front.plain) == (0, 0)


async def test_verify_full_refuses_an_expired_certificate(postgres_url: str, authority: trustme.CA, trusted: Path) -> None:
    expired = authority.issue_cert("localhost", not_after=datetime.now(UTC) - timedelta(days=1))
    async with fronted(postgres_url, server_context(expired)) as front:
        message = await refusal(front.url(sslmode="verify-full", sslrootcert=trusted))
    assert "certificate was refused: certificate has expired" in message
    assert (front.encrypted, front.plain) == (0, 0)


async def test_verify_ca_takes_another_host_name_and_refuses_another_authority(
    postgres_url: str, authority: trustme.CA, trusted: Path
) -> None:
    async with fronted(postgres_url, server_context(authority.issue_cert("db.example"))) as front:
        await works(front.url(sslmode="verify-ca", sslrootcert=trusted))
    assert (front.encrypted, front.plain) == (1, 0)
    async with fronted(postgres_url, server_context(trustme.CA().issue_cert("localhost"))) as other:
        assert "certificate was refused" in await refusal(other.url(sslmode="verify-ca", sslrootcert=trusted))
    assert (other.encrypted, other.plain) == (0, 0)


async def test_require_takes_any_certificate_if_no_authority_is_named(front: Front) -> None:
    await works(front.url(sslmode="require"))
    assert (front.encrypted, front.plain) == (1, 0)


async def test_require_with_an_authority_is_verify_ca_as_libpq_has_it(postgres_url: str, trusted: Path) -> None:
    async with fronted(postgres_url, server_context(trustme.CA().issue_cert("localhost"))) as front:
        assert "certificate was refused" in await refusal(front.url(sslmode="require", sslrootcert=trusted))


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_who_requires_tls_sends_nothing_to_a_server_without(without_tls: Front, trusted: Path, mode: str) -> None:
    assert "rejected SSL upgrade" in await refusal(without_tls.url(sslmode=mode, sslrootcert=trusted))
    assert without_tls.plain == 0


@pytest.mark.parametrize("options", [{"sslmode": "prefer"}, {}])
async def test_prefer_the_default_uses_tls_if_it_is_offered(front: Front, options: dict[str, str]) -> None:
    await works(front.url(**options))
    assert (front.encrypted, front.plain) == (1, 0)


async def test_prefer_continues_without_tls_if_it_is_not_offered(without_tls: Front) -> None:
    await works(without_tls.url(sslmode="prefer"))
    assert (without_tls.encrypted, without_tls.plain) == (0, 1)


@pytest.mark.parametrize("mode", ["disable", "allow"])
async def test_disable_and_allow_connect_without_tls(front: Front, mode: str) -> None:
    await works(front.url(sslmode=mode))
    assert (front.encrypted, front.plain) == (0, 1)


async def test_a_client_shows_its_certificate(postgres_url: str, authority: trustme.CA, trusted: Path, tmp_path: Path) -> None:
    context = server_context(authority.issue_cert("localhost"))
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    client = authority.issue_cert("bot@client.example")
    client.private_key_pem.write_to_path(tmp_path / "bot.key")
    client.cert_chain_pems[0].write_to_path(tmp_path / "bot.crt")
    async with fronted(postgres_url, context) as front:
        server = {"sslmode": "verify-full", "sslrootcert": trusted}
        await works(front.url(**server, sslcert=tmp_path / "bot.crt", sslkey=tmp_path / "bot.key"))
        assert (front.encrypted, front.plain) == (1, 0)
        await refusal(front.url(**server))
        assert (front.encrypted, front.plain) == (1, 0)


@pytest.mark.parametrize("option", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
async def test_a_file_that_is_not_there_is_named(front: Front, trusted: Path, tmp_path: Path, option: str) -> None:
    options = {"sslrootcert": trusted, "sslcert": trusted, option: tmp_path / "absent.pem"}
    message = await refusal(front.url(sslmode="verify-full", **options))
    assert f"{option} {tmp_path / 'absent.pem'}: No such file" in message


async def test_a_file_that_holds_no_certificate_is_named(front: Front, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    message = await refusal(front.url(sslmode="verify-full", sslrootcert=tmp_path / "ca.pem"))
    assert f"{tmp_path / 'ca.pem'}" in message


async def test_verification_without_an_authority_says_which_option_is_required(front: Front) -> None:
    assert "sslrootcert" in await refusal(front.url(sslmode="verify-full"))
