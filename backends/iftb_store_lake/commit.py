"""Commits a session's writes: one commit that follows exactly the version on which it was computed, or a new attempt.

A data file is never changed: the commit adds files with the new rows, and replaces those that hold a row to change.
"""

from __future__ import annotations

import random
import threading
import time
from uuid import uuid4

from deltalake.transaction import AddAction
from sqlalchemy.exc import DBAPIError

from iftb_store.columnar import Bounds, Cursor, key_bounds
from iftb_store.errors import operational_error, outcome_unknown
from iftb_store.schema.table_spec import BARS
from iftb_store_lake.changes import Changes
from iftb_store_lake.connection import Lake
from iftb_store_lake.errors import DELTA_ERRORS, is_transient, map_error
from iftb_store_lake.layout import COLUMNS_SQL, KEY_SQL, same_key
from iftb_store_lake.pending import PENDING
from iftb_store_lake.snapshot import Snapshot
from iftb_store_lake.view import View

_MOVED = (
    "another client has meanwhile changed the lake or a bar that this session writes; none of the session's writes were stored; "
    "run the transaction again"
)
# the longest wait in seconds before another attempt; who has lost more often waits less, so that nobody starves
_LONGEST_WAIT = 0.2
_FAILED = "the writes could not be stored"


class Commit:
    """The commit of one session.

    Attributes:
        strict: whether the commit must directly follow the version that the session read.
        careful: whether the bars that the session writes must not have been changed since that version.
    """

    def __init__(
        self,
        lake: Lake,
        cursor: Cursor,
        view: View,
        base: Snapshot | None,
        bounds: Bounds | None,
        *,
        strict: bool,
        careful: bool,
    ) -> None:
        """Prepare the commit of the pending rows.

        Args:
            lake: the table.
            cursor: the session's cursor, which has the pending rows.
            view: the session's view.
            base: the version that the session has read; None if it has read none.
            bounds: the bounds of the pending rows; None if they are not known.
            strict: see the attributes.
            careful: see the attributes.
        """
        self._lake = lake
        self._cursor = cursor
        self._view = view
        self._base = base
        self.strict = strict
        self.careful = careful
        self._location = lake.storage.location
        self._token = uuid4().hex
        # what an attempt wrote for the files that it read; the next one needs the same unless others replaced these
        self._read, self._replaced = list[str](), list[str]()
        self._files: list[AddAction] | None = None
        # the version after which a commit was sent that may still arrive
        self._unsure: int | None = None
        if bounds is None:
            keys, _ = cursor.table(f"SELECT {KEY_SQL} FROM {PENDING}")
            bounds = key_bounds(BARS, keys) if keys.num_rows else None
        # None if there are no rows
        self._bounds = bounds

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
        if self._base is not None and snapshot.version != self._base.version:
            self._check_unmoved(self._base, snapshot, bounds)
        paths = snapshot.pick(bounds)
        if paths != self._read or self._files is None:
            changes = Changes(self._lake.storage, self._cursor, self._view, snapshot, bounds)
            # what is stored already as it shall be needs no commit
            if not changes.rows.num_rows:
                return True
            try:
                self._files = changes.write()
            except DELTA_ERRORS as error:
                if is_transient(error, self._location):
                    return False
                raise map_error(error, _FAILED, self._location) from None
            self._read, self._replaced = paths, changes.replaced
        return self._send(snapshot, self._files, self._replaced)

    def _send(self, snapshot: Snapshot, files: list[AddAction], replaced: list[str]) -> bool:
        """Return whether a commit that directly follows ``snapshot`` has added and replaced files."""
        earlier, self._unsure = self._unsure, snapshot.version
        try:
            self._lake.commit(files, replaced, self._token)
            return True
        except BaseException as error:
            # a panic of delta-rs is no Exception
            failure = error
        found = self._lake.has_commit(self._token, snapshot.version)
        if found:
            return True
        explained = isinstance(failure, DELTA_ERRORS)
        passing = explained and is_transient(failure, self._location)
        if found is False:
            self._unsure = None
        elif explained and not passing:
            self._unsure = earlier
        if isinstance(failure, KeyboardInterrupt | SystemExit):
            raise failure
        if not passing:
            raise map_error(failure, _FAILED, self._location)
        return False

    def _check_unmoved(self, base: Snapshot, snapshot: Snapshot, bounds: Bounds) -> None:
        """Raise TransientError if commits of other clients since the session's version conflict with this commit."""
        if self.strict or (self.careful and self._is_changed(base, snapshot, bounds)):
            raise operational_error(_MOVED, transient=True)

    def _is_changed(self, base: Snapshot, snapshot: Snapshot, bounds: Bounds) -> bool:
        """Return whether a bar that the session writes has changed since the version that the session read."""
        before, after = (set(state.pick(bounds)) for state in (base, snapshot))
        with self._view.reading(sorted(before - after), bounds) as old, self._view.reading(sorted(after - before), bounds) as new:
            rows_of = f"SELECT {COLUMNS_SQL} FROM {{}} AS stored SEMI JOIN {PENDING} AS own ON {same_key('stored', 'own')}"
            sides = (rows_of.format(old), rows_of.format(new))
            changed = " UNION ALL ".join(f"(({one}) EXCEPT ({other}))" for one, other in (sides, sides[::-1]))
            return bool(self._cursor.fetch(f"SELECT 1 FROM ({changed}) LIMIT 1"))
