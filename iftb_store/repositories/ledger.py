"""The repository of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

from iftb_store.errors import LedgerConflictError
from iftb_store.models import LedgerEntry
from iftb_store.protocols import Stores
from iftb_store.repositories.recorded import RecordedRepository
from iftb_store.repositories.streams import Stream
from iftb_store.schema.row_checks import LEDGER_CHECKS
from iftb_store.schema.table_spec import LEDGER
from iftb_store.values import checks
from iftb_store.values.choices import Decimals, LedgerKind, ReadDecimals
from iftb_store.values.decimals import CONTEXT, trim_zeros
from iftb_store.values.display import show

if TYPE_CHECKING:
    import pyarrow as pa

    from iftb_store.repositories.ohlcv import ArrowData

# rows that are added up at once
_BATCH = 1_000


class LedgerRepository(RecordedRepository):
    """Stores the entries of the ledger, once each, and reads and adds them up: money that an account received or paid.

    The exchange, account, kind and external_id name an entry. A stored entry never changes; another entry, of the kind
    adjustment, corrects it. An entry without external_id gets a new one, so that each time it is recorded it is another entry.

    Amounts are rounded half-even to 18 places. Naive times are UTC, and returned times are aware UTC. Given the manager, each
    call is a transaction of its own; given a session, the writes are committed at its end.

    A read that finds nothing on the exchange binance, the default, although another exchange has entries that match, logs a
    warning, once for a manager.

    Besides the errors that it names, each method raises NotConnectedError before connect(), SchemaError if the database has no
    tables of iftb-store, and OperationalError if the database fails (TransientError if a new attempt may succeed).

    Example:
        # the examples of the methods use this name, and a deposit D-1 and a funding payment P-1
        ledger = LedgerRepository(db)
        [entry.external_id for entry in await ledger.get_range(start, start + timedelta(days=1))]  # -> ['D-1', 'P-1']
    """

    _scanned = LEDGER
    _noun = "entries"
    _checks: ClassVar[Mapping[str, Callable[[object, str], Any]]] = {
        **LEDGER_CHECKS,
        "external_id": lambda value, name: checks.short_name(uuid4().hex if value is None else value, name),
    }
    _conflict_error = LedgerConflictError
    _optional: ClassVar[Mapping[str, Any]] = {**dict.fromkeys(("symbol", "trade_id", "external_id", "details")), "account": ""}

    async def record(self, entry: LedgerEntry) -> bool:
        """Store an entry unless an equal one is stored; return whether it was new.

        A stored entry is equal if it has the same exchange, account, kind and external_id and the same value in every other
        field that the caller can set: amounts are compared after rounding, times in UTC, details in the form in which they are
        read back; id and created_at are not compared. So the call may be repeated, e.g. after a restart. Of several tasks or
        processes that record the same entry at the same time, one gets True. An entry without external_id is always new.

        Args:
            entry: the entry. The object is not changed; its id and created_at are ignored.

        Returns:
            True if the entry was new, False if an equal one was stored.

        Raises:
            LedgerConflictError: the entry is stored with other values; the message names the differing fields. Nothing is
                changed.
            InvalidValueError: a value cannot be stored, or the entry belongs to another account than the repository.

        Example:
            paid = LedgerEntry("funding", "USDT", Decimal("-0.42"), start, "binance", symbol="BTCUSDT", external_id="P-2")
            await ledger.record(paid)  # -> True
            await ledger.record(paid)  # -> False
        """
        return await self._record(entry)

    async def record_many(self, entries: Iterable[LedgerEntry]) -> list[bool]:
        """Store the entries of which no equal one is stored, all or none; return for each whether it was new.

        The rules of `record` apply. Without pyarrow, the entries are written one by one.

        Args:
            entries: the entries, in any order; of equal ones with an external_id, the first is stored.

        Returns:
            For each entry, in their order, True if it was new; False if an equal one was stored or is before it in the list.

        Raises:
            LedgerConflictError: an entry is stored, or is before it in the list, with other values; the message names the
                differing fields. Nothing is stored.
            InvalidValueError: an entry cannot be stored; the message names it. Nothing is stored.

        Example:
            stored = await ledger.get_range(start, start + timedelta(days=1), kind="funding")
            fee = LedgerEntry("fee", "BNB", Decimal("-0.001"), start, "binance", external_id="O-1")
            await ledger.record_many([*stored, fee, fee])  # -> [False, True, False]
        """
        return await self._record_list(entries)

    async def get_range(
        self,
        start: datetime,
        end: datetime,
        *,
        kind: LedgerKind | None = None,
        currency: str | None = None,
        symbol: str | None = None,
        trade_id: str | None = None,
        exchange: str | None = "binance",
        account: str | None = None,
    ) -> list[LedgerEntry]:
        """Return the entries with start <= timestamp <= end, oldest first.

        Args:
            start: start of the time window, inclusive; naive times are UTC.
            end: end of the time window, inclusive.
            kind: only entries of this kind; None: of all.
            currency: only entries in this currency; None: in all.
            symbol: only entries of this symbol; None: of all, and those without one.
            trade_id: only entries of the trade with this trade_id of the bot, stored or not; None: of all, and those without one.
            exchange: only entries of this exchange; None: of all exchanges.
            account: only entries of this account; None: of the repository's account, or of all.

        Returns:
            The entries, ordered by timestamp, then id (of all exchanges: by exchange and symbol first, those without a symbol
            before the others); empty if there are none.

        Raises:
            InvalidValueError: start is after end, or a value is one that no entry can have.

        Example:
            day = await ledger.get_range(start, start + timedelta(days=1), kind="funding")
            [(entry.symbol, entry.amount) for entry in day]  # -> [('BTCUSDT', Decimal('-1.25'))]
        """
        values = {"kind": kind, "currency": currency, "symbol": symbol, "trade_id": trade_id}
        return await self._read_range(start, end, exchange, account, values)

    async def get_sums(
        self,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        kind: LedgerKind | None = None,
        currency: str | None = None,
        symbol: str | None = None,
        trade_id: str | None = None,
        exchange: str | None = "binance",
        account: str | None = None,
    ) -> dict[str, dict[LedgerKind, Decimal]]:
        """Return the sums of the amounts by currency and kind, exact; amounts in two currencies are never added.

        The entries are read in a snapshot and added up in constant memory. Sums may exceed the range of an amount.

        Args:
            start: start of the time window, inclusive; naive times are UTC. None: no limit.
            end: end of the time window, inclusive. None: no limit.
            kind: only entries of this kind; None: of all.
            currency: only entries in this currency; None: in all.
            symbol: only entries of this symbol; None: of all, and those without one.
            trade_id: only entries of the trade with this trade_id of the bot, stored or not; None: of all, and those without one.
            exchange: only entries of this exchange; None: of all exchanges.
            account: only entries of this account; None: of the repository's account, or of all.

        Returns:
            For each currency the sums by kind, currencies and kinds in alphabetical order; only of kinds that have entries, and
            empty if there are none.

        Raises:
            InvalidValueError: start is after end, or a value is one that no entry can have.

        Example:
            await ledger.get_sums()  # -> {'USDT': {'deposit': Decimal('1000'), 'funding': Decimal('-1.25')}}
            sum((await ledger.get_sums())["USDT"].values())  # -> Decimal('998.75')
        """
        values = {"kind": kind, "currency": currency, "symbol": symbol, "trade_id": trade_id}
        window = self._limit(self._choose(exchange, account, values), start, end)

        async def add_up(stores: Stores) -> dict[tuple[str, LedgerKind], Decimal]:
            sums: dict[tuple[str, LedgerKind], Decimal] = {}
            async with aclosing(self._split_lists(stores, window, _BATCH)) as lists:
                async for entries in lists:
                    for entry in entries:
                        place = entry.currency, entry.kind
                        sums[place] = CONTEXT.add(sums.get(place, Decimal(0)), entry.amount)
            return sums

        sums = await self._read(add_up, snapshot=True)
        ordered: dict[str, dict[LedgerKind, Decimal]] = {}
        for (name, word), total in sorted(sums.items()):
            ordered.setdefault(name, {})[word] = trim_zeros(total)
        return ordered

    def stream(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        kind: LedgerKind | None = None,
        currency: str | None = None,
        batch_size: int = 1_000,
    ) -> Stream[list[LedgerEntry]]:
        """Return a stream of the entries, or only of those with the given values, in constant memory, as lists.

        OHLCVRepository.stream_range explains which concurrent writes a stream shows, and how to close the stream.

        Args:
            symbol: only entries of this symbol; None: of all, and those without one.
            start: start of the time window, inclusive; naive times are UTC. None: no limit.
            end: end of the time window, inclusive. None: no limit.
            exchange: only entries of this exchange; None, the default here: of all.
            account: only entries of this account; None: of the repository's account, or of all.
            kind: only entries of this kind; None: of all.
            currency: only entries in this currency; None: in all.
            batch_size: the maximum number of entries of a list, at least 1.

        Returns:
            The stream of lists, ordered by timestamp, then id; no list is empty, and there is none if no entry matches.

        Raises:
            InvalidValueError: start is after end, batch_size is below 1, or a value is one that no entry can have.

        Example:
            async for batch in ledger.stream(kind="deposit"):
                [entry.external_id for entry in batch]  # -> ['D-1']
        """
        values = {"kind": kind, "currency": currency, "symbol": symbol}
        window = self._limit(self._choose(exchange, account, values), start, end)
        return Stream(self._read_lists(window, checks.integer(batch_size, "batch_size", least=1)))

    async def read_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        kind: LedgerKind | None = None,
        currency: str | None = None,
        decimals: ReadDecimals | None = None,
    ) -> pa.Table:
        """Return the rows of `stream` as a pyarrow.Table, read from a snapshot.

        Columns are the fields of LedgerEntry, in their order: decimals as decimal128(38, 18), times as timestamp[us, UTC],
        details as JSON text. Rows are ordered by id.

        Args:
            symbol: only entries of this symbol; None: of all, and those without one.
            start: start of the time window, inclusive; naive times are UTC. None: no limit.
            end: end of the time window, inclusive. None: no limit.
            exchange: only entries of this exchange; None, the default here: of all.
            account: only entries of this account; None: of the repository's account, or of all.
            kind: only entries of this kind; None: of all.
            currency: only entries in this currency; None: in all.
            decimals: "float": read decimals as the nearest floats, for plots and models. None: exactly.

        Returns:
            The table, in memory as a whole; without rows, but with all columns, if none matches.

        Raises:
            MissingDriverError: pyarrow is not installed; the message contains the install command.
            InvalidValueError: start is after end, or a value is one that no row can have.

        Example:
            (await ledger.read_arrow("BTCUSDT", decimals="float"))["amount"].to_pylist()  # -> [-1.25]
        """
        values = {"kind": kind, "currency": currency, "symbol": symbol}
        return await self._table(self._limit(self._choose(exchange, account, values), start, end), decimals)

    def stream_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        kind: LedgerKind | None = None,
        currency: str | None = None,
        batch_size: int = 65_536,
        decimals: ReadDecimals | None = None,
    ) -> Stream[pa.RecordBatch]:
        """Return a stream of the rows of read_arrow, in constant memory, as record batches.

        OHLCVRepository.stream_range explains which concurrent writes a stream shows, and how to close the stream.

        Args:
            symbol: only entries of this symbol; None: of all, and those without one.
            start: start of the time window, inclusive; naive times are UTC. None: no limit.
            end: end of the time window, inclusive. None: no limit.
            exchange: only entries of this exchange; None, the default here: of all.
            account: only entries of this account; None: of the repository's account, or of all.
            kind: only entries of this kind; None: of all.
            currency: only entries in this currency; None: in all.
            batch_size: the maximum number of rows of a batch, at least 1.
            decimals: "float": read decimals as the nearest floats. None: exactly.

        Returns:
            The stream of pyarrow.RecordBatch, ordered by id; none is empty, and there is none if no row matches.

        Raises:
            MissingDriverError: pyarrow is not installed; the message contains the install command.
            InvalidValueError: start is after end, batch_size is below 1, or a value is one that no row can have.

        Example:
            async for batch in ledger.stream_arrow(kind="deposit"):
                batch["external_id"].to_pylist()  # -> ['D-1']
        """
        values = {"kind": kind, "currency": currency, "symbol": symbol}
        window = self._limit(self._choose(exchange, account, values), start, end)
        return self._stream(window, batch_size, decimals)

    async def write_arrow(self, data: ArrowData, *, exchange: str | None = None, decimals: Decimals | None = None) -> int:
        """Record the entries of an Arrow table, record batches or a data frame; the rules of record_many apply.

        All of the data is read into memory, then all new entries are stored, or none.

        Columns are those of read_arrow, in any order; details is JSON text. symbol, trade_id, external_id, details and account
        may be missing, or NULL in a row; id, created_at and the index columns of pandas are ignored. Numbers may be decimals,
        whole numbers, or decimals as text. Times may have any unit and time zone, if they are whole microseconds; without a zone
        they are UTC.

        Args:
            data: the rows: a pyarrow Table, RecordBatch or RecordBatchReader, a Polars or pandas frame (any object with
                Arrow's PyCapsule interface), or an iterable of these.
            exchange: the exchange of all rows, if the data has no column exchange.
            decimals: "from_float": accept floats and store the shortest decimal of each. None: refuse floats.

        Returns:
            The number of new entries; 0 without rows.

        Raises:
            LedgerConflictError: as in `record_many`.
            InvalidValueError: a column is missing, unknown or of another type, or a row cannot be stored; the message names the
                column or row; nothing was written.
            MissingDriverError: pyarrow is not installed; the message contains the install command.

        Example:
            table = await ledger.read_arrow()
            await ledger.write_arrow(table)  # -> 0
            await ledger.write_arrow(table.drop_columns(["exchange"]), exchange="kraken")  # -> 2
        """
        return await self._write_table(data, {"exchange": exchange}, decimals)

    def _describe(self, row: LedgerEntry) -> str:
        return f"the {row.kind} {show(row.external_id)} on {show(row.exchange)}"
