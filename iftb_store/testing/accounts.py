"""Tests of the accounts of trades, positions and events, and of the strategies, exit reasons and tags of trades."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from iftb_store import (
    AmbiguousPositionError,
    DatabaseManager,
    InvalidValueError,
    NotFoundError,
    Position,
    PositionRepository,
    SystemEventRepository,
    TradeConflictError,
    TradeRepository,
)
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import POSITIONS, TRADES, RowFilter
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, requires
from iftb_store.testing.samples import HOUR, NOW, T0, Clock, as_given, full_trade, position, trade

_ROCKET = "\N{ROCKET}"
# a careless search for one of these tags would find another one
_ODD = ['"', '","', "]", "[", "\\", 'a"', "\\u002c", "%", "_", "'", "a\nb"]
_TAGS = ["a", "A", "ab", "a,b", "a b", "Ü", _ROCKET, "x" * 255, *_ODD]
_BAD_ACCOUNTS = [("account", value) for value in (" ", "n\0l", "half \ud83d", "x" * 256, "Ü" * 128, 1, b"a")]


class AccountTests(SuiteFixtures):
    """A repository of an account reads and writes that account's rows; one of none reads all."""

    async def test_a_row_without_an_account_has_the_empty_one(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade("a"))
        await PositionRepository(db).update_position(position())
        await SystemEventRepository(db).log_event("start", "info", "")
        for table in ("trades", "positions", "system_events"):
            assert await raw.value(db, f"SELECT account FROM {table}") == ""

    async def test_a_repository_of_an_account_writes_its_rows(self, db: DatabaseManager) -> None:
        await TradeRepository(db, account="bot-a").insert(trade("a"))
        await PositionRepository(db, account="bot-a").update_position(position())
        await SystemEventRepository(db, account="bot-a").log_event("start", "info", "")
        for table in ("trades", "positions", "system_events"):
            stored = await raw.value(db, f"SELECT account FROM {table}")
            assert stored == "bot-a", f"a row of {table} must belong to the repository's account"

    async def test_an_account_sees_its_own_trades_only(self, db: DatabaseManager) -> None:
        everyone, alice, bob = (TradeRepository(db, account=account, clock=Clock()) for account in (None, "a", "b"))
        number = await alice.insert(trade("a", realized_pnl=Decimal(1), fee=Decimal(2), exit_time=NOW - HOUR))
        await bob.insert(trade("b"))
        await everyone.insert(trade("c"))
        rule = "a repository of an account must see its own rows only"
        assert [item.trade_id for item in await alice.get_recent()] == ["a"], rule
        assert [item.trade_id for item in await bob.get_by_symbol("BTCUSDT")] == ["b"], rule
        assert [item.trade_id for item in await bob.get_open()] == ["b"], rule
        assert [item.trade_id for item in await bob.get_range(T0, T0)] == ["b"], rule
        assert (await bob.get_by_id(number), await bob.get_by_trade_id("a")) == (None, None), rule
        assert [(await one.get_statistics()).total_fees for one in (alice, bob)] == [Decimal(2), Decimal(0)], rule
        assert [item.trade_id for item in await TradeRepository(db, account="").get_recent()] == ["c"], rule
        assert {item.trade_id for item in await everyone.get_recent()} == {"a", "b", "c"}
        assert [item.account for item in await everyone.get_recent(account="a")] == ["a"]

    async def test_an_account_sees_its_own_positions_and_events_only(self, db: DatabaseManager) -> None:
        for account in ("a", "b"):
            await PositionRepository(db, account=account).update_position(position(quantity=Decimal(ord(account))))
            await SystemEventRepository(db, account=account).log_event(account, "info", "")
        rule = "a repository of an account must see its own rows only"
        for account in ("a", "b"):
            positions, events = PositionRepository(db, account=account), SystemEventRepository(db, account=account)
            assert [item.account for item in await positions.get_open_positions()] == [account], rule
            found = await positions.get_position("BTCUSDT")
            assert found is not None
            assert found.quantity == ord(account), rule
            assert [item.event_type for item in await events.get_events()] == [account], rule
            assert [item.event_type for item in await events.get_recent_events()] == [account], rule
            assert [item.event_type for item in await SystemEventRepository(db).get_events(account=account)] == [account]
            assert [item.account for item in await PositionRepository(db).get_open_positions(account=account)] == [account]
        assert len(await PositionRepository(db).get_open_positions()) == 2
        assert len(await SystemEventRepository(db).get_events()) == 2

    async def test_an_account_reads_its_own_rows_as_arrow(self, db: DatabaseManager) -> None:
        for account in ("a", "b"):
            await TradeRepository(db, account=account).insert(trade(account))
        table = await TradeRepository(db, account="b").read_arrow()
        assert table.select(["trade_id", "account", "tags"]).to_pylist() == [{"trade_id": "b", "account": "b", "tags": "[]"}]
        batches = [batch["trade_id"].to_pylist() async for batch in TradeRepository(db).stream_arrow(account="a")]
        assert batches == [["a"]]

    async def test_the_rows_of_another_account_are_not_changed(self, db: DatabaseManager) -> None:
        number = await TradeRepository(db, account="a").insert(trade("a"))
        await PositionRepository(db, account="a").update_position(position())
        (stored,) = await PositionRepository(db).get_open_positions()
        bob = PositionRepository(db, account="b")
        with pytest.raises(NotFoundError, match="no trade of the account 'b' has the id"):
            await TradeRepository(db, account="b").update(number, fee=Decimal(1))
        with pytest.raises(NotFoundError, match="no position of the account 'b' has the id"):
            await bob.close_position(stored.id or 0)
        with pytest.raises(NotFoundError, match="no position of the account 'b' has the id"):
            await bob.update_position(replace(stored, account="b"))
        assert [item.fee for item in await TradeRepository(db).get_recent()] == [0]
        assert await PositionRepository(db).get_open_positions() == [stored]

    async def test_a_row_of_another_account_is_refused(self, db: DatabaseManager) -> None:
        trades, positions = TradeRepository(db, account="a"), PositionRepository(db, account="a")
        number = await trades.insert(trade("a", account="a"))
        calls: list[Any] = [
            trades.insert(trade("b", account="b")),
            trades.record(trade("b", account="b")),
            trades.update(number, account="b"),
            trades.get_recent(account="b"),
            trades.get_statistics(account="b"),
            positions.update_position(position(account="b")),
            positions.get_open_positions(account="b"),
            positions.get_position("BTCUSDT", account="b"),
            SystemEventRepository(db, account="a").get_events(account="b"),
        ]
        for call in calls:
            with pytest.raises(InvalidValueError, match="the account 'b' is not 'a', whose rows this repository reads"):
                await call
        assert await raw.count(db, "trades") == 1

    async def test_a_row_keeps_the_account_that_it_names(self, db: DatabaseManager) -> None:
        given = trade("a", account="b")
        number = await TradeRepository(db).insert(given)
        await PositionRepository(db).update_position(position(account="b"))
        assert given == trade("a", account="b")
        stored = await TradeRepository(db, account="b").get_by_id(number)
        assert stored is not None
        assert as_given(stored) == given
        await TradeRepository(db).update(number, account="c")
        assert [item.account for item in await TradeRepository(db).get_recent()] == ["c"]
        assert [item.account for item in await PositionRepository(db).get_open_positions()] == ["b"]

    async def test_an_account_is_any_short_name(self, db: DatabaseManager) -> None:
        long, accounts = _ROCKET * 255, ("x" * 255, "Ü" * 127, _ROCKET, "a b", "NULL", "'; --")
        for account in accounts:
            trades = TradeRepository(db, account=account)
            await trades.insert(trade(account, symbol=long, exchange=long))
            await PositionRepository(db, account=account).update_position(position(symbol=long, exchange=long))
            assert [item.account for item in await trades.get_recent()] == [account]
        assert len(await PositionRepository(db).get_open_positions(long)) == len(accounts)

    async def test_an_account_that_no_row_can_have_is_refused(self, db: DatabaseManager) -> None:
        async def create(name: str, value: Any) -> None:
            TradeRepository(db, account=value)

        await assert_refused(create, _BAD_ACCOUNTS)
        await assert_refused(lambda _, value: TradeRepository(db).insert(trade("a", account=value)), _BAD_ACCOUNTS)
        await assert_refused(lambda _, value: TradeRepository(db).get_recent(account=value), _BAD_ACCOUNTS)
        await assert_refused(lambda _, value: PositionRepository(db).update_position(position(account=value)), _BAD_ACCOUNTS)
        assert await raw.count(db, "trades") == 0

    async def test_a_trade_id_is_unique_among_all_accounts(self, db: DatabaseManager) -> None:
        await TradeRepository(db, account="a").insert(trade("T"))
        with pytest.raises(IntegrityError, match="'T' is already stored"):
            await TradeRepository(db, account="b").insert(trade("T"))
        with pytest.raises(TradeConflictError) as caught:
            await TradeRepository(db, account="b").record(trade("T"))
        assert caught.value.fields == ("account",)


class AccountPositionTests(SuiteFixtures):
    """At most one position is open per exchange, account, symbol and side."""

    async def test_each_account_has_its_own_open_position(self, db: DatabaseManager) -> None:
        for account, quantity in product(("a", "b", ""), (1, 2)):
            await PositionRepository(db).update_position(position(account=account, quantity=Decimal(quantity)))
        found = await PositionRepository(db).get_open_positions()
        rule = "each account must have an open position of its own"
        assert sorted((item.account, int(item.quantity)) for item in found) == [("", 2), ("a", 2), ("b", 2)], rule
        assert await raw.count(db, "positions") == 3, rule

    async def test_a_second_open_position_of_an_account_is_refused(self, db: DatabaseManager) -> None:
        await PositionRepository(db, account="a").update_position(position())
        await PositionRepository(db, account="b").update_position(position())
        (own,) = await PositionRepository(db, account="a").get_open_positions()
        (other,) = await PositionRepository(db, account="b").get_open_positions()
        with pytest.raises(IntegrityError):
            await PositionRepository(db).update_position(replace(own, account="b"))
        async with db.get_session() as session:
            with pytest.raises(IntegrityError):
                await get_stores(session).records.update(POSITIONS, {"id": own.id}, {"account": "b"})
        assert await PositionRepository(db).get_open_positions() == [own, other]

    async def test_positions_of_several_accounts_are_ambiguous(self, db: DatabaseManager) -> None:
        for account in ("a", "b"):
            await PositionRepository(db, account=account).update_position(position())
        with pytest.raises(AmbiguousPositionError, match=r"long one on binance of the account 'a' .* select one with account="):
            await PositionRepository(db).get_position("BTCUSDT")
        found = await PositionRepository(db).get_position("BTCUSDT", account="b")
        assert found is not None
        assert found.account == "b"
        await PositionRepository(db, account="a").update_position(position(side="short"))
        with pytest.raises(AmbiguousPositionError, match="select one with account= and side="):
            await PositionRepository(db).get_position("BTCUSDT")
        with pytest.raises(AmbiguousPositionError, match="both a long and a short position of BTCUSDT"):
            await PositionRepository(db, account="a").get_position("BTCUSDT")

    async def test_accounts_open_their_positions_at_once(self, db: DatabaseManager) -> None:
        accounts = [f"bot-{number}" for number in range(8)]
        await asyncio.gather(*(PositionRepository(db, account=name).update_position(position()) for name in accounts * 2))
        found: list[Position] = await PositionRepository(db).get_open_positions()
        assert sorted(item.account for item in found) == accounts


class TagTests(SuiteFixtures):
    """Trades are found by their strategy, their exit reason and their tags."""

    async def test_strategy_reason_and_tags_come_back_as_they_were_stored(self, db: DatabaseManager) -> None:
        given = replace(full_trade("full"), tags=[*_TAGS, "a"])
        for item in (given, trade("none")):
            await TradeRepository(db).insert(item)
            stored = await TradeRepository(db).get_by_trade_id(item.trade_id)
            assert stored is not None
            assert as_given(stored) == item, "a trade must come back as it was stored"
        number = await TradeRepository(db).record(given)
        tags: Any = ("x",)
        await TradeRepository(db).update(number, tags=tags, strategy=None, exit_reason="manual")
        changed = await TradeRepository(db).get_by_id(number)
        assert changed is not None
        assert (changed.tags, changed.strategy, changed.exit_reason) == (["x"], None, "manual")

    async def test_tags_are_compared_in_their_order(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade("T", tags=["a", "b"]))
        await TradeRepository(db).record(trade("T", tags=["a", "b"]))
        with pytest.raises(TradeConflictError) as caught:
            await TradeRepository(db).record(trade("T", tags=["b", "a"]))
        assert caught.value.fields == ("tags",)

    async def test_a_trade_is_found_by_each_of_its_tags_only(self, db: DatabaseManager) -> None:
        for number, tag in enumerate(_TAGS):
            await TradeRepository(db).insert(trade(str(number), tags=[tag]))
        await TradeRepository(db).insert(trade("all", tags=_TAGS))
        await TradeRepository(db).insert(trade("none"))
        for number, tag in enumerate(_TAGS):
            found = {item.trade_id for item in await TradeRepository(db).get_recent(tag=tag)}
            assert found == {"all", str(number)}, f"a trade must be found by its tags and by no other text: {tag!r}"
        assert await TradeRepository(db).get_recent(tag="b") == []
        async with db.get_session() as session:
            rows = await get_stores(session).read_rows(RowFilter(TRADES, tag='"'))
        assert set(rows["trade_id"].to_pylist()) == {"all", str(_TAGS.index('"'))}

    async def test_lists_and_statistics_apply_all_filters_together(self, db: DatabaseManager) -> None:
        trades: Any = TradeRepository(db, clock=Clock())
        kinds = list(product("ab", ("s", None), ("r", None), "tu"))
        for number, (account, strategy, reason, tag) in enumerate(kinds):
            item = trade(str(number), account=account, strategy=strategy, exit_reason=reason, tags=["x", tag])
            await trades.insert(item)
            closed = replace(item, trade_id=f"closed {number}", action="close", exit_time=NOW - HOUR, symbol="ETHUSDT")
            await trades.insert(replace(closed, realized_pnl=Decimal(2**number), entry_time=T0 + 2 * HOUR))
        names = ("account", "strategy", "exit_reason", "tag")
        for wanted in product((None, "a"), (None, "s"), (None, "r"), (None, "u")):
            filters = {name: value for name, value in zip(names, wanted, strict=True) if value is not None}
            numbers = [
                number
                for number, kind in enumerate(kinds)
                if all(value in (None, kind[place]) for place, value in enumerate(wanted))
            ]
            rule = f"every list and get_statistics must apply the filters {filters}"
            for listed in (
                await trades.get_open(**filters),
                await trades.get_range(T0, T0, **filters),
                await trades.get_by_symbol("BTCUSDT", **filters),
                [item for item in await trades.get_recent(**filters) if item.action == "open"],
            ):
                assert sorted(int(item.trade_id) for item in listed) == numbers, rule
            figures = await trades.get_statistics(**filters)
            assert figures.gross_profit == sum(2**number for number in numbers), rule
            assert figures.total_trades == len(numbers), rule

    async def test_unknown_filters_and_wrong_values_are_refused(self, db: DatabaseManager) -> None:
        trades: Any = TradeRepository(db)
        with pytest.raises(InvalidValueError, match=r"there is no filter 'stratgy'; did you mean strategy\?"):
            await trades.get_recent(stratgy="s")
        bad = [(name, value) for name in ("strategy", "exit_reason", "tag") for value in ("", " ", 1, "x" * 256)]
        await assert_refused(lambda name, value: trades.get_open(**{name: value}), bad)
        await assert_refused(lambda name, value: trades.get_statistics(**{name: value}), bad)
        lists = [("tags", value) for value in ("a", None, {"a"}, ["a", ""], [1], ["a\0"], ["a"] * 1_001)]
        await assert_refused(lambda _, value: trades.insert(trade("a", tags=value)), lists)
        assert await trades.get_recent(strategy=None, tag=None) == []


@requires(Capability.RECORDS)
class RecordAccountTests(AccountTests, AccountPositionTests, TagTests):
    """Accounts, strategies and tags of records."""
