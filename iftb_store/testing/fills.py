"""Tests of fills: each is stored once, and found by its trade, its time and its account."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from iftb_store import DatabaseManager, Fill, FillConflictError, FillRepository, InvalidValueError, Session
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, interrupted, needs, requires
from iftb_store.testing.samples import HOUR, INDIA, LARGEST, NOW, T0, Clock, as_given, fill, full_fill

_REFUSED: list[tuple[str, Any]] = [
    ("fill_id", ""),
    ("fill_id", None),
    ("fill_id", 7),
    ("fill_id", "X" * 256),
    ("symbol", ""),
    ("exchange", None),
    ("side", "long"),
    ("side", None),
    ("price", 1.5),
    ("price", LARGEST * 10),
    ("quantity", Decimal(0)),
    ("quantity", Decimal("-1")),
    ("timestamp", "2024-01-01"),
    ("trade_id", ""),
    ("fee", None),
    ("fee_currency", 1),
    ("liquidity", "both"),
    ("account", None),
]
#: Another value for each field that two equal fills must share.
_OTHER: list[tuple[str, Any]] = [
    ("side", "buy"),
    ("price", Decimal("3000.500000000000000001")),
    ("quantity", Decimal("2.26")),
    ("timestamp", T0 + HOUR + timedelta(microseconds=1)),
    ("trade_id", None),
    ("order_id", "ORDER-8"),
    ("fee", Decimal(0)),
    ("fee_currency", "USDT"),
    ("liquidity", None),
]
_KEY: list[tuple[str, Any]] = [("fill_id", "F-2"), ("symbol", "BTC/USDT"), ("exchange", "binance"), ("account", "")]


def _ids(fills: list[Fill]) -> list[str]:
    return [item.fill_id for item in fills]


async def _store_fills(db: DatabaseManager) -> FillRepository:
    repository = FillRepository(db)
    given = [
        fill("late", timestamp=T0 + 2 * HOUR, trade_id="T-1"),
        fill("a", trade_id="T-1"),
        fill("b", symbol="ETHUSDT", trade_id="T-2"),
        fill("c", exchange="kraken", trade_id="T-1", account="bot-a"),
        fill("d", timestamp=T0 + HOUR, account="bot-a"),
    ]
    for item in given:
        await repository.record(item)
    return repository


class RecordFillTests(SuiteFixtures):
    """record stores a fill once; an equal one is no error, a different one is."""

    async def test_a_fill_comes_back_as_it_went_in(self, db: DatabaseManager, clock: Clock) -> None:
        await FillRepository(db, clock=clock).record(full_fill())
        (found,) = await FillRepository(db).get_by_trade("TRD-ETH-1")
        assert as_given(found) == full_fill()
        assert (type(found.id), found.created_at) == (int, NOW)

    async def test_a_fill_with_nothing_optional_comes_back_with_none(self, db: DatabaseManager) -> None:
        await FillRepository(db).record(fill())
        assert [as_given(item) for item in await FillRepository(db).get_range(T0, T0)] == [fill()]

    async def test_a_fill_recorded_twice_is_stored_once(self, db: DatabaseManager) -> None:
        repository = FillRepository(db)
        rule = "an equal fill must be stored once"
        assert [await repository.record(full_fill()) for _ in range(3)] == [True, False, False], rule
        india = full_fill().timestamp.astimezone(INDIA)
        assert await repository.record(replace(full_fill(), price=Decimal("3000.50"), timestamp=india, id=7)) is False, rule
        assert await raw.count(db, "fills") == 1, rule

    @pytest.mark.parametrize(("field", "value"), _OTHER)
    async def test_a_fill_with_another_value_is_refused_by_its_name(self, db: DatabaseManager, field: str, value: Any) -> None:
        repository = FillRepository(db)
        await repository.record(full_fill())
        changed: Fill = replace(full_fill(), **{field: value})
        with pytest.raises(FillConflictError, match=f"another {field};") as caught:
            await repository.record(changed)
        assert caught.value.fields == (field,)
        with pytest.raises(FillConflictError, match=f"another {field};"):
            await repository.record_many([fill("new"), changed])
        assert [as_given(item) for item in await repository.get_by_trade("TRD-ETH-1")] == [full_fill()]
        assert await raw.count(db, "fills") == 1

    @pytest.mark.parametrize(("field", "value"), _KEY)
    async def test_fills_that_differ_in_the_key_are_two(self, db: DatabaseManager, field: str, value: Any) -> None:
        other: Fill = replace(full_fill(), **{field: value})
        repository = FillRepository(db)
        assert [await repository.record(item) for item in (full_fill(), other)] == [True, True]
        assert [as_given(item) for item in await repository.get_by_trade("TRD-ETH-1")] == [full_fill(), other]

    async def test_a_caught_conflict_keeps_the_sessions_other_fills(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            repository = FillRepository(session)
            await repository.record(fill("a"))
            with pytest.raises(FillConflictError):
                await repository.record(fill("a", price=Decimal(1)))
            with pytest.raises(FillConflictError):
                await repository.record_many([fill("b"), fill("a", price=Decimal(1))])
            await repository.record(fill("c"))
        assert _ids(await FillRepository(db).get_range(T0, T0)) == ["a", "c"]

    async def test_a_fill_is_rolled_back_with_its_session(self, db: DatabaseManager) -> None:
        async with interrupted(db) as session:
            await FillRepository(session).record(fill("a"))
            await FillRepository(session).record_many([fill("b"), fill("c")])
        assert await raw.count(db, "fills") == 0

    async def test_a_fill_recorded_by_many_tasks_is_new_once(self, db: DatabaseManager) -> None:
        repository = FillRepository(db)
        outcomes = await asyncio.gather(*(repository.record(fill()) for _ in range(8)))
        assert sorted(outcomes) == [False] * 7 + [True]

    async def test_a_fill_stored_after_a_transactions_snapshot_is_no_error(self, db: DatabaseManager) -> None:
        needs(db, Capability.PARALLEL_WRITERS)
        needs(db, Capability.ISOLATION)
        attempts = count(1)

        async def work(session: Session) -> bool:
            repository = FillRepository(session)
            assert await repository.get_by_trade("T-9") == []
            if next(attempts) == 1:
                await FillRepository(db).record(fill())
            return await repository.record(fill())

        assert await db.run(work, isolation="repeatable read") is False
        assert await raw.count(db, "fills") == 1

    async def test_a_fill_that_cannot_be_stored_is_refused_by_name(self, db: DatabaseManager) -> None:
        repository = FillRepository(db)
        await assert_refused(lambda field, value: repository.record(fill(**{field: value})), _REFUSED)
        await assert_refused(
            lambda field, value: repository.record_many([fill("a"), fill(**{field: value})]), _REFUSED, "fills[1]"
        )
        assert await raw.count(db, "fills") == 0

    async def test_a_fill_keeps_the_residue_of_a_division_to_18_places(self, db: DatabaseManager) -> None:
        await FillRepository(db).record(fill(price=Decimal(2) / 3, fee=Decimal("0.0000000000000000005")))
        (found,) = await FillRepository(db).get_range(T0, T0)
        assert (found.price, found.fee) == (Decimal("0.666666666666666667"), Decimal(0))


class RecordManyFillsTests(SuiteFixtures):
    """record_many stores all new fills of a list or none."""

    async def test_many_fills_are_stored_and_each_is_reported_as_new_once(self, db: DatabaseManager) -> None:
        repository = FillRepository(db)
        fills = [full_fill(f"F-{number}") for number in range(5)]
        assert await repository.record_many([*fills[:2], fills[0]]) == [True, True, False]
        assert await repository.record_many(fills) == [False, False, True, True, True]
        assert await repository.record_many(fills) == [False] * 5
        assert [as_given(item) for item in await repository.get_by_trade("TRD-ETH-1")] == fills

    async def test_more_fills_than_one_look_up_finds_are_stored_once(self, db: DatabaseManager) -> None:
        repository = FillRepository(db)
        fills = [fill(f"F-{number:04}", timestamp=T0 + number // 3 * HOUR) for number in range(1_200)]
        await repository.record_many(fills[::2])
        assert sum(await repository.record_many(fills)) == 600
        assert await raw.count(db, "fills") == 1_200

    async def test_no_fills_are_no_error(self, db: DatabaseManager) -> None:
        assert await FillRepository(db).record_many([]) == []

    async def test_a_stored_fill_with_another_time_is_a_conflict_among_many(self, db: DatabaseManager) -> None:
        repository = FillRepository(db)
        await repository.record(fill("F-5", timestamp=T0 - HOUR))
        fills = [fill(f"F-{number}", timestamp=T0 + number * HOUR) for number in range(20)]
        with pytest.raises(FillConflictError, match="another timestamp"):
            await repository.record_many(fills)
        assert await raw.count(db, "fills") == 1

    async def test_two_different_fills_of_one_id_in_a_list_are_refused(self, db: DatabaseManager) -> None:
        with pytest.raises(FillConflictError, match=r"fills\[2\]: the fill 'a' .*is a duplicate with another price") as caught:
            await FillRepository(db).record_many([fill("a"), fill("b"), fill("a", price=Decimal(1))])
        assert caught.value.fields == ("price",)
        assert await raw.count(db, "fills") == 0

    async def test_lists_that_overlap_are_recorded_at_once_without_loss(self, db: DatabaseManager) -> None:
        repository = FillRepository(db)
        fills = [fill(f"F-{number:03}", timestamp=T0 + number * HOUR) for number in range(60)]
        parts = [fills[:40], fills[20:], fills[::-1], fills[10:30]]
        outcomes = await asyncio.gather(*(repository.record_many(part) for part in parts))
        assert sum(map(sum, outcomes)) == await raw.count(db, "fills") == 60

    async def test_what_is_no_list_of_fills_is_refused(self, db: DatabaseManager) -> None:
        wrong: Any
        for wrong in ("F-1", {"F-1": fill()}, None):
            with pytest.raises(InvalidValueError, match="fills must be a list of Fill"):
                await FillRepository(db).record_many(wrong)


class ReadFillsTests(SuiteFixtures):
    """get_by_trade, get_range and stream return fills by trade, time, symbol, exchange and account."""

    async def test_fills_of_a_trade_are_oldest_first_with_ties_by_id(self, db: DatabaseManager) -> None:
        repository = await _store_fills(db)
        assert _ids(await repository.get_by_trade("T-1")) == ["a", "c", "late"]
        assert _ids(await repository.get_by_trade("T-1", account="bot-a")) == ["c"]
        assert _ids(await repository.get_by_trade("T-1", account="")) == ["a", "late"]
        assert await repository.get_by_trade("t-1") == []

    async def test_fills_of_a_window_are_filtered_and_include_both_ends(self, db: DatabaseManager) -> None:
        repository = await _store_fills(db)
        assert _ids(await repository.get_range(T0, T0 + HOUR)) == ["a", "b", "d"]
        assert _ids(await repository.get_range(T0 + HOUR, T0 + 2 * HOUR, symbol="BTCUSDT")) == ["d", "late"]
        assert _ids(await repository.get_range(T0, T0, exchange=None)) == ["a", "b", "c"]
        assert _ids(await repository.get_range(T0, T0 + 2 * HOUR, exchange=None, account="bot-a")) == ["d", "c"]
        with pytest.raises(InvalidValueError, match="is after end"):
            await repository.get_range(T0 + HOUR, T0)

    async def test_a_repository_of_an_account_reads_and_writes_its_fills(self, db: DatabaseManager) -> None:
        await _store_fills(db)
        repository = FillRepository(db, account="bot-a")
        rule = "a repository of an account must see its own rows only"
        assert _ids(await repository.get_by_trade("T-1")) == ["c"], rule
        assert _ids(await repository.get_range(T0, T0 + 2 * HOUR, exchange=None)) == ["d", "c"], rule
        assert await repository.record(fill("a", trade_id="T-1")) is True
        assert await repository.record_many([fill("a", trade_id="T-1", account="bot-a"), fill("e")]) == [False, True]
        assert [item.account for item in await repository.get_by_trade("T-1")] == ["bot-a"] * 2
        with pytest.raises(InvalidValueError, match="the account 'bot-b' is not 'bot-a'"):
            await repository.record(fill("f", account="bot-b"))

    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    async def test_a_stream_returns_every_fill_once_in_order_of_time(self, db: DatabaseManager, size: int) -> None:
        repository = FillRepository(db)
        # seven fills of one time are more than fit into a list
        times = [3, 1, 1, 2, 1, 1, 1, 0, 1, 1, 4]
        await repository.record_many([fill(f"F-{place}", timestamp=T0 + hour * HOUR) for place, hour in enumerate(times)])
        lists = [batch async for batch in repository.stream(batch_size=size)]
        found = [item for batch in lists for item in batch]
        assert found == await repository.get_range(T0, T0 + 4 * HOUR)
        assert [len(batch) for batch in lists] == [size] * (11 // size) + [11 % size] * (11 % size > 0)

    async def test_a_stream_is_limited_to_a_window_symbol_exchange_and_account(self, db: DatabaseManager) -> None:
        repository = await _store_fills(db)

        async def read(**selected: Any) -> list[str]:
            return [item.fill_id async for batch in repository.stream(**selected) for item in batch]

        assert await read() == ["a", "b", "c", "d", "late"]
        assert await read(symbol="ETHUSDT") == ["b"]
        assert await read(start=T0 + HOUR, end=T0 + HOUR) == ["d"]
        assert await read(exchange="kraken") == ["c"]
        assert await read(account="bot-a", batch_size=1) == ["c", "d"]
        assert await read(symbol="XRPUSDT") == []


class ArrowFillsTests(SuiteFixtures):
    """Fills are read as Arrow tables and recorded from them."""

    async def test_fills_read_as_arrow_are_recorded_from_it(self, db: DatabaseManager) -> None:
        pytest.importorskip("pyarrow")
        repository = FillRepository(db)
        given = [full_fill("a"), fill("b"), fill("c", account="bot-a")]
        await repository.record_many(given)
        table = await repository.read_arrow()
        assert table.column_names == list(Fill.__slots__)
        await raw.run(db, "DELETE FROM fills WHERE fill_id <> 'b'")
        assert [await repository.write_arrow(table), await repository.write_arrow(table)] == [2, 0]
        found = [as_given(item) async for batch in repository.stream() for item in batch]
        assert sorted(found, key=lambda item: item.fill_id) == given
        batches = [batch async for batch in repository.stream_arrow(batch_size=2)]
        assert [batch.num_rows for batch in batches] == [2, 1]

    async def test_a_table_may_lack_what_is_optional_and_have_other_types(self, db: DatabaseManager) -> None:
        pa = pytest.importorskip("pyarrow")
        columns = {
            "fill_id": pa.array(["a", "b"]).dictionary_encode(),
            "side": ["buy", "sell"],
            "price": pa.array([1.1, 2.5]),
            "quantity": ["0.5", "1e1"],
            "timestamp": pa.array([0, 1_000], pa.timestamp("ms", "Asia/Kolkata")),
            "fee": pa.array([None, 2], pa.int64()),
        }
        repository = FillRepository(db, account="bot-a")
        written = await repository.write_arrow(pa.table(columns), symbol="X", exchange="kraken", decimals="from_float")
        assert written == 2
        found = [item async for batch in repository.stream() for item in batch]
        assert [(item.price, item.quantity, item.fee, item.timestamp.year, item.account) for item in found] == [
            (Decimal("1.1"), Decimal("0.5"), Decimal(0), 1970, "bot-a"),
            (Decimal("2.5"), Decimal(10), Decimal(2), 1970, "bot-a"),
        ]
        with pytest.raises(InvalidValueError, match=r"price has the type double.*from_float"):
            await repository.write_arrow(pa.table(columns), symbol="X", exchange="kraken")
        with pytest.raises(InvalidValueError, match="no column fill_id"):
            await repository.write_arrow(pa.table(columns).drop_columns("fill_id"), symbol="X", exchange="kraken")
        with pytest.raises(InvalidValueError, match="no column 'sides'; did you mean side"):
            await repository.write_arrow(pa.table(columns).rename_columns({"side": "sides"}), symbol="X", exchange="kraken")
        with pytest.raises(InvalidValueError, match=r"row 2: side"):
            await repository.write_arrow(
                pa.table({**columns, "side": ["buy", "up"]}), symbol="X", exchange="kraken", decimals="from_float"
            )


@requires(Capability.RECORDS)
class FillTests(RecordFillTests, RecordManyFillsTests, ReadFillsTests, ArrowFillsTests):
    """All tests of fills except those of `TradeRepository.apply_fills`."""
