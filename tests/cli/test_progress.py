"""The progress of a long command, written to a pipe."""

from __future__ import annotations

import pytest

from iftb_store.cli import progress


def test_a_pipe_gets_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 100, 6))
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    with progress.Progress() as report:
        for done in (1_000, 2_000, 3_000):
            report("trades", done, 10_000)
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("trades: 2,000 of 10,000 rows")


def test_a_quiet_command_prints_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 1_000, 60))
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    with progress.Progress(quiet=True) as report:
        report("trades", 1, 2)
        report("trades", 2, 2)
    assert capsys.readouterr() == ("", "")
