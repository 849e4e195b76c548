"""Tests of positions: at most one is open per (exchange, symbol, side), and a closed position never changes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from iftb_store import (
    AmbiguousPositionError,
    DatabaseManager,
    InvalidValueError,
    NotFoundError,
    Position,
    PositionClosedError,
    PositionConflictError,
    PositionRepository,
    PositionStatus,
    Side,
)
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, describe_error, find_error, needs, requires
from iftb_store.testing.samples import HOUR, NOW, T0, Clock, as_given, full_position, position

_UNKNOWN_ID = 987_654
_COLUMNS = "symbol, exchange, side, entry_price, quantity, margin, entry_time, leverage"
_REFUSED: list[tuple[str, Any]] = [
    ("side", "up"),
    ("status", "done"),
    ("status", None),
    ("symbol", ""),
    ("margin", None),
    ("margin", 1.5),
    ("entry_time", None),
    ("leverage", "5"),
    ("trade_id", ""),
    ("id", -1),
    ("id", "1"),
]


async def opened(db: DatabaseManager, given: Position | None = None) -> Position:
    """Store a position, by default the sample position, and return the position that is read back."""
    new = given or position()
    await PositionRepository(db, clock=Clock()).update_position(new)
    found = await PositionRepository(db).get_position(new.symbol, new.exchange, side=new.side)
    assert found is not None
    return found


def id_of(item: Position) -> int:
    """Return the id of a position that was read from the store."""
    assert item.id is not None
    return item.id


class StorePositionTests(SuiteFixtures):
    """update_position of an object without an id inserts or replaces the open position of the same key."""

    async def test_a_position_comes_back_as_it_went_in(self, db: DatabaseManager) -> None:
        assert as_given(await opened(db, full_position())) == full_position()

    async def test_a_position_with_nothing_optional_comes_back_with_none(self, db: DatabaseManager) -> None:
        assert as_given(await opened(db)) == position()

    async def test_raw_sql_reads_the_position_that_was_stored(self, db: DatabaseManager) -> None:
        await opened(db, full_position())
        ((moment, margin, status, trade_id),) = await raw.fetch(db, "SELECT entry_time, margin, status, trade_id FROM positions")
        assert (raw.moment(moment), raw.number(margin), status, trade_id) == (T0, Decimal("540.09"), "open", "TRD-ETH-1")

    async def test_storing_an_open_position_again_updates_every_field(self, db: DatabaseManager) -> None:
        await opened(db, full_position())
        key = {"symbol": "ETHUSDT", "exchange": "kraken", "side": "short", "account": "bot-a"}
        changed = position(**key, margin=Decimal("1.5"), entry_time=T0 + HOUR)
        assert as_given(await opened(db, changed)) == changed
        assert await raw.count(db, "positions") == 1

    async def test_storing_again_keeps_id_and_created_at_and_moves_last_updated(self, db: DatabaseManager, clock: Clock) -> None:
        before = await opened(db)
        clock.advance(HOUR)
        await PositionRepository(db, clock=clock).update_position(position(margin=Decimal(7)))
        (after,) = await PositionRepository(db).get_open_positions()
        assert (after.id, after.created_at, after.last_updated) == (before.id, NOW, NOW + HOUR)

    async def test_a_new_position_has_the_clocks_time(self, db: DatabaseManager) -> None:
        found = await opened(db, position(created_at=T0, last_updated=T0))
        assert (found.created_at, found.last_updated) == (NOW, NOW)

    async def test_other_sides_symbols_and_exchanges_are_separate_positions(self, db: DatabaseManager) -> None:
        await opened(db)
        await opened(db, position(side="short"))
        await opened(db, position(symbol="ETHUSDT"))
        await opened(db, position(exchange="kraken"))
        assert await raw.count(db, "positions") == 4

    async def test_storing_does_not_change_the_callers_position(self, db: DatabaseManager) -> None:
        given = position(entry_time=datetime(2024, 1, 1), leverage=Decimal(1) / 3)
        before = replace(given)
        await PositionRepository(db).update_position(given)
        assert given == before
        assert given.entry_time.tzinfo is None

    async def test_many_tasks_storing_one_position_leave_one_open(self, db: DatabaseManager) -> None:
        repository = PositionRepository(db)
        await asyncio.gather(*(repository.update_position(position(margin=Decimal(index))) for index in range(1, 9)))
        assert await raw.count(db, "positions") == 1

    async def test_storing_a_position_as_closed_closes_the_open_one(self, db: DatabaseManager) -> None:
        await opened(db)
        await PositionRepository(db).update_position(position(status="closed"))
        assert await raw.fetch(db, "SELECT status FROM positions") == [("closed",)]

    async def test_a_position_of_another_trade_is_not_replaced(self, db: DatabaseManager) -> None:
        before = await opened(db, full_position())
        given = replace(full_position(), trade_id="TRD-2", margin=Decimal(7))
        error = await find_error(PositionRepository(db).update_position(given))
        assert isinstance(error, PositionConflictError), (
            f"an open position of another trade must not be replaced: {describe_error(error)}"
        )
        assert ("'TRD-ETH-1'" in str(error), "'TRD-2'" in str(error), error.trade_id) == (True, True, "TRD-ETH-1")
        assert await PositionRepository(db).get_open_positions("kraken") == [before]

    async def test_a_position_of_another_trade_is_not_closed_either(self, db: DatabaseManager) -> None:
        before = await opened(db, full_position())
        with pytest.raises(PositionConflictError, match="replace=True"):
            await PositionRepository(db).update_position(replace(full_position(), trade_id="TRD-2", status="closed"))
        assert await PositionRepository(db).get_open_positions("kraken") == [before]

    @pytest.mark.parametrize("status", ["open", "closed"])
    async def test_replace_takes_over_a_position_of_another_trade(self, db: DatabaseManager, status: PositionStatus) -> None:
        before = await opened(db, full_position())
        given = replace(full_position(), trade_id="TRD-2", status=status)
        await PositionRepository(db).update_position(given, replace=True)
        assert await raw.fetch(db, "SELECT id, trade_id, status FROM positions") == [(before.id, "TRD-2", status)]

    @pytest.mark.parametrize("status", ["open", "closed"])
    @pytest.mark.parametrize(("stored", "given"), [("TRD-1", None), (None, "TRD-1"), ("TRD-1", "TRD-1"), (None, None)])
    async def test_no_trade_id_matches_any(
        self, db: DatabaseManager, stored: str | None, given: str | None, status: PositionStatus
    ) -> None:
        await opened(db, position(trade_id=stored))
        await PositionRepository(db).update_position(position(trade_id=given, status=status))
        assert await raw.fetch(db, "SELECT trade_id, status FROM positions") == [(given, status)]

    async def test_a_refused_position_leaves_the_session_usable(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            repository = PositionRepository(session)
            await repository.update_position(position(trade_id="TRD-1"))
            with pytest.raises(PositionConflictError):
                await repository.update_position(position(trade_id="TRD-2"))
            await repository.update_position(position(symbol="ETHUSDT", trade_id="TRD-2"))
        found = await PositionRepository(db).get_open_positions(exchange=None)
        assert [(item.symbol, item.trade_id) for item in found] == [("BTCUSDT", "TRD-1"), ("ETHUSDT", "TRD-2")]

    async def test_of_many_bots_that_open_one_position_one_wins(self, db: DatabaseManager) -> None:
        repository = PositionRepository(db)
        given = [position(trade_id=f"TRD-{index}", margin=Decimal(index)) for index in range(1, 9)]
        errors = await asyncio.gather(*(find_error(repository.update_position(item)) for item in given))
        (winner,) = await repository.get_open_positions()
        refused = [item.trade_id for item, error in zip(given, errors, strict=True) if isinstance(error, PositionConflictError)]
        assert [error for error in errors if not isinstance(error, PositionConflictError | None)] == []
        assert len(refused) == len(given) - 1, f"one bot must open the position, and the others must be refused: {errors}"
        assert (winner.trade_id, winner.margin) == next((i.trade_id, i.margin) for i in given if i.trade_id not in refused)

    async def test_a_position_that_cannot_be_stored_is_refused_by_name(self, db: DatabaseManager) -> None:
        repository = PositionRepository(db)
        await assert_refused(lambda field, value: repository.update_position(position(**{field: value})), _REFUSED)
        assert await raw.count(db, "positions") == 0

    @pytest.mark.parametrize("quantity", ["0", "-0", "-1", "-1E-18"])
    async def test_an_open_position_needs_a_quantity_above_0(self, db: DatabaseManager, quantity: str) -> None:
        repository = PositionRepository(db)
        stored = await opened(db)
        cases = [("quantity", Decimal(quantity))]
        await assert_refused(lambda _, value: repository.update_position(position(quantity=value)), cases)
        await assert_refused(lambda _, value: repository.update_position(replace(stored, quantity=value)), cases)
        assert await repository.get_open_positions() == [stored]

    async def test_a_closed_position_may_have_the_quantity_0(self, db: DatabaseManager) -> None:
        await opened(db)
        await PositionRepository(db).update_position(position(status="closed", quantity=Decimal(0)))
        ((quantity, status),) = await raw.fetch(db, "SELECT quantity, status FROM positions")
        assert (raw.number(quantity), status) == (Decimal(0), "closed")

    async def test_what_is_no_position_is_refused(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="Position"):
            await PositionRepository(db).update_position({"symbol": "BTCUSDT"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class UpdatePositionTests(SuiteFixtures):
    """update_position of an object with an id replaces the open position with this id."""

    async def test_an_id_updates_every_field_of_that_position(self, db: DatabaseManager, clock: Clock) -> None:
        stored = await opened(db)
        clock.advance(HOUR)
        await PositionRepository(db, clock=clock).update_position(replace(full_position(), id=stored.id))
        (found,) = await PositionRepository(db).get_open_positions("kraken")
        assert as_given(found) == full_position()
        assert (found.id, found.created_at, found.last_updated) == (stored.id, NOW, NOW + HOUR)

    async def test_an_object_that_was_read_can_be_changed_and_stored(self, db: DatabaseManager) -> None:
        stored = await opened(db)
        stored.current_price = Decimal("50123.5")
        await PositionRepository(db).update_position(stored)
        assert as_given(await read_open_position(db)) == position(current_price=Decimal("50123.5"))

    async def test_an_unknown_id_is_an_error(self, db: DatabaseManager) -> None:
        with pytest.raises(NotFoundError, match=str(_UNKNOWN_ID)):
            await PositionRepository(db).update_position(position(id=_UNKNOWN_ID))
        assert await raw.count(db, "positions") == 0

    async def test_a_closed_position_is_not_changed_by_a_stale_object(self, db: DatabaseManager) -> None:
        stale = await opened(db)
        await PositionRepository(db).close_position(id_of(stale))
        error = await find_error(PositionRepository(db).update_position(replace(stale, margin=Decimal(7))))
        assert isinstance(error, PositionClosedError), (
            f"a closed position must not be opened again or changed; update_position must raise PositionClosedError: "
            f"{describe_error(error)}"
        )
        assert str(stale.id) in str(error)
        ((status, margin),) = await raw.fetch(db, "SELECT status, margin FROM positions")
        assert (status, raw.number(margin)) == ("closed", Decimal(100))

    async def test_a_liquidated_position_is_not_changed_either(self, db: DatabaseManager) -> None:
        stale = await opened(db)
        await PositionRepository(db).update_position(replace(stale, status="liquidated"))
        with pytest.raises(PositionClosedError):
            await PositionRepository(db).update_position(stale)
        assert await raw.fetch(db, "SELECT status FROM positions") == [("liquidated",)]

    async def test_a_second_open_position_of_one_key_is_an_integrity_error(self, db: DatabaseManager) -> None:
        await opened(db)
        short = await opened(db, position(side="short"))
        with pytest.raises(IntegrityError):
            await PositionRepository(db).update_position(replace(short, side="long"))
        assert len(await PositionRepository(db).get_open_positions()) == 2


async def read_open_position(db: DatabaseManager) -> Position:
    """Return the only open position on binance."""
    (found,) = await PositionRepository(db).get_open_positions()
    return found


class ReadPositionTests(SuiteFixtures):
    """get_position and get_open_positions return open positions only."""

    async def test_get_position_of_an_unknown_symbol_is_none(self, db: DatabaseManager) -> None:
        assert await PositionRepository(db).get_position("BTCUSDT") is None

    async def test_get_position_of_a_closed_one_is_none(self, db: DatabaseManager) -> None:
        await PositionRepository(db).close_position(id_of(await opened(db)))
        assert await PositionRepository(db).get_position("BTCUSDT") is None

    async def test_get_position_without_a_side_finds_the_only_one(self, db: DatabaseManager) -> None:
        await opened(db, position(side="short"))
        found = await PositionRepository(db).get_position("BTCUSDT")
        assert found is not None
        assert found.side == "short"

    async def test_get_position_with_both_sides_open_wants_a_side(self, db: DatabaseManager) -> None:
        await opened(db)
        await opened(db, position(side="short"))
        with pytest.raises(AmbiguousPositionError, match="side"):
            await PositionRepository(db).get_position("BTCUSDT")

    @pytest.mark.parametrize("side", ["long", "short"])
    async def test_get_position_with_a_side_finds_that_one(self, db: DatabaseManager, side: Side) -> None:
        await opened(db)
        await opened(db, position(side="short"))
        found = await PositionRepository(db).get_position("BTCUSDT", side=side)
        assert found is not None
        assert found.side == side

    async def test_get_position_with_the_other_side_open_is_none(self, db: DatabaseManager) -> None:
        await opened(db)
        assert await PositionRepository(db).get_position("BTCUSDT", side="short") is None

    async def test_get_position_refuses_an_unknown_side(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="side"):
            await PositionRepository(db).get_position("BTCUSDT", side="up")  # type: ignore[arg-type]

    async def test_get_position_reads_one_exchange(self, db: DatabaseManager) -> None:
        await opened(db, position(exchange="kraken"))
        assert await PositionRepository(db).get_position("BTCUSDT") is None

    async def test_open_positions_are_oldest_entry_first_with_ties_by_id(self, db: DatabaseManager) -> None:
        await opened(db, position(symbol="LATE", entry_time=T0 + HOUR))
        await opened(db, position(symbol="TIE2"))
        await opened(db, position(symbol="TIE1"))
        found = await PositionRepository(db).get_open_positions()
        assert [item.symbol for item in found] == ["TIE2", "TIE1", "LATE"]

    async def test_open_positions_are_those_of_one_exchange(self, db: DatabaseManager) -> None:
        await opened(db)
        await opened(db, position(exchange="kraken"))
        assert [item.exchange for item in await PositionRepository(db).get_open_positions("kraken")] == ["kraken"]

    async def test_open_positions_leave_out_closed_ones(self, db: DatabaseManager) -> None:
        await PositionRepository(db).close_position(id_of(await opened(db)))
        await opened(db, position(symbol="ETHUSDT"))
        assert [item.symbol for item in await PositionRepository(db).get_open_positions()] == ["ETHUSDT"]


class ClosePositionTests(SuiteFixtures):
    """close_position closes an open position, which stays in the table."""

    async def test_a_closed_position_stays_in_the_table(self, db: DatabaseManager, clock: Clock) -> None:
        stored = await opened(db)
        clock.advance(HOUR)
        await PositionRepository(db, clock=clock).close_position(id_of(stored))
        ((number, status, updated, created),) = await raw.fetch(db, "SELECT id, status, last_updated, created_at FROM positions")
        assert (number, status, raw.moment(updated), raw.moment(created)) == (stored.id, "closed", NOW + HOUR, NOW)

    async def test_closing_leaves_every_other_field_and_position_unchanged(self, db: DatabaseManager) -> None:
        other = await opened(db)
        stored = await opened(db, full_position())
        await PositionRepository(db).close_position(id_of(stored))
        ((margin, quantity),) = await raw.fetch(db, "SELECT margin, quantity FROM positions WHERE status = 'closed'")
        assert (raw.number(margin), raw.number(quantity)) == (Decimal("540.09"), Decimal("2.25"))
        assert await PositionRepository(db).get_open_positions() == [other]

    async def test_closing_an_unknown_id_is_an_error(self, db: DatabaseManager) -> None:
        with pytest.raises(NotFoundError, match=str(_UNKNOWN_ID)):
            await PositionRepository(db).close_position(_UNKNOWN_ID)

    async def test_closing_twice_is_an_error(self, db: DatabaseManager) -> None:
        number = id_of(await opened(db))
        await PositionRepository(db).close_position(number)
        with pytest.raises(PositionClosedError, match=str(number)):
            await PositionRepository(db).close_position(number)

    async def test_after_closing_a_new_position_of_the_key_can_be_opened(self, db: DatabaseManager) -> None:
        old = await opened(db)
        await PositionRepository(db).close_position(id_of(old))
        new = await opened(db, position(margin=Decimal(7)))
        assert new.id != old.id
        assert await raw.fetch(db, "SELECT status FROM positions ORDER BY id") == [("closed",), ("open",)]

    async def test_many_closed_positions_of_one_key_are_kept(self, db: DatabaseManager) -> None:
        for _ in range(3):
            await PositionRepository(db).close_position(id_of(await opened(db)))
        assert await raw.count(db, "positions") == 3


class PositionConstraintTests(SuiteFixtures):
    """The constraints of the database refuse invalid rows from raw SQL."""

    async def test_the_database_refuses_a_second_open_position_from_raw_sql(self, db: DatabaseManager) -> None:
        await opened(db)
        with pytest.raises(IntegrityError):
            await raw.run(db, f"INSERT INTO positions ({_COLUMNS}, status) SELECT {_COLUMNS}, status FROM positions")
        assert await raw.count(db, "positions") == 1

    async def test_the_database_takes_a_second_closed_position_from_raw_sql(self, db: DatabaseManager) -> None:
        await opened(db)
        await raw.run(db, f"INSERT INTO positions ({_COLUMNS}, status) SELECT {_COLUMNS}, 'closed' FROM positions")
        assert await raw.count(db, "positions") == 2

    @pytest.mark.parametrize(("column", "word"), [("side", "up"), ("status", "done")])
    async def test_the_database_refuses_an_unknown_word_from_raw_sql(self, db: DatabaseManager, column: str, word: str) -> None:
        needs(db, Capability.CHOICES)
        await opened(db)
        with pytest.raises(IntegrityError):
            await raw.run(db, f"UPDATE positions SET {column} = :word", word=word)


@requires(Capability.RECORDS)
class PositionTests(StorePositionTests, UpdatePositionTests, ReadPositionTests, ClosePositionTests, PositionConstraintTests):
    """All tests of positions."""
