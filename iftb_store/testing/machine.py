"""Runs random programmes of calls on engines and on the model; after each call, every engine's answer must equal the model's.

    compare_with_model({"mydb": "mydb:///fresh.db"}, examples=200, steps=50)

Needs ``pip install "iftb-store[testing]"``. The databases are emptied before each programme.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from copy import copy
from datetime import datetime, timedelta
from importlib.util import find_spec
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from iftb_store import BalanceSnapshot, DatabaseManager, Fill, LedgerEntry, OHLCVBar, Position, StoreError, Trade
from iftb_store.protocols import Capability
from iftb_store.testing import programmes, samples
from iftb_store.testing.engines import APP, CONTINUING, ENDINGS, Engine
from iftb_store.testing.model import Model
from iftb_store.testing.model_state import Duplicate, Number

_ARROW = find_spec("pyarrow") is not None
#: Time limit of a call in seconds. No engine waits that long, so a call that takes longer hangs.
_HUNG = 120

_WRITES = {
    "insert_many",
    "upsert_many",
    "delete_range",
    "insert",
    "record",
    "update",
    "update_position",
    "close_position",
    "log_event",
    "record_many",
    "apply_fills",
}
_UNKNOWN = 10**15 - 1
_ROWS = OHLCVBar | Trade | Position | Fill | LedgerEntry | BalanceSnapshot

_Place = tuple[str | None, str | None]


def compare_with_model(urls: Mapping[str, str], *, examples: int = 200, steps: int = 50, seed: int = 0) -> None:
    """Run random programmes of calls on databases and on the model, and compare every result and every error.

    If one of the backends keeps only bars, the programmes have only calls of bars.

    Args:
        urls: database URLs, by the names that failure messages show. The tables are created if the backend declares
            MIGRATIONS, otherwise they must exist; they are emptied before each programme.
        examples: number of programmes to run.
        steps: maximum number of calls in one programme.
        seed: seed of the random programmes; the same seed gives the same programmes, and a failure shows the seed.

    Raises:
        AssertionError: an engine differs from the model; the shortest failing programme that was found is printed.
    """
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        clock = samples.Clock()
        stack = AsyncExitStack()
        engines = runner.run(_connect(stack, urls, clock))
        loop = runner.get_loop()

        @seeded(seed)
        class Programme(_Programme):
            def __init__(self) -> None:
                super().__init__(engines, clock, loop.run_until_complete)

        try:
            run_state_machine_as_test(
                Programme,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=steps,
                    deadline=None,
                    database=None,
                    print_blob=True,
                    report_multiple_bugs=False,
                    phases=(Phase.generate, Phase.shrink),
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
                ),
            )
        except Exception as error:
            # a failed test, whatever its error, names the seed
            error.add_note(f"found with seed={seed}, examples={examples}, steps={steps}")
            raise
        finally:
            runner.run(stack.aclose())


async def _connect(stack: AsyncExitStack, urls: Mapping[str, str], clock: samples.Clock) -> list[Engine]:
    engines = []
    for name, url in urls.items():
        manager = await stack.enter_async_context(DatabaseManager(url))
        if Capability.MIGRATIONS in manager.capabilities:
            await manager.create_tables()
        engines.append(Engine(name, manager, clock))
        stack.push_async_callback(engines[-1].close)
    return engines


def _drawn(choices: Callable[[Any], list[Any]]) -> Any:
    return st.runner().flatmap(lambda machine: st.sampled_from(choices(machine)))


#: The name of the session for a call; None: each call runs in its own transaction. While one session has uncommitted writes,
#: all writes use this session, because a write in another session would wait for it.
_anywhere = st.sampled_from([None, "a", APP])
_writing = _drawn(lambda machine: [None, "a", APP] if machine.writer is None else [machine.writer])
#: The place of a call of records: the session, and the account of the repository.
_recording = st.tuples(_writing, programmes.owners)
_reading = st.tuples(_anywhere, programmes.owners)
_open = _drawn(lambda machine: sorted(machine.open))
# the newest id comes first, because Hypothesis shrinks failures towards the first choice; the last id does not exist
_trade_numbers = _drawn(lambda machine: [*machine.trades[::-1], _UNKNOWN])
_position_numbers = _drawn(lambda machine: [*machine.positions[::-1], _UNKNOWN])
_series: dict[str, Any] = {
    "symbol": programmes.symbols,
    "timeframe": programmes.timeframes,
    "exchange": programmes.exchanges,
}
_endings = st.sampled_from(["clean exit", "clean exit", "clean exit", *ENDINGS])


class _Programme(RuleBasedStateMachine):
    """One random programme.

    Attributes:
        open: the names of the open sessions.
        writer: the name of the session that has uncommitted writes, or None.
        trades: the model's numbers of the trades inserted so far.
        positions: the model's numbers of the positions seen so far.
    """

    def __init__(self, engines: list[Engine], clock: samples.Clock, run: Callable[[Awaitable[Any]], Any]) -> None:
        super().__init__()
        self._engines = engines
        self._keeps_records = all(engine.keeps_records for engine in engines)
        self._clock = clock
        self._run = run
        self._model = Model(clock)
        self._differs = False
        self.open: set[str] = set()
        self.writer: str | None = None
        self.trades: list[Number] = []
        self.positions: list[Number] = []
        clock.now = samples.NOW
        self._each(lambda engine: engine.clear())

    # the rules have no docstrings: their names say what they do, and a failure prints the names and the arguments

    @initialize(wanted=st.booleans())
    def store_first_rows(self, wanted: bool) -> None:
        """Store some rows before the first step of the program if ``wanted`` is True."""
        if not wanted:
            return
        for repository, method, args, named in programmes.seedlings():
            before = self._model.committed.list_numbers()
            answer = self._call(None, repository, method, *args, **named)
            self._release(before - self._model.committed.list_numbers())
            if method == "insert":
                self._add(answer)
        self.look_around(None)

    @rule(session=_writing, bars=programmes.batches)
    def insert_bars(self, session: str | None, bars: list[dict[str, Any]]) -> None:
        self._call(session, "bars", "insert_many", [samples.bar(**changes) for changes in bars])

    @rule(session=_writing, bars=programmes.batches)
    def upsert_bars(self, session: str | None, bars: list[dict[str, Any]]) -> None:
        self._call(session, "bars", "upsert_many", [samples.bar(**changes) for changes in bars])

    @rule(session=_writing, bars=programmes.batches)
    def upsert_bars_with_a_report(self, session: str | None, bars: list[dict[str, Any]]) -> None:
        self._call(session, "bars", "upsert_many", [samples.bar(**changes) for changes in bars], report=True)

    @rule(session=_writing, **_series, window=programmes.windows)
    def delete_bars(
        self, session: str | None, symbol: str, timeframe: str, exchange: str, window: tuple[datetime, datetime]
    ) -> None:
        before = self._model.seen_by(session).list_numbers()
        self._call(session, "bars", "delete_range", symbol, timeframe, *window, exchange)
        self._release(before - self._model.seen_by(session).list_numbers())

    @rule(session=_anywhere)
    def list_series(self, session: str | None) -> None:
        self._call(session, "bars", "list_series")

    @rule(
        session=_anywhere,
        symbol=programmes.symbols,
        exchange=programmes.exchanges,
        frames=programmes.resamplings,
        window=programmes.windows,
        partial=st.booleans(),
    )
    def resample(
        self,
        session: str | None,
        symbol: str,
        exchange: str,
        frames: tuple[str, str],
        window: tuple[datetime, datetime],
        partial: bool,
    ) -> None:
        self._call(session, "bars", "resample", symbol, *frames, *window, exchange, partial=partial)

    @rule(session=_anywhere, **_series, window=programmes.windows, size=programmes.sizes)
    def stream_bars(
        self, session: str | None, symbol: str, timeframe: str, exchange: str, window: tuple[datetime, datetime], size: int
    ) -> None:
        self._call(session, "bars", "stream_range", symbol, timeframe, *window, exchange, batch_size=size)

    @precondition(lambda self: _ARROW)
    @rule(session=_anywhere, selection=programmes.selections, size=programmes.sizes)
    def stream_arrow(self, session: str | None, selection: dict[str, Any], size: int) -> None:
        self._call(session, "bars", "stream_arrow", **selection, batch_size=size)

    @rule(session=_anywhere, **_series, window=programmes.windows)
    def get_range(
        self, session: str | None, symbol: str, timeframe: str, exchange: str, window: tuple[datetime, datetime]
    ) -> None:
        self._call(session, "bars", "get_range", symbol, timeframe, *window, exchange)

    @rule(session=_anywhere, **_series, limit=programmes.limits)
    def get_latest(self, session: str | None, symbol: str, timeframe: str, exchange: str, limit: int) -> None:
        self._call(session, "bars", "get_latest", symbol, timeframe, limit, exchange)

    @rule(
        session=_anywhere,
        **_series,
        window=st.fixed_dictionaries({}, optional={"start": programmes.times, "end": programmes.times}),
    )
    def get_gaps(self, session: str | None, symbol: str, timeframe: str, exchange: str, window: dict[str, datetime]) -> None:
        self._call(session, "bars", "get_gaps", symbol, timeframe, exchange, **window)

    @precondition(lambda self: _ARROW)
    @rule(session=_anywhere, selection=programmes.selections)
    def read_arrow(self, session: str | None, selection: dict[str, Any]) -> None:
        self._call(session, "bars", "read_arrow", **selection)

    @rule(place=_recording, trade=programmes.trades)
    def insert_trade(self, place: _Place, trade: dict[str, Any]) -> None:
        self._add(self._call(place, "trades", "insert", samples.trade(**trade)))

    @rule(place=_recording, trade=programmes.trades)
    def record_trade(self, place: _Place, trade: dict[str, Any]) -> None:
        self._add(self._call(place, "trades", "record", samples.trade(**trade)))

    @rule(place=_recording, number=_trade_numbers)
    def record_trade_again(self, place: _Place, number: int) -> None:
        stored = self._model.seen_by(place[0]).trades.get(number)
        if stored is not None:
            self._add(self._call(place, "trades", "record", samples.as_given(stored)))

    @rule(place=_recording, number=_trade_numbers, changes=programmes.trade_changes)
    def update_trade(self, place: _Place, number: int, changes: dict[str, Any]) -> None:
        self._call(place, "trades", "update", number, **changes)

    @rule(place=_reading, number=_trade_numbers)
    def get_trade(self, place: _Place, number: int) -> None:
        self._call(place, "trades", "get_by_id", number)

    @rule(place=_reading, limit=programmes.limits, filters=programmes.trade_filters)
    def get_recent_trades(self, place: _Place, limit: int, filters: dict[str, str]) -> None:
        self._call(place, "trades", "get_recent", limit, **filters)

    @rule(
        place=_reading,
        symbol=programmes.symbols,
        exchange=programmes.exchanges,
        limit=programmes.limits,
        filters=programmes.trade_filters,
    )
    def get_trades_of_a_symbol(self, place: _Place, symbol: str, exchange: str, limit: int, filters: dict[str, str]) -> None:
        self._call(place, "trades", "get_by_symbol", symbol, limit, exchange, **filters)

    @rule(place=_reading, days=programmes.days, exchange=programmes.exchanges, filters=programmes.trade_filters)
    def get_statistics(self, place: _Place, days: int, exchange: str, filters: dict[str, str]) -> None:
        self._call(place, "trades", "get_statistics", days, exchange, **filters)

    @rule(place=_recording, position=programmes.positions)
    def update_position(self, place: _Place, position: dict[str, Any]) -> None:
        given = samples.position(**position)
        if self._call(place, "positions", "update_position", given) is None:
            # update_position does not return the id, so a bot would read the position to find it out
            whose = given.account or place[1] or ""
            self._note(
                self._call(place, "positions", "get_position", given.symbol, given.exchange, side=given.side, account=whose)
            )

    @rule(place=_recording, number=_position_numbers, position=programmes.positions)
    def update_position_by_id(self, place: _Place, number: int, position: dict[str, Any]) -> None:
        self._call(place, "positions", "update_position", samples.position(**{"id": number, **position}))

    @rule(place=_recording, number=_position_numbers)
    def close_position(self, place: _Place, number: int) -> None:
        self._call(place, "positions", "close_position", number)

    @rule(place=_reading, symbol=programmes.symbols, exchange=programmes.exchanges, side=st.none() | programmes.sides)
    def get_position(self, place: _Place, symbol: str, exchange: str, side: str | None) -> None:
        self._note(self._call(place, "positions", "get_position", symbol, exchange, side=side))

    @rule(place=_reading, exchange=programmes.exchanges)
    def get_open_positions(self, place: _Place, exchange: str) -> None:
        found = self._call(place, "positions", "get_open_positions", exchange)
        for position in found:
            self._note(position)

    @rule(place=_recording, event=programmes.events)
    def log_event(self, place: _Place, event: dict[str, Any]) -> None:
        self._call(place, "events", "log_event", **event)

    @rule(place=_reading, severity=st.none() | programmes.severities, limit=programmes.limits)
    def get_recent_events(self, place: _Place, severity: str | None, limit: int) -> None:
        self._call(place, "events", "get_recent_events", severity, limit)

    @rule(place=_recording, fill=programmes.fills)
    def record_fill(self, place: _Place, fill: dict[str, Any]) -> None:
        # an exchange may report a fill twice
        for _ in range(2):
            self._call(place, "fills", "record", samples.fill(**fill))

    @rule(place=_recording, fills=st.lists(programmes.fills, max_size=4))
    def record_fills(self, place: _Place, fills: list[dict[str, Any]]) -> None:
        for _ in range(2):
            self._call(place, "fills", "record_many", [samples.fill(**changes) for changes in fills])

    @rule(place=_recording, trade_id=programmes.trade_ids, quote=programmes.quotes)
    def apply_fills(self, place: _Place, trade_id: str, quote: str | None) -> None:
        self._call(place, "trades", "apply_fills", trade_id, quote_currency=quote)
        self._call(place, "trades", "get_by_trade_id", trade_id)

    @rule(place=_reading, trade_id=programmes.trade_ids, account=st.none() | programmes.accounts)
    def get_fills_of_a_trade(self, place: _Place, trade_id: str, account: str | None) -> None:
        self._call(place, "fills", "get_by_trade", trade_id, account=account)

    @rule(place=_recording, entries=st.lists(programmes.entries, max_size=3))
    def record_entries(self, place: _Place, entries: list[dict[str, Any]]) -> None:
        self._call(place, "ledger", "record_many", [samples.ledger_entry(**changes) for changes in entries])

    @rule(place=_reading, filters=programmes.entry_filters)
    def get_sums(self, place: _Place, filters: dict[str, Any]) -> None:
        self._call(place, "ledger", "get_sums", **filters)

    @rule(place=_recording, balance=programmes.balances)
    def record_balance(self, place: _Place, balance: dict[str, Any]) -> None:
        self._call(place, "balances", "record", samples.balance(**balance))

    @rule(place=_reading, at=st.none() | programmes.times, exchange=st.none() | programmes.exchanges)
    def get_latest_balances(self, place: _Place, at: datetime | None, exchange: str | None) -> None:
        self._call(place, "balances", "get_latest", at, exchange=exchange)

    @rule(session=_writing, call=programmes.nonsense)
    def ask_for_nonsense(self, session: str | None, call: tuple[str, str, tuple[Any, ...]]) -> None:
        repository, method, args = call
        self._call(session, repository, method, *args)

    @rule(session=_anywhere)
    def look_around(self, session: str | None) -> None:
        for frame in ("1h", "1M"):
            self._call(session, "bars", "get_latest", "BTCUSDT", frame, 100)
        self._call(session, "bars", "get_gaps", "BTCUSDT", "1h")
        self._call(session, "bars", "list_series")
        self._call(session, "bars", "stream_range", "BTCUSDT", "1h", *programmes.ALWAYS, batch_size=2)
        self._call(session, "bars", "resample", "BTCUSDT", "1d", "1w", *programmes.ALWAYS, partial=True)
        self._call(session, "trades", "get_recent", 100)
        self._call(session, "trades", "get_statistics", 400)
        self._call(session, "events", "get_recent_events", None, 100)
        for repository in ("fills", "ledger", "balances"):
            self._call(session, repository, "get_range", *programmes.ALWAYS, exchange=None)
        for position in self._call(session, "positions", "get_open_positions"):
            self._note(position)

    @precondition(lambda self: self.open)
    @rule(session=_open, ending=_endings)
    def end(self, session: str, ending: str) -> None:
        self._each(lambda engine: engine.end(session, ending))
        if ENDINGS[ending]:
            self._model.commit(session)
        else:
            self._model.rollback(session)
        if self.writer == session:
            self.writer = None
        if ending not in CONTINUING:
            self.open.discard(session)
        kept = self._model.list_numbers()
        for engine in self._engines:
            engine.forget(kept)

    @rule(by=programmes.steps_of_time, zone=st.sampled_from([samples.INDIA, None]))
    def pass_time(self, by: timedelta, zone: Any) -> None:
        moved = self._clock.now + by
        self._clock.now = moved.astimezone(zone or samples.NOW.tzinfo)

    def teardown(self) -> None:
        """Check that the committed rows of each engine equal those of the model.

        The next programme rolls back all sessions and empties the tables.
        """
        if not self._differs:
            for engine, reason in zip(self._engines, self._each(lambda engine: engine.audit(self._model.committed)), strict=True):
                assert reason is None, f"the committed rows of {engine.name} differ from those of the model{reason}"

    def _call(self, place: str | _Place | None, repository: str, method: str, /, *args: Any, **named: Any) -> Any:
        session, account = place if isinstance(place, tuple) else (place, None)
        if repository != "bars" and not self._keeps_records:
            # an engine keeps only bars
            return []
        if session is not None:
            self.open.add(session)
            if method in _WRITES:
                self.writer = session
        before = copy(args), [copy(item) for item in _rows(args)]
        expected: Any
        try:
            expected = getattr(getattr(self._model.at(session, account), repository), method)(*args, **named)
        except (StoreError, Duplicate) as error:
            expected = error
        answers = self._each(lambda engine: engine.call(session, repository, method, args, named, account))
        for engine, answer in zip(self._engines, answers, strict=True):
            reason = engine.difference(expected, answer)
            self._differs = self._differs or reason is not None
            assert reason is None, f"{engine.name} differs from the model: {repository}.{method}{reason}"
        assert before == (args, list(_rows(args))), f"{repository}.{method} changed an object that was passed to it"
        return expected

    def _release(self, deleted: set[Number]) -> None:
        for engine in self._engines:
            engine.release(deleted)

    def _each(self, work: Callable[[Engine], Awaitable[Any]]) -> list[Any]:
        async def together() -> list[Any]:
            async with asyncio.timeout(_HUNG):
                return list(await asyncio.gather(*map(work, self._engines)))

        answers: list[Any] = self._run(together())
        return answers

    def _add(self, number: Any) -> None:
        if isinstance(number, Number) and number not in self.trades:
            self.trades.append(number)

    def _note(self, position: Any) -> None:
        if isinstance(position, Position) and isinstance(position.id, Number) and position.id not in self.positions:
            self.positions.append(position.id)


def _rows(args: tuple[Any, ...]) -> list[Any]:
    listed = [item for arg in args if isinstance(arg, list) for item in arg] + list(args)
    return [item for item in listed if isinstance(item, _ROWS)]
