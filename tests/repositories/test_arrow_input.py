"""Arrow input before any engine sees it: kinds of tables, foreign types, and each refused row and column."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from iftb_store import InvalidValueError
from iftb_store.batches.arrow_frames import collect_rows
from iftb_store.batches.arrow_input import WRITTEN, check_rows, prepare_rows
from iftb_store.testing.arrow_writes import kind_of, table_of, with_column
from iftb_store.testing.samples import HOUR, INDIA, SMALLEST, T0, bar, hourly


class _Exporter:
    """A data frame of an unknown library, with only Arrow's PyCapsule interface."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        exported: object = self._table.__arrow_c_stream__(requested_schema)  # type: ignore[no-untyped-call]
        return exported


def _batches(table: pa.Table) -> Iterator[pa.RecordBatch]:
    yield from table.to_batches(max_chunksize=1)


_HOLDERS: dict[str, Callable[[pa.Table], Any]] = {
    "a table": lambda table: table,
    "a table in chunks": lambda table: pa.concat_tables([table.slice(0, 1), table.slice(1)]),
    "a record batch": lambda table: table.combine_chunks().to_batches()[0],
    "a reader": lambda table: table.to_reader(max_chunksize=1),
    "a list of record batches": lambda table: table.to_batches(max_chunksize=1),
    "a generator of record batches": _batches,
    "an object with the PyCapsule interface": _Exporter,
    "a list of such objects": lambda table: [_Exporter(table.slice(0, 1)), _Exporter(table.slice(1))],
}
#: Types other than Decimal(38,18), text and UTC microseconds that hold the values of the column exactly.
_FOREIGN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "large text": ("symbol", lambda column: column.cast(pa.large_string())),
    "text views": ("symbol", lambda column: column.cast(pa.string_view())),
    "dictionary": ("symbol", lambda column: column.combine_chunks().dictionary_encode()),
    "dictionary of large text": ("exchange", lambda column: column.cast(pa.large_string()).combine_chunks().dictionary_encode()),
    "dictionary of text views": (
        "timeframe",
        lambda column: pa.DictionaryArray.from_arrays(
            pa.array([0] * len(column), pa.uint32()), pa.array(["1h"], pa.string_view())
        ),
    ),
    "a small decimal": ("close", lambda column: column.cast(pa.decimal128(12, 2))),
    "a wide decimal": ("close", lambda column: column.cast(pa.decimal256(70, 30))),
    "decimals as text": ("close", lambda column: column.cast(pa.string())),
    "milliseconds without a zone": ("timestamp", lambda column: column.cast(pa.timestamp("ms"))),
    "seconds": ("timestamp", lambda column: column.cast(pa.timestamp("s", "UTC"))),
    "nanoseconds": ("timestamp", lambda column: column.cast(pa.timestamp("ns", "UTC"))),
    "another zone": ("timestamp", lambda column: column.cast(pa.timestamp("us", "Asia/Kolkata"))),
    "no count at all": ("trades_count", lambda column: pa.nulls(len(column))),
    "no quote volume at all": ("quote_volume", lambda column: pa.nulls(len(column))),
}
#: (column, its values in two rows, the error's text)
_ROWS_REFUSED: dict[str, tuple[str, Any, str]] = {
    "high below low": ("high", [Decimal(60_000), Decimal(1)], "high is below low"),
    "negative volume": ("volume", [Decimal(0), Decimal(-1)], "volume is negative"),
    "negative quote volume": ("quote_volume", [None, -SMALLEST], "quote_volume is negative"),
    "negative count": ("trades_count", [None, -1], "trades_count is negative"),
    "unknown timeframe": ("timeframe", ["1h", "7h"], "unknown timeframe '7h'"),
    "empty symbol": ("symbol", ["BTCUSDT", ""], "symbol is empty"),
    "long exchange": ("exchange", ["binance", "x" * 256], "exchange 'xxx"),
    "NUL in a symbol": ("symbol", ["BTCUSDT", "BTC\0"], "NUL"),
    "no open": ("open", [Decimal(50_000), None], "open is null"),
    "no timestamp": ("timestamp", [T0, None], "timestamp is null"),
    "no symbol": ("symbol", ["BTCUSDT", None], "symbol is null"),
    "too many places": (
        "close",
        pa.array(["1", "1.0000000000000000001"]),
        'after the point; decimals="from_float" rounds it',
    ),
    "too large": ("close", pa.array([1, Decimal(10) ** 20], pa.decimal256(60, 5)), "close 100000000000000000000"),
    "no number": ("close", pa.array(["1", "one"]), "close 'one' is not a decimal number"),
    "an infinity as text": ("close", pa.array(["1", "Infinity"]), "close is Infinity"),
    "nanoseconds": ("timestamp", pa.array([0, 1500], pa.timestamp("ns")), "more precise than microseconds"),
    "year 10000": ("timestamp", pa.array([0, 253_402_300_800], pa.timestamp("s")), "outside the years 1 to 9999"),
    "year 0": ("timestamp", pa.array([0, -62_135_596_801], pa.timestamp("s")), "outside the years 1 to 9999"),
}
_COLUMNS_REFUSED: dict[str, tuple[str, Any, str]] = {
    "floats": ("close", pa.array([1.5, 2.5]), 'close must hold decimals, not double; use decimals="from_float"'),
    "half floats": ("close", pa.array([1.5, 2.5], pa.float16()), "float32 or float64"),
    "times as decimals": ("close", pa.array([T0, T0]), "close must hold decimals"),
    "text as times": ("timestamp", pa.array(["2024-01-01", "2024-01-02"]), "timestamp must hold times"),
    "dates": ("timestamp", pa.array([T0.date(), T0.date()]), "timestamp must hold times"),
    "numbers as text": ("symbol", pa.array([1, 2]), "symbol must be text, not int64"),
    "counts as text": ("trades_count", pa.array(["1", "2"]), "trades_count must hold whole numbers"),
    "counts as floats": ("trades_count", pa.array([1.0, 2.0]), "trades_count must hold whole numbers, not double; use decimals="),
    "counts past 64 bits": ("trades_count", pa.array([1, 2**63], pa.uint64()), "64 bits"),
    "broken text": ("symbol", pa.array([b"\xff", b"a"]).view(pa.string()), "bytes that are not text"),
    "times far outside": ("timestamp", pa.array([0, 2**62], pa.timestamp("s")), "outside the years"),
}


def ready(data: Any, *, from_float: bool = False, last_wins: bool = True) -> pa.Table:
    return prepare_rows(asyncio.run(collect_rows(data)), from_float=from_float, last_wins=last_wins)


@pytest.mark.parametrize("holder", _HOLDERS)
def test_rows_are_taken_out_of(holder: str) -> None:
    assert ready(_HOLDERS[holder](table_of(hourly(3)))) == table_of(hourly(3))


@pytest.mark.parametrize("foreign", _FOREIGN)
def test_a_column_may_be_of_another_type(foreign: str) -> None:
    name, cast = _FOREIGN[foreign]
    table = table_of(hourly(3))
    assert ready(with_column(table, name, cast(table[name]))) == table


def test_whole_numbers_are_decimals_too() -> None:
    table = table_of([bar()])
    for name in ("open", "high", "low", "close"):
        table = with_column(table, name, pa.array([2**64 - 1], pa.uint64()))
    assert ready(table)["close"].to_pylist() == [Decimal(2**64 - 1)]


def test_times_of_another_zone_are_the_same_moments() -> None:
    table = with_column(table_of([bar()]), "timestamp", pa.array([T0.astimezone(INDIA)]))
    assert ready(table)["timestamp"].to_pylist() == [T0]


@pytest.mark.parametrize("moment", [datetime.min, datetime.max])
def test_the_ends_of_the_calendar_are_taken(moment: datetime) -> None:
    assert ready(table_of([bar(moment.replace(tzinfo=UTC))]))["timestamp"].to_pylist() == [moment.replace(tzinfo=UTC)]


@pytest.mark.parametrize("case", _ROWS_REFUSED)
def test_a_row_that_cannot_be_stored_is_named(case: str) -> None:
    name, values, message = _ROWS_REFUSED[case]
    column = pa.array(values, kind_of(name)) if isinstance(values, list) else values
    with pytest.raises(InvalidValueError) as caught:
        ready(with_column(table_of(hourly(2)), name, column))
    assert str(caught.value).startswith("row 2 of 2 (")
    assert message in str(caught.value)


@pytest.mark.parametrize("case", _COLUMNS_REFUSED)
def test_a_column_of_a_wrong_type_is_named(case: str) -> None:
    name, column, message = _COLUMNS_REFUSED[case]
    with pytest.raises(InvalidValueError) as caught:
        ready(with_column(table_of(hourly(2)), name, column))
    assert message in str(caught.value)


def test_columns_that_are_unknown_missing_or_doubled_are_named() -> None:
    table = table_of(hourly(2))
    cases = {
        "no column 'vwap'": table.append_column("vwap", pa.array([1, 2])),
        "column volume is missing": table.drop_columns(["volume"]),
        "column close occurs twice": table.append_column("close", table["close"]),
    }
    for message, wrong in cases.items():
        with pytest.raises(InvalidValueError, match=message):
            ready(wrong)


def test_parts_whose_columns_differ_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="as one Arrow table"):
        ready([table_of(hourly(1)), table_of(hourly(1)).drop_columns(["volume"])])


@pytest.mark.parametrize("data", [None, 5, "ohlcv", {"open": [1]}, [1], hourly(1)])
def test_what_is_no_table_is_refused(data: Any) -> None:
    with pytest.raises(InvalidValueError, match="Arrow table"):
        ready(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e20, 1e21])
def test_a_float_that_no_decimal_column_can_hold_is_refused(value: float) -> None:
    table = with_column(table_of(hourly(2)), "close", pa.array([1.5, value]))
    with pytest.raises(InvalidValueError, match=r"row 2 of 2 .*close "):
        ready(table, from_float=True)


def test_floats_and_decimals_are_rounded_half_even_and_counted() -> None:
    table = with_column(table_of(hourly(4)), "quote_volume", pa.array([0.00011865000000000001, 1e-30, 0.5, None]))
    table = with_column(table, "volume", pa.array(["1.0000000000000000005", "2.5e-18", "1e-60", "3"]))
    table = with_column(table, "close", pa.array([Decimal("1.0000000000000000015")] * 4, pa.decimal128(38, 19)))
    rows, rounded = check_rows(table, from_float=True)
    assert rows["quote_volume"].to_pylist() == [Decimal("0.00011865"), Decimal(0), Decimal("0.5"), None]
    assert rows["volume"].to_pylist() == [Decimal(1), Decimal("0.000000000000000002"), Decimal(0), Decimal(3)]
    assert set(rows["close"].to_pylist()) == {Decimal("1.000000000000000002")}
    assert rounded == 2 + 3 + 4


def test_a_float_of_32_bits_becomes_its_own_shortest_decimal() -> None:
    table = with_column(table_of([bar()]), "close", pa.array([0.1], pa.float32()))
    assert ready(table, from_float=True)["close"].to_pylist() == [Decimal("0.1")]


@settings(deadline=None)
@given(st.floats(min_value=-1e19, max_value=1e19).filter(lambda value: value == 0 or abs(value) > 1e-2))
def test_any_float_becomes_the_decimal_that_repr_shows(value: float) -> None:
    table = with_column(table_of([bar()]), "close", pa.array([value]))
    (found,) = ready(table, from_float=True)["close"].to_pylist()
    assert (found, Fraction(float(found or 0))) == (Decimal(repr(value)), Fraction(value))


def test_rows_come_out_in_key_order_and_the_last_of_a_key_wins() -> None:
    given_rows = [bar(T0 + HOUR), bar(T0, volume=Decimal(1)), bar(T0, volume=Decimal(2)), bar(T0, symbol="A")]
    assert ready(table_of(given_rows)) == table_of([given_rows[3], given_rows[2], given_rows[0]])


def test_a_duplicate_key_is_refused_on_insert() -> None:
    with pytest.raises(IntegrityError, match=r"2024-01-01T00:00:00.* occurs twice in the batch"):
        ready(table_of([bar(), bar(T0 + HOUR), bar()]), last_wins=False)


def test_what_comes_out_has_one_schema() -> None:
    assert ready(table_of(hourly(2)).select(list(reversed(WRITTEN.names)))).schema == WRITTEN


_NUMBERS = st.from_regex(r"[+-]?[0-9]{1,24}(\.[0-9]{0,60})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)


@settings(max_examples=300, deadline=None)
@given(text=_NUMBERS, from_float=st.booleans())
def test_text_of_a_number_gives_that_number_or_is_refused(text: str, from_float: bool) -> None:
    number = Decimal(text)
    found, rounded, message = None, 0, ""
    try:
        rows, rounded = check_rows(with_column(table_of([bar()]), "open", pa.array([text])), from_float=from_float)
        found = rows["open"][0].as_py()
    except InvalidValueError as refusal:
        message = str(refusal)
    nearest = number.quantize(SMALLEST, context=Context(prec=200, rounding=ROUND_HALF_EVEN))
    if abs(nearest) >= 10**20 or not (from_float or nearest == number):
        assert "open" in message
    else:
        assert (found, rounded) == (nearest, int(nearest != number))


@pytest.mark.parametrize("text", ["1e-999999999", "0e-999999999", "1.1110320111951554e36", "1e-77", "3.4e38"])
def test_text_that_arrow_misreads_is_refused_or_read_exactly(text: str) -> None:
    given_rows = with_column(table_of([bar()]), "open", pa.array([text]))
    if Decimal(text):
        with pytest.raises(InvalidValueError, match="open"):
            check_rows(given_rows, from_float=False)
    else:
        assert check_rows(given_rows, from_float=False)[0]["open"][0].as_py() == 0
