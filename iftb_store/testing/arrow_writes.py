"""Tests of write_arrow: it follows the rules of insert_many and upsert_many, and accepts all supported column types."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pytest
from sqlalchemy.exc import IntegrityError

from iftb_store import DatabaseManager, InvalidValueError, OHLCVBar, OHLCVRepository, PartialWriteError, UpsertReport
from iftb_store.repositories import batch_writes
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures
from iftb_store.testing.rows import delete_bars
from iftb_store.testing.samples import HOUR, LARGEST, NOW, SMALLEST, T0, Clock, as_given, bar, full_bar, hourly

_COLUMNS = (
    "exchange", "symbol", "timeframe", "timestamp", "open", "high", "low", "close", "volume", "quote_volume", "trades_count"
)  # fmt: skip
_PRICES = _COLUMNS[4:10]
_ALL = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
_SERIES: Final = ("BTCUSDT", "1h")


def table_of(bars: list[OHLCVBar]) -> pa.Table:
    """Return bars as an Arrow table with the columns that write_arrow writes."""
    return pa.table({name: pa.array([getattr(item, name) for item in bars], kind_of(name)) for name in _COLUMNS})


def with_column(table: pa.Table, name: str, column: Any) -> pa.Table:
    """Return a copy of an Arrow table in which ``column`` replaces the column ``name``."""
    return table.set_column(table.column_names.index(name), name, column)


def kind_of(name: str) -> Any:
    """Return the Arrow type for a column of bars; None for text columns, whose type Arrow infers."""
    if name in _PRICES:
        return pa.decimal128(38, 18)
    return {"timestamp": pa.timestamp("us", "UTC"), "trades_count": pa.int64()}.get(name)


class WriteArrowTests(SuiteFixtures):
    """write_arrow stores the bars of a table by the same rules as insert_many and upsert_many store objects."""

    @pytest.mark.parametrize("mode", ["insert", "upsert"])
    async def test_rows_come_back_as_the_bars_that_they_are(self, db: DatabaseManager, clock: Clock, mode: Any) -> None:
        given = [full_bar(T0), bar(T0 + HOUR), bar(T0 + 2 * HOUR, low=Decimal("-1.5"), close=LARGEST, volume=Decimal(0))]
        count = await OHLCVRepository(db, clock=clock).write_arrow(table_of(given), mode)
        found = await OHLCVRepository(db).get_range(*_SERIES, *_ALL)
        assert ([as_given(item) for item in found], count) == (given, 3)
        assert {item.created_at for item in found} == {NOW}

    @pytest.mark.parametrize("count", [1, 300, 301, 25_000])
    async def test_as_many_rows_are_written_as_there_are(self, db: DatabaseManager, count: int) -> None:
        given = hourly(count)
        await OHLCVRepository(db).write_arrow(table_of(given), "insert")
        await OHLCVRepository(db).write_arrow(table_of(hourly(count + 1, trades_count=7)))
        found = await OHLCVRepository(db).read_arrow()
        assert found["close"].to_pylist()[:-1] == [item.close for item in given]
        assert found["trades_count"].to_pylist() == [7] * (count + 1)

    @pytest.mark.parametrize("report", [False, True])
    async def test_large_tables_are_written_exactly_beside_and_over_stored_bars(self, db: DatabaseManager, report: bool) -> None:
        odd = itertools.cycle(
            [LARGEST, SMALLEST, Decimal(0), Decimal("0.000001"), Decimal("0.00000123"), Decimal(10), Decimal("1.50")]
        )
        lows = itertools.cycle([LARGEST.copy_negate(), -SMALLEST, Decimal(0), Decimal("-1.5"), Decimal(-10)])
        given = [
            bar(T0 + HOUR * index, symbol=symbol, low=next(lows), volume=next(odd), quote_volume=None if index % 3 else next(odd))
            for symbol in ("A", "BTCUSDT", "BTCUSDT2", "Z")
            for index in range(400)
        ]
        repository: Any = OHLCVRepository(db)
        first = await repository.write_arrow(table_of(given[:1200]), report=report)
        # the bars of the last series are new and the others stored; three of them get other values
        changed = [*given[:3], *(replace(item, trades_count=9) for item in given[3:6]), *given[6:]]
        second = await repository.write_arrow(table_of(changed), report=report)
        expected = [UpsertReport(1200, 0, 0), UpsertReport(400, 3, 1197)] if report else [1200, 1600]
        assert [first, second] == expected
        stored = [
            item for symbol in ("A", "BTCUSDT", "BTCUSDT2", "Z") for item in await repository.get_range(symbol, "1h", *_ALL)
        ]
        assert [as_given(item) for item in stored] == changed

    @pytest.mark.parametrize("mode", ["insert", "upsert"])
    async def test_rows_of_many_series_in_any_order_are_written(self, db: DatabaseManager, mode: Any) -> None:
        given = [bar(T0 + HOUR * index, symbol=f"S{number:03}") for number in range(120) for index in range(number % 60 + 1)]
        shuffled = [given[index * 1_009 % len(given)] for index in range(len(given))]
        assert await OHLCVRepository(db).write_arrow(table_of(shuffled), mode) == len(given)
        found = await OHLCVRepository(db).read_arrow()
        columns = ["symbol", "timestamp"]
        assert found.select(columns).to_pylist() == table_of(given).select(columns).to_pylist()

    async def test_numbers_smaller_than_a_millionth_are_written_exactly(self, db: DatabaseManager) -> None:
        given = [bar(T0, volume=Decimal("1.00000001E-10"), quote_volume=SMALLEST), bar(T0 + HOUR, low=-SMALLEST)]
        await OHLCVRepository(db).write_arrow(table_of(given))
        assert [as_given(item) for item in await OHLCVRepository(db).get_range(*_SERIES, *_ALL)] == given

    async def test_columns_may_stand_in_any_order_and_optional_ones_be_missing(self, db: DatabaseManager) -> None:
        table = table_of(hourly(2)).select([name for name in reversed(_COLUMNS) if name not in ("quote_volume", "trades_count")])
        await OHLCVRepository(db).write_arrow(table)
        assert [as_given(item) for item in await OHLCVRepository(db).get_range(*_SERIES, *_ALL)] == hourly(2)

    async def test_what_read_arrow_gives_can_be_written(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([full_bar(T0), bar(T0 + HOUR)])
        table = await OHLCVRepository(db).read_arrow()
        await delete_bars(db)
        await OHLCVRepository(db).write_arrow(table, "insert")
        again = await OHLCVRepository(db).read_arrow()
        assert again.drop_columns(["id", "created_at"]) == table.drop_columns(["id", "created_at"])

    async def test_floats_become_the_shortest_decimals_if_requested(self, db: DatabaseManager) -> None:
        table = table_of([bar(), bar(T0 + HOUR)])
        floats: dict[str, list[float | None]] = {
            "low": [0.1, 1e-7],
            "high": [0.3, 1e15],
            "volume": [5.0, 0.0],
            "trades_count": [None, 3.0],
        }
        for name, values in floats.items():
            table = with_column(table, name, pa.array(values, pa.float64()))
        await OHLCVRepository(db).write_arrow(table, decimals="from_float")
        found = await OHLCVRepository(db).get_range(*_SERIES, *_ALL)
        assert [(item.low, item.high, item.volume, item.trades_count) for item in found] == [
            (Decimal("0.1"), Decimal("0.3"), Decimal(5), None),
            (Decimal("0.0000001"), Decimal("1E15"), Decimal(0), 3),
        ]

    async def test_unknown_words_for_mode_and_decimals_are_refused(self, db: DatabaseManager) -> None:
        repository: Any = OHLCVRepository(db)
        with pytest.raises(InvalidValueError, match="mode"):
            await repository.write_arrow(table_of(hourly(1)), "replace")
        with pytest.raises(InvalidValueError, match="decimals"):
            await repository.write_arrow(table_of(hourly(1)), decimals="floats")

    async def test_nothing_to_write_is_nothing(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db).write_arrow([]) == 0
        assert await OHLCVRepository(db).write_arrow(table_of([])) == 0

    @pytest.mark.parametrize("mode", ["insert", "upsert"])
    async def test_a_row_that_cannot_be_stored_is_named_and_nothing_is_written(self, db: DatabaseManager, mode: Any) -> None:
        with pytest.raises(InvalidValueError, match=r"^row 2 of 3 \('binance' 'BTCUSDT' '1h' .*\): high is below low"):
            await OHLCVRepository(db).write_arrow(table_of([bar(), bar(T0 + HOUR, high=Decimal(1)), bar(T0 + 2 * HOUR)]), mode)
        assert await raw.count(db, "ohlcv") == 0

    async def test_rows_are_taken_batch_by_batch_and_of_foreign_types(self, db: DatabaseManager) -> None:
        table = table_of(hourly(3))
        foreign = with_column(table, "symbol", table["symbol"].combine_chunks().dictionary_encode())
        await OHLCVRepository(db).write_arrow(iter(foreign.to_batches(max_chunksize=1)))
        assert [as_given(item) for item in await OHLCVRepository(db).get_range(*_SERIES, *_ALL)] == hourly(3)

    @pytest.mark.parametrize("mode", ["insert", "upsert"])
    @pytest.mark.parametrize("atomic", [True, False])
    async def test_a_reader_is_written_batch_by_batch(self, db: DatabaseManager, mode: Any, atomic: bool) -> None:
        table = table_of(hourly(700))
        reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=100))
        repository = OHLCVRepository(db)
        assert await repository.write_arrow(reader, mode, report=True, atomic=atomic) == UpsertReport(700, 0, 0)
        assert [as_given(item) for item in await repository.get_range(*_SERIES, *_ALL)] == hourly(700)
        empty = pa.RecordBatchReader.from_batches(table.schema, [])
        assert await repository.write_arrow(empty, mode, atomic=atomic) == 0

    async def test_a_reader_is_not_read_into_memory(self, db: DatabaseManager) -> None:
        stored, read = list[int](), 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal read
            for first in range(0, 4 * 70_000, 70_000):
                moments = pa.array(range(first, first + 70_000)).cast(pa.timestamp("s", "UTC"))
                price = pa.repeat(pa.scalar(Decimal(1), kind_of("open")), 70_000)
                read += 1
                yield pa.record_batch({"timestamp": moments, **dict.fromkeys(_PRICES[:5], price)})

        made = batches()
        first = next(made)
        reader = pa.RecordBatchReader.from_batches(first.schema, made)
        repository: Any = OHLCVRepository(db)
        write = repository._write_batch

        async def watch(self: Any, batch: Any, mode: str, *, report: bool) -> Any:
            stored.append(read)
            return await write.__func__(self, batch, mode, report=report)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OHLCVRepository, "_write_batch", watch)
            await repository.write_arrow(reader, symbol="X", timeframe="1m", exchange="binance")
        assert stored == [2, 3, 4]
        assert await raw.count(db, "ohlcv") == 210_000

    @pytest.mark.parametrize("mode", ["insert", "upsert"])
    async def test_a_reader_with_a_bad_row_leaves_nothing(self, db: DatabaseManager, mode: Any) -> None:
        table = table_of([*hourly(99), bar(T0 + 99 * HOUR, high=Decimal(1))])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batch_writes, "_ROWS", 10)
            reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=10))
            with pytest.raises(InvalidValueError, match=r"^row 100 \('binance' 'BTCUSDT' '1h' .*\): high is below low"):
                await OHLCVRepository(db).write_arrow(reader, mode)
        assert await raw.count(db, "ohlcv") == 0

    async def test_a_reader_that_fails_leaves_nothing(self, db: DatabaseManager) -> None:
        table = table_of(hourly(20))

        def fail() -> Iterator[pa.RecordBatch]:
            yield from table.to_batches(max_chunksize=10)
            raise ArithmeticError("out of rows")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batch_writes, "_ROWS", 10)
            reader = pa.RecordBatchReader.from_batches(table.schema, fail())
            with pytest.raises(InvalidValueError, match="out of rows"):
                await OHLCVRepository(db).write_arrow(reader)
        assert await raw.count(db, "ohlcv") == 0

    async def test_a_reader_in_a_session_is_written_whole_or_not_at_all(self, db: DatabaseManager) -> None:
        table = table_of([*hourly(20), bar(T0)])
        async with db.get_session() as session:
            reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=10))
            with pytest.raises(IntegrityError):
                await OHLCVRepository(session).write_arrow(reader, "insert")
            await OHLCVRepository(session).insert_many([bar(symbol="ETHUSDT")])
            with pytest.raises(InvalidValueError, match="atomic=False commits each batch"):
                await OHLCVRepository(session).write_arrow(table, atomic=False)
        assert await raw.count(db, "ohlcv") == 1

    @pytest.mark.parametrize("reads", [True, False])
    async def test_batches_committed_one_by_one_stop_at_the_first_bad_one(self, db: DatabaseManager, reads: bool) -> None:
        table = table_of([*hourly(25), bar(T0 + HOUR)])
        batches = table.to_batches(max_chunksize=10)
        given = pa.RecordBatchReader.from_batches(table.schema, batches) if reads else iter(batches)
        with pytest.raises(
            PartialWriteError, match=r"^stopped at batch 3: .* already stored.*; the 2 before it, with 20 rows"
        ) as info:
            await OHLCVRepository(db).write_arrow(given, "insert", atomic=False)
        assert (info.value.batches, info.value.rows) == (2, 20)
        assert isinstance(info.value.__cause__, IntegrityError)
        assert await raw.count(db, "ohlcv") == 20
        with pytest.raises(IntegrityError):
            await OHLCVRepository(db).write_arrow(table, "insert", atomic=False)

    async def test_the_last_row_of_a_key_wins_on_upsert(self, db: DatabaseManager) -> None:
        given = [bar(T0 + HOUR), bar(T0, volume=Decimal(1)), bar(T0, volume=Decimal(2)), bar(T0, volume=Decimal(3), symbol="A")]
        assert await OHLCVRepository(db).write_arrow(table_of(given)) == 3
        assert [item.volume for item in await OHLCVRepository(db).get_range(*_SERIES, T0, T0)] == [Decimal(2)]

    async def test_upserting_rows_keeps_id_and_created_at(self, db: DatabaseManager, clock: Clock) -> None:
        repository = OHLCVRepository(db, clock=clock)
        await repository.insert_many(hourly(2))
        before = await repository.get_range(*_SERIES, *_ALL)
        clock.advance(timedelta(days=1))
        await repository.write_arrow(table_of(hourly(3, trades_count=9)))
        after = await repository.get_range(*_SERIES, *_ALL)
        assert [(item.id, item.created_at) for item in after[:2]] == [(item.id, item.created_at) for item in before]
        assert [item.trades_count for item in after] == [9, 9, 9]
        assert after[2].created_at == clock.now

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            (bar(T0 + HOUR), "T01:00:00.00:00 occurs twice in the batch"),
            (bar(T0 + 5 * HOUR), "T05:00:00.00:00 is already stored"),
        ],
    )
    async def test_a_duplicate_on_insert_leaves_nothing_and_the_session_usable(
        self, db: DatabaseManager, extra: OHLCVBar, message: str
    ) -> None:
        await OHLCVRepository(db).insert_many([bar(T0 + 5 * HOUR)])
        async with db.get_session() as session:
            repository = OHLCVRepository(session)
            await repository.insert_many([bar(symbol="ETHUSDT")])
            with pytest.raises(IntegrityError, match=f"the bar 'binance' 'BTCUSDT' 1h 2024-01-01{message}"):
                await repository.write_arrow(table_of([*hourly(3), extra]), "insert")
            await repository.insert_many([bar(symbol="XRPUSDT")])
        assert await raw.count(db, "ohlcv") == 3
