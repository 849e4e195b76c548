"""Faults that raw SQL can leave in a database, each with what the doctor finds; see `tests/doctor/test_doctor.py`."""

from __future__ import annotations

from dataclasses import dataclass

ENGINES = ("postgres", "sqlite", "duckdb")


@dataclass
class Case:
    """How a fault is caused, what the doctor finds, and whether its statements fix it."""

    found: tuple[str, str, str]
    faults: str
    engines: tuple[str, ...] = ENGINES
    where: str = ""
    rows: tuple[str, ...] = ()
    is_fixed: bool = True

    def __str__(self) -> str:
        return f"{self.found[1]} {self.where}".replace(" ", "-")


ROWS = ("postgres", "sqlite")
SERVERS = ("postgres", "duckdb")
H = "exchange = 'binance' AND symbol = 'BTCUSDT' AND timeframe = '1h' AND timestamp"
AT_2 = f"{H} = {{time:2024-01-01 02:00:00}}"
TWICE = "INSERT INTO {0} ({1}) SELECT {1} FROM {0} WHERE id = 2"
BAR = "exchange, symbol, timeframe, timestamp, open, high, low, close, volume"
TRADE = "trade_id, symbol, exchange, side, action, entry_price, quantity, entry_time, leverage, fee"
POSITION = "symbol, exchange, side, entry_price, quantity, margin, entry_time, status, leverage, trade_id"


def bare(table: str) -> str:
    """Return the SQL that recreates a table without its constraints, defaults and indexes."""
    drop = f"DROP VIEW IF EXISTS {table}_view; CREATE TABLE bare AS SELECT * FROM {table}; DROP TABLE {table};"
    return f"{drop} ALTER TABLE bare RENAME TO {table};"


def ids_for(table: str) -> str:
    """Return the SQL that gives rows without an id one, and a created_at."""
    largest = f"id = (SELECT MAX(id) + 1 FROM {table}), created_at = (SELECT MAX(created_at) FROM {table})"
    return f"UPDATE {table} SET {largest} WHERE id IS NULL"


AT_2_SHOWN = ("2024-01-01 02:00:00",)
CASES = [
    Case(
        ("error", "duplicate bars", "ohlcv"),
        f"ALTER TABLE ohlcv DROP CONSTRAINT pk_ohlcv; {TWICE.format('ohlcv', BAR)}",
        ("postgres",),
        "binance BTCUSDT 1h",
        ("2024-01-01 01:00:00",),
    ),
    Case(
        ("error", "duplicate bars", "ohlcv"),
        f"{bare('ohlcv')} {TWICE.format('ohlcv', BAR)}; {ids_for('ohlcv')}",
        ("sqlite",),
        "binance BTCUSDT 1h",
        ("2024-01-01 01:00:00",),
    ),
    Case(
        ("error", "duplicate bars", "ohlcv"),
        TWICE.format("ohlcv", BAR),
        ("duckdb",),
        "binance BTCUSDT 1h",
        ("2024-01-01 01:00:00",),
    ),
    Case(("error", "duplicate ids", "ohlcv"), "UPDATE ohlcv SET id = 4 WHERE id IN (5, 6)", SERVERS, "id"),
    Case(
        ("error", "duplicate ids", "trades"),
        "ALTER TABLE trades DROP CONSTRAINT pk_trades; UPDATE trades SET id = 1 WHERE id = 2",
        ("postgres",),
        "id",
        ("1",),
    ),
    Case(
        ("error", "duplicate ids", "trades"),
        f"{bare('trades')} UPDATE trades SET id = 1 WHERE id = 2",
        ("sqlite", "duckdb"),
        "id",
        ("1",),
    ),
    Case(
        ("warning", "off the grid", "ohlcv"),
        f"UPDATE ohlcv SET timestamp = {{time:2024-01-01 02:30:00}} WHERE {AT_2}",
        where="binance BTCUSDT 1h",
        rows=("2024-01-01 02:30:00",),
    ),
    Case(
        ("warning", "off the grid", "ohlcv"),
        "UPDATE ohlcv SET timestamp = {time:1966-07-05 00:00:00} "
        "WHERE timeframe = '1w' AND timestamp = {time:1966-07-04 00:00:00}",
        where="binance BTCUSDT 1w",
        rows=("1966-07-05 00:00:00",),
    ),
    Case(
        ("warning", "off the grid", "ohlcv"),
        "UPDATE ohlcv SET timestamp = {time:2024-02-02 00:00:00} "
        "WHERE timeframe = '1M' AND timestamp = {time:2024-02-01 00:00:00}",
        where="binance BTCUSDT 1M",
        rows=("2024-02-02 00:00:00",),
    ),
    Case(
        ("error", "high below low", "ohlcv"),
        f"UPDATE ohlcv SET high = {{dec:9.5}} WHERE {AT_2}",
        where="binance BTCUSDT 1h",
        rows=AT_2_SHOWN,
    ),
    Case(("warning", "open or close beyond", "ohlcv"), f"UPDATE ohlcv SET close = {{dec:1000}} WHERE {AT_2}", rows=AT_2_SHOWN),
    Case(("error", "negative volume", "ohlcv"), f"UPDATE ohlcv SET volume = {{dec:-0.5}} WHERE {AT_2}", rows=AT_2_SHOWN),
    Case(
        ("error", "negative volume", "ohlcv"),
        f"UPDATE ohlcv SET trades_count = -1 WHERE {AT_2}",
        rows=AT_2_SHOWN,
        engines=("sqlite",),
    ),
    Case(
        ("note", "negative price", "ohlcv"),
        f"UPDATE ohlcv SET low = {{dec:-37.63}}, close = {{dec:-37.63}} WHERE {AT_2}",
        rows=AT_2_SHOWN,
    ),
    Case(
        ("error", "unknown timeframe", "ohlcv"),
        f"UPDATE ohlcv SET timeframe = '1H' WHERE {AT_2}",
        where="timeframe",
        rows=("binance BTCUSDT 1H 2024-01-01 02:00:00",),
    ),
    Case(
        ("error", "unusable name", "ohlcv"),
        f"UPDATE ohlcv SET symbol = '' WHERE {AT_2}",
        where="symbol",
        rows=("binance  1h 2024-01-01 02:00:00",),
    ),
    Case(
        ("error", "unusable name", "trades"),
        "UPDATE trades SET exchange = ' ' WHERE id = 1",
        where="exchange",
        is_fixed=False,
        engines=("postgres",),
    ),
    Case(
        ("error", "missing value", "ohlcv"),
        "ALTER TABLE ohlcv ALTER COLUMN close DROP NOT NULL; UPDATE ohlcv SET close = NULL WHERE id = 3",
        SERVERS,
        "close",
        ("binance BTCUSDT 1h 2024-01-01 02:00:00",),
    ),
    Case(
        ("error", "missing value", "ohlcv"),
        f"{bare('ohlcv')} UPDATE ohlcv SET close = NULL, created_at = NULL WHERE id = 3",
        ("sqlite",),
        "created_at",
    ),
    Case(
        ("error", "plain decimal", "ohlcv"),
        f"UPDATE ohlcv SET close = '100.50', low = '99' WHERE {H} < {{time:2024-01-01 03:00:00}}",
        ("sqlite",),
        "close",
    ),
    Case(
        ("error", "plain decimal", "trades"),
        "UPDATE trades SET realized_pnl = '-01.50' WHERE id = 3",
        ("sqlite",),
        "realized_pnl",
    ),
    Case(("error", "plain decimal", "ohlcv"), f"UPDATE ohlcv SET close = 100.25 WHERE {AT_2}", ("sqlite",), "close"),
    Case(("error", "unreadable value", "ohlcv"), f"UPDATE ohlcv SET close = 1e-7 WHERE {AT_2}", ("sqlite",), "close"),
    Case(("error", "unreadable value", "ohlcv"), f"UPDATE ohlcv SET timestamp = 'soon' WHERE {AT_2}", ("sqlite",)),
    Case(("error", "unreadable value", "ohlcv"), f"UPDATE ohlcv SET timestamp = 1.5 WHERE {AT_2}", ("sqlite",), "timestamp"),
    Case(("error", "unreadable value", "ohlcv"), f"UPDATE ohlcv SET symbol = x'ff' WHERE {AT_2}", ("sqlite",), "symbol"),
    Case(("error", "unreadable value", "ohlcv"), f"UPDATE ohlcv SET close = 'NaN' WHERE {AT_2}", ("postgres",), "close"),
    Case(
        ("error", "unreadable value", "ohlcv"),
        f"UPDATE ohlcv SET timestamp = 'infinity' WHERE {AT_2}",
        SERVERS,
        "timestamp",
        ("binance BTCUSDT 1h infinity",),
    ),
    Case(("error", "unreadable value", "ohlcv"), f"UPDATE ohlcv SET timestamp = '0044-03-15 BC' WHERE {AT_2}", ("postgres",)),
    Case(
        ("error", "unreadable value", "system_events"), "UPDATE system_events SET details = '[1]' WHERE id = 2", where="details"
    ),
    Case(("error", "unreadable value", "system_events"), "UPDATE system_events SET details = '{{' WHERE id = 2", ("sqlite",)),
    Case(
        ("error", "unknown side", "trades"),
        "ALTER TABLE trades DROP CONSTRAINT ck_trades_side; UPDATE trades SET side = 'buy' WHERE id = 2",
        ("postgres",),
        "side",
        ("2",),
        is_fixed=False,
    ),
    Case(("note", "holes", "ohlcv"), f"DELETE FROM ohlcv WHERE {AT_2}", where="binance BTCUSDT 1h", is_fixed=False),
    Case(
        ("note", "holes", "ohlcv"),
        "DELETE FROM ohlcv WHERE timeframe = '1M' AND timestamp = {time:2024-02-01 00:00:00}",
        where="binance BTCUSDT 1M",
        is_fixed=False,
    ),
    Case(
        ("error", "duplicate trades", "trades"),
        f"ALTER TABLE trades DROP CONSTRAINT uq_trades_trade_id; {TWICE.format('trades', TRADE)}",
        ("postgres",),
        "trade_id",
        ("4",),
    ),
    Case(
        ("error", "duplicate trades", "trades"),
        f"{bare('trades')} {TWICE.format('trades', f'id, {TRADE}')}; UPDATE trades SET id = 4 WHERE created_at IS NULL; "
        "UPDATE trades SET created_at = {time:2024-01-01 00:00:00}, updated_at = {time:2024-01-01 00:00:00} WHERE id = 4",
        ("sqlite", "duckdb"),
        "trade_id",
        ("4",),
    ),
    Case(
        ("error", "two open positions", "positions"),
        f"DROP INDEX uq_positions_open; {TWICE.format('positions', POSITION)}",
        ROWS,
        "exchange, account, symbol, side",
        ("4",),
    ),
    Case(
        ("error", "two open positions", "positions"),
        f"DROP INDEX uq_positions_open_key; {TWICE.format('positions', POSITION)}",
        ("duckdb",),
        rows=("4",),
    ),
    Case(
        ("warning", "closed without exit", "trades"),
        "UPDATE trades SET exit_price = NULL WHERE id = 3",
        rows=("3",),
        is_fixed=False,
    ),
    Case(("warning", "closed without exit", "trades"), "UPDATE trades SET exit_time = NULL WHERE id = 3", where="exit_time"),
    *(
        Case(
            ("warning", "quantity not above 0", table),
            f"UPDATE {table} SET quantity = {{dec:{quantity}}} WHERE id = 1",
            where="quantity",
            rows=("1",),
            is_fixed=False,
        )
        for table in ("trades", "positions")
        for quantity in ("0", "-0.5")
    ),
    Case(
        ("warning", "exit before entry", "trades"),
        "UPDATE trades SET exit_time = {time:2023-12-31 23:00:00} WHERE id = 3",
        rows=("3",),
        is_fixed=False,
    ),
    Case(("warning", "open with an exit", "trades"), "UPDATE trades SET action = 'open' WHERE id = 3", rows=("3",)),
    Case(("warning", "open with realized_pnl", "trades"), "UPDATE trades SET realized_pnl = {dec:1} WHERE id = 1", rows=("1",)),
    Case(("warning", "open without a position", "trades"), "UPDATE positions SET status = 'closed' WHERE id = 1", is_fixed=False),
    Case(
        ("warning", "position without its trade", "positions"),
        "UPDATE positions SET trade_id = 'gone' WHERE id = 3",
        where="trade_id",
        rows=("3",),
    ),
    Case(
        ("warning", "open position of a closed trade", "positions"),
        "UPDATE positions SET status = 'open' WHERE id = 3",
        rows=("3",),
    ),
    Case(("note", "event of an unknown trade", "system_events"), "UPDATE system_events SET trade_id = 'gone' WHERE id = 2"),
    Case(("note", "event of an unknown position", "system_events"), "UPDATE system_events SET position_id = 9 WHERE id = 2"),
    Case(("note", "missing ids", "trades"), "DELETE FROM trades WHERE id = 2", where="id", rows=("2",), is_fixed=False),
    Case(("note", "missing ids", "system_events"), "DELETE FROM system_events WHERE id = 2", rows=("2",), is_fixed=False),
    Case(("error", "sequence behind its ids", "trades"), "UPDATE trades SET id = 40 WHERE id = 3", SERVERS, "id", ("40",)),
    Case(("error", "sequence behind its ids", "ohlcv"), "UPDATE ohlcv SET id = 40 WHERE id = 3", SERVERS, "id", ("40",)),
    Case(("error", "unlogged table", "trades"), "ALTER TABLE trades SET UNLOGGED", ("postgres",)),
    Case(("warning", "index missing", "trades"), "DROP INDEX ix_trades_realized", ROWS, "index ix_trades_realized"),
    Case(("error", "index missing", "positions"), "DROP INDEX uq_positions_open_key", ("duckdb",), "index uq_positions_open_key"),
    Case(
        ("error", "index differs", "positions"),
        "DROP INDEX uq_positions_open; CREATE INDEX uq_positions_open ON positions (symbol)",
        ROWS,
        "index uq_positions_open",
    ),
    Case(
        ("error", "constraint missing", "ohlcv"),
        "ALTER TABLE ohlcv DROP CONSTRAINT pk_ohlcv",
        ("postgres",),
        "constraint pk_ohlcv",
    ),
    Case(("error", "constraint missing", "ohlcv"), bare("ohlcv"), ("sqlite",), "constraint uq_ohlcv"),
    Case(("error", "constraint missing", "trades"), bare("trades"), ("duckdb",)),
    Case(
        ("warning", "constraint differs", "trades"),
        "ALTER TABLE trades DROP CONSTRAINT ck_trades_side;"
        "ALTER TABLE trades ADD CONSTRAINT ck_trades_side CHECK (side IN ('long', 'short')) NOT VALID",
        ("postgres",),
        "constraint ck_trades_side",
    ),
    Case(
        ("error", "column differs", "trades"),
        "DROP VIEW trades_view; ALTER TABLE trades ALTER COLUMN fee TYPE double precision, ALTER COLUMN created_at DROP DEFAULT",
        ("postgres",),
        "column fee",
    ),
    Case(
        ("error", "invalid index", "positions"),
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'uq_positions_open'::regclass",
        ("postgres",),
        "index uq_positions_open",
    ),
    Case(
        ("error", "column missing", "ohlcv"),
        "DROP VIEW ohlcv_view; ALTER TABLE ohlcv DROP COLUMN close",
        ("postgres", "duckdb"),
        is_fixed=False,
    ),
    Case(("error", "table missing", "system_events"), "DROP VIEW system_events_view; DROP TABLE system_events"),
    Case(("warning", "view missing", "trades_view"), "DROP VIEW trades_view"),
    Case(
        ("warning", "view differs", "ohlcv_view"),
        "DROP VIEW ohlcv_view; CREATE VIEW ohlcv_view AS SELECT exchange, symbol FROM ohlcv",
    ),
    Case(("error", "table missing", "bar_digests"), "DROP TABLE bar_digests"),
    Case(
        ("error", "constraint missing", "bar_digests"),
        "ALTER TABLE bar_digests DROP CONSTRAINT pk_bar_digests",
        ("postgres",),
        "constraint pk_bar_digests",
    ),
    Case(("error", "constraint missing", "bar_digests"), bare("bar_digests"), ("sqlite", "duckdb")),
    Case(("warning", "schema", "iftb_store_version"), "DELETE FROM iftb_store_version", is_fixed=False),
    Case(("error", "schema", "iftb_store_version"), "UPDATE iftb_store_version SET version_num = '9999'", is_fixed=False),
]
