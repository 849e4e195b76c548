"""Rows that a copy must not overwrite, and unique values that go from row to row."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from iftb_store import DatabaseManager, StoreError
from iftb_store.schema.types import to_epoch_us
from iftb_store.testing.samples import HOUR, T0
from iftb_store.transfer import plan as partitions
from iftb_store.transfer.copy import Copy
from tests.conftest import Run
from tests.transfer.copies import ENGINES, change, contents, grow, moved, write


def test_a_row_that_was_changed_in_the_destination_is_overwritten_or_refused(
    source: str, second: Callable[[str], str], run: Run
) -> None:
    destination = second("sqlite")
    moved(run, source, destination)
    change(destination, f"UPDATE ohlcv SET close = 'a1' WHERE symbol = 'BTCUSDT' AND timestamp = {to_epoch_us(T0 + 3 * HOUR)}")
    write(source, grow)
    before = contents(destination)
    code, _, err = run("copy", source, destination, "--on-conflict", "refuse", "--table", "ohlcv", "--end", "2024-01-03T01:30")
    assert code == 1
    assert err == (
        "error: ohlcv binance BTCUSDT 1h 2024-01-01 03:00:00+00:00: the close is 50001 in the source and 1 in the "
        "destination; nothing was written; without --on-conflict refuse the source wins\n"
    )
    assert contents(destination) == before
    moved(run, source, destination)
    assert contents(destination) == contents(source)


def test_without_changes_there_is_nothing_to_refuse(source: str, second: Callable[[str], str], run: Run) -> None:
    destination = second("sqlite")
    moved(run, source, destination, "--end", "2024-01-01T05:00")
    assert moved(run, source, destination, "--table", "ohlcv", "--on-conflict", "refuse")
    assert moved(run, source, destination, "--table", "ohlcv") == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_unique_may_go_from_row_to_row_also_in_other_batches(
    engine: str, source: str, second: Callable[[str], str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = second(engine)
    moved(run, source, destination)
    # bars swap their ids, which do not matter, and an open position gets the key of another one, which is closed
    change(
        source,
        "UPDATE ohlcv SET id = 10000 WHERE id = 5",
        "UPDATE ohlcv SET id = 5 WHERE id = 6",
        "UPDATE ohlcv SET id = 6 WHERE id = 10000",
        "UPDATE positions SET status = 'closed' WHERE id = 3",
        "UPDATE positions SET symbol = 'BTCUSDT', side = 'long', exchange = 'binance' WHERE id = 1",
    )
    monkeypatch.setattr(partitions, "ROWS", 1)
    assert moved(run, source, destination) == {"positions": (0, 2, 0)}
    assert contents(destination) == contents(source)


def test_an_unknown_rule_for_conflicts_is_refused(source: str) -> None:
    manager = DatabaseManager(source)
    with pytest.raises(StoreError, match="on_conflict must be one of source-wins, refuse, not 'merge'"):
        Copy(manager, manager, on_conflict="merge")  # type: ignore[arg-type]
