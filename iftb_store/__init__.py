"""One async storage API for a trading bot on PostgreSQL, SQLite and DuckDB; the URL's scheme chooses the engine."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from iftb_store.errors import (
    AmbiguousPositionError,
    CommitOutcomeUnknown,
    ConfigurationError,
    InvalidValueError,
    MissingDriverError,
    NotConnectedError,
    NotFoundError,
    PositionClosedError,
    SchemaError,
    StoreError,
    TradeConflictError,
    TransientError,
    Unsupported,
    URLError,
)
from iftb_store.health import Health, SchemaState, SchemaStatus
from iftb_store.manager import DatabaseManager
from iftb_store.models import OHLCVBar, Position, Series, SystemEvent, Trade, TradeChanges, TradeStatistics, UpsertReport
from iftb_store.protocols import Capability, Isolation, Session
from iftb_store.repositories.events import SystemEventRepository
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.repositories.positions import PositionRepository
from iftb_store.repositories.streams import Stream
from iftb_store.repositories.trades import TradeRepository
from iftb_store.schema.tables import Base
from iftb_store.values.choices import Action, Decimals, PositionStatus, Severity, Side
from iftb_store.values.decimals import quantize
from iftb_store.values.timeframes import TIMEFRAMES, Timeframe, check_timeframe

if TYPE_CHECKING:
    from iftb_store.config import Settings, get_settings
    from iftb_store.doctor import Finding, examine
    from iftb_store.transfer.backup import Backup, backup

__all__ = [
    "TIMEFRAMES",
    "Action",
    "AmbiguousPositionError",
    "Backup",
    "Base",
    "Capability",
    "CommitOutcomeUnknown",
    "ConfigurationError",
    "DatabaseManager",
    "Decimals",
    "Finding",
    "Health",
    "InvalidValueError",
    "Isolation",
    "MissingDriverError",
    "NotConnectedError",
    "NotFoundError",
    "OHLCVBar",
    "OHLCVRepository",
    "Position",
    "PositionClosedError",
    "PositionRepository",
    "PositionStatus",
    "SchemaError",
    "SchemaState",
    "SchemaStatus",
    "Series",
    "Session",
    "Settings",
    "Severity",
    "Side",
    "StoreError",
    "Stream",
    "SystemEvent",
    "SystemEventRepository",
    "Timeframe",
    "Trade",
    "TradeChanges",
    "TradeConflictError",
    "TradeRepository",
    "TradeStatistics",
    "TransientError",
    "URLError",
    "Unsupported",
    "UpsertReport",
    "backup",
    "check_timeframe",
    "examine",
    "get_settings",
    "quantize",
]

__version__ = "0.1.0"


# imported at first use, because pydantic-settings and pyarrow are slow to import and many bots do not need them
_LAZY = {
    "Backup": "iftb_store.transfer.backup",
    "Finding": "iftb_store.doctor",
    "Settings": "iftb_store.config",
    "backup": "iftb_store.transfer.backup",
    "examine": "iftb_store.doctor",
    "get_settings": "iftb_store.config",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
