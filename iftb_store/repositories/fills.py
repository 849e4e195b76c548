"""The repository of fills."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, get_args

from iftb_store._io.tasks import import_modules
from iftb_store.errors import FillConflictError, InvalidValueError
from iftb_store.models import Fill
from iftb_store.registry import require_arrow
from iftb_store.repositories.base import RecordRepository, check_fields
from iftb_store.repositories.exchanges import select_exchange, warn_of_records
from iftb_store.repositories.recording import RowKey, list_differing_fields, read_key, record_row, record_rows
from iftb_store.repositories.streams import Stream
from iftb_store.schema.row_checks import FILL_CHECKS
from iftb_store.schema.scope import check_window
from iftb_store.schema.table_spec import FILLS, RowFilter
from iftb_store.values import checks
from iftb_store.values.choices import Decimals
from iftb_store.values.display import show, type_name

if TYPE_CHECKING:
    from iftb_store.repositories.ohlcv import ArrowData

# rows that are checked at once
_CHUNK = 500
# the columns that a table may lack, and what they are then
_OPTIONAL: dict[str, Any] = {
    **dict.fromkeys(("trade_id", "order_id", "fee_currency", "liquidity")),
    "fee": Decimal(0),
    "account": "",
}


class FillRepository(RecordRepository):
    """Stores the fills of orders, once each, and reads them.

    The exchange, account, symbol and fill_id name a fill. A stored fill never changes. `TradeRepository.apply_fills` sets the
    figures of a trade from the fills with its trade_id.

    The quantity of a fill is above 0; its side says the direction. Decimals are rounded half-even to 18 places. Naive times are
    UTC, and returned times are aware UTC. Given the manager, each call is a transaction of its own; given a session, the writes
    are committed at its end.

    A read that finds nothing on the exchange binance, the default, although another exchange has fills that match, logs a
    warning, once for a manager.

    Besides the errors that it names, each method raises NotConnectedError before connect(), SchemaError if the database has no
    tables of iftb-store, and OperationalError if the database fails (TransientError if a new attempt may succeed).

    Example:
        # the examples of the methods use this name, and two fills of the trade T-1
        fills = FillRepository(db)
        [fill.fill_id for fill in await fills.get_by_trade("T-1")]  # -> ['F-1', 'F-2']
    """

    _scanned = FILLS

    async def record(self, fill: Fill) -> bool:
        """Store a fill unless an equal one is stored; return whether it was new.

        A stored fill is equal if it has the same exchange, account, symbol and fill_id and the same value in every other field
        that the caller can set: decimals are compared by value after rounding, times in UTC; id and created_at are not
        compared. So the call may be repeated, e.g. after a restart or for a fill that the exchange reports twice. Of several
        tasks or processes that record the same fill at the same time, one gets True.

        Args:
            fill: the fill. The object is not changed; its id and created_at are ignored.

        Returns:
            True if the fill was new, False if an equal one was stored.

        Raises:
            FillConflictError: the fill is stored with other values; the message names the differing fields. Nothing is changed.
            InvalidValueError: a value cannot be stored, the quantity is not above 0, or the fill belongs to another account
                than the repository.

        Example:
            fill = Fill("F-3", "BTCUSDT", "binance", "buy", Decimal("42600"), Decimal("0.01"), start, trade_id="T-2")
            await fills.record(fill)  # -> True
            await fills.record(fill)  # -> False
        """
        checked = self._check(fill)
        async with self._stores() as stores:
            return await record_row(stores, FILLS, replace(checked, created_at=self._now()), FILL_CHECKS, _conflict)

    async def record_many(self, fills: Iterable[Fill]) -> list[bool]:
        """Store the fills of which no equal one is stored, all or none; return for each whether it was new.

        The rules of `record` apply. Without pyarrow, the fills are written one by one.

        Args:
            fills: the fills, in any order; of equal ones, the first is stored.

        Returns:
            For each fill, in their order, True if it was new; False if an equal one was stored or is before it in the list.

        Raises:
            FillConflictError: a fill is stored, or is before it in the list, with other values; the message names the differing
                fields. Nothing is stored.
            InvalidValueError: a fill cannot be stored; the message names it. Nothing is stored.

        Example:
            from dataclasses import replace

            later = [replace(fill, fill_id=f"{fill.fill_id}b") for fill in await fills.get_by_trade("T-1")]
            await fills.record_many([later[0], later[1], later[0]])  # -> [True, True, False]
            await fills.record_many(later)  # -> [False, False]
        """
        if not isinstance(fills, Iterable) or isinstance(fills, Mapping | str):
            raise InvalidValueError(f"fills must be a list of Fill, not {type_name(fills)}")
        return await self._record_many(list(fills), "fills[{}]: ", 0)

    async def _record_many(self, fills: list[Fill], place: str, first: int) -> list[bool]:
        now, keys, rows = self._now(), list[RowKey](), dict[RowKey, Fill]()
        for number, fill in enumerate(fills):
            if number % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)
            try:
                checked = replace(self._check(fill), created_at=now)
            except InvalidValueError as error:
                raise InvalidValueError(f"{place.format(number + first)}{error}") from error
            key = read_key(FILLS, checked)
            if differing := list_differing_fields(rows.setdefault(key, checked), checked, FILL_CHECKS):
                raise FillConflictError(
                    f"{place.format(number + first)}the fill {show(checked.fill_id)} is a duplicate with another "
                    f"{', '.join(differing)}; nothing was stored",
                    differing,
                )
            keys.append(key)
        if not rows:
            return []
        async with self._stores() as stores:
            new = await record_rows(stores, FILLS, rows, tuple(FILL_CHECKS), _conflict)
        # only the first of equal ones is new
        seen: set[RowKey] = set()
        return [key in new and not (key in seen or seen.add(key)) for key in keys]  # type: ignore[func-returns-value]

    async def get_by_trade(self, trade_id: str, *, account: str | None = None) -> list[Fill]:
        """Return the fills of a trade, ordered by timestamp, then id; oldest first.

        Args:
            trade_id: the bot's own trade_id of the trade, which need not be stored.
            account: only fills of this account; None: of the repository's account, or of all.

        Returns:
            The fills; empty if there are none.

        Raises:
            InvalidValueError: the trade_id or the account is one that no fill can have.

        Example:
            [(fill.side, fill.price) for fill in await fills.get_by_trade("T-1")][1:]  # -> [('sell', Decimal('42677.5'))]
        """
        equal = {"trade_id": checks.name_text(trade_id, "trade_id"), **self._choose_account(account)}
        return await self._read(lambda stores: stores.records.select(RowFilter(FILLS, equal)))

    async def get_range(
        self,
        start: datetime,
        end: datetime,
        *,
        symbol: str | None = None,
        exchange: str | None = "binance",
        account: str | None = None,
    ) -> list[Fill]:
        """Return the fills with start <= timestamp <= end, oldest first.

        Args:
            start: start of the time window, inclusive; naive times are UTC.
            end: end of the time window, inclusive.
            symbol: only fills of this symbol; None: of all.
            exchange: only fills of this exchange; None: of all exchanges.
            account: only fills of this account; None: of the repository's account, or of all.

        Returns:
            The fills, ordered by timestamp, then id (of all exchanges: by exchange and symbol first); empty if there are none.

        Raises:
            InvalidValueError: start is after end, or a value is one that no fill can have.

        Example:
            day = await fills.get_range(start, start + timedelta(days=1), symbol="BTCUSDT")
            [fill.fill_id for fill in day]  # -> ['F-1', 'F-2']
        """
        first, last = checks.utc(start, "start"), checks.utc(end, "end")
        check_window(first, last)
        equal = {**select_exchange(exchange), **self._choose_account(account)}
        if symbol is not None:
            equal["symbol"] = checks.name_text(symbol, "symbol")
        return await self._select(RowFilter(FILLS, equal, first, last))

    def stream(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        batch_size: int = 1_000,
    ) -> Stream[list[Fill]]:
        """Return a stream of the fills, or only of those of a symbol, exchange or time window, in constant memory, as lists.

        OHLCVRepository.stream_range explains which concurrent writes a stream shows, and how to close the stream.

        Args:
            symbol: only fills of this symbol; None: of all.
            start: start of the time window, inclusive; naive times are UTC. None: no limit.
            end: end of the time window, inclusive. None: no limit.
            exchange: only fills of this exchange; None, the default here: of all.
            account: only fills of this account; None: of the repository's account, or of all.
            batch_size: the maximum number of fills of a list, at least 1.

        Returns:
            The stream of lists, ordered by timestamp, then id; no list is empty, and there is none if no fill matches.

        Raises:
            InvalidValueError: start is after end, batch_size is below 1, or a value is one that no fill can have.

        Example:
            async for batch in fills.stream("BTCUSDT", batch_size=10):
                [fill.fill_id for fill in batch]  # -> ['F-1', 'F-2']
        """
        window = self._select_window(symbol, start, end, exchange, account)
        return Stream(self._lists(window, checks.integer(batch_size, "batch_size", least=1)))

    async def _lists(self, window: RowFilter, size: int) -> AsyncGenerator[list[Fill]]:
        # a list begins at the last time of the one before, whose fills are left out
        seen: set[int | None] = set()
        async with self._stores(snapshot=True) as stores:
            while batch := [
                fill for fill in await stores.records.select(replace(window, limit=size + len(seen))) if fill.id not in seen
            ]:
                last = batch[-1].timestamp
                same = {fill.id for fill in batch if fill.timestamp == last}
                seen, window = (seen | same if last == window.start else same), replace(window, start=last)
                yield batch
            if not seen:
                await warn_of_records(self._backend, stores, window)

    async def write_arrow(
        self,
        data: ArrowData,
        *,
        symbol: str | None = None,
        exchange: str | None = None,
        decimals: Decimals | None = None,
    ) -> int:
        """Record the fills of an Arrow table, record batches or a data frame; the rules of record_many apply.

        All of the data is read into memory, then all new fills are stored, or none.

        Columns are those of read_arrow, in any order. trade_id, order_id, fee, fee_currency, liquidity and account may be
        missing, or NULL in a row; id, created_at and the index columns of pandas are ignored. Numbers may be decimals, whole
        numbers, or decimals as text. Times may have any unit and time zone, if they are whole microseconds; without a zone they
        are UTC.

        Args:
            data: the rows: a pyarrow Table, RecordBatch or RecordBatchReader, a Polars or pandas frame (any object with
                Arrow's PyCapsule interface), or an iterable of these.
            symbol: the symbol of all rows, if the data has no column symbol.
            exchange: the exchange of all rows, if the data has no column exchange.
            decimals: "from_float": accept floats and store the shortest decimal of each. None: refuse floats.

        Returns:
            The number of new fills; 0 without rows.

        Raises:
            FillConflictError: as in `record_many`.
            InvalidValueError: a column is missing, unknown or of another type, or a row cannot be stored; the message names the
                column or row; nothing was written.
            MissingDriverError: pyarrow is not installed; the message contains the install command.

        Example:
            table = await fills.read_arrow("BTCUSDT")
            await fills.write_arrow(table)  # -> 0
            await fills.write_arrow(table.drop_columns(["exchange"]), exchange="coinbase")  # -> 2
        """
        checks.optional_choice(decimals, "decimals", get_args(Decimals))
        given = {
            "symbol": checks.optional(checks.name_text, symbol, "symbol"),
            "exchange": checks.optional(checks.name_text, exchange, "exchange"),
        }
        require_arrow()
        await import_modules("pyarrow", "iftb_store.batches.record_input")
        from iftb_store.batches.arrow_frames import collect_rows, name_columns
        from iftb_store.batches.record_input import read_values

        table = await collect_rows(data, "fills as objects go to record or record_many")
        if not table.num_rows:
            return 0
        named = await asyncio.to_thread(name_columns, table, given)
        rows = await asyncio.to_thread(read_values, FILLS, named, _OPTIONAL, from_float=decimals is not None)
        # a value that is missing in a row is refused by its check
        required: dict[str, Any] = dict.fromkeys(name for name in FILL_CHECKS if name not in _OPTIONAL)
        return sum(await self._record_many([Fill(**{**required, **row}) for row in rows], "row {}: ", 1))

    def _check(self, fill: Fill) -> Fill:
        checked = check_fields(fill, Fill, FILL_CHECKS)
        if checked.quantity <= 0:
            raise InvalidValueError(f"quantity {checked.quantity} of a fill is not above 0; side says whether it bought or sold")
        return self._assign_account(checked)


def _conflict(given: Fill, differing: tuple[str, ...]) -> FillConflictError:
    return FillConflictError(
        f"the fill {show(given.fill_id)} of {show(given.symbol)} on {show(given.exchange)} is already stored with another "
        f"{', '.join(differing)}; a stored fill does not change: find out which one is right, or use another fill_id",
        differing,
    )
