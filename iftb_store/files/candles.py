"""Converts candles from files of other tools to bars: finds the columns by name and reads the times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute

from iftb_store.batches.arrow import TIME, find_uncastable, has_text
from iftb_store.batches.arrow_input import WRITTEN, RowError, check_rows, decode_dictionary
from iftb_store.errors import InvalidValueError
from iftb_store.files.options import FLOATS, ROUNDING, Hints
from iftb_store.schema.table_spec import SERIES
from iftb_store.schema.types import to_epoch_us
from iftb_store.values.display import show
from iftb_store.values.timeframes import MONTH, grid

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

#: Columns that a file may lack; the series may also come from the options or the file's name.
OPTIONAL = ("quote_volume", "trades_count", *SERIES)

_ALIASES = {
    "timestamp": ("time", "date", "datetime", "open_time", "opentime", "ts", "unix", "epoch", "date_time", "__index_level_0__"),
    "open": ("o", "open_price"),
    "high": ("h", "high_price"),
    "low": ("l", "low_price"),
    "close": ("c", "close_price"),
    "volume": ("v", "vol", "base_volume"),
    "quote_volume": ("quotevolume", "quote_asset_volume", "volume_quote"),
    "trades_count": ("trades", "count", "number_of_trades", "tradecount", "trade_count", "num_trades"),
    "exchange": (),
    "symbol": ("pair", "ticker"),
    "timeframe": ("interval",),
}
#: The columns of freqtrade's files, which contain floats.
_FREQTRADE = {"date", "open", "high", "low", "close", "volume"}
_PRICES = ("open", "high", "low", "close")
_UNITS = {9: "s", 10: "s", 12: "ms", 13: "ms", 15: "us", 16: "us", 18: "ns", 19: "ns"}
_WHOLE = r"^\d+(\.0*)?$"
# dates without separators: 20240229, 2024022923, 202402292359, 20240229235900
_JOINED = r"^(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(([01]\d|2[0-3])([0-5]\d([0-5]\d)?)?)?$"
_DAY = r"^\d{4}-\d{2}-\d{2}$"
_ORDER = "are the columns time, open, high, low, close, volume, in this order?"
_ZONED = r"(Z|[+-]\d{2}(:?\d{2})?)$"


def normalise_name(name: str) -> str:
    """Return a column's name in the form used for comparisons: lower case, with words joined by underscores."""
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_") or name


#: All column names that are recognised.
KNOWN = frozenset(name for column, aliases in _ALIASES.items() for name in (column, *aliases))


def match_columns(names: list[str], mapped: Mapping[str, str]) -> dict[str, str]:
    """Return the file's column name for each column of iftb-store that the file has.

    Args:
        names: the file's column names.
        mapped: for columns of iftb-store, the file's column name that the user has set.

    Raises:
        InvalidValueError: the file lacks a required column, or two of its columns match the same column of iftb-store.
    """
    found: dict[str, str] = {}
    plain: dict[str, list[str]] = {}
    for name in names:
        plain.setdefault(normalise_name(name), []).append(name)
    if "__index_level_0__" in names:
        plain["__index_level_0__"] = ["__index_level_0__"]
    for column, aliases in _ALIASES.items():
        if column in mapped:
            if mapped[column] not in names:
                raise InvalidValueError(f"has no column {show(mapped[column])}; its columns are {_list_names(names)}")
            found[column] = mapped[column]
            continue
        meant = plain.get(column) or [name for alias in aliases for name in plain.get(alias, []) if name not in mapped.values()]
        if not meant and column == "timestamp":
            # pandas writes an index without a name as a column with an empty name
            meant = plain.get("", [])
        if len(meant) > 1:
            both = " and ".join(show(name) for name in meant[:2])
            raise InvalidValueError(f"{both} could both be the {column}; select one, e.g. --map {column}={meant[0]}")
        if meant:
            found[column] = meant[0]
        elif column not in OPTIONAL:
            raise InvalidValueError(
                f"has no column {column}; name the column with --map {column}=NAME; its columns are {_list_names(names)}"
            )
    return found


class Candles:
    """Converts the batches of one file to bars; all numeric times in the file must have the same unit.

    Attributes:
        names: the file's columns to read.
        rounded: number of values that were rounded to 18 places.
        skipped: number of rows without prices that were skipped.
        places: for each row that was not skipped, its index in the last batch; empty if no row was skipped.
        notes: remarks for the user on how the file was read.
    """

    def __init__(
        self, hints: Hints, columns: dict[str, str], series: dict[str, str | None], *, floats: bool, arrays: bool
    ) -> None:
        """Create a converter for one file.

        Args:
            hints: the options of the user.
            columns: the file's column name for each column of iftb-store.
            series: the exchange, symbol and timeframe of all bars; each is None if the file has a column for it.
            floats: whether floats are accepted.
            arrays: whether the file has no column names; its columns may be in a wrong order, and the volume may be absent.
        """
        self._hints, self._columns, self._series = hints, columns, series
        self._may_be_floats, self._arrays = floats, arrays
        self._unit: Any = None
        self._seen: dict[str, str] = {}
        self._without_volume = self._off_grid = self._beyond = 0
        self._floats = False
        self.names = list(dict.fromkeys(columns.values()))
        self.rounded = self.skipped = 0
        self.places: list[int] = []

    @property
    def notes(self) -> list[str]:
        """Remarks for the user on how the file was read."""
        return [
            *(["floats stored as the shortest decimals that convert back to them"] if self._floats else []),
            *([f"rows without prices skipped: {self.skipped:,}"] if self.skipped else []),
            *([f"rows without a volume, stored with volume 0: {self._without_volume:,}"] if self._without_volume else []),
            # the doctor would report these bars later
            *([f"bars off the timeframe's grid: {self._off_grid:,}"] if self._off_grid else []),
            *([f"bars whose open or close is not between low and high: {self._beyond:,}"] if self._beyond else []),
        ]

    def convert(self, batch: pa.Table) -> pa.Table:
        """Check the rows of a batch and return them with the columns of iftb-store: times in UTC, the series added.

        Raises:
            RowError: a time cannot be read, a value cannot be stored, or the columns seem to be in another order.
            InvalidValueError: a column has the wrong type, or names a series that contradicts the options.
        """
        self.places = []
        if self._hints.skip_empty and pc.any(empty := self._find_empty(batch)).as_py():
            full = pc.invert(empty)
            batch, self.places = batch.filter(full), pc.indices_nonzero(full).to_pylist()
            self.skipped += len(empty) - len(self.places)
        if not batch.num_rows:
            return WRITTEN.empty_table()
        try:
            return self._convert(batch)
        except RowError as error:
            remedy = "; use --skip-empty to skip rows without prices" if self._find_empty(batch)[error.index].as_py() else ""
            index = self.places[error.index] if self.places else error.index
            raise RowError(index, f"{error.why}{remedy}") from error

    def _find_empty(self, batch: pa.Table) -> Any:
        """Return a Boolean array: whether each row has no prices."""
        return reduce(pc.and_, (_find_missing(batch[self._columns[name]]) for name in _PRICES))

    def _convert(self, given: pa.Table) -> pa.Table:
        taken: dict[str, Any] = {name: given[header] for name, header in self._columns.items()}
        for name, column in taken.items():
            if pa.types.is_floating(column.type) and name != "timestamp":
                if not self._may_be_floats:
                    raise InvalidValueError(
                        f"its column {show(self._columns[name])} holds floats, which are not exact decimals; {FLOATS}"
                    )
                self._floats = True
        taken["timestamp"] = self._times(taken["timestamp"])
        if self._arrays and taken["volume"].null_count:
            self._without_volume += taken["volume"].null_count
            taken["volume"] = pc.fill_null(taken["volume"].cast(pa.string()), "0")
        if "trades_count" in taken and has_text((counts := decode_dictionary(taken["trades_count"])).type):
            taken["trades_count"] = _counts(counts)
        for name in SERIES:
            value = self._series[name]
            if name in taken:
                self._check_series(name, taken[name])
            if name not in taken or (value is not None and name != "timeframe"):
                taken[name] = pa.repeat(pa.scalar(value, pa.string()), given.num_rows)
        given = pa.table({name: taken[name] for name in WRITTEN.names if name in taken})
        rows, rounded = check_rows(given, from_float=self._may_be_floats, remedy=ROUNDING)
        self.rounded += rounded
        self._count_odd(rows)
        return rows

    def _count_odd(self, rows: pa.Table) -> None:
        """Count bars that do not begin at a multiple of the timeframe, and bars whose open or close is not from low to high."""
        low, high = rows["low"], rows["high"]
        outside = (pc.or_(pc.less(rows[name], low), pc.greater(rows[name], high)) for name in ("open", "close"))
        beyond = pc.or_(*outside)
        count = pc.sum(beyond).as_py() or 0
        if self._arrays and count * 2 > rows.num_rows:
            why = f"open or close is not between low and high, as in {count:,} of {rows.num_rows:,} rows; {_ORDER}"
            raise RowError(pc.index(beyond, True).as_py(), why)
        self._beyond += count
        for timeframe in pc.unique(rows["timeframe"]).to_pylist():
            times = rows["timestamp"].filter(pc.equal(rows["timeframe"], timeframe))
            self._off_grid += pc.sum(_find_off_grid(times, timeframe)).as_py() or 0

    def _check_series(self, name: str, column: Any) -> None:
        wanted = self._series[name]
        if wanted is None:
            return
        for value in pc.unique(column).to_pylist():
            if name == "timeframe" and value != wanted:
                raise InvalidValueError(f"its column {name} holds {show(value)}, which contradicts {wanted}")
            if self._seen.setdefault(name, value) != value:
                raise InvalidValueError(
                    f"--{name} {wanted} would merge {show(self._seen[name])} and {show(value)} into one series"
                )

    def _times(self, column: Any) -> Any:
        column = decode_dictionary(column)
        kind = column.type
        if pa.types.is_timestamp(kind):
            return column if kind.tz is not None else self._local(column)
        if pa.types.is_date(kind):
            return self._local(column.cast(pa.timestamp("us")))
        if pa.types.is_integer(kind):
            return self._epochs(column.cast(pa.string()))
        if not has_text(kind):
            raise InvalidValueError(f"the times in {show(self._columns['timestamp'])} are of the type {kind}, not times")
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
        whole = pc.match_substring_regex(text, _WHOLE)
        # if the first time is a number, all others must be numbers too; `_epochs` reports the first that is not
        if pc.all(whole).as_py() or whole[0].as_py():
            return self._epochs(pc.replace_substring_regex(text, r"^(\d+)\.0*$", r"\1"))
        # text is ISO 8601: with a point or a comma, a T or a space, and with or without an offset
        text = pc.replace_substring_regex(text, r"(\d) (Z|[+-]\d)", r"\1\2")
        # MetaTrader's dates, as in Bybit's files: 2024.02.29 23:59
        text = pc.replace_substring_regex(text, r"^(\d{4})\.(\d{2})\.(\d{2})", r"\1-\2-\3")
        day = pc.match_substring_regex(text, _DAY)
        text = pc.if_else(day, pc.binary_join_element_wise(text, "T00:00:00", ""), text)
        zoned = pc.all(pc.match_substring_regex(text, _ZONED)).as_py()
        wanted = TIME if zoned else pa.timestamp("us")
        try:
            made = text.cast(wanted)
        except pa.ArrowInvalid as error:
            index, offset = find_uncastable(text, wanted), "; the first times have an offset" if zoned else ""
            why = f"time {show(text[index].as_py())} is not a time like 2024-02-29T23:59:00{offset}"
            raise RowError(index, why) from error
        return made if zoned else self._local(made)

    def _epochs(self, text: Any) -> Any:
        lengths = pc.utf8_length(text)
        unit = _UNITS.get(lengths[0].as_py()) if len(text) else self._unit
        self._unit = self._unit or unit
        wrong = pc.invert(pc.is_in(lengths, pa.array([size for size, name in _UNITS.items() if name == self._unit], pa.int32())))
        wrong = pc.fill_null(pc.or_(wrong, pc.invert(pc.match_substring_regex(text, _WHOLE))), True)
        # such text could also be an epoch (10 digits are in the 2030s, 12 digits in 1976), but it is more likely a date
        if len(text) and pc.all(pc.match_substring_regex(text, _JOINED), skip_nulls=False).as_py():
            why = f"time {show(text[0].as_py())} reads as a date without separators; write it as 2024-02-29T23:59:00"
            raise RowError(0, why)
        if self._unit is None or pc.any(wrong).as_py():
            index = pc.index(wrong, True).as_py() if self._unit else 0
            units = f"{self._unit} since 1970, as in the first row" if self._unit else "s, ms, us or ns since 1970"
            raise RowError(index, f"time {show(text[index].as_py())} is not a number of {units}")
        return text.cast(pa.int64()).cast(pa.timestamp(self._unit, "UTC"))

    def _local(self, column: Any) -> Any:
        zone = self._hints.zone
        if zone is None:
            return column
        fold = 1 if self._hints.fold == "later" else 0
        made: list[datetime | None] = []
        times = column.cast(pa.timestamp("us"), safe=False)
        finer = pc.not_equal(times.cast(column.type, safe=False), column)
        if pc.any(finer).as_py():
            why = "timestamp is more precise than microseconds; round it first"
            raise RowError(pc.index(finer, True).as_py(), why)
        for index, moment in enumerate(times.to_pylist()):
            if moment is None:
                made.append(None)
                continue
            local = moment.replace(tzinfo=zone, fold=fold)
            if local.utcoffset() != local.replace(fold=1 - fold).utcoffset():
                _check_clock(local, zone, index, told=self._hints.fold is not None)
            try:
                made.append(local.astimezone(UTC))
            except OverflowError:
                raise RowError(index, f"time {moment} lies outside the years 1 to 9999 in UTC") from None
        return pa.chunked_array([pa.array(made, TIME)])


def _find_missing(column: Any) -> Any:
    column = decode_dictionary(column)
    if pa.types.is_floating(column.type):
        return pc.is_null(column, nan_is_null=True)
    if has_text(column.type):
        return pc.or_(pc.is_null(column), pc.is_in(pc.utf8_lower(column.cast(pa.string())), pa.array(["", "nan"])))
    return pc.is_null(column)


def has_floats(names: list[str]) -> bool:
    """Return whether a file has exactly the columns of freqtrade's files, whose prices are floats."""
    return set(names) == _FREQTRADE


def _check_clock(local: datetime, zone: ZoneInfo, index: int, *, told: bool) -> None:
    there = local.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None)
    shown_time = local.replace(tzinfo=None).isoformat(" ")
    if not there:
        raise RowError(index, f"time {shown_time} does not exist in {zone.key}, as clocks were set forward")
    if not told:
        twice = f"time {shown_time} occurs twice in {zone.key}, as clocks were set back"
        raise RowError(index, f"{twice}; use --fold earlier or --fold later to select one")


def _counts(column: Any) -> Any:
    text = pc.replace_substring_regex(column.cast(pa.string()), r"\.0*$", "")
    bad = pc.invert(pc.match_substring_regex(text, r"^\d{1,18}$"))
    if pc.any(bad).as_py():
        index = pc.index(bad, True).as_py()
        raise RowError(index, f"trades_count {show(text[index].as_py())} is not a whole number")
    return text.cast(pa.int64())


def _list_names(names: list[str]) -> str:
    return ", ".join(show(name, 30) for name in names[:20]) + (", …" if len(names) > 20 else "")


def count_off_grid(times: Any, timeframe: str) -> tuple[list[datetime], int]:
    """Return the first and the last time of a column, and how many of its times are no multiple of the timeframe."""
    return list(pc.min_max(times).as_py().values()), pc.sum(_find_off_grid(times, timeframe)).as_py() or 0


def _find_off_grid(times: Any, timeframe: str) -> Any:
    origin, step = grid(timeframe)
    length = step // timedelta(microseconds=1)
    numbers = pc.subtract(times.cast(pa.int64()), to_epoch_us(origin))
    off = pc.not_equal(pc.multiply(pc.divide(numbers, length), length), numbers)
    return pc.or_(off, pc.not_equal(pc.day(times), 1)) if timeframe == MONTH else off
