"""The blocking façade for scripts and notebooks: the methods of the async classes, without ``await``.

``with open_store(url) as db: db.ohlcv.get_latest("BTCUSDT", "1h")`` also works in a notebook, whose event loop is running. All
calls run in one background loop, and progress callbacks in its thread. Several threads may share a store. Ctrl-C cancels the
running call, and the store stays usable. A store that is still open at the interpreter's exit is closed then.

The classes are made from the async ones, so they have the same methods, arguments, results and errors. ``sync.pyi`` has their
types: `nox -s stub` writes it.
"""

from __future__ import annotations

import inspect
import os
import re
from asyncio import CancelledError
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import cached_property, partial, update_wrapper
from importlib import import_module
from types import TracebackType
from typing import Any, NoReturn, SupportsIndex

from iftb_store._io.background import get_background_loop
from iftb_store._io.turns import check_process
from iftb_store.errors import InvalidValueError, NotConnectedError, refuse_pickling
from iftb_store.manager import DatabaseManager
from iftb_store.protocols import Session
from iftb_store.repositories.balances import BalanceRepository
from iftb_store.repositories.base import Clock, utc_now
from iftb_store.repositories.events import SystemEventRepository
from iftb_store.repositories.fills import FillRepository
from iftb_store.repositories.ledger import LedgerRepository
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.repositories.positions import PositionRepository
from iftb_store.repositories.streams import Stream
from iftb_store.repositories.trades import TradeRepository
from iftb_store.values.display import type_name

# imported at first use, as by `iftb_store` itself
_FUNCTIONS = {
    "backup": "iftb_store.transfer.backup",
    "copy": "iftb_store.transfer.functions",
    "copy_from": "iftb_store.foreign.functions",
    "create_partitions": "iftb_store.maintenance.partitions",
    "examine": "iftb_store.doctor",
    "export_table": "iftb_store.files.export",
    "import_files": "iftb_store.files.import_files",
    "list_partitions": "iftb_store.maintenance.partitions",
    "partition_bars": "iftb_store.maintenance.partitions",
    "prune": "iftb_store.maintenance.prune",
    "report": "iftb_store.html_report.functions",
    "restore": "iftb_store.transfer.functions",
    "rollup": "iftb_store.maintenance.rollup",
    "verify": "iftb_store.transfer.functions",
}

#: What a docstring of an async function shows, as patterns, and what its blocking copy shows.
_REWRITTEN = {
    r"\ban async (?=\w)": "a ",
    r"\b(async|await) (?=\w)": "",
    r"aclose\(\)": "close()",
    r"\bDatabaseManager\(": "open_store(",
    r"\bOHLCVRepository\((\w+)\)": r"\1.ohlcv",
    r"\bTradeRepository\((\w+)\)": r"\1.trades",
    r"\bPositionRepository\((\w+)\)": r"\1.positions",
    r"\bSystemEventRepository\((\w+)\)": r"\1.events",
    r"\bFillRepository\((\w+)\)": r"\1.fills",
    r"\bLedgerRepository\((\w+)\)": r"\1.ledger",
    r"\bBalanceRepository\((\w+)\)": r"\1.balances",
}

_NOT_PLAIN = "work must be a plain function in the blocking façade, not an async function or one that returns an awaitable"


class _Blocking:
    """Base of the façade's classes: an async object, and the store that it belongs to."""

    def __init__(self, target: Any, store: SyncStore) -> None:
        self._target = target
        self._store = store

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._store._require_open()
        return self._store._loop.call(function, *args, **kwargs)


def _make_blocking(source: type[Any], *left_out: str) -> Callable[[type[Any]], Any]:
    """Return a decorator that adds the missing public members of an async class, as blocking ones, and missing docstrings."""

    def add_members(blocking: type[Any]) -> type[Any]:
        for name, member in inspect.getmembers(source):
            if name.startswith("_") or name in left_out:
                continue
            if name in vars(blocking):
                if not vars(blocking)[name].__doc__:
                    _document(vars(blocking)[name], member)
            elif inspect.isfunction(member):
                setattr(blocking, name, _make_method(name, member))
            elif isinstance(member, property):
                setattr(blocking, name, property(partial(_read_property, name), doc=member.__doc__))
        return blocking

    return add_members


def _make_method(name: str, source: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: _Blocking, /, *args: Any, **kwargs: Any) -> Any:
        result = self._call(getattr(self._target, name), *args, **kwargs)
        return SyncStream(result, self._store) if isinstance(result, Stream) else result

    return _document(method, source)


def _read_property(name: str, blocking: _Blocking) -> Any:
    return getattr(blocking._target, name)


def _document(function: Callable[..., Any], source: Callable[..., Any]) -> Callable[..., Any]:
    """Give a blocking function the name, the signature and the docstring of its async source."""
    update_wrapper(function, source)
    function.__module__ = __name__
    words = source.__doc__ or ""
    for written, blocking in _REWRITTEN.items():
        words = re.sub(written, blocking, words)
    function.__doc__ = words
    return function


class SyncStream(_Blocking):
    """An iterator of batches; ``with`` closes it at the end of the block.

    Example:
        for bars in ohlcv.stream_range("BTCUSDT", "1h", start, start + timedelta(days=1), batch_size=100):
            len(bars)  # -> 23
    """

    def __iter__(self) -> SyncStream:
        return self

    def __next__(self) -> Any:
        found: list[Any] = self._call(_read_next, self._target)
        if not found:
            raise StopIteration
        return found[0]

    def __enter__(self) -> SyncStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading and give the connection back to the pool. A second call has no effect.

        Example:
            stream = ohlcv.stream_range("BTCUSDT", "1h", start, start + timedelta(days=1), batch_size=10)
            len(next(stream))  # -> 10
            stream.close()
            list(stream)  # -> []
        """
        self._store._loop.call(self._target.aclose)


async def _read_next(stream: Stream[Any]) -> list[Any]:
    """Return the next batch in a list, or an empty list at the end: StopAsyncIteration cannot leave a coroutine's call."""
    async for batch in stream:
        return [batch]
    return []


class _Repository(_Blocking):
    """Base of the blocking repositories."""

    _source: type[Any]

    def __init__(self, session: SyncStore | SyncSession, *, clock: Clock = utc_now) -> None:
        """Create a repository for a session or for a store; with a store, each call runs in a new transaction.

        The attributes of a store or session, e.g. ``db.trades``, are such repositories.

        Args:
            session: a session from ``db.get_session()``, or the store.
            clock: function that returns the time for created_at, updated_at and last_updated; tests pass their own.

        Raises:
            Unsupported: the backend does not keep these rows.
            InvalidValueError: the session has another type, or the clock is not callable.

        Example:
            from iftb_store.sync import SyncOHLCVRepository

            [bar] = SyncOHLCVRepository(db, clock=lambda: start).get_latest("BTCUSDT", "1h", limit=1)
            str(bar.timestamp)  # -> '2024-02-01 23:00:00+00:00'
        """
        self._create(session, clock=clock)

    def _create(self, session: SyncStore | SyncSession, **options: Any) -> None:
        if not isinstance(session, SyncStore | SyncSession):
            raise InvalidValueError(f"session must be a store from open_store() or a session of it, not {type_name(session)}")
        super().__init__(self._source(session._target, **options), session._store)


class _RecordRepository(_Repository):
    """Base of the blocking repositories of records, which can be those of one account."""

    def __init__(self, session: SyncStore | SyncSession, *, account: str | None = None, clock: Clock = utc_now) -> None:
        """Create a repository for a session, or for a store, with which each call runs in a new transaction.

        The attributes of a store or session, e.g. ``db.trades``, are such repositories, of all accounts.

        Args:
            session: a session from ``db.get_session()``, or the store.
            account: the account whose rows the repository reads and writes; None: all, see `iftb_store.TradeRepository`.
            clock: function that returns the time for created_at, updated_at and last_updated; tests pass their own.

        Raises:
            Unsupported: the backend does not keep these rows.
            InvalidValueError: the session has another type, the account is not text that can be stored, or the clock is not
                callable.

        Example:
            from iftb_store.sync import SyncTradeRepository

            trades = SyncTradeRepository(db, account="bot-a", clock=lambda: start)
            trade = trades.get_by_id(trades.insert(new_trade))
            (trade.account, trade.created_at == start)  # -> ('bot-a', True)
        """
        self._create(session, account=account, clock=clock)


@_make_blocking(OHLCVRepository)
class SyncOHLCVRepository(_Repository):
    """`iftb_store.OHLCVRepository` for blocking code."""

    _source = OHLCVRepository


@_make_blocking(TradeRepository)
class SyncTradeRepository(_RecordRepository):
    """`iftb_store.TradeRepository` for blocking code."""

    _source = TradeRepository


@_make_blocking(PositionRepository)
class SyncPositionRepository(_RecordRepository):
    """`iftb_store.PositionRepository` for blocking code."""

    _source = PositionRepository


@_make_blocking(SystemEventRepository)
class SyncSystemEventRepository(_RecordRepository):
    """`iftb_store.SystemEventRepository` for blocking code."""

    _source = SystemEventRepository


@_make_blocking(FillRepository)
class SyncFillRepository(_RecordRepository):
    """`iftb_store.FillRepository` for blocking code."""

    _source = FillRepository


@_make_blocking(LedgerRepository)
class SyncLedgerRepository(_RecordRepository):
    """`iftb_store.LedgerRepository` for blocking code."""

    _source = LedgerRepository


@_make_blocking(BalanceRepository)
class SyncBalanceRepository(_RecordRepository):
    """`iftb_store.BalanceRepository` for blocking code."""

    _source = BalanceRepository


class _HasRepositories(_Blocking):
    """Base of the store and its sessions, which have the repositories as attributes."""

    @cached_property
    def ohlcv(self) -> SyncOHLCVRepository:
        """The repository of bars."""
        return SyncOHLCVRepository(self)

    @cached_property
    def trades(self) -> SyncTradeRepository:
        """The repository of trades."""
        return SyncTradeRepository(self)

    @cached_property
    def positions(self) -> SyncPositionRepository:
        """The repository of positions."""
        return SyncPositionRepository(self)

    @cached_property
    def events(self) -> SyncSystemEventRepository:
        """The repository of system events."""
        return SyncSystemEventRepository(self)

    @cached_property
    def fills(self) -> SyncFillRepository:
        """The repository of fills."""
        return SyncFillRepository(self)

    @cached_property
    def ledger(self) -> SyncLedgerRepository:
        """The repository of the ledger's entries."""
        return SyncLedgerRepository(self)

    @cached_property
    def balances(self) -> SyncBalanceRepository:
        """The repository of balance snapshots."""
        return SyncBalanceRepository(self)


@_make_blocking(Session, "iftb_store_backend")
class SyncSession(_HasRepositories):
    """A session of a store: its writes are committed together at the end of the block."""


class _Ability(_Blocking):
    """An optional ability of the backend; its async methods are called as blocking ones."""

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._target, name)
        return partial(self._call, member) if callable(member) else member


# blocking code cannot use an AsyncEngine
@_make_blocking(DatabaseManager, "engine")
class SyncStore(_HasRepositories):
    """The database of a URL, see `iftb_store.DatabaseManager`; `open_store` opens it, ``with`` closes it at the block's end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(DatabaseManager(*args, **kwargs), self)
        self._loop = get_background_loop()
        self._process = os.getpid()
        self._is_open = False
        self._close_at_exit = partial(self._target.disconnect, 0)

    update_wrapper(__init__, DatabaseManager.__init__)

    def __repr__(self) -> str:
        return repr(self._target).replace(DatabaseManager.__name__, SyncStore.__name__, 1)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        refuse_pickling(self)

    def __enter__(self) -> SyncStore:
        self.connect()
        return self

    def __exit__(self, *error: object) -> None:
        self.disconnect()

    def connect(self) -> None:
        """Open the database, also again after disconnect(). A second call has no effect.

        Raises:
            OperationalError: the database cannot be reached or opened.

        Example:
            db.disconnect()
            db.connect()
            len(db.trades.get_open())  # -> 1
        """
        check_process(self._process, self)
        self._loop.at_exit.add(self._close_at_exit)
        try:
            self._loop.call(self._target.connect)
        except Exception:
            self._loop.at_exit.discard(self._close_at_exit)
            raise
        self._is_open = True

    def disconnect(self, grace: float = 10.0) -> None:  # noqa: D102 - the docstring is the manager's
        check_process(self._process, self)
        if not self._loop.is_closed:
            self._loop.call(self._target.disconnect, grace)
        self._is_open = False
        self._loop.at_exit.discard(self._close_at_exit)

    def get_session(self, **options: Any) -> _SessionBlock:  # noqa: D102 - the docstring is the manager's
        return _SessionBlock(self, self._call(self._target.get_session, **options))

    def run(self, work: Callable[[SyncSession], Any], **options: Any) -> Any:  # noqa: D102 - the docstring is the manager's
        stops: list[StopIteration] = []

        def run_work(session: Session) -> Any:
            try:
                result = work(SyncSession(session, self))
            except StopIteration as stop:
                stops.append(stop)
                raise
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise InvalidValueError(_NOT_PLAIN)
            return result

        self._require_open()
        if not callable(work):
            raise InvalidValueError(f"work must be a function that takes a session, not {type_name(work)}")
        if inspect.iscoroutinefunction(work):
            raise InvalidValueError(_NOT_PLAIN)
        try:
            return self._call(self._target.run, self._loop.make_async(run_work), **options)
        except RuntimeError as error:
            # Python makes a RuntimeError of a StopIteration that leaves a coroutine
            if error.__cause__ in stops:
                raise error.__cause__ from None
            raise

    def ability(self, protocol: type[Any]) -> Any:  # noqa: D102 - the docstring is the manager's
        return _Ability(self._call(self._target.ability, protocol), self)

    def _require_open(self) -> None:
        check_process(self._process, self)
        if not self._is_open:
            raise NotConnectedError(f"{self!r} is closed; open it with `with open_store(url) as db`, or db.connect()")


class _SessionBlock:
    """The context manager of `SyncStore.get_session`."""

    def __init__(self, store: SyncStore, opening: AbstractAsyncContextManager[Session]) -> None:
        self._store = store
        self._opening = opening

    def __enter__(self) -> SyncSession:
        entered: list[Session] = []
        try:
            self._store._loop.call(_enter, self._opening, entered)
        except BaseException as error:
            # an interrupted call may have opened the session all the same
            if entered:
                self._store._loop.call(_leave, self._opening, error)
            raise
        return SyncSession(entered[0], self._store)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._store._loop.call(_leave, self._opening, error)


async def _enter(opening: AbstractAsyncContextManager[Session], entered: list[Session]) -> None:
    entered.append(await opening.__aenter__())


async def _leave(opening: AbstractAsyncContextManager[Session], error: BaseException | None) -> None:
    # asyncio would stop the loop for a KeyboardInterrupt
    raised = error if error is None or isinstance(error, Exception) else CancelledError()
    try:
        await opening.__aexit__(type(raised) if raised else None, raised, raised.__traceback__ if raised else None)
    except CancelledError:
        if raised is error:
            raise


def open_store(*args: Any, **kwargs: Any) -> SyncStore:
    """Open a database for blocking code; a ``with`` block closes it at its end.

    In a notebook, ``db = open_store("sqlite:///bot.db")`` keeps it open for several cells, until db.disconnect().

    Args:
        *args: the arguments of `iftb_store.DatabaseManager`, first the URL.
        **kwargs: arguments of `iftb_store.DatabaseManager` by name: pool_size, max_overflow, echo, read_url.

    Returns:
        The open store, with the methods of `iftb_store.DatabaseManager`, and the repositories as ``ohlcv``, ``trades``,
        ``positions`` and ``events``.

    Raises:
        URLError: the URL cannot be parsed, or its scheme or one of its options is unknown.
        InvalidValueError: an argument has an invalid value.
        MissingDriverError: the driver for the scheme is not installed.
        OperationalError: the database cannot be reached or opened.

    Example:
        with open_store("sqlite:///bot.db") as db:
            len(db.ohlcv.get_latest("BTCUSDT", "1h", limit=5))  # -> 5
    """
    store = SyncStore(*args, **kwargs)
    store.connect()
    return store


def _make_function(source: Callable[..., Any]) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, SyncStore):
                value._require_open()
        named = {name: _unwrap(value) for name, value in kwargs.items()}
        return get_background_loop().call(source, *map(_unwrap, args), **named)

    return _document(function, source)


def _unwrap(value: Any) -> Any:
    return value._target if isinstance(value, SyncStore) else value


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        function = globals()[name] = _make_function(getattr(import_module(_FUNCTIONS[name]), name))
        return function
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
