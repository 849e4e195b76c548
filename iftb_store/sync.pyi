"""The types of the blocking façade; written by `nox -s stub` from the async classes."""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, tzinfo
from decimal import Decimal
from types import TracebackType
from typing import Any, BinaryIO, Generic, Literal, Self, TypeVar, Unpack, overload
from zoneinfo import ZoneInfo

import pyarrow as pa
from sqlalchemy import URL, Executable, Result, ScalarResult

from iftb_store.analytics.figures import PerformanceReport
from iftb_store.analytics.fills import FillSummary
from iftb_store.doctor.checks import Finding
from iftb_store.files.export import ExportReport
from iftb_store.files.formats import FileFormat
from iftb_store.files.import_files import Columns, ImportReport, Paths
from iftb_store.foreign.reports import ForeignReport, Program
from iftb_store.health import Health, Partitioning, SchemaStatus
from iftb_store.html_report.functions import HtmlReport
from iftb_store.maintenance.reports import PruneReport, RollupReport
from iftb_store.manager import A, T
from iftb_store.models import (
    BalanceSnapshot,
    Fill,
    LedgerEntry,
    OHLCVBar,
    Position,
    Series,
    SeriesSpan,
    SystemEvent,
    Trade,
    TradeChanges,
    TradeFilters,
    TradeStatistics,
    UpsertReport,
)
from iftb_store.protocols import Capability, Isolation
from iftb_store.repositories.base import Clock
from iftb_store.repositories.ohlcv import ArrowData
from iftb_store.transfer.progress import ProgressCallback
from iftb_store.transfer.reports import BackupReport, CopyReport, RestoreReport, VerifyReport
from iftb_store.values.choices import Conflict, Decimals, Fees, LedgerKind, ReadDecimals, Severity, Side
from iftb_store.values.timeframes import Timeframe
from iftb_store.values.times import Since

_T = TypeVar("_T")

class SyncStream(Generic[_T]):
    def __iter__(self) -> Self: ...
    def __next__(self) -> _T: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def close(self) -> None: ...

class SyncOHLCVRepository:
    """`iftb_store.OHLCVRepository` for blocking code."""

    def __init__(self, session: SyncStore | SyncSession, *, clock: Clock = ...) -> None: ...
    def insert_many(self, bars: Sequence[OHLCVBar]) -> int:
        """Insert all bars or none, and return the number of bars."""

    @overload
    def upsert_many(self, bars: Sequence[OHLCVBar], *, report: Literal[False] = False) -> int:
        """Insert the new bars and overwrite the values of the bars that are already stored; write all bars or none."""

    @overload
    def upsert_many(self, bars: Sequence[OHLCVBar], *, report: Literal[True]) -> UpsertReport:
        """Insert the new bars and overwrite the values of the bars that are already stored; write all bars or none."""

    def delete_range(self, symbol: str, timeframe: Timeframe, start: datetime, end: datetime, exchange: str = "binance") -> int:
        """Delete the bars of a series with start <= timestamp <= end, all or none; return the number of deleted bars."""

    @overload
    def write_arrow(
        self,
        data: ArrowData,
        mode: Literal["upsert", "insert"] = "upsert",
        *,
        symbol: str | None = None,
        timeframe: Timeframe | None = None,
        exchange: str | None = None,
        decimals: Decimals | None = None,
        report: Literal[False] = False,
        atomic: bool = True,
    ) -> int:
        """Write the bars of an Arrow table, record batches or a data frame; the rules of upsert_many or insert_many apply."""

    @overload
    def write_arrow(
        self,
        data: ArrowData,
        mode: Literal["upsert", "insert"] = "upsert",
        *,
        symbol: str | None = None,
        timeframe: Timeframe | None = None,
        exchange: str | None = None,
        decimals: Decimals | None = None,
        report: Literal[True],
        atomic: bool = True,
    ) -> UpsertReport:
        """Write the bars of an Arrow table, record batches or a data frame; the rules of upsert_many or insert_many apply."""

    @overload
    def list_series(self, *, counts: Literal[True] = True) -> list[Series]:
        """Return all stored series, ordered by exchange, symbol and timeframe; text is compared by its bytes."""

    @overload
    def list_series(self, *, counts: bool) -> list[Series] | list[SeriesSpan]:
        """Return all stored series, ordered by exchange, symbol and timeframe; text is compared by its bytes."""

    def get_range(
        self, symbol: str, timeframe: Timeframe, start: datetime, end: datetime, exchange: str | None = "binance"
    ) -> list[OHLCVBar]:
        """Return the bars of a series with start <= timestamp <= end, oldest first."""

    def get_latest(self, symbol: str, timeframe: Timeframe, limit: int = 100, exchange: str | None = "binance") -> list[OHLCVBar]:
        """Return the newest ``limit`` bars of a series, newest first."""

    def get_gaps(
        self,
        symbol: str,
        timeframe: Timeframe,
        exchange: str = "binance",
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[tuple[datetime, datetime]]:
        """Return the gaps of a series, oldest first, as pairs (time of the last bar before, time of the first bar after)."""

    def resample(
        self,
        symbol: str,
        source: Timeframe,
        target: Timeframe,
        start: datetime,
        end: datetime,
        exchange: str = "binance",
        *,
        partial: bool = False,
    ) -> list[OHLCVBar]:
        """Return bars of a longer timeframe, computed in the engine from the stored bars of ``source``, oldest first."""

    def stream_range(
        self,
        symbol: str,
        timeframe: Timeframe,
        start: datetime,
        end: datetime,
        exchange: str | None = "binance",
        *,
        batch_size: int = 10000,
    ) -> SyncStream[list[OHLCVBar]]:
        """Return a stream of the bars of get_range, in constant memory: ``for bars in ohlcv.stream_range(…)``."""

    def read_arrow(
        self,
        symbol: str | None = None,
        timeframe: Timeframe | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        decimals: ReadDecimals | None = None,
    ) -> pa.Table:
        """Return the bars of all series, or only the selected bars, as a pyarrow.Table, read from a snapshot."""

    def stream_arrow(
        self,
        symbol: str | None = None,
        timeframe: Timeframe | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        batch_size: int = 65536,
        decimals: ReadDecimals | None = None,
    ) -> SyncStream[pa.RecordBatch]:
        """Return a stream of the rows of read_arrow, in constant memory: ``for batch in ohlcv.stream_arrow(…)``."""

    def get_gaps_all(
        self,
        *,
        timeframe: Timeframe | None = None,
        exchange: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> SyncStream[pa.RecordBatch]:
        """Return a stream of the gaps of every series: ``for batch in repo.get_gaps_all()``."""

    def resample_all(
        self,
        target: Timeframe,
        *,
        source: Timeframe,
        exchange: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        partial: bool = False,
    ) -> SyncStream[pa.RecordBatch]:
        """Return a stream of longer bars of every series of a timeframe: ``for batch in repo.resample_all(…)``."""

class SyncTradeRepository:
    """`iftb_store.TradeRepository` for blocking code."""

    def __init__(self, session: SyncStore | SyncSession, *, account: str | None = None, clock: Clock = ...) -> None: ...
    def insert(self, trade: Trade) -> int:
        """Insert a trade and return its id."""

    def record(self, trade: Trade) -> int:
        """Insert a trade unless an equal trade is already stored, and return its id."""

    def update(self, trade_id: int, **kwargs: Unpack[TradeChanges]) -> None:
        """Set fields of a trade; the argument ``trade_id`` is the id that insert returned, not the bot's trade_id."""

    def get_by_id(self, trade_id: int) -> Trade | None:
        """Return the trade with this id, which the store assigned, or None."""

    def get_by_trade_id(self, trade_id: str) -> Trade | None:
        """Return the trade with this trade_id, which the bot assigned, or None."""

    def get_open(
        self,
        *,
        symbol: str | None = None,
        side: Side | None = None,
        exchange: str | None = "binance",
        **filters: Unpack[TradeFilters],
    ) -> list[Trade]:
        """Return the open trades: those with the action open whose realized_pnl is not set; oldest first."""

    def get_range(
        self,
        start: datetime,
        end: datetime,
        *,
        symbol: str | None = None,
        side: Side | None = None,
        exchange: str | None = "binance",
        **filters: Unpack[TradeFilters],
    ) -> list[Trade]:
        """Return the trades with start <= entry_time <= end, open and closed, oldest first."""

    def get_recent(self, limit: int = 100, **filters: Unpack[TradeFilters]) -> list[Trade]:
        """Return the newest trades of all exchanges, ordered by entry_time, then id; newest first."""

    def get_by_symbol(
        self, symbol: str, limit: int = 100, exchange: str | None = "binance", **filters: Unpack[TradeFilters]
    ) -> list[Trade]:
        """Return the newest trades of one symbol, ordered by entry_time, then id; newest first."""

    def get_statistics(
        self, days: int = 30, exchange: str | None = "binance", **filters: Unpack[TradeFilters]
    ) -> TradeStatistics:
        """Return statistics of the trades of an exchange, or of all, that were realized in the last ``days`` days."""

    def get_performance(
        self,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = "binance",
        *,
        symbol: str | None = None,
        side: Side | None = None,
        starting_balance: Decimal | None = None,
        fees: Fees = "apart",
        tz: tzinfo = ...,
    ) -> PerformanceReport:
        """Return the performance of the trades that were closed in a time window: exact figures, and None where one is undefined."""

    def apply_fills(self, trade_id: str, *, quote_currency: str | None = None) -> FillSummary:
        """Set the figures of a trade from all its fills, which `FillRepository.record` stored, and return what they add up to."""

    def read_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        decimals: ReadDecimals | None = None,
    ) -> pa.Table:
        """Return all rows, or only those of a symbol, exchange or time window, as a pyarrow.Table, read from a snapshot."""

    def stream_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        batch_size: int = 65536,
        decimals: ReadDecimals | None = None,
    ) -> SyncStream[pa.RecordBatch]:
        """Return a stream of the rows of read_arrow, in constant memory, as record batches."""

class SyncPositionRepository:
    """`iftb_store.PositionRepository` for blocking code."""

    def __init__(self, session: SyncStore | SyncSession, *, account: str | None = None, clock: Clock = ...) -> None: ...
    def get_open_positions(self, exchange: str | None = "binance", *, account: str | None = None) -> list[Position]:
        """Return the open positions of an exchange, ordered by entry_time, then id; oldest first."""

    def get_position(
        self, symbol: str, exchange: str | None = "binance", *, side: Side | None = None, account: str | None = None
    ) -> Position | None:
        """Return the open position of a symbol, or None; ``side`` selects the long or the short position."""

    def update_position(self, position: Position, *, replace: bool = False) -> None:
        """Store a position: replace every field of the open one, or insert it."""

    def close_position(self, position_id: int) -> None:
        """Set the status of an open position to closed; last_updated becomes the current time."""

    def read_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        decimals: ReadDecimals | None = None,
    ) -> pa.Table:
        """Return all rows, or only those of a symbol, exchange or time window, as a pyarrow.Table, read from a snapshot."""

    def stream_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        batch_size: int = 65536,
        decimals: ReadDecimals | None = None,
    ) -> SyncStream[pa.RecordBatch]:
        """Return a stream of the rows of read_arrow, in constant memory, as record batches."""

class SyncSystemEventRepository:
    """`iftb_store.SystemEventRepository` for blocking code."""

    def __init__(self, session: SyncStore | SyncSession, *, account: str | None = None, clock: Clock = ...) -> None: ...
    def log_event(
        self,
        event_type: str,
        severity: Severity,
        message: str,
        details: dict[str, Any] | None = None,
        symbol: str | None = None,
        exchange: str | None = None,
        trade_id: str | None = None,
        position_id: int | None = None,
        stack_trace: str | None = None,
        *,
        at: datetime | None = None,
    ) -> None:
        """Append an event."""

    def get_recent_events(
        self, severity: Severity | None = None, limit: int = 100, *, account: str | None = None
    ) -> list[SystemEvent]:
        """Return the newest events of one severity, or of all severities, ordered by created_at, then id; newest first."""

    def get_events(
        self,
        *,
        event_type: str | None = None,
        symbol: str | None = None,
        trade_id: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        account: str | None = None,
    ) -> list[SystemEvent]:
        """Return all events, or only those with the given values, of all exchanges; oldest first."""

    def read_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        decimals: ReadDecimals | None = None,
    ) -> pa.Table:
        """Return all rows, or only those of a symbol, exchange or time window, as a pyarrow.Table, read from a snapshot."""

    def stream_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        batch_size: int = 65536,
        decimals: ReadDecimals | None = None,
    ) -> SyncStream[pa.RecordBatch]:
        """Return a stream of the rows of read_arrow, in constant memory, as record batches."""

class SyncFillRepository:
    """`iftb_store.FillRepository` for blocking code."""

    def __init__(self, session: SyncStore | SyncSession, *, account: str | None = None, clock: Clock = ...) -> None: ...
    def record(self, fill: Fill) -> bool:
        """Store a fill unless an equal one is stored; return whether it was new."""

    def record_many(self, fills: Iterable[Fill]) -> list[bool]:
        """Store the fills of which no equal one is stored, all or none; return for each whether it was new."""

    def get_by_trade(self, trade_id: str, *, account: str | None = None) -> list[Fill]:
        """Return the fills of a trade, ordered by timestamp, then id; oldest first."""

    def get_range(
        self,
        start: datetime,
        end: datetime,
        *,
        symbol: str | None = None,
        exchange: str | None = "binance",
        account: str | None = None,
    ) -> list[Fill]:
        """Return the fills with start <= timestamp <= end, oldest first."""

    def stream(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        batch_size: int = 1000,
    ) -> SyncStream[list[Fill]]:
        """Return a stream of the fills, or only of those of a symbol, exchange or time window, in constant memory, as lists."""

    def write_arrow(
        self, data: ArrowData, *, symbol: str | None = None, exchange: str | None = None, decimals: Decimals | None = None
    ) -> int:
        """Record the fills of an Arrow table, record batches or a data frame; the rules of record_many apply."""

    def read_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        decimals: ReadDecimals | None = None,
    ) -> pa.Table:
        """Return all rows, or only those of a symbol, exchange or time window, as a pyarrow.Table, read from a snapshot."""

    def stream_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        batch_size: int = 65536,
        decimals: ReadDecimals | None = None,
    ) -> SyncStream[pa.RecordBatch]:
        """Return a stream of the rows of read_arrow, in constant memory, as record batches."""

class SyncLedgerRepository:
    """`iftb_store.LedgerRepository` for blocking code."""

    def __init__(self, session: SyncStore | SyncSession, *, account: str | None = None, clock: Clock = ...) -> None: ...
    def record(self, entry: LedgerEntry) -> bool:
        """Store an entry unless an equal one is stored; return whether it was new."""

    def record_many(self, entries: Iterable[LedgerEntry]) -> list[bool]:
        """Store the entries of which no equal one is stored, all or none; return for each whether it was new."""

    def get_range(
        self,
        start: datetime,
        end: datetime,
        *,
        kind: LedgerKind | None = None,
        currency: str | None = None,
        symbol: str | None = None,
        trade_id: str | None = None,
        exchange: str | None = "binance",
        account: str | None = None,
    ) -> list[LedgerEntry]:
        """Return the entries with start <= timestamp <= end, oldest first."""

    def get_sums(
        self,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        kind: LedgerKind | None = None,
        currency: str | None = None,
        symbol: str | None = None,
        trade_id: str | None = None,
        exchange: str | None = "binance",
        account: str | None = None,
    ) -> dict[str, dict[LedgerKind, Decimal]]:
        """Return the sums of the amounts by currency and kind, exact; amounts in two currencies are never added."""

    def stream(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        kind: LedgerKind | None = None,
        currency: str | None = None,
        batch_size: int = 1000,
    ) -> SyncStream[list[LedgerEntry]]:
        """Return a stream of the entries, or only of those with the given values, in constant memory, as lists."""

    def read_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        kind: LedgerKind | None = None,
        currency: str | None = None,
        decimals: ReadDecimals | None = None,
    ) -> pa.Table:
        """Return the rows of `stream` as a pyarrow.Table, read from a snapshot."""

    def stream_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        kind: LedgerKind | None = None,
        currency: str | None = None,
        batch_size: int = 65536,
        decimals: ReadDecimals | None = None,
    ) -> SyncStream[pa.RecordBatch]:
        """Return a stream of the rows of read_arrow, in constant memory, as record batches."""

    def write_arrow(self, data: ArrowData, *, exchange: str | None = None, decimals: Decimals | None = None) -> int:
        """Record the entries of an Arrow table, record batches or a data frame; the rules of record_many apply."""

class SyncBalanceRepository:
    """`iftb_store.BalanceRepository` for blocking code."""

    def __init__(self, session: SyncStore | SyncSession, *, account: str | None = None, clock: Clock = ...) -> None: ...
    def record(self, snapshot: BalanceSnapshot) -> bool:
        """Store a snapshot unless an equal one is stored; return whether it was new."""

    def record_many(self, snapshots: Iterable[BalanceSnapshot]) -> list[bool]:
        """Store the snapshots of which no equal one is stored, all or none; return for each whether it was new."""

    def get_range(
        self,
        start: datetime,
        end: datetime,
        *,
        currency: str | None = None,
        exchange: str | None = "binance",
        account: str | None = None,
    ) -> list[BalanceSnapshot]:
        """Return the snapshots with start <= timestamp <= end, oldest first."""

    def get_latest(
        self,
        at: datetime | None = None,
        *,
        currency: str | None = None,
        exchange: str | None = "binance",
        account: str | None = None,
    ) -> list[BalanceSnapshot]:
        """Return the newest snapshot of each exchange, account and currency at a time."""

    def stream(
        self,
        currency: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        batch_size: int = 1000,
    ) -> SyncStream[list[BalanceSnapshot]]:
        """Return a stream of the snapshots, or only of those with the given values, in constant memory, as lists."""

    def read_arrow(
        self,
        currency: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        decimals: ReadDecimals | None = None,
    ) -> pa.Table:
        """Return the rows of `stream` as a pyarrow.Table, read from a snapshot."""

    def stream_arrow(
        self,
        currency: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        batch_size: int = 65536,
        decimals: ReadDecimals | None = None,
    ) -> SyncStream[pa.RecordBatch]:
        """Return a stream of the rows of read_arrow, in constant memory, as record batches."""

    def write_arrow(self, data: ArrowData, *, exchange: str | None = None, decimals: Decimals | None = None) -> int:
        """Record the snapshots of an Arrow table, record batches or a data frame; the rules of record_many apply."""

class SyncSession:
    """A session of a store: its writes are committed together at the end of the block."""

    @property
    def ohlcv(self) -> SyncOHLCVRepository: ...
    @property
    def trades(self) -> SyncTradeRepository: ...
    @property
    def positions(self) -> SyncPositionRepository: ...
    @property
    def events(self) -> SyncSystemEventRepository: ...
    @property
    def fills(self) -> SyncFillRepository: ...
    @property
    def ledger(self) -> SyncLedgerRepository: ...
    @property
    def balances(self) -> SyncBalanceRepository: ...
    def execute(self, statement: Executable, params: Any = None, /) -> Result[*tuple[Any, ...],]:
        """Run one statement."""

    def scalar(self, statement: Executable, params: Any = None, /) -> Any:
        """Run one statement and return the first value of its first row, or None."""

    def scalars(self, statement: Executable, params: Any = None, /) -> ScalarResult[Any]:
        """Run one statement and return the first value of each row."""

    def commit(self) -> None:
        """Commit the writes so far; the session continues in a new transaction."""

    def rollback(self) -> None:
        """Roll back the writes since the last commit; the session continues in a new transaction."""

class SyncStore:
    """The database of a URL, see `iftb_store.DatabaseManager`; `open_store` opens it, ``with`` closes it at the block's end."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    @property
    def ohlcv(self) -> SyncOHLCVRepository: ...
    @property
    def trades(self) -> SyncTradeRepository: ...
    @property
    def positions(self) -> SyncPositionRepository: ...
    @property
    def events(self) -> SyncSystemEventRepository: ...
    @property
    def fills(self) -> SyncFillRepository: ...
    @property
    def ledger(self) -> SyncLedgerRepository: ...
    @property
    def balances(self) -> SyncBalanceRepository: ...
    def __init__(
        self,
        database_url: str | URL,
        pool_size: int = 5,
        max_overflow: int = 10,
        echo: bool = False,
        *,
        read_url: str | URL | None = None,
    ) -> None: ...
    @property
    def url(self) -> str:
        """The URL as text for messages, with the password hidden."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The optional capabilities that the backend declares."""

    @property
    def in_use(self) -> int:
        """The number of connections that sessions use at the moment, including those to a standby; 0 if no session uses one."""

    def identity(self) -> str:
        """Return a text that identifies the database tables."""

    def connect(self) -> None:
        """Open the database, also again after disconnect(). A second call has no effect."""

    def disconnect(self, grace: float = 10.0) -> None:
        """Refuse new sessions, wait for the open sessions to end, then close every connection. A second call has no effect."""

    def get_session(self, *, isolation: Isolation | None = None) -> AbstractContextManager[SyncSession]:
        """Open a session: ``with db.get_session() as session``."""

    def run(
        self, work: Callable[[SyncSession], T], *, retries: int = 8, isolation: Isolation | None = None, idempotent: bool = False
    ) -> T:
        """Run ``work(session)`` in a new transaction and return its result; retry it after a transient error."""

    def ping(self, within: float = 5.0) -> float:
        """Run one statement to check that the database answers; return the duration in seconds."""

    def health(self, within: float = 5.0) -> Health:
        """Check whether the database answers, has a usable schema and accepts writes; the check stores nothing."""

    def migrate(self) -> None:
        """Create the schema, or update an older schema to the revision of this version of iftb-store."""

    def create_tables(self) -> None:
        """Create the missing tables and record the newest revision; for tests and first steps."""

    def status(self) -> SchemaStatus:
        """Count the rows, and read the engine's version and the schema's revision."""

    def ability(self, protocol: type[A]) -> Any:
        """Return the backend, typed as the given optional protocol, e.g. ``db.ability(SupportsBackup)``."""

def backup(
    db: SyncStore, path: str | os.PathLike[str], *, overwrite: bool = False, progress: ProgressCallback | None = None
) -> BackupReport:
    """Write all tables to a file, as a snapshot, while sessions continue; return the file's size and row counts."""

def copy(
    source: SyncStore,
    destination: SyncStore,
    *,
    tables: str | Collection[str] = (),
    exchanges: str | Collection[str] = (),
    symbols: str | Collection[str] = (),
    timeframes: str | Collection[str] = (),
    accounts: str | Collection[str] = (),
    start: datetime | None = None,
    end: datetime | None = None,
    since: Since | None = None,
    on_conflict: Conflict = "source-wins",
    delete: bool = False,
    keep_ids: bool = False,
    full: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> CopyReport:
    """Copy the rows that are missing or different in another store, of any engine, then verify the copy."""

def copy_from(
    source: str | URL,
    destination: SyncStore,
    program: Program | None = None,
    *,
    tz: str | ZoneInfo | None = None,
    account: str = "",
    accept: bool = False,
    on_conflict: Conflict = "source-wins",
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> ForeignReport:
    """Copy another program's SQLite or PostgreSQL database into a store, and verify the copy; nothing is changed in it."""

def create_partitions(db: SyncStore, *, ahead: int = ..., start: datetime | None = None) -> tuple[str, ...]:
    """Create the partitions of the current and the coming months or years, and of those that have bars in the default partition."""

def examine(db: SyncStore) -> list[Finding]:
    """Check the rows, the ids and the schema, and report the problems; change nothing."""

def export_table(
    db: SyncStore,
    path: str | os.PathLike[str] | BinaryIO,
    *,
    table: str = ...,
    exchanges: str | Collection[str] = (),
    symbols: str | Collection[str] = (),
    timeframes: str | Collection[str] = (),
    accounts: str | Collection[str] = (),
    start: datetime | None = None,
    end: datetime | None = None,
    format: FileFormat | None = None,
    partitioned: bool = False,
    overwrite: bool = False,
    decimals: ReadDecimals | None = None,
    progress: ProgressCallback | None = None,
) -> ExportReport:
    """Write the rows of one table with all columns, including ids and times set by the store, in key order, to a file."""

def import_files(
    db: SyncStore,
    paths: Paths,
    *,
    symbol: str | None = None,
    timeframe: str | None = None,
    exchange: str | None = None,
    insert: bool = False,
    on_conflict: Conflict = "source-wins",
    new_ids: bool = False,
    columns: Columns | None = None,
    skip_empty: bool = False,
    tz: str | ZoneInfo | None = None,
    fold: Literal["earlier", "later"] | None = None,
    decimals: Decimals | None = None,
    progress: ProgressCallback | None = None,
) -> ImportReport:
    """Store the rows of files: exports of iftb-store, candles from Binance, freqtrade, ccxt, pandas or Polars, and databases."""

def list_partitions(db: SyncStore) -> Partitioning:
    """Return how the table of bars is divided into partitions, and their sizes."""

def partition_bars(
    db: SyncStore, by: str = "month", *, ahead: int = ..., progress: ProgressCallback | None = None
) -> Partitioning:
    """Divide the table of bars into partitions; readers and writers continue meanwhile."""

def prune(
    db: SyncStore,
    older_than: Since,
    tables: str | Collection[str],
    exchange: str | None = None,
    symbol: str | None = None,
    timeframe: str | None = None,
    *,
    keep_daily: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> PruneReport:
    """Delete old rows in batches, each in its own transaction, while others read and write."""

def report(
    db: SyncStore,
    path: str | os.PathLike[str] | None = None,
    *,
    exchange: str | None = None,
    symbol: str | None = None,
    side: Side | None = None,
    timeframe: Timeframe | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    starting_balance: Decimal | None = None,
    fees: Fees = "apart",
    tz: tzinfo = ...,
    title: str = "Trading report",
    overwrite: bool = False,
) -> HtmlReport:
    """Write a report as one HTML file: figures, equity, candles with the trades, results by month and day, coverage, errors."""

def restore(
    path: str | os.PathLike[str], db: SyncStore, *, overwrite: bool = False, progress: ProgressCallback | None = None
) -> RestoreReport:
    """Restore a backup into a store of any engine, with all ids and times, and verify the result."""

def rollup(
    db: SyncStore,
    source: Timeframe,
    target: Timeframe,
    *,
    exchange: str | None = None,
    symbol: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    partial: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> RollupReport:
    """Compute the bars of a longer timeframe that are missing, and store them; they remain when the shorter ones are pruned."""

def verify(
    source: SyncStore,
    destination: SyncStore,
    *,
    tables: str | Collection[str] = (),
    exchanges: str | Collection[str] = (),
    symbols: str | Collection[str] = (),
    timeframes: str | Collection[str] = (),
    accounts: str | Collection[str] = (),
    start: datetime | None = None,
    end: datetime | None = None,
    since: Since | None = None,
    progress: ProgressCallback | None = None,
) -> VerifyReport:
    """Compare the rows of two stores by counts and checksums of their values, and find the first rows that differ."""

def open_store(
    database_url: str | URL, pool_size: int = 5, max_overflow: int = 10, echo: bool = False, *, read_url: str | URL | None = None
) -> SyncStore:
    """Open a database for blocking code; a ``with`` block closes it at its end."""
