"""The check of each column of trades, positions and events; ids and times that the store sets have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iftb_store.values import checks


def _nullable(check: Callable[[object, str], Any]) -> Callable[[object, str], Any]:
    return lambda value, name: None if value is None else check(value, name)


def _chosen(choices: tuple[str, ...]) -> Callable[[object, str], str]:
    return lambda value, name: checks.choice(value, name, choices)


def _checked_json(value: object, name: str) -> dict[str, Any] | None:
    return checks.json_object(checks.json_text(value, name))


TRADE_CHECKS: dict[str, Callable[[object, str], Any]] = {
    "trade_id": checks.name_text,
    "symbol": checks.name_text,
    "exchange": checks.name_text,
    "side": _chosen(checks.SIDES),
    "action": _chosen(checks.ACTIONS),
    "entry_price": checks.exact_decimal,
    "quantity": checks.exact_decimal,
    "entry_time": checks.utc,
    "leverage": checks.quotient,
    "exit_price": _nullable(checks.exact_decimal),
    "exit_time": _nullable(checks.utc),
    "realized_pnl": _nullable(checks.exact_decimal),
    "realized_pnl_pct": _nullable(checks.quotient),
    "fee": checks.exact_decimal,
    "signal_score": _nullable(checks.quotient),
    "technical_score": _nullable(checks.quotient),
    "llm_score": _nullable(checks.quotient),
    "xgb_confidence": _nullable(checks.quotient),
    "stop_loss": _nullable(checks.exact_decimal),
    "take_profit": _nullable(checks.exact_decimal),
    "position_size_pct": _nullable(checks.quotient),
    "decision_reasons": _nullable(_checked_json),
    "llm_analysis": _nullable(_checked_json),
}

POSITION_CHECKS: dict[str, Callable[[object, str], Any]] = {
    "symbol": checks.name_text,
    "exchange": checks.name_text,
    "side": _chosen(checks.SIDES),
    "entry_price": checks.exact_decimal,
    "quantity": checks.exact_decimal,
    "margin": checks.exact_decimal,
    "entry_time": checks.utc,
    "current_price": _nullable(checks.exact_decimal),
    "unrealized_pnl": _nullable(checks.exact_decimal),
    "status": _chosen(checks.STATUSES),
    "leverage": checks.quotient,
    "unrealized_pnl_pct": _nullable(checks.quotient),
    "liquidation_price": _nullable(checks.exact_decimal),
    "stop_loss": _nullable(checks.exact_decimal),
    "take_profit": _nullable(checks.exact_decimal),
    "trailing_stop": _nullable(checks.exact_decimal),
    "trade_id": _nullable(checks.name_text),
    "id": _nullable(checks.integer),
}

EVENT_CHECKS: dict[str, Callable[[object, str], Any]] = {
    "event_type": checks.name_text,
    "severity": _chosen(checks.SEVERITIES),
    "message": checks.text,
    "details": _nullable(_checked_json),
    "symbol": _nullable(checks.name_text),
    "exchange": _nullable(checks.name_text),
    "trade_id": _nullable(checks.name_text),
    "position_id": _nullable(checks.integer),
    "stack_trace": _nullable(checks.text),
}
