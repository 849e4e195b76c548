"""The commands on backends of third parties: nothing is created by looking, and what a backend lacks is said in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Run

_TESTS = Path(__file__).parent.parent
_READING = [
    ["status", "{url}"],
    ["doctor", "{url}"],
    ["backup", "{url}", "bot.backup"],
    ["verify", "{url}", "sqlite:///other.db"],
    ["verify", "sqlite:///other.db", "{url}"],
    ["copy", "{url}", "sqlite:///new.db"],
    ["copy", "sqlite:///other.db", "{url}", "--dry-run"],
    ["export", "{url}", "-o", "bars.csv"],
    ["gaps", "{url}", "BTCUSDT", "1m"],
    ["latest", "{url}", "BTCUSDT", "1m"],
    ["series", "{url}"],
    ["resample", "{url}", "BTCUSDT", "1m", "1h"],
    ["delete", "{url}", "BTCUSDT", "1m", "--all", "--yes"],
    ["sql", "{url}", "SELECT 1"],
    ["watch", "{url}", "--times", "1"],
    ["trades", "{url}"],
    ["stats", "{url}"],
    ["positions", "{url}"],
    ["events", "{url}"],
]


@pytest.fixture(params=["barsonly", "plain"])
def absent(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, plain_environment: None, run: Run) -> str:
    """URL of a database file that does not exist, on a third party's backend; the SQLite file other.db exists."""
    for folder in ("support/bars_only", "plain"):
        monkeypatch.syspath_prepend(_TESTS / folder)
    assert run("migrate", "sqlite:///other.db")[0] == 0
    return f"{request.param}:///absent.db"


@pytest.fixture
def archive(plain_environment: None) -> str:
    """Path of a file of one bar of BTCUSDT 1m."""
    Path("BTCUSDT-1m-2024-02.csv").write_text("1706745600000,1,3,1,2,10,1706745659999,20,5,5,10,0\n")
    return "BTCUSDT-1m-2024-02.csv"


@pytest.mark.parametrize("words", _READING, ids=" ".join)
def test_a_command_that_reads_does_not_create_the_database(words: list[str], absent: str, run: Run, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    code, out, err = run(*(word.format(url=absent) for word in words))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "there is no database file absent.db; `iftb-store" in err
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_that_the_error_names_creates_the_database(absent: str, archive: str, run: Run, tmp_path: Path) -> None:
    is_migrated = f"iftb-store migrate {absent}" in run("status", absent)[2]
    if is_migrated:
        assert run("migrate", absent)[0] == 0
    else:
        assert "there is no database file" in run("migrate", absent)[2]
        assert not (tmp_path / "absent.db").exists()
    assert run("import", absent, archive)[0] == 0
    code, out, _ = run("latest", absent, "BTCUSDT", "1m")
    assert (code, "2024-02-01" in out) == (0, True)


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("migrate", "does not support migrations; it creates its tables itself, so omit this call"),
        ("stats", "keeps only bars, no trades; keep those on PostgreSQL"),
        ("trades", "keeps only bars, no trades; keep those on PostgreSQL"),
        ("positions", "keeps only bars, no positions; keep those on PostgreSQL"),
        ("events", "keeps only bars, no system_events; keep those on PostgreSQL"),
    ],
)
def test_a_command_that_the_backend_cannot_run_names_the_remedy(
    command: str, remedy: str, bars_only_url: str, run: Run, archive: str
) -> None:
    assert run("import", bars_only_url, archive)[0] == 0
    code, out, err = run(command, bars_only_url)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert remedy in err
