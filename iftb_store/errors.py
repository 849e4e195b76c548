"""The errors of iftb-store, and how a driver's failure becomes SQLAlchemy's IntegrityError or OperationalError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

_Error = TypeVar("_Error", bound=DBAPIError)

_OUTCOME_UNKNOWN = (
    "the connection was lost while COMMIT was under way: whether the transaction is stored is unknown; "
    "read what it wrote before you write it again, or use db.run(…, idempotent=True) where a second time does no harm"
)


#: What a session says that reads a snapshot and was asked to write.
READS_ONLY = "this session reads a snapshot of the database and writes nothing; write in a session of db.get_session()"


class StoreError(Exception):
    """Base of every error that iftb-store raises of its own."""


class InvalidValueError(StoreError, ValueError):
    """A value that cannot be stored as it is; nothing was written."""


class NotFoundError(StoreError, LookupError):
    """The trade or position named by an id does not exist."""


class PositionClosedError(StoreError):
    """A closed position was to be changed, reopened or closed again."""


class TradeConflictError(StoreError):
    """A trade was to be recorded whose trade_id is stored with other values.

    Attributes:
        fields: the names of the fields that differ.
    """

    def __init__(self, message: str, fields: tuple[str, ...]) -> None:
        super().__init__(message)
        self.fields = fields


class CollisionError(StoreError):
    """A copy was refused: a row of the source's stands where the destination has one of its own.

    Nothing was written, unless the destination's row came while the copy ran; then the message says so.
    """


class AmbiguousPositionError(StoreError):
    """Both sides of a symbol are open and no side was named."""


class NotConnectedError(StoreError, RuntimeError):
    """The manager, or a session, was used before connect(), after disconnect(), or in another event loop or a forked process."""


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


class TransientError(OperationalError):
    """A transaction that failed for a reason that passes, with nothing of it stored; `DatabaseManager.run` runs it again.

    A serialization failure, a deadlock, a connection lost before COMMIT was sent, a lock that was not granted in time.
    """


class CommitOutcomeUnknown(OperationalError):
    """The connection was lost while COMMIT was under way: the transaction is stored whole or not at all, and nobody can say.

    Read what it wrote before you write it again, or write it so that a second time does no harm (upsert_many, record).
    """


class DuplicateKey(Exception):
    """The cause of an IntegrityError that the library found itself, before the engine did."""


class EngineFailure(Exception):
    """The cause of an OperationalError that the library found itself."""


def integrity_error(message: str, cause: BaseException | None = None) -> IntegrityError:
    """Return SQLAlchemy's IntegrityError with a short message of ours; it holds no parameters."""
    return _made(IntegrityError, message, cause)


def operational_error(message: str, cause: BaseException | None = None, *, transient: bool = False) -> OperationalError:
    """Return SQLAlchemy's OperationalError, or our TransientError, with a short message of ours; it holds no parameters."""
    return _made(TransientError if transient else OperationalError, message, cause)


def outcome_unknown(cause: BaseException) -> CommitOutcomeUnknown:
    """Return the error for a connection that was lost while COMMIT was under way."""
    return _made(CommitOutcomeUnknown, _OUTCOME_UNKNOWN, cause)


def refuse_pickling(thing: object) -> NoReturn:
    """Raise the error for a manager or backend that is pickled or copied.

    Raises:
        StoreError: always; the message says what to do instead.
    """
    raise StoreError(
        f"a {type(thing).__name__} cannot be pickled or copied: it has connections, and may hold a password that would be "
        "written down; give the other process the URL, in an environment variable for one, and make a DatabaseManager there"
    )


def _made(kind: type[_Error], message: str, cause: BaseException | None) -> _Error:
    why = DuplicateKey if issubclass(kind, IntegrityError) else EngineFailure
    error = kind(None, None, why(message), hide_parameters=True)
    # without SQLAlchemy's class prefix and link, which tell a user nothing here
    error.args = (message,)
    error.code = None  # type: ignore[assignment]
    error.__cause__ = cause
    return error


@contextmanager
def readable(table: str) -> Iterator[None]:
    """Turn what Python raises as it converts stored values into one error of ours: raw SQL, or damage, left such a value.

    Raises:
        StoreError: a value cannot be read.
    """
    try:
        yield
    except StoreError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise StoreError(
            f"a row of {table} has a value that cannot be read ({type(error).__name__}); `iftb-store doctor` finds all such "
            "values and says how to mend them"
        ) from error
