"""Computes trade statistics from exact sums; Python, not the engine, divides, so results are equal on all engines."""

from __future__ import annotations

from decimal import Decimal

from iftb_store.analytics.figures import TradeStatistics
from iftb_store.models import TradeTotals
from iftb_store.values.decimals import CONTEXT, SCALE, trim_zeros

_PLACES = Decimal(1).scaleb(-SCALE)


def trade_statistics(totals: TradeTotals) -> TradeStatistics:
    """Return the statistics of trades from their totals: sums are exact, quotients are rounded half-even to 18 places.

    win_rate = 100 * wins / trades. profit_factor = gross profit / gross loss (Investopedia, "Profit Factor"), None without
    losses. avg_win is the average of the wins, avg_loss the average of the losses.

    Args:
        totals: the number of trades, wins and losses, and the exact sums of their profits, losses and fees.

    Returns:
        The statistics; without trades every figure is 0 and profit_factor is None.

    Example:
        from iftb_store.analytics.statistics import trade_statistics
        from iftb_store.models import TradeTotals

        totals = TradeTotals(3, 2, 1, Decimal(30), Decimal(20), Decimal(1), largest_win=Decimal(25), largest_loss=Decimal(20))
        trade_statistics(totals).win_rate  # -> Decimal('66.666666666666666667')
    """
    return TradeStatistics(
        total_trades=totals.trades,
        winning_trades=totals.wins,
        losing_trades=totals.losses,
        win_rate=_ratio(Decimal(100 * totals.wins), totals.trades),
        gross_profit=trim_zeros(totals.profit),
        gross_loss=trim_zeros(totals.loss),
        net_pnl=trim_zeros(CONTEXT.subtract(totals.profit, totals.loss)),
        total_fees=trim_zeros(totals.fees),
        avg_win=_ratio(totals.profit, totals.wins),
        avg_loss=_ratio(totals.loss, totals.losses),
        largest_win=trim_zeros(totals.largest_win),
        largest_loss=trim_zeros(totals.largest_loss),
        profit_factor=_ratio(totals.profit, totals.loss) if totals.loss else None,
    )


def _ratio(numerator: Decimal, denominator: Decimal | int) -> Decimal:
    if not denominator:
        return Decimal(0)
    quotient = CONTEXT.divide(numerator, Decimal(denominator))
    return trim_zeros(quotient.quantize(_PLACES, context=CONTEXT) if quotient.adjusted() < CONTEXT.prec - SCALE - 1 else quotient)
