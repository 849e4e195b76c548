"""The model's statistics of trades, computed with fractions."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from iftb_store import TradeStatistics
from iftb_store.testing import model_values as values


def statistics(pnls: list[Fraction], fees: list[Fraction]) -> TradeStatistics:
    """Return the statistics of trades with these profits and fees."""
    wins, losses = [pnl for pnl in pnls if pnl > 0], [-pnl for pnl in pnls if pnl < 0]
    return TradeStatistics(
        total_trades=len(pnls),
        winning_trades=len(wins),
        losing_trades=len(losses),
        win_rate=_quotient(100 * len(wins), len(pnls)),
        gross_profit=_exact(sum(wins)),
        gross_loss=_exact(sum(losses)),
        net_pnl=_exact(sum(pnls)),
        total_fees=_exact(sum(fees)),
        avg_win=_quotient(sum(wins), len(wins)),
        avg_loss=_quotient(sum(losses), len(losses)),
        largest_win=_exact(max(wins, default=0)),
        largest_loss=_exact(max(losses, default=0)),
        profit_factor=_quotient(sum(wins), sum(losses)) if losses else None,
    )


def _exact(value: Fraction | int) -> Decimal:
    return values.from_units(int(value * values.UNITS))


def _quotient(numerator: Fraction | int, denominator: Fraction | int) -> Decimal:
    # round() of a Fraction rounds half-even, as the contract requires
    return values.from_units(round(Fraction(numerator) / denominator * values.UNITS)) if denominator else Decimal(0)
