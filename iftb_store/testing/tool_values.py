"""Tests of values from other tools, e.g. numbers of NumPy, rows of ccxt and data frames with floats; and of reading floats."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pytest

from iftb_store import DatabaseManager, InvalidValueError, OHLCVBar, OHLCVRepository, SystemEventRepository, TradeRepository
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.bars import stored
from iftb_store.testing.fixtures import SuiteFixtures, requires
from iftb_store.testing.samples import HOUR, T0, as_given, bar, full_bar, hourly, trade

_ROW: list[Any] = [1_704_067_200_000, 0.00005330000000000001, 0.5, 5e-05, 0.1, 0.00011865000000000001]
_SERIES: Final[dict[str, Any]] = {"symbol": "BTC/USDT", "timeframe": "1h", "exchange": "kraken"}
#: Values that a bar does not accept in a field, each with the text of the error.
_NO_VALUES: list[tuple[str, Any, str]] = [
    ("timestamp", None, "timestamp must be a datetime, not None$"),
    ("timestamp", 1_704_067_200_000, r"datetime.fromtimestamp\(value / 1000, UTC\) converts milliseconds"),
    ("timestamp", 1_704_067_200, r"datetime.fromtimestamp\(value, UTC\) converts seconds"),
    ("open", None, "open must be a Decimal, not None$"),
    ("trades_count", True, "trades_count must be a whole number, not bool True"),
]


def frame(**columns: Any) -> Any:
    """Return two candles as a data frame of freqtrade: a column date, floats, and no series; skip the test without pandas."""
    pandas = pytest.importorskip("pandas")
    prices = {"open": [0.00005330000000000001, 2.5], "high": [3.0, 3.0], "low": [1e-05, 1e-05], "close": [1.0, 2.0]}
    times = pandas.to_datetime([T0, T0 + HOUR], utc=True)
    return pandas.DataFrame({"date": times, **prices, "volume": [0.00011865000000000001, 4.0], **columns})


class ToolValueTests(SuiteFixtures):
    """Values from other tools are stored exactly, or refused with an error that names the function to convert them."""

    async def test_whole_numbers_and_booleans_of_numpy_are_taken(self, db: DatabaseManager) -> None:
        numpy = pytest.importorskip("numpy")
        repository = OHLCVRepository(db)
        await repository.insert_many([bar(trades_count=numpy.int64(7), open=numpy.int32(50_000))])
        (found,) = await repository.get_latest("BTCUSDT", "1h", numpy.uint8(1))
        assert (found.trades_count, type(found.trades_count), found.open) == (7, int, Decimal(50_000))
        assert (await repository.upsert_many([found], report=numpy.bool_(True))).unchanged == 1

    @requires(Capability.RECORDS)
    async def test_numbers_of_numpy_in_json_are_stored(self, db: DatabaseManager) -> None:
        numpy = pytest.importorskip("numpy")
        await SystemEventRepository(db).log_event("a", "info", "m", details={"n": numpy.int64(3), "ok": numpy.bool_(False)})
        (event,) = await SystemEventRepository(db).get_recent_events(limit=1)
        assert event.details == {"n": 3, "ok": False}

    @pytest.mark.parametrize(("field", "value", "reason"), _NO_VALUES)
    async def test_a_value_of_another_type_is_refused_by_name(
        self, db: DatabaseManager, field: str, value: Any, reason: str
    ) -> None:
        with pytest.raises(InvalidValueError, match=reason):
            await OHLCVRepository(db).insert_many([bar(**{field: value})])
        assert await raw.count(db, "ohlcv") == 0

    async def test_a_missing_value_of_pandas_is_named(self, db: DatabaseManager) -> None:
        pandas = pytest.importorskip("pandas")
        with pytest.raises(InvalidValueError, match="timestamp must be a datetime, not NaT, the missing value of pandas"):
            await OHLCVRepository(db).insert_many([bar(pandas.NaT)])
        with pytest.raises(InvalidValueError, match="open must be a Decimal, not NA, the missing value of pandas"):
            await OHLCVRepository(db).insert_many([bar(open=pandas.NA)])

    async def test_a_row_of_ccxt_becomes_a_bar(self, db: DatabaseManager) -> None:
        given = OHLCVBar.from_ccxt(_ROW, **_SERIES)
        await OHLCVRepository(db).insert_many([given])
        (found,) = await stored(db, "BTC/USDT", exchange="kraken")
        prices = (found.open, found.high, found.low, found.close, found.volume)
        assert found.timestamp == T0
        assert prices == (Decimal("0.0000533"), Decimal("0.5"), Decimal("0.00005"), Decimal("0.1"), Decimal("0.00011865"))
        named: dict[str, Any] = dict(zip(("timestamp", "open", "high", "low", "close", "volume"), _ROW, strict=True))
        assert OHLCVBar.from_ccxt(named, **_SERIES) == given

    async def test_what_is_no_bar_names_what_converts_it(self, db: DatabaseManager) -> None:
        repository: Any = OHLCVRepository(db)
        for write in (repository.insert_many, repository.upsert_many):
            for given in ([_ROW], [{"open": 1}], {"open": 1}):
                with pytest.raises(InvalidValueError, match=r"OHLCVBar.from_ccxt\(row, symbol=…, timeframe=…, exchange=…\)"):
                    await write(given)
            with pytest.raises(InvalidValueError, match="not Table; write_arrow writes data frames"):
                await write(pa.table({"open": [1]}))

    async def test_a_frame_of_freqtrade_is_written_with_its_series(self, db: DatabaseManager) -> None:
        report = await OHLCVRepository(db).write_arrow(frame(), **_SERIES, decimals="from_float", report=True)
        first, second = await stored(db, "BTC/USDT", exchange="kraken")
        assert (report.inserted, report.updated, report.unchanged) == (2, 0, 0)
        assert (first.timestamp, first.open, first.volume) == (T0, Decimal("0.0000533"), Decimal("0.00011865"))
        assert (second.timestamp, second.open) == (T0 + HOUR, Decimal("2.5"))

    @pytest.mark.parametrize("index", ["date", "times", "rows", "column"])
    async def test_the_index_of_a_frame_is_the_time_or_is_left_out(self, db: DatabaseManager, index: str) -> None:
        made: dict[str, Callable[[Any], Any]] = {
            "date": lambda given: given.set_index("date"),
            "times": lambda given: given.set_index("date").rename_axis(None),
            "rows": lambda given: given.set_axis([3, 5]),
            "column": lambda given: given.reset_index(),
        }
        assert await OHLCVRepository(db).write_arrow(made[index](frame()), **_SERIES, decimals="from_float") == 2
        assert [item.timestamp for item in await stored(db, "BTC/USDT", exchange="kraken")] == [T0, T0 + HOUR]

    async def test_a_series_is_given_once(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        with pytest.raises(InvalidValueError, match="the data has a column symbol; leave symbol= out"):
            await repository.write_arrow(frame(symbol="A"), **_SERIES, decimals="from_float")
        with pytest.raises(InvalidValueError, match=r"column exchange is missing; .*; give exchange= if all"):
            await repository.write_arrow(frame(), symbol="A", timeframe="1h", decimals="from_float")
        assert await repository.write_arrow([], **_SERIES) == 0
        with pytest.raises(InvalidValueError, match="unknown timeframe"):
            await repository.write_arrow([], timeframe="1H")  # type: ignore[call-overload]
        assert await raw.count(db, "ohlcv") == 0

    @pytest.mark.parametrize(
        ("columns", "reason"),
        [
            ({"open": [Decimal(1), "x"]}, "row 2 of 2: open is str 'x', which does not fit its column"),
            ({"open": [Decimal(1), 2.0]}, "row 2 of 2: open is float 2.0"),
            ({"open": [2**70, 1]}, "row 1 of 2: open is int"),
            ({"open": [1j, 2j]}, "the column open has the type complex128"),
            ({"date": [1_704_067_200_000, 1_704_070_800_000]}, "pandas.to_datetime.* converts milliseconds"),
        ],
    )
    async def test_a_value_that_arrow_cannot_hold_is_named(self, db: DatabaseManager, columns: Any, reason: str) -> None:
        with pytest.raises(InvalidValueError, match=reason):
            await OHLCVRepository(db).write_arrow(frame(**columns), **_SERIES, decimals="from_float")
        assert await raw.count(db, "ohlcv") == 0

    async def test_a_sparse_or_repeated_column_is_named(self, db: DatabaseManager) -> None:
        pandas = pytest.importorskip("pandas")
        given = frame(open=pandas.arrays.SparseArray([1.0, 0.0]))
        with pytest.raises(InvalidValueError, match="the column open has the type Sparse"):
            await OHLCVRepository(db).write_arrow(given, **_SERIES, decimals="from_float")
        given = pandas.concat([frame(), frame()[["open"]]], axis=1)
        with pytest.raises(InvalidValueError, match="the column open occurs twice"):
            await OHLCVRepository(db).write_arrow(given, **_SERIES, decimals="from_float")
        assert await raw.count(db, "ohlcv") == 0

    async def test_bars_are_read_as_floats_on_request(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        await repository.insert_many([full_bar(), bar(T0 + HOUR, close=Decimal("0.3"), high=Decimal("12345678901234567890.1"))])
        rows = await repository.read_arrow(decimals="float")
        assert rows.schema.field("close").type == pa.float64()
        assert rows["close"].to_pylist() == [50500.4, 0.3]
        assert rows["high"].to_pylist() == [51000.2, 12345678901234567890.1]
        assert rows["quote_volume"].to_pylist() == [5050000.123456789, None]
        batches = [batch async for batch in repository.stream_arrow(batch_size=1, decimals="float")]
        assert pa.Table.from_batches(batches) == rows
        assert (await repository.read_arrow())["close"].to_pylist() == [Decimal("50500.4"), Decimal("0.3")]

    @requires(Capability.RECORDS)
    async def test_trades_are_read_as_floats_on_request(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade(entry_price=Decimal("0.1")))
        rows = await TradeRepository(db).read_arrow(decimals="float")
        assert (rows["entry_price"].to_pylist(), rows["exit_price"].to_pylist()) == ([0.1], [None])
        batches = [batch async for batch in TradeRepository(db).stream_arrow(decimals="float")]
        assert pa.Table.from_batches(batches) == rows
        with pytest.raises(InvalidValueError, match="decimals must be one of float"):
            await TradeRepository(db).read_arrow(decimals="from_float")  # type: ignore[arg-type]

    async def test_write_arrow_reports_what_it_changed(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        await repository.insert_many(hourly(3))
        table = (await repository.read_arrow()).slice(1)
        closes = pa.array([Decimal(1), table["close"][1].as_py()], pa.decimal128(38, 18))
        changed = table.set_column(table.column_names.index("close"), "close", closes)
        report = await repository.write_arrow(changed, report=True)
        assert (report.inserted, report.updated, report.unchanged) == (0, 1, 1)
        later = [as_given(item) for item in hourly(4)][3:]
        new = pa.table({name: [getattr(item, name) for item in later] for name in table.column_names[:9]})
        report = await repository.write_arrow(new, "insert", report=True)
        assert (report.inserted, report.updated, report.unchanged) == (1, 0, 0)
        assert (await repository.get_latest("BTCUSDT", "1h", 1))[0].timestamp == datetime(2024, 1, 1, 3, tzinfo=UTC)
