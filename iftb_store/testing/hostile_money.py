"""Calls of fills, the ledger and balances with one hostile value; see `iftb_store.testing.hostile`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from iftb_store import BalanceRepository, FillRepository, FillSummary, LedgerRepository, TradeRepository, add_up_fills
from iftb_store.testing.hostile_values import Attempt, Try
from iftb_store.testing.samples import T0, balance, fill, ledger_entry, trade

_USUAL: dict[str, dict[str, Any]] = {
    "get_range": {"start": T0, "end": T0, "exchange": "binance"},
    "get_by_trade": {"trade_id": "T-1"},
}
_SETTABLE = ("kind", "currency", "symbol", "trade_id", "exchange", "account")


def _record(
    repository: Callable[..., Any], sample: Callable[..., Any], check: Callable[[Any, Any], None], *, many: bool
) -> Attempt:
    """Return an `Attempt` for record or record_many, which reads back what was stored."""

    async def attempt(one: Try) -> int:
        found = repository(one.session)
        row = one.argument(sample, exchange=f"X{one.number}")
        if not many:
            assert await found.record(row) is True
        elif not one.field:
            assert await found.record_many(row) == []
            return 0
        else:
            assert await found.record_many([row, row]) == [True, getattr(row, "external_id", "") is None]
        stored = await found.get_range(row.timestamp, row.timestamp, exchange=row.exchange)
        for item in stored:
            check(replace(item, external_id=None) if getattr(row, "external_id", "") is None else item, row)
        return len(stored)

    return attempt


def _read(repository: Callable[..., Any], method: str, *names: str) -> Attempt:
    """Return an `Attempt` for a method that reads rows; it checks that these have the chosen values."""

    async def attempt(one: Try) -> int:
        arguments = one.changed(**_USUAL.get(method, {"exchange": "binance"}))
        result = getattr(repository(one.session), method)(**arguments)
        if method.startswith("stream"):
            async with result as stream:
                rows = [row async for batch in stream for row in (batch if method == "stream" else batch.to_pylist())]
        else:
            found = await result
            rows = found.to_pylist() if method == "read_arrow" else list(found)
        for row in rows if method != "get_sums" else ():
            for name in {*names} & {*arguments} & {*_SETTABLE}:
                value = row[name] if isinstance(row, dict) else getattr(row, name)
                assert arguments[name] is None or value == arguments[name], f"a row of another {name} was returned"
        return 0

    return attempt


def _write_arrow(repository: Callable[..., Any]) -> Attempt:
    """Return an `Attempt` for write_arrow without rows: a hostile value as the data, the exchange or the choice of decimals."""

    async def attempt(one: Try) -> int:
        pa = pytest.importorskip("pyarrow")
        assert await repository(one.session).write_arrow(**one.changed(data=pa.table({}))) == 0
        return 0

    return attempt


async def _apply_fills(one: Try) -> int:
    trades = TradeRepository(one.session)
    summary = await trades.apply_fills(**one.changed(trade_id=one.last[-1].trade_id))
    assert summary == FillSummary()
    if one.parameter != "quote_currency" or one.value is None:
        return 0
    name = f"A{one.number}"
    await trades.insert(trade(name))
    await FillRepository(one.session).record(fill(name, trade_id=name, fee=Decimal(1), fee_currency=one.value))
    summary = await trades.apply_fills(name, quote_currency=one.value)
    assert (summary.fee, summary.other_fees) == (Decimal(1), {}), "a fee in the quote currency was not added"
    return 2


async def _add_up_fills(one: Try) -> int:
    given = {"fills": [one.argument(fill)], "side": "long"} if one.field else one.changed(fills=[fill()], side="long")
    summary = add_up_fills(**given)
    assert summary.quantity + summary.excess >= 0
    return 0


def find_methods(check: Callable[[Any, Any], None], create: Callable[..., Attempt]) -> dict[str, Attempt]:
    """Return the attempts; ``check`` compares a stored row with the given one, ``create`` makes the attempt of a constructor."""
    found: dict[str, Attempt] = {"TradeRepository.apply_fills": _apply_fills, "add_up_fills": _add_up_fills}
    reads: dict[Any, dict[str, tuple[str, ...]]] = {
        FillRepository: {
            "get_by_trade": ("trade_id", "account"),
            **dict.fromkeys(("get_range", "stream", "read_arrow", "stream_arrow"), ("symbol", "exchange", "account")),
        },
        LedgerRepository: {
            "get_range": ("kind", "currency", "symbol", "trade_id", "exchange", "account"),
            "get_sums": (),
            **dict.fromkeys(("stream", "read_arrow", "stream_arrow"), ("kind", "currency", "symbol", "exchange", "account")),
        },
        BalanceRepository: dict.fromkeys(
            ("get_range", "get_latest", "stream", "read_arrow", "stream_arrow"), ("currency", "exchange", "account")
        ),
    }
    samples: dict[Any, Callable[..., Any]] = {
        FillRepository: fill,
        LedgerRepository: ledger_entry,
        BalanceRepository: balance,
    }
    for repository, sample in samples.items():
        name = repository.__name__
        found[f"{name}.__init__"] = create(
            repository, lambda rows, number, sample=sample: rows.record(sample(exchange=f"C{number}"))
        )
        found[f"{name}.record"] = _record(repository, sample, check, many=False)
        found[f"{name}.record_many"] = _record(repository, sample, check, many=True)
        found[f"{name}.write_arrow"] = _write_arrow(repository)
        for method, names in reads[repository].items():
            found[f"{name}.{method}"] = _read(repository, method, *names)
    return found
