"""Commits a session's writes: one commit that follows exactly the version on which it was computed, or a new attempt."""

from __future__ import annotations

import random
import threading
import time
from datetime import datetime
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from sqlalchemy.exc import DBAPIError

from iftb_store.batches.bars import KEY, VALUES, duplicate_bar_error
from iftb_store.columnar import Bounds, Cursor, key_bounds
from iftb_store.errors import operational_error, outcome_unknown
from iftb_store.schema.table_spec import BARS, SERIES
from iftb_store.schema.types import to_epoch_us
from iftb_store_lake.connection import Lake
from iftb_store_lake.errors import DELTA_ERRORS, map_error, may_pass
from iftb_store_lake.layout import COLUMNS, COLUMNS_SQL, KEY_SQL, PART, changed_sql, part_sql, quote, same_key
from iftb_store_lake.pending import PENDING
from iftb_store_lake.snapshot import CUT, Snapshot
from iftb_store_lake.view import View

_VALUES_SQL = ", ".join(VALUES)
_MOVED = (
    "another client has meanwhile changed the lake or a bar that this session writes; none of the session's writes were stored; "
    "run the transaction again"
)
# the longest wait in seconds before another attempt; who has lost more often waits less, so that nobody starves
_LONGEST_WAIT = 0.2
# the years of which each moment fits into 64 bits as nanoseconds
_FIRST_YEAR, _LAST_YEAR = 1677, 2262


class Commit:
    """The commit of one session.

    Attributes:
        strict: whether the commit must directly follow the version that the session read.
        careful: whether the bars that the session writes must not have been changed since that version.
    """

    def __init__(self, lake: Lake, cursor: Cursor, view: View, base: Snapshot, *, strict: bool, careful: bool) -> None:
        self._lake = lake
        self._cursor = cursor
        self._view = view
        self._base = base
        self.strict = strict
        self.careful = careful
        self._location = lake.storage.location
        self._token = uuid4().hex
        # the version after which a commit was sent that may still arrive
        self._unsure: int | None = None
        keys, _ = cursor.table(f"SELECT {KEY_SQL} FROM {PENDING}")
        self._bounds = key_bounds(BARS, keys) if keys.num_rows else None

    def run(self, deadline: float, stop: threading.Event) -> None:
        """Store the writes; try again while other clients commit first.

        Args:
            deadline: the time of `time.monotonic` after which no further attempt begins.
            stop: set by another thread to end the attempts.

        Raises:
            IntegrityError: another client has inserted a bar that this session inserts.
            TransientError: a conflict with another client; nothing is stored.
            CommitOutcomeUnknown: the answer to a commit was lost; the writes may be stored now or later.
            OperationalError: the commit failed for another reason; nothing is stored.
        """
        try:
            self._repeat(deadline, stop)
            return
        except BaseException as error:
            # a commit that was sent may still arrive, whatever failed after it
            if self._unsure is None:
                raise
            cause = error if isinstance(error, DBAPIError) else map_error(error, "the commit was not answered", self._location)
            unknown = outcome_unknown(cause)
        raise unknown

    def _repeat(self, deadline: float, stop: threading.Event) -> None:
        attempts = 0
        while self._bounds is not None and not self._attempt(self._bounds):
            attempts += 1
            if time.monotonic() >= deadline:
                raise operational_error(
                    "other clients committed first at every attempt; commit less often, or raise the URL's busy_timeout",
                    transient=True,
                )
            if stop.wait(random.uniform(0, _LONGEST_WAIT / attempts)):  # noqa: S311 - not a secret
                raise operational_error("the commit was cancelled after other clients had committed first", transient=True)

    def _attempt(self, bounds: Bounds) -> bool:
        """Return whether the writes are stored; False if another attempt may store them."""
        snapshot = self._lake.latest_to_commit()
        if self._unsure is not None and snapshot.version > self._unsure:
            if self._lake.has_commit(self._token, self._unsure):
                return True
            # another commit has taken its place
            self._unsure = None
        if snapshot.version != self._base.version:
            self._check_unmoved(snapshot, bounds)
        paths = snapshot.pick(bounds)
        if paths:
            with self._view.reading(paths, bounds, (*KEY, *VALUES)) as stored:
                rows = self._plan(stored, bounds)
        else:
            rows = self._plan_new(bounds)
        # what is stored already as it shall be needs no commit
        if not rows.num_rows:
            return True
        earlier, self._unsure = self._unsure, snapshot.version
        try:
            self._send(rows, snapshot.find_parts(bounds))
            return True
        except BaseException as error:
            # a panic of delta-rs is no Exception
            failure = error
        found = self._lake.has_commit(self._token, snapshot.version)
        if found:
            return True
        explained = isinstance(failure, DELTA_ERRORS)
        passing = explained and may_pass(failure, self._location)
        if found is False:
            self._unsure = None
        elif explained and not passing:
            self._unsure = earlier
        if isinstance(failure, KeyboardInterrupt | SystemExit):
            raise failure
        if not passing:
            raise map_error(failure, "the writes could not be stored", self._location)
        return False

    def _send(self, rows: pa.Table, parts: list[str | None]) -> None:
        """Commit the planned rows; ``parts`` are the partitions that can hold stored ones."""
        stored_rows = rows.filter(~(ds.field("op") == "append"))
        if not stored_rows.num_rows:
            self._lake.append(rows.drop_columns(["op"]), self._token)
            return
        names = (*COLUMNS, PART)
        (
            self._lake.merge(rows, _condition(parts, key_bounds(BARS, stored_rows)), self._token)
            .when_matched_update({name: f"fresh.{name}" for name in VALUES}, predicate="fresh.op = 'upsert'")
            .when_matched_delete(predicate="fresh.op = 'delete'")
            .when_not_matched_insert({name: f"fresh.{name}" for name in names}, predicate="fresh.op = 'append'")
            # a stored bar that delta-rs does not find makes the commit fail, by a text that is no number
            .when_not_matched_insert({name: f"fresh.{name}" for name in names} | {"id": "CAST(fresh.op AS BIGINT)"})
            .execute()
        )

    def _plan(self, stored: str, bounds: Bounds) -> pa.Table:
        """Return the rows to commit, in the order of the files: each with its partition, and its operation.

        The operations are insert, upsert, delete, and append for a new row. Another program may have stored a bar twice: its row
        is returned once, and changes or deletes both.
        """
        table, _ = self._cursor.table(
            f"""
            SELECT DISTINCT {", ".join(f"own.{name}" for name in COLUMNS)}, {part_sql("own")} AS {PART},
                unnest(
                    CASE WHEN stored.timestamp IS NULL THEN ['append']
                    WHEN own.op = 'replace' THEN ['delete', 'append'] ELSE [own.op] END
                ) AS op
            FROM {PENDING} AS own LEFT JOIN (
                SELECT {KEY_SQL}, {_VALUES_SQL} FROM {stored} WHERE timestamp BETWEEN $1 AND $2
            ) AS stored ON {same_key("own", "stored")}
            WHERE own.op = 'insert' OR own.op = 'replace'
                OR (own.op = 'upsert' AND (stored.timestamp IS NULL OR {changed_sql("own", "stored")}))
                OR (own.op = 'delete' AND stored.timestamp IS NOT NULL)
            ORDER BY {PART}, {KEY_SQL}""",
            [bounds.least["timestamp"], bounds.greatest["timestamp"]],
        )
        stored_rows = table.filter(ds.field("op") == "insert").slice(0, 1).select(KEY).to_pylist()
        if stored_rows:
            # another client has stored it since the session looked
            raise duplicate_bar_error(tuple(stored_rows[0].values()), twice=False)
        return table

    def _plan_new(self, bounds: Bounds) -> pa.Table:
        """Return the rows to commit if no file can hold one of them; see `_plan`."""
        sql = f"SELECT {COLUMNS_SQL}, {part_sql('own')} AS {PART}, 'append' AS op FROM {PENDING} AS own WHERE op <> 'delete'"
        if all(bounds.least[name] == bounds.greatest[name] for name in SERIES):
            table, _ = self._cursor.table(sql)
            times: Any = table["timestamp"].cast(pa.int64()).combine_chunks()
            if pc.all(pc.less(times[:-1], times[1:])).as_py() is not False:
                return table
        return self._cursor.table(f"{sql} ORDER BY {PART}, {KEY_SQL}")[0]

    def _check_unmoved(self, snapshot: Snapshot, bounds: Bounds) -> None:
        """Raise TransientError if commits of other clients since the session's version conflict with this commit."""
        if self.strict or (self.careful and self._is_changed(snapshot, bounds)):
            raise operational_error(_MOVED, transient=True)

    def _is_changed(self, snapshot: Snapshot, bounds: Bounds) -> bool:
        """Return whether a bar that the session writes has changed since the version that the session read."""
        before, after = (set(state.pick(bounds)) for state in (self._base, snapshot))
        with self._view.reading(sorted(before - after), bounds) as old, self._view.reading(sorted(after - before), bounds) as new:
            rows_of = f"SELECT {COLUMNS_SQL} FROM {{}} AS stored SEMI JOIN {PENDING} AS own ON {same_key('stored', 'own')}"
            sides = (rows_of.format(old), rows_of.format(new))
            changed = " UNION ALL ".join(f"(({one}) EXCEPT ({other}))" for one, other in (sides, sides[::-1]))
            return bool(self._cursor.fetch(f"SELECT 1 FROM ({changed}) LIMIT 1"))


def _condition(parts: list[str | None], bounds: Bounds) -> str:
    """Return the condition of a merge; its constants let delta-rs skip the files of other bars."""
    named = [f"stored.{PART} IN ({', '.join(quote(part) for part in parts if part is not None)})"] if any(parts) else []
    # another program may have left the partition out
    unnamed = [f"stored.{PART} IS NULL"] if None in parts else []
    limits = [f"({' OR '.join(named + unnamed)})"]
    limits += [f"stored.{name} BETWEEN {quote(bounds.least[name])} AND {quote(bounds.greatest[name])}" for name in SERIES]
    first, last = bounds.least["timestamp"], bounds.greatest["timestamp"]
    # delta-rs compares later times in nanoseconds, which overflow
    if first.year > _FIRST_YEAR and last.year < _LAST_YEAR:
        limits.append(f"stored.timestamp BETWEEN {_literal(first, -CUT)} AND {_literal(last, CUT)}")
    return " AND ".join([*limits, same_key("stored", "fresh"), "fresh.op <> 'append'"])


def _literal(moment: datetime, widened: int) -> str:
    return f"""arrow_cast({to_epoch_us(moment) + widened}, 'Timestamp(Microsecond, Some("UTC"))')"""
