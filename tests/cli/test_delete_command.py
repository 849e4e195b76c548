"""The command delete: what it deletes is printed first, and nothing is deleted without a yes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.stores import bar, store_bars
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("plain_environment")

_SERIES = ("BTCUSDT", "1m")
_FROM_MINUTE_2 = ("--start", "2024-02-01T00:02")


def _list_minutes(run: Run, url: str) -> list[str]:
    return [one["timestamp"][14:16] for one in json.loads(run("latest", url, *_SERIES, "--json")[1])]


def test_a_window_is_deleted_on_every_engine(run: Run, url: str) -> None:
    run("migrate", url)
    store_bars(url, *(bar(minute) for minute in range(5)))
    shown = "binance BTCUSDT 1m: 3 bars, 2024-02-01 00:02 to 2024-02-01 00:04 (UTC)\n"

    dry = run("delete", url, *_SERIES, *_FROM_MINUTE_2, "--dry-run")
    before = _list_minutes(run, url)
    done = run("delete", url, *_SERIES, *_FROM_MINUTE_2, "--yes")

    assert dry == (0, f"{shown}nothing was deleted (--dry-run)\n", "")
    assert before == ["04", "03", "02", "01", "00"]
    assert done == (0, f"{shown}3 bars deleted\n", "")
    assert _list_minutes(run, url) == ["01", "00"]


def test_a_deletion_without_a_window_must_be_asked_for(run: Run, stored: str) -> None:
    store_bars(stored, bar(0), bar(1))

    assert run("delete", stored, *_SERIES, "--yes")[::2] == (
        2,
        "error: --start or --end is required, or --all to delete the whole series\n",
    )
    assert "allows neither" in run("delete", stored, *_SERIES, "--all", "--end", "now", "--yes")[2]
    assert run("delete", stored, *_SERIES, "--all", "--yes")[1].endswith("2 bars deleted\n")


def test_without_a_terminal_yes_is_required(run: Run, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store_bars(stored, bar(0))
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        code, _, error = run("delete", stored, *_SERIES, "--all")

    assert (code, error) == (2, "error: there is no terminal to ask on; --yes deletes without a question, --dry-run only shows\n")
    assert _list_minutes(run, stored) == ["00"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals there")
@pytest.mark.parametrize(("answer", "left"), [("n", ["00"]), ("", ["00"]), ("y", None)])
def test_the_answer_on_a_terminal_decides(run: Run, stored: str, answer: str, left: list[str] | None) -> None:
    store_bars(stored, bar(0))
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "iftb_store", "delete", stored, *_SERIES, "--all"]
    os.write(ours, f"{answer}\n".encode())
    done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=300, check=False)
    os.close(theirs)
    os.close(ours)

    assert "binance BTCUSDT 1m: 1 bar, 2024-02-01 00:00 (UTC)\n" in done.stdout
    assert "delete them? [y/N]" in done.stderr
    if left is None:
        assert (done.returncode, done.stdout.endswith("1 bar deleted\n")) == (0, True)
        assert run("latest", stored, *_SERIES)[0] == 1
    else:
        assert (done.returncode, done.stdout.endswith("nothing was deleted\n")) == (1, True)
        assert _list_minutes(run, stored) == left


def test_the_exchange_is_required_if_several_have_the_series(run: Run, stored: str) -> None:
    store_bars(stored, bar(0), replace(bar(0), exchange="kraken"))

    code, _, error = run("delete", stored, *_SERIES, "--all", "--yes")

    assert (code, error) == (2, "error: BTCUSDT 1m is stored on binance, kraken; name one with --exchange\n")
    code, out, _ = run("delete", stored, *_SERIES, "--all", "--yes", "--exchange", "kraken", "--json")
    found = json.loads(out)
    assert (code, found["exchange"], found["bars"], found["deleted"], found["dry_run"]) == (0, "kraken", 1, 1, False)
    assert len(json.loads(run("latest", stored, *_SERIES, "--json")[1])) == 1


def test_what_is_not_stored_is_named(run: Run, stored: str) -> None:
    store_bars(stored, bar(0))

    assert run("delete", stored, "BTCUSD", "1m", "--all", "--yes") == (
        1,
        "",
        "error: no bars of BTCUSD 1m are stored; did you mean BTCUSDT?\n",
    )
    assert run("delete", stored, *_SERIES, "--end", "2024-01-01", "--yes") == (
        0,
        "binance BTCUSDT 1m: no bar is in the time window\n",
        "",
    )


def test_bars_of_a_store_without_lookups_are_counted(run: Run, bars_only_url: str) -> None:
    store_bars(bars_only_url, bar(0), bar(1))

    code, out, _ = run("delete", bars_only_url, *_SERIES, "--start", "2024-02-01T00:01", "--yes")

    assert (code, out.endswith("1 bar deleted\n")) == (0, True)
