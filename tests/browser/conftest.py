"""A real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from iftb_store.sync import SyncStore, open_store, report
from tests.support.report_stores import fill_store

#: Opens a page of a file: its colour scheme, and its width.
Open = Callable[..., Any]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip unless `nox -s browser` runs: the tests need a Debian package, and packages from PyPI and npm."""
    if "IFTB_STORE_TEST_AXE" not in os.environ:
        pytest.skip("needs Debian's Chromium, Playwright and axe-core; `nox -s browser` runs it")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser."""
    # untyped where it is not installed
    playwright: Any = importlib.import_module("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Open]:
    """Return a function that opens a file in a new window; its page fails the test if it makes a request or has an error."""
    opened: list[Any] = []

    def visit(path: Path, scheme: str = "light", width: int = 1280) -> Any:
        window = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True)
        page = window.new_page()
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(f"error: {error}"))
        page.on("console", lambda line: page.wrong.append(line.text) if line.type in ("error", "warning") else None)
        page.on("request", lambda request: page.wrong.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        page.wait_for_function("document.documentElement.dataset.ready", timeout=30_000)
        opened.append(window)
        return page

    yield visit
    for window in opened:
        window.close()


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 3,000 bars and 40 trades."""
    folder = tmp_path_factory.mktemp("filled")
    with open_store(f"sqlite:///{folder / 'bot.db'}") as db:
        db.migrate()
        fill_store(db)
        report(db, folder / "report.html", starting_balance=Decimal(10_000), title="A bot's month")
    return folder / "report.html"


@pytest.fixture
def store(sqlite_url: str) -> Iterator[SyncStore]:
    """An empty store."""
    with open_store(sqlite_url) as db:
        db.migrate()
        yield db


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    return Path(os.environ["IFTB_STORE_TEST_AXE"]).read_text()


@pytest.fixture
def find_violations(axe: str) -> Callable[[Any], list[str]]:
    """Return a function that names what axe-core finds wrong in a page."""

    def find(page: Any) -> list[str]:
        page.evaluate(axe)
        found = page.evaluate("axe.run()")["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]

    return find
