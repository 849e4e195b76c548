"""Create the table bar_digests, in which the destination of a copy keeps a digest of its bars per series and day.

The table is new and empty, so the migration takes an instant, whatever the database holds. On PostgreSQL it locks no other table:
sessions read and write on. On SQLite and DuckDB it holds the write lock, as every write does. The downgrade drops the table; the
next copy reads the destination's bars once and stores their digests again.

Frozen: what was released is never edited; a change of the schema is a new revision.
"""

from alembic.operations import Operations

revision = "0002"
down_revision = "0001"

POSTGRESQL = """
CREATE TABLE bar_digests (
    exchange VARCHAR COLLATE "C" NOT NULL,
    symbol VARCHAR COLLATE "C" NOT NULL,
    timeframe VARCHAR COLLATE "C" NOT NULL,
    day TIMESTAMP WITH TIME ZONE NOT NULL,
    bar_count BIGINT NOT NULL,
    digest TEXT NOT NULL,
    checked_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_bar_digests PRIMARY KEY (exchange, symbol, timeframe, day)
)
"""

SQLITE = """
CREATE TABLE bar_digests (
    exchange TEXT NOT NULL,
    symbol TEXT NOT NULL,
    timeframe TEXT NOT NULL,
    day BIGINT NOT NULL,
    bar_count BIGINT NOT NULL,
    digest TEXT NOT NULL,
    checked_at BIGINT NOT NULL,
    CONSTRAINT pk_bar_digests PRIMARY KEY (exchange, symbol, timeframe, day)
)
"""

DUCKDB = """
CREATE TABLE bar_digests (
    exchange TEXT NOT NULL,
    symbol TEXT NOT NULL,
    timeframe TEXT NOT NULL,
    day TIMESTAMP WITH TIME ZONE NOT NULL,
    bar_count BIGINT NOT NULL,
    digest TEXT NOT NULL,
    checked_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_bar_digests PRIMARY KEY (exchange, symbol, timeframe, day)
)
"""


def upgrade(op: Operations) -> None:
    """Create the table."""
    op.execute({"postgresql": POSTGRESQL, "sqlite": SQLITE, "duckdb": DUCKDB}[op.get_context().dialect.name])


def downgrade(op: Operations) -> None:
    """Drop the table; it holds nothing that the bars do not give again."""
    op.execute("DROP TABLE bar_digests")
