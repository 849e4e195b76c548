"""On 500 trades, one closing a day, the figures agree with those of quantstats and empyrical-reloaded where these are defined.

The peers take daily returns as floats; ours are exact, so the difference is theirs: at most 1e-9 of a figure.
"""

from __future__ import annotations

import importlib
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from iftb_store import PerformanceReport, Trade
from iftb_store.sync import open_store

_START = datetime(2022, 1, 1, 12, tzinfo=UTC)
_YEAR = 365


class Peers(NamedTuple):
    """The report, the libraries, and what they take: the daily returns, and the results in millionths."""

    report: PerformanceReport
    quantstats: Any
    empyrical: Any
    returns: Any
    results: Any


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    if "IFTB_STORE_TEST_PEERS" not in os.environ:
        pytest.skip("needs quantstats and empyrical-reloaded; `nox -s peers` runs it")
    quantstats, empyrical, pandas = (importlib.import_module(name) for name in ("quantstats", "empyrical", "pandas"))
    draw = random.Random(500)
    with open_store(f"sqlite:///{tmp_path_factory.mktemp('peers') / 'bot.db'}") as db:
        db.migrate()
        with db.get_session() as session:
            for day in range(500):
                closed = _START + timedelta(days=day, minutes=draw.randrange(600))
                pnl = Decimal(draw.randrange(-90_000, 100_000)).scaleb(-3)
                done: dict[str, Any] = {"exit_time": closed, "realized_pnl": pnl, "fee": Decimal("0.125")}
                price, entry = Decimal(100), closed - timedelta(hours=1)
                session.trades.insert(Trade(f"T-{day}", "BTCUSDT", "binance", "long", "close", price, price, entry, **done))
        report = db.trades.get_performance(starting_balance=Decimal(10_000))
    assert (report.total_trades, report.days) == (500, 500)
    days = pandas.to_datetime([day.period for day in report.daily])
    returns = pandas.Series([float(day.return_pct or 0) / 100 for day in report.daily], index=days)
    results = pandas.Series([float(day.net_pnl) / 1e6 for day in report.daily], index=days)
    return Peers(report, quantstats.stats, empyrical, returns, results)


_EMPYRICAL: dict[str, Callable[[Peers], float]] = {
    "sharpe": lambda one: one.empyrical.sharpe_ratio(one.returns, annualization=_YEAR),
    "sortino": lambda one: one.empyrical.sortino_ratio(one.returns, annualization=_YEAR),
    "volatility_pct": lambda one: 100 * one.empyrical.annual_volatility(one.returns, annualization=_YEAR),
    "cagr_pct": lambda one: 100 * one.empyrical.annual_return(one.returns, annualization=_YEAR),
    "calmar": lambda one: one.empyrical.calmar_ratio(one.returns, annualization=_YEAR),
    "max_drawdown_pct": lambda one: -100 * one.empyrical.max_drawdown(one.returns),
    "total_return_pct": lambda one: 100 * one.empyrical.cum_returns_final(one.returns),
    "var_95_pct": lambda one: 100 * one.empyrical.value_at_risk(one.returns, cutoff=0.05),
    "cvar_95_pct": lambda one: 100 * one.empyrical.conditional_value_at_risk(one.returns, cutoff=0.05),
    "pnl_sharpe": lambda one: one.empyrical.sharpe_ratio(one.results, annualization=_YEAR),
    "pnl_sortino": lambda one: one.empyrical.sortino_ratio(one.results, annualization=_YEAR),
}
_QUANTSTATS: dict[str, Callable[[Peers], float]] = {
    "sharpe": lambda one: one.quantstats.sharpe(one.returns, periods=_YEAR),
    "sortino": lambda one: one.quantstats.sortino(one.returns, periods=_YEAR),
    "volatility_pct": lambda one: 100 * one.quantstats.volatility(one.returns, periods=_YEAR),
    "max_drawdown_pct": lambda one: -100 * one.quantstats.max_drawdown(one.returns),
    "total_return_pct": lambda one: 100 * one.quantstats.comp(one.returns),
    "win_rate": lambda one: 100 * one.quantstats.win_rate(one.results),
    "profit_factor": lambda one: one.quantstats.profit_factor(one.results),
    "payoff_ratio": lambda one: one.quantstats.payoff_ratio(one.results),
    "max_consecutive_wins": lambda one: one.quantstats.consecutive_wins(one.results),
    "max_consecutive_losses": lambda one: one.quantstats.consecutive_losses(one.results),
}


@pytest.mark.parametrize("name", _EMPYRICAL)
def test_a_figure_agrees_with_empyrical(peers: Peers, name: str) -> None:
    assert float(getattr(peers.report, name)) == pytest.approx(_EMPYRICAL[name](peers), rel=1e-9)


@pytest.mark.parametrize("name", _QUANTSTATS)
def test_a_figure_agrees_with_quantstats(peers: Peers, name: str) -> None:
    assert float(getattr(peers.report, name)) == pytest.approx(_QUANTSTATS[name](peers), rel=1e-9)
