"""${message}."""

from alembic.operations import Operations

revision = ${repr(up_revision).replace("'", '"')}
down_revision = ${repr(down_revision).replace("'", '"')}

POSTGRESQL = """
"""

SQLITE = """
"""

DUCKDB = """
"""


def upgrade(op: Operations) -> None:
    """${message}."""
    script = {"postgresql": POSTGRESQL, "sqlite": SQLITE, "duckdb": DUCKDB}[op.get_context().dialect.name]
    for statement in filter(str.strip, script.split(";\n")):
        op.execute(statement)


def downgrade(op: Operations) -> None:
    """Undo it."""
    raise NotImplementedError
