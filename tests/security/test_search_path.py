"""Objects that others put into a schema of the search_path are never called, nor mistaken for the store's tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

import iftb_store_postgres.bars
from iftb_store import DatabaseManager, OHLCVRepository, SchemaError, TradeRepository
from iftb_store.doctor import examine
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import BARS, TRADES, RowFilter
from iftb_store.testing.machine import compare_with_model
from iftb_store.testing.samples import HOUR, T0, full_trade, hourly, trade
from tests.security.rows import execute
from tests.security.traps import plant
from tests.support.filled import fill

Execute = Callable[[str], None]
Run = Callable[..., tuple[int, str, str]]

_EMPTY = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND usename <> current_user;
    DROP SCHEMA public CASCADE;
    CREATE SCHEMA public;
    GRANT ALL ON SCHEMA public TO {role}"""


@dataclass(frozen=True)
class Trapped:
    """A database with traps in a separate schema, and its user, who is no superuser.

    Attributes:
        url: URL with the traps in its search_path.
        clean: URL without them.
        role: the user.
        admin: executes as a superuser.
    """

    url: str
    clean: str
    role: str
    admin: Execute


@pytest.fixture(scope="module")
def planted(postgres_server: str, postgres_connection: Callable[[str], Execute]) -> Iterator[Trapped]:
    """Traps."""
    name = f"iftb_{uuid4().hex}"
    server = postgres_connection(postgres_server)
    server(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    server(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
    server(f"ALTER ROLE {name} SET search_path = public, traps")
    database = make_url(postgres_server).set(database=name)
    admin = postgres_connection(database.render_as_string(hide_password=False))
    admin(plant())
    url = database.set(username=name, password=name)
    clean = url.update_query_dict({"search_path": "public"})
    yield Trapped(url.render_as_string(hide_password=False), clean.render_as_string(hide_password=False), name, admin)
    server(f"DROP DATABASE {name} WITH (FORCE)")
    server(f"DROP ROLE {name}")


@pytest.fixture
def empty(planted: Trapped) -> Trapped:
    """Traps, and no tables."""
    planted.admin(_EMPTY.format(role=planted.role))
    return planted


@pytest.fixture
async def filled(empty: Trapped) -> Trapped:
    """Traps, and tables with rows of every kind, which were made before."""
    await fill(empty.clean)
    return empty


async def test_the_traps_catch_what_has_no_exact_match(filled: Trapped) -> None:
    connection = await asyncpg.connect(filled.url)
    for statement in (
        "SELECT FROM ohlcv WHERE exchange = 'nowhere'",
        "SELECT FROM trades WHERE realized_pnl > 0 AND id < 0",
        "SELECT count(quote_volume) FROM ohlcv",
        "SELECT 'column ' || attname FROM pg_attribute",
    ):
        with pytest.raises(asyncpg.PostgresError, match=r"trap_|count"):
            await connection.execute(statement)
    await connection.close()


async def test_tables_that_would_call_what_others_planted_are_not_made(empty: Trapped) -> None:
    async with DatabaseManager(empty.url) as db:
        for make in (db.migrate, db.create_tables):
            with pytest.raises(SchemaError, match=r"positions would call the operator traps\.=.*REVOKE CREATE"):
                await make()
        assert (await db.status()).state == "empty"


def test_tables_that_another_role_has_made_are_not_adopted(empty: Trapped, reader: str) -> None:
    asyncio.run(migrate(empty.clean))
    empty.admin(f"DROP TABLE public.iftb_store_version; ALTER TABLE public.ohlcv OWNER TO {reader}")
    with pytest.raises(SchemaError, match=f"ohlcv to {reader}"):
        asyncio.run(migrate(empty.clean))
    empty.admin(f"ALTER TABLE public.ohlcv OWNER TO {empty.role}")
    asyncio.run(migrate(empty.clean))


async def migrate(url: str) -> None:
    async with DatabaseManager(url) as db:
        await db.migrate()


@pytest.mark.parametrize("few", [300, 1])
def test_any_programme_calls_nothing_that_others_planted(filled: Trapped, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # the methods for long batches, too: COPY and a staging table
    monkeypatch.setattr(iftb_store_postgres.bars, "FEW", few)
    compare_with_model({"PostgreSQL among traps": filled.url}, examples=6, seed=few)


async def test_bars_in_bulk_call_nothing_that_others_planted(filled: Trapped) -> None:
    bars = hourly(1_000)
    async with DatabaseManager(filled.url) as db:
        repository = OHLCVRepository(db)
        await repository.upsert_many(bars)
        await repository.upsert_many([*bars[::2], *hourly(700, exchange="new")])
        await repository.upsert_many(bars, report=True)
        await repository.write_arrow(await repository.read_arrow("BTCUSDT", "1h", exchange="binance"))
        await repository.insert_many(hourly(600, symbol="NEW")[::-1])
        assert len(await repository.get_range("BTCUSDT", "1h", T0, T0 + 20_000 * HOUR)) == 1_000
        async with repository.stream_range("BTCUSDT", "1h", T0, T0 + 20_000 * HOUR, batch_size=300) as batches:
            assert sum([len(batch) async for batch in batches]) == 1_000
        assert await repository.list_series()
        for target in ("4h", "1d", "1M"):
            assert await repository.resample("BTCUSDT", "1h", target, T0, T0 + 1_000 * HOUR)
        assert await repository.delete_range("BTCUSDT", "1h", T0, T0 + 9 * HOUR) == 10


async def test_trades_call_nothing_that_others_planted(filled: Trapped) -> None:
    async with DatabaseManager(filled.url) as db:
        trades = TradeRepository(db)
        await trades.record(full_trade())
        await trades.record(trade("TRD-NEW"))
        assert await trades.get_statistics(36_500)
        assert await trades.read_arrow(symbol="BTCUSDT", exchange="binance", start=T0)


@pytest.mark.parametrize(
    "words",
    [
        ("migrate",),
        ("status",),
        ("doctor",),
        ("gaps", "BTCUSDT", "1h"),
        ("latest", "BTCUSDT", "1h"),
        ("stats",),
        ("positions",),
        ("events",),
    ],
    ids=lambda words: words[0],
)
def test_a_command_calls_nothing_that_others_planted(filled: Trapped, run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(words[0], filled.url, *words[1:])
    assert err == ""
    # rows of every kind that the doctor reports
    assert code == 0 or (words == ("doctor",) and "warning" in out)


def test_the_doctor_calls_nothing_even_if_much_is_wrong(filled: Trapped, run: Run) -> None:
    filled.admin("""
        ALTER TABLE public.ohlcv DROP CONSTRAINT pk_ohlcv;
        ALTER TABLE public.trades DROP CONSTRAINT pk_trades, DROP CONSTRAINT uq_trades_trade_id, DROP CONSTRAINT ck_trades_side;
        DROP INDEX public.uq_positions_open;
        INSERT INTO public.ohlcv SELECT * FROM public.ohlcv;
        UPDATE public.ohlcv SET low = high + 1, volume = -1, timestamp = timestamp + '7 seconds' WHERE timeframe = '1h';
        INSERT INTO public.trades SELECT * FROM public.trades;
        UPDATE public.trades SET side = 'up', trade_id = 'gone', fee = 'NaN', symbol = '';
        UPDATE public.positions SET status = 'open', trade_id = 'none', id = id + 5;
        UPDATE public.system_events SET trade_id = 'none', position_id = -1, id = id + 5;
        ALTER TABLE public.trades SET UNLOGGED""")
    code, out, err = run("doctor", filled.url)
    assert (code, err) == (1, "")
    for kind in ("duplicate bars", "high below low", "duplicate trades", "unknown side", "position without its trade"):
        assert kind in out


def test_transfers_call_nothing_that_others_planted(filled: Trapped, run: Run, tmp_path: Path) -> None:
    other, backup, folder = f"sqlite:///{tmp_path / 'other.db'}", str(tmp_path / "bot.backup"), str(tmp_path / "bars")
    few = ("--exchange", "binance", "--symbol", "BTCUSDT", "--start", "2020-01-01")
    steps = [
        ("copy", filled.url, other),
        ("copy", filled.url, other, *few),
        ("verify", filled.url, other),
        ("backup", filled.url, backup),
        ("export", filled.url, "-o", folder, "--partitioned"),
        ("export", filled.url, "-o", f"{tmp_path / 'trades.jsonl'}", "--table", "trades"),
        ("import", filled.url, folder),
        ("import", filled.url, f"{tmp_path / 'trades.jsonl'}"),
    ]
    for step in steps:
        assert run(*step)[::2] == (0, ""), step
    filled.admin("""
        DELETE FROM public.ohlcv WHERE timeframe = '1h' AND id % 2 = 0;
        UPDATE public.ohlcv SET close = 1, id = id + 1000 WHERE timeframe = '1d';
        UPDATE public.trades SET fee = 1;
        DELETE FROM public.positions""")
    for step in [
        ("copy", other, filled.url, "--delete"),
        ("restore", backup, filled.url, "--overwrite"),
        ("verify", other, filled.url),
    ]:
        assert run(*step)[::2] == (0, ""), step


def test_partitions_call_nothing_that_others_planted(filled: Trapped, run: Run) -> None:
    for step in [
        ("migrate", filled.url, "--partition-by", "month", "--quiet"),
        ("partitions", filled.url, "--ahead", "5"),
        ("partitions", filled.url, "--start", "2020-01-01"),
        ("migrate", filled.url, "--partition-by", "month", "--quiet"),
    ]:
        assert run(*step)[::2] == (0, ""), step


async def test_a_temporary_table_does_not_stand_before_ours(postgres_url: str) -> None:
    await fill(postgres_url)
    async with DatabaseManager(postgres_url, pool_size=1, max_overflow=0) as db:
        async with db.get_session() as session:
            await session.execute(text("CREATE TEMPORARY TABLE trades (LIKE trades)"))
        await TradeRepository(db).insert(trade("TRD-LASTING"))
    async with DatabaseManager(postgres_url) as db:
        assert "TRD-LASTING" in [found.trade_id for found in await TradeRepository(db).get_recent(10)]


async def test_a_role_keeps_the_search_path_that_was_set_for_it(empty: Trapped) -> None:
    async with DatabaseManager(empty.url) as db, db.get_session() as session:
        assert (await session.execute(text("SHOW search_path"))).scalar_one() == "public, traps, pg_temp"
    async with DatabaseManager(empty.clean) as db, db.get_session() as session:
        assert (await session.execute(text("SHOW search_path"))).scalar_one() == "public, pg_temp"


async def test_tables_are_never_made_as_temporary_ones(postgres_url: str) -> None:
    await execute(postgres_url, "DROP SCHEMA public")
    try:
        async with DatabaseManager(postgres_url) as db:
            with pytest.raises(OperationalError, match="no schema has been selected to create in"):
                await db.migrate()
    finally:
        await execute(postgres_url, "CREATE SCHEMA public")


async def test_tables_named_as_our_temporary_ones_stay_unchanged(postgres_url: str) -> None:
    await fill(postgres_url)
    names = ("iftb_store_upsert", "iftb_store_put_trades", "iftb_store_put_ohlcv")
    for name in names:
        await execute(postgres_url, f"CREATE TABLE {name} (made_by_another text)")
    async with DatabaseManager(postgres_url) as db:
        await OHLCVRepository(db).upsert_many(hourly(1_000)[::-1])
        await OHLCVRepository(db).upsert_many(hourly(1_000), report=True)
        async with db.get_session() as session:
            for table in (TRADES, BARS):
                await get_stores(session).write_rows(table, await get_stores(session).read_rows(RowFilter(table)))
            for name in names:
                assert (await session.execute(text(f"SELECT count(*) FROM public.{name}"))).scalar_one() == 0


@pytest.mark.parametrize("to", ["PUBLIC", "role"])
async def test_the_doctor_reports_a_schema_that_others_may_create_in(owner: str, reader: str, to: str) -> None:
    grantee = reader if to == "role" else to
    await execute(owner, f"GRANT CREATE ON SCHEMA public TO {grantee}")
    async with DatabaseManager(owner) as db:
        (finding,) = (finding for finding in await examine(db) if finding.kind == "schema of others")
        assert (finding.severity, finding.where) == ("warning", "schema public")
        await execute(owner, finding.statements[0])
        assert "schema of others" not in {finding.kind for finding in await examine(db)}
