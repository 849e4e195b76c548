"""Parses the URLs of lakes: delta:///folder and delta+s3://bucket/prefix, with their options."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sqlalchemy import URL

from iftb_store.errors import URLError

_SECONDS = {"busy_timeout": 30.0, "connect_timeout": 2.0, "request_timeout": 4.0}
_OF_S3 = ("endpoint", "region", "allow_http", "auth", "connect_timeout", "request_timeout")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ENGINE = re.compile(r"sc://(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(?P<port>[0-9]{1,5})/?")
# DuckDB takes these for a pattern that matches several files
_PATTERN = frozenset("*?[]{}\\")


@dataclass(frozen=True)
class S3Options:
    """How to reach a bucket.

    Attributes:
        bucket: the name of the bucket.
        prefix: the key prefix of the table, without slashes at its ends.
        endpoint: the URL of the server; empty for Amazon's.
        region: the region of the bucket.
        allow_http: whether the connection may be unencrypted.
        auth: "keys" for an access key from the URL or the environment, "metadata" for the cloud's metadata service.
        access_key: the user of the URL; empty if the environment has the keys.
        secret_key: the password of the URL.
        connect_timeout: seconds to wait for a connection.
        request_timeout: seconds to wait for an answer.
    """

    bucket: str
    prefix: str
    endpoint: str
    region: str
    allow_http: bool
    auth: str
    access_key: str
    secret_key: str = field(repr=False)
    connect_timeout: float
    request_timeout: float


@dataclass(frozen=True)
class Options:
    """The checked content of a lake's URL.

    Attributes:
        location: what delta-rs opens: an absolute path, or s3://bucket/prefix.
        s3: how to reach the bucket; None for a local folder.
        busy_timeout: seconds during which a commit is repeated while other clients commit first.
        engine: host:port of the Spark Connect server that answers the reads over many series; empty if there is none.
    """

    location: str
    s3: S3Options | None
    busy_timeout: float
    engine: str = ""


def parse_options(url: URL) -> Options:
    """Parse and check the URL of a lake.

    Raises:
        URLError: a part is missing or not supported, an option is unknown, or a value of an option is invalid.
    """
    remote = url.drivername == "delta+s3"
    known = ("busy_timeout", "engine", *(_OF_S3 if remote else ()))
    given: dict[str, str] = {}
    for name, value in url.query.items():
        if name not in known:
            raise URLError(f"unknown option {name[:40]!a} in the delta URL; the known ones are {', '.join(known)}")
        if not isinstance(value, str):
            raise URLError(f"the delta URL has the option {name} more than once; give it once")
        given[name] = value
    seconds = {name: _read_seconds(name, given.get(name), default) for name, default in _SECONDS.items()}
    engine = _read_engine(given.get("engine"))
    if remote:
        s3 = _parse_s3(url, given, seconds)
        return Options(f"s3://{s3.bucket}/{s3.prefix}", s3, seconds["busy_timeout"], engine)
    if url.host or url.username or url.password or url.port:
        raise URLError("a delta URL has a folder and no host; write delta:///folder, or delta:////path for an absolute path")
    if not url.database:
        raise URLError("the delta URL names no folder; write delta:///folder, or delta:////path for an absolute path")
    path = os.path.realpath(url.database)
    if _PATTERN & set(path):
        raise URLError("the folder in the delta URL has one of the characters * ? [ ] { } \\ in its path; rename it")
    return Options(path, None, seconds["busy_timeout"], engine)


def _parse_s3(url: URL, given: dict[str, str], seconds: dict[str, float]) -> S3Options:
    if url.port or not _BUCKET.fullmatch(url.host or ""):
        raise URLError("the delta+s3 URL must name a bucket: delta+s3://bucket/prefix; give a server as ?endpoint=https://…")
    prefix = (url.database or "").strip("/")
    if _PATTERN & set(prefix) or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        raise URLError("the prefix in the delta+s3 URL must be plain names separated by slashes, e.g. lake/production")
    endpoint = given.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    address = urlsplit(endpoint)
    if endpoint and (address.scheme not in ("http", "https") or not address.hostname or address.username or address.password):
        raise URLError("endpoint in the delta+s3 URL must be http://host:port or https://host:port, without a user")
    allow_http = _read_choice("allow_http", given.get("allow_http", "false"), ("true", "false")) == "true"
    if address.scheme == "http" and not allow_http and address.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise URLError(
            "the endpoint is http://, which does not encrypt; use https://, or add allow_http=true to the delta+s3 URL"
        )
    auth = _read_choice("auth", given.get("auth", "keys"), ("keys", "metadata"))
    if bool(url.username) != bool(url.password):
        raise URLError("the delta+s3 URL must have both keys or none: delta+s3://access_key:secret_key@bucket/prefix")
    region = given.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return S3Options(
        bucket=str(url.host),
        prefix=f"{prefix}/ohlcv" if prefix else "ohlcv",
        endpoint=endpoint.rstrip("/"),
        region=region,
        allow_http=address.scheme == "http",
        auth=auth,
        access_key=url.username or "",
        secret_key=str(url.password or ""),
        connect_timeout=seconds["connect_timeout"],
        request_timeout=seconds["request_timeout"],
    )


def _read_seconds(name: str, value: str | None, default: float) -> float:
    if value is None:
        return default
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf or (number == 0 and name != "busy_timeout"):
        raise URLError(f"{name}={value[:40]!a} in the delta URL must be a number of seconds")
    return number


def _read_engine(value: str | None) -> str:
    if value is None:
        return ""
    found = _ENGINE.fullmatch(value)
    # the value is not shown: what does not belong there may be a token
    if found is None or not 0 < int(found["port"]) < 65_536:
        raise URLError(
            "engine in the delta URL must be sc://host:port, the address of a Spark Connect server, e.g. sc://spark:15002"
        )
    return f"{found['host']}:{found['port']}"


def _read_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value.lower() not in choices:
        raise URLError(f"{name}={value[:40]!a} in the delta URL must be {' or '.join(choices)}")
    return value.lower()
