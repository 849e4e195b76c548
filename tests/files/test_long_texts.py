"""Long texts from strangers are scanned once; repeated scans would exceed the time limit of these tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import text

from iftb_store import DatabaseManager, InvalidValueError, URLError
from iftb_store.batches.arrow_input import check_rows
from iftb_store.cli import main
from iftb_store.relational import is_read
from iftb_store.schema.table_spec import EVENTS, RowFilter
from iftb_store.testing.samples import bar
from iftb_store_migrations.catalog import _normalise
from iftb_store_postgres.arrow import _PIECE, _Parser

COMMENTS = ["/**/", "/* a */ ", "--\n", "-- b\n\n", "/*-- */", "/* /* */\n", "--*/\n", " \t\n"]


@pytest.mark.parametrize("comment", COMMENTS)
@pytest.mark.parametrize(("word", "reads"), [("SELECT 1", True), ("DELETE FROM trades", False), ("", False), ("/*", False)])
def test_ten_thousand_comments_before_the_first_word(comment: str, word: str, reads: bool) -> None:
    assert is_read(comment * 10_000 + word) == reads


@pytest.mark.parametrize(
    ("statement", "reads"),
    [
        ("select 1", True),
        ("\n  Values (1)", True),
        ("/* a */select 1", True),
        ("/*/ select 1 */ explain select 1", True),
        ("/*/ select 1", False),
        ("-- select 1", False),
        ("--\nselect 1", True),
        ("- select 1", False),
        ("selected", False),
        ("/* a */ /* b", False),
        ("insert into trades select 1", False),
        ("", False),
    ],
)
def test_what_begins_to_read(statement: str, reads: bool) -> None:
    assert is_read(statement) == reads


@pytest.mark.parametrize("comment", ["/**/", "-- b\n"])
async def test_a_statement_with_ten_thousand_comments_runs_on_every_engine(url: str, comment: str) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        async with db.get_session() as session:
            found = await session.execute(text(f"{comment * 10_000}SELECT count(*) FROM ohlcv"))
            assert found.scalar_one() == 0
            await session.execute(text(f"{comment * 10_000}DELETE FROM ohlcv"))


@pytest.mark.parametrize("piece", ["/* ", "--", "'", "'' ", "/*'", " ( ", "\t ,", "CONSTRAINT ", '"`['])
def test_a_definition_in_a_stranger_s_schema_of_any_length(piece: str) -> None:
    assert len(_normalise(f"CREATE TABLE ohlcv (a) {piece * (600_000 // len(piece))}")) < 1_000_000


def table(**columns: Any) -> pa.Table:
    one = bar()
    row = {name: [getattr(one, name)] for name in ("symbol", "exchange", "timeframe", "timestamp")}
    prices = {name: [str(getattr(one, name))] for name in ("open", "high", "low", "close", "volume")}
    return pa.table({**row, **prices, **columns})


@pytest.mark.parametrize(
    "digits", ["1" * 400_000 + "x", "1" * 200_000 + "." + "1" * 200_000 + "x", "." * 400_000, "1e" * 200_000]
)
def test_a_long_text_that_is_no_number(digits: str) -> None:
    with pytest.raises(InvalidValueError, match=r"close .* is not a decimal number"):
        check_rows(table(close=[digits]), from_float=False)


@pytest.mark.parametrize("host", [":" * 4_000 + "!", "a:" * 2_000 + "%", "a" * 4_000 + "%"])
def test_a_long_host_that_is_none(host: str) -> None:
    for _ in range(50):
        with pytest.raises(URLError):
            DatabaseManager(f"postgresql://bot@{host}/bot")


@pytest.mark.parametrize("piece", ["@", ":", "/", "a:b@", "=&", "://", "[", "%40", "a"])
def test_a_url_of_a_million_characters_is_refused(piece: str) -> None:
    for scheme in ("postgresql", "sqlite", "duckdb"):
        with pytest.raises(URLError):
            DatabaseManager(f"{scheme}://{piece * (1_000_000 // len(piece))}!")


@pytest.mark.parametrize(
    "word", ["a" * 100_000, "a:" * 50_000, "-1" * 50_000, "1m-" * 30_000, "x://" * 25_000, "BTC-1d." * 14_000]
)
def test_long_words_on_the_command_line(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["import", f"sqlite:///{tmp_path / 'x.db'}", word], ["gaps", word, "1m"], ["latest", "BTCUSDT", word], [word]):
        assert main(words) in (1, 2)
        assert len(capsys.readouterr().err) < 3_000


async def test_a_long_row_from_postgresql_is_not_copied_at_each_piece_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = _Parser(RowFilter(EVENTS))
    looks: list[int] = []
    look = parser._end_of_rows

    def counted(data: bytes) -> int:
        looks.append(len(data))
        return look(data)

    monkeypatch.setattr(parser, "_end_of_rows", counted)
    # an unterminated text with several lines
    await parser.take(b'1,"')
    for _ in range(1_000):
        await parser.take(b"line\n" * (_PIECE // 50))
    assert len(looks) < 12
    assert sum(looks) < 4 * sum(map(len, parser._rest))


@pytest.mark.parametrize(
    ("statement", "reads"),
    [
        ("SELECT has_table_privilege('trades', 'INSERT')", True),
        ('SELECT "update" FROM trades -- delete', True),
        ("WITH gone AS (DELETE FROM trades RETURNING 1) SELECT 1", False),
        ("SET LOCAL row_security = off", True),
        ("SELECT '' AS x /* insert", True),
        ("(SELECT 1)", True),
    ],
)
def test_words_in_quotes_and_comments_write_nothing(statement: str, reads: bool) -> None:
    assert is_read(statement) == reads
