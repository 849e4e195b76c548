"""What fails between a store and its bucket is a clear error in bounded time, and nothing is lost or stored twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from iftb_store import CommitOutcomeUnknown, DatabaseManager, OHLCVRepository, TransientError
from iftb_store.testing import raw
from iftb_store.testing.samples import HOUR, T0, hourly
from tests.lake.conftest import KEYS, find_port
from tests.lake.proxy import Mode, Proxy, before

SECRET = KEYS.partition(":")[2]
_IMPATIENT = "connect_timeout=1&request_timeout=1&busy_timeout=2"
# far more than any of the store's own limits
_PATIENCE = 60

Call = Callable[[DatabaseManager], Awaitable[Any]]


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[Proxy]:
    with before(s3_endpoint) as running:
        yield running


@pytest_asyncio.fixture
async def db(proxy: Proxy) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(f"delta+s3://{KEYS}@lake/{uuid4().hex}?endpoint={proxy.endpoint}&{_IMPATIENT}") as manager:
        await OHLCVRepository(manager).insert_many(hourly(3))
        yield manager
        proxy.mode = "pass"


async def read_refusal(url: str) -> str:
    """Return the message of the error with which a connect fails."""
    with pytest.raises(OperationalError) as caught:
        async with asyncio.timeout(_PATIENCE):
            await DatabaseManager(url).connect()
    assert SECRET not in f"{caught.value}{caught.value.__cause__}{caught.value.__context__}"
    return str(caught.value)


async def test_a_bucket_that_is_missing_is_named_as_the_reason(s3_endpoint: str) -> None:
    assert "the bucket does not exist" in await read_refusal(f"delta+s3://{KEYS}@nowhere/x?endpoint={s3_endpoint}")


async def test_a_server_that_refuses_connections_cannot_be_reached() -> None:
    url = f"delta+s3://{KEYS}@lake/x?endpoint=http://127.0.0.1:{find_port()}&{_IMPATIENT}"
    assert "cannot be reached" in await read_refusal(url)


async def test_wrong_keys_are_an_error_that_says_what_to_check(proxy: Proxy) -> None:
    proxy.mode = "denied"
    assert "check the access key" in await read_refusal(f"delta+s3://{KEYS}@lake/x?endpoint={proxy.endpoint}")


async def test_missing_keys_are_an_error_before_anything_is_asked(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in await read_refusal(f"delta+s3://lake/x?endpoint={s3_endpoint}")


async def test_keys_of_the_environment_open_the_lake(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from the environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    async with DatabaseManager(f"delta+s3://lake/{uuid4().hex}?endpoint={s3_endpoint}") as db:
        assert await OHLCVRepository(db).insert_many(hourly(3)) == 3


async def test_a_session_token_of_the_environment_is_not_sent_with_the_keys_of_a_url(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of other keys")
    assert "AWS_SESSION_TOKEN in the environment belongs to another one" in await read_refusal(s3_url)


async def test_a_silent_server_makes_a_connect_fail(proxy: Proxy) -> None:
    proxy.mode = "silent"
    await read_refusal(f"delta+s3://{KEYS}@lake/x?endpoint={proxy.endpoint}&{_IMPATIENT}")


async def _insert(db: DatabaseManager) -> None:
    await OHLCVRepository(db).insert_many(hourly(3, symbol="NEW"))


async def _upsert(db: DatabaseManager) -> None:
    await OHLCVRepository(db).upsert_many(hourly(5))


async def _delete(db: DatabaseManager) -> None:
    await OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0, T0 + HOUR)


async def _read(db: DatabaseManager) -> None:
    await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0 + HOUR)


async def _list(db: DatabaseManager) -> None:
    await OHLCVRepository(db).list_series()


async def _execute(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        await session.execute(text("SELECT count(*) FROM ohlcv"))


async def _status(db: DatabaseManager) -> None:
    await db.status()


@pytest.mark.parametrize("call", [_insert, _upsert, _delete, _read, _list, _execute, _status], ids=lambda call: call.__name__)
async def test_a_silent_server_ends_every_call_with_an_error_and_the_next_call_works(
    db: DatabaseManager, proxy: Proxy, call: Call
) -> None:
    proxy.mode = "silent"
    with pytest.raises(OperationalError) as caught:
        async with asyncio.timeout(_PATIENCE):
            await call(db)
    assert SECRET not in f"{caught.value}{caught.value.__cause__}"
    proxy.mode = "pass"
    await call(db)


@pytest.mark.parametrize(("mode", "is_transient"), [("silent", True), ("denied", False)])
async def test_files_that_the_server_does_not_give_are_an_error_that_says_why(
    db: DatabaseManager, proxy: Proxy, mode: Mode, is_transient: bool
) -> None:
    async def read() -> None:
        # a session that has its version asks only for files
        async with db.get_session(isolation="snapshot") as session:
            await OHLCVRepository(session).list_series()
            proxy.mode = mode
            await OHLCVRepository(session).get_range("BTCUSDT", "1h", T0, T0 + HOUR)

    with pytest.raises(OperationalError, match=r"did not answer|access was denied") as caught:
        await read()
    assert isinstance(caught.value, TransientError) == is_transient


async def test_a_commit_whose_answer_is_lost_is_found_and_stored_once(db: DatabaseManager, proxy: Proxy) -> None:
    proxy.mode = "lose commits"
    assert await OHLCVRepository(db).insert_many(hourly(20, symbol="NEW")) == 20
    assert proxy.lost == 1
    assert await raw.fetch(db, "SELECT count(*), count(DISTINCT timestamp) FROM ohlcv WHERE symbol = 'NEW'") == [(20, 20)]


async def test_a_commit_of_which_nothing_can_be_learned_is_of_unknown_outcome(db: DatabaseManager, proxy: Proxy) -> None:
    async def insert() -> None:
        async with asyncio.timeout(_PATIENCE), db.get_session() as session:
            await OHLCVRepository(session).insert_many(hourly(20, symbol="NEW"))
            # the exit of the session says the same once more
            with pytest.raises(CommitOutcomeUnknown):
                await session.commit()

    proxy.mode = "lose commits and fall silent"
    with pytest.raises(CommitOutcomeUnknown):
        await insert()
    proxy.mode = "pass"
    assert await raw.fetch(db, "SELECT count(*), count(DISTINCT timestamp) FROM ohlcv WHERE symbol = 'NEW'") == [(20, 20)]


async def test_a_refusal_after_a_commit_that_may_still_arrive_is_of_unknown_outcome(db: DatabaseManager, proxy: Proxy) -> None:
    proxy.mode = "drop commits"
    with pytest.raises(CommitOutcomeUnknown) as caught:
        await OHLCVRepository(db).insert_many(hourly(20, symbol="NEW"))
    assert proxy.dropped == 2
    assert SECRET not in f"{caught.value}{caught.value.__cause__}"


async def test_a_bucket_that_refuses_writes_is_not_writable(db: DatabaseManager, proxy: Proxy) -> None:
    assert (await db.health()).writable
    proxy.mode = "refuse writes"
    health = await db.health()
    assert not health.writable
    assert "check the access key" in health.problems[0]
