"""The repository of system events."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from iftb_store.models import SystemEvent
from iftb_store.repositories.base import RecordRepository, check_fields
from iftb_store.schema.row_checks import EVENT_CHECKS
from iftb_store.schema.scope import make_filter
from iftb_store.schema.table_spec import EVENTS, RowFilter
from iftb_store.values import checks
from iftb_store.values.choices import Severity


class SystemEventRepository(RecordRepository):
    """Reads and writes the log of system events.

    Events are only added, never changed. Naive times are UTC, and returned times are aware UTC. With a manager, each call is a
    separate transaction; with a session, the writes are committed at the session's end.

    Besides its listed errors, each method raises NotConnectedError before connect(), SchemaError if the database has no
    tables of iftb-store, and OperationalError if the database fails (TransientError if a new attempt may succeed).

    Example:
        # the examples of the methods use this name
        events = SystemEventRepository(db)
        [event.event_type for event in await events.get_events()]  # -> ['trade_opened', 'order_refused']
    """

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
        *,
        at: datetime | None = None,
    ) -> None:
        """Append an event.

        Args:
            event_type: a name for this kind of event, e.g. "order_refused".
            severity: debug, info, warning, error or critical.
            message: the event in words.
            details: a JSON object; Decimals and datetimes in it become strings. None: no details.
            symbol: the symbol that the event concerns; None: none.
            exchange: the exchange that the event concerns; None: none.
            trade_id: the bot's trade_id of the trade that the event concerns, which need not be stored yet; None: none.
            position_id: the id of the position that the event concerns; None: none.
            stack_trace: the traceback of an error; None: none.
            at: the time at which the event happened, which becomes its created_at, by which events are ordered; a naive time
                is UTC. None: the current time.

        Raises:
            InvalidValueError: a value cannot be stored.

        Example:
            await events.log_event("order_filled", "info", "bought 0.01", {"price": Decimal("42600.5")}, symbol="BTCUSDT")
            [newest] = await events.get_recent_events(limit=1)
            newest.details  # -> {'price': '42600.5'}
        """
        given = SystemEvent(event_type, severity, message, details, symbol, exchange, trade_id, position_id, stack_trace)
        event = self._assign_account(check_fields(given, SystemEvent, EVENT_CHECKS))
        moment = self._now() if at is None else checks.utc(at, "at")
        async with self._stores() as stores:
            await stores.records.insert(EVENTS, replace(event, created_at=moment))

    async def get_recent_events(
        self, severity: Severity | None = None, limit: int = 100, *, account: str | None = None
    ) -> list[SystemEvent]:
        """Return the newest events of one severity, or of all severities, ordered by created_at, then id; newest first.

        Args:
            severity: only events of exactly this severity; None: of all.
            limit: the maximum number of events, at least 1.
            account: only events of this account; None: of the repository's account, or of all.

        Returns:
            The events; empty if there are none.

        Raises:
            InvalidValueError: limit is below 1, the severity is unknown, or the account is not text that can be stored.

        Example:
            [event.message for event in await events.get_recent_events("error")]  # -> ['not enough margin']
        """
        equal = {} if severity is None else {"severity": EVENT_CHECKS["severity"](severity, "severity")}
        count = checks.integer(limit, "limit", least=1)
        chosen = self._choose_account(account)
        return await self._read(
            lambda stores: stores.records.select(RowFilter(EVENTS, equal | chosen, limit=count), descending=True)
        )

    async def get_events(
        self,
        *,
        event_type: str | None = None,
        symbol: str | None = None,
        trade_id: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        account: str | None = None,
    ) -> list[SystemEvent]:
        """Return all events, or only those with the given values, of all exchanges; oldest first.

        Args:
            event_type: only events of this type; None: of all.
            symbol: only events of this symbol; None: of all.
            trade_id: only events of the trade with this trade_id of the bot, stored or not; None: of all.
            start: start of the time window, inclusive; it applies to created_at, and a naive time is UTC. None: no limit.
            end: end of the time window, inclusive. None: no limit.
            account: only events of this account; None: of the repository's account, or of all.

        Returns:
            The events, ordered by created_at, then id; empty if there are none.

        Raises:
            InvalidValueError: start is after end, or a value is one that no event can have.

        Example:
            [event.message for event in await events.get_events(trade_id="T-2")]  # -> ['long 0.01 BTCUSDT']
        """
        window = make_filter(EVENTS, start, end, **self._choose_account(account))
        given = {"event_type": event_type, "symbol": symbol, "trade_id": trade_id}
        equal = {name: EVENT_CHECKS[name](value, name) for name, value in given.items() if value is not None}
        return await self._read(lambda stores: stores.records.select(replace(window, equal=window.equal | equal)))
