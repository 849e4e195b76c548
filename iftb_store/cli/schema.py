"""The commands that care for the schema: migrate and status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from iftb_store.cli.data import Url
from iftb_store.cli.output import error_line, say, table
from iftb_store.cli.target import resolve, run
from iftb_store.manager import DatabaseManager
from iftb_store.registry import parse_url, shown_url

if TYPE_CHECKING:
    from iftb_store_migrations import SchemaStatus

_ADVICE = {
    "empty": "the database has no tables of iftb-store yet; `iftb-store migrate URL` creates them",
    "behind": "the schema is older than this version of iftb-store; `iftb-store migrate URL` brings it up to date",
    "ahead": "the schema is of a newer iftb-store than this one; install that version: pip install --upgrade iftb-store",
}
_UNSTAMPED = (
    "the tables carry no revision; if they are those of iftb-store they can be used, and `iftb-store migrate URL` adopts them"
)


def migrate(url: Url = None) -> None:
    """Bring the schema to this version's revision.

    Safe to run twice, and from several places at once: one works, the others wait for a while.
    """
    address = resolve(url)

    async def upgrade(db: DatabaseManager) -> SchemaStatus:
        await db.migrate()
        return await db.status()

    state = run(address, upgrade, create=True)
    say(f"{_shown(address)}: the schema is at revision {state.revision}")


def status(url: Url = None) -> None:
    """Show the engine, the revision of the schema, its tables and their rows.

    The exit code is 1 where `iftb-store migrate` is wanted.
    """
    address = resolve(url)
    state = run(address, lambda db: db.status())
    facts = [
        ("database", _shown(address)),
        ("engine", f"{state.engine} {state.version}"),
        ("revision", state.revision or "none"),
        ("head", f"{state.head} ({state.state})"),
    ]
    for name, value in facts:
        say(f"{name:<9} {value}")
    if state.tables:
        say()
        table(["table", "rows"], [(name, f"{rows:,}") for name, rows in state.tables.items()], right=["rows"])
    if state.state in _ADVICE:
        error_line(_ADVICE[state.state])
        raise typer.Exit(1)
    if state.state == "unstamped":
        say(_UNSTAMPED)


def _shown(address: str) -> str:
    return shown_url(parse_url(address))
