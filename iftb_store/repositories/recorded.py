"""Base class of the repositories whose rows are stored once and never change: fills, the ledger and balances."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from iftb_store._io.tasks import import_modules
from iftb_store.errors import InvalidValueError, StoreError
from iftb_store.protocols import Stores
from iftb_store.registry import require_arrow
from iftb_store.repositories.base import AccountRepository, check_fields
from iftb_store.repositories.exchanges import select_exchange, warn_of_records
from iftb_store.repositories.recording import RowKey, list_differing_fields, read_key, record_row, record_rows
from iftb_store.schema.scope import check_window
from iftb_store.schema.table_spec import RowFilter
from iftb_store.values import checks
from iftb_store.values.choices import Decimals
from iftb_store.values.display import type_name

if TYPE_CHECKING:
    from iftb_store.repositories.ohlcv import ArrowData

# rows that are checked at once
_CHUNK = 500


class RecordedRepository(AccountRepository):
    """Stores rows once each, by their key, and reads them by time."""

    #: What messages call the rows, and the functions that check their fields.
    _noun: ClassVar[str]
    _checks: ClassVar[Mapping[str, Callable[[object, str], Any]]]
    _conflict_error: ClassVar[type[StoreError]]
    #: The columns that an Arrow table may lack, and what they are then.
    _optional: ClassVar[Mapping[str, Any]]

    def _check(self, row: object) -> Any:
        """Return the row with normalised values, in the repository's account."""
        return self._assign_account(check_fields(row, self._scanned.model, self._checks))

    def _describe(self, row: Any) -> str:
        """Return words that name a row in a message."""
        raise NotImplementedError

    def _conflict(self, row: Any, differing: tuple[str, ...]) -> Exception:
        return self._make_conflict(
            f"{self._describe(row)} is already stored with another {', '.join(differing)}; what is stored does not change: "
            "find out which one is right",
            differing,
        )

    def _make_conflict(self, message: str, differing: tuple[str, ...]) -> StoreError:
        make: Callable[[str, tuple[str, ...]], StoreError] = self._conflict_error
        return make(message, differing)

    async def _record(self, row: object) -> bool:
        checked = replace(self._check(row), created_at=self._now())
        return await self._count(lambda stores: record_row(stores, self._scanned, checked, self._checks, self._conflict))

    async def _record_list(self, rows: object) -> list[bool]:
        model = self._scanned.model.__name__
        if not isinstance(rows, Iterable) or isinstance(rows, Mapping | str | bytes):
            raise InvalidValueError(f"{self._noun} must be a list of {model}, not {type_name(rows)}")
        return await self._record_rows(list(rows), self._noun + "[{}]: ", 0)

    async def _record_rows(self, given: list[Any], place: str, first: int) -> list[bool]:
        now, keys, rows = self._now(), list[RowKey](), dict[RowKey, Any]()
        for number, row in enumerate(given, first):
            if len(keys) % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)
            try:
                checked = replace(self._check(row), created_at=now)
            except InvalidValueError as error:
                raise InvalidValueError(f"{place.format(number)}{error}") from error
            key = read_key(self._scanned, checked)
            if differing := list_differing_fields(rows.setdefault(key, checked), checked, self._checks):
                raise self._make_conflict(
                    f"{place.format(number)}{self._describe(checked)} is a duplicate with another {', '.join(differing)}; "
                    "nothing was stored",
                    differing,
                )
            keys.append(key)
        if not rows:
            return []
        new = await self._count(lambda stores: record_rows(stores, self._scanned, rows, tuple(self._checks), self._conflict))
        found = list[bool]()
        for key in keys:
            found.append(key in new)
            # only the first of equal ones is new
            new.discard(key)
        return found

    async def _read_range(
        self, start: datetime, end: datetime, exchange: object, account: object, values: Mapping[str, object]
    ) -> list[Any]:
        first, last = checks.utc(start, "start"), checks.utc(end, "end")
        check_window(first, last)
        return await self._select(replace(self._choose(exchange, account, values), start=first, end=last))

    def _choose(self, exchange: object, account: object, values: Mapping[str, object]) -> RowFilter:
        """Return the filter of the rows of an exchange and account, and with the values that are not None."""
        equal = {name: self._checks[name](value, name) for name, value in values.items() if value is not None}
        return RowFilter(self._scanned, {**select_exchange(exchange), **self._choose_account(account), **equal})

    def _limit(self, rows: RowFilter, start: datetime | None, end: datetime | None) -> RowFilter:
        first, last = (checks.optional(checks.utc, moment, name) for name, moment in (("start", start), ("end", end)))
        if first is not None and last is not None:
            check_window(first, last)
        return replace(rows, start=first, end=last)

    async def _read_lists(self, window: RowFilter, size: int) -> AsyncGenerator[list[Any]]:
        async with self._stores(snapshot=True) as stores, aclosing(self._split_lists(stores, window, size)) as lists:
            async for rows in lists:
                yield rows

    async def _split_lists(self, stores: Stores, window: RowFilter, size: int) -> AsyncGenerator[list[Any]]:
        found = False
        async with aclosing(read_lists(stores, window, size)) as lists:
            async for rows in lists:
                found = True
                yield rows
        if not found:
            await warn_of_records(self._backend, stores, window)

    async def _write_table(self, data: ArrowData, given: Mapping[str, object], decimals: Decimals | None) -> int:
        checks.optional_choice(decimals, "decimals", get_args(Decimals))
        constants = {name: checks.optional(self._checks[name], value, name) for name, value in given.items()}
        require_arrow()
        await import_modules("pyarrow", "iftb_store.batches.record_input")
        from iftb_store.batches.arrow_frames import collect_rows, name_columns
        from iftb_store.batches.record_input import read_values

        table = await collect_rows(data, f"{self._noun} as objects go to record or record_many")
        if not table.num_rows:
            return 0
        named = await asyncio.to_thread(name_columns, table, constants)
        rows = await asyncio.to_thread(read_values, self._scanned, named, self._optional, from_float=decimals is not None)
        # a value that is missing in a row is refused by its check
        required: dict[str, Any] = dict.fromkeys(name for name in self._checks if name not in self._optional)
        model = self._scanned.model
        return sum(await self._record_rows([model(**{**required, **row}) for row in rows], "row {}: ", 1))


async def read_lists(stores: Stores, window: RowFilter, size: int) -> AsyncGenerator[list[Any]]:
    """Yield the selected rows by time, then id, as lists of at most ``size``; none is empty."""
    # a list begins at the last time of the one before, whose rows are left out
    seen: set[int | None] = set()
    time = window.table.time
    while batch := [row for row in await stores.records.select(replace(window, limit=size + len(seen))) if row.id not in seen]:
        last = getattr(batch[-1], time)
        same = {row.id for row in batch if getattr(row, time) == last}
        seen, window = (seen | same if last == window.start else same), replace(window, start=last)
        yield batch
