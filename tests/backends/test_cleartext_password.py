"""A server without TLS that asks for the password in clear text does not get it, whatever the pieces and order of its request."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager
from tests.support.scripted_server import (
    CLEARTEXT,
    LETS_IN,
    NOTICE,
    READY,
    REFUSAL,
    Step,
    authentication,
    message,
    scripted,
    scripted_socket,
)

SECRET = b"s3ntinel"
REMEDY = "so it was not sent; set up TLS on the server"


@pytest.fixture(autouse=True)
def no_settings_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGPASSWORD", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)


def url(port: int, options: str = "", password: str = SECRET.decode()) -> str:
    return f"postgresql://bot:{password}@127.0.0.1:{port}/bot?connect_timeout=20{options}"


async def refusal(address: str) -> str:
    with pytest.raises(OperationalError) as caught:
        await DatabaseManager(address).connect()
    return str(caught.value)


@pytest.mark.parametrize("options", ["", "&sslmode=prefer", "&sslmode=allow"])
async def test_a_password_in_clear_text_is_not_sent_without_tls(options: str) -> None:
    async with scripted(CLEARTEXT, None, REFUSAL) as server:
        said = await refusal(url(server.port, options))
    assert REMEDY in said
    assert "sslmode=disable" in said
    assert SECRET not in server.heard


SCRIPTS = {
    "byte by byte": [bytes([byte]) for byte in CLEARTEXT],
    "in two pieces, the code apart": [CLEARTEXT[:8], CLEARTEXT[8:]],
    "after a notice, in one piece": [NOTICE + CLEARTEXT],
    "after a notice that is cut in the middle": [NOTICE[:7], NOTICE[7:] + CLEARTEXT[:3], CLEARTEXT[3:]],
    "with bytes that belong to no message of its kind": [authentication(3, b"more")],
    "after it has let the client in": [LETS_IN + CLEARTEXT],
    "after it has let the client in, apart": [LETS_IN, CLEARTEXT],
    "after MD5": [authentication(5, b"salt"), None, CLEARTEXT],
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_the_demand_is_found_in_whatever_pieces_it_comes(script: list[bytes | None]) -> None:
    async with scripted(*script, None, REFUSAL) as server:
        said = await refusal(url(server.port))
    assert REMEDY in said
    assert SECRET not in server.heard


async def test_a_password_from_a_passfile_is_not_sent_either(tmp_path: Path) -> None:
    file = tmp_path / "pass"
    file.write_text(f"*:*:*:*:{SECRET.decode()}\n")
    file.chmod(0o600)
    async with scripted(CLEARTEXT, None, REFUSAL) as server:
        assert REMEDY in await refusal(f"postgresql://bot@127.0.0.1:{server.port}/bot?passfile={file}")
    assert SECRET not in server.heard


async def test_sslmode_disable_in_the_url_says_that_it_may_be_sent() -> None:
    async with scripted(CLEARTEXT, None, REFUSAL) as server:
        assert "the password was refused" in await refusal(url(server.port, "&sslmode=disable"))
    assert SECRET in server.heard


async def test_the_environment_does_not_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "disable")
    async with scripted(CLEARTEXT, None, REFUSAL) as server:
        assert REMEDY in await refusal(url(server.port))
    assert SECRET not in server.heard


async def test_a_unix_socket_is_no_network(tmp_path: Path) -> None:
    async with scripted_socket(str(tmp_path), CLEARTEXT, None, REFUSAL) as server:
        said = await refusal(f"postgresql://bot:{SECRET.decode()}@/bot?host={tmp_path}")
        assert "the password was refused" in said
    assert SECRET in server.heard


def tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.mark.parametrize("options", ["", "&sslmode=require", "&sslmode=require&sslnegotiation=postgres"])
async def test_over_tls_the_password_may_be_asked_for(options: str) -> None:
    async with scripted(CLEARTEXT, None, REFUSAL, tls=tls_context()) as server:
        said = await refusal(url(server.port, options))
    assert "the password was refused" in said
    assert SECRET in server.heard


async def test_over_tls_from_the_first_byte_it_may_be_asked_for() -> None:
    context = tls_context()
    context.set_alpn_protocols(["postgresql"])
    async with scripted(CLEARTEXT, None, REFUSAL, tls=context, at_once=True) as server:
        assert "the password was refused" in await refusal(url(server.port, "&sslmode=require&sslnegotiation=direct"))
    assert SECRET in server.heard


async def test_a_demand_in_one_piece_with_an_error_is_not_answered() -> None:
    async with scripted(REFUSAL + CLEARTEXT, None) as server:
        assert "the password was refused" in await refusal(url(server.port))
    assert SECRET not in server.heard


async def test_allow_switches_to_tls_if_the_password_would_pass_in_clear_text() -> None:
    async with scripted(CLEARTEXT, None, REFUSAL, tls=tls_context()) as server:
        await refusal(url(server.port, "&sslmode=allow"))
    assert server.connections == 2
    # in the second connection, which is encrypted
    assert server.heard.count(SECRET) == 1


async def test_md5_is_answered_without_tls_as_the_password_itself_does_not_pass() -> None:
    async with scripted(authentication(5, b"salt"), None, REFUSAL) as server:
        assert "the password was refused" in await refusal(url(server.port))
    assert b"md5" in server.heard
    assert SECRET not in server.heard


def rounds_of_scram(count: bytes) -> Step:
    """Return the step that asks for so many rounds, with the client's nonce."""

    def challenge(heard: bytes) -> bytes:
        nonce = heard.rpartition(b",r=")[2]
        return authentication(11, b"r=" + nonce + b"more,s=c2FsdA==,i=" + count)

    return challenge


@pytest.mark.parametrize("count", [b"2147483647", b"1000001", b"9" * 5_000, b"0" * 300 + b"2147483647", b"2147483647,x=1,i=1"])
@pytest.mark.parametrize("options", ["", "&sslmode=disable", "&sslmode=require"])
async def test_endless_rounds_of_scram_are_refused(options: str, count: bytes) -> None:
    tls = tls_context() if "require" in options else None
    async with scripted(authentication(10, b"SCRAM-SHA-256\0\0"), None, rounds_of_scram(count), tls=tls) as server:
        assert "more than 1,000,000 rounds of SCRAM" in await refusal(url(server.port, options))


async def test_many_rounds_of_scram_are_answered() -> None:
    async with scripted(authentication(10, b"SCRAM-SHA-256\0\0"), None, rounds_of_scram(b"60000"), None, REFUSAL) as server:
        assert "the password was refused" in await refusal(url(server.port))
    assert b",p=" in server.heard


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"R\0\0\0\x03", b"N" + (2**31 - 1).to_bytes(4, "big")],
    ids=["another protocol", "a length below its own four bytes", "a message of two gigabytes"],
)
async def test_what_does_not_speak_the_protocol_is_named(answer: bytes) -> None:
    async with scripted(answer, None) as server:
        assert "does not speak PostgreSQL's protocol; check the host and the port" in await refusal(url(server.port))


async def test_messages_of_a_server_before_login_arrive_complete_in_any_pieces() -> None:
    greeting = NOTICE + message(b"v", bytes(8)) + LETS_IN + READY
    for size in (1, 2, 5, 11, len(greeting)):
        pieces = [greeting[start : start + size] for start in range(0, len(greeting), size)]
        async with scripted(*pieces, None) as server:
            # a statement follows, which this server does not answer
            connecting = asyncio.ensure_future(DatabaseManager(url(server.port)).connect())
            while b"BEGIN" not in server.heard:
                assert not connecting.done(), connecting
                await asyncio.sleep(0)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
