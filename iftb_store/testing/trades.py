"""Tests of trades: insert, update, and the order in which reads return them."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from iftb_store import Action, DatabaseManager, InvalidValueError, NotFoundError, Trade, TradeRepository
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, needs, requires
from iftb_store.testing.samples import HOUR, NOW, T0, Clock, as_given, full_trade, trade

_LIMITS = [0, -1, True, 1.5, None]
_UNKNOWN_ID = 987_654
_REFUSED: list[tuple[str, Any]] = [
    ("side", "up"),
    ("side", "LONG"),
    ("action", "sell"),
    ("trade_id", ""),
    ("trade_id", None),
    ("symbol", "X" * 256),
    ("entry_price", None),
    ("entry_price", 50_000.25),
    ("quantity", "1"),
    ("quantity", True),
    ("entry_time", "2024-01-01"),
    ("leverage", None),
    ("fee", None),
    ("decision_reasons", ["macd"]),
    ("llm_analysis", {"when": object()}),
    ("llm_analysis", {"score": float("nan")}),
    ("llm_analysis", {5: "five"}),
]
_REFUSED_CHANGES: list[tuple[str, Any]] = [
    ("side", "up"),
    ("action", None),
    ("entry_price", None),
    ("exit_price", 1.5),
    ("exit_time", "now"),
    ("llm_analysis", "text"),
]


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    names = ("iftb_store.repositories.trades", logging.WARNING)
    return [record.getMessage() for record in caplog.records if (record.name, record.levelno) == names]


async def by_id(db: DatabaseManager, number: int) -> Trade:
    """Return the stored trade with this id; fail the test if there is none."""
    found = await TradeRepository(db).get_by_id(number)
    assert found is not None
    return found


class InsertTradeTests(SuiteFixtures):
    """insert stores a trade, and get_by_id returns it."""

    async def test_a_trade_comes_back_as_it_went_in(self, db: DatabaseManager) -> None:
        number = await TradeRepository(db).insert(full_trade())
        assert as_given(await by_id(db, number)) == full_trade()

    async def test_a_trade_with_nothing_optional_comes_back_with_none(self, db: DatabaseManager) -> None:
        number = await TradeRepository(db).insert(trade())
        assert as_given(await by_id(db, number)) == trade()

    async def test_raw_sql_reads_the_trade_that_insert_wrote(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(full_trade())
        sql = "SELECT trade_id, exit_time, realized_pnl, llm_analysis, action FROM trades"
        ((trade_id, exit_time, pnl, analysis, action),) = await raw.fetch(db, sql)
        assert (trade_id, raw.moment(exit_time), raw.number(pnl), action) == (
            "TRD-001",
            T0 + HOUR,
            Decimal("-225.5625"),
            "liquidated",
        )
        assert raw.json_value(analysis) == full_trade().llm_analysis

    async def test_insert_returns_the_id_that_the_trade_has(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade("TRD-000"))
        number = await TradeRepository(db).insert(trade())
        assert number == await raw.value(db, "SELECT id FROM trades WHERE trade_id = :name", name="TRD-001")
        assert (await by_id(db, number)).id == number

    async def test_insert_ignores_what_the_store_keeps(self, db: DatabaseManager, clock: Clock) -> None:
        number = await TradeRepository(db, clock=clock).insert(trade(id=_UNKNOWN_ID, created_at=T0, updated_at=T0))
        found = await by_id(db, number)
        assert (number != _UNKNOWN_ID, found.created_at, found.updated_at) == (True, NOW, NOW)

    async def test_inserting_does_not_change_the_callers_trade(self, db: DatabaseManager) -> None:
        given = trade(entry_time=datetime(2024, 1, 1), signal_score=Decimal(1) / 3, decision_reasons={"price": Decimal("1.50")})
        before = replace(given, decision_reasons={"price": Decimal("1.50")})
        await TradeRepository(db).insert(given)
        assert given == before
        assert given.entry_time.tzinfo is None

    async def test_a_trade_id_stored_already_is_an_integrity_error(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade())
        with pytest.raises(IntegrityError, match="a trade with trade_id 'TRD-001' is already stored; to get its id, call"):
            await TradeRepository(db).insert(trade(symbol="ETHUSDT"))
        assert await raw.count(db, "trades") == 1

    @pytest.mark.parametrize("quantity", ["0", "-0", "-1", "-1E-18"])
    async def test_a_quantity_that_is_not_above_0_is_refused(self, db: DatabaseManager, quantity: str) -> None:
        repository = TradeRepository(db)
        number = await repository.insert(trade())
        cases = [("quantity", Decimal(quantity))]
        await assert_refused(lambda _, value: repository.insert(trade("TRD-002", quantity=value)), cases)
        await assert_refused(lambda _, value: repository.record(trade("TRD-002", quantity=value)), cases)
        await assert_refused(lambda _, value: repository.update(number, quantity=value), cases)
        assert [as_given(item) for item in await repository.get_recent()] == [trade()]

    @pytest.mark.parametrize("action", ["close", "liquidated"])
    async def test_a_close_without_its_result_is_stored_and_logged_once(
        self, db: DatabaseManager, caplog: pytest.LogCaptureFixture, action: Action
    ) -> None:
        repository = TradeRepository(db)
        await repository.insert(trade("complete", action=action, exit_price=Decimal(1), realized_pnl=Decimal(0)))
        opened = await repository.insert(trade("opened"))
        await repository.update(opened, action=action, exit_price=Decimal(1), realized_pnl=Decimal(0))
        assert _warnings(caplog) == []
        await repository.insert(trade("late", action=action, exit_price=Decimal(1)))
        await repository.record(trade("later", action=action, realized_pnl=Decimal(1)))
        await repository.update(await repository.insert(trade("latest")), action=action)
        assert len(await repository.get_recent()) == 5
        (message,) = _warnings(caplog)
        assert ("'late'" in message, "realized_pnl" in message, "doctor" in message) == (True, True, True)

    async def test_an_update_that_closes_a_trade_without_its_result_is_logged(
        self, db: DatabaseManager, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with db.get_session() as session:
            repository = TradeRepository(session)
            number = await repository.insert(trade(exit_price=Decimal(1)))
            await repository.update(number, action="close")
        assert [item.action for item in await TradeRepository(db).get_recent()] == ["close"]
        (message,) = _warnings(caplog)
        assert "without realized_pnl" in message

    async def test_trade_ids_that_differ_by_case_are_two_trades(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade("trd-a"))
        await TradeRepository(db).insert(trade("TRD-A"))
        assert await raw.count(db, "trades") == 2

    async def test_an_unknown_id_gives_none(self, db: DatabaseManager) -> None:
        assert await TradeRepository(db).get_by_id(_UNKNOWN_ID) is None

    async def test_what_is_no_trade_is_refused(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="Trade"):
            await TradeRepository(db).insert("TRD-001")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    async def test_a_trade_that_cannot_be_stored_is_refused_by_name(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        await assert_refused(lambda field, value: repository.insert(trade(**{field: value})), _REFUSED)
        assert await raw.count(db, "trades") == 0

    @pytest.mark.parametrize(("column", "word"), [("side", "up"), ("action", "sell")])
    async def test_the_database_refuses_an_unknown_word_from_raw_sql(self, db: DatabaseManager, column: str, word: str) -> None:
        needs(db, Capability.CHOICES)
        await TradeRepository(db).insert(trade())
        with pytest.raises(IntegrityError):
            await raw.run(db, f"UPDATE trades SET {column} = :word", word=word)
        assert await raw.value(db, f"SELECT {column} FROM trades") == getattr(trade(), column)


class UpdateTradeTests(SuiteFixtures):
    """update changes the given fields of one stored trade, and nothing else."""

    async def test_update_sets_the_named_fields_and_no_other(self, db: DatabaseManager) -> None:
        number = await TradeRepository(db).insert(full_trade())
        await TradeRepository(db).update(number, exit_price=Decimal("51000"), realized_pnl=Decimal("50"))
        expected = replace(full_trade(), exit_price=Decimal("51000"), realized_pnl=Decimal("50"))
        assert as_given(await by_id(db, number)) == expected

    async def test_update_can_set_every_field(self, db: DatabaseManager) -> None:
        complete = full_trade()
        number = await TradeRepository(db).insert(trade(complete.trade_id))
        kept = ("id", "trade_id", "created_at", "updated_at")
        changes = {name: getattr(complete, name) for name in complete.__slots__ if name not in kept}
        await TradeRepository(db).update(number, **changes)
        assert as_given(await by_id(db, number)) == complete

    async def test_update_can_set_an_optional_field_to_none(self, db: DatabaseManager) -> None:
        number = await TradeRepository(db).insert(full_trade())
        await TradeRepository(db).update(number, exit_time=None, llm_analysis=None, stop_loss=None)
        found = await by_id(db, number)
        assert (found.exit_time, found.llm_analysis, found.stop_loss) == (None, None, None)

    async def test_update_moves_updated_at_and_leaves_created_at(self, db: DatabaseManager, clock: Clock) -> None:
        repository = TradeRepository(db, clock=clock)
        number = await repository.insert(trade())
        clock.advance(HOUR)
        await repository.update(number, fee=Decimal(1))
        found = await by_id(db, number)
        assert (found.created_at, found.updated_at) == (NOW, NOW + HOUR)

    async def test_update_changes_only_one_trade(self, db: DatabaseManager) -> None:
        other = await TradeRepository(db).insert(trade("TRD-000"))
        number = await TradeRepository(db).insert(trade())
        await TradeRepository(db).update(number, fee=Decimal(7))
        assert as_given(await by_id(db, other)) == trade("TRD-000")

    async def test_update_of_an_unknown_id_is_an_error(self, db: DatabaseManager) -> None:
        with pytest.raises(NotFoundError, match=str(_UNKNOWN_ID)):
            await TradeRepository(db).update(_UNKNOWN_ID, fee=Decimal(1))

    async def test_an_unknown_field_is_an_error_that_lists_the_known_ones(self, db: DatabaseManager) -> None:
        number = await TradeRepository(db).insert(trade())
        with pytest.raises(InvalidValueError, match=r"exit_prise.*exit_price"):
            await TradeRepository(db).update(number, exit_prise=Decimal(1))  # type: ignore[call-arg]

    async def test_what_the_store_keeps_cannot_be_updated(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        number = await repository.insert(trade())
        kept = [("id", 5), ("created_at", T0), ("updated_at", T0)]
        await assert_refused(lambda field, value: repository.update(number, fee=Decimal(7), **{field: value}), kept)
        assert (await by_id(db, number)).fee == Decimal(0)

    async def test_update_refuses_a_value_that_cannot_be_stored(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        number = await repository.insert(trade())
        await assert_refused(lambda field, value: repository.update(number, **{field: value}), _REFUSED_CHANGES)
        assert as_given(await by_id(db, number)) == trade()

    async def test_update_without_fields_moves_updated_at(self, db: DatabaseManager, clock: Clock) -> None:
        repository = TradeRepository(db, clock=clock)
        number = await repository.insert(trade())
        clock.advance(HOUR)
        await repository.update(number)
        assert (await by_id(db, number)).updated_at == NOW + HOUR


class ReadTradesTests(SuiteFixtures):
    """get_recent and get_by_symbol return trades ordered by entry_time, then id; newest first."""

    async def test_get_recent_is_newest_entry_time_first(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        await repository.insert(trade("middle", entry_time=T0 + HOUR))
        await repository.insert(trade("newest", entry_time=T0 + 2 * HOUR))
        await repository.insert(trade("oldest", entry_time=T0))
        assert [item.trade_id for item in await repository.get_recent()] == ["newest", "middle", "oldest"]

    async def test_trades_of_one_entry_time_come_newest_id_first(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        ids = [await repository.insert(trade(name)) for name in ("b", "c", "a")]
        assert [item.id for item in await repository.get_recent()] == sorted(ids, reverse=True)

    async def test_get_recent_reads_all_exchanges_and_symbols(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade("a", exchange="kraken", symbol="ETHUSDT"))
        await TradeRepository(db).insert(trade("b"))
        assert [item.trade_id for item in await TradeRepository(db).get_recent()] == ["b", "a"]

    async def test_get_recent_gives_the_newest_up_to_the_limit(self, db: DatabaseManager) -> None:
        for index in range(4):
            await TradeRepository(db).insert(trade(f"T{index}", entry_time=T0 + index * HOUR))
        assert [item.trade_id for item in await TradeRepository(db).get_recent(limit=2)] == ["T3", "T2"]

    async def test_get_recent_of_no_trades_is_empty(self, db: DatabaseManager) -> None:
        assert await TradeRepository(db).get_recent() == []

    async def test_trades_read_in_a_list_are_whole(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(full_trade())
        (recent,) = await TradeRepository(db).get_recent()
        (by_symbol,) = await TradeRepository(db).get_by_symbol("ETHUSDT", exchange="kraken")
        assert (as_given(recent), as_given(by_symbol)) == (full_trade(), full_trade())

    async def test_get_by_symbol_reads_one_symbol_of_one_exchange(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade("a"))
        await TradeRepository(db).insert(trade("b", symbol="ETHUSDT"))
        await TradeRepository(db).insert(trade("c", exchange="kraken"))
        assert [item.trade_id for item in await TradeRepository(db).get_by_symbol("BTCUSDT")] == ["a"]
        assert [item.trade_id for item in await TradeRepository(db).get_by_symbol("BTCUSDT", exchange="kraken")] == ["c"]

    async def test_get_by_symbol_is_newest_first_with_ties_by_id(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade("late", entry_time=T0 + HOUR))
        await TradeRepository(db).insert(trade("tie 1"))
        await TradeRepository(db).insert(trade("tie 2"))
        found = await TradeRepository(db).get_by_symbol("BTCUSDT")
        assert [item.trade_id for item in found] == ["late", "tie 2", "tie 1"]

    async def test_get_by_symbol_gives_the_newest_up_to_the_limit(self, db: DatabaseManager) -> None:
        for index in range(4):
            await TradeRepository(db).insert(trade(f"T{index}", entry_time=T0 - index * HOUR))
        assert [item.trade_id for item in await TradeRepository(db).get_by_symbol("BTCUSDT", limit=1)] == ["T0"]

    async def test_reading_trades_refuses_a_limit_that_is_no_whole_number_from_1(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        cases = [("limit", limit) for limit in _LIMITS]
        await assert_refused(lambda _, limit: repository.get_recent(limit), cases)
        await assert_refused(lambda _, limit: repository.get_by_symbol("BTCUSDT", limit), cases)


@requires(Capability.RECORDS)
class TradeTests(InsertTradeTests, UpdateTradeTests, ReadTradesTests):
    """All tests of trades except statistics."""
