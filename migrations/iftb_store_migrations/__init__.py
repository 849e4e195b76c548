"""The schema's migrations for all three engines: upgrade, downgrade, create, current, differences, status.

Every function takes a SQLAlchemy Connection in a transaction, which the caller commits. The functions read and change only the
tables of iftb-store and its version table.
"""

from iftb_store_migrations.catalog import Difference, creation, differences, list_differences, list_present_tables
from iftb_store_migrations.history import create, current, downgrade, head, revisions, upgrade
from iftb_store_migrations.status import find_state, status

__all__ = [
    "Difference",
    "create",
    "creation",
    "current",
    "differences",
    "downgrade",
    "find_state",
    "head",
    "list_differences",
    "list_present_tables",
    "revisions",
    "status",
    "upgrade",
]
