"""One async storage API for a trading bot on PostgreSQL, SQLite and DuckDB; the URL's scheme chooses the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iftb_store.decimals import quantize
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
from iftb_store.manager import DatabaseManager
from iftb_store.models import OHLCVBar, Position, Series, SystemEvent, Trade, TradeStatistics, UpsertReport
from iftb_store.ohlcv import OHLCVRepository
from iftb_store.repositories import PositionRepository, SystemEventRepository, TradeRepository
from iftb_store.tables import Base
from iftb_store.timeframes import TIMEFRAMES

if TYPE_CHECKING:
    from iftb_store.config import Settings, get_settings

__all__ = [
    "TIMEFRAMES",
    "AmbiguousPositionError",
    "Base",
    "CommitOutcomeUnknown",
    "ConfigurationError",
    "DatabaseManager",
    "InvalidValueError",
    "MissingDriverError",
    "NotConnectedError",
    "NotFoundError",
    "OHLCVBar",
    "OHLCVRepository",
    "Position",
    "PositionClosedError",
    "PositionRepository",
    "SchemaError",
    "Series",
    "Settings",
    "StoreError",
    "SystemEvent",
    "SystemEventRepository",
    "Trade",
    "TradeConflictError",
    "TradeRepository",
    "TradeStatistics",
    "TransientError",
    "URLError",
    "Unsupported",
    "UpsertReport",
    "get_settings",
    "quantize",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # pydantic-settings takes longer to import than all else here, and many bots have no use for it
    if name in ("Settings", "get_settings"):
        from iftb_store import config

        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
