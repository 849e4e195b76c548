"""TLS features that asyncpg lacks: the system's certificate authorities, and a check whether a connection is encrypted."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import asyncpg

from iftb_store.errors import URLError
from iftb_store.health import Encryption

#: The value of ``sslrootcert`` that selects the certificate authorities that the operating system trusts.
SYSTEM = "system"

_LEAST_VERSION = "TLSv1.2"

_log = logging.getLogger(__name__)
_warned = False


def check_system_authorities(options: dict[str, str]) -> None:
    """Require ``sslmode=verify-full`` with ``sslrootcert=system``, and make it the default, as libpq does.

    The system's certificate authorities sign certificates for anyone, so the host name must be verified.

    Raises:
        URLError: the URL sets another sslmode.
    """
    if options.get("sslrootcert") == SYSTEM and options.setdefault("sslmode", "verify-full") != "verify-full":
        raise URLError(
            f"sslmode={options['sslmode']} is too weak for sslrootcert=system, whose authorities sign certificates for anyone; "
            "use sslmode=verify-full"
        )


def make_system_context(options: Mapping[str, str], key_password: str) -> ssl.SSLContext:
    """Return asyncpg's TLS context for verify-full, but with the system's certificate authorities; this reads files.

    Raises:
        OSError: a file that the options name cannot be read or used.
        asyncpg.ClientConfigurationError: a TLS version is unknown.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    home = Path.home() / ".postgresql"
    revoked = options.get("sslcrl") or os.environ.get("PGSSLCRL") or _existing(home / "root.crl")
    if revoked:
        context.load_verify_locations(cafile=revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    certificate = options.get("sslcert") or os.environ.get("PGSSLCERT") or _existing(home / "postgresql.crt")
    if certificate:
        key = options.get("sslkey") or os.environ.get("PGSSLKEY") or _existing(home / "postgresql.key")
        context.load_cert_chain(certificate, key, lambda: key_password)
    least = options.get("ssl_min_protocol_version") or os.environ.get("PGSSLMINPROTOCOLVERSION") or _LEAST_VERSION
    context.minimum_version = _version(least)
    if most := options.get("ssl_max_protocol_version") or os.environ.get("PGSSLMAXPROTOCOLVERSION"):
        context.maximum_version = _version(most)
    context.set_alpn_protocols(["postgresql"])
    return context


def _existing(path: Path) -> str | None:
    return str(path) if path.exists() else None


def _version(name: str) -> ssl.TLSVersion:
    try:
        return ssl.TLSVersion[name.replace(".", "_")]
    except KeyError:
        raise asyncpg.ClientConfigurationError(f"{name[:20]!r} is not a TLS version; write TLSv1.2 or TLSv1.3") from None


def read_encryption(connection: Any) -> Encryption:
    """Return whether an asyncpg connection is encrypted, and whether the server's certificate and host name are verified."""
    tls = connection._transport.get_extra_info("ssl_object")
    if tls is None:
        return Encryption(encrypted=False, verified=False)
    context = tls.context
    return Encryption(encrypted=True, verified=context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname)


def warn_of_plaintext(connection: Any) -> None:
    """Log once per process that a connection over a network is not encrypted."""
    global _warned
    transport = connection._transport
    if _warned or transport.get_extra_info("ssl_object") is not None or _is_local(transport):
        return
    _warned = True
    _log.warning(
        "the connection to PostgreSQL at %s is not encrypted: anyone on the network can read and change the traffic "
        "and guess the password; use sslmode=verify-full with sslrootcert=FILE, or with sslrootcert=system (logged only once)",
        transport.get_extra_info("peername")[0],
    )


def _is_local(transport: Any) -> bool:
    """Return whether a connection stays on this machine: over a Unix socket or the loopback interface."""
    if transport.get_extra_info("socket").family not in (socket.AF_INET, socket.AF_INET6):
        return True
    # a link-local address may end with a zone such as %eth0
    address = ip_address(transport.get_extra_info("peername")[0].partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
