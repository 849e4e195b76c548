"""A copy that reads only those days of the destination whose kept digest differs, is missing or is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from iftb_store import DatabaseManager, OHLCVRepository, copy
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import BARS, DIGESTS, RowFilter
from iftb_store.testing import raw
from iftb_store.testing.samples import HOUR, T0, bar
from iftb_store.transfer import day_digests, plan, planner
from tests.conftest import Run
from tests.transfer.copies import ENGINES, change, contents, moved, write

_DAYS = 5


class _NoDraw:
    """Draws no day, or every day."""

    def __init__(self, *, all_days: bool = False) -> None:
        self._all = all_days

    def randrange(self, count: int) -> int:
        assert count > 1
        return 0 if self._all else 1


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[RowFilter]:
    """The selections of bars that were read in destinations; no day is drawn."""
    found: list[RowFilter] = []
    read_rows = plan.LastCommitted.read_rows

    async def noting(self: plan.LastCommitted, selection: RowFilter) -> Any:
        if selection.table is BARS and selection.limit != 1:
            found.append(selection)
        return await read_rows(self, selection)

    monkeypatch.setattr(plan.LastCommitted, "read_rows", noting)
    monkeypatch.setattr(planner, "random", _NoDraw())
    monkeypatch.setattr(day_digests, "LEAST", 1)
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_days_with_equal_digests_are_not_read(
    engine: str, bars: str, second: Callable[[str], str], run: Run, reads: list[RowFilter]
) -> None:
    destination = second(engine)
    moved(run, bars, destination)
    reads.clear()
    assert moved(run, bars, destination) == {}
    assert reads == []
    write(bars, lambda db, clock: OHLCVRepository(db).insert_many([bar(T0 + 24 * _DAYS * HOUR)]))
    change(bars, "UPDATE ohlcv SET trades_count = 7 WHERE timestamp = (SELECT MIN(timestamp) FROM ohlcv) AND symbol = 'BTCUSDT'")
    out = run("copy", bars, destination)[1]
    assert "2 rows copied, and the rows that were read are verified" in out
    assert f"{24 * (_DAYS - 1) + 1} rows of DST were not read" in out
    read = {selection.start for selection in reads}
    assert read == {T0, T0 + 24 * _DAYS * HOUR}
    assert contents(destination) == contents(bars)
    reads.clear()
    moved(run, bars, destination)
    assert reads == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_changed_day_is_found_by_a_full_copy_and_when_it_is_drawn(
    engine: str, bars: str, second: Callable[[str], str], run: Run, reads: list[RowFilter], monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = second(engine)
    moved(run, bars, destination)
    spoil = "UPDATE ohlcv SET trades_count = 7 WHERE symbol = 'ETHUSDT'"
    for words, draw in ((("--full",), _NoDraw()), ((), _NoDraw(all_days=True))):
        change(destination, spoil)
        monkeypatch.setattr(planner, "random", draw)
        assert moved(run, bars, destination, *words) == {"ohlcv binance ETHUSDT 1h": (0, 1, 0)}
        assert contents(destination) == contents(bars)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_that_others_add_or_delete_are_found_without_a_draw(
    engine: str, bars: str, second: Callable[[str], str], run: Run, reads: list[RowFilter]
) -> None:
    destination = second(engine)
    moved(run, bars, destination)
    write(destination, lambda db, clock: OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0 + 30 * HOUR, T0 + 31 * HOUR))
    assert moved(run, bars, destination) == {"ohlcv binance BTCUSDT 1h": (2, 0, 0)}
    write(destination, lambda db, clock: OHLCVRepository(db).insert_many([bar(T0 - 24 * HOUR)]))
    assert "1 row only in DST; they stay; use --delete to delete them" in run("copy", bars, destination)[1]
    assert moved(run, bars, destination, "--delete") == {"ohlcv binance BTCUSDT 1h": (0, 0, 1)}
    assert contents(destination) == contents(bars)


async def test_an_interrupted_copy_leaves_no_digest_of_a_day_that_it_changed(
    bars: str, url: str, monkeypatch: pytest.MonkeyPatch, reads: list[RowFilter]
) -> None:
    first = "timestamp = (SELECT MIN(timestamp) FROM ohlcv) AND symbol = 'BTCUSDT'"
    async with DatabaseManager(bars) as one, DatabaseManager(url) as two:
        await copy(one, two)
        for count, fails in ((7, True), (None, False)):
            await raw.run(one, f"UPDATE ohlcv SET trades_count = {'NULL' if count is None else count} WHERE {first}")
            with monkeypatch.context() as patch:
                if fails:
                    patch.setattr("iftb_store.transfer.copy.Copy._verify", _fail)
                    with pytest.raises(ConnectionAbortedError):
                        await copy(one, two)
                else:
                    await copy(one, two)
        async with two.get_session() as session:
            stored = await get_stores(session).read_rows(RowFilter(BARS))
            digests = await get_stores(session).read_rows(RowFilter(DIGESTS))
    assert stored["trades_count"].null_count == stored.num_rows
    assert digests.num_rows == _DAYS + 1


async def _fail(*args: Any) -> None:
    raise ConnectionAbortedError


@pytest.mark.parametrize("engine", ENGINES)
def test_days_that_a_window_cuts_are_read_and_not_kept(
    engine: str, bars: str, second: Callable[[str], str], run: Run, reads: list[RowFilter]
) -> None:
    destination = second(engine)
    window = ("--symbol", "BTCUSDT", "--timeframe", "1h", "--start", "2024-01-01T12:00", "--end", "2024-01-03T11:00")
    assert moved(run, bars, destination, *window) == {"ohlcv binance BTCUSDT 1h": (48, 0, 0)}
    assert moved(run, bars, destination) != {}
    assert contents(destination) == contents(bars)
    reads.clear()
    moved(run, bars, destination, *window)
    assert {selection.start for selection in reads} == {T0 + 12 * HOUR, T0 + 48 * HOUR}
