"""The exceptions of iftb-store, and functions that create SQLAlchemy's IntegrityError and OperationalError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

_Error = TypeVar("_Error", bound=DBAPIError)

_OUTCOME_UNKNOWN = (
    "the connection was lost during COMMIT: it is unknown whether the transaction is stored; read what it wrote before you "
    "write it again, or use db.run(…, idempotent=True) if writing it twice does no harm"
)


#: The error message for a write in a session that reads a snapshot.
READS_ONLY = "this session reads a snapshot and cannot write; write in a session of db.get_session()"

#: The error message for a raw statement that may write, on a backend that does not declare RAW_WRITES.
NO_RAW_WRITES = (
    "session.execute only reads on this backend; write bars with OHLCVRepository, or keep what you write with SQL on PostgreSQL"
)


class StoreError(Exception):
    """Base class of the exceptions that iftb-store defines, except those that derive from SQLAlchemy's OperationalError."""


class InvalidValueError(StoreError, ValueError):
    """An argument has an invalid value, e.g. one that cannot be stored unchanged; nothing was written."""


class NotFoundError(StoreError, LookupError):
    """No trade or position has the given id."""


class PositionClosedError(StoreError):
    """The caller tried to change, reopen or close a position that is already closed."""


class _RecordConflictError(StoreError):
    """A row is already stored with other values.

    Attributes:
        fields: the names of the fields that differ.
    """

    def __init__(self, message: str, fields: tuple[str, ...]) -> None:
        super().__init__(message)
        self.fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle needs to make an equal error in another process."""
        return type(self), (str(self), self.fields)


class TradeConflictError(_RecordConflictError):
    """The caller tried to record a trade whose trade_id is already stored with other values.

    Attributes:
        fields: the names of the fields that differ.
    """


class FillConflictError(_RecordConflictError):
    """A fill is already stored with other values, or the fills of a trade are of another symbol, exchange or account.

    Attributes:
        fields: the names of the fields that differ.
    """


class LedgerConflictError(_RecordConflictError):
    """An entry of the ledger is already stored with other values.

    Attributes:
        fields: the names of the fields that differ.
    """


class BalanceConflictError(_RecordConflictError):
    """A snapshot of the same balance at the same time is already stored with other values.

    Attributes:
        fields: the names of the fields that differ.
    """


class PositionConflictError(StoreError):
    """The caller tried to store a position over an open position of another trade; nothing was written.

    Attributes:
        trade_id: the trade_id of the open position.
    """

    def __init__(self, message: str, trade_id: str) -> None:
        super().__init__(message)
        self.trade_id = trade_id

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle needs to make an equal error in another process."""
        return type(self), (str(self), self.trade_id)


class CollisionError(StoreError):
    """A copy was refused, because a row of the source conflicts with a different row of the destination.

    Nothing was written, unless the row of the destination was written during the copy; the message then says so.
    """


class AmbiguousPositionError(StoreError):
    """A symbol has an open long and an open short position, and the caller gave no side."""


class NotConnectedError(StoreError, RuntimeError):
    """A manager or session was used before connect(), after disconnect(), in another event loop or in a forked process."""


class SchemaError(StoreError):
    """The database has no tables of iftb-store, or tables of another revision; the message names the command to run."""


class Unsupported(StoreError):
    """The backend does not declare the requested capability."""


class URLError(InvalidValueError):
    """A database URL cannot be parsed, has an unknown scheme, or has an option that the backend does not know."""


class MissingDriverError(StoreError, ImportError):
    """The driver of the backend is not installed; the message contains the install command."""


class ConfigurationError(StoreError):
    """The settings are incomplete, invalid or contradict each other."""


class PartialWriteError(StoreError):
    """``write_arrow`` with ``atomic=False`` stopped at a batch; the batches before it are stored.

    ``__cause__`` is the error of that batch.

    Attributes:
        batches: the number of stored batches.
        rows: the number of their rows.
    """

    def __init__(self, message: str, batches: int, rows: int) -> None:
        super().__init__(message)
        self.batches, self.rows = batches, rows

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle needs to make an equal error in another process."""
        return type(self), (str(self), self.batches, self.rows)


class TransientError(OperationalError):
    """A transaction failed temporarily: nothing of it is stored, and `DatabaseManager.run` retries it.

    Examples are a serialization failure, a deadlock, a connection lost before COMMIT was sent, and a lock timeout.
    """


class CommitOutcomeUnknown(OperationalError):
    """The connection was lost during COMMIT: the transaction is stored completely or not at all, but it is unknown which.

    Before you write the same rows again, read whether they are stored; or use calls that may be repeated: upsert_many,
    and record with values that were not changed meanwhile.
    """


class DuplicateKey(Exception):
    """The ``orig`` of every IntegrityError that iftb-store itself creates; it holds the message."""


class EngineFailure(Exception):
    """The ``orig`` of every OperationalError that iftb-store itself creates; it holds the message."""


def integrity_error(message: str, cause: BaseException | None = None) -> IntegrityError:
    """Return a SQLAlchemy IntegrityError with a short message and without the statement's parameters."""
    return _make_error(IntegrityError, message, cause)


def operational_error(message: str, cause: BaseException | None = None, *, transient: bool = False) -> OperationalError:
    """Return an OperationalError, or a TransientError if ``transient``, without the statement's parameters."""
    return _make_error(TransientError if transient else OperationalError, message, cause)


def outcome_unknown(cause: BaseException) -> CommitOutcomeUnknown:
    """Return the error for a connection that was lost during COMMIT."""
    return _make_error(CommitOutcomeUnknown, _OUTCOME_UNKNOWN, cause)


def refuse_pickling(thing: object) -> NoReturn:
    """Refuse to pickle or copy a manager or backend.

    Raises:
        StoreError: always; the message says what to do instead.
    """
    raise StoreError(
        f"a {type(thing).__name__} cannot be pickled or copied: it has connections, and its password could end up in a file; "
        "pass the URL to the other process, e.g. in an environment variable, and create a DatabaseManager there"
    )


def _make_error(kind: type[_Error], message: str, cause: BaseException | None) -> _Error:
    why = DuplicateKey if issubclass(kind, IntegrityError) else EngineFailure
    error = kind(None, None, why(message), hide_parameters=True)
    # str() of the error then omits SQLAlchemy's class prefix and link, which do not help a user here
    error.args = (message,)
    error.code = None  # type: ignore[assignment]
    error.__cause__ = cause
    return error


@contextmanager
def explain_unreadable(table: str) -> Iterator[None]:
    """Raise StoreError in place of any exception that the block raises while it converts stored values.

    Raw SQL or a damaged file can leave values that cannot be converted.

    Raises:
        StoreError: a value cannot be read; the message names the table.
    """
    try:
        yield
    except StoreError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise StoreError(
            f"a row of {table} has a value that cannot be read ({type(error).__name__}); `iftb-store doctor` finds all such "
            "values and reports how to fix them"
        ) from error
