"""Tests of db.run, which retries a transaction after a transient error, and of TradeRepository.record."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store import (
    CommitOutcomeUnknown,
    DatabaseManager,
    InvalidValueError,
    TradeConflictError,
    TradeRepository,
    TransientError,
    Unsupported,
)
from iftb_store.errors import operational_error, outcome_unknown
from iftb_store.protocols import Capability, Isolation
from iftb_store.testing import raw
from iftb_store.testing.fixtures import Interruption, SuiteFixtures, lacks, needs, requires, wait_briefly
from iftb_store.testing.rows import add, change, read_names, read_value
from iftb_store.testing.samples import full_trade, trade

_ISOLATIONS: list[Isolation] = ["repeatable read", "serializable"]


class Failing:
    """A callable for db.run: it inserts a row, then raises the next of the given errors, or returns the row's name."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.runs = 0

    async def __call__(self, session: Any) -> str:
        self.runs += 1
        await add(session, "ROW")
        if self.errors:
            raise self.errors.pop(0)
        return "ROW"


def transient() -> OperationalError:
    """Return a transient error, after which db.run retries the transaction."""
    return operational_error("a conflict", transient=True)


def increment(name: str, after_reading: Callable[[], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """Return a callable for db.run that reads a row's value, awaits ``after_reading``, and writes the value plus one."""

    async def work(session: Any) -> None:
        found = await read_value(session, name)
        assert found is not None
        await after_reading()
        await change(session, name, found + 1)

    return work


async def at_once() -> None:
    """Return immediately; an ``after_reading`` for `increment` that does not wait."""


class RunTests(SuiteFixtures):
    """db.run commits the writes of its callable, retries the callable, or raises its error."""

    async def test_run_commits_and_returns_the_result(self, db: DatabaseManager) -> None:
        name = await db.run(Failing())
        assert await read_names(db) == [name]

    async def test_run_runs_again_after_a_transient_error_and_stores_the_work_once(self, db: DatabaseManager) -> None:
        work = Failing(transient(), transient())
        await db.run(work)
        assert (work.runs, await raw.count(db, "ohlcv")) == (3, 1)

    async def test_run_raises_the_last_transient_error_when_no_run_is_left(self, db: DatabaseManager) -> None:
        last = transient()
        work = Failing(transient(), last, transient())
        with pytest.raises(TransientError) as caught:
            await db.run(work, retries=1)
        assert (caught.value, work.runs, await raw.count(db, "ohlcv")) == (last, 2, 0)

    @pytest.mark.parametrize("error", [Interruption(), operational_error("the disk is full"), KeyError("the bot's own")])
    async def test_run_passes_any_other_error_on_unchanged(self, db: DatabaseManager, error: Exception) -> None:
        work = Failing(error)
        with pytest.raises(type(error)) as caught:
            await db.run(work)
        assert (caught.value, work.runs, await raw.count(db, "ohlcv")) == (error, 1, 0)

    async def test_run_passes_an_integrity_error_on(self, db: DatabaseManager) -> None:
        await add(db)
        work = Failing()
        with pytest.raises(IntegrityError):
            await db.run(work)
        assert work.runs == 1

    async def test_run_never_runs_again_after_a_commit_of_unknown_outcome(self, db: DatabaseManager) -> None:
        unknown = outcome_unknown(OSError())
        work = Failing(unknown)
        with pytest.raises(CommitOutcomeUnknown, match="unknown") as caught:
            await db.run(work)
        assert (caught.value, work.runs) == (unknown, 1)

    async def test_run_runs_idempotent_work_again_after_a_commit_of_unknown_outcome(self, db: DatabaseManager) -> None:
        work = Failing(outcome_unknown(OSError()))
        await db.run(work, idempotent=True)
        assert (work.runs, await raw.count(db, "ohlcv")) == (2, 1)

    async def test_an_unknown_outcome_is_not_forgotten_over_a_later_error(self, db: DatabaseManager) -> None:
        with pytest.raises(CommitOutcomeUnknown):
            await db.run(Failing(outcome_unknown(OSError()), transient()), idempotent=True, retries=1)

    async def test_a_cancellation_passes_through_run(self, db: DatabaseManager) -> None:
        work = Failing(asyncio.CancelledError())
        task = asyncio.create_task(db.run(work))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (work.runs, await raw.count(db, "ohlcv")) == (1, 0)

    @requires(Capability.RECORDS)
    async def test_a_caught_transient_error_that_took_the_transaction_makes_run_run_again(self, db: DatabaseManager) -> None:
        needs(db, Capability.ISOLATION)
        # a trade, not a bar: an engine may write bars in a savepoint, and then the error does not take the transaction
        number = await TradeRepository(db).insert(trade())
        first = asyncio.Event()
        writing: list[asyncio.Task[None]] = []

        async def catch(session: Any) -> None:
            await TradeRepository(session).get_by_id(number)
            if not first.is_set() and Capability.PARALLEL_WRITERS in db.capabilities:
                first.set()
                # an engine that is serializable by locks makes this writer wait for the session
                writing.append(asyncio.create_task(TradeRepository(db).update(number, fee=Decimal(7))))
                await asyncio.wait(writing, timeout=1)
            try:
                await TradeRepository(session).update(number, exit_price=Decimal(2))
            except TransientError:
                return

        await db.run(catch, isolation="serializable")
        await asyncio.gather(*writing)
        found = await TradeRepository(db).get_by_id(number)
        assert found is not None
        assert found.exit_price == Decimal(2)

    @pytest.mark.parametrize("isolation", _ISOLATIONS)
    async def test_no_update_is_lost_under_isolation(self, db: DatabaseManager, isolation: Isolation) -> None:
        needs(db, Capability.ISOLATION)
        await add(db)
        await change(db, "ROW", 0)
        await asyncio.gather(*(db.run(increment("ROW", at_once), isolation=isolation, retries=50) for _ in range(10)))
        value = await read_value(db)
        assert value == 10, (
            f"no update may be lost under {isolation}: 10 transactions each added 1 to a value of 0, and the value is {value}"
        )

    @pytest.mark.parametrize("isolation", _ISOLATIONS)
    async def test_what_raw_sql_has_read_under_isolation_does_not_change(self, db: DatabaseManager, isolation: Isolation) -> None:
        needs(db, Capability.ISOLATION)
        await add(db, "a")
        reading = asyncio.Event()

        async def insert() -> None:
            await reading.wait()
            await add(db, "b")

        async def count_twice(session: Any) -> list[int]:
            before = await read_names(session)
            reading.set()
            # with one writer at a time, or serializable by locks, the insert cannot end before this session does
            await asyncio.wait([inserting], timeout=1 if Capability.PARALLEL_WRITERS in db.capabilities else 0.01)
            return [len(before), len(await read_names(session))]

        inserting = asyncio.create_task(insert())
        counts = await db.run(count_twice, isolation=isolation)
        await inserting
        assert (counts, await raw.count(db, "ohlcv")) == ([1, 1], 2)

    async def test_serializable_transactions_do_what_some_order_of_them_does(self, db: DatabaseManager) -> None:
        needs(db, Capability.ISOLATION)
        names = ["a", "b"]
        for name in names:
            await add(db, name)
            await change(db, name, 1)
        have_read = {name: asyncio.Event() for name in names}

        async def clear(session: Any, own: str, other: str) -> None:
            """Set the row ``own`` to 0 if neither ``own`` nor ``other`` is 0."""
            found = [await read_value(session, name) for name in names]
            have_read[own].set()
            await wait_briefly(db, have_read[other])
            if all(found):
                await change(session, own, 0)

        orders = (names, names[::-1])
        works = (partial(clear, own=own, other=other) for own, other in orders)
        await asyncio.gather(*(db.run(work, isolation="serializable", retries=50) for work in works))
        left = sum([await read_value(db, name) or 0 for name in names])
        assert left == 1, (
            "serializable transactions must have the result of running one after the other: each of two sets its row to 0 "
            f"if neither row is 0, so the rows must add up to 1, not {left} (write skew)"
        )

    async def test_read_committed_can_be_asked_for_everywhere(self, db: DatabaseManager) -> None:
        await db.run(Failing(), isolation="read committed")
        assert await raw.count(db, "ohlcv") == 1

    async def test_isolation_that_is_not_declared_is_unsupported(self, db: DatabaseManager) -> None:
        lacks(db, Capability.ISOLATION)
        with pytest.raises(Unsupported, match="leave isolation out"):
            await db.run(Failing(), isolation="serializable")

    async def test_wrong_arguments_of_run_are_refused_before_the_work(self, db: DatabaseManager) -> None:
        work = Failing()
        with pytest.raises(InvalidValueError, match=r"isolation.*'dirty'"):
            await db.run(work, isolation="dirty")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(InvalidValueError, match="retries"):
            await db.run(work, retries=-1)
        assert work.runs == 0

    async def test_ping_says_how_long_the_database_took(self, empty_db: DatabaseManager) -> None:
        assert 0 < await empty_db.ping() < 60


@requires(Capability.RECORDS)
class RecordTests(SuiteFixtures):
    """TradeRepository.record inserts a new trade, or returns the id of an equal stored trade."""

    async def test_record_inserts_a_new_trade(self, db: DatabaseManager) -> None:
        number = await TradeRepository(db).record(full_trade())
        found = await TradeRepository(db).get_by_id(number)
        assert found is not None
        assert replace(found, id=None, created_at=None, updated_at=None) == full_trade()

    async def test_an_equal_trade_is_recorded_once(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        assert await repository.record(full_trade()) == await repository.record(full_trade())
        assert await raw.count(db, "trades") == 1

    async def test_a_trade_that_insert_stored_is_known_again(self, db: DatabaseManager) -> None:
        number = await TradeRepository(db).insert(full_trade())
        assert await TradeRepository(db).record(full_trade()) == number

    async def test_a_trade_is_equal_as_stored(self, db: DatabaseManager) -> None:
        first = trade(leverage=Decimal(1) / 3, fee=Decimal("0.10"), decision_reasons={"a": Decimal("1.5"), "b": (1, 2)})
        number = await TradeRepository(db).record(first)
        east = timezone(timedelta(hours=5))
        same = replace(
            first,
            leverage=Decimal("0.333333333333333333"),
            fee=Decimal("0.1"),
            decision_reasons={"b": [1, 2], "a": "1.5"},
            entry_time=first.entry_time.astimezone(east),
        )
        assert await TradeRepository(db).record(same) == number

    async def test_a_conflict_names_the_fields_that_differ_and_changes_nothing(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        number = await repository.record(full_trade())
        other = replace(full_trade(), fee=Decimal(77), exit_time=None, llm_analysis={"flood": "a very private reason" * 1_000})
        with pytest.raises(TradeConflictError, match="fee") as caught:
            await repository.record(other)
        assert set(caught.value.fields) == {"fee", "exit_time", "llm_analysis"}
        assert all(field in str(caught.value) for field in caught.value.fields)
        assert "private" not in str(caught.value)
        assert await repository.record(full_trade()) == number

    async def test_json_that_only_python_holds_equal_is_a_conflict(self, db: DatabaseManager) -> None:
        await TradeRepository(db).record(trade(decision_reasons={"strong": True}))
        with pytest.raises(TradeConflictError):
            await TradeRepository(db).record(trade(decision_reasons={"strong": 1}))

    async def test_after_a_caught_conflict_earlier_and_later_writes_commit(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            repository = TradeRepository(session)
            await repository.record(trade("a"))
            with pytest.raises(TradeConflictError):
                await repository.record(trade("a", fee=Decimal(77)))
            await repository.record(trade("b"))
        assert await raw.count(db, "trades") == 2

    async def test_one_trade_recorded_by_many_tasks_is_stored_once(self, db: DatabaseManager) -> None:
        numbers = await asyncio.gather(*(TradeRepository(db).record(trade()) for _ in range(6)))
        assert len(set(numbers)) == 1
        assert await raw.count(db, "trades") == 1

    async def test_a_trade_recorded_while_another_session_inserts_it_is_known_again(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            number = await TradeRepository(session).insert(trade())
            recording = asyncio.create_task(TradeRepository(db).record(trade()))
            await asyncio.sleep(0)
        assert await recording == number

    async def test_record_refuses_what_insert_refuses(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="side"):
            await TradeRepository(db).record(trade(side="up"))


class RunningTests(RunTests, RecordTests):
    """All tests of `run`, which retries transactions, and of `TradeRepository.record`."""
