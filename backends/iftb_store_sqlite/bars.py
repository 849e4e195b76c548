"""Writes bars to SQLite and reads them column by column, so that the work per value runs in C."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import chain, islice, repeat
from operator import add, floordiv, itemgetter, sub, truediv

from iftb_store.batches.bars import CHUNK, KEY, VALUES, BarColumns
from iftb_store.errors import explain_unreadable
from iftb_store.models import OHLCVBar
from iftb_store.relational import Row, age_objects, pause_gc
from iftb_store.schema.types import EPOCH, from_epoch_us
from iftb_store.values.decimals import from_sortable, to_sortable
from iftb_store_sqlite.connection import release, savepoint, undo

_MICROSECOND = timedelta(microseconds=1)
# the prefix of sortable text, indexed by the position of the decimal point; to_sortable handles texts without a point
_PREFIXES = [None, *map(chr, range(ord("a"), ord("a") + 20)), None]
_DIGITS = itemgetter(slice(1, None))
# microseconds since 1970 below this bound can be held by a float exactly enough to be rounded to microseconds
_EXACT_AS_FLOAT = 2**52

_COLUMNS = ", ".join((*BarColumns._fields, "created_at"))
_VALUES = ", ".join(VALUES)
_WIDTH = len(BarColumns._fields) + 1
_ROW = f"({', '.join('?' * _WIDTH)})"
_INSERT = f"INSERT INTO ohlcv ({_COLUMNS})"
_UPSERT = f"""ON CONFLICT ({", ".join(KEY)}) DO UPDATE
    SET ({_VALUES}) = ({", ".join(f"excluded.{column}" for column in VALUES)})
    WHERE ({_VALUES}) IS NOT ({", ".join(f"excluded.{column}" for column in VALUES)})"""
_KEEP = f"ON CONFLICT ({', '.join(KEY)}) DO NOTHING"
# the number of rows in one statement, which takes a third less time than a statement for each row
_ROWS = 200
#: The number of rows in a statement that binds the series and created_at once.
SERIES_ROWS = 100
_PLAIN_ROW = f"({', '.join('?' * (_WIDTH - 4))})"


@dataclass(frozen=True)
class BarWriter:
    """The SQL statements that write bars; ``end`` says what becomes of a bar that is stored already."""

    end: str

    @cached_property
    def one(self) -> str:
        """The statement that writes one bar."""
        return f"{_INSERT} VALUES {_ROW} {self.end}"

    @cached_property
    def many(self) -> str:
        """The statement that writes many bars."""
        return f"{_INSERT} VALUES {', '.join([_ROW] * _ROWS)} {self.end}"

    @cached_property
    def of_series(self) -> str:
        """The statement that writes `SERIES_ROWS` bars of one series."""
        return self.select(SERIES_ROWS)

    def select(self, count: int) -> str:
        """Return the statement that writes so many bars of one series; its first parameters are the series and created_at."""
        # sqlite3 counts the rows only of a statement that begins with INSERT; without a WHERE, SQLite would read ON CONFLICT as
        # the condition of the join
        return f"""
            {_INSERT}
            WITH series AS (VALUES (?, ?, ?, ?)), bars AS (VALUES {", ".join([_PLAIN_ROW] * count)})
            SELECT series.column1, series.column2, series.column3, bars.*, series.column4
            FROM bars CROSS JOIN series WHERE true {self.end}"""


INSERTER, UPSERTER, KEEPER = (BarWriter(end) for end in ("", _UPSERT, _KEEP))


def fetch_bars(connection: sqlite3.Connection, sql: str, args: Row) -> list[OHLCVBar]:
    """Run a query whose columns are OHLCVBar's fields, in the same order, and return the bars."""
    cursor = connection.execute(sql, args)
    bars: list[OHLCVBar] = []
    with pause_gc():
        while rows := cursor.fetchmany(CHUNK):
            with explain_unreadable("ohlcv"):
                bars += to_bars(rows)
            age_objects()
    return bars


def write_next(connection: sqlite3.Connection, writer: BarWriter, chunks: Iterator[BarColumns], created_at: int) -> int | None:
    """Check the next chunk of bars and write it; return the number of written bars, or None if no chunk is left."""
    with pause_gc():
        columns = next(chunks, None)
        return None if columns is None else write_rows(connection, writer, to_rows(columns, created_at))


def write_rows(connection: sqlite3.Connection, writer: BarWriter, rows: list[Row]) -> int:
    """Write bars given as parameter rows of the INSERT and return the number of written bars."""
    values = chain.from_iterable(rows)
    # rows that triggers write are not counted
    written = [connection.execute(writer.many, tuple(islice(values, _ROWS * _WIDTH))).rowcount for _ in range(len(rows) // _ROWS)]
    if len(rows) % _ROWS:
        written.append(connection.executemany(writer.one, rows[len(rows) - len(rows) % _ROWS :]).rowcount)
    return sum(written)


def write_whole(connection: sqlite3.Connection, write: Callable[[sqlite3.Connection], int | None]) -> None:
    """Call ``write`` repeatedly until it returns None, in one savepoint; an error undoes all of its writes.

    This runs as one job of the connection's thread, so that a cancelled call has written everything or nothing.
    """
    savepoint(connection)
    try:
        while write(connection) is not None:
            pass
        release(connection)
    except BaseException:
        # whatever fails, also ``write``, the savepoint must not remain
        undo(connection)
        raise


def to_rows(columns: BarColumns, created_at: int) -> list[Row]:
    """Convert checked bars to the parameter rows of the INSERT."""
    decimals = (to_sortables(column) for column in columns[4:9])
    quotes = to_optional_sortables(columns.quote_volume)
    times = map(floordiv, map(sub, columns.timestamp, repeat(EPOCH)), repeat(_MICROSECOND))
    names = columns.exchange, columns.symbol, columns.timeframe
    return list(zip(*names, times, *decimals, quotes, columns.trades_count, repeat(created_at), strict=False))


def to_optional_sortables(texts: Sequence[str | None]) -> Sequence[str | None]:
    """Apply `to_sortable` to each decimal text of a column; None stays None."""
    given = [text for text in texts if text is not None]
    if len(given) == len(texts):
        return to_sortables(given)
    return [None if text is None else to_sortable(text) for text in texts]


def to_sortables(texts: Sequence[str]) -> Sequence[str]:
    """Apply `to_sortable` to each decimal text of a column."""
    joined = "\n".join(texts)
    if "-" in joined:
        return list(map(to_sortable, texts))
    if "0\n" in joined or joined.endswith("0"):
        texts = [text.rstrip("0").rstrip(".") if text[-1] == "0" and "." in text else text for text in texts]
    try:
        return list(map(add, map(_PREFIXES.__getitem__, map(str.find, texts, repeat("."))), texts))
    except TypeError:
        return list(map(to_sortable, texts))


def to_bars(rows: Sequence[Row]) -> list[OHLCVBar]:
    """Convert rows to bars; the columns are OHLCVBar's fields in their order."""
    symbol, exchange, timeframe, timestamp, open_, high, low, close, volume, quote, trades, ids, created = zip(*rows, strict=True)
    moments = {created_at: from_epoch_us(created_at) for created_at in set(created)}
    prices = (_decimals(column) for column in (open_, high, low, close, volume))
    quotes = _decimals(quote) if None not in quote else [None if text is None else from_sortable(text) for text in quote]
    times = map(moments.__getitem__, created)
    return list(map(OHLCVBar, symbol, exchange, timeframe, _times(timestamp), *prices, quotes, trades, ids, times))


def _decimals(texts: Sequence[str]) -> Iterable[Decimal]:
    if "~" in "".join(texts):
        return map(from_sortable, texts)
    return map(Decimal, map(_DIGITS, texts))


def _times(microseconds: Sequence[int]) -> Iterable[datetime]:
    if min(microseconds) > -_EXACT_AS_FLOAT and max(microseconds) < _EXACT_AS_FLOAT:
        return map(datetime.fromtimestamp, map(truediv, microseconds, repeat(1_000_000)), repeat(UTC))
    return map(from_epoch_us, microseconds)
