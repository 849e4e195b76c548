"""Days of the source that a copy does not read, as the destination keeps the fingerprint that the source's engine computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from iftb_store import DatabaseManager, OHLCVRepository, copy
from iftb_store.errors import StoreError
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.testing import raw
from iftb_store.testing.samples import HOUR, T0, bar, full_bar, hourly
from iftb_store.transfer import day_digests, planner
from iftb_store.transfer.lookups import fingerprint_days
from iftb_store.transfer.matching import MappedEvents
from tests.transfer.test_copy_digests import _NoDraw

#: The engines that compute fingerprints.
ENGINES = ("postgres", "duckdb")
_DAYS = 5
_SERIES = {"exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1h"}
_BARS = [*hourly(24 * _DAYS - 1), replace(full_bar(T0 + (24 * _DAYS - 1) * HOUR), timeframe="1h", symbol="BTCUSDT")]
# of raw SQL, one for each column of a bar's values, one that exchanges the values of two bars, and two of the number of bars
_CHANGES = (
    *(f"UPDATE ohlcv SET {column} = {column} + 0.000000000000000001 WHERE {{}}" for column in ("open", "high", "low", "close")),
    "UPDATE ohlcv SET volume = volume * 2 WHERE {}",
    "UPDATE ohlcv SET quote_volume = 0 WHERE {}",
    "UPDATE ohlcv SET trades_count = 0 WHERE {}",
    "UPDATE ohlcv SET timestamp = timestamp + INTERVAL '1 minute' WHERE {}",
    "DELETE FROM ohlcv WHERE {}",
)


@pytest.fixture
def source(request: pytest.FixtureRequest, second: Callable[[str], str]) -> str:
    """URL of a store with five days of bars of a series; the test is parametrised with the engine."""
    return second(request.param)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[RowFilter]:
    """The selections of bars that were read in sources; no day is drawn."""
    found: list[RowFilter] = []
    read_rows = MappedEvents.read_rows

    async def noting(self: MappedEvents, selection: RowFilter) -> Any:
        if selection.table is BARS and selection.limit != 1:
            found.append(selection)
        return await read_rows(self, selection)

    monkeypatch.setattr(MappedEvents, "read_rows", noting)
    monkeypatch.setattr(planner, "random", _NoDraw())
    monkeypatch.setattr(day_digests, "LEAST", 1)
    return found


async def read_prints(db: DatabaseManager, series: dict[str, str] = _SERIES) -> dict[int, tuple[int, str]]:
    async with db.get_session() as session:
        return await fingerprint_days(get_stores(session), RowFilter(BARS, series))


async def read_bars(db: DatabaseManager) -> list[Any]:
    return [
        replace(one, id=None, created_at=None)
        for one in await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0 + 99 * 24 * HOUR)
    ]


@pytest.mark.parametrize("source", ENGINES, indirect=True)
async def test_every_change_of_a_day_changes_its_fingerprint_and_no_others(source: str) -> None:
    async with DatabaseManager(source) as db:
        await db.migrate()
        await OHLCVRepository(db).upsert_many(_BARS)
        before = await read_prints(db)
        assert [count for count, _ in before.values()] == [24] * _DAYS
        last = max(before)
        seen = {before[last]}
        for statement in _CHANGES:
            await raw.run(db, statement.format("timestamp = (SELECT MAX(timestamp) FROM ohlcv)"))
            after = await read_prints(db)
            assert {day: after[day] for day in after if day != last} == {day: before[day] for day in before if day != last}
            assert after[last] not in seen, f"{statement} did not change the fingerprint of its day"
            seen.add(after[last])


# of all rows, by tables of numbers and hashes that are equal for other numbers
_CHANGES_OF_ALL = (
    "UPDATE ohlcv SET close = -close",
    "UPDATE ohlcv SET volume = volume * 10000",
    "UPDATE ohlcv SET quote_volume = 0, trades_count = NULL",
    "UPDATE ohlcv SET quote_volume = NULL",
    "UPDATE ohlcv SET quote_volume = 77",
    "UPDATE ohlcv SET volume = volume * 10000, quote_volume = quote_volume * 10000",
    "UPDATE ohlcv SET quote_volume = quote_volume * 100000000",
    "UPDATE ohlcv SET open = high, high = open",
    "UPDATE ohlcv SET open = -0.000000000000000001",
    "UPDATE ohlcv SET open = 0",
    "UPDATE ohlcv SET trades_count = date_part('hour', timestamp) * 12 + 5",
    # exchanges the numbers of the two bars of each day
    "UPDATE ohlcv SET trades_count = 154 - trades_count",
)


@pytest.mark.parametrize("source", ENGINES, indirect=True)
async def test_a_change_of_all_bars_changes_the_fingerprint_of_every_day(source: str) -> None:
    async with DatabaseManager(source) as db:
        await db.migrate()
        await OHLCVRepository(db).insert_many([bar(T0 + 12 * number * HOUR, timeframe="12h") for number in range(200)])
        series = _SERIES | {"timeframe": "12h"}
        before = await read_prints(db, series)
        assert len(before) == 100
        for statement in _CHANGES_OF_ALL:
            await raw.run(db, statement)
            after = await read_prints(db, series)
            assert not set(before.values()) & set(after.values()), f"{statement} left the fingerprint of a day"
            before = after


@pytest.mark.parametrize("source", ENGINES, indirect=True)
async def test_bars_that_were_deleted_and_stored_again_have_the_same_fingerprint(source: str) -> None:
    async with DatabaseManager(source) as db:
        await db.migrate()
        await OHLCVRepository(db).upsert_many(_BARS)
        before = await read_prints(db)
        await raw.run(db, "DELETE FROM ohlcv")
        # other ids, another order of writing, decimals with other zeros at the end
        for one in reversed(_BARS):
            await OHLCVRepository(db).upsert_many([replace(one, open=one.open + Decimal("0.000000"))])
        assert await read_prints(db) == before


@pytest.mark.parametrize("source", ENGINES, indirect=True)
async def test_days_whose_fingerprint_is_kept_are_not_read(source: str, url: str, reads: list[RowFilter]) -> None:
    async with DatabaseManager(source) as one, DatabaseManager(url) as two:
        for db in (one, two):
            await db.migrate()
        await OHLCVRepository(one).upsert_many(_BARS)
        await copy(one, two)
        # now the digests that the destination keeps get their fingerprints
        await copy(one, two)
        reads.clear()
        report = await copy(one, two)
        assert reads == []
        assert (report.parts[0].source.rows, report.parts[0].unread, report.parts[0].equal) == (24 * _DAYS, 24 * _DAYS, True)
        # a digit by raw SQL, and a new day
        await raw.run(
            one, "UPDATE ohlcv SET open = open + 0.000000000000000001 WHERE timestamp = (SELECT MIN(timestamp) FROM ohlcv)"
        )
        await OHLCVRepository(one).upsert_many([replace(_BARS[0], timestamp=T0 + 24 * _DAYS * HOUR)])
        report = await copy(one, two)
        assert {selection.start for selection in reads} == {T0, T0 + 24 * _DAYS * HOUR}
        assert (report.parts[0].inserted, report.parts[0].updated, report.parts[0].equal) == (1, 1, True)
        assert await read_bars(one) == await read_bars(two)


@pytest.mark.parametrize("source", ENGINES, indirect=True)
async def test_a_full_copy_and_a_drawn_day_read_the_source_too(
    source: str, sqlite_url: str, reads: list[RowFilter], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with DatabaseManager(source) as one, DatabaseManager(sqlite_url) as two:
        for db in (one, two):
            await db.migrate()
        await OHLCVRepository(one).upsert_many(_BARS)
        for _ in range(2):
            await copy(one, two)
        for full, draw in ((True, _NoDraw()), (False, _NoDraw(all_days=True))):
            reads.clear()
            monkeypatch.setattr(planner, "random", draw)
            await copy(one, two, full=full)
            assert reads, "the source was not read"


@pytest.mark.parametrize("source", ENGINES, indirect=True)
async def test_a_copy_from_an_engine_without_fingerprints_leaves_those_that_are_kept(
    source: str, bars: str, sqlite_url: str, reads: list[RowFilter]
) -> None:
    async with DatabaseManager(source) as one, DatabaseManager(bars) as other, DatabaseManager(sqlite_url) as two:
        for db in (one, two):
            await db.migrate()
        await copy(other, one)
        for origin in (one, one, other):
            await copy(origin, two)
        reads.clear()
        await copy(one, two)
        assert reads == []


@pytest.mark.parametrize("least", [1, 10_000])
async def test_two_copies_at_once_leave_no_digest_of_bars_that_are_gone(
    least: int, bars: str, tmp_path: Path, sqlite_url: str, reads: list[RowFilter], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = f"sqlite:///{tmp_path / 'changed.db'}"
    async with DatabaseManager(bars) as one, DatabaseManager(changed) as other, DatabaseManager(sqlite_url) as two:
        await copy(one, other)
        await copy(one, two)
        await raw.run(one, "UPDATE ohlcv SET trades_count = 1")
        await raw.run(other, "UPDATE ohlcv SET trades_count = 2")
        forget = day_digests.DayDigests.forget

        async def forget_and_let_another_copy_pass(self: Any, *args: Any) -> None:
            await forget(self, *args)
            monkeypatch.setattr(day_digests.DayDigests, "forget", forget)
            await copy(one, two)
            # the bars may be too few for a digest
            monkeypatch.setattr(day_digests, "LEAST", least)

        monkeypatch.setattr(day_digests.DayDigests, "forget", forget_and_let_another_copy_pass)
        await copy(other, two)
        assert (await copy(one, two)).parts[0].equal
        assert await raw.fetch(two, "SELECT DISTINCT trades_count FROM ohlcv WHERE symbol = 'BTCUSDT'") == [(1,)]


async def test_a_digest_that_raw_sql_spoiled_counts_as_none(bars: str, sqlite_url: str, reads: list[RowFilter]) -> None:
    async with DatabaseManager(bars) as one, DatabaseManager(sqlite_url) as two:
        await copy(one, two)
        await raw.run(two, "UPDATE bar_digests SET digest = 'zz'")
        report = await copy(one, two)
        assert (report.parts[0].unread, report.parts[0].equal) == (0, True)
        assert await raw.fetch(two, "SELECT count(*) FROM bar_digests WHERE digest = 'zz'") == [(0,)]


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 00:00:00+00 BC"])
@pytest.mark.parametrize("source", ["postgres"], indirect=True)
async def test_a_time_outside_the_calendar_is_named_as_without_fingerprints(
    moment: str, source: str, sqlite_url: str, reads: list[RowFilter]
) -> None:
    async with DatabaseManager(source) as one, DatabaseManager(sqlite_url) as two:
        for db in (one, two):
            await db.migrate()
        await OHLCVRepository(one).upsert_many(_BARS)
        for _ in range(2):
            await copy(one, two)
        await raw.run(one, f"UPDATE ohlcv SET timestamp = '{moment}' WHERE timestamp = (SELECT MAX(timestamp) FROM ohlcv)")
        with pytest.raises(StoreError, match="timestamp"):
            await copy(one, two)
