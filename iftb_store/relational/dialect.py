"""SqlDialect, the SQL that is specific to one engine, as data; and statements with named parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from sqlalchemy import Dialect, text

from iftb_store.values.checks import json_text
from iftb_store.values.decimals import trim_zeros
from iftb_store.values.timeframes import SECONDS

Row = Sequence[Any]


class Statement:
    """A SQL text with ``:name`` parameters, compiled for one driver.

    Attributes:
        sql: the text with the driver's placeholders.
        names: the names of the parameters; in the order of the placeholders if ``positional``.
        positional: whether the driver takes the values of the parameters by position, not by name.
    """

    __slots__ = ("names", "positional", "sql")

    def __init__(self, sql: str, dialect: Dialect) -> None:
        compiled: Any = text(sql).compile(dialect=dialect)
        self.sql = str(compiled)
        self.positional = bool(dialect.positional)
        self.names: tuple[str, ...] = tuple((compiled.positiontup if self.positional else compiled.params) or ())


def encode_value(value: Any) -> Any:
    """Convert a dict to JSON text; return any other value unchanged."""
    return json_text(value, "value") if isinstance(value, dict) else value


def decode_decimal(value: Any) -> Decimal:
    """Convert a decimal or its text to a Decimal without trailing zeros."""
    return trim_zeros(value if isinstance(value, Decimal) else Decimal(value))


def decode_sum(parts: Row) -> Decimal:
    """Convert a sum that the engine computed to a Decimal; NULL becomes 0."""
    return decode_decimal(parts[0] or 0)


def decode_time(value: datetime) -> datetime:
    """Convert a stored time to an aware datetime in UTC; a time without a time zone is read as UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


@dataclass(frozen=True, eq=False)
class SqlDialect:
    """The SQL that is specific to one engine, as data; everything else is the same for all engines.

    Templates of SQL expressions contain ``{}`` for the name of a column or a parameter. The defaults are those of an engine that
    stores and returns decimals and times as Python's Decimal and datetime.

    Attributes:
        dialect: the SQLAlchemy dialect for which statements are compiled.
        reserved: the names of columns that are reserved words of the engine, e.g. ``("open", "close")``; the stores' statements
            quote them, so a template of this dialect uses such a word only as a name.
        octets: the number of bytes of a text column's value.
        month: the number of the calendar month (UTC) of a time; consecutive months have consecutive numbers.
        microseconds: a time as whole microseconds since 1970-01-01 UTC.
        difference: the time from ``{0}`` to the later time ``{1}``, in a form that can be compared with ``duration``.
        duration: a number of seconds as a difference of times.
        integer: a whole number as a 64-bit literal, for sums and divisions with ``microseconds``.
        divided: the operator of a division of whole numbers that truncates toward zero.
        modulo: the remainder of such a division, of ``{0}`` by ``{1}``.
        from_nothing: the end of a SELECT that reads no table, e.g. `` FROM dual``.
        sums: returns the aggregates from which ``decode_sum`` computes the exact sum of a column of non-negative decimals.
        json_column: the expression that selects a JSON column as text.
        json_parameter: the parameter for a JSON column.
        decimal_parameter: the parameter for a decimal column.
        decimal_column: the expression that selects a decimal column in the form that ``decode_decimal`` accepts.
        time_parameter: the parameter for a time column.
        text_column: a text column in a comparison.
        text_parameter: the parameter in a comparison with a text column.
        contains: whether the text ``{0}`` contains the text ``{1}``, compared by their bytes.
        unindexed: a column in a condition for which the engine must not choose an index, e.g. ``+{}`` on SQLite. Needed only if
            the engine would otherwise find the rows by an index and sort them, instead of reading them in the order of their ids.
        lag: the window function that returns the previous row's value. Set ``text_column``, ``text_parameter``, ``contains`` and
            ``lag`` if the engine could call a function or an operator that a user defined instead of the built-in one.
        limit: the clause that returns the first rows; ``{}`` is the parameter.
        returning: whether INSERT has a RETURNING clause; if not, the cursor reports the new id as its ``lastrowid``.
        on_conflict: whether INSERT has the clauses ON CONFLICT … DO NOTHING and DO UPDATE; if not, the stores update first and
            insert the rows that the update did not find.
        row_values: whether rows of values can be compared, as in ``(a, b) > (1, 2)``.
        correlated: whether a subquery in FROM, inside a subquery that returns one value, can refer to columns of the outer query.
            If not, as on MariaDB, list_series takes about twice as long.
        grid: whether to find series without gaps by the remainder of ``microseconds``, which is faster than a window function
            where times are stored as microseconds.
        seeks: whether the key's index finds the first row after a key at once; if not, as in a columnar engine, one query over
            the whole table is faster than one query per series.
        lock_series: the statement that makes other transactions wait for this one, if they lock the same series by the parameter
            ``key``, a 64-bit number. The default is a write that changes nothing, for engines with one writer at a time.
        set_sequence: the statement that makes later ids of a table greater than all stored ones, and at least 1; ``{}`` is the
            table. Empty if the engine does so by itself.
        day_fingerprints: the query for `iftb_store.abilities.SupportsFingerprints`, with ``{}`` for the WHERE clause on the table
            ohlcv; empty if the engine has no fast hash of numbers.
        encode: converts a checked value to the form that the driver accepts: a datetime in UTC, a Decimal, a dict, or a value of
            another type that the driver takes as it is.
        decode_decimal: converts a stored decimal, as the driver returns it, to a Decimal.
        decode_sum: returns the exact sum from the values of the aggregates that ``sums`` returned.
        decode_time: converts a stored time, as the driver returns it, to an aware datetime in UTC.
    """

    dialect: Dialect
    octets: str
    month: str
    microseconds: str
    difference: str = "{1} - {0}"
    duration: str = "{}000000"
    integer: str = "{}"
    divided: str = "/"
    modulo: str = "{0} % {1}"
    from_nothing: str = ""
    reserved: tuple[str, ...] = ()
    sums: Callable[[str], Sequence[str]] = lambda column: (f"SUM({column})",)
    json_column: str = "{}"
    json_parameter: str = ":{}"
    decimal_column: str = "{}"
    decimal_parameter: str = ":{}"
    time_parameter: str = ":{}"
    text_column: str = "{}"
    text_parameter: str = ":{}"
    contains: str = "instr({0}, {1}) > 0"
    unindexed: str = "{}"
    lag: str = "LAG"
    limit: str = "LIMIT {}"
    returning: bool = True
    on_conflict: bool = True
    row_values: bool = True
    correlated: bool = True
    grid: bool = False
    seeks: bool = True
    day_fingerprints: str = ""
    lock_series: str = "DELETE FROM coverage WHERE 1 = 0"
    set_sequence: str = ""
    encode: Callable[[Any], Any] = encode_value
    decode_decimal: Callable[[Any], Decimal] = decode_decimal
    decode_sum: Callable[[Row], Decimal] = decode_sum
    decode_time: Callable[[Any], datetime] = decode_time

    @property
    def series(self) -> str:
        """The SQL condition that selects one series of bars by the parameters exchange, symbol and timeframe."""
        return self.equal("exchange", "symbol", "timeframe")

    def equal(self, *columns: str) -> str:
        """Return the SQL condition that each of these text columns equals the parameter of the same name."""
        return " AND ".join(f"{self.text_column.format(name)} = {self.text_parameter.format(name)}" for name in columns)

    def gap_sql(self, timeframe: str) -> str:
        """Return the SQL condition that bars are missing between two bars at the times ``earlier`` and ``later``."""
        seconds = SECONDS[timeframe]
        if seconds is None:
            return f"{self._months()} > 1"
        return f"{self.difference.format('earlier', 'later')} > {self.duration.format(seconds)}"

    def missing_sql(self, timeframe: str) -> str:
        """Return the SQL expression for the number of bars missing between two bars at the times ``earlier`` and ``later``."""
        seconds = SECONDS[timeframe]
        if seconds is None:
            return f"{self._months()} - 1"
        return self.count_sql(self.step_sql(seconds))

    def step_sql(self, seconds: int) -> str:
        """Return the SQL literal, with 64 bits, for the number of microseconds in ``seconds``."""
        # a literal number would have 32 bits on some engines
        return self.integer.format(seconds * 1_000_000)

    def count_sql(self, step: str) -> str:
        """Return the SQL expression for the number of bars, ``step`` microseconds apart, between ``earlier`` and ``later``."""
        apart = f"{self.microseconds.format('later')} - {self.microseconds.format('earlier')}"
        return f"({apart} - {self.integer.format(1)}) {self.divided} {step}"

    def _months(self) -> str:
        return f"{self.month.format('later')} - {self.month.format('earlier')}"


@lru_cache(maxsize=1024)
def prepare_statement(sql: str, dialect: SqlDialect) -> Statement:
    """Compile a SQL text for a driver, with reserved words quoted; compiled statements are cached by text and dialect."""
    if dialect.reserved:
        quote = dialect.dialect.identifier_preparer.quote_identifier
        # neither a parameter nor a literal, e.g. status = 'open'
        name = rf"(?<![\w:'\"])(?:{'|'.join(dialect.reserved)})(?![\w'\"])"
        sql = re.sub(name, lambda found: quote(found[0]), sql)
    return Statement(sql, dialect.dialect)
