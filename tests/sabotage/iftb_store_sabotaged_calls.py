"""Stores whose calls go through a fault: a function that changes the arguments, the answer or the error of some calls."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any
from uuid import uuid4

import pyarrow as pa
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store import OHLCVBar, Trade, TransientError
from iftb_store.batches.resampling import Buckets
from iftb_store.models import TradeTotals, WriteCounts
from iftb_store.schema.table_spec import RowFilter, TableSpec
from iftb_store.schema.types import to_epoch_us
from iftb_store.values.decimals import CONTEXT

_MICROSECOND = timedelta(microseconds=1)
_WEEK = 7 * 86_400


@dataclass
class Call:
    """One call of a sound store's method; ``name`` is e.g. "bars.read range", see `_name_call`."""

    name: str
    method: Callable[..., Awaitable[Any]]
    args: tuple[Any, ...]
    named: dict[str, Any]
    session: AsyncSession

    async def answer(self, **changes: Any) -> Any:
        """Make the call, and return its answer; ``changes`` are new arguments, by a letter and their place: ``_3=end``."""
        args = list(self.args)
        for place, value in changes.items():
            args[int(place[1:])] = value
        return await self.method(*args, **self.named)


class Stores:
    """The stores of a session, or one of them, whose calls go through a fault."""

    def __init__(self, sound: Any, session: AsyncSession, fault: str, name: str = "") -> None:
        self._sound = sound
        self._session = session
        self._fault = fault
        self._name = name

    def __getattr__(self, name: str) -> Any:
        part = getattr(self._sound, name)
        if not callable(part):
            return Stores(part, self._session, self._fault, f"{name}.")
        method: Any = part
        fault = _FAULTS.get(self._fault)
        if fault is None:
            return method

        async def call(*args: Any, **named: Any) -> Any:
            return await fault(Call(_name_call(self._name + name, args, named), method, args, named, self._session))

        return call


def _name_call(name: str, args: tuple[Any, ...], named: dict[str, Any]) -> str:
    """Return the name of a call: the method's, and which bars are read, how bars are written, or which records are meant."""
    if name == "bars.read":
        return f"{name} {'latest' if named.get('descending') else 'range' if args[0].limit is None else 'page'}"
    if name == "bars.write":
        return f"{name} {args[1]}"
    if not name.startswith("records.") or not args:
        return name
    table = args[0].table if isinstance(args[0], RowFilter) else args[0]
    return f"{name} {table.name}" if isinstance(table, TableSpec) else name


async def answer_nothing(call: Call) -> Any:
    answer = await call.answer()
    if isinstance(answer, TradeTotals):
        return TradeTotals(0, 0, 0, *[Decimal(0)] * 5)
    if isinstance(answer, WriteCounts):
        return WriteCounts(0, 0)
    if isinstance(answer, bool | int | list | tuple):
        return type(answer)()
    return answer.slice(0, 0) if isinstance(answer, pa.Table) else None


async def never_end(call: Call) -> Any:
    if call.name == "bars.read range":
        await asyncio.Event().wait()
    if call.name == "bars.read page":
        # the time limit then strikes while the event loop waits, and not within the driver, which could hang afterwards
        await asyncio.sleep(0.2)
        return await call.answer(_0=replace(call.args[0], start=datetime.min.replace(tzinfo=UTC)))
    return await call.answer()


async def round_a_decimal(call: Call) -> Any:
    if call.name == "records.insert trades":
        trade = call.args[1]
        price = trade.entry_price.quantize(Decimal("1E-8"), ROUND_DOWN, CONTEXT)
        return await call.answer(_1=replace(trade, entry_price=price))
    return await call.answer()


async def drop_tzinfo(call: Call) -> Any:
    answer = await call.answer()
    if not (isinstance(answer, list) and answer and isinstance(answer[0], Trade)):
        return answer
    return [replace(trade, entry_time=trade.entry_time.replace(tzinfo=None)) for trade in answer]


async def swallow_a_duplicate(call: Call) -> Any:
    try:
        return await call.answer()
    except IntegrityError:
        if call.name != "bars.write insert":
            raise


async def lose_a_row(call: Call) -> Any:
    answer = await call.answer()
    if call.name == "bars.write insert" and len(call.args[0]) > 2_000:
        await call.session.execute(text("DELETE FROM ohlcv WHERE id = (SELECT MAX(id) FROM ohlcv)"))
    return answer


async def move_created_at(call: Call) -> Any:
    answer = await call.answer()
    if call.name == "bars.write upsert":
        now = to_epoch_us(call.args[0].created_at)
        await call.session.execute(text("UPDATE ohlcv SET created_at = :now"), {"now": now})
    return answer


async def leave_out_the_end(call: Call) -> Any:
    if call.name == "bars.read range":
        return await call.answer(_0=replace(call.args[0], end=call.args[0].end - _MICROSECOND))
    return await call.answer()


async def delete_all_but_the_end(call: Call) -> Any:
    if call.name == "bars.delete":
        return await call.answer(_0=replace(call.args[0], end=max(call.args[0].start, call.args[0].end - _MICROSECOND)))
    return await call.answer()


async def end_a_stream_early(call: Call) -> Any:
    answer = await call.answer()
    if call.name == "bars.read page":
        return answer[:-1] if len(answer) == call.args[0].limit > 1 else answer
    return answer


async def begin_weeks_on_sunday(call: Call) -> Any:
    return await call.answer(**_shift_buckets(call, weeks=True, by=timedelta(days=-1)))


async def begin_days_at_one(call: Call) -> Any:
    return await call.answer(**_shift_buckets(call, weeks=False, by=timedelta(hours=1)))


def _shift_buckets(call: Call, *, weeks: bool, by: timedelta) -> dict[str, Buckets]:
    """Return the changes that shift the buckets of bars, but not the times that the resampled bars show."""
    shifted = {}
    for place, argument in enumerate(call.args):
        if isinstance(argument, Buckets) and (argument.seconds == _WEEK) == weeks:
            shifted[f"_{place}"] = copy(argument)
            shifted[f"_{place}"].origin += by
    return shifted


async def miscount_the_missing(call: Call) -> Any:
    answer = await call.answer()
    if call.name == "bars.list_series":
        return [replace(series, missing=min(series.missing, 1)) for series in answer]
    return answer


async def report_all_as_updated(call: Call) -> Any:
    answer = await call.answer()
    if call.name == "bars.write count":
        inserted, _ = answer
        return WriteCounts(inserted, len(call.args[0]) - inserted)
    return answer


async def sum_floats(call: Call) -> Any:
    answer = await call.answer()
    if isinstance(answer, TradeTotals):
        return answer._replace(profit=Decimal(float(answer.profit)), loss=Decimal(float(answer.loss)))
    return answer


async def reopen_a_position(call: Call) -> Any:
    if call.name == "records.update positions":
        await call.session.execute(text("UPDATE positions SET status = 'open' WHERE id = :id"), {"id": call.args[1].get("id")})
    return await call.answer()


async def ignore_the_account(call: Call) -> Any:
    for place, given in enumerate(call.args):
        if isinstance(given, RowFilter) and "account" in given.equal:
            equal = {name: value for name, value in given.equal.items() if name != "account"}
            return await call.answer(**{f"_{place}": replace(given, equal=equal)})
    return await call.answer()


async def lose_a_fee(call: Call) -> Any:
    if call.name == "records.update trades":
        return await call.answer(_2={name: value for name, value in call.args[2].items() if name != "fee"})
    return await call.answer()


async def apply_all_but_the_last_fill(call: Call) -> Any:
    answer = await call.answer()
    if call.name == "records.select fills" and call.args[0].limit is None and len(answer) > 1:
        return answer[:-1]
    return answer


async def store_a_fill_twice(call: Call) -> Any:
    try:
        return await call.answer()
    except IntegrityError:
        if call.name != "records.insert fills":
            raise
        fill = call.args[1]
        return await call.answer(_1=replace(fill, fill_id=f"{fill.fill_id} again {uuid4().hex}"))


async def ignore_the_account_of_fills(call: Call) -> Any:
    return await (ignore_the_account(call) if call.name == "records.select fills" else call.answer())


async def order_ties_oldest_first(call: Call) -> Any:
    answer = await call.answer()
    if call.name == "records.select system_events":
        # a sort only by time keeps the order of equal times
        oldest_first = answer[::-1]
        return sorted(oldest_first, key=lambda event: str(event.created_at), reverse=True)
    return answer


async def mix_two_states(call: Call) -> Any:
    """Read bars in two parts, the second of them after another session's commit, if one comes."""
    first = await call.answer()
    if not (isinstance(first, list) and len(first) > 100 and isinstance(first[0], OHLCVBar)):
        return first
    second = first
    for _ in range(10):
        if second != first:
            break
        await asyncio.sleep(0.01)
        second = await call.answer()
    return first[:100] + second[100:]


async def leak_the_driver(call: Call) -> Any:
    try:
        return await call.answer()
    except OperationalError as error:
        raise sqlite3.ProgrammingError(str(error)) from error


async def reconnect_in_silence(call: Call) -> Any:
    try:
        return await call.answer()
    except OperationalError as error:
        if "closed" not in str(error):
            raise
        # the session goes on in a new transaction on another connection
        await call.session.rollback()
        return await call.answer()


async def restart_after_a_deadlock(call: Call) -> Any:
    try:
        return await call.answer()
    except TransientError:
        # as an engine that rolls back the victim's transaction and begins a new one
        await call.session.rollback()
        raise


_FAULTS: dict[str, Callable[[Call], Awaitable[Any]]] = {
    "answers nothing": answer_nothing,
    "never ends": never_end,
    "rounds a decimal": round_a_decimal,
    "drops tzinfo": drop_tzinfo,
    "swallows a duplicate": swallow_a_duplicate,
    "loses a row": lose_a_row,
    "moves created_at": move_created_at,
    "leaves out the end": leave_out_the_end,
    "deletes all but the end": delete_all_but_the_end,
    "ends a stream early": end_a_stream_early,
    "begins weeks on Sunday": begin_weeks_on_sunday,
    "begins days at one": begin_days_at_one,
    "miscounts the missing": miscount_the_missing,
    "reports all as updated": report_all_as_updated,
    "sums floats": sum_floats,
    "reopens a position": reopen_a_position,
    "ignores the account": ignore_the_account,
    "ignores the account of fills": ignore_the_account_of_fills,
    "loses a fee": lose_a_fee,
    "applies all but the last fill": apply_all_but_the_last_fill,
    "stores a fill twice": store_a_fill_twice,
    "orders ties oldest first": order_ties_oldest_first,
    "mixes two states": mix_two_states,
    "raises the driver's error of a lost connection": leak_the_driver,
    "reconnects in silence": reconnect_in_silence,
    "commits half after a deadlock": restart_after_a_deadlock,
}
