"""The choices of words that values have: each is defined once, as a Literal type, and the tuple of its words is derived."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Side: TypeAlias = Literal["long", "short"]
Action: TypeAlias = Literal["open", "close", "liquidated"]
PositionStatus: TypeAlias = Literal["open", "closed", "liquidated"]
#: The severities of events, least severe first.
Severity: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]
FillSide: TypeAlias = Literal["buy", "sell"]
#: Whether a fill added liquidity to the order book or took it.
Liquidity: TypeAlias = Literal["maker", "taker"]
LedgerKind: TypeAlias = Literal["deposit", "withdrawal", "funding", "fee", "rebate", "interest", "transfer", "adjustment"]
#: What to do with floats where decimals are expected; without this choice floats are refused.
Decimals: TypeAlias = Literal["from_float"]
#: As what decimals are read; without this choice they are exact decimals.
ReadDecimals: TypeAlias = Literal["float"]

#: What to do with a row that is stored with other values: overwrite it, or raise before anything is written.
Conflict: TypeAlias = Literal["source-wins", "refuse"]

#: What realized_pnl is: "apart": before fees, which are subtracted; "included": fees are already subtracted.
Fees: TypeAlias = Literal["apart", "included"]

SIDES: tuple[Side, ...] = get_args(Side)
ACTIONS: tuple[Action, ...] = get_args(Action)
STATUSES: tuple[PositionStatus, ...] = get_args(PositionStatus)
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
FILL_SIDES: tuple[FillSide, ...] = get_args(FillSide)
LIQUIDITIES: tuple[Liquidity, ...] = get_args(Liquidity)
LEDGER_KINDS: tuple[LedgerKind, ...] = get_args(LedgerKind)
CONFLICTS: tuple[Conflict, ...] = get_args(Conflict)
FEES: tuple[Fees, ...] = get_args(Fees)
