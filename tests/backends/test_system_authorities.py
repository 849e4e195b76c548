"""sslrootcert=system: the authorities that the operating system trusts, here those of the variable that OpenSSL reads."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from iftb_store import DatabaseManager, URLError
from tests.backends.test_tls import Front, fronted, refusal, server_context, works


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """The only authority that this system trusts."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "system.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.fixture
async def front(postgres_url: str, authority: trustme.CA) -> AsyncIterator[Front]:
    """A TLS proxy with a certificate for localhost that the system trusts."""
    async with fronted(postgres_url, server_context(authority.issue_cert("localhost"))) as end:
        yield end


@pytest.mark.parametrize("options", [{}, {"sslmode": "verify-full"}])
async def test_a_certificate_of_the_system_s_authorities_is_taken(front: Front, options: dict[str, str]) -> None:
    await works(front.url(sslrootcert="system", **options))
    assert (front.encrypted, front.plain) == (1, 0)


@pytest.mark.usefixtures("authority")
async def test_a_certificate_of_another_authority_is_refused(postgres_url: str) -> None:
    async with fronted(postgres_url, server_context(trustme.CA().issue_cert("localhost"))) as front:
        assert "the server's certificate was refused: " in await refusal(front.url(sslrootcert="system"))
    assert (front.encrypted, front.plain) == (0, 0)


async def test_a_certificate_for_another_host_is_refused(postgres_url: str, authority: trustme.CA) -> None:
    async with fronted(postgres_url, server_context(authority.issue_cert("db.example"))) as front:
        assert "not valid for 'localhost'" in await refusal(front.url(sslrootcert="system"))
    assert (front.encrypted, front.plain) == (0, 0)


@pytest.mark.usefixtures("authority")
async def test_a_server_without_tls_is_refused(postgres_url: str) -> None:
    async with fronted(postgres_url, None) as front:
        assert "rejected SSL upgrade" in await refusal(front.url(sslrootcert="system"))
    assert front.plain == 0


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca"])
def test_less_than_verify_full_is_refused_as_libpq_does(mode: str) -> None:
    with pytest.raises(URLError, match=f"sslmode={mode} is too weak for sslrootcert=system.*use sslmode=verify-full"):
        DatabaseManager(f"postgresql://bot@db.example/bot?sslmode={mode}&sslrootcert=system")


async def test_a_client_s_certificate_is_shown_beside_it(postgres_url: str, authority: trustme.CA, tmp_path: Path) -> None:
    context = server_context(authority.issue_cert("localhost"))
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    client = authority.issue_cert("bot@client.example")
    client.private_key_pem.write_to_path(tmp_path / "bot.key")
    client.cert_chain_pems[0].write_to_path(tmp_path / "bot.crt")
    async with fronted(postgres_url, context) as front:
        await works(front.url(sslrootcert="system", sslcert=tmp_path / "bot.crt", sslkey=tmp_path / "bot.key"))
        assert (front.encrypted, front.plain) == (1, 0)
        await refusal(front.url(sslrootcert="system"))


async def test_a_client_s_certificate_that_is_not_there_is_named(front: Front, tmp_path: Path) -> None:
    absent = tmp_path / "absent.pem"
    assert f"sslcert {absent}: No such file" in await refusal(front.url(sslrootcert="system", sslcert=absent))


@pytest.mark.parametrize(
    ("option", "works_with"), [("ssl_min_protocol_version", "TLSv1.3"), ("ssl_max_protocol_version", "TLSv1.2")]
)
async def test_versions_of_tls_are_kept_to(front: Front, option: str, works_with: str) -> None:
    await works(front.url(sslrootcert="system", **{option: works_with}))
    assert "is not a TLS version" in await refusal(front.url(sslrootcert="system", **{option: "TLSv9"}))
