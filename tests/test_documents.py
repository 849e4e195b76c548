"""The code of README.md and docs/ runs, and prints what the pages show."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.faults.rounds import FULL
from tests.support.documents import DOCS, PAGES, ROOT, RUN, SET_UP, Reader, matches, read_blocks, read_engines, read_steps

#: The blocks in other languages, which no test can run as they are, by page and language.
NOT_RUN = {
    ("docs/backends.md", "console"): "tests/test_third_party.py does it",
    ("docs/backends.md", "toml"): "tests/test_third_party.py installs it",
    ("docs/cookbook/nightly.md", "crontab"): "needs cron; the page runs the same command",
    ("docs/cookbook/nightly.md", "ini"): "needs systemd; the page runs the same command",
    ("docs/how-it-works.md", "txt"): "a drawing",
    ("docs/coverage.md", "console"): "needs an exchange; tests/exchange runs it on a local one",
    ("docs/coverage.md", "py"): "needs an exchange, or a feed",
    ("docs/lakes.md", "crontab"): "needs a bucket and cron",
    ("docs/performance.md", "console"): "takes an hour",
    ("docs/postgresql.md", "crontab"): "needs cron; the page runs the same command",
    ("docs/postgresql.md", "ini"): "settings of PgBouncer, in front of which tests/pgbouncer runs",
    ("docs/postgresql.md", "sql"): "tests/backends/test_roles.py runs them as superuser and owner",
    ("docs/scale.md", "console"): "needs a bucket and Spark",
    ("docs/screens.md", "txt"): "tests/support/screens.py runs the commands and writes the page",
}
#: A page whose code needs another package: tests/test_readme.py runs it on the example backend.
ELSEWHERE = {DOCS / "backends.md"}


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _list_runs() -> list[tuple[Path, str | None]]:
    """Return each page that has code, with each of its engines; without `nox -s full`, with one of them, in turn."""
    pages = [page for page in PAGES if read_steps(page) and page not in ELSEWHERE]
    runs = [(page, list(read_engines(page) or (None,))) for page in pages]
    return [
        (page, engine)
        for turn, (page, engines) in enumerate(runs)
        for engine in (engines if FULL else [engines[turn % len(engines)]])
    ]


_RUNS = _list_runs()


@pytest.mark.parametrize(("page", "engine"), _RUNS, ids=[f"{_name(page)}-{engine or 'as written'}" for page, engine in _RUNS])
def test_the_code_of_a_page_prints_what_the_page_shows(
    page: Path,
    engine: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    create_postgres_database: Callable[[], AbstractContextManager[str]],
) -> None:
    monkeypatch.chdir(tmp_path)
    with Reader(tmp_path, engine, create_postgres_database) as reader:
        for block in read_steps(page):
            printed = reader.run(block)
            if block.printed is not None or block.language == "python":
                assert matches(printed, block.printed or ""), f"{block.text}\nprints\n{printed}"


def test_every_block_is_run_or_listed_here() -> None:
    found = {(_name(page), block.language) for page in PAGES for block in read_blocks(page) if block.language not in RUN}
    assert found == NOT_RUN.keys()


def test_the_set_up_is_the_only_command_that_is_not_run_here() -> None:
    left = [(_name(page), block.text) for page in PAGES for block in read_blocks(page) if block.text.startswith(SET_UP)]
    assert [name for name, _ in left] == ["README.md", "README.md"]
