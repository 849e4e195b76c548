"""Shell completion of `iftb-store`, by the protocols that bash, zsh and fish speak with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from iftb_store.cli import main
from iftb_store.values.choices import SEVERITIES
from iftb_store.values.timeframes import TIMEFRAMES

_URL = ("sqlite", ":", "///bot.db")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["doc"], ["doctor"]),
        (["doctor", "--q"], ["--quiet"]),
        (["events", "--severity", ""], list(SEVERITIES)),
        (["events", *_URL, "--severity", "e"], ["error"]),
        (["gaps", "BTCUSDT", "1"], [name for name in TIMEFRAMES if name.startswith("1")]),
        (["gaps", *_URL, "BTCUSDT", "3"], ["3m", "30m", "3d"]),
        (["latest", "env", ":", "BOT_URL", "BTCUSDT", "4"], ["4h"]),
        (["gaps", *_URL, "1"], []),
        (["copy", *_URL, *_URL, "--table", "tr"], ["trades"]),
        (["copy", "--on-conflict", "r"], ["refuse"]),
        (["export", "--table", "o"], ["ohlcv"]),
        (["export", "--format", "p"], ["parquet"]),
    ],
)
def test_bash_is_offered(
    words: list[str], offered: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_IFTB_STORE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(["iftb-store", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))

    with pytest.raises(SystemExit) as ended:
        main([])

    assert ended.value.code == 0
    assert capsys.readouterr().out.split() == offered


@pytest.mark.parametrize(("shell", "said"), [("zsh", '"3m"'), ("fish", "3m\n30m\n3d\n")])
def test_zsh_and_fish_are_offered_timeframes(
    shell: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_IFTB_STORE_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "iftb-store gaps sqlite:///bot.db BTCUSDT 3")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")

    with pytest.raises(SystemExit) as ended:
        main([])

    assert ended.value.code == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_IFTB_STORE_COMPLETE", f"source_{shell}")

    with pytest.raises(SystemExit) as ended:
        main([])

    assert ended.value.code == 0
    assert f"_IFTB_STORE_COMPLETE=complete_{shell}" in capsys.readouterr().out


def test_the_script_can_be_shown_and_installed_by_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "--install-completion" in out
    assert "--show-completion" in out


@pytest.mark.skipif(sys.platform == "win32", reason="bash is not there")
def test_bash_itself_completes_a_timeframe_after_a_url(tmp_path: Path) -> None:
    command = tmp_path / "iftb-store"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m iftb_store "$@"\n')
    command.chmod(0o755)
    asked = os.environ | {"_IFTB_STORE_COMPLETE": "source_bash"}
    script = subprocess.run([command], env=asked, capture_output=True, text=True, check=True).stdout
    line = "COMP_WORDS=(iftb-store latest sqlite : ///bot.db BTCUSDT 3); COMP_CWORD=6"

    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{line}\n_iftb_store_completion {command}\necho ${{COMPREPLY[@]}}"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["3m", "30m", "3d"]
