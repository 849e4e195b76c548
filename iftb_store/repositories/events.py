"""The repository of system events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iftb_store.models import SystemEvent
from iftb_store.repositories.base import RecordRepository
from iftb_store.schema.row_checks import EVENT_CHECKS
from iftb_store.schema.table_spec import EVENTS
from iftb_store.values import checks
from iftb_store.values.choices import Severity


class SystemEventRepository(RecordRepository):
    """Reads and writes the log of system events."""

    _scanned = EVENTS

    async def log_event(
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
    ) -> None:
        """Append an event with the current time.

        ``severity`` is debug, info, warning, error or critical. ``details`` is a JSON object; Decimals and datetimes in
        it become strings. ``trade_id`` is the trade_id of a trade, which need not be stored yet.

        Raises:
            InvalidValueError: a value cannot be stored.
        """
        given = (event_type, severity, message, details, symbol, exchange, trade_id, position_id, stack_trace)
        event = SystemEvent(*(check(value, name) for (name, check), value in zip(EVENT_CHECKS.items(), given, strict=True)))
        async with self._stores() as stores:
            await stores.records.insert(EVENTS, replace(event, created_at=self._now()))

    async def get_recent_events(self, severity: Severity | None = None, limit: int = 100) -> list[SystemEvent]:
        """Return the newest events of one severity, or of all severities, ordered by created_at, then id; newest first.

        Raises:
            InvalidValueError: limit is below 1, or the severity is unknown.
        """
        equal = {} if severity is None else {"severity": EVENT_CHECKS["severity"](severity, "severity")}
        count = checks.integer(limit, "limit", least=1)
        async with self._stores() as stores:
            return await stores.records.select(EVENTS, equal, descending=True, limit=count)
