"""Whether a connection to PostgreSQL is encrypted and its server verified: in the health, in status, and in one warning."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path

import pytest
import trustme
from sqlalchemy import make_url

import iftb_store_postgres.tls
from iftb_store import DatabaseManager
from iftb_store.cli import main
from tests.backends.test_tls import fronted, server_context, works

MODES = {
    "prefer": (True, False),
    "require": (True, False),
    "verify-ca": (True, False),
    "verify-full": (True, True),
    "disable": (False, False),
}


@pytest.fixture(autouse=True)
def no_settings_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("mode", "expected"), MODES.items())
async def test_the_health_reports_what_tls_does(
    postgres_url: str, tmp_path: Path, mode: str, expected: tuple[bool, bool]
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options = {"sslrootcert": tmp_path / "ca.pem"} if mode.startswith("verify") else {}
    context = server_context(authority.issue_cert("localhost"))
    async with fronted(postgres_url, context) as front, DatabaseManager(front.url(sslmode=mode, **options)) as db:
        found = await db.health()
        assert (found.encrypted, found.verified) == expected
        assert db.in_use == 0


async def test_the_health_reports_that_a_server_has_no_tls(postgres_url: str) -> None:
    async with fronted(postgres_url, None) as front, DatabaseManager(front.url()) as db:
        found = await db.health()
    assert (found.encrypted, found.verified) == (False, False)


def test_status_shows_it(postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", postgres_url]) == 0
    capsys.readouterr()
    assert main(["status", postgres_url]) == 0
    text = capsys.readouterr().out
    assert main(["status", postgres_url, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "encrypted no\n" in text
    assert "verified  no\n" in text
    assert (found["encrypted"], found["verified"]) == (False, False)


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
def test_a_file_has_no_connection_to_encrypt(
    request: pytest.FixtureRequest, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    assert main(["migrate", url]) == 0
    capsys.readouterr()
    assert main(["status", url]) == 0
    assert "encrypted" not in capsys.readouterr().out
    assert main(["status", url, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["encrypted"], found["verified"]) == (None, None)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log of a process that has made no connection yet."""
    monkeypatch.setattr(iftb_store_postgres.tls, "_warned", False)
    return caplog


def own_address() -> str:
    """Return a non-loopback address of this machine: the one that outgoing packets would use."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way_out:
        try:
            # nothing is sent
            way_out.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(way_out.getsockname()[0])


@pytest.mark.parametrize("mode", ["prefer", "disable"])
async def test_one_warning_a_process_of_a_connection_over_a_network_without_tls(
    postgres_url: str, warned: pytest.LogCaptureFixture, mode: str
) -> None:
    address = own_address()
    async with fronted(postgres_url, None, address) as front:
        for _ in range(2):
            await works(make_url(front.url(sslmode=mode)).set(host=address).render_as_string(hide_password=False))
    (record,) = warned.records
    assert record.levelno == logging.WARNING
    assert f"the connection to PostgreSQL at {address} is not encrypted" in record.getMessage()
    assert "sslmode=verify-full" in record.getMessage()


async def test_no_warning_if_it_is_encrypted(postgres_url: str, warned: pytest.LogCaptureFixture) -> None:
    address = own_address()
    async with fronted(postgres_url, server_context(trustme.CA().issue_cert(address)), address) as front:
        await works(make_url(front.url()).set(host=address).render_as_string(hide_password=False))
    assert warned.records == []


async def test_no_warning_of_loopback(postgres_url: str, warned: pytest.LogCaptureFixture) -> None:
    async with fronted(postgres_url, None) as front:
        await works(front.url())
    assert warned.records == []


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
async def test_no_warning_of_a_unix_socket(postgres_url: str, warned: pytest.LogCaptureFixture) -> None:
    if not isinstance(make_url(postgres_url).query.get("host"), str):
        pytest.skip("the test server is reached over TCP")
    await works(postgres_url)
    assert warned.records == []
