"""A lake with ``?engine=sc://host:port``: a Spark Connect cluster answers for many series what DuckDB answers."""

from __future__ import annotations

import asyncio
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository, Timeframe, TransientError, URLError, verify
from iftb_store.registry import get_backend, get_stores
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.testing.lifecycle import wait_until
from iftb_store.testing.many_series import find_gaps, make_store, read_all
from iftb_store.testing.samples import HOUR, LARGEST, SMALLEST, T0, bar
from iftb_store.transfer.plan import Partition, digest_partition
from iftb_store_lake.cluster import Answer, Cluster
from iftb_store_lake.cluster_reads import _make_digest
from tests.lake.conftest import KEYS, find_port
from tests.lake.servers import run_sail, sail_variables

_WINDOWS = [(None, None), (T0 + HOUR, None), (None, T0 + 5 * HOUR), (T0 - 2 * HOUR, T0 + 26 * HOUR)]
_TARGETS: tuple[Timeframe, ...] = ("2h", "1d", "1w", "1M")


@pytest.fixture(scope="module")
def ports(s3_endpoint: str) -> Iterator[tuple[int, int]]:
    """Two Sail servers at once, which may read the bucket."""
    variables = sail_variables(s3_endpoint, KEYS)
    with run_sail(**variables) as (one, _), run_sail(**variables) as (two, _):
        yield one, two


def with_engine(url: str, port: int) -> str:
    return f"{url}{'&' if '?' in url else '?'}engine=sc://127.0.0.1:{port}"


@pytest.fixture(params=["lake_url", pytest.param("s3_url", marks=pytest.mark.full)])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


@pytest_asyncio.fixture
async def stores(url: str, ports: tuple[int, int]) -> AsyncIterator[list[DatabaseManager]]:
    """The same lake read by DuckDB, by one Sail server and by another."""
    async with DatabaseManager(url) as plain:
        managers = [DatabaseManager(with_engine(url, port)) for port in ports]
        async with managers[0] as one, managers[1] as two:
            yield [plain, one, two]


def make_odd_bars() -> list[OHLCVBar]:
    """Return bars with the greatest and smallest values, in which a sum of decimals or of counts would wrap."""
    values: list[dict[str, Any]] = [
        {"volume": Decimal("49999999999999999999.5"), "quote_volume": SMALLEST, "trades_count": 2**62},
        {"volume": Decimal("49999999999999999999.499999999999999999"), "quote_volume": Decimal(0), "trades_count": 2**62 - 1},
        {"open": LARGEST.copy_negate(), "low": LARGEST.copy_negate(), "high": LARGEST, "volume": Decimal(0), "trades_count": 0},
        {"volume": LARGEST, "quote_volume": LARGEST},
    ]
    return [bar(T0 + hour * HOUR, symbol="odd`'\"$:p0", **value) for hour, value in zip((0, 1, 2, 24 * 45), values, strict=True)]


async def read_everything(db: DatabaseManager) -> dict[str, Any]:
    """Return all that a cluster answers."""
    repository = OHLCVRepository(db)
    found: dict[str, Any] = {"series": await repository.list_series()}
    for start, end in _WINDOWS:
        found[f"gaps {start} {end}"] = await find_gaps(repository, start=start, end=end)
        for target in _TARGETS:
            stream = repository.resample_all(target, source="1h", start=start, end=end, partial=True)
            found[f"{target} {start} {end}"] = await read_all(stream)
    found["chosen"] = await find_gaps(repository, exchange="kraken", timeframe="1h", start=T0, end=T0 + 24 * HOUR)
    return found


async def test_two_clusters_and_duckdb_give_the_same_values(stores: list[DatabaseManager]) -> None:
    await OHLCVRepository(stores[1]).insert_many([*make_store()[:-3], *make_odd_bars()])
    expected, *found = [await read_everything(db) for db in stores]
    assert all(expected.values())
    assert found == [expected, expected]


async def test_digests_of_a_cluster_are_those_of_the_client(stores: list[DatabaseManager]) -> None:
    early = [bar(datetime(1969, 12, 30, hour, microsecond=hour), symbol="É") for hour in range(3)]
    await OHLCVRepository(stores[0]).insert_many([*make_store(), *make_odd_bars(), *early])
    plain, *clusters = stores
    series = await OHLCVRepository(plain).list_series()
    for one in [*series[::5], *(one for one in series if one.symbol[0] in "Éo")]:
        names = {"exchange": one.exchange, "symbol": one.symbol, "timeframe": one.timeframe}
        for selection in (RowFilter(BARS, names), RowFilter(BARS, names, T0 + HOUR, T0 + 25 * HOUR)):
            async with plain.get_session() as session:
                expected = await digest_partition(get_stores(session), Partition(selection))
            for db in clusters:
                async with db.get_session() as session:
                    stores_of_cluster: Any = get_stores(session)
                    assert await stores_of_cluster.digest_days(selection) == [tuple(chunk) for chunk in expected]


async def test_verify_on_a_cluster_finds_a_flipped_digit(stores: list[DatabaseManager], sqlite_tables_url: str) -> None:
    bars = make_store()
    async with DatabaseManager(sqlite_tables_url) as other:
        for db in (stores[0], other):
            await OHLCVRepository(db).insert_many(bars)
        plain, one, _ = [await verify(other, db, tables=["ohlcv"]) for db in stores]
        assert plain == one
        assert one.equal
        bars[7].close += SMALLEST
        await OHLCVRepository(other).upsert_many(bars[7:8])
        found = await verify(other, stores[2], tables=["ohlcv"])
        assert not found.equal
        assert found == await verify(other, stores[0], tables=["ohlcv"])


def test_a_function_on_the_cluster_needs_no_package_of_ours() -> None:
    serializer: Any = import_module("pyspark.serializers").CloudPickleSerializer()
    sent: bytes = serializer.dumps(_make_digest(["BTC", "binance", "1m"]))
    script = """
import sys
sys.modules["iftb_store_lake"] = sys.modules["iftb_store"] = None
import pickle
print(pickle.loads(bytes.fromhex(sys.stdin.read())).__name__)
"""
    done = subprocess.run([sys.executable, "-c", script], input=sent.hex(), capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("digest_day", "")
    assert pickle.loads(sent).__name__ == "digest_day"


@pytest.mark.parametrize("place", ["lake_url", "s3_url"])
async def test_a_script_without_a_file_reads_on_the_cluster(
    place: str, ports: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(place)
    async with DatabaseManager(url) as db:
        await OHLCVRepository(db).insert_many([bar(T0), bar(T0 + 3 * HOUR)])
    script = f"""
from iftb_store.sync import open_store
with open_store({with_engine(url, ports[0])!r}) as db:
    print(db.ohlcv.list_series()[0].missing, sum(batch.num_rows for batch in db.ohlcv.get_gaps_all()))
"""
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("2 1", "")


async def test_a_session_reads_its_own_writes_and_its_own_version(lake_url: str, ports: tuple[int, int]) -> None:
    async with DatabaseManager(with_engine(lake_url, ports[0])) as db:
        await OHLCVRepository(db).insert_many([bar(T0), bar(T0 + 3 * HOUR)])
        async with db.get_session() as session, db.get_session(isolation="snapshot") as snapshot:
            gap = ("binance", "BTCUSDT", "1h", T0, T0 + 3 * HOUR)
            assert await find_gaps(OHLCVRepository(snapshot)) == [gap]
            await OHLCVRepository(session).insert_many([bar(T0 + HOUR), bar(T0 + 2 * HOUR)])
            assert await find_gaps(OHLCVRepository(session)) == []
            assert await find_gaps(OHLCVRepository(db)) == [gap]
            await session.commit()
            assert await find_gaps(OHLCVRepository(db)) == []
            assert await find_gaps(OHLCVRepository(snapshot)) == [gap]
            assert [one.count for one in await OHLCVRepository(snapshot).list_series()] == [2]


async def test_a_folder_with_odd_characters_is_found(tmp_path: Any, ports: tuple[int, int]) -> None:
    folder = tmp_path / "it's+odd"
    async with DatabaseManager(with_engine(f"delta:///{folder}", ports[0])) as db:
        await OHLCVRepository(db).insert_many([bar(T0), bar(T0 + 3 * HOUR)])
        assert [one.missing for one in await OHLCVRepository(db).list_series()] == [2]


@pytest.mark.parametrize("place", ["lake_url", "s3_url"])
async def test_a_server_that_is_away_is_an_error_soon_and_writes_go_on(place: str, request: pytest.FixtureRequest) -> None:
    url = with_engine(request.getfixturevalue(place), find_port())
    async with DatabaseManager(url) as db:
        repository = OHLCVRepository(db)
        await repository.insert_many([bar(T0), bar(T0 + 3 * HOUR)])
        calls: list[Callable[[], Awaitable[Any]]] = [
            repository.list_series,
            lambda: find_gaps(repository),
            lambda: read_all(repository.resample_all("2h", source="1h")),
        ]
        for call in calls:
            with pytest.raises(TransientError, match=r"^the Spark Connect server 127\.0\.0\.1:\d+ cannot be reached") as caught:
                async with asyncio.timeout(60):
                    await call()
            assert not [word for word in KEYS.split(":") if word in repr(caught.value)]
        assert len(await repository.get_gaps("BTCUSDT", "1h")) == 1


async def test_a_frozen_server_is_an_error_in_bounded_time(lake_url: str) -> None:
    with run_sail() as (port, server):
        async with DatabaseManager(with_engine(lake_url, port)) as db:
            repository = OHLCVRepository(db)
            await repository.insert_many([bar(T0), bar(T0 + 3 * HOUR)])
            assert len(await repository.list_series()) == 1
            server.send_signal(signal.SIGSTOP)
            with pytest.raises(TransientError, match=r"did not answer in time|cannot be reached"):
                async with asyncio.timeout(60):
                    await repository.list_series()
            server.send_signal(signal.SIGCONT)
            assert len(await repository.list_series()) == 1


async def test_a_server_that_does_not_see_the_table_is_an_error(s3_url: str) -> None:
    variables = {
        "AWS_ACCESS_KEY_ID": "other",
        "AWS_SECRET_ACCESS_KEY": "other",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{find_port()}",
    }
    with run_sail(AWS_ALLOW_HTTP="true", AWS_REGION="us-east-1", **variables) as (port, _):
        async with DatabaseManager(with_engine(s3_url, port)) as db:
            await OHLCVRepository(db).insert_many([bar(T0)])
            with pytest.raises(OperationalError, match=r"Spark Connect server .*: it cannot reach s3://lake/") as caught:
                await OHLCVRepository(db).list_series()
            assert not [word for word in KEYS.split(":") if word in repr(caught.value)]


async def test_a_cancelled_query_ends_and_the_manager_stays_usable(lake_url: str, ports: tuple[int, int]) -> None:
    async with DatabaseManager(with_engine(lake_url, ports[0])) as db:
        repository = OHLCVRepository(db)
        await repository.insert_many([bar(T0), bar(T0 + 3 * HOUR)])
        task = asyncio.ensure_future(repository.list_series())
        await wait_until(lambda: count_watchers() > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with repository.get_gaps_all() as stream:
            async for _ in stream:
                break
        assert len(await repository.list_series()) == 1


def count_watchers() -> int:
    return sum(thread.name == "iftb-store-lake-spark" for thread in threading.enumerate())


async def test_a_query_that_is_cancelled_while_it_starts_does_not_run_on(
    lake_url: str, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    started, sent = asyncio.Event(), list[Any]()
    loop, execute = asyncio.get_running_loop(), Cluster.execute

    def execute_slowly(cluster: Cluster, plan: Any) -> Any:
        sent.append(execute(cluster, plan))
        loop.call_soon_threadsafe(started.set)
        time.sleep(0.1)
        return sent[0]

    monkeypatch.setattr(Cluster, "execute", execute_slowly)
    async with DatabaseManager(with_engine(lake_url, ports[0])) as db:
        await OHLCVRepository(db).insert_many([bar(T0), bar(T0 + 3 * HOUR)])
        task = asyncio.ensure_future(OHLCVRepository(db).list_series())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (count_watchers(), [call.is_active() for call in sent]) == (0, [False])


async def test_a_cancellation_does_not_wait_for_a_server_that_is_frozen(lake_url: str) -> None:
    with run_sail() as (port, server):
        async with DatabaseManager(with_engine(lake_url, port)) as db:
            await OHLCVRepository(db).insert_many([bar(T0), bar(T0 + 3 * HOUR)])
            await OHLCVRepository(db).list_series()
            server.send_signal(signal.SIGSTOP)
            task = asyncio.ensure_future(OHLCVRepository(db).list_series())
            # nothing shows that the query waits for the frozen server
            await asyncio.sleep(0.5)
            task.cancel()
            # the probe would wait for 15 seconds
            async with asyncio.timeout(10):
                with pytest.raises(asyncio.CancelledError):
                    await task
            server.send_signal(signal.SIGCONT)


async def test_a_stream_that_is_read_after_a_disconnect_says_why_it_ends(
    lake_url: str, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iftb_store.repositories.many_series._ROWS", 1)
    async with DatabaseManager(with_engine(lake_url, ports[0])) as db:
        await OHLCVRepository(db).insert_many([bar(T0 + 3 * hour * HOUR) for hour in range(3)])
        async with OHLCVRepository(db).get_gaps_all() as stream:
            await anext(stream)
            await db.disconnect(grace=0)
            with pytest.raises(OperationalError, match="disconnected while this session was open"):
                async for _ in stream:
                    pass
    assert count_watchers() == 0


async def test_a_closed_connection_to_a_server_is_an_operational_error(lake_url: str, ports: tuple[int, int]) -> None:
    async with DatabaseManager(with_engine(lake_url, ports[0])) as db:
        await OHLCVRepository(db).insert_many([bar(T0)])
        async with db.get_session() as session:
            backend: Any = get_backend(session)
        cluster = backend.cluster
        answer = Answer(cluster, cluster.query("SELECT 1 AS one", {}))
        cluster.close()
        with pytest.raises(OperationalError, match="disconnected while this session was open"):
            await asyncio.to_thread(answer.start)
        answer.close()


def test_without_the_client_the_message_has_the_install_command(lake_url: str) -> None:
    script = f"""
import sys
sys.modules["pyspark"] = None
from iftb_store.sync import open_store
open_store({with_engine(lake_url, 1)!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert 'run: pip install "iftb-store[lake,spark]"' in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "engine",
    ["spark:15002", "sc://host", "sc://host:0", "sc://host:99999", "sc://user:secret@host:1", "sc://h:1/;token=secret"],
)
def test_an_engine_that_is_no_address_is_refused_without_being_shown(engine: str) -> None:
    with pytest.raises(URLError, match=r"sc://host:port") as caught:
        DatabaseManager(f"delta:////tmp/lake?engine={engine}")
    assert "secret" not in str(caught.value)
