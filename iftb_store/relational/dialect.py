"""SqlDialect, all that differs between the SQL of two engines, as data; and statements with named parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Dialect, text

from iftb_store.values.timeframes import SECONDS

Row = Sequence[Any]


class Statement:
    """A SQL text with ``:name`` parameters, compiled for one driver; ``names`` lists the parameters in order of position."""

    __slots__ = ("names", "sql")

    def __init__(self, sql: str, dialect: Dialect) -> None:
        compiled = text(sql).compile(dialect=dialect)
        self.sql = str(compiled)
        self.names: tuple[str, ...] = tuple(getattr(compiled, "positiontup", None) or ())


@dataclass(frozen=True, eq=False)
class SqlDialect:
    """The SQL dialect of one driver, as templates of SQL expressions in which ``{}`` is the name of a column or a parameter.

    Attributes:
        dialect: the SQLAlchemy dialect for which statements are compiled.
        sums: returns the aggregates from which `Driver.decode_sum` computes the exact sum of a column of non-negative decimals.
        octets: the number of bytes of a text column's value.
        month: the number of the calendar month (UTC) of a time; consecutive months have consecutive numbers.
        microseconds: a time as whole microseconds since 1970-01-01 UTC.
        json_column: the expression that selects a JSON column as text.
        json_parameter: the parameter for a JSON column.
        decimal_column: the expression that selects a decimal column in the form that `Driver.decode_decimal` accepts.
        time_parameter: the parameter for a time column.
        text_column: a text column in a comparison.
        text_parameter: the parameter in a comparison with a text column.
        difference: the difference of two times, the earlier one first, comparable with ``duration``.
        duration: a number of seconds as a difference of times.
        integer: a literal whole number as 64 bits, to which `microseconds` is added or by which it is divided.
        lag: the window function that returns the previous row's value. Set ``text_column``, ``text_parameter`` and ``lag`` if the
            engine could call a function or an operator that a user defined instead of the built-in one.
        divided: the operator of a division of whole numbers that truncates toward zero.
        returning: whether INSERT has a RETURNING clause; if not, the driver reports the new id.
        on_conflict: whether INSERT has the clauses ON CONFLICT … DO NOTHING and DO UPDATE; if not, the stores update first and
            insert what was not there.
    """

    dialect: Dialect
    sums: Callable[[str], Sequence[str]]
    octets: str
    month: str
    microseconds: str = "{}"
    json_column: str = "{}"
    json_parameter: str = ":{}"
    decimal_column: str = "{}"
    time_parameter: str = ":{}"
    text_column: str = "{}"
    text_parameter: str = ":{}"
    difference: str = "{1} - {0}"
    duration: str = "{}000000"
    integer: str = "{}"
    lag: str = "LAG"
    divided: str = "/"
    returning: bool = True
    on_conflict: bool = True

    @property
    def series(self) -> str:
        """The SQL condition that selects one series of bars by the parameters exchange, symbol and timeframe."""
        return self.equal("exchange", "symbol", "timeframe")

    def equal(self, *columns: str) -> str:
        """Return the SQL condition that each text column equals the parameter of the same name."""
        return " AND ".join(f"{self.text_column.format(name)} = {self.text_parameter.format(name)}" for name in columns)

    def gap_sql(self, timeframe: str) -> str:
        """Return the SQL condition that a bar is missing between the times ``earlier`` and ``later`` of two bars."""
        seconds = SECONDS[timeframe]
        if seconds is None:
            return f"{self._months()} > 1"
        return f"{self.difference.format('earlier', 'later')} > {self.duration.format(seconds)}"

    def missing_sql(self, timeframe: str) -> str:
        """Return the SQL number of bars that fit strictly between the times ``earlier`` and ``later`` of two bars of a gap."""
        seconds = SECONDS[timeframe]
        if seconds is None:
            return f"{self._months()} - 1"
        # a literal number would have 32 bits on some engines
        step, one = (self.integer.format(number) for number in (seconds * 1_000_000, 1))
        apart = f"{self.microseconds.format('later')} - {self.microseconds.format('earlier')}"
        return f"({apart} - {one}) {self.divided} {step}"

    def _months(self) -> str:
        return f"{self.month.format('later')} - {self.month.format('earlier')}"


@lru_cache(maxsize=1024)
def prepare_statement(sql: str, dialect: Dialect) -> Statement:
    """Return the compiled statement of a SQL text; statements are cached by text and dialect."""
    return Statement(sql, dialect)
