"""Tests of the ledger: entries are stored once each, read by time and kind, and added up exactly by currency."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any, get_args

import pytest

from iftb_store import DatabaseManager, InvalidValueError, LedgerConflictError, LedgerEntry, LedgerKind, LedgerRepository
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, requires
from iftb_store.testing.samples import HOUR, LARGEST, NOW, SMALLEST, T0, Clock, as_given, full_ledger_entry, ledger_entry

_REFUSED: list[tuple[str, Any]] = [
    ("kind", "gift"),
    ("kind", None),
    ("currency", ""),
    ("currency", None),
    ("amount", None),
    ("amount", 1.5),
    ("amount", Decimal("NaN")),
    ("amount", Decimal("1e20")),
    ("timestamp", None),
    ("exchange", None),
    ("symbol", " "),
    ("trade_id", 7),
    ("external_id", ""),
    ("external_id", "Ü" * 128),
    ("details", [1]),
    ("account", None),
]


def _ids(entries: list[LedgerEntry]) -> list[str | None]:
    return [entry.external_id for entry in entries]


async def _store_entries(db: DatabaseManager) -> LedgerRepository:
    repository = LedgerRepository(db)
    await repository.record_many(
        [
            ledger_entry("late", timestamp=T0 + 2 * HOUR, kind="funding", symbol="BTCUSDT", amount=Decimal("-0.75")),
            ledger_entry("a", amount=Decimal(1000)),
            ledger_entry("b", kind="funding", symbol="ETHUSDT", trade_id="T-1", amount=Decimal("0.25")),
            ledger_entry("c", currency="BTC", exchange="kraken", account="bot-a", amount=Decimal("0.1")),
            ledger_entry("d", kind="fee", currency="BNB", account="bot-a", timestamp=T0 + HOUR, amount=Decimal("-0.001")),
        ]
    )
    return repository


class RecordLedgerTests(SuiteFixtures):
    """An entry is stored once and never changes."""

    async def test_a_complete_entry_comes_back_as_it_was_recorded(self, db: DatabaseManager) -> None:
        repository = LedgerRepository(db, clock=Clock())
        given = full_ledger_entry()
        assert await repository.record(given) is True
        (found,) = await repository.get_range(T0, T0 + HOUR, exchange=None)
        assert (as_given(found), found.created_at) == (given, NOW)
        assert given == full_ledger_entry()

    @pytest.mark.parametrize("kind", get_args(LedgerKind))
    async def test_an_entry_has_any_kind_and_sign(self, db: DatabaseManager, kind: LedgerKind) -> None:
        repository = LedgerRepository(db)
        amounts = [Decimal("-1.5"), Decimal(0), Decimal("1.5"), LARGEST, LARGEST.copy_negate(), SMALLEST.copy_negate()]
        await repository.record_many([ledger_entry(str(amount), kind=kind, amount=amount) for amount in amounts])
        assert sorted(entry.amount for entry in await repository.get_range(T0, T0, kind=kind)) == sorted(amounts)

    async def test_an_equal_entry_is_stored_once(self, db: DatabaseManager) -> None:
        repository = LedgerRepository(db)
        assert [await repository.record(full_ledger_entry()) for _ in range(3)] == [True, False, False]
        assert await repository.record_many([ledger_entry("x"), full_ledger_entry(), ledger_entry("x")]) == [True, False, False]
        assert await raw.count(db, "ledger_entries") == 2

    @pytest.mark.parametrize(
        "changes",
        [
            {"currency": "USDT"},
            {"amount": Decimal(1)},
            {"timestamp": T0},
            {"symbol": None},
            {"trade_id": "T-9"},
            {"details": {"rate": 1}},
            {"details": None},
        ],
        ids=lambda changes: "{}={}".format(*next(iter(changes.items()))),
    )
    async def test_an_entry_with_other_values_is_a_conflict(self, db: DatabaseManager, changes: dict[str, Any]) -> None:
        repository = LedgerRepository(db)
        await repository.record(full_ledger_entry())
        values = {name: getattr(full_ledger_entry(), name) for name in LedgerEntry.__slots__}
        other = LedgerEntry(**{**values, **changes})
        reason = f"'L-1' on 'kraken' is already stored with another {', '.join(changes)}"
        for call in (repository.record(other), repository.record_many([ledger_entry("x"), other])):
            with pytest.raises(LedgerConflictError, match=reason) as caught:
                await call
            assert caught.value.fields == tuple(changes)
        assert await raw.count(db, "ledger_entries") == 1

    async def test_true_in_the_details_is_not_one(self, db: DatabaseManager) -> None:
        repository = LedgerRepository(db)
        await repository.record(ledger_entry(details={"paid": True}))
        with pytest.raises(LedgerConflictError, match="another details"):
            await repository.record(ledger_entry(details={"paid": 1}))

    async def test_entries_of_another_exchange_account_or_kind_are_others(self, db: DatabaseManager) -> None:
        repository = LedgerRepository(db)
        others = [ledger_entry(), ledger_entry(exchange="kraken"), ledger_entry(account="b"), ledger_entry(kind="interest")]
        assert [await repository.record(entry) for entry in others] == [True] * 4

    async def test_each_entry_without_an_external_id_is_another_one(self, db: DatabaseManager) -> None:
        repository = LedgerRepository(db)
        assert await repository.record(ledger_entry(None)) is True
        assert await repository.record_many([ledger_entry(None)] * 2) == [True, True]
        names = _ids(await repository.get_range(T0, T0))
        assert len(set(names)) == 3, "each entry must get an external_id of its own"
        assert all(names)

    async def test_a_caught_conflict_keeps_the_sessions_other_entries(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            repository = LedgerRepository(session)
            await repository.record(ledger_entry("a"))
            with pytest.raises(LedgerConflictError):
                await repository.record(ledger_entry("a", amount=Decimal(1)))
            with pytest.raises(LedgerConflictError):
                await repository.record_many([ledger_entry("b"), ledger_entry("a", amount=Decimal(1))])
            await repository.record(ledger_entry("c"))
        assert _ids(await LedgerRepository(db).get_range(T0, T0)) == ["a", "c"]

    async def test_an_entry_recorded_by_many_tasks_is_new_once(self, db: DatabaseManager) -> None:
        repository = LedgerRepository(db)
        outcomes = await asyncio.gather(*(repository.record(ledger_entry()) for _ in range(8)))
        assert sorted(outcomes) == [False] * 7 + [True]

    async def test_two_different_entries_of_one_name_in_a_list_are_refused(self, db: DatabaseManager) -> None:
        given = [ledger_entry("a"), ledger_entry("b"), ledger_entry("a", amount=Decimal(1))]
        with pytest.raises(LedgerConflictError, match=r"entries\[2\]: the deposit 'a' .*is a duplicate with another amount"):
            await LedgerRepository(db).record_many(given)
        assert await raw.count(db, "ledger_entries") == 0

    async def test_an_entry_that_cannot_be_stored_is_refused_by_name(self, db: DatabaseManager) -> None:
        repository = LedgerRepository(db)
        await assert_refused(lambda field, value: repository.record(ledger_entry(**{"external_id": "x", field: value})), _REFUSED)
        given: Any
        for given in ("L-1", {"L-1": ledger_entry()}, None):
            with pytest.raises(InvalidValueError, match="entries must be a list of LedgerEntry"):
                await repository.record_many(given)
        assert await repository.record_many([]) == []
        assert await raw.count(db, "ledger_entries") == 0


class ReadLedgerTests(SuiteFixtures):
    """get_range, get_sums, stream and Arrow tables return entries by time, kind, currency, symbol, exchange and account."""

    async def test_entries_of_a_window_are_filtered_and_include_both_ends(self, db: DatabaseManager) -> None:
        repository = await _store_entries(db)
        assert _ids(await repository.get_range(T0, T0 + HOUR)) == ["a", "b", "d"]
        assert _ids(await repository.get_range(T0, T0 + 2 * HOUR, kind="funding")) == ["b", "late"]
        assert _ids(await repository.get_range(T0, T0 + 2 * HOUR, symbol="BTCUSDT")) == ["late"]
        assert _ids(await repository.get_range(T0, T0 + 2 * HOUR, currency="BNB")) == ["d"]
        assert _ids(await repository.get_range(T0, T0 + 2 * HOUR, trade_id="T-1")) == ["b"]
        assert _ids(await repository.get_range(T0, T0, exchange=None)) == ["a", "b", "c"]
        assert _ids(await repository.get_range(T0, T0 + 2 * HOUR, exchange=None, account="bot-a")) == ["d", "c"]
        with pytest.raises(InvalidValueError, match="is after end"):
            await repository.get_range(T0 + HOUR, T0)

    async def test_a_repository_of_an_account_reads_and_writes_its_entries(self, db: DatabaseManager) -> None:
        await _store_entries(db)
        repository = LedgerRepository(db, account="bot-a")
        assert _ids(await repository.get_range(T0, T0 + 2 * HOUR, exchange=None)) == ["d", "c"]
        assert await repository.record(ledger_entry("a")) is True
        assert await repository.record_many([ledger_entry("a", account="bot-a"), ledger_entry("e")]) == [False, True]
        assert await repository.get_sums(exchange="kraken") == {"BTC": {"deposit": Decimal("0.1")}}
        with pytest.raises(InvalidValueError, match="the account 'bot-b' is not 'bot-a'"):
            await repository.record(ledger_entry("f", account="bot-b"))

    async def test_sums_are_by_currency_and_kind(self, db: DatabaseManager) -> None:
        repository = await _store_entries(db)
        every = {
            "BNB": {"fee": Decimal("-0.001")},
            "BTC": {"deposit": Decimal("0.1")},
            "USDT": {"deposit": Decimal(1000), "funding": Decimal("-0.5")},
        }
        found = await repository.get_sums(exchange=None)
        assert found == every
        assert [*found] == [*every]
        assert [*found["USDT"]] == ["deposit", "funding"]
        assert await repository.get_sums(T0 + HOUR, T0 + 2 * HOUR, currency="USDT") == {"USDT": {"funding": Decimal("-0.75")}}
        assert await repository.get_sums(symbol="ETHUSDT", kind="funding") == {"USDT": {"funding": Decimal("0.25")}}
        assert await repository.get_sums(trade_id="T-1", account="") == {"USDT": {"funding": Decimal("0.25")}}
        assert await repository.get_sums(symbol="XRPUSDT") == {}

    async def test_sums_are_exact_beyond_the_range_of_an_amount(self, db: DatabaseManager) -> None:
        repository = LedgerRepository(db)
        await repository.record_many([ledger_entry(str(number), amount=LARGEST) for number in range(30)])
        await repository.record(ledger_entry("x", amount=SMALLEST))
        await repository.record(ledger_entry("y", kind="fee", amount=SMALLEST.copy_negate()))
        sums = (await repository.get_sums())["USDT"]
        assert sums == {"deposit": Decimal("2999999999999999999999.999999999999999971"), "fee": Decimal("-0.000000000000000001")}

    @pytest.mark.parametrize("size", [1, 3, 100])
    async def test_a_stream_returns_every_entry_once_in_order_of_time(self, db: DatabaseManager, size: int) -> None:
        repository = LedgerRepository(db)
        times = [3, 1, 1, 2, 1, 1, 1, 0, 1, 1, 4]
        await repository.record_many([ledger_entry(f"{place}", timestamp=T0 + hour * HOUR) for place, hour in enumerate(times)])
        lists = [batch async for batch in repository.stream(batch_size=size)]
        assert [entry for batch in lists for entry in batch] == await repository.get_range(T0, T0 + 4 * HOUR)
        assert {len(batch) for batch in lists[:-1]} <= {size}

    async def test_a_stream_is_limited_to_what_is_chosen(self, db: DatabaseManager) -> None:
        repository = await _store_entries(db)

        async def read(**chosen: Any) -> list[str | None]:
            return [name async for batch in repository.stream(**chosen) for name in _ids(batch)]

        assert await read() == ["a", "b", "c", "d", "late"]
        assert await read(symbol="ETHUSDT") == ["b"]
        assert await read(kind="deposit", batch_size=1) == ["a", "c"]
        assert await read(currency="USDT", start=T0 + HOUR) == ["late"]
        assert await read(exchange="kraken", account="bot-a", end=T0) == ["c"]

    async def test_entries_read_as_arrow_are_recorded_from_it(self, db: DatabaseManager) -> None:
        pytest.importorskip("pyarrow")
        repository = LedgerRepository(db)
        given = [full_ledger_entry("a"), ledger_entry("b"), ledger_entry("c", account="bot-a", details={"x": [None, "é"]})]
        await repository.record_many(given)
        table = await repository.read_arrow()
        assert table.column_names == list(LedgerEntry.__slots__)
        await raw.run(db, "DELETE FROM ledger_entries WHERE external_id <> 'b'")
        assert [await repository.write_arrow(table), await repository.write_arrow(table)] == [2, 0]
        found = [as_given(entry) async for batch in repository.stream() for entry in batch]
        assert sorted(found, key=lambda entry: str(entry.external_id)) == given
        assert (await repository.read_arrow("ETHUSDT", kind="funding"))["external_id"].to_pylist() == ["a"]
        batches = [batch["external_id"].to_pylist() async for batch in repository.stream_arrow(currency="USDT", batch_size=1)]
        assert sorted(batches) == [["b"], ["c"]]


@requires(Capability.RECORDS)
class LedgerTests(RecordLedgerTests, ReadLedgerTests):
    """All tests of the ledger."""
