"""Parses the PostgreSQL URL and checks its options before anything is connected."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import URL

from iftb_store.errors import URLError
from iftb_store.values.suggestions import suggest
from iftb_store_postgres.credentials import Hidden
from iftb_store_postgres.tls import check_system_authorities

# the options that asyncpg accepts in its own URL
_PASSED_ON = (
    "host", "port", "user", "password", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword",
    "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib",
    "service", "servicefile",
)  # fmt: skip
_OWN = ("ssl", "connect_timeout", "statement_timeout", "statement_cache_size", "pool_timeout", "application_name", "search_path")
_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SESSION_ATTRS = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")
_DURATION = re.compile(r"(\d{1,9})(ms|s|min|h)?")
# stricter than asyncpg's own URL parser; commas separate several hosts
_HOST = re.compile(r"[\w.:,-]+|[\da-fA-F.]*:[\da-fA-F:.]*%\w+")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
# The client waits longer than the server's own statement_timeout, in case the server is gone: twice as long, but at most this
# many seconds more.
_GRACE = 5.0
FOREVER = 86_400.0


@dataclass(frozen=True)
class Options:
    """The checked content of a PostgreSQL URL.

    Attributes:
        dsn: the URL for asyncpg, without passwords.
        password: the password of the role.
        key_password: the password of the client's private key.
        clear_text: whether the URL says ``sslmode=disable``, so that a password may be sent in clear text.
        connect_timeout: seconds; 0 for none.
        command_timeout: seconds that the client waits for a statement, longer than the server's own timeout.
        pool_timeout: seconds to wait for a free connection.
        cache_size: number of prepared statements that a connection keeps.
        settings: the parameters that are sent to the server when a connection starts.
    """

    dsn: URL
    password: Hidden
    key_password: Hidden
    clear_text: bool
    connect_timeout: float
    command_timeout: float
    pool_timeout: float
    cache_size: int
    settings: dict[str, str]


def parse_options(url: URL) -> Options:
    """Parse and check a PostgreSQL URL.

    Raises:
        URLError: an option is unknown, is given several times or has an invalid value, or the host or the port is invalid.
    """
    query = {name: value for name, value in url.query.items() if isinstance(value, str)}
    if twice := sorted(set(url.query) - set(query)):
        raise URLError(f"the PostgreSQL URL has the option {twice[0]!r} more than once; give it once")
    unknown = sorted(set(query) - {*_PASSED_ON, *_OWN})
    if unknown and ("password" in query or "sslpassword" in query):
        # perhaps the rest of a password that contains an &
        raise URLError("an unknown option in the PostgreSQL URL; percent-encode & and = in a password")
    if unknown:
        known = sorted({*_PASSED_ON, *_OWN})
        near = suggest(unknown[0], known)
        raise URLError(f"unknown option {unknown[0]!r} in the PostgreSQL URL; {near}the known ones are {', '.join(known)}")
    if url.host and not _HOST.fullmatch(url.host):
        raise URLError(
            f"{url.host[:40]!a} is not a host in the PostgreSQL URL; percent-encode @ : / ? # in the user and the password"
        )
    if url.port is not None and not 0 < url.port < 65_536:
        raise URLError(f"the port must lie between 1 and 65535 in the PostgreSQL URL, not {url.port}")
    passed = {name: query[name] for name in _PASSED_ON if name in query}
    if "ssl" in query:
        passed["sslmode"] = {"true": "require", "false": "disable"}.get(query["ssl"].lower(), query["ssl"])
    if passed.get("sslmode", "prefer") not in _SSLMODES:
        raise URLError(f"sslmode must be one of {', '.join(_SSLMODES)}, not {passed['sslmode'][:20]!r}")
    check_system_authorities(passed)
    if passed.get("target_session_attrs", "any") not in _SESSION_ATTRS:
        wrong = passed["target_session_attrs"][:20]
        raise URLError(f"target_session_attrs must be one of {', '.join(_SESSION_ATTRS)}, not {wrong!r}")
    statement_timeout = _duration(query.get("statement_timeout", "60s"), "statement_timeout")
    settings = {
        "application_name": query.get("application_name", "iftb-store"),
        "statement_timeout": f"{round(statement_timeout * 1000)}",
        "timezone": "UTC",
    }
    if "search_path" in query:
        settings["search_path"] = query["search_path"]
    # the DSN has neither password, because the driver's errors may quote it, and a traceback with variables would show it
    password, key_password = Hidden(passed.pop("password", None) or url.password or ""), Hidden(passed.pop("sslpassword", ""))
    return Options(
        dsn=URL.create("postgresql", url.username, None, url.host, url.port, url.database, passed),
        password=password,
        key_password=key_password,
        clear_text=passed.get("sslmode") == "disable",
        connect_timeout=_duration(query.get("connect_timeout", "10"), "connect_timeout"),
        command_timeout=statement_timeout + min(statement_timeout, _GRACE) if statement_timeout else FOREVER,
        pool_timeout=_duration(query.get("pool_timeout", "30"), "pool_timeout"),
        cache_size=_number(query.get("statement_cache_size", "100"), "statement_cache_size"),
        settings=settings,
    )


def _duration(given: str, name: str) -> float:
    match = _DURATION.fullmatch(given.strip())
    if match is None:
        raise URLError(f"{name} must be a time like 500ms, 60s, 5min or a number of seconds, not {given[:20]!r}")
    return int(match[1]) * _SECONDS[match[2] or "s"]


def _number(given: str, name: str) -> int:
    if not given.isdecimal() or len(given) > 6:
        raise URLError(f"{name} must be a whole number, not {given[:20]!r}")
    return int(given)
