"""Create the table coverage, which keeps the ranges of bars that were asked for.

The table is new and empty, so the migration takes an instant, whatever the database holds: until something is asked for, every
missing bar was never asked for, which is true. On PostgreSQL it locks no other table: sessions read and write on. On SQLite and
DuckDB it holds the write lock, as every write does. The downgrade drops the table and with it what was asked for; the bars stay.

Frozen: what was released is never edited; a change of the schema is a new revision.
"""

from alembic.operations import Operations

revision = "0005"
down_revision = "0004"

POSTGRESQL = """
CREATE TABLE coverage (
    exchange VARCHAR COLLATE "C" NOT NULL,
    symbol VARCHAR COLLATE "C" NOT NULL,
    timeframe VARCHAR COLLATE "C" NOT NULL,
    first TIMESTAMP WITH TIME ZONE NOT NULL,
    last TIMESTAMP WITH TIME ZONE NOT NULL,
    asked_at TIMESTAMP WITH TIME ZONE NOT NULL,
    source TEXT NOT NULL,
    CONSTRAINT pk_coverage PRIMARY KEY (exchange, symbol, timeframe, first)
)
"""

SQLITE = """
CREATE TABLE coverage (
    exchange TEXT NOT NULL,
    symbol TEXT NOT NULL,
    timeframe TEXT NOT NULL,
    first BIGINT NOT NULL,
    last BIGINT NOT NULL,
    asked_at BIGINT NOT NULL,
    source TEXT NOT NULL,
    CONSTRAINT pk_coverage PRIMARY KEY (exchange, symbol, timeframe, first)
)
"""

DUCKDB = """
CREATE TABLE coverage (
    exchange TEXT NOT NULL,
    symbol TEXT NOT NULL,
    timeframe TEXT NOT NULL,
    first TIMESTAMP WITH TIME ZONE NOT NULL,
    last TIMESTAMP WITH TIME ZONE NOT NULL,
    asked_at TIMESTAMP WITH TIME ZONE NOT NULL,
    source TEXT NOT NULL,
    CONSTRAINT pk_coverage PRIMARY KEY (exchange, symbol, timeframe, first)
)
"""


def upgrade(op: Operations) -> None:
    """Create the table."""
    op.execute({"postgresql": POSTGRESQL, "sqlite": SQLITE, "duckdb": DUCKDB}[op.get_context().dialect.name])


def downgrade(op: Operations) -> None:
    """Drop the table."""
    op.execute("DROP TABLE coverage")
