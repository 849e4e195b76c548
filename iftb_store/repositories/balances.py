"""The repository of snapshots of balances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

from iftb_store.abilities import SupportsValues
from iftb_store.errors import BalanceConflictError
from iftb_store.models import BalanceSnapshot
from iftb_store.protocols import Stores
from iftb_store.registry import find_lookups
from iftb_store.repositories.exchanges import warn_of_records
from iftb_store.repositories.recorded import RecordedRepository, read_lists
from iftb_store.repositories.streams import Stream
from iftb_store.schema.row_checks import BALANCE_CHECKS
from iftb_store.schema.table_spec import BALANCES, RowFilter
from iftb_store.values import checks
from iftb_store.values.choices import Decimals, ReadDecimals
from iftb_store.values.display import show

if TYPE_CHECKING:
    import pyarrow as pa

    from iftb_store.repositories.ohlcv import ArrowData

_NAMES = ("exchange", "account", "currency")
# rows that are read at once if the engine does not find names
_BATCH = 1_000


class BalanceRepository(RecordedRepository):
    """Stores snapshots of balances, once each, and reads them: what an account had of a currency at a time.

    The exchange, account, currency and timestamp name a snapshot. A stored snapshot never changes: an equal one is stored once,
    and another one of the same time is refused, because one of them is wrong. So two polls of the exchange need two times.

    Decimals are rounded half-even to 18 places. Naive times are UTC, and returned times are aware UTC. Given the manager, each
    call is a transaction of its own; given a session, the writes are committed at its end.

    A read that finds nothing on the exchange binance, the default, although another exchange has snapshots that match, logs a
    warning, once for a manager.

    Besides the errors that it names, each method raises NotConnectedError before connect(), SchemaError if the database has no
    tables of iftb-store, and OperationalError if the database fails (TransientError if a new attempt may succeed).

    Example:
        # the examples of the methods use this name, and snapshots of USDT at two times and of BTC at the first of them
        balances = BalanceRepository(db)
        [(one.currency, str(one.total)) for one in await balances.get_latest()]  # -> [('BTC', '0.01'), ('USDT', '998.75')]
    """

    _scanned = BALANCES
    _noun = "snapshots"
    _checks = BALANCE_CHECKS
    _conflict_error = BalanceConflictError
    _second = "currency"
    _optional: ClassVar[Mapping[str, Any]] = {**dict.fromkeys(("free", "used", "unrealized_pnl")), "account": ""}

    async def record(self, snapshot: BalanceSnapshot) -> bool:
        """Store a snapshot unless an equal one is stored; return whether it was new.

        A stored snapshot is equal if it has the same exchange, account, currency and timestamp and the same amounts after
        rounding; id and created_at are not compared. So the call may be repeated, e.g. after a restart. Of several tasks or
        processes that record the same snapshot at the same time, one gets True.

        Args:
            snapshot: the snapshot. The object is not changed; its id and created_at are ignored.

        Returns:
            True if the snapshot was new, False if an equal one was stored.

        Raises:
            BalanceConflictError: a snapshot of this time is stored with other amounts; the message names the differing fields.
                Nothing is changed.
            InvalidValueError: a value cannot be stored, or the snapshot belongs to another account than the repository.

        Example:
            moment = start + timedelta(hours=9)
            snapshot = BalanceSnapshot("binance", "USDT", moment, total=Decimal("990"), free=Decimal("90"))
            await balances.record(snapshot)  # -> True
            await balances.record(snapshot)  # -> False
        """
        return await self._record(snapshot)

    async def record_many(self, snapshots: Iterable[BalanceSnapshot]) -> list[bool]:
        """Store the snapshots of which no equal one is stored, all or none; return for each whether it was new.

        The rules of `record` apply. Without pyarrow, the snapshots are written one by one.

        Args:
            snapshots: the snapshots, e.g. of all currencies of an account, in any order; of equal ones, the first is stored.

        Returns:
            For each snapshot, in their order, True if it was new; False if an equal one was stored or is before it in the list.

        Raises:
            BalanceConflictError: a snapshot of the same time is stored, or is before it in the list, with other amounts; the
                message names the differing fields. Nothing is stored.
            InvalidValueError: a snapshot cannot be stored; the message names it. Nothing is stored.

        Example:
            totals = {"USDT": Decimal("990"), "BTC": Decimal("0.02")}
            moment = start + timedelta(hours=9)
            now = [BalanceSnapshot("binance", currency, moment, total) for currency, total in totals.items()]
            await balances.record_many(now)  # -> [True, True]
            await balances.record_many(now)  # -> [False, False]
        """
        return await self._record_list(snapshots)

    async def get_range(
        self,
        start: datetime,
        end: datetime,
        *,
        currency: str | None = None,
        exchange: str | None = "binance",
        account: str | None = None,
    ) -> list[BalanceSnapshot]:
        """Return the snapshots with start <= timestamp <= end, oldest first.

        Args:
            start: start of the time window, inclusive; naive times are UTC.
            end: end of the time window, inclusive.
            currency: only snapshots of this currency; None: of all.
            exchange: only snapshots of this exchange; None: of all exchanges.
            account: only snapshots of this account; None: of the repository's account, or of all.

        Returns:
            The snapshots, ordered by timestamp, then id (of all exchanges: by exchange and currency first); empty if there are
            none.

        Raises:
            InvalidValueError: start is after end, or a value is one that no snapshot can have.

        Example:
            day = await balances.get_range(start, start + timedelta(days=1), currency="USDT")
            [one.total for one in day]  # -> [Decimal('1000'), Decimal('998.75')]
        """
        return await self._read_range(start, end, exchange, account, {"currency": currency})

    async def get_latest(
        self,
        at: datetime | None = None,
        *,
        currency: str | None = None,
        exchange: str | None = "binance",
        account: str | None = None,
    ) -> list[BalanceSnapshot]:
        """Return the newest snapshot of each exchange, account and currency at a time.

        A currency whose snapshots have ended is returned with the last of them, however old, so record a total of 0 for a
        currency that the account has no longer. All are read in one snapshot of the database.

        Args:
            at: the time; snapshots of this time are included, later ones are not; a naive time is UTC. None: the newest of all.
            currency: only the snapshot of this currency; None: of all.
            exchange: only snapshots of this exchange; None: of all exchanges.
            account: only snapshots of this account; None: of the repository's account, or of all.

        Returns:
            The snapshots, ordered by exchange, account and currency; empty if there are none.

        Raises:
            InvalidValueError: a value is one that no snapshot can have.

        Example:
            [before] = await balances.get_latest(start + timedelta(minutes=30), currency="USDT")
            before.total  # -> Decimal('1000')
        """
        window = self._limit(self._choose(exchange, account, {"currency": currency}), None, at)

        async def read(stores: Stores) -> list[BalanceSnapshot]:
            latest = await find_latest(stores, window)
            if not latest:
                await warn_of_records(self._backend, stores, window)
            return latest

        return await self._read(read, snapshot=True)

    def stream(
        self,
        currency: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        batch_size: int = 1_000,
    ) -> Stream[list[BalanceSnapshot]]:
        """Return a stream of the snapshots, or only of those with the given values, in constant memory, as lists.

        OHLCVRepository.stream_range explains which concurrent writes a stream shows, and how to close the stream.

        Args:
            currency: only snapshots of this currency; None: of all.
            start: start of the time window, inclusive; naive times are UTC. None: no limit.
            end: end of the time window, inclusive. None: no limit.
            exchange: only snapshots of this exchange; None, the default here: of all.
            account: only snapshots of this account; None: of the repository's account, or of all.
            batch_size: the maximum number of snapshots of a list, at least 1.

        Returns:
            The stream of lists, ordered by timestamp, then id; no list is empty, and there is none if no snapshot matches.

        Raises:
            InvalidValueError: start is after end, batch_size is below 1, or a value is one that no snapshot can have.

        Example:
            async for batch in balances.stream("USDT"):
                [one.total for one in batch]  # -> [Decimal('1000'), Decimal('998.75')]
        """
        window = self._limit(self._choose(exchange, account, {"currency": currency}), start, end)
        return Stream(self._read_lists(window, checks.integer(batch_size, "batch_size", least=1)))

    async def read_arrow(
        self,
        currency: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        decimals: ReadDecimals | None = None,
    ) -> pa.Table:
        """Return the rows of `stream` as a pyarrow.Table, read from a snapshot.

        Columns are the fields of BalanceSnapshot, in their order: decimals as decimal128(38, 18), times as timestamp[us, UTC].
        Rows are ordered by id.

        Args:
            currency: only snapshots of this currency; None: of all.
            start: start of the time window, inclusive; naive times are UTC. None: no limit.
            end: end of the time window, inclusive. None: no limit.
            exchange: only snapshots of this exchange; None, the default here: of all.
            account: only snapshots of this account; None: of the repository's account, or of all.
            decimals: "float": read decimals as the nearest floats, for plots and models. None: exactly.

        Returns:
            The table, in memory as a whole; without rows, but with all columns, if none matches.

        Raises:
            MissingDriverError: pyarrow is not installed; the message contains the install command.
            InvalidValueError: start is after end, or a value is one that no row can have.

        Example:
            (await balances.read_arrow("USDT", decimals="float"))["total"].to_pylist()  # -> [1000.0, 998.75]
        """
        values = {"currency": currency}
        return await self._table(self._limit(self._choose(exchange, account, values), start, end), decimals)

    def stream_arrow(
        self,
        currency: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        batch_size: int = 65_536,
        decimals: ReadDecimals | None = None,
    ) -> Stream[pa.RecordBatch]:
        """Return a stream of the rows of read_arrow, in constant memory, as record batches.

        OHLCVRepository.stream_range explains which concurrent writes a stream shows, and how to close the stream.

        Args:
            currency: only snapshots of this currency; None: of all.
            start: start of the time window, inclusive; naive times are UTC. None: no limit.
            end: end of the time window, inclusive. None: no limit.
            exchange: only snapshots of this exchange; None, the default here: of all.
            account: only snapshots of this account; None: of the repository's account, or of all.
            batch_size: the maximum number of rows of a batch, at least 1.
            decimals: "float": read decimals as the nearest floats. None: exactly.

        Returns:
            The stream of pyarrow.RecordBatch, ordered by id; none is empty, and there is none if no row matches.

        Raises:
            MissingDriverError: pyarrow is not installed; the message contains the install command.
            InvalidValueError: start is after end, batch_size is below 1, or a value is one that no row can have.

        Example:
            async for batch in balances.stream_arrow("BTC"):
                batch["total"].to_pylist()  # -> [Decimal('0.010000000000000000')]
        """
        values = {"currency": currency}
        window = self._limit(self._choose(exchange, account, values), start, end)
        return self._stream(window, batch_size, decimals)

    async def write_arrow(self, data: ArrowData, *, exchange: str | None = None, decimals: Decimals | None = None) -> int:
        """Record the snapshots of an Arrow table, record batches or a data frame; the rules of record_many apply.

        All of the data is read into memory, then all new snapshots are stored, or none.

        Columns are those of read_arrow, in any order. free, used, unrealized_pnl and account may be missing, or NULL in a row;
        id, created_at and the index columns of pandas are ignored. Numbers may be decimals, whole numbers, or decimals as text.
        Times may have any unit and time zone, if they are whole microseconds; without a zone they are UTC.

        Args:
            data: the rows: a pyarrow Table, RecordBatch or RecordBatchReader, a Polars or pandas frame (any object with
                Arrow's PyCapsule interface), or an iterable of these.
            exchange: the exchange of all rows, if the data has no column exchange.
            decimals: "from_float": accept floats and store the shortest decimal of each. None: refuse floats.

        Returns:
            The number of new snapshots; 0 without rows.

        Raises:
            BalanceConflictError: as in `record_many`.
            InvalidValueError: a column is missing, unknown or of another type, or a row cannot be stored; the message names the
                column or row; nothing was written.
            MissingDriverError: pyarrow is not installed; the message contains the install command.

        Example:
            table = await balances.read_arrow()
            await balances.write_arrow(table)  # -> 0
            await balances.write_arrow(table.drop_columns(["exchange"]), exchange="kraken")  # -> 3
        """
        return await self._write_table(data, {"exchange": exchange}, decimals)

    def _describe(self, row: BalanceSnapshot) -> str:
        return f"the balance of {show(row.currency)} on {show(row.exchange)} at {row.timestamp.isoformat()}"


async def find_latest(stores: Stores, window: RowFilter) -> list[BalanceSnapshot]:
    """Return the newest selected snapshot of each exchange, account and currency, ordered by these."""
    lookups = find_lookups(stores)
    if isinstance(lookups, SupportsValues):
        found = [
            await stores.records.select(
                replace(window, equal=window.equal | dict(zip(_NAMES, names, strict=True)), limit=1), descending=True
            )
            for names in await lookups.find_values(window, _NAMES)
        ]
        latest: list[BalanceSnapshot] = [row for rows in found for row in rows]
    else:
        latest = await _search_latest(stores, window)
    return sorted(latest, key=attrgetter(*_NAMES))


async def _search_latest(stores: Stores, window: RowFilter) -> list[BalanceSnapshot]:
    """Return the newest selected snapshots by reading all, for engines that do not find names."""
    latest: dict[tuple[str, ...], BalanceSnapshot] = {}
    async with aclosing(read_lists(stores, window, _BATCH)) as batches:
        async for batch in batches:
            latest.update({(one.exchange, one.account, one.currency): one for one in batch})
    return list(latest.values())
