"""Translates the exceptions of delta-rs, pyarrow and DuckDB into short errors, which hold no URL and no credentials."""

from __future__ import annotations

import re

import duckdb
from deltalake.exceptions import CommitFailedError, DeltaError, DeltaProtocolError, SchemaMismatchError, TableNotFoundError
from sqlalchemy.exc import OperationalError

from iftb_store.columnar import describe_failure
from iftb_store.errors import operational_error

#: The exceptions that delta-rs raises; its own, and Python's for input and output and for what it cannot handle.
DELTA_ERRORS: tuple[type[Exception], ...] = (DeltaError, OSError, RuntimeError, ValueError)

_LATE, _AWAY, _FAILED = "the server did not answer in time", "the server cannot be reached", "the commit failed"
_BUSY = "the server failed or is overloaded"
# what the texts of delta-rs and of Arrow's S3 client show, by the first that matches, and what to do about it
_OF_S3 = (
    (
        r"NoSuchBucket|status code 404|HTTP status 404|bucket .*(?:not exist|not found)",
        "the bucket does not exist, or is in another region",
    ),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|40[13] |Forbidden|Unauthorized|ACCESS_DENIED",
        "access was denied; check the access key, the secret key and the rights of their owner",
    ),
    (r"timed? ?out|[Tt]imeout|deadline", _LATE),
    (r"[Cc]onnection refused|error sending request|[Cc]onnect|[Dd]ispatch|dns|resolve|NETWORK_CONNECTION", _AWAY),
    (r"(?:HTTP )?status(?: code)?:? 50[0234]|50[0234] [A-Z]|SLOW_?DOWN|SlowDown|INTERNAL_FAILURE|SERVICE_UNAVAILABLE", _BUSY),
)
_OF_FILES = (
    (r"No space left|os error 28", "the disk is full"),
    (r"Permission denied|os error 13", "access to a file was denied"),
    (r"Read-only file system|os error 30", "the file system is read-only"),
    (r"No such file|os error 2\b|Not[ -]?[Ff]ound|No files found", "a file of the table is missing"),
)
# how DuckDB reports that Arrow failed to read a bucket
_STREAM = re.compile(r"reading the stream registered as \S+ failed: ")
_S3 = "s3://"
# names of a table's files, and of settings, are no reasons
_NAMES = re.compile(r"retry_timeout|\bpart=\S+")
_TYPES = (
    (TableNotFoundError, "there is no Delta table"),
    (DeltaProtocolError, "the table uses features of Delta that this version of deltalake does not know"),
    (SchemaMismatchError, "the columns of the table are not those of bars"),
    (CommitFailedError, _FAILED),
)
_PASSING = (_LATE, _AWAY, _BUSY, _FAILED)


def map_error(error: BaseException, doing: str, location: str) -> OperationalError:
    """Return the error to raise for an exception of delta-rs, pyarrow or DuckDB.

    Args:
        error: the exception; its text is not shown if it may contain a URL.
        doing: what failed, e.g. "the lake cannot be read".
        location: where the table is: a path, or s3://bucket/prefix.
    """
    reason = explain(error, location)
    cause = error if isinstance(error, duckdb.Error) else None
    return operational_error(f"{doing}: {reason}", cause, transient=reason in _PASSING)


def is_transient(error: BaseException, location: str) -> bool:
    """Return whether a failed operation may succeed if repeated: the server was down or slow, or others committed first."""
    return explain(error, location) in _PASSING


def explain(error: BaseException, location: str) -> str:
    """Return the reason for an exception of delta-rs, pyarrow or DuckDB in a few words."""
    text = str(error)
    reads_file = isinstance(error, duckdb.IOException | duckdb.HTTPException) or _STREAM.search(text)
    if isinstance(error, duckdb.Error) and not reads_file:
        return describe_failure(error)
    text = _strip_names(text, location)
    reasons = (*_OF_S3, *_OF_FILES) if location.startswith(_S3) else _OF_FILES
    known = next((reason for pattern, reason in reasons if re.search(pattern, text)), None)
    return known or next((reason for kind, reason in _TYPES if isinstance(error, kind)), type(error).__name__)


def _strip_names(text: str, location: str) -> str:
    if not location.startswith(_S3):
        return _NAMES.sub("", text.replace(location, ""))
    bucket, _, prefix = location.removeprefix(_S3).partition("/")
    return re.sub(rf"(?<=[/'\"]){re.escape(bucket)}(?=[./'\"])", "", _NAMES.sub("", text.replace(prefix, "")))
