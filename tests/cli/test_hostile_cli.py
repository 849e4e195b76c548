"""The command line against hostile words: one clear line on stderr and exit code 1 or 2, never a traceback."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from iftb_store.cli import app, main
from iftb_store.testing.hostile_values import TEXTS

SERIES = ("BTCUSDT", "1m")
_CHOOSING = {
    name: ("sqlite:///store.db", "sqlite:///copy.db", option)
    for name, option in (
        ("tables", "--table"),
        ("exchanges", "--exchange"),
        ("symbols", "--symbol"),
        ("timeframes", "--timeframe"),
        ("start", "--start"),
        ("end", "--end"),
        ("since", "--since"),
    )
}
STORE = ("sqlite:///store.db",)
_PRUNE = ("--older-than", "90d", "--table", "ohlcv")
#: For each command, the words before the hostile one, by the name of the parameter.
PLACES: dict[str, dict[str, tuple[str, ...]]] = {
    "demo": {"path": ("--path",)},
    "migrate": {"url": (), "partition_by": (*STORE, "--partition-by")},
    "status": {"url": ()},
    "doctor": {"url": ()},
    "compact": {"url": (), "keep_days": (*STORE, "--keep-days")},
    "partitions": {"url": (), "ahead": (*STORE, "--ahead"), "start": (*STORE, "--start")},
    "prune": {
        "url": _PRUNE,
        "older_than": (*STORE, "--table", "ohlcv", "--older-than"),
        "tables": (*STORE, "--older-than", "90d", "--table"),
        **{name: (*STORE, *_PRUNE, f"--{name}") for name in ("exchange", "symbol", "timeframe")},
    },
    "rollup": {
        "url": (),
        "source": STORE,
        "target": (*STORE, "1m"),
        **{name: (*STORE, "1m", "1h", f"--{name}") for name in ("exchange", "symbol", "start", "end")},
    },
    "import": {
        "url": (),
        "files": ("sqlite:///store.db",),
        "symbol": ("sqlite:///store.db", "BTCUSDT-1m-2024-02.csv", "--symbol"),
        "timeframe": ("sqlite:///store.db", "BTCUSDT-1m-2024-02.csv", "--timeframe"),
        "exchange": ("sqlite:///store.db", "BTCUSDT-1m-2024-02.csv", "--exchange"),
        "map": (*STORE, "BTCUSDT-1m-2024-02.csv", "--map"),
        "tz": (*STORE, "BTCUSDT-1m-2024-02.csv", "--tz"),
        "fold": (*STORE, "BTCUSDT-1m-2024-02.csv", "--fold"),
        "decimals": (*STORE, "BTCUSDT-1m-2024-02.csv", "--decimals"),
        "columns": (*STORE, "BTCUSDT-1m-2024-02.csv", "--columns"),
        "on_conflict": (*STORE, "BTCUSDT-1m-2024-02.csv", "--on-conflict"),
    },
    "export": {
        "url": ("-o", "out.csv", "--overwrite"),
        "output": (*STORE, "--overwrite", "-o"),
        "format": (*STORE, "-o", "out.csv", "--overwrite", "--format"),
        "table": (*STORE, "-o", "out.csv", "--overwrite", "--table"),
        "exchange": (*STORE, "-o", "out.csv", "--overwrite", "--exchange"),
        "symbol": (*STORE, "-o", "out.csv", "--overwrite", "--symbol"),
        "timeframe": (*STORE, "-o", "out.csv", "--overwrite", "--timeframe"),
        "start": (*STORE, "-o", "out.csv", "--overwrite", "--start"),
        "end": (*STORE, "-o", "out.csv", "--overwrite", "--end"),
        "decimals": (*STORE, "-o", "out.csv", "--overwrite", "--decimals"),
    },
    "copy": {
        "source": (),
        "destination": ("sqlite:///store.db",),
        "on_conflict": ("sqlite:///store.db", "sqlite:///copy.db", "--on-conflict"),
        "program": ("sqlite:///store.db", "sqlite:///copy.db", "--from"),
        "tz": ("sqlite:///store.db", "sqlite:///copy.db", "--from", "vnpy", "--tz"),
        **_CHOOSING,
    },
    "verify": {"source": (), "destination": ("sqlite:///store.db",), **_CHOOSING},
    "gaps": {
        "url": (),
        "symbol": ("sqlite:///store.db",),
        "timeframe": ("sqlite:///store.db", "BTCUSDT"),
        "exchange": ("sqlite:///store.db", *SERIES, "--exchange"),
        "start": ("sqlite:///store.db", *SERIES, "--start"),
        "end": ("sqlite:///store.db", *SERIES, "--end"),
    },
    "latest": {
        "url": (),
        "symbol": ("sqlite:///store.db",),
        "timeframe": ("sqlite:///store.db", "BTCUSDT"),
        "limit": ("sqlite:///store.db", *SERIES, "--limit"),
        "exchange": ("sqlite:///store.db", *SERIES, "--exchange"),
    },
    "stats": {"url": (), "days": ("sqlite:///store.db", "--days"), "exchange": ("sqlite:///store.db", "--exchange")},
    "performance": {
        "url": (),
        **{name: (*STORE, f"--{name}") for name in ("exchange", "symbol", "side", "balance", "fees", "tz", "start", "end")},
    },
    "report": {
        "url": ("--overwrite",),
        "output": (*STORE, "--overwrite", "-o"),
        **{
            name: (*STORE, "--overwrite", f"--{name}")
            for name in ("exchange", "symbol", "side", "timeframe", "balance", "fees", "tz", "start", "end", "title")
        },
    },
    "positions": {"url": (), "exchange": ("sqlite:///store.db", "--exchange")},
    "backup": {"url": (), "file": ("sqlite:///store.db",)},
    "restore": {"file": (), "url": ("saved",)},
    "events": {
        "url": (),
        "severity": ("sqlite:///store.db", "--severity"),
        "limit": ("sqlite:///store.db", "--limit"),
    },
}
#: Words that follow the hostile one.
AFTER = {
    ("rollup", "url"): ("1m", "1h"),
    ("rollup", "source"): ("1h",),
    ("gaps", "symbol"): ("1m",),
    ("latest", "symbol"): ("1m",),
    ("copy", "source"): ("sqlite:///copy.db",),
    ("verify", "source"): ("sqlite:///copy.db",),
    ("backup", "url"): ("kept",),
}

_TEXTS = (
    "empty text", "white space", "a statement", "quotes", "backslashes", "NUL", "a lone surrogate", "an undecodable byte",
    "right to left", "control characters", "a megabyte", "a megabyte of rockets", "NaN's text",
)  # fmt: skip

WORDS = {
    **{name: TEXTS[name] for name in _TEXTS},
    "the year 1 east of UTC": "0001-01-01T00:00+01:00",
    "the year 9999 west of UTC": "9999-12-31T23:59:59-01:00",
    "a leap second": "2016-12-31T23:59:60",
    "an offset of a day": "2024-01-01T00:00+24:00",
    "the year 10000": "10000-01-01",
    "the digits of others": "\u0662\u0660\u0662\u0664-\u0660\u0661-\u0660\u0661",
    "zero": "0",
    "minus one": "-1",
    "2**63": str(2**63),
    "39 digits": "9" * 39,
    "5,000 digits": "9" * 5_000,
    "a fraction": "1.5",
    "a pattern of patterns": "[" * 1_000 + "**/" * 50,
    "an option": "--nonsense",
    "a variable with a surrogate": "env:\ud800",
    "a variable's own sign": "env:a=b",
    "no scheme": "://",
    "a port too large": "postgresql://trader@127.0.0.1:99999/bot",
    "a file of NUL": "sqlite:///%00.db",
    "a file of a surrogate": "sqlite:///\udcff.db",
    "a file of a megabyte": f"sqlite:///{'x' * 2**20}",
    "an absent file": "duckdb:///absent.duckdb",
    "another URL": "postgresql://trader@h?host=%00",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a migrated store and a dump in it."""
    made = tmp_path_factory.mktemp("cli")
    opened = 1706745600000
    (made / "BTCUSDT-1m-2024-02.csv").write_text(f"{opened},1,1,1,1,10,{opened + 59_999},15,3,5,7.5,0\n")
    for name in ("store", "copy"):
        assert main(["migrate", f"sqlite:///{made / name}.db"]) == 0
    assert main(["backup", f"sqlite:///{made / 'store.db'}", str(made / "saved")]) == 0
    return made


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it for each test, so that no test sees the rows of another."""
    return Path(shutil.copytree(made, tmp_path / "cli"))


@pytest.fixture(scope="module", autouse=True)
def built_once() -> Iterator[None]:
    """Build Typer's commands once: building them for each call takes most of the time of a refused word."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith("DB_") or name in ("IFTB_STORE_URL", "FORCE_COLOR")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(folder)


def commands() -> Iterator[tuple[str, Callable[..., object]]]:
    for command in app.registered_commands:
        assert command.name is not None
        assert command.callback is not None
        yield command.name, command.callback


def test_every_option_and_argument_of_every_command_has_its_hostile_case() -> None:
    flags = ("bool", "Json", "Quiet")
    takes_text = {
        name: {
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if not re.search(rf"\b({'|'.join(flags)})\b", str(parameter.annotation))
        }
        for name, function in commands()
    }

    assert takes_text == {name: set(places) for name, places in PLACES.items()}


@pytest.mark.one_of_each
@pytest.mark.parametrize(("command", "parameter"), [(command, name) for command, places in PLACES.items() for name in places])
def test_a_hostile_word_is_taken_or_refused_in_one_line(command: str, parameter: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, word in WORDS.items():
        code = main([command, *PLACES[command][parameter], word, *AFTER.get((command, parameter), ())])

        captured = capsys.readouterr()
        said = f"{name}: {captured.err[:500]}"
        assert code in (0, 1, 2), said
        assert "Traceback" not in captured.err, said
        assert "Error:" not in captured.err, said
        assert not code or re.fullmatch(r"error: .{1,1100}\n", captured.err), said
        assert (captured.out + captured.err).replace("\n", "").isprintable(), said


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are text there")
@pytest.mark.parametrize(
    "words",
    [
        ["gaps", b"sqlite:///store.db", b"BTC\xff", b"1m"],
        ["latest", b"sqlite:///store.db", b"BTC", b"1m", b"--exchange", b"\xff\xfe"],
        ["status", b"sqlite:///\xff.db"],
        ["import", b"sqlite:///store.db", b"\xff\x1b[31m.zip"],
        ["stats", b"sqlite:///store.db", b"--exchange", b"x" * 100_000],
        ["stats", b"env:\xff"],
        ["copy", b"sqlite:///store.db", b"sqlite:///\xff.db"],
        ["verify", b"sqlite:///store.db", b"sqlite:///copy.db", b"--symbol", b"\xff"],
        ["demo", b"--path", b"\xff"],
    ],
)
def test_bytes_that_are_no_text_are_refused_in_one_line(words: list[str | bytes]) -> None:
    command = [os.fsencode(sys.executable), b"-m", b"iftb_store", *map(os.fsencode, words)]

    done = subprocess.run(command, capture_output=True, check=False)

    assert done.returncode in (1, 2)
    assert re.fullmatch(rb"error: [^\n]{1,1100}\n", done.stderr)
    assert b"Traceback" not in done.stderr
    assert not any(byte < 32 and byte != 10 for byte in done.stderr)


def test_a_file_s_name_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "BTC\x1b[31m\u202eUSDT-1m-2024-02.csv"
    Path(name).write_bytes(Path("BTCUSDT-1m-2024-02.csv").read_bytes())

    code = main(["import", "sqlite:///store.db", name])

    assert code == 0
    assert capsys.readouterr().out.replace("\n", "").isprintable()
