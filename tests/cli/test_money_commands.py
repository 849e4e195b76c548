"""The commands with accounts, fills, the ledger and balances: the option --account, and the tables in and out of files."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from iftb_store import (
    BalanceRepository,
    BalanceSnapshot,
    DatabaseManager,
    Fill,
    FillRepository,
    LedgerEntry,
    LedgerRepository,
    Position,
    PositionRepository,
    SystemEventRepository,
    Trade,
    TradeRepository,
)
from tests.cli.test_narrow_terminal import run_on_terminal
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("plain_environment")

NOW = datetime.now(UTC).replace(microsecond=0)
ENTRY = NOW - timedelta(days=2)
PRICE = Decimal("42600")
#: The pnl of each account's trade.
RESULTS = {"alice": "12.5", "bob": "-4", "": "1"}
TABLES = {"fills": "fill_id", "ledger_entries": "external_id", "balance_snapshots": "currency"}


async def _store_account(db: DatabaseManager, account: str, pnl: Decimal) -> None:
    trade = Trade(f"T-{account}", "BTCUSDT", "binance", "long", "close", PRICE, Decimal("0.1"), ENTRY, exit_price=PRICE)
    trade.exit_time, trade.realized_pnl, trade.strategy = (
        NOW - timedelta(days=1),
        pnl,
        f"strategy of {account}" if account else None,
    )
    trade.tags = ["night"] if account == "bob" else []
    async with db.get_session() as session:
        await TradeRepository(session, account=account).insert(trade)
        position = Position("BTCUSDT", "binance", "long", PRICE, Decimal("0.1"), Decimal(426), NOW)
        await PositionRepository(session, account=account).update_position(position)
        await SystemEventRepository(session, account=account).log_event("started", "info", f"bot of {account}")
        executed = Fill("F-1", "BTCUSDT", "binance", "buy", PRICE, Decimal("0.1"), ENTRY, trade_id=f"T-{account}")
        await FillRepository(session, account=account).record(executed)
        paid = LedgerEntry("funding", "USDT", Decimal("-1.25"), NOW - timedelta(hours=30), "binance", external_id="P-1")
        await LedgerRepository(session, account=account).record(paid)
        for moment, total in ((ENTRY, Decimal(1000)), (NOW - timedelta(hours=30), Decimal(990))):
            held = BalanceSnapshot("binance", "USDT", moment, total, unrealized_pnl=pnl)
            await BalanceRepository(session, account=account).record(held)


@pytest.fixture
def owned(sqlite_url: str) -> str:
    """URL of a store with the rows of two accounts, and rows without one."""

    async def store() -> None:
        async with DatabaseManager(sqlite_url) as db:
            await db.migrate()
            for account, pnl in RESULTS.items():
                await _store_account(db, account, Decimal(pnl))

    asyncio.run(store())
    return sqlite_url


@pytest.mark.parametrize("account", RESULTS)
def test_the_reading_commands_show_the_rows_of_an_account(run: Run, owned: str, account: str) -> None:
    chosen = ("--account", account, "--json")
    assert json.loads(run("stats", owned, *chosen)[1])["net_pnl"] == RESULTS[account]
    assert [row["account"] for row in json.loads(run("positions", owned, *chosen)[1])] == [account]
    assert [row["message"] for row in json.loads(run("events", owned, *chosen)[1])] == [f"bot of {account}"]
    report = json.loads(run("performance", owned, *chosen)[1])
    assert (report["account"], report["net_pnl"], [*report["by_account"]]) == (account, RESULTS[account], [account])
    assert (report["funding"], report["starting_balance"]) == ({"USDT": "-1.25"}, "1000")


def test_the_report_covers_an_account(run: Run, owned: str) -> None:
    code, _, err = run("report", owned, "-o", "page.html", "--account", "bob")
    assert (code, err) == (0, "")
    page = Path("page.html").read_text(encoding="utf-8")
    assert "all exchanges, account bob: 1 closed trade" in page
    assert "funding, apart from all figures: -1.25 USDT" in page
    assert "The dashed line is marked to market" in page
    assert "By tag" in page
    assert "strategy of alice" not in page


def test_the_transfer_commands_take_the_rows_of_an_account(run: Run, owned: str, tmp_path: Path) -> None:
    destination = f"sqlite:///{tmp_path / 'copied.db'}"
    assert run("copy", owned, destination, "--account", "alice", "--quiet")[0] == 0
    assert run("verify", owned, destination, "--account", "alice")[0] == 0
    assert run("verify", owned, destination)[0] == 1
    assert run("export", owned, "--table", "fills", "-o", "bob.jsonl", "--account", "bob", "--quiet")[0] == 0
    assert [json.loads(line)["account"] for line in Path("bob.jsonl").read_text().splitlines()] == ["bob"]


def test_an_unknown_account_is_no_error_but_has_no_rows(run: Run, owned: str) -> None:
    assert run("positions", owned, "--account", "carol")[1] == "no open positions of the account 'carol'\n"
    code, _, err = run("export", owned, "--table", "fills", "-o", "none.jsonl", "--account", "carol")
    assert (code, err) == (1, "error: no row of fills matches the options; none.jsonl has none\n")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_table_is_exported_and_imported_once(run: Run, owned: str, tmp_path: Path, table: str, suffix: str) -> None:
    destination = f"sqlite:///{tmp_path / 'imported.db'}"
    assert run("migrate", destination)[0] == 0
    assert run("export", owned, "--table", table, "-o", f"rows.{suffix}", "--quiet")[0] == 0
    for _ in range(2):
        code, _, err = run("import", destination, f"rows.{suffix}")
        assert (code, err) == (0, "")
    assert run("verify", owned, destination, "--table", table)[0] == 0
    assert "no problems" in run("doctor", destination)[1]


def test_status_counts_the_rows_of_every_table_and_doctor_finds_nothing(run: Run, owned: str) -> None:
    code, out, _ = run("status", owned)
    assert code == 0
    for table, rows in {"trades": 3, "fills": 3, "ledger_entries": 3, "balance_snapshots": 6}.items():
        assert re.search(rf"{table} +{rows}\b", out), out
    assert run("doctor", owned)[0] == 0


def test_performance_has_groups_of_what_the_trades_have(run: Run, owned: str) -> None:
    out = run("performance", owned, "--exchange", "binance")[1]
    assert "funding, apart from all figures: -3.75 USDT" in out
    assert "starting balance: 3000 USDT (stored)" in out
    assert re.search(r"^account +trades ", out, re.MULTILINE)
    assert re.search(r"^\(none\) +1 ", out, re.MULTILINE)
    assert re.search(r"^strategy of alice +1 +1 +0 +100 % +12.5 ", out, re.MULTILINE)
    assert "exit reason" not in out
    assert "\nequity, marked to market\n" in out


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals there")
@pytest.mark.parametrize("width", [60, 80])
def test_the_groups_and_the_money_fit_a_narrow_terminal(owned: str, width: int) -> None:
    lines = run_on_terminal(width, "performance", owned)
    # the lines of the scope wrap at their blanks
    assert [line for line in lines[4:] if len(line) > width] == []
    assert any(line.startswith("strategy of alice") for line in lines)
