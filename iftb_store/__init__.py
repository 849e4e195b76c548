"""One async storage API for a trading bot on PostgreSQL, SQLite and DuckDB; the URL's scheme chooses the engine."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from iftb_store._version import __version__ as __version__
from iftb_store.analytics.fills import FillSummary, add_up_fills
from iftb_store.errors import (
    AmbiguousPositionError,
    BalanceConflictError,
    CollisionError,
    CommitOutcomeUnknown,
    ConfigurationError,
    FillConflictError,
    InvalidValueError,
    LedgerConflictError,
    MissingDriverError,
    NotConnectedError,
    NotFoundError,
    PartialWriteError,
    PositionClosedError,
    PositionConflictError,
    SchemaError,
    StoreError,
    TradeConflictError,
    TransientError,
    Unsupported,
    URLError,
)
from iftb_store.health import BarPartition, Health, Partitioning, SchemaState, SchemaStatus
from iftb_store.manager import DatabaseManager
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
from iftb_store.protocols import Capability, Isolation, Session
from iftb_store.repositories.balances import BalanceRepository
from iftb_store.repositories.events import SystemEventRepository
from iftb_store.repositories.fills import FillRepository
from iftb_store.repositories.ledger import LedgerRepository
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.repositories.positions import PositionRepository
from iftb_store.repositories.streams import Stream
from iftb_store.repositories.trades import TradeRepository
from iftb_store.schema.tables import Base
from iftb_store.values.choices import (
    Action,
    Conflict,
    Decimals,
    Fees,
    FillSide,
    LedgerKind,
    Liquidity,
    PositionStatus,
    ReadDecimals,
    Severity,
    Side,
)
from iftb_store.values.decimals import quantize
from iftb_store.values.timeframes import TIMEFRAMES, Timeframe, check_timeframe

if TYPE_CHECKING:
    from iftb_store.analytics.figures import (
        DayResult,
        Drawdown,
        EquityPoint,
        GroupFigures,
        PerformanceReport,
        PeriodFigures,
    )
    from iftb_store.config import Settings, get_settings
    from iftb_store.doctor import Finding, examine
    from iftb_store.files.export import ExportReport, export_table
    from iftb_store.files.formats import FileFormat
    from iftb_store.files.import_files import ImportReport, RefusedFile, RefusedFilesError, import_files
    from iftb_store.files.imported import ImportedFile
    from iftb_store.foreign.functions import copy_from
    from iftb_store.foreign.reports import ForeignReport, Program, RefusedRow
    from iftb_store.html_report.functions import HtmlReport, report
    from iftb_store.maintenance.partitions import create_partitions, list_partitions, partition_bars
    from iftb_store.maintenance.prune import prune
    from iftb_store.maintenance.reports import PrunedPart, PruneReport, RolledUpSeries, RollupReport
    from iftb_store.maintenance.rollup import rollup
    from iftb_store.transfer.backup import backup
    from iftb_store.transfer.functions import copy, restore, verify
    from iftb_store.transfer.progress import ProgressCallback
    from iftb_store.transfer.reports import BackupReport, CopiedPart, CopyReport, RestoreReport, VerifiedPart, VerifyReport
    from iftb_store.transfer.verify import Contents, Difference
    from iftb_store.values.times import Since

__all__ = [
    "TIMEFRAMES",
    "Action",
    "AmbiguousPositionError",
    "BackupReport",
    "BalanceConflictError",
    "BalanceRepository",
    "BalanceSnapshot",
    "BarPartition",
    "Base",
    "Capability",
    "CollisionError",
    "CommitOutcomeUnknown",
    "ConfigurationError",
    "Conflict",
    "Contents",
    "CopiedPart",
    "CopyReport",
    "DatabaseManager",
    "DayResult",
    "Decimals",
    "Difference",
    "Drawdown",
    "EquityPoint",
    "ExportReport",
    "Fees",
    "FileFormat",
    "Fill",
    "FillConflictError",
    "FillRepository",
    "FillSide",
    "FillSummary",
    "Finding",
    "ForeignReport",
    "GroupFigures",
    "Health",
    "HtmlReport",
    "ImportReport",
    "ImportedFile",
    "InvalidValueError",
    "Isolation",
    "LedgerConflictError",
    "LedgerEntry",
    "LedgerKind",
    "LedgerRepository",
    "Liquidity",
    "MissingDriverError",
    "NotConnectedError",
    "NotFoundError",
    "OHLCVBar",
    "OHLCVRepository",
    "PartialWriteError",
    "Partitioning",
    "PerformanceReport",
    "PeriodFigures",
    "Position",
    "PositionClosedError",
    "PositionConflictError",
    "PositionRepository",
    "PositionStatus",
    "Program",
    "ProgressCallback",
    "PruneReport",
    "PrunedPart",
    "ReadDecimals",
    "RefusedFile",
    "RefusedFilesError",
    "RefusedRow",
    "RestoreReport",
    "RolledUpSeries",
    "RollupReport",
    "SchemaError",
    "SchemaState",
    "SchemaStatus",
    "Series",
    "SeriesSpan",
    "Session",
    "Settings",
    "Severity",
    "Side",
    "Since",
    "StoreError",
    "Stream",
    "SystemEvent",
    "SystemEventRepository",
    "Timeframe",
    "Trade",
    "TradeChanges",
    "TradeConflictError",
    "TradeFilters",
    "TradeRepository",
    "TradeStatistics",
    "TransientError",
    "URLError",
    "Unsupported",
    "UpsertReport",
    "VerifiedPart",
    "VerifyReport",
    "add_up_fills",
    "backup",
    "check_timeframe",
    "copy",
    "copy_from",
    "create_partitions",
    "examine",
    "export_table",
    "get_settings",
    "import_files",
    "list_partitions",
    "partition_bars",
    "prune",
    "quantize",
    "report",
    "restore",
    "rollup",
    "verify",
]

# imported at first use, because pydantic-settings and pyarrow are slow to import and many bots do not need them
_LAZY = {
    "iftb_store.analytics.figures": (
        "DayResult",
        "Drawdown",
        "EquityPoint",
        "GroupFigures",
        "PerformanceReport",
        "PeriodFigures",
    ),
    "iftb_store.config": ("Settings", "get_settings"),
    "iftb_store.doctor": ("Finding", "examine"),
    "iftb_store.files.export": ("ExportReport", "export_table"),
    "iftb_store.files.formats": ("FileFormat",),
    "iftb_store.files.imported": ("ImportedFile",),
    "iftb_store.files.import_files": ("ImportReport", "RefusedFile", "RefusedFilesError", "import_files"),
    "iftb_store.foreign.functions": ("copy_from",),
    "iftb_store.foreign.reports": ("ForeignReport", "Program", "RefusedRow"),
    "iftb_store.maintenance.partitions": ("create_partitions", "list_partitions", "partition_bars"),
    "iftb_store.maintenance.prune": ("prune",),
    "iftb_store.maintenance.reports": ("PruneReport", "PrunedPart", "RolledUpSeries", "RollupReport"),
    "iftb_store.maintenance.rollup": ("rollup",),
    "iftb_store.html_report.functions": ("HtmlReport", "report"),
    "iftb_store.transfer.backup": ("backup",),
    "iftb_store.transfer.functions": ("copy", "restore", "verify"),
    "iftb_store.transfer.progress": ("ProgressCallback",),
    "iftb_store.transfer.reports": ("BackupReport", "CopiedPart", "CopyReport", "RestoreReport", "VerifiedPart", "VerifyReport"),
    "iftb_store.transfer.verify": ("Contents", "Difference"),
    "iftb_store.values.times": ("Since",),
}
_MODULES = {name: module for module, names in _LAZY.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
