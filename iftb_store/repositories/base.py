"""Base classes of the repositories; a repository has a session or a manager to work with, and a clock."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from iftb_store.abilities import ConnectedStore
from iftb_store.errors import InvalidValueError, Unsupported
from iftb_store.protocols import Capability, Session, Stores
from iftb_store.registry import get_backend, get_stores, require_arrow
from iftb_store.repositories.streams import Stream, record_batches
from iftb_store.schema.scope import make_filter
from iftb_store.schema.table_spec import RowFilter, TableSpec
from iftb_store.values import checks
from iftb_store.values.display import type_name

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the current time as an aware datetime in UTC."""
    return datetime.now(UTC)


def check_fields(value: object, model: type[T], field_checks: Mapping[str, Callable[[object, str], Any]]) -> T:
    """Return a copy of a trade or position with normalised values.

    Raises:
        InvalidValueError: the object has another type, or a value cannot be stored.
    """
    if not isinstance(value, model):
        raise InvalidValueError(f"{model.__name__.lower()} must be a {model.__name__}, not {type(value).__name__}")
    return model(**{name: check(getattr(value, name), name) for name, check in field_checks.items()})


class Repository:
    """Base class of the repositories; it works in a given session, or in a new transaction for each call."""

    def __init__(self, session: Session | AsyncSession | ConnectedStore, *, clock: Clock = utc_now) -> None:
        """Create a repository for a session, or for a manager, with which each call runs in a new transaction.

        Args:
            session: a session from ``db.get_session()``, an AsyncSession of the app (asyncpg or aiosqlite), or the manager.
            clock: function that returns the time for created_at, updated_at and last_updated; tests pass their own.

        Raises:
            Unsupported: the session has another type or driver, or its backend does not keep these rows.
            InvalidValueError: the clock is not callable.
        """
        if not callable(clock):
            raise InvalidValueError(f"clock must be a function that returns the time, not {type_name(clock)}")
        self._manager = session if isinstance(session, ConnectedStore) else None
        self._fixed = None if isinstance(session, ConnectedStore) else get_stores(session)
        self._clock = clock
        self._check_kept((session if isinstance(session, ConnectedStore) else get_backend(session)).capabilities)

    def _check_kept(self, capabilities: frozenset[Capability]) -> None:
        """Raise Unsupported if a backend with these capabilities does not keep the repository's rows."""

    @asynccontextmanager
    async def _stores(self, *, snapshot: bool = False) -> AsyncIterator[Stores]:
        """Yield the stores of the session, or of a new one; with ``snapshot`` it reads a snapshot, if the backend can."""
        if self._fixed is not None:
            yield self._fixed
        elif self._manager is not None:
            snapshot = snapshot and Capability.ISOLATION in self._manager.capabilities
            async with self._manager.get_session(isolation="snapshot" if snapshot else None) as session:
                yield get_stores(session)

    async def _table(self, selection: RowFilter) -> pa.Table:
        require_arrow()
        async with self._stores() as stores:
            return await stores.read_rows(selection)

    def _stream(self, selection: RowFilter, batch_size: object) -> Stream[pa.RecordBatch]:
        require_arrow()
        return Stream(self._batches(replace(selection, limit=checks.integer(batch_size, "batch_size", least=1))))

    async def _batches(self, selection: RowFilter) -> AsyncGenerator[pa.RecordBatch]:
        async with self._stores(snapshot=True) as stores, aclosing(record_batches(stores, selection)) as batches:
            async for batch in batches:
                yield batch

    def _now(self) -> datetime:
        return checks.utc(self._clock(), "the clock's time")


class RecordRepository(Repository):
    """Base class of the repositories of trades, positions and events; their rows can also be read as Arrow tables."""

    _scanned: ClassVar[TableSpec]

    def _check_kept(self, capabilities: frozenset[Capability]) -> None:
        if Capability.RECORDS not in capabilities:
            raise Unsupported(f"this backend keeps only bars, no {self._scanned.name}; keep those on PostgreSQL")

    async def read_arrow(
        self, symbol: str | None = None, start: datetime | None = None, end: datetime | None = None, exchange: str | None = None
    ) -> pa.Table:
        """Return all rows, or only those of a symbol, exchange or time window, as a pyarrow.Table, read from a snapshot.

        Columns are the fields of Trade, Position or SystemEvent in their order: decimals as decimal128(38, 18), times as
        timestamp[us, UTC], JSON objects as text. Rows are ordered by id. start and end are inclusive and apply to entry_time
        of trades and positions, and to created_at of events; naive times are UTC.

        Raises:
            MissingDriverError: pyarrow is not installed; the message contains the install command.
            InvalidValueError: start is after end.
        """
        return await self._table(make_filter(self._scanned, start, end, symbol=symbol, exchange=exchange))

    def stream_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        batch_size: int = 65_536,
    ) -> Stream[pa.RecordBatch]:
        """Return a stream of the rows of read_arrow, as record batches of at most ``batch_size`` rows.

        OHLCVRepository.stream_range explains which concurrent writes a stream shows, and how to close the stream.

        Raises:
            MissingDriverError: pyarrow is not installed; the message contains the install command.
            InvalidValueError: start is after end, or batch_size is below 1.
        """
        return self._stream(make_filter(self._scanned, start, end, symbol=symbol, exchange=exchange), batch_size)
