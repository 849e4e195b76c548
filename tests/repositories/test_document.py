"""The documented API: every code block of the storage layer's document runs, and its models and signatures match."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Optional, get_origin, get_type_hints

import pytest
import pytest_asyncio

import iftb_store
from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository, PositionRepository, Trade, TradeRepository

_DOCUMENT = Path(__file__).parents[3] / "shared" / "spec" / "storage-layer.md"
_TEXT = _DOCUMENT.read_text() if _DOCUMENT.is_file() else ""

pytestmark = [
    pytest.mark.skipif(not _TEXT, reason="the document is not beside the checkout"),
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),
]

_ROOTS = re.compile(r"\biftb\.(?:data\.storage|config)\b")
_BLOCK = re.compile(r"^#+ (?P<title>[^\n]+)\n(?:(?!^#+ ).)*?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^### (?P<name>\w+)\n\n(?P<lines>(?:- `[^\n]+\n?)+)", re.MULTILINE)
_SIGNATURE = re.compile(r"- `(?P<prefix>async )?(?P<name>\w+)\((?P<arguments>.*?)\)(?P<result> -> .*?)?`")

#: The document's code blocks by the heading above each; only the import root is changed.
BLOCKS = {match["title"]: _ROOTS.sub("iftb_store", match["code"]) for match in _BLOCK.finditer(_TEXT)}
MODELS = ("OHLCVBar", "Trade", "Position", "TradeStatistics")
FIXTURE = "Testing"

#: The names that the blocks presume, except those of a connected store.
PRESUMED = {
    **{name: getattr(iftb_store, name) for name in iftb_store.__all__},
    "__name__": __name__,
    "Decimal": Decimal,
    "Optional": Optional,
    "dataclass": dataclasses.dataclass,
    "datetime": datetime,
}

_START = datetime(2024, 1, 1, tzinfo=UTC)


class _Log:
    """Replaces the document's structlog logger."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append(event)


def create_bar(index: int) -> OHLCVBar:
    """Return the bar that the document's bulk operations use."""
    timestamp = _START + timedelta(hours=index)
    return OHLCVBar("BTCUSDT", "binance", "1h", timestamp, Decimal(3), Decimal(4), Decimal(1), Decimal(2), Decimal(5))


async def run_block(title: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run one block unchanged, with top-level await; return its names."""
    code = compile(BLOCKS[title], f"<{title}>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    coroutine = eval(code, names)
    if coroutine is not None:
        await coroutine
    return names


@pytest_asyncio.fixture
async def names(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, Any]]:
    """The names that a block presumes, with a connected manager that has tables."""
    monkeypatch.setenv("IFTB_STORE_URL", url)
    async with DatabaseManager(url) as manager:
        await manager.create_tables()
        yield {
            **PRESUMED,
            "bars": [create_bar(0)],
            "create_bar": create_bar,
            "db_manager": manager,
            "logger": _Log(),
            "repo": OHLCVRepository(manager),
            "trade": Trade("TRD-000", "BTCUSDT", "binance", "long", "open", Decimal(50_000), Decimal("0.01"), _START),
            "url": url,
        }


def test_all_the_blocks_of_the_document_are_found() -> None:
    assert len(BLOCKS) == _TEXT.count("```python\n")


@pytest.mark.parametrize("title", [title for title in BLOCKS if title != FIXTURE])
async def test_a_block_runs_by_itself(title: str, names: dict[str, Any]) -> None:
    await run_block(title, names)


async def test_the_block_of_bars_reads_what_it_wrote(names: dict[str, Any]) -> None:
    await run_block("OHLCV Operations", names)
    assert (names["count"], names["gaps"], names["bars"]) == (1, [], names["latest"])
    assert names["latest"][0].volume == Decimal("100.5")


async def test_the_block_of_trades_counts_its_winner(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    await run_block("Trade Management", names)
    assert capsys.readouterr().out == "Win rate: 100%\nNet PnL: 50\n"
    assert names["recent"] == names["symbol_trades"] == [names["trade"]]
    assert names["trade"].exit_price == Decimal(51_000)


async def test_the_block_of_positions_closes_the_one_that_it_opened(names: dict[str, Any]) -> None:
    await run_block("Position Tracking", names)
    assert names["open_positions"] == [names["btc_position"]]
    assert await PositionRepository(names["db_manager"]).get_open_positions() == []


async def test_the_block_of_events_reads_the_one_that_it_logged(names: dict[str, Any]) -> None:
    await run_block("System Event Logging", names)
    assert [event.details for event in names["events"]] == [{"price": 50_000, "quantity": 0.01}]
    assert names["errors"] == []


async def test_the_block_of_a_transaction_commits(names: dict[str, Any]) -> None:
    await run_block("Transaction Management", names)
    assert [trade.trade_id for trade in await TradeRepository(names["db_manager"]).get_recent()] == ["TRD-000"]


async def test_the_block_of_bulk_operations_counts_a_thousand_bars(names: dict[str, Any]) -> None:
    await run_block("Bulk Operations", names)
    assert names["count"] == len(await names["repo"].get_latest("BTCUSDT", "1h", limit=2_000)) == 1_000


async def test_the_block_of_error_handling_detects_a_duplicate(names: dict[str, Any]) -> None:
    await names["repo"].insert_many(names["bars"])
    await run_block("Error Handling", names)
    assert names["logger"].lines == ["duplicate_data"]


@pytest.mark.parametrize("engine", ["postgres", "sqlite"])
def test_the_fixture_serves_a_test_of_a_bot(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    served: str = request.getfixturevalue(f"{engine}_url")
    as_written = "sqlite+aiosqlite:///:memory:"
    module = tmp_path / "test_bot.py"
    module.write_text(
        "import pytest, pytest_asyncio\n"
        "from iftb_store import Base, DatabaseManager, SystemEventRepository\n\n"
        f"{BLOCKS[FIXTURE].replace(as_written, served if engine == 'postgres' else as_written)}\n\n"
        "@pytest.mark.asyncio\n"
        "async def test_event(db_manager):\n"
        "    await SystemEventRepository(db_manager).log_event('started', 'info', 'hello')\n"
        "    assert len(await SystemEventRepository(db_manager).get_recent_events()) == 1\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(module)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("model", MODELS)
async def test_a_model_has_the_documented_fields_first_and_in_order(model: str) -> None:
    documented = _fields((await run_block(model, dict(PRESUMED)))[model])
    ours = _fields(getattr(iftb_store, model))
    assert ours[: len(documented)] == documented
    factories = {field.name for field in dataclasses.fields(getattr(iftb_store, model)) if callable(field.default_factory)}
    assert [
        name for name, _, default in ours[len(documented) :] if default is dataclasses.MISSING and name not in factories
    ] == []


@pytest.mark.parametrize(
    ("owner", "line"),
    [(match["name"], line) for match in _HEADING.finditer(_TEXT) for line in match["lines"].splitlines()],
    ids=lambda value: value.strip("- `").removeprefix("async ").partition("(")[0],
)
def test_a_signature_is_as_documented(owner: str, line: str) -> None:
    match = _SIGNATURE.match(line)
    assert match is not None
    ours = getattr(getattr(iftb_store, owner), match["name"])
    documented = _parameters(match["arguments"].removesuffix(", ..."))
    parameters = list(inspect.signature(ours).parameters.values())[1:]
    assert [(item.name, item.kind, item.default) for item in parameters[: len(documented)]] == documented
    more = [item for item in parameters[len(documented) :] if item.kind is not inspect.Parameter.VAR_KEYWORD]
    assert all(item.default is not inspect.Parameter.empty for item in more)
    assert inspect.iscoroutinefunction(ours) is (match["prefix"] is not None and match["name"] != "get_session")


def _fields(model: type[Any]) -> list[tuple[str, Any, Any]]:
    # the document writes the type str for a choice of words
    hints = {name: str if get_origin(hint) is Literal else hint for name, hint in get_type_hints(model).items()}
    return [(field.name, hints[field.name], field.default) for field in dataclasses.fields(model)]


def _parameters(arguments: str) -> list[tuple[str, Any, Any]]:
    """Return (name, kind, default) of each parameter of a documented signature."""
    scope: dict[str, Callable[..., Any]] = {}
    exec(f"from __future__ import annotations\ndef documented({arguments}): pass", scope)
    return [(item.name, item.kind, item.default) for item in inspect.signature(scope["documented"]).parameters.values()]
