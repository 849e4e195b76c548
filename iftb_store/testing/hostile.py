"""Tests with hostile input: every parameter of every public method gets every hostile value.

A method must either accept a value, so that it is read back unchanged, or refuse it. `METHODS` maps each public method to a
function that calls it with one hostile value; the suite fails if a public method is missing there.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType
from typing import Any, ClassVar

import pytest
from sqlalchemy.exc import OperationalError

import iftb_store
from iftb_store import (
    BalanceSnapshot,
    DatabaseManager,
    Fill,
    InvalidValueError,
    LedgerEntry,
    OHLCVBar,
    OHLCVRepository,
    Position,
    PositionRepository,
    StoreError,
    SystemEventRepository,
    Trade,
    TradeFilters,
    TradeRepository,
    quantize,
)
from iftb_store.doctor import examine
from iftb_store.protocols import Capability
from iftb_store.schema.scope import TABLES
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, needs
from iftb_store.testing.hostile_functions import METHODS as FUNCTIONS
from iftb_store.testing.hostile_money import find_methods as find_money_methods
from iftb_store.testing.hostile_records import METHODS as RECORD_METHODS
from iftb_store.testing.hostile_series import METHODS as SERIES_METHODS
from iftb_store.testing.hostile_values import HOSTILE, Attempt, Try
from iftb_store.testing.samples import T0, as_given, bar, position, trade
from iftb_store.transfer.backup import backup

_MODELS = {
    "OHLCVBar": OHLCVBar,
    "Trade": Trade,
    "Position": Position,
    "Fill": Fill,
    "LedgerEntry": LedgerEntry,
    "BalanceSnapshot": BalanceSnapshot,
}
#: Public classes that are data, come from other packages, or are not created by users.
_NO_METHODS = {"Base", "Session", "Settings", "Stream"}
_TABLES = tuple(TABLES)
_KEPT_TYPES = (str, int, Decimal, datetime, dict, list, NoneType)
_LONGEST_MESSAGE = 1_000
_FILTERS = {"symbol", "timeframe", "exchange", "side", "severity", "account", "strategy", "exit_reason"}


def kept(value: Any) -> Any:
    """Return the value that must be read back if ``value`` was accepted."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC, fold=0) if value.utcoffset() is None else value.astimezone(UTC)
    if isinstance(value, Decimal):
        return quantize(value)
    if isinstance(value, dict):
        return json.loads(json.dumps(value, default=lambda item: item.isoformat() if isinstance(item, datetime) else str(item)))
    return [*value] if isinstance(value, tuple) else value


def assert_same(found: Any, given: Any) -> None:
    """Check that the stored row ``found`` has the values of ``given``, see `kept`, and that their types are plain types."""
    stored_row, given_row = as_given(found), as_given(given)
    for name in given.__slots__:
        stored = getattr(stored_row, name)
        assert stored == kept(getattr(given_row, name)), f"{name} came back as another value"
        assert type(stored) in _KEPT_TYPES, f"{name} came back as {type(stored).__name__}"
        if isinstance(stored, datetime):
            assert stored.tzinfo is UTC or stored.utcoffset() == UTC.utcoffset(None)


async def _insert_bars(one: Try) -> int:
    return await _write_bars(one, OHLCVRepository(one.session).insert_many)


async def _upsert_bars(one: Try) -> int:
    return await _write_bars(one, OHLCVRepository(one.session).upsert_many)


async def _write_bars(one: Try, write: Callable[[Any], Awaitable[int]]) -> int:
    given = one.argument(bar, exchange=f"X{one.number}")
    if not one.field:
        assert await write(given) == 0
        return 0
    assert await write([bar(exchange=f"Y{one.number}"), given]) == 2
    (found,) = await OHLCVRepository(one.session).get_range(
        given.symbol, given.timeframe, given.timestamp, given.timestamp, given.exchange
    )
    assert_same(found, given)
    return 2


async def _get_range(one: Try) -> int:
    arguments = one.changed(symbol="BTCUSDT", timeframe="1h", start=T0, end=T0, exchange="binance")
    _assert_found(await OHLCVRepository(one.session).get_range(**arguments), arguments)
    return 0


async def _get_latest(one: Try) -> int:
    arguments = one.changed(symbol="BTCUSDT", timeframe="1h", limit=5, exchange="binance")
    _assert_found(await OHLCVRepository(one.session).get_latest(**arguments), arguments)
    return 0


async def _get_gaps(one: Try) -> int:
    arguments = one.changed(symbol="BTCUSDT", timeframe="1h", exchange="binance", start=None, end=None)
    for hole in await OHLCVRepository(one.session).get_gaps(**arguments):
        assert hole[0] < hole[1]
    return 0


async def _stream_range(one: Try) -> int:
    arguments = one.changed(symbol="BTCUSDT", timeframe="1h", start=T0, end=T0, exchange="binance", batch_size=5)
    async with OHLCVRepository(one.session).stream_range(**arguments) as stream:
        async for bars in stream:
            _assert_found(bars, arguments)
    return 0


async def _report_upsert(one: Try) -> int:
    if one.parameter not in ("report", "only_closed"):
        return await _upsert_bars(one)
    await OHLCVRepository(one.session).upsert_many([bar(exchange=f"R{one.number}")], **one.changed())
    return 1


async def _get_session(one: Try) -> int:
    async with one.db.get_session(**one.changed()):
        return 0


async def _insert_trade(one: Try) -> int:
    given = one.argument(trade, trade_id=f"T{one.number}")
    found = await TradeRepository(one.session).get_by_id(await TradeRepository(one.session).insert(given))
    assert_same(found, given)
    return 1


async def _update_trade(one: Try) -> int:
    repository = TradeRepository(one.session)
    number = one.last[-1].id
    assert number is not None
    if one.parameter == "trade_id":
        await repository.update(one.value, fee=Decimal(1))
    elif one.field:
        await repository.update(number, **{one.field: one.value})
        found = await repository.get_by_id(number)
        assert found is not None
        assert_same(found, replace(one.last[-1], **{one.field: one.value}))
        one.last.append(found)
    elif isinstance(one.value, str):
        await repository.update(number, **{one.value: Decimal(1)})  # type: ignore[arg-type]
    return 0


async def _get_trade(one: Try) -> int:
    found = await TradeRepository(one.session).get_by_id(**one.changed())
    assert found is None or found.id == one.value
    return 0


async def _get_recent_trades(one: Try) -> int:
    arguments = one.changed(limit=5) if one.field else {"limit": 5, **one.changed()}
    _assert_found(await TradeRepository(one.session).get_recent(**arguments), arguments)
    return 0


async def _get_trades_by_symbol(one: Try) -> int:
    arguments = one.changed(symbol="BTCUSDT", limit=5, exchange="binance")
    _assert_found(await TradeRepository(one.session).get_by_symbol(**arguments), arguments)
    return 0


async def _get_statistics(one: Try) -> int:
    assert (await TradeRepository(one.session).get_statistics(**one.changed())).total_trades == 0
    return 0


async def _get_open_positions(one: Try) -> int:
    arguments = one.changed()
    _assert_found(await PositionRepository(one.session).get_open_positions(**arguments), arguments)
    return 0


async def _get_position(one: Try) -> int:
    arguments = one.changed(symbol="BTCUSDT", exchange="binance", side=None)
    found = await PositionRepository(one.session).get_position(**arguments)
    expected = arguments if arguments["side"] is not None else {**arguments, "side": "long"}
    _assert_found([] if found is None else [found], expected)
    return 0


async def _update_position(one: Try) -> int:
    given = one.argument(position, exchange=f"X{one.number}")
    repository = PositionRepository(one.session)
    if one.parameter == "replace":
        given = position(exchange=f"X{one.number}")
        await repository.update_position(given, replace=one.value)
    else:
        await repository.update_position(given)
    if given.id is not None:
        return 0
    assert_same(await repository.get_position(given.symbol, given.exchange, side=given.side), given)
    return 1


async def _close_position(one: Try) -> int:
    await PositionRepository(one.session).close_position(**one.changed())
    raise AssertionError("close_position closed a position that was never opened")


async def _log_event(one: Try) -> int:
    repository = SystemEventRepository(one.session)
    arguments = one.changed(**{"event_type": f"E{one.number}", "severity": "info", "message": "", one.parameter: one.value})
    await repository.log_event(**arguments)
    if one.parameter == "at":
        (found,) = await repository.get_events(event_type=f"E{one.number}")
        moment = arguments.pop("at")
        arguments["created_at"] = found.created_at if moment is None else moment
    else:
        (found,) = await repository.get_recent_events(limit=1)
    for name, value in arguments.items():
        assert getattr(found, name) == kept(value), f"{name} came back as another value"
        assert type(getattr(found, name)) in _KEPT_TYPES
    return 1


async def _get_recent_events(one: Try) -> int:
    arguments = one.changed()
    _assert_found(await SystemEventRepository(one.session).get_recent_events(**arguments), arguments)
    return 0


async def _make_manager(one: Try) -> int:
    async with DatabaseManager(**one.changed(**{"database_url": one.url, one.parameter: one.value})) as db, db.get_session():
        return 0


async def _run(one: Try) -> int:
    async def work(session: Any) -> int:
        return 0

    await one.db.run(**{**one.changed(work=work, retries=0), one.parameter: work if callable(one.value) else one.value})
    return 0


async def _ping(one: Try) -> int:
    # the hostile value may be a very short time limit, which ends before the database answers
    with suppress(OperationalError):
        assert await one.db.ping(**one.changed()) >= 0
    return 0


async def _disconnect(one: Try) -> int:
    await DatabaseManager(one.url).disconnect(**one.changed())
    return 0


async def _health(one: Try) -> int:
    await one.db.health(**one.changed())
    return 0


async def _backup(one: Try) -> int:
    with TemporaryDirectory() as folder:
        # without slashes, the hostile name cannot lead outside the temporary folder
        name = one.value.replace("/", "") if isinstance(one.value, str) else None
        given = one.changed(**{"db": one.db, "path": str(Path(folder, "saved")), one.parameter: one.value})
        if one.parameter == "path" and name:
            given["path"] = str(Path(folder, name))
        if one.parameter == "progress" and callable(one.value):
            return 0
        # the file system may refuse the hostile name
        with suppress(OperationalError):
            made = await backup(**given)
            assert made.tables["ohlcv"] >= 1
            assert made.path.is_relative_to(folder)
    return 0


async def _examine(one: Try) -> int:
    await examine(one.value)
    return 0


async def _ability(one: Try) -> int:
    one.db.ability(one.value)
    return 0


async def _record_trade(one: Try) -> int:
    given = one.argument(trade, trade_id=f"R{one.number}")
    repository = TradeRepository(one.session)
    number = await repository.record(given)
    assert await repository.record(given) == number
    assert_same(await repository.get_by_id(number), given)
    return 1


async def _quantize(one: Try) -> int:
    assert quantize(**one.changed()) == kept(Decimal(one.value))
    return 0


def _attempt_repository(repository: Callable[..., Any], write: Callable[[Any, int], Awaitable[Any]], added: int = 1) -> Attempt:
    """Return an `Attempt` for the constructor of a repository.

    It passes the hostile value as the session, as the account, as the clock, or as the time that the clock returns.
    """

    async def attempt(one: Try) -> int:
        if one.parameter == "session":
            repository(one.value)
        if not callable(one.value):
            with pytest.raises(InvalidValueError, match="clock"):
                repository(one.session, clock=one.value)
        if one.parameter == "account":
            await write(repository(one.session, account=one.value), one.number)
            return added
        await write(repository(one.session, clock=lambda: one.value), one.number)
        return added

    return attempt


METHODS: dict[str, Attempt] = {
    "DatabaseManager.__init__": _make_manager,
    "DatabaseManager.get_session": _get_session,
    "DatabaseManager.run": _run,
    "DatabaseManager.ping": _ping,
    "DatabaseManager.disconnect": _disconnect,
    "DatabaseManager.health": _health,
    "DatabaseManager.ability": _ability,
    "backup": _backup,
    "examine": _examine,
    "OHLCVRepository.__init__": _attempt_repository(
        OHLCVRepository, lambda bars, number: bars.insert_many([bar(exchange=f"C{number}")])
    ),
    "OHLCVRepository.insert_many": _insert_bars,
    "OHLCVRepository.upsert_many": _report_upsert,
    "OHLCVRepository.get_range": _get_range,
    "OHLCVRepository.get_latest": _get_latest,
    "OHLCVRepository.get_gaps": _get_gaps,
    "OHLCVRepository.stream_range": _stream_range,
    **SERIES_METHODS,
    "TradeRepository.__init__": _attempt_repository(TradeRepository, lambda trades, number: trades.insert(trade(f"C{number}"))),
    "TradeRepository.insert": _insert_trade,
    "TradeRepository.record": _record_trade,
    "TradeRepository.update": _update_trade,
    "TradeRepository.get_by_id": _get_trade,
    "TradeRepository.get_recent": _get_recent_trades,
    "TradeRepository.get_by_symbol": _get_trades_by_symbol,
    "TradeRepository.get_statistics": _get_statistics,
    "PositionRepository.__init__": _attempt_repository(
        PositionRepository, lambda positions, number: positions.update_position(position(exchange=f"C{number}"))
    ),
    "PositionRepository.get_open_positions": _get_open_positions,
    "PositionRepository.get_position": _get_position,
    "PositionRepository.update_position": _update_position,
    "PositionRepository.close_position": _close_position,
    "SystemEventRepository.__init__": _attempt_repository(
        SystemEventRepository, lambda events, number: events.log_event("E", "info", "")
    ),
    "SystemEventRepository.log_event": _log_event,
    "SystemEventRepository.get_recent_events": _get_recent_events,
    **RECORD_METHODS,
    **find_money_methods(assert_same, _attempt_repository),
    "quantize": _quantize,
    **FUNCTIONS,
}


def public_parameters() -> dict[str, tuple[str, ...]]:
    """Return the parameters of each public function and method of `iftb_store` that has some, by its name."""
    found = ((name, _parameters(function)) for name, function in _FUNCTIONS.items())
    return {name: parameters for name, parameters in found if parameters}


def _public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in iftb_store.__all__:
        member = getattr(iftb_store, name)
        if inspect.isfunction(member):
            yield name, member
        elif inspect.isclass(member) and not (name in _NO_METHODS or is_dataclass(member) or issubclass(member, Exception)):
            for method, function in inspect.getmembers(member, inspect.isfunction):
                if not method.startswith("_") or method == "__init__":
                    yield f"{name}.{method}", function


# collected at import, before a fixture wraps methods and hides their signatures
_FUNCTIONS = dict(_public_functions())


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(function).parameters if name != "self")


def _with_fields(method: str, parameters: tuple[str, ...]) -> Iterator[str]:
    """Yield each parameter; if a parameter takes a model, e.g. a Trade, also yield each field as ``parameter.field``."""
    for parameter in parameters:
        yield parameter
        declared = inspect.signature(_FUNCTIONS[method]).parameters[parameter]
        named = [model for name, model in _MODELS.items() if re.search(rf"\b{name}\b", str(declared.annotation))]
        if parameter == "filters":
            yield from (f"filters.{name}" for name in TradeFilters.__annotations__)
        elif declared.kind is inspect.Parameter.VAR_KEYWORD:
            named = [Trade]
        for model in named:
            # trade_id is skipped for update(**kwargs), because it is the first parameter of update() itself
            yield from (f"{parameter}.{item.name}" for item in fields(model) if (parameter, item.name) != ("kwargs", "trade_id"))


def _assert_found(rows: list[Any], arguments: dict[str, Any]) -> None:
    assert len(rows) <= arguments.get("limit", 1_000)
    for row in rows:
        assert "tag" not in arguments or arguments["tag"] in (None, *row.tags), "a row without the tag was returned"
        for name in _FILTERS & set(arguments):
            assert arguments[name] is None or getattr(row, name) == arguments[name], f"a row of another {name} was returned"


def _assert_clear(error: StoreError, parameter: str) -> None:
    message = str(error)
    assert 0 < len(message) <= _LONGEST_MESSAGE, f"the message has {len(message)} characters"
    assert message.isprintable(), f"the message contains control characters of a terminal: {message!a}"
    if isinstance(error, InvalidValueError) and parameter != "kwargs":
        subject = parameter.rpartition(".")[2].removesuffix("s").removeprefix("database_")
        assert subject.lower() in message.lower(), f"the message does not name {subject}: {message}"


async def _rows(db: DatabaseManager) -> int:
    kept = _TABLES if Capability.RECORDS in db.capabilities else _TABLES[:1]
    return sum([await raw.count(db, table) for table in kept])


class HostileTests(SuiteFixtures):
    """An accepted value is read back unchanged; a refused value raises an error of iftb_store, and nothing is written.

    Attributes:
        hostile_share: 1 to give each parameter all hostile values, 4 for every fourth; the next parameter gets the next ones.
    """

    hostile_share: ClassVar[int] = 1

    async def test_every_parameter_of_every_public_method_has_its_hostile_case(self) -> None:
        assert set(METHODS) == set(public_parameters())

    @pytest.mark.parametrize("method", METHODS)
    async def test_hostile_input_is_stored_as_it_is_or_refused(self, db: DatabaseManager, url: str, method: str) -> None:
        keeps_records = Capability.RECORDS in db.capabilities
        if method.startswith(("Trade", "Position", "SystemEvent", "Fill", "Ledger", "Balance")):
            needs(db, Capability.RECORDS)
        await OHLCVRepository(db).insert_many([bar()])
        last = [trade()]
        if keeps_records:
            last = [replace(trade(), id=await TradeRepository(db).insert(trade()))]
            await PositionRepository(db).update_position(position())
            await SystemEventRepository(db).log_event("decoy", "info", "untouched")
        parameters, attempt = public_parameters()[method], METHODS[method]
        written = await _rows(db)
        number = 0
        for turn, parameter in enumerate(_with_fields(method, parameters), list(METHODS).index(method)):
            async with db.get_session() as session:
                for name, value in list(HOSTILE.items())[turn % self.hostile_share :: self.hostile_share]:
                    number += 1
                    try:
                        written += await attempt(Try(db, session, url, parameter, value, number, last))
                    except StoreError as error:
                        _assert_clear(error, parameter)
                    except BaseException as error:  # any other error fails the test, with a note of the value
                        error.add_note(f"{method}: {parameter} was given {name}")
                        raise
            assert await _rows(db) == written, f"a refused call of {method} wrote a row ({parameter})"
            if keeps_records:
                assert_same(await TradeRepository(db).get_by_id(last[-1].id or 0), last[-1])
