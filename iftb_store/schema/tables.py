"""The schema of all engines, defined once as SQLModel tables; ``Base.metadata`` contains it.

A series of bars is (exchange, symbol, timeframe). On PostgreSQL the series and the timestamp are the primary key of
``ohlcv`` and ``id`` is an identity column, so that the table can be partitioned. On SQLite ``id`` is the primary key, because
SQLite generates only the values of a primary key, and a constraint makes the series with the timestamp unique. On DuckDB
``ohlcv`` has no key, because DuckDB would keep the key's index in memory; the backend refuses duplicates instead, while it
holds its write lock.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, func, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import registry
from sqlalchemy.schema import CreateColumn, CreateIndex
from sqlalchemy.sql.functions import FunctionElement
from sqlmodel import Field, SQLModel

from iftb_store.schema.types import ExactDecimal, JSONObject, TextList, UTCDateTime
from iftb_store.schema.views import create_views, drop_views
from iftb_store.values.choices import ACTIONS, FILL_SIDES, LEDGER_KINDS, LIQUIDITIES, SEVERITIES, SIDES, STATUSES
from iftb_store.values.timeframes import TIMEFRAMES

OPEN = "status = 'open'"
REALIZED = "realized_pnl IS NOT NULL"

_GENERATED, _WHERE = "iftb_store.generated", "iftb_store.where"
# keys of a column's info, which `iftb_store.schema.table_spec` reads: the words that the column accepts, whether its text is a
# name, whether it is a short one, and the revision that added the column to the table
CHOICES, NAME, SHORT, SINCE = "iftb_store.choices", "iftb_store.name", "iftb_store.short", "iftb_store.since"


class Base(SQLModel, registry=registry()):
    """Base class of the tables; its metadata contains only the tables of iftb-store."""


class Key(sa.TypeDecorator[str]):
    """The column type of key columns: text that every engine compares bytewise, so that keys sort alike on all engines."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        """Return Text, on PostgreSQL with the collation C, which compares bytes."""
        return dialect.type_descriptor(sa.Text(collation="C") if dialect.name == "postgresql" else sa.Text())


class StoreNow(FunctionElement[datetime]):
    """A column default: the current time, computed by the engine, for rows that raw SQL inserts."""

    inherit_cache = True
    type = UTCDateTime()


@compiles(StoreNow)
def _now(element: StoreNow, compiler: Any, **options: Any) -> str:
    return "now()"


@compiles(StoreNow, "sqlite")
def _now_sqlite(element: StoreNow, compiler: Any, **options: Any) -> str:
    return "(CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000)"


@compiles(CreateColumn, "sqlite")
def _column_sqlite(element: CreateColumn, compiler: Any, **options: Any) -> Any:
    if _GENERATED in element.element.info:
        return f"{element.element.name} INTEGER NOT NULL PRIMARY KEY"
    return compiler.visit_create_column(element, **options)


@compiles(CreateColumn, "duckdb")
def _column_duckdb(element: CreateColumn, compiler: Any, **options: Any) -> Any:
    if _GENERATED in element.element.info:
        return f"{element.element.name} BIGINT DEFAULT nextval('{element.element.table.name}_id_seq') NOT NULL"
    return compiler.visit_create_column(element, **options)


@compiles(CreateIndex)
def _partial_index(element: CreateIndex, compiler: Any, **options: Any) -> str:
    # SQLAlchemy's option postgresql_where is not used: it imports the dialects of all drivers, a tenth of the import time
    created: str = compiler.visit_create_index(element, **options)
    where = element.element.info.get(_WHERE)
    return created if where is None else f"{created} WHERE {where}"


def _id() -> Any:
    return Field(default=None, sa_column=sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False, info={_GENERATED: True}))


def _key(
    name: str, *, nullable: bool = False, choices: Collection[str] = (), short: bool = False, since: str | None = None
) -> Any:
    info = {CHOICES: tuple(choices), NAME: True, SHORT: short, SINCE: since}
    return Field(default=None, sa_column=sa.Column(name, Key, nullable=nullable, info=info))


def _text(name: str, *, nullable: bool = False, choices: Collection[str] = (), is_name: bool = False) -> Any:
    info = {CHOICES: tuple(choices), NAME: is_name}
    return Field(default=None, sa_column=sa.Column(name, sa.Text, nullable=nullable, info=info))


def _decimal(name: str, *, nullable: bool = False) -> Any:
    return Field(default=None, sa_column=sa.Column(name, ExactDecimal, nullable=nullable))


def _time(name: str, *, nullable: bool = False, now: bool = False) -> Any:
    default = StoreNow() if now else None
    return Field(default=None, sa_column=sa.Column(name, UTCDateTime, nullable=nullable, server_default=default))


def _account(since: str | None = None) -> Any:
    """Return the column of the account that a row belongs to; rows of no account have the empty text."""
    info = {NAME: True, SHORT: True, SINCE: since}
    return Field(default="", sa_column=sa.Column("account", Key, nullable=False, server_default="", info=info))


def _json(name: str) -> Any:
    return Field(default=None, sa_column=sa.Column(name, JSONObject, nullable=True))


def _primary_key(table: str, *columns: str, dialects: Collection[str] = ("postgresql", "duckdb")) -> sa.PrimaryKeyConstraint:
    # SQLite is not included: there the DDL of the id column already declares it the primary key
    constraint = sa.PrimaryKeyConstraint(*columns, name=f"pk_{table}")
    return constraint.ddl_if(callable_=lambda *args, dialect, **kwargs: dialect.name in dialects)


class OHLCVRow(Base, table=True):
    """The table of bars; on every engine, the ORM identifies a bar by its series and timestamp."""

    __tablename__ = "ohlcv"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        _primary_key("ohlcv", "exchange", "symbol", "timeframe", "timestamp", dialects=("postgresql",)),
        sa.UniqueConstraint("exchange", "symbol", "timeframe", "timestamp", name="uq_ohlcv").ddl_if(dialect="sqlite"),
    )

    id: int | None = _id()
    exchange: str = _key("exchange")
    symbol: str = _key("symbol")
    timeframe: str = _key("timeframe", choices=TIMEFRAMES)
    timestamp: datetime = _time("timestamp")
    open: Decimal = _decimal("open")
    high: Decimal = _decimal("high")
    low: Decimal = _decimal("low")
    close: Decimal = _decimal("close")
    volume: Decimal = _decimal("volume")
    quote_volume: Decimal | None = _decimal("quote_volume", nullable=True)
    trades_count: int | None = Field(default=None, sa_column=sa.Column("trades_count", sa.BigInteger, nullable=True))
    created_at: datetime | None = _time("created_at", now=True)


class TradeRow(Base, table=True):
    """The table of trades."""

    __tablename__ = "trades"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (_primary_key("trades", "id"), sa.UniqueConstraint("trade_id", name="uq_trades_trade_id"))

    id: int | None = _id()
    trade_id: str = _key("trade_id")
    symbol: str = _key("symbol")
    exchange: str = _key("exchange")
    side: str = _text("side", choices=SIDES)
    action: str = _text("action", choices=ACTIONS)
    entry_price: Decimal = _decimal("entry_price")
    quantity: Decimal = _decimal("quantity")
    entry_time: datetime = _time("entry_time")
    leverage: Decimal = _decimal("leverage")
    exit_price: Decimal | None = _decimal("exit_price", nullable=True)
    exit_time: datetime | None = _time("exit_time", nullable=True)
    realized_pnl: Decimal | None = _decimal("realized_pnl", nullable=True)
    realized_pnl_pct: Decimal | None = _decimal("realized_pnl_pct", nullable=True)
    fee: Decimal = _decimal("fee")
    signal_score: Decimal | None = _decimal("signal_score", nullable=True)
    technical_score: Decimal | None = _decimal("technical_score", nullable=True)
    llm_score: Decimal | None = _decimal("llm_score", nullable=True)
    xgb_confidence: Decimal | None = _decimal("xgb_confidence", nullable=True)
    stop_loss: Decimal | None = _decimal("stop_loss", nullable=True)
    take_profit: Decimal | None = _decimal("take_profit", nullable=True)
    position_size_pct: Decimal | None = _decimal("position_size_pct", nullable=True)
    decision_reasons: dict[str, Any] | None = _json("decision_reasons")
    llm_analysis: dict[str, Any] | None = _json("llm_analysis")
    created_at: datetime | None = _time("created_at", now=True)
    updated_at: datetime | None = _time("updated_at", now=True)
    account: str = _account("0004")
    strategy: str | None = _key("strategy", nullable=True, since="0004")
    exit_reason: str | None = _key("exit_reason", nullable=True, since="0004")
    tags: list[str] = Field(
        default=[], sa_column=sa.Column("tags", TextList, nullable=False, server_default="[]", info={SINCE: "0004"})
    )


class PositionRow(Base, table=True):
    """The table of open and closed positions; at most one is open per (exchange, account, symbol, side)."""

    __tablename__ = "positions"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (_primary_key("positions", "id"),)

    id: int | None = _id()
    symbol: str = _key("symbol")
    exchange: str = _key("exchange")
    side: str = _key("side", choices=SIDES)
    entry_price: Decimal = _decimal("entry_price")
    quantity: Decimal = _decimal("quantity")
    margin: Decimal = _decimal("margin")
    entry_time: datetime = _time("entry_time")
    current_price: Decimal | None = _decimal("current_price", nullable=True)
    unrealized_pnl: Decimal | None = _decimal("unrealized_pnl", nullable=True)
    status: str = _text("status", choices=STATUSES)
    leverage: Decimal = _decimal("leverage")
    unrealized_pnl_pct: Decimal | None = _decimal("unrealized_pnl_pct", nullable=True)
    liquidation_price: Decimal | None = _decimal("liquidation_price", nullable=True)
    stop_loss: Decimal | None = _decimal("stop_loss", nullable=True)
    take_profit: Decimal | None = _decimal("take_profit", nullable=True)
    trailing_stop: Decimal | None = _decimal("trailing_stop", nullable=True)
    trade_id: str | None = _key("trade_id", nullable=True)
    last_updated: datetime | None = _time("last_updated", now=True)
    created_at: datetime | None = _time("created_at", now=True)
    account: str = _account("0004")


class SystemEventRow(Base, table=True):
    """The table of system events."""

    __tablename__ = "system_events"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (_primary_key("system_events", "id"),)

    id: int | None = _id()
    event_type: str = _text("event_type", is_name=True)
    severity: str = _key("severity", choices=SEVERITIES)
    message: str = _text("message")
    details: dict[str, Any] | None = _json("details")
    symbol: str | None = _key("symbol", nullable=True)
    exchange: str | None = _key("exchange", nullable=True)
    trade_id: str | None = _key("trade_id", nullable=True)
    position_id: int | None = Field(default=None, sa_column=sa.Column("position_id", sa.BigInteger, nullable=True))
    stack_trace: str | None = _text("stack_trace", nullable=True)
    created_at: datetime | None = _time("created_at", now=True)
    account: str = _account("0004")


class FillRow(Base, table=True):
    """The table of the fills of orders."""

    __tablename__ = "fills"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        _primary_key("fills", "id"),
        sa.UniqueConstraint("exchange", "account", "symbol", "fill_id", name="uq_fills"),
    )

    fill_id: str = _key("fill_id", short=True)
    symbol: str = _key("symbol")
    exchange: str = _key("exchange")
    side: str = _text("side", choices=FILL_SIDES)
    price: Decimal = _decimal("price")
    quantity: Decimal = _decimal("quantity")
    timestamp: datetime = _time("timestamp")
    trade_id: str | None = _key("trade_id", nullable=True)
    order_id: str | None = _key("order_id", nullable=True)
    fee: Decimal = _decimal("fee")
    fee_currency: str | None = _key("fee_currency", nullable=True)
    liquidity: str | None = _text("liquidity", nullable=True, choices=LIQUIDITIES)
    account: str = _account()
    id: int | None = _id()
    created_at: datetime | None = _time("created_at", now=True)


class LedgerRow(Base, table=True):
    """The table of the entries of the ledger: money that came, went or moved outside of trades."""

    __tablename__ = "ledger_entries"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        _primary_key("ledger_entries", "id"),
        sa.UniqueConstraint("exchange", "account", "kind", "external_id", name="uq_ledger_entries"),
    )

    kind: str = _key("kind", choices=LEDGER_KINDS)
    currency: str = _key("currency")
    amount: Decimal = _decimal("amount")
    timestamp: datetime = _time("timestamp")
    exchange: str = _key("exchange")
    symbol: str | None = _key("symbol", nullable=True)
    trade_id: str | None = _key("trade_id", nullable=True)
    external_id: str = _key("external_id", short=True)
    details: dict[str, Any] | None = _json("details")
    account: str = _account()
    id: int | None = _id()
    created_at: datetime | None = _time("created_at", now=True)


class BalanceRow(Base, table=True):
    """The table of snapshots of balances."""

    __tablename__ = "balance_snapshots"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        _primary_key("balance_snapshots", "id"),
        sa.UniqueConstraint("exchange", "account", "currency", "timestamp", name="uq_balance_snapshots"),
    )

    exchange: str = _key("exchange")
    currency: str = _key("currency")
    timestamp: datetime = _time("timestamp")
    total: Decimal = _decimal("total")
    free: Decimal | None = _decimal("free", nullable=True)
    used: Decimal | None = _decimal("used", nullable=True)
    unrealized_pnl: Decimal | None = _decimal("unrealized_pnl", nullable=True)
    account: str = _account()
    id: int | None = _id()
    created_at: datetime | None = _time("created_at", now=True)


class BarDigestRow(Base, table=True):
    """The table in which the destination of a copy keeps a digest of the bars of each series and day."""

    __tablename__ = "bar_digests"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (sa.PrimaryKeyConstraint("exchange", "symbol", "timeframe", "day", name="pk_bar_digests"),)

    exchange: str = _key("exchange")
    symbol: str = _key("symbol")
    timeframe: str = _key("timeframe", choices=TIMEFRAMES)
    day: datetime = _time("day")
    bar_count: int = Field(default=None, sa_column=sa.Column("bar_count", sa.BigInteger, nullable=False))
    digest: str = _text("digest")
    checked_at: datetime = _time("checked_at")


class CoverageRow(Base, table=True):
    """The table of the ranges of bars that were asked for; its rows need no id, and the key's index serves every read."""

    __tablename__ = "coverage"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (sa.PrimaryKeyConstraint("exchange", "symbol", "timeframe", "first", name="pk_coverage"),)

    exchange: str = _key("exchange")
    symbol: str = _key("symbol")
    timeframe: str = _key("timeframe", choices=TIMEFRAMES)
    first: datetime = _time("first")
    last: datetime = _time("last")
    asked_at: datetime = _time("asked_at")
    source: str = _text("source")


for _table in Base.metadata.tables.values():
    for _column in _table.columns:
        # the timeframe has no constraint, so that a new timeframe needs no migration
        if (_words := _column.info.get(CHOICES)) and _column.name != "timeframe":
            _listed = ", ".join(f"'{word}'" for word in _words)
            _name = f"ck_{_table.name}_{_column.name}"
            _table.append_constraint(sa.CheckConstraint(f"{_column.name} IN ({_listed})", name=_name))

_ROW_STORES = ("postgresql", "sqlite")


def _index(name: str, *columns: Any, dialects: Collection[str] = _ROW_STORES, **options: Any) -> None:
    # DuckDB reads whole columns, so an index is useful there only to enforce uniqueness
    sa.Index(name, *columns, **options).ddl_if(callable_=lambda *args, dialect, **kwargs: dialect.name in dialects)


_trades, _positions, _events = (Base.metadata.tables[name] for name in ("trades", "positions", "system_events"))
_index("ix_trades_recent", _trades.c.entry_time, _trades.c.id)
_index("ix_trades_symbol", _trades.c.exchange, _trades.c.symbol, _trades.c.entry_time, _trades.c.id)
_index(
    "ix_trades_realized", _trades.c.exchange, func.coalesce(_trades.c.exit_time, _trades.c.updated_at), info={_WHERE: REALIZED}
)
_open_key = (_positions.c.exchange, _positions.c.account, _positions.c.symbol, _positions.c.side)
_index("uq_positions_open", *_open_key, unique=True, info={_WHERE: OPEN})
_index(
    "uq_positions_open_key",
    *(text(f"(CASE WHEN status = 'open' THEN {column.name} END)") for column in _open_key),
    dialects=("duckdb",),
    unique=True,
    _table=_positions,
)
_index("ix_events_recent", _events.c.created_at, _events.c.id)
_index("ix_events_severity", _events.c.severity, _events.c.created_at, _events.c.id)
_fills, _ledger, _balances = (Base.metadata.tables[name] for name in ("fills", "ledger_entries", "balance_snapshots"))
_index("ix_fills_recent", _fills.c.timestamp, _fills.c.id)
_index("ix_fills_symbol", _fills.c.exchange, _fills.c.symbol, _fills.c.timestamp, _fills.c.id)
_index("ix_fills_trade", _fills.c.trade_id, _fills.c.timestamp, _fills.c.id)
_index("ix_ledger_entries_recent", _ledger.c.timestamp, _ledger.c.id)
_index("ix_ledger_entries_trade", _ledger.c.trade_id, _ledger.c.timestamp, _ledger.c.id)
_index("ix_balance_snapshots_recent", _balances.c.timestamp, _balances.c.id)


def _create_sequence(table: sa.Table, connection: sa.Connection, **options: Any) -> None:
    if connection.dialect.name == "duckdb":
        connection.execute(text(f"CREATE SEQUENCE IF NOT EXISTS {table.name}_id_seq"))


def _drop_sequence(table: sa.Table, connection: sa.Connection, **options: Any) -> None:
    if connection.dialect.name == "duckdb":
        connection.exec_driver_sql(f"DROP SEQUENCE IF EXISTS {table.name}_id_seq")


for _table in Base.metadata.tables.values():
    if "id" in _table.columns:
        event.listen(_table, "before_create", _create_sequence)
        event.listen(_table, "after_drop", _drop_sequence)

event.listen(Base.metadata, "after_create", create_views)
event.listen(Base.metadata, "before_drop", drop_views)
