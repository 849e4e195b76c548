"""Computes exact sums of sortable decimal text in SQL: SQLite's integers have 64 bits, so digits are summed in four parts."""

from __future__ import annotations

from decimal import Decimal

from iftb_store.models import TradeTotals
from iftb_store.relational import Row
from iftb_store.values.decimals import from_sortable, trim_zeros

# A decimal has 20 digits before and 18 after the point, split into parts of 10, 10, 9 and 9 digits. The sum of one part over
# 2**63 / 10**10 rows, about 900 million, still fits into 64 bits. Negative numbers store the nines' complement of their digits.
_WIDTHS = (10, 10, 9, 9)
_POSITIVE, _NEGATIVE = "'a0'", "'U'"
_NINES, _ZEROS = "'9999999999'", "'0000000000'"


def _parts(column: str, condition: str, *, negative: bool) -> list[str]:
    digits = f"(85 - unicode({column}))" if negative else f"(unicode({column}) - 96)"
    text, fill = (f"rtrim({column}, '~')", _NINES) if negative else (column, _ZEROS)
    # few numbers have the two outer parts; the prefix letter and the length show which lack them, at less cost than cutting
    # substrings
    long, fine = f"{digits} > 10", f"length({text}) > {digits} + 11"
    first, last = f"substr({column}, 2, {digits} - 10)", f"substr({column}, {digits} - 8, 10)"
    short = f"substr({column}, 2, {digits})"
    tenths, rest = (f"substr(substr({text}, {digits} + {start}, 9) || {fill}, 1, 9)" for start in (3, 12))

    def number(cut: str, width: str) -> str:
        value = f"CAST({cut} AS INTEGER)"
        return f"CAST(substr({_NINES}, 1, {width}) AS INTEGER) - {value}" if negative else value

    whole = f"CASE WHEN {long} THEN {number(last, '10')} ELSE {number(short, digits)} END"
    return [
        f"SUM({number(first, f'{digits} - 10')}) FILTER (WHERE {condition} AND {long})",
        f"SUM({whole}) FILTER (WHERE {condition})",
        f"SUM({number(tenths, '9')}) FILTER (WHERE {condition})",
        f"SUM({number(rest, '9')}) FILTER (WHERE {condition} AND {fine})",
    ]


_IS_WIN = f"realized_pnl > {_POSITIVE}"
_IS_LOSS = f"realized_pnl < {_NEGATIVE}"

#: The query for the counts, extremes and partial sums over the trades that were realized since ``:since``.
TOTALS = f"""
    SELECT COUNT(*), COUNT(*) FILTER (WHERE {_IS_WIN}), COUNT(*) FILTER (WHERE {_IS_LOSS}),
        MAX(realized_pnl) FILTER (WHERE {_IS_WIN}), MIN(realized_pnl) FILTER (WHERE {_IS_LOSS}),
        {", ".join(_parts("realized_pnl", _IS_WIN, negative=False))},
        {", ".join(_parts("realized_pnl", _IS_LOSS, negative=True))},
        {", ".join(_parts("fee", f"fee > {_POSITIVE}", negative=False))},
        {", ".join(_parts("fee", f"fee < {_NEGATIVE}", negative=True))}
    FROM trades
    WHERE realized_pnl IS NOT NULL AND COALESCE(exit_time, updated_at) >= :since"""


def sums(column: str) -> list[str]:
    """Return SQL aggregates that compute partial sums of a column of non-negative decimals; `add_parts` adds them up."""
    return _parts(column, f"{column} IS NOT NULL", negative=False)


def add_parts(parts: Row) -> Decimal:
    """Return the total of the partial sums that the aggregates from `sums` computed."""
    return trim_zeros(_decimal(_whole(parts)))


def make_totals(row: Row) -> TradeTotals:
    """Convert a row of the query `TOTALS` to TradeTotals, adding up its partial sums."""
    trades, wins, losses, largest_win, largest_loss, *parts = row
    profit, loss, paid, rebated = (_whole(parts[first : first + 4]) for first in range(0, 16, 4))
    return TradeTotals(
        trades=trades,
        wins=wins,
        losses=losses,
        profit=_decimal(profit),
        loss=_decimal(loss),
        fees=_decimal(paid - rebated),
        largest_win=from_sortable(largest_win) if wins else Decimal(0),
        largest_loss=from_sortable(largest_loss).copy_abs() if losses else Decimal(0),
    )


def _whole(parts: Row) -> int:
    total = 0
    for part, width in zip(parts, _WIDTHS, strict=True):
        total = total * 10**width + (part or 0)
    return total


def _decimal(scaled: int) -> Decimal:
    return Decimal(f"{scaled}E-18")
