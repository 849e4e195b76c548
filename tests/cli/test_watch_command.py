"""The command watch: what is new is printed, on a terminal in place, and Ctrl-C ends it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from iftb_store import DatabaseManager, Position, PositionRepository, SystemEventRepository, errors
from iftb_store.cli import main
from iftb_store.models import SystemEvent
from tests.cli.stores import START, bar, store_bars
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("plain_environment")

_MODULE: Any = sys.modules[f"{main.__module__}.watch"]


async def _store_records(url: str) -> None:
    async with DatabaseManager(url) as db:
        amounts = Decimal(50_000), Decimal("0.01"), Decimal(100)
        await PositionRepository(db).update_position(Position("BTCUSDT", "kraken", "short", *amounts, START, account="a"))
        await SystemEventRepository(db).log_event("failed", "error", "down \x1b[31m", symbol="BTCUSDT")


def test_without_a_terminal_each_new_row_is_a_line(run: Run, url: str) -> None:
    run("migrate", url)
    store_bars(url, bar(0), bar(1))
    asyncio.run(_store_records(url))

    code, out, _ = run("watch", url, "--times", "2", "--interval", "0.1")

    assert code == 0
    assert [line[20:] for line in out.splitlines()] == [
        "bar binance BTCUSDT 1m 2024-02-01 00:01 close 1.5 volume 10.25",
        "opened kraken a BTCUSDT short 0.01 at 50000",
        "event error failed BTCUSDT down \N{REPLACEMENT CHARACTER}[31m",
    ]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in out.splitlines())


def test_json_is_one_object_a_line(run: Run, stored: str) -> None:
    store_bars(stored, bar(0), bar(1), bar(2))

    found = [
        json.loads(line)
        for line in run("watch", stored, "BTCUSDT", "1m", "--limit", "2", "--times", "1", "--json")[1].splitlines()
    ]

    assert [(one["kind"], one["timestamp"]) for one in found] == [
        ("bar", "2024-02-01T00:01:00+00:00"),
        ("bar", "2024-02-01T00:02:00+00:00"),
    ]


def test_only_what_the_view_before_did_not_have_is_news() -> None:
    name = ("binance", "BTCUSDT", "1m")
    closed = Position("BTCUSDT", "binance", "long", Decimal(1), Decimal(2), Decimal(3), START, id=1)
    opened = replace(closed, id=2, side="short")
    event = SystemEvent("started", "info", "up", id=7)
    before = _MODULE.View(START, {name: [bar(1), bar(0)]}, [closed], [event])
    after = _MODULE.View(START, {name: [bar(2), bar(1)]}, [opened], [replace(event, id=8), event])

    assert [(kind, row) for kind, _, row in _MODULE.list_news(before, after)] == [
        ("bar", bar(2)),
        ("opened", opened),
        ("closed", closed),
        ("event", replace(event, id=8)),
    ]
    assert list(_MODULE.list_news(after, after)) == []


def test_a_database_that_fails_meanwhile_is_asked_again(run: Run, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store_bars(stored, bar(0))
    read, calls = _MODULE.read_view, 0

    async def fail_once(db: DatabaseManager, wish: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise errors.operational_error("the server went away")
        return await read(db, wish)

    monkeypatch.setattr(_MODULE, "read_view", fail_once)
    code, out, error = run("watch", stored, "--times", "3", "--interval", "0.1")

    assert (code, calls, out.count("\n")) == (0, 3, 1)
    assert re.fullmatch(r"\S+ \S+ trying again: the server went away\n", error)


def test_a_series_that_is_not_stored_is_refused(run: Run, stored: str) -> None:
    store_bars(stored, bar(0))

    assert run("watch", stored, "BTCUSD", "1m", "--times", "1")[2].endswith("did you mean BTCUSDT?\n")
    assert run("watch", stored, "BTCUSDT", "1m", "--exchange", "kraken", "--times", "1")[0] == 1
    assert run("watch", stored, "BTCUSDT", "--times", "1")[0] == 2
    assert run("watch", stored, "BTCUSDT", "1H", "--times", "1")[2].startswith("error: unknown timeframe '1H'; did you mean 1h?")


def test_a_store_of_bars_shows_bars(run: Run, bars_only_url: str) -> None:
    store_bars(bars_only_url, bar(0))

    code, out, _ = run("watch", bars_only_url, "--times", "1")

    assert (code, out.count("\n"), " bar binance BTCUSDT 1m " in out) == (0, 1, True)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals there")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly(stored: str, sent: int, code: int) -> None:
    store_bars(stored, replace(bar(0), timestamp=datetime.now(UTC).replace(second=0, microsecond=0)))
    words = [sys.executable, "-m", "iftb_store", "watch", stored, "--interval", "3600"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert " bar binance BTCUSDT 1m " in child.stdout.readline()
    child.send_signal(sent)

    assert child.communicate(timeout=300) == ("", "")
    assert child.returncode == code
