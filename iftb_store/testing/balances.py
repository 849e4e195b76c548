"""Tests of snapshots of balances: each is stored once, and the newest of each currency is found at any time."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from iftb_store import BalanceConflictError, BalanceRepository, BalanceSnapshot, DatabaseManager, InvalidValueError
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, requires
from iftb_store.testing.samples import HOUR, INDIA, NOW, T0, Clock, as_given, balance, full_balance

_REFUSED: list[tuple[str, Any]] = [
    ("exchange", None),
    ("currency", " "),
    ("timestamp", None),
    ("total", None),
    ("total", 1.5),
    ("free", Decimal("Infinity")),
    ("used", "1"),
    ("unrealized_pnl", Decimal("-1e20")),
    ("account", "Ü" * 128),
]
Named = tuple[str, str, str, Decimal]


def _name(snapshots: list[BalanceSnapshot]) -> list[Named]:
    return [(one.exchange, one.account, one.currency, one.total) for one in snapshots]


def _totals(snapshots: list[BalanceSnapshot]) -> list[int]:
    return [int(one.total) for one in snapshots]


async def _store_balances(db: DatabaseManager) -> BalanceRepository:
    repository = BalanceRepository(db)
    await repository.record_many(
        [
            balance(timestamp=T0 + 2 * HOUR, total=Decimal(3)),
            balance(total=Decimal(1)),
            balance(timestamp=T0 + HOUR, total=Decimal(2)),
            balance(currency="BTC", total=Decimal(4)),
            balance(account="bot-a", timestamp=T0 + HOUR, total=Decimal(5)),
            balance(exchange="kraken", account="bot-a", total=Decimal(6)),
        ]
    )
    return repository


class RecordBalanceTests(SuiteFixtures):
    """A snapshot is stored once and never changes."""

    async def test_a_complete_snapshot_comes_back_as_it_was_recorded(self, db: DatabaseManager) -> None:
        repository = BalanceRepository(db, clock=Clock())
        assert await repository.record(full_balance()) is True
        (found,) = await repository.get_range(T0, T0 + HOUR, exchange=None)
        assert (as_given(found), found.created_at) == (full_balance(), NOW)

    async def test_an_equal_snapshot_is_stored_once(self, db: DatabaseManager) -> None:
        repository = BalanceRepository(db)
        assert [await repository.record(balance()), await repository.record(balance(timestamp=T0.astimezone(INDIA)))] == [
            True,
            False,
        ]
        assert await repository.record_many([balance(currency="BTC"), balance(), balance(currency="BTC")]) == [True, False, False]
        assert await raw.count(db, "balance_snapshots") == 2

    @pytest.mark.parametrize("field", ["total", "free", "used", "unrealized_pnl"])
    async def test_another_snapshot_of_the_same_time_is_a_conflict(self, db: DatabaseManager, field: str) -> None:
        repository = BalanceRepository(db)
        await repository.record(balance())
        other = balance(**{field: Decimal(7)})
        for call in (repository.record(other), repository.record_many([balance(currency="BTC"), other])):
            with pytest.raises(BalanceConflictError, match=f"'USDT' on 'binance' at .* stored with another {field}") as caught:
                await call
            assert caught.value.fields == (field,)
        assert [as_given(one) for one in await repository.get_range(T0, T0)] == [balance()]

    async def test_snapshots_of_another_exchange_account_currency_or_time_are_others(self, db: DatabaseManager) -> None:
        repository = BalanceRepository(db)
        others: list[dict[str, Any]] = [
            {},
            {"exchange": "kraken"},
            {"account": "b"},
            {"currency": "BTC"},
            {"timestamp": T0 + HOUR},
        ]
        assert [await repository.record(balance(**changes)) for changes in others] == [True] * 5

    async def test_a_snapshot_recorded_by_many_tasks_is_new_once(self, db: DatabaseManager) -> None:
        repository = BalanceRepository(db)
        outcomes = await asyncio.gather(*(repository.record(balance()) for _ in range(8)))
        assert sorted(outcomes) == [False] * 7 + [True]

    async def test_many_snapshots_of_a_currency_are_stored_once(self, db: DatabaseManager) -> None:
        repository = BalanceRepository(db)
        given = [balance(timestamp=T0 + number * HOUR) for number in range(1_100)]
        await repository.record_many(given[::2])
        assert sum(await repository.record_many(given)) == 550
        assert await raw.count(db, "balance_snapshots") == 1_100

    async def test_two_different_snapshots_of_one_time_in_a_list_are_refused(self, db: DatabaseManager) -> None:
        with pytest.raises(BalanceConflictError, match=r"snapshots\[1\]: .* is a duplicate with another total"):
            await BalanceRepository(db).record_many([balance(), balance(total=Decimal(1))])
        assert await raw.count(db, "balance_snapshots") == 0

    async def test_a_snapshot_that_cannot_be_stored_is_refused_by_name(self, db: DatabaseManager) -> None:
        repository = BalanceRepository(db)
        await assert_refused(lambda field, value: repository.record(balance(**{field: value})), _REFUSED)
        assert await raw.count(db, "balance_snapshots") == 0


class ReadBalanceTests(SuiteFixtures):
    """get_range, get_latest, stream and Arrow tables return snapshots by time, currency, exchange and account."""

    async def test_snapshots_of_a_window_are_filtered_and_include_both_ends(self, db: DatabaseManager) -> None:
        repository = await _store_balances(db)
        assert _totals(await repository.get_range(T0, T0 + HOUR)) == [4, 1, 2, 5]
        assert _totals(await repository.get_range(T0, T0 + 2 * HOUR, currency="USDT", account="")) == [1, 2, 3]
        assert _totals(await repository.get_range(T0, T0 + HOUR, exchange=None)) == [4, 1, 2, 5, 6]
        assert _totals(await BalanceRepository(db, account="bot-a").get_range(T0, T0 + HOUR, exchange=None)) == [5, 6]
        with pytest.raises(InvalidValueError, match="is after end"):
            await repository.get_range(T0 + HOUR, T0)

    async def test_the_newest_snapshot_of_each_currency_is_found(self, db: DatabaseManager) -> None:
        repository = await _store_balances(db)
        own = [("binance", "", "BTC", Decimal(4)), ("binance", "", "USDT", Decimal(3)), ("binance", "bot-a", "USDT", Decimal(5))]
        assert _name(await repository.get_latest()) == own
        assert _name(await repository.get_latest(exchange=None)) == [*own, ("kraken", "bot-a", "USDT", Decimal(6))]
        assert _totals(await repository.get_latest(currency="USDT")) == [3, 5]
        assert _totals(await repository.get_latest(account="bot-a", exchange=None)) == [5, 6]
        assert _totals(await BalanceRepository(db, account="bot-a").get_latest()) == [5]
        assert await repository.get_latest(currency="XRP") == []

    async def test_the_newest_snapshot_at_a_time_is_found(self, db: DatabaseManager) -> None:
        repository = await _store_balances(db)
        assert _totals(await repository.get_latest(T0 + HOUR)) == [4, 2, 5]
        assert _totals(await repository.get_latest((T0 + 1.5 * HOUR).astimezone(INDIA), currency="USDT", account="")) == [2]
        assert _totals(await repository.get_latest(T0, exchange=None)) == [4, 1, 6]
        assert await repository.get_latest(T0 - HOUR) == []

    @pytest.mark.parametrize("size", [1, 2, 100])
    async def test_a_stream_returns_every_snapshot_once_in_order_of_time(self, db: DatabaseManager, size: int) -> None:
        repository = await _store_balances(db)
        lists = [batch async for batch in repository.stream(batch_size=size)]
        found = [one for batch in lists for one in batch]
        assert sorted(_totals(found)) == [1, 2, 3, 4, 5, 6]
        assert [one.timestamp for one in found] == sorted(one.timestamp for one in found)
        chosen = [_totals(batch) async for batch in repository.stream("USDT", T0 + HOUR, account="", batch_size=size)]
        assert [total for batch in chosen for total in batch] == [2, 3]

    async def test_snapshots_read_as_arrow_are_recorded_from_it(self, db: DatabaseManager) -> None:
        pytest.importorskip("pyarrow")
        repository = BalanceRepository(db)
        given = [full_balance(), balance(), balance(currency="BTC")]
        await repository.record_many(given)
        table = await repository.read_arrow()
        assert table.column_names == list(BalanceSnapshot.__slots__)
        await raw.run(db, "DELETE FROM balance_snapshots WHERE currency <> 'BTC'")
        assert [await repository.write_arrow(table), await repository.write_arrow(table)] == [2, 0]
        found = [as_given(one) async for batch in repository.stream() for one in batch]
        assert sorted(found, key=lambda one: one.currency, reverse=True) == sorted(
            given, key=lambda one: one.currency, reverse=True
        )
        assert (await repository.read_arrow("BTC"))["exchange"].to_pylist() == ["binance"]
        batches = [batch["currency"].to_pylist() async for batch in repository.stream_arrow(exchange="kraken", batch_size=1)]
        assert batches == [["USDC"]]


@requires(Capability.RECORDS)
class BalanceTests(RecordBalanceTests, ReadBalanceTests):
    """All tests of snapshots of balances."""
