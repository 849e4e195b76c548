"""The errors of iftb-store, and how a driver's failure becomes SQLAlchemy's IntegrityError or OperationalError."""

from __future__ import annotations

from typing import TypeVar

from sqlalchemy.exc import IntegrityError, OperationalError

_Error = TypeVar("_Error", IntegrityError, OperationalError)


class StoreError(Exception):
    """Base of every error that iftb-store raises of its own."""


class InvalidValueError(StoreError, ValueError):
    """A value that cannot be stored as it is; nothing was written."""


class NotFoundError(StoreError, LookupError):
    """The trade or position named by an id does not exist."""


class PositionClosedError(StoreError):
    """A closed position was to be changed, reopened or closed again."""


class AmbiguousPositionError(StoreError):
    """Both sides of a symbol are open and no side was named."""


class NotConnectedError(StoreError, RuntimeError):
    """The manager was used before connect() or after disconnect()."""


class SchemaError(StoreError):
    """The database has no tables of ours, or they stand at another revision; the message names the command."""


class Unsupported(StoreError):
    """The backend does not declare the capability that was asked of it."""


class URLError(InvalidValueError):
    """A database URL that cannot be understood, or an option in it that the backend does not know."""


class MissingDriverError(StoreError, ImportError):
    """The backend is installed without its driver; the message is the install line."""


class ConfigurationError(StoreError):
    """The settings are incomplete or contradict each other."""


class DuplicateKey(Exception):
    """The cause of an IntegrityError that the library found itself, before the engine did."""


class EngineFailure(Exception):
    """The cause of an OperationalError that the library found itself."""


def integrity_error(message: str, cause: BaseException | None = None) -> IntegrityError:
    """Return SQLAlchemy's IntegrityError with a short message of ours; it holds no parameters."""
    return _chained(IntegrityError(None, None, DuplicateKey(message), hide_parameters=True), message, cause)


def operational_error(message: str, cause: BaseException | None = None) -> OperationalError:
    """Return SQLAlchemy's OperationalError with a short message of ours; it holds no parameters."""
    return _chained(OperationalError(None, None, EngineFailure(message), hide_parameters=True), message, cause)


def _chained(error: _Error, message: str, cause: BaseException | None) -> _Error:
    # without SQLAlchemy's class prefix and link, which tell a user nothing here
    error.args = (message,)
    error.code = None  # type: ignore[assignment]
    error.__cause__ = cause
    return error
