"""The command sql: it only reads, by the engine's own refusal, and prints a table, JSON or CSV."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from pathlib import Path
from unittest.mock import patch

import pytest
from sqlalchemy import text

from iftb_store import DatabaseManager
from tests.cli.stores import bar, store_bars
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("plain_environment")

_WRITES = (
    "DELETE FROM ohlcv",
    "INSERT INTO ohlcv SELECT * FROM ohlcv",
    "WITH old AS (SELECT 1) DELETE FROM ohlcv",
    "CREATE TABLE mine (x INTEGER)",
    "DROP TABLE trades",
)
#: What a look at the text would take for a read, and what only one engine has.
_HIDDEN_WRITES = {
    "sqlite": ("PRAGMA user_version = 7", "ATTACH 'other.db' AS other", "VACUUM INTO 'other.db'"),
    "duckdb": ("COPY (SELECT 1) TO 'other.csv'", "ATTACH 'other.duckdb' AS other", "SELECT nextval('ids')"),
    "postgresql": ("SELECT nextval('ids')", "EXPLAIN ANALYZE DELETE FROM ohlcv", "SELECT 1 INTO mine", "SET ROLE none; SELECT 1"),
}


@pytest.fixture
def filled(run: Run, url: str) -> str:
    """URL of a database with two bars, and on an engine that has them a sequence."""
    assert run("migrate", url)[0] == 0
    store_bars(url, bar(0), bar(1))
    if not url.startswith("sqlite"):
        asyncio.run(_execute(url, "CREATE SEQUENCE ids"))
    return url


async def _execute(url: str, statement: str) -> None:
    async with DatabaseManager(url) as db, db.get_session() as session:
        await session.execute(text(statement))


def test_the_views_read_alike_on_every_engine(run: Run, filled: str) -> None:
    query = "SELECT symbol, timestamp, close FROM ohlcv_view WHERE symbol <> ':name' ORDER BY timestamp"

    code, out, _ = run("sql", filled, query, "--json")

    first = {"symbol": "BTCUSDT", "timestamp": "2024-02-01 00:00:00.000000", "close": 1.5}
    assert (code, json.loads(out)) == (0, [first, first | {"timestamp": "2024-02-01 00:01:00.000000"}])
    assert list(csv.reader(io.StringIO(run("sql", filled, query, "--csv")[1])))[:2] == [
        ["symbol", "timestamp", "close"],
        ["BTCUSDT", "2024-02-01 00:00:00.000000", "1.5"],
    ]
    assert re.search(r"\nBTCUSDT +2024-02-01 00:01:00\.000000 +1\.5\n2 rows\n$", run("sql", filled, query)[1])


def test_the_engine_refuses_to_write_whatever_the_statement_looks_like(run: Run, filled: str, tmp_path: Path) -> None:
    # nothing that looks at the text is left
    with patch("iftb_store.relational.sessions.may_write", lambda sql: False):
        for statement in (*_WRITES, *_HIDDEN_WRITES[filled.partition(":")[0]]):
            code, out, error = run("sql", filled, statement)
            assert (code, out) == (1, ""), statement
            assert re.fullmatch("error: .+\n", error), statement

    assert json.loads(run("sql", filled, "SELECT COUNT(*) AS n FROM ohlcv", "--json")[1]) == [{"n": 2}]
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("store.")] == []


def test_a_refused_write_names_the_way_to_write(run: Run, stored: str) -> None:
    error = "error: iftb-store sql only reads; to write, call session.execute() in Python\n"
    assert run("sql", stored, "DELETE FROM trades") == (1, "", error)


def test_a_wrong_word_of_a_statement_is_answered_with_the_near_one(run: Run, filled: str) -> None:
    assert "; did you mean ohlcv" in run("sql", filled, "SELECT * FROM ohlcvs")[2]
    assert "; did you mean symbol?\n" in run("sql", filled, "SELECT simbol FROM ohlcv_view")[2]


def test_values_of_every_type_are_printed(run: Run, stored: str) -> None:
    query = "SELECT 'a, \"b\"' AS words, NULL AS empty, 1.5 AS number, x'00ff' AS bytes, 9e999 AS endless"

    assert json.loads(run("sql", stored, query, "--json")[1]) == [
        {"words": 'a, "b"', "empty": None, "number": 1.5, "bytes": "00ff", "endless": "inf"}
    ]
    assert run("sql", stored, query, "--csv")[1] == 'words,empty,number,bytes,endless\n"a, ""b""",,1.5,00ff,inf\n'
    assert 'a, "b"            1.5  00ff       inf\n1 row\n' in run("sql", stored, query)[1]


def test_a_statement_without_rows_says_so(run: Run, stored: str) -> None:
    query = "SELECT trade_id FROM trades_view"
    assert run("sql", stored, query) == (0, "0 rows\n", "")
    assert run("sql", stored, query, "--json") == (0, "[]\n", "")
    assert run("sql", stored, query, "--csv") == (0, "trade_id\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "SQL is required, in quotes"),
        ((" ",), "SQL is required, in quotes"),
        (("SELECT 1", "--json", "--csv"), "--json and --csv exclude each other"),
        (("SELECT 1 AS a, 2 AS a", "--json"), "two columns are named 'a'; give each a name with AS"),
    ],
)
def test_wrong_usage_is_refused(run: Run, stored: str, words: tuple[str, ...], message: str) -> None:
    code, out, error = run("sql", stored, *words)
    assert (code, out, message in error) == (2, "", True)


def test_a_statement_that_contains_a_url_is_no_url(run: Run, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFTB_STORE_URL", stored)
    assert run("sql", "SELECT 'https://example.org' AS address", "--json")[0] == 0
    assert run("sql", "SELECT 1 AS n", "--csv") == (0, "n\n1\n", "")


def test_the_file_may_be_read_only(run: Run, stored: str) -> None:
    assert run("sql", f"{stored}?mode=ro", "SELECT 1 AS n", "--csv") == (0, "n\n1\n", "")
