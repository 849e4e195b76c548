"""Examines a database and changes nothing: what is wrong with its rows, its ids and its schema, and what mends each."""

from __future__ import annotations

from sqlalchemy import Connection

from iftb_store.batches.bars import KEY
from iftb_store.doctor.bars import bar_findings
from iftb_store.doctor.checks import look
from iftb_store.doctor.findings import SEVERITY_ORDER, Finding, Severity
from iftb_store.doctor.records import id_findings, record_findings
from iftb_store.doctor.schema import schema_findings
from iftb_store.doctor.sql import engine_of
from iftb_store.doctor.values import BARS, readable, value_checks
from iftb_store.schema.tables import Base

__all__ = ["Finding", "Severity", "examine_rows", "examine_schema", "worst_first"]


def examine_schema(conn: Connection) -> tuple[list[Finding], bool]:
    """Return what is wrong with the tables themselves, and whether their rows can be examined."""
    return schema_findings(conn, engine_of(conn))


def examine_rows(conn: Connection) -> list[Finding]:
    """Return what is wrong with the rows, from one state of the database; the transaction must be a fresh one."""
    engine = engine_of(conn)
    for statement in engine.begin:
        conn.exec_driver_sql(statement)
    findings: list[Finding] = []
    # what is told of one value would only confuse what is told of a row
    sound: dict[str, str] = {}
    for table in Base.metadata.tables.values():
        wrong = look(conn, engine, table, list(value_checks(engine, table)))
        sound[table.name] = readable(engine, table, table.columns) if wrong else ""
        findings += wrong
    sound_keys = readable(engine, BARS, [BARS.columns[name] for name in KEY]) if sound[BARS.name] else ""
    findings += bar_findings(conn, engine, sound[BARS.name], sound_keys)
    findings += record_findings(conn, engine, sound)
    findings += id_findings(conn, engine)
    return findings


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Return findings by their severity; else in the order in which they are best mended."""
    return sorted(findings, key=lambda finding: SEVERITY_ORDER.index(finding.severity))
