"""Finds problems in the rows, ids and schema of a database, and how to fix each; changes nothing."""

from __future__ import annotations

import shlex
from dataclasses import replace

from sqlalchemy import Connection

from iftb_store._io.tasks import import_modules
from iftb_store.abilities import ConnectedStore, SupportsMigrations, SupportsProblems
from iftb_store.batches.bars import KEY
from iftb_store.doctor.bars import bar_findings
from iftb_store.doctor.checks import SEVERITY_ORDER, Finding, FindingSeverity, run_checks
from iftb_store.doctor.coverage import coverage_findings
from iftb_store.doctor.records import id_findings, record_findings
from iftb_store.doctor.schema import revision_findings, schema_findings
from iftb_store.doctor.sql import find_engine
from iftb_store.doctor.stores import examine_stores
from iftb_store.doctor.values import BARS, list_value_checks, readable_sql
from iftb_store.errors import Unsupported
from iftb_store.protocols import Capability
from iftb_store.schema.scope import TABLES
from iftb_store.schema.tables import Base
from iftb_store.transfer.access import check_store
from iftb_store.url import fill_url

__all__ = ["Finding", "FindingSeverity", "examine"]


async def examine(db: ConnectedStore) -> list[Finding]:
    """Check the rows, the ids and the schema, and report the problems; change nothing.

    The engine examines the rows of a snapshot, without a statement timeout; every table is read a few times. A finding names
    the first few rows and how to fix them.

    A backend without `Capability.MIGRATIONS`, or with its own DDL (`iftb_store.schema.dialect.SchemaDialect`), gets a smaller
    check: it reads every row once from a snapshot and checks values, bars, gaps and duplicates. Of the schema it checks at
    most the revision, and its findings contain no SQL statements.

    Args:
        db: the connected store, e.g. a DatabaseManager.

    Returns:
        The findings, errors first, then warnings and notes; empty if there are no problems.

    Raises:
        InvalidValueError: ``db`` is not a connected store.
        OperationalError: the database failed.
        NotConnectedError: before connect().

    Example:
        [finding] = await examine(db)
        (finding.severity, finding.where, finding.count)  # -> ('note', 'binance BTCUSDT 1h', 1)
    """
    check_store(db, "db")
    findings = await _examine(db)
    url = getattr(db, "url", None)
    if isinstance(url, str):
        findings = [replace(finding, remedy=fill_url(finding.remedy, shlex.quote(url))) for finding in findings]
    return sorted(findings, key=lambda finding: SEVERITY_ORDER.index(finding.severity))


async def _examine(db: ConnectedStore) -> list[Finding]:
    if Capability.MIGRATIONS not in db.capabilities:
        return [*(await examine_stores(db)), *(await _find_store_problems(db))]
    migrations = db.ability(SupportsMigrations)
    if migrations.schema is not None:
        schema, usable = revision_findings((await db.status()).state)
        return [*schema, *(await examine_stores(db) if usable else [])]
    await import_modules("iftb_store_migrations")
    schema, whole = await migrations.with_connection(schema_findings, read_only=True)
    rows = await migrations.with_connection(examine_rows, read_only=True) if whole else []
    return [*rows, *schema]


async def _find_store_problems(db: ConnectedStore) -> list[Finding]:
    """Return the problems that the backend itself finds, e.g. in its files; an empty list if it has no such checks."""
    try:
        backend = db.ability(SupportsProblems)
    except Unsupported:
        return []
    found = await backend.find_problems()
    return [Finding(one.kind, one.severity, BARS.name, one.where, (), one.count, one.remedy) for one in found]


def examine_rows(conn: Connection) -> list[Finding]:
    """Read the rows from one snapshot and return their problems; call this before the connection's transaction begins."""
    engine = find_engine(conn)
    for statement in engine.begin:
        conn.exec_driver_sql(statement)
    findings: list[Finding] = []
    # conditions that exclude rows with an invalid value: such a row is reported once for the value, not again by other checks
    sound: dict[str, str] = {}
    for table in (Base.metadata.tables[name] for name in TABLES):
        wrong = run_checks(conn, engine, table, list(list_value_checks(engine, table)))
        sound[table.name] = readable_sql(engine, table, table.columns) if wrong else ""
        findings += wrong
    sound_keys = readable_sql(engine, BARS, [BARS.columns[name] for name in KEY]) if sound[BARS.name] else ""
    findings += bar_findings(conn, engine, sound[BARS.name], sound_keys)
    findings += record_findings(conn, engine, sound)
    findings += id_findings(conn, engine)
    findings += coverage_findings(conn, engine)
    return findings
