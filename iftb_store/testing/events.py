"""Tests of system events, and of the JSON objects in them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from iftb_store import DatabaseManager, InvalidValueError, Severity, SystemEvent, SystemEventRepository
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, needs, requires
from iftb_store.testing.samples import HOUR, INDIA, NOW, Clock, as_given

_JSON: list[dict[str, Any]] = [
    {},
    {"price": 50000, "quantity": 0.01},
    {"none": None, "yes": True, "no": False, "empty": "", "list": [], "nested": {"a": {"b": [1, [2, {"c": None}]]}}},
    {"large": 2**200, "negative": -(2**63), "tiny": 5e-324, "third": 1 / 3, "huge": 1.7976931348623157e308},
    {"": "an empty key", "ключ": "\N{ROCKET} \u00e9 e\u0301", 'quote"\\slash': "tab\t newline\n \u2028 \x01 \x7f"},
    {"z": 1, "a": 2, "m": 3},
]
_REFUSED: list[tuple[str, Any]] = [
    ("event_type", ""),
    ("severity", "fatal"),
    ("severity", None),
    ("message", None),
    ("message", 5),
    ("details", ["a"]),
    ("details", "text"),
    ("symbol", ""),
    ("trade_id", 5),
    ("position_id", "7"),
    ("position_id", -1),
    ("stack_trace", b"bytes"),
]


class LogTests(SuiteFixtures):
    """log_event stores events, and get_recent_events returns them newest first."""

    async def test_an_event_comes_back_with_every_field(self, db: DatabaseManager, clock: Clock) -> None:
        await SystemEventRepository(db, clock=clock).log_event(
            event_type="trade_executed",
            severity="warning",
            message="Trade executed, late",
            details={"price": 50000, "quantity": 0.01},
            symbol="BTCUSDT",
            exchange="binance",
            trade_id="TRD-404",
            position_id=7,
            stack_trace='Traceback\n  File "bot.py"',
        )
        (found,) = await SystemEventRepository(db).get_recent_events()
        expected = SystemEvent(
            "trade_executed",
            "warning",
            "Trade executed, late",
            {"price": 50000, "quantity": 0.01},
            "BTCUSDT",
            "binance",
            "TRD-404",
            7,
            'Traceback\n  File "bot.py"',
        )
        assert as_given(found) == expected
        assert found.created_at == NOW
        assert isinstance(found.id, int)

    async def test_an_event_with_nothing_optional_comes_back_with_none(self, db: DatabaseManager) -> None:
        await SystemEventRepository(db).log_event("start", "info", "")
        (found,) = await SystemEventRepository(db).get_recent_events()
        assert as_given(found) == SystemEvent("start", "info", "")

    async def test_raw_sql_reads_the_event_that_was_logged(self, db: DatabaseManager, clock: Clock) -> None:
        await SystemEventRepository(db, clock=clock).log_event("start", "info", "up", {"pid": 7}, position_id=2**40)
        sql = "SELECT event_type, message, details, position_id, created_at, stack_trace FROM system_events"
        ((kind, message, details, number, created, trace),) = await raw.fetch(db, sql)
        assert (kind, message, raw.json_value(details), number, raw.moment(created), trace) == (
            "start",
            "up",
            {"pid": 7},
            2**40,
            NOW,
            None,
        )

    async def test_no_details_are_null_and_not_the_json_null(self, db: DatabaseManager) -> None:
        await SystemEventRepository(db).log_event("start", "info", "up")
        assert await raw.value(db, "SELECT count(*) FROM system_events WHERE details IS NULL") == 1

    async def test_events_can_be_read_by_severity(self, db: DatabaseManager) -> None:
        severities: list[Severity] = ["debug", "info", "warning", "error", "critical"]
        repository = SystemEventRepository(db)
        for severity in severities:
            await repository.log_event("x", severity, severity)
        found = [await repository.get_recent_events(severity=severity) for severity in severities]
        assert [[item.message for item in items] for items in found] == [[severity] for severity in severities]

    async def test_events_are_newest_first(self, db: DatabaseManager, clock: Clock) -> None:
        repository = SystemEventRepository(db, clock=clock)
        await repository.log_event("x", "info", "middle")
        clock.advance(HOUR)
        await repository.log_event("x", "info", "newest")
        clock.advance(-2 * HOUR)
        await repository.log_event("x", "info", "oldest")
        assert [item.message for item in await repository.get_recent_events()] == ["newest", "middle", "oldest"]

    async def test_events_of_one_time_come_newest_id_first(self, db: DatabaseManager, clock: Clock) -> None:
        repository = SystemEventRepository(db, clock=clock)
        for message in ("first", "second", "third"):
            await repository.log_event("x", "error", message)
        found = [item.message for item in await repository.get_recent_events()]
        assert found == ["third", "second", "first"], f"events with the same time must be returned by id, greatest first: {found}"
        assert [item.message for item in await repository.get_recent_events("error", 2)] == ["third", "second"]

    async def test_the_limit_applies_within_the_severity(self, db: DatabaseManager) -> None:
        for severity in ("error", "info", "info"):
            await SystemEventRepository(db).log_event("x", severity, severity)
        assert len(await SystemEventRepository(db).get_recent_events(severity="error", limit=1)) == 1

    async def test_reading_events_refuses_a_limit_that_is_no_whole_number_from_1(self, db: DatabaseManager) -> None:
        repository = SystemEventRepository(db)
        cases = [("limit", limit) for limit in (0, -1, True, 1.5, None)]
        await assert_refused(lambda _, limit: repository.get_recent_events(limit=limit), cases)

    async def test_reading_events_refuses_an_unknown_severity(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="severity"):
            await SystemEventRepository(db).get_recent_events(severity="fatal")  # type: ignore[arg-type]

    async def test_an_event_that_cannot_be_stored_is_refused_by_name(self, db: DatabaseManager) -> None:
        repository = SystemEventRepository(db)
        event: dict[str, Any] = {"event_type": "x", "severity": "info", "message": "m"}
        await assert_refused(lambda field, value: repository.log_event(**{**event, field: value}), _REFUSED)
        assert await raw.count(db, "system_events") == 0

    async def test_the_database_refuses_an_unknown_severity_from_raw_sql(self, db: DatabaseManager) -> None:
        needs(db, Capability.CHOICES)
        with pytest.raises(IntegrityError):
            await raw.run(db, "INSERT INTO system_events (event_type, severity, message) VALUES ('x', 'fatal', 'm')")
        assert await raw.count(db, "system_events") == 0

    async def test_raw_sql_may_leave_id_and_created_at_to_the_database(self, db: DatabaseManager) -> None:
        await raw.run(db, "INSERT INTO system_events (event_type, severity, message) VALUES ('x', 'info', 'm')")
        (found,) = await SystemEventRepository(db).get_recent_events()
        assert isinstance(found.id, int)
        assert found.created_at is not None
        assert found.created_at > datetime(2020, 1, 1, tzinfo=UTC)


class JSONTests(SuiteFixtures):
    """A JSON column returns the object that was stored in it."""

    async def test_json_comes_back_as_it_went_in_with_its_keys_in_order(self, db: DatabaseManager) -> None:
        repository = SystemEventRepository(db, clock=Clock())
        for details in _JSON:
            await repository.log_event("x", "info", "m", details)
        found = [item.details or {} for item in (await repository.get_recent_events())[::-1]]
        assert found == _JSON
        assert [list(details) for details in found] == [list(details) for details in _JSON]

    async def test_json_keeps_whole_numbers_and_floats_apart(self, db: DatabaseManager) -> None:
        await SystemEventRepository(db).log_event("x", "info", "m", {"int": 1, "float": 1.0})
        (found,) = await SystemEventRepository(db).get_recent_events()
        assert found.details is not None
        assert (type(found.details["int"]), type(found.details["float"])) == (int, float)

    async def test_decimals_and_datetimes_in_json_become_strings(self, db: DatabaseManager) -> None:
        await SystemEventRepository(db).log_event(
            "x", "info", "m", {"price": Decimal("50000.10"), "at": [NOW, NOW.astimezone(INDIA)]}
        )
        (found,) = await SystemEventRepository(db).get_recent_events()
        assert found.details == {
            "price": "50000.10",
            "at": ["2024-03-15T12:30:45.123456+00:00", "2024-03-15T18:00:45.123456+05:30"],
        }

    async def test_tuples_in_json_become_lists(self, db: DatabaseManager) -> None:
        await SystemEventRepository(db).log_event("x", "info", "m", {"pair": (1, 2)})
        (found,) = await SystemEventRepository(db).get_recent_events()
        assert found.details == {"pair": [1, 2]}

    async def test_what_json_cannot_hold_is_an_error(self, db: DatabaseManager) -> None:
        repository = SystemEventRepository(db)
        values = [object(), {1, 2}, b"bytes", float("nan"), float("inf"), 1j, "\0", "\ud800", {1: "a"}, {"a\0": 1}]
        cases = [("details", value) for value in values]
        await assert_refused(lambda _, value: repository.log_event("x", "info", "m", {"value": [value]}), cases)
        assert await raw.count(db, "system_events") == 0

    async def test_logging_does_not_change_the_callers_details(self, db: DatabaseManager) -> None:
        details = {"price": Decimal("1.50"), "pair": (1, 2)}
        await SystemEventRepository(db).log_event("x", "info", "m", details)
        assert details == {"price": Decimal("1.50"), "pair": (1, 2)}


@requires(Capability.RECORDS)
class EventTests(LogTests, JSONTests):
    """All tests of events."""
