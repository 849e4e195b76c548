"""The repository of fills."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from iftb_store.analytics.fills import check_fill_quantity
from iftb_store.errors import FillConflictError
from iftb_store.models import Fill
from iftb_store.repositories.base import RecordRepository
from iftb_store.repositories.recorded import RecordedRepository
from iftb_store.repositories.streams import Stream
from iftb_store.schema.row_checks import FILL_CHECKS
from iftb_store.schema.table_spec import FILLS, RowFilter
from iftb_store.values import checks
from iftb_store.values.choices import Decimals
from iftb_store.values.display import show

if TYPE_CHECKING:
    from iftb_store.repositories.ohlcv import ArrowData


class FillRepository(RecordedRepository, RecordRepository):
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
    _noun = "fills"
    _checks = FILL_CHECKS
    _conflict_error = FillConflictError
    _optional: ClassVar[Mapping[str, Any]] = {
        **dict.fromkeys(("trade_id", "order_id", "fee_currency", "liquidity")),
        "fee": Decimal(0),
        "account": "",
    }

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
        return await self._record(fill)

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
        return await self._record_list(fills)

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
        return await self._read_range(start, end, exchange, account, {"symbol": symbol})

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
        return Stream(self._read_lists(window, checks.integer(batch_size, "batch_size", least=1)))

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
        return await self._write_table(data, {"symbol": symbol, "exchange": exchange}, decimals)

    def _check(self, row: object) -> Fill:
        checked: Fill = super()._check(row)
        check_fill_quantity(checked)
        return checked

    def _describe(self, row: Fill) -> str:
        return f"the fill {show(row.fill_id)} of {show(row.symbol)} on {show(row.exchange)}"
