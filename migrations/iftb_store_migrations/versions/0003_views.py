"""Create the views ohlcv_view, trades_view, positions_view and system_events_view, over which one SQL text gives the same answer.

Every number is DOUBLE, a time is UTC text of fixed width, and text compares by its bytes. A view holds no rows, so the migration
takes an instant, whatever the tables hold; on SQLite and DuckDB other writers wait for it, on PostgreSQL sessions read and write
on. The downgrade drops the views.

A later revision drops the views first and creates them last, because PostgreSQL refuses to alter columns under a view, and DuckDB
then breaks the view silently.

Frozen: what was released is never edited; a change of the schema is a new revision.
"""

from alembic.operations import Operations
from sqlalchemy import text

revision = "0003"
down_revision = "0002"

# the columns of each table with their kinds: number, decimal, time, json, text
_COLUMNS = {
    "ohlcv": """
        id number, exchange text, symbol text, timeframe text, timestamp time, open decimal, high decimal, low decimal,
        close decimal, volume decimal, quote_volume decimal, trades_count number, created_at time""",
    "trades": """
        id number, trade_id text, symbol text, exchange text, side text, action text, entry_price decimal, quantity decimal,
        entry_time time, leverage decimal, exit_price decimal, exit_time time, realized_pnl decimal, realized_pnl_pct decimal,
        fee decimal, signal_score decimal, technical_score decimal, llm_score decimal, xgb_confidence decimal,
        stop_loss decimal, take_profit decimal, position_size_pct decimal, decision_reasons json, llm_analysis json,
        created_at time, updated_at time""",
    "positions": """
        id number, symbol text, exchange text, side text, entry_price decimal, quantity decimal, margin decimal,
        entry_time time, current_price decimal, unrealized_pnl decimal, status text, leverage decimal,
        unrealized_pnl_pct decimal, liquidation_price decimal, stop_loss decimal, take_profit decimal, trailing_stop decimal,
        trade_id text, last_updated time, created_at time""",
    "system_events": """
        id number, event_type text, severity text, message text, details json, symbol text, exchange text, trade_id text,
        position_id number, stack_trace text, created_at time""",
}

_COMPLEMENT = "substr({0}, 2)"
for _low, _high in ("09", "18", "27", "36", "45"):
    _COMPLEMENT = f"replace(replace(replace({_COMPLEMENT}, '{_low}', 'x'), '{_high}', '{_low}'), 'x', '{_high}')"
_MICROSECONDS = "(({0} % 1000000) + 1000000) % 1000000"

_SQL = {
    "sqlite": {
        "number": "CAST({0} AS REAL)",
        # a negative decimal is stored as the nines' complement of its digits
        "decimal": f"CASE WHEN {{0}} < 'U' THEN -CAST({_COMPLEMENT} AS REAL) ELSE CAST(substr({{0}}, 2) AS REAL) END",
        "time": (
            f"strftime('%Y-%m-%d %H:%M:%S', ({{0}} - {_MICROSECONDS}) / 1000000, 'unixepoch') || printf('.%06d', {_MICROSECONDS})"
        ),
        "json": "{0}",
        "text": "{0}",
    },
    "duckdb": {
        "number": "CAST({0} AS DOUBLE)",
        "decimal": "CAST({0} AS DOUBLE)",
        "time": "strftime(make_timestamp(epoch_us({0})), '%Y-%m-%d %H:%M:%S.%f')",
        "json": "CAST({0} AS VARCHAR)",
        "text": "{0}",
    },
    "postgresql": {
        "number": "CAST({0} AS double precision)",
        "decimal": "CAST({0} AS double precision)",
        "time": "pg_catalog.to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') COLLATE pg_catalog.\"C\"",
        "json": 'CAST({0} AS text) COLLATE pg_catalog."C"',
        "text": 'CAST({0} AS text) COLLATE pg_catalog."C"',
    },
}

# a view of PostgreSQL 15 or newer reads with the rights of whoever queries it, so that row-level security holds
_INVOKER = (
    "DO $$ BEGIN IF CAST(pg_catalog.current_setting('server_version_num') AS integer) OPERATOR(pg_catalog.>=) 150000 "
    "THEN ALTER VIEW {0}_view SET (security_invoker = true); END IF; END $$"
)


def upgrade(op: Operations) -> None:
    """Create the views."""
    dialect = op.get_context().dialect.name
    downgrade(op)
    for table, columns in _COLUMNS.items():
        prefix = f"{table}." if dialect == "postgresql" else ""
        named = (column.split() for column in columns.split(","))
        shown = ", ".join(f"{_SQL[dialect][kind].format(prefix + name)} AS {name}" for name, kind in named)
        _run(op, f"CREATE VIEW {table}_view AS SELECT {shown} FROM {table}")
        if dialect == "postgresql":
            _run(op, _INVOKER.format(table))


def downgrade(op: Operations) -> None:
    """Drop the views."""
    for table in _COLUMNS:
        _run(op, f"DROP VIEW IF EXISTS {table}_view")


def _run(op: Operations, sql: str) -> None:
    # a colon in the text is no parameter
    op.execute(text(sql.replace(":", r"\:")))
