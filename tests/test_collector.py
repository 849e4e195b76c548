"""Pauses of Python's garbage collector: afterwards it is as the app set it, and it runs only if the app allows it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from threading import Thread

import pytest

from iftb_store._io.gc_pause import pause_gc


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.enable()


def collections_of(work: Callable[[], object]) -> int:
    """Return how often the collector ran during the work."""
    seen: list[str] = []

    def note(phase: str, _: dict[str, int]) -> None:
        seen.append(phase)

    gc.callbacks.append(note)
    try:
        work()
    finally:
        gc.callbacks.remove(note)
    return seen.count("start")


def make_many() -> None:
    with pause_gc():
        _ = [[] for _ in range(5_000)]


def test_what_a_pause_has_made_is_collected_only_at_its_end() -> None:
    assert collections_of(make_many) == 1


@pytest.mark.parametrize("forbid", [gc.disable, lambda: gc.set_threshold(0)])
def test_a_pause_runs_no_collector_that_the_app_has_switched_off(forbid: Callable[[], None]) -> None:
    forbid()
    enabled = gc.isenabled()
    assert (collections_of(make_many), gc.isenabled()) == (0, enabled)


def test_an_exception_in_a_pause_inside_another_ends_one_only() -> None:
    with pause_gc():
        with pytest.raises(ZeroDivisionError), pause_gc():
            _ = 1 / 0
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_is_paused_until_the_last_of_two_threads_pauses_ends() -> None:
    inner = Thread(target=make_many)
    with pause_gc():
        inner.start()
        inner.join()
        assert not gc.isenabled()
    assert gc.isenabled()
