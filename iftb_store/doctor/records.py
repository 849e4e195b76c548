"""Checks across rows: trades that are only partly closed, positions and events whose trade is missing, and ids."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Table, text

from iftb_store.doctor.checks import SHOWN_ROWS, Check, Finding, join_conditions, make_finding, select_repeated
from iftb_store.doctor.sql import Engine
from iftb_store.doctor.values import BARS, EVENTS, FILLS, LEDGER, POSITIONS, TRADES
from iftb_store.schema.scope import TABLES
from iftb_store.schema.tables import Base

_IS_CLOSED = "action IN ('close', 'liquidated')"
_UPDATE_TRADE = (
    "await TradeRepository(db).update(ID, exit_price=…, exit_time=…, realized_pnl=…) with the values from the exchange"
)
_BEHIND = "new rows would get ids that are in use, and be refused or become duplicates; move the sequence past the largest id"


def _same(engine: Engine, table: str, other: str, *columns: str) -> str:
    """Return the SQL condition that text columns have the same values in two tables."""
    compared = engine.compared.format
    return join_conditions(*(f"{compared(f'{table}.{name}')} = {compared(f'{other}.{name}')}" for name in columns))


def _checks(engine: Engine) -> tuple[Check, ...]:
    """Return the checks for contradictions within a row, and for references to rows that are missing or contradict it."""
    trade_of_position, trade_of_event, trade_of_fill, trade_of_entry = (
        f"SELECT 1 FROM trades WHERE {_same(engine, 'trades', table.name, 'trade_id')}"
        for table in (POSITIONS, EVENTS, FILLS, LEDGER)
    )
    its_market = _same(engine, "trades", "fills", "exchange", "account", "symbol")
    its_position = f"""SELECT 1 FROM positions WHERE positions.status = 'open' AND (
        {_same(engine, "positions", "trades", "trade_id")}
        OR (positions.trade_id IS NULL AND {_same(engine, "positions", "trades", "exchange", "account", "symbol", "side")}))"""
    return (
        Check(
            "closed without exit",
            "warning",
            TRADES,
            "exit_price, realized_pnl",
            f"{_IS_CLOSED} AND (exit_price IS NULL OR realized_pnl IS NULL)",
            f"statistics ignore trades without realized_pnl; {_UPDATE_TRADE}",
        ),
        Check(
            "closed without exit",
            "warning",
            TRADES,
            "exit_time",
            f"{_IS_CLOSED} AND exit_price IS NOT NULL AND realized_pnl IS NOT NULL AND exit_time IS NULL",
            "statistics use the time of the trade's last update, which can be set as the exit_time",
            "UPDATE trades SET exit_time = updated_at",
        ),
        *(
            Check(
                "quantity not above 0",
                "warning",
                table,
                "quantity",
                join_conditions(which, f"quantity <= {engine.zero}"),
                f"the quantity is positive even if side is short; {remedy}",
            )
            for table, which, remedy in (
                (TRADES, "", "correct it: await TradeRepository(db).update(ID, quantity=…)"),
                (POSITIONS, "status = 'open'", "close it, or correct it: await PositionRepository(db).update_position(…)"),
                (FILLS, "", "delete the fill, record it as the exchange reports it, and apply_fills again"),
            )
        ),
        Check(
            "exit before entry",
            "warning",
            TRADES,
            "exit_time",
            "exit_time < entry_time",
            "one of the two times is wrong; correct it: await TradeRepository(db).update(ID, exit_time=…)",
        ),
        Check(
            "open with an exit",
            "warning",
            TRADES,
            "action",
            "action = 'open' AND realized_pnl IS NOT NULL AND exit_price IS NOT NULL",
            "the trade has exit_price and realized_pnl, and statistics include it, so it is closed",
            "UPDATE trades SET action = 'close'",
        ),
        Check(
            "open with realized_pnl",
            "warning",
            TRADES,
            "realized_pnl",
            "action = 'open' AND realized_pnl IS NOT NULL AND exit_price IS NULL",
            "statistics include the trade as closed; if it is still open, it must have no realized_pnl",
            "UPDATE trades SET realized_pnl = NULL",
        ),
        Check(
            "open without a position",
            "warning",
            TRADES,
            "",
            f"action = 'open' AND EXISTS (SELECT 1 FROM positions) AND NOT EXISTS ({its_position})",
            f"if it is closed, {_UPDATE_TRADE} and action='close'; if not, await PositionRepository(db).update_position(…)",
        ),
        Check(
            "position without its trade",
            "warning",
            POSITIONS,
            "trade_id",
            f"trade_id IS NOT NULL AND NOT EXISTS ({trade_of_position})",
            "no trade has this trade_id; restore the trade, or clear the trade_id of the position",
            "UPDATE positions SET trade_id = NULL",
        ),
        Check(
            "open position of a closed trade",
            "warning",
            POSITIONS,
            "status",
            f"status = 'open' AND EXISTS ({trade_of_position} AND trades.{_IS_CLOSED})",
            "if the exchange no longer has the position, close it",
            "UPDATE positions SET status = 'closed'",
        ),
        Check(
            "event of an unknown trade",
            "note",
            EVENTS,
            "trade_id",
            f"trade_id IS NOT NULL AND NOT EXISTS ({trade_of_event})",
            "a log may refer to deleted rows; this statement clears the reference",
            "UPDATE system_events SET trade_id = NULL",
        ),
        Check(
            "event of an unknown position",
            "note",
            EVENTS,
            "position_id",
            "position_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM positions WHERE positions.id = system_events.position_id)",
            "a log may refer to deleted rows; this statement clears the reference",
            "UPDATE system_events SET position_id = NULL",
        ),
        Check(
            "fill of another market",
            "warning",
            FILLS,
            "trade_id",
            f"trade_id IS NOT NULL AND EXISTS ({trade_of_fill} AND NOT ({its_market}))",
            "the trade has another exchange, account or symbol, so apply_fills refuses all its fills; clear the reference",
            "UPDATE fills SET trade_id = NULL",
        ),
        *(
            Check(
                f"{row} of an unknown trade",
                "note",
                table,
                "trade_id",
                f"trade_id IS NOT NULL AND NOT EXISTS ({its_trade})",
                "the trade may not be stored yet; if it was deleted, this statement clears the reference",
                f"UPDATE {table.name} SET trade_id = NULL",
            )
            for table, row, its_trade in ((FILLS, "fill", trade_of_fill), (LEDGER, "ledger entry", trade_of_entry))
        ),
    )


def _unique_checks(engine: Engine) -> Iterator[tuple[str, str, Check]]:
    """Yield a check for each key that must be unique, as (columns of the key, SQL condition of the rows concerned, check)."""
    keep = "the oldest row of each, with the smallest id, {}; check first which one is correct"
    for spec in (spec for spec in TABLES.values() if spec.unique):
        table, key = Base.metadata.tables[spec.name], ", ".join(spec.unique)
        if spec.unique_among:
            which = join_conditions(*(f"{name} = '{value}'" for name, value in spec.unique_among))
            kind, remedy, fix = "two open positions", keep.format("stays open"), "UPDATE positions SET status = 'closed'"
        else:
            which = join_conditions(*(f"{name} IS NOT NULL" for name in spec.unique))
            kind, remedy, fix = f"duplicate {spec.name}", keep.format("is kept"), f"DELETE FROM {spec.name}"
        yield key, which, Check(kind, "error", table, key, select_repeated(engine, table, key, which), remedy, fix)
    for table in (Base.metadata.tables[name] for name in TABLES):
        repeated = select_repeated(engine, table, "id", "id IS NOT NULL")
        remedy = "one row keeps each id, the others get new ids"
        fix = f"UPDATE {table.name} SET id = {engine.new_id.format(table.name)}"
        before = (engine.set_sequence.format(table.name),) if engine.set_sequence else ()
        yield "id", "id IS NOT NULL", Check("duplicate ids", "error", table, "id", repeated, remedy, fix, before)


def record_findings(conn: Connection, engine: Engine, sound: dict[str, str]) -> Iterator[Finding]:
    """Yield the problems that concern several rows or columns, e.g. duplicate keys and references to missing rows.

    Args:
        conn: the connection.
        engine: the engine's SQL fragments.
        sound: for each table the SQL condition that the values of a row are valid; empty if every row meets it.
    """
    for key, which, check in _unique_checks(engine):
        repeated = f"SELECT COUNT(*) - 1 AS more FROM {check.table.name} WHERE {which} GROUP BY {key} HAVING COUNT(*) > 1"
        count = conn.execute(text(f"SELECT SUM(more) FROM ({repeated}) repeated")).scalar_one()
        if count:
            yield make_finding(conn, engine, check, int(count))
    for check in _checks(engine):
        condition = join_conditions(check.condition, sound[check.table.name])
        count = conn.execute(text(f"SELECT COUNT(*) FROM {check.table.name} WHERE {condition}")).scalar_one()
        if count:
            yield make_finding(conn, engine, check, count, only=sound[check.table.name])


def id_findings(conn: Connection, engine: Engine) -> Iterator[Finding]:
    """Yield a finding for each table with gaps in the ids (except bars), or whose next id may already be in use.

    If this role may not read the sequences, one finding says so.
    """
    unseen = []
    for table in (Base.metadata.tables[name] for name in TABLES):
        sql = f"SELECT MIN(id), MAX(id), COUNT(*) FILTER (WHERE id IS NOT NULL) FROM {table.name}"
        first, last, count = conn.execute(text(sql)).one()
        if not count:
            continue
        missing = last - first + 1 - count
        if missing > 0 and table is not BARS:
            yield _missing(conn, engine, table, missing)
        if engine.sequence:
            row = conn.execute(text(engine.sequence.format(table.name))).first()
            if row is not None and not row[1]:
                unseen.append(table.name)
            elif row is not None and (row[0] or 0) < last:
                statement = engine.set_sequence.format(table.name)
                yield Finding("sequence behind its ids", "error", table.name, "id", (str(last),), 1, _BEHIND, (statement,))
    if unseen:
        remedy = "this role may not read the sequences of the ids; run the doctor again as the owner of the tables"
        yield Finding("sequences not examined", "note", ", ".join(unseen), "id", (), len(unseen), remedy)


def _missing(conn: Connection, engine: Engine, table: Table, missing: int) -> Finding:
    sql = f"""
        SELECT earlier + 1, id - 1 FROM (SELECT id, {engine.lag}(id) OVER (ORDER BY id) AS earlier FROM {table.name}) ids
        WHERE id > earlier + 1 ORDER BY id LIMIT {SHOWN_ROWS}"""
    ranges = tuple(str(first) if first == last else f"{first}-{last}" for first, last in conn.execute(text(sql)))
    if engine.leaves_gaps:
        why = "a rolled-back transaction or deleted rows leave such a gap; nothing needs to be done"
    elif table is EVENTS:
        why = "events were deleted, or copied from an engine whose ids have gaps; nothing needs to be done"
    else:
        # the two causes cannot be distinguished, and the second cannot be fixed
        why = "this engine leaves no gaps, so rows were deleted, or copied from another engine; look for the rows in a backup"
    return Finding("missing ids", "note", table.name, "id", ranges, missing, why)
