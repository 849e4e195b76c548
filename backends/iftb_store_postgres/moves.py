"""Moves the bars of an ordinary table ohlcv into a partitioned one, in batches, while others read and write.

A trigger makes every write of ohlcv in the new table too, in the writer's transaction; batches copy the bars that were stored
before. At the end both tables are compared in one snapshot, and a short transaction gives the new table the name of the old one.
A table with one row, iftb_store_move, holds the place of the last batch, so that a move that was interrupted continues there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

import asyncpg

from iftb_store.batches.bars import KEY
from iftb_store.errors import SchemaError, StoreError
from iftb_store.schema.tables import Base
from iftb_store.schema.views import create_view_sql
from iftb_store_postgres.partitions import (
    BarTable,
    attempt,
    create_sql,
    find_table,
    list_periods,
    quote,
    refuse_many,
    stored_periods_sql,
    transaction,
)

#: Called in the event loop with (step, bars done, bars in total or None).
Progress: TypeAlias = Callable[[str, int, int | None], None]
#: How many bars one transaction copies.
BATCH = 5_000
# milliseconds: shorter than PostgreSQL's deadlock_timeout, so that in a deadlock the batch gives way and not the writer
_BATCH_WAIT = 200
_NEW, _MOVE, _MIRROR, _OLD = "iftb_store_ohlcv", "iftb_store_move", "iftb_store_mirror", "iftb_store_plain"
_KEY = ", ".join(KEY)
_VIEW = "ohlcv_view"
_PRIMARY_KEY = "pk_ohlcv"
# the first version with hash_record_extended
_HASHES_RECORDS = 14

# what the new table would not have, or what would still refer to the old one
_OBSTACLES = """
    SELECT concat('the trigger ', tgname) AS obstacle FROM pg_trigger
        WHERE tgrelid = $1 AND NOT tgisinternal AND left(CAST(tgname AS text), 17) <> 'iftb_store_mirror'
    UNION ALL SELECT 'row-level security' FROM pg_class WHERE oid = $1 AND relrowsecurity
    UNION ALL SELECT concat('the policy ', polname) FROM pg_policy WHERE polrelid = $1
    UNION ALL SELECT concat('the rule ', rulename) FROM pg_rewrite WHERE ev_class = $1
    UNION ALL SELECT concat('the foreign key ', conname, ' of ', CAST(conrelid AS regclass)) FROM pg_constraint
        WHERE confrelid = $1 AND contype = 'f'
    UNION ALL SELECT concat('the constraint ', conname) FROM pg_constraint
        WHERE conrelid = $1 AND contype IN ('c', 'f', 'u', 'x')
    UNION ALL SELECT concat('the index ', relname) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indrelid = $1 AND NOT indisprimary
    UNION ALL SELECT concat('the statistics ', stxname) FROM pg_statistic_ext WHERE stxrelid = $1
    UNION ALL SELECT concat('the table ', CAST(inhrelid AS regclass), ', which inherits from it') FROM pg_inherits
        WHERE inhparent = $1
    UNION ALL SELECT concat('its place in the publication ', pubname) FROM pg_publication_rel
        JOIN pg_publication ON pg_publication.oid = prpubid WHERE prrelid = $1
    UNION ALL SELECT DISTINCT concat('the view ', CAST(ev_class AS regclass)) FROM pg_depend
        JOIN pg_rewrite ON pg_rewrite.oid = objid AND classid = CAST('pg_catalog.pg_rewrite' AS regclass)
        WHERE refclassid = CAST('pg_catalog.pg_class' AS regclass) AND refobjid = $1 AND ev_class <> $1
            AND ev_class IS DISTINCT FROM CAST(to_regclass($2) AS oid)
    UNION ALL SELECT DISTINCT concat('the function ', CAST(objid AS regprocedure)) FROM pg_depend
        WHERE classid = CAST('pg_catalog.pg_proc' AS regclass) AND (
            (refclassid = CAST('pg_catalog.pg_class' AS regclass) AND refobjid = $1)
            OR (refclassid = CAST('pg_catalog.pg_type' AS regclass)
                AND refobjid IN (SELECT reltype FROM pg_class WHERE pg_class.oid = $1)))
    ORDER BY 1"""
# the tables of an interrupted move, if they belong to the owner of ohlcv: others could have laid a trap
_LEFT = """
    SELECT count(*) = 2 FROM pg_class WHERE oid IN (to_regclass($2), to_regclass($3))
        AND relowner = (SELECT relowner FROM pg_class WHERE oid = $1)"""
_IDENTITY = "SELECT attidentity = 'd' FROM pg_attribute WHERE attrelid = $1 AND attname = 'id'"
_COLUMNS = """
    SELECT array_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attcollation, attnotnull) ORDER BY attname)
    FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped"""
# the statements that give a new relation the rights of an old one
_REVOKES = """
    SELECT DISTINCT format('REVOKE ALL ON {kind} {{new}} FROM %s', CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(
        CAST(pg_get_userbyid(grantee) AS text)) END)
    FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = to_regclass($1) AND grantee <> relowner"""
_GRANTS = """
    SELECT format('GRANT %s%s ON {kind} {{new}} TO %s%s', privilege_type, listed, CASE grantee WHEN 0 THEN 'PUBLIC'
        ELSE quote_ident(CAST(pg_get_userbyid(grantee) AS text)) END,
        CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM (
        SELECT relacl AS acl, relowner AS owner, '' AS listed FROM pg_class WHERE oid = to_regclass($1)
        UNION ALL
        SELECT attacl, relowner, format(' (%I)', attname) FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE attrelid = to_regclass($1) AND attacl IS NOT NULL AND NOT attisdropped
    ) AS granted, aclexplode(acl) WHERE grantee <> owner"""


class Move:
    """One move of the bars into a partitioned table; see the functions of `iftb_store.maintenance.partitions`."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        table: BarTable,
        by: str,
        ahead: int,
        progress: Callable[[str, int, int | None], None],
    ) -> None:
        self._connection, self._table, self._by, self._ahead, self._progress = connection, table, by, ahead, progress
        self._old, self._new = f"{table.schema}.ohlcv", f"{table.schema}.{_NEW}"
        self._move, self._mirror = f"{table.schema}.{_MOVE}", f"{table.schema}.{_MIRROR}"

    async def run(self) -> None:
        """Move all bars; continue an interrupted move.

        Raises:
            SchemaError: ohlcv has something that the partitioned table would lack.
            StoreError: the two tables differ at the end; then the next run begins anew.
            TransientError: others held locks all the time; the next run continues.
        """
        await self._check()
        if not await attempt(self._prepare):
            return
        try:
            while await attempt(self._copy):
                pass
            await self._compare()
            self._progress("wait for older transactions", 0, None)
            await self._wait_for_snapshots()
            self._progress("exchange the tables", 0, None)
            await attempt(self._exchange)
        except asyncpg.UndefinedTableError:
            # another process, with which this one took turns, may have ended the move
            if (await find_table(self._connection)).key is None:
                raise

    async def _check(self) -> None:
        async with transaction(self._connection, self._table):
            found = [row[0] for row in await self._connection.fetch(_OBSTACLES, self._table.oid, f"{self._table.schema}.{_VIEW}")]
            if not await self._connection.fetchval(_IDENTITY, self._table.oid):
                found.append("a column id that is no identity column")
        missing = {*Base.metadata.tables["ohlcv"].columns.keys()} ^ {*self._table.columns}
        found += [f"another set of columns ({', '.join(sorted(missing))})"] if missing else []
        if found:
            raise SchemaError(
                f"ohlcv cannot be partitioned, because the new table would not have what this one has: {'; '.join(found)}. "
                "Nothing was changed; drop it, partition the table, then create it again"
            )

    async def _prepare(self) -> bool:
        """Create the new table with its partitions and the triggers, unless an interrupted move has left them.

        Returns:
            Whether there is something to move; False if another process has ended the move meanwhile.
        """
        connection, table = self._connection, self._table
        async with transaction(connection, table):
            # it conflicts with itself, so that two processes prepare one after the other; readers and writers continue
            await connection.execute(f"LOCK TABLE {self._old} IN SHARE UPDATE EXCLUSIVE MODE")
            if await connection.fetchval("SELECT CAST(to_regclass($1) AS oid)", self._old) != table.oid:
                return False
            if await self._is_left():
                return True
            starts = []
            if not self._by.startswith("hash:"):
                self._progress("find the months" if self._by == "month" else "find the years", 0, None)
                stored = [row["start"] for row in await connection.fetch(stored_periods_sql(self._old, self._by))]
                starts = sorted({*stored, *list_periods(datetime.now(UTC), self._by, ahead=self._ahead)})
                refuse_many(len(starts) + 1, self._by)
            kind = "HASH (exchange, symbol)" if self._by.startswith("hash:") else "RANGE (timestamp)"
            for statement in (
                *self._drop_sql(),
                f"CREATE TABLE {self._new} (LIKE {self._old} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING IDENTITY "
                f"INCLUDING COMMENTS) PARTITION BY {kind}",
                f"ALTER TABLE {self._new} ADD CONSTRAINT {_NEW}_pk PRIMARY KEY ({_KEY})",
                *create_sql(self._new, table.schema, self._by, starts),
                f"CREATE TABLE {self._move} (method text NOT NULL, source oid NOT NULL, copied bigint NOT NULL, "
                "exchange text, symbol text, timeframe text, timestamp timestamptz)",
                f"INSERT INTO {self._move} VALUES ('{self._by}', {table.oid}, 0)",
                *self._mirror_sql(),
            ):
                await connection.execute(statement)
        return True

    async def _is_left(self) -> bool:
        """Return whether an interrupted move by the same method can continue."""
        connection = self._connection
        if not await connection.fetchval(_LEFT, self._table.oid, self._new, self._move):
            return False
        new = await connection.fetchval("SELECT CAST(to_regclass($1) AS oid)", self._new)
        old_columns, new_columns = [await connection.fetchval(_COLUMNS, oid) for oid in (self._table.oid, new)]
        row = await connection.fetchrow(f"SELECT method, source FROM {self._move}")
        return row is not None and tuple(row) == (self._by, self._table.oid) and old_columns == new_columns

    def _drop_sql(self) -> list[str]:
        """Return the statements that remove everything of a move."""
        return [
            f"DROP FUNCTION IF EXISTS {self._mirror}() CASCADE",
            f"DROP TABLE IF EXISTS {self._new}, {self._move}",
        ]

    def _mirror_sql(self) -> list[str]:
        """Return the statements that create the trigger, which makes each write in the new table too.

        It runs with the rights of the owner, so that writers need no rights on the new table. Whoever deletes bars waits for the
        batch that is being copied, and the next batch waits for them: otherwise a batch could store a deleted bar again. A
        transaction whose snapshot is older than the copy of the bar cannot delete the copy, and fails like one that conflicts.
        """
        columns = [name for name in self._table.columns if name not in KEY]
        names = self._table.names
        same = " AND ".join(f"{name} = gone.{name}" for name in KEY)
        lock = (
            f"PERFORM FROM {self._move} FOR SHARE; IF NOT FOUND THEN RAISE EXCEPTION "
            "'the bars are being moved into partitions, and the transaction is older than that' USING ERRCODE = '40001'; END IF;"
        )
        body = f"""
            DECLARE
                gone record;
                locked boolean := false;
            BEGIN
                IF TG_OP = 'TRUNCATE' THEN
                    {lock}
                    TRUNCATE {self._new};
                    RETURN NULL;
                END IF;
                IF TG_OP = 'DELETE' THEN
                    FOR gone IN SELECT {_KEY} FROM old_rows LOOP
                        IF NOT locked THEN
                            {lock}
                            locked := true;
                        END IF;
                        DELETE FROM {self._new} WHERE {same};
                    END LOOP;
                    RETURN NULL;
                END IF;
                IF TG_OP = 'UPDATE' THEN
                    FOR gone IN SELECT {_KEY} FROM old_rows EXCEPT SELECT {_KEY} FROM new_rows LOOP
                        IF NOT locked THEN
                            {lock}
                            locked := true;
                        END IF;
                        DELETE FROM {self._new} WHERE {same};
                    END LOOP;
                END IF;
                INSERT INTO {self._new} ({names}) SELECT {names} FROM new_rows ORDER BY {_KEY}
                ON CONFLICT ({_KEY}) DO UPDATE
                SET ({", ".join(map(quote, columns))}) = ROW ({", ".join(f"excluded.{quote(name)}" for name in columns)});
                RETURN NULL;
            END"""
        call = f"FOR EACH STATEMENT EXECUTE FUNCTION {self._mirror}()"
        return [
            f"CREATE FUNCTION {self._mirror}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
            f"SET search_path = pg_catalog, pg_temp AS $body${body}$body$",
            # a FOR loop over a changed table must see what it deletes, so the triggers are AFTER triggers
            f"CREATE TRIGGER {_MIRROR}_insert AFTER INSERT ON {self._old} REFERENCING NEW TABLE AS new_rows {call}",
            f"CREATE TRIGGER {_MIRROR}_update AFTER UPDATE ON {self._old} "
            f"REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows {call}",
            f"CREATE TRIGGER {_MIRROR}_delete AFTER DELETE ON {self._old} REFERENCING OLD TABLE AS old_rows {call}",
            f"CREATE TRIGGER {_MIRROR}_truncate AFTER TRUNCATE ON {self._old} {call}",
        ]

    async def _copy(self) -> bool:
        """Copy the next batch of bars; return False if there are no more."""
        connection, names = self._connection, self._table.names
        async with transaction(connection, self._table, lock_wait=_BATCH_WAIT):
            row = await connection.fetchrow(
                f"SELECT exchange, symbol, timeframe, CAST(timestamp AS text) FROM {self._move} FOR UPDATE"
            )
            if row is None:
                return False
            place = tuple(row)
            behind = f"WHERE ({_KEY}) > ($1::text, $2::text, $3::text, $4::text::timestamptz)" if place[0] is not None else ""
            found = await connection.fetchval(
                f"""
                WITH batch AS MATERIALIZED (SELECT {names} FROM {self._old} {behind} ORDER BY {_KEY} LIMIT {BATCH}),
                written AS (INSERT INTO {self._new} ({names}) SELECT {names} FROM batch ON CONFLICT DO NOTHING),
                last AS (
                    SELECT {_KEY}, (SELECT count(*) FROM batch) AS bars FROM batch
                    ORDER BY exchange DESC, symbol DESC, timeframe DESC, timestamp DESC LIMIT 1)
                UPDATE {self._move} AS move SET exchange = last.exchange, symbol = last.symbol, timeframe = last.timeframe,
                    timestamp = last.timestamp, copied = copied + last.bars
                FROM last RETURNING copied""",
                *(place if behind else ()),
            )
            if found is None:
                return False
            # an estimate, as to count the bars would be to read them all
            total = await connection.fetchval("SELECT CAST(reltuples AS bigint) FROM pg_class WHERE oid = $1", self._table.oid)
        self._progress("copy", found, max(total, found) if total > 0 else None)
        return True

    async def _compare(self) -> None:
        """Compare all values of both tables in one snapshot; if they differ, remove the new table.

        Raises:
            StoreError: they differ.
        """
        connection = self._connection
        self._progress("compare", 0, None)
        record = f"ROW ({self._table.names})"
        hashes_records = connection.get_server_version().major >= _HASHES_RECORDS
        value = f"hash_record_extended({record}, 0)" if hashes_records else f"hashtextextended(CAST({record} AS text), 0)"
        sums = f"SELECT count(*) AS bars, sum({value}) AS hash FROM"
        async with transaction(connection, self._table):
            if not await self._is_left():
                return
            (row,) = await connection.fetch(
                f"SELECT old.bars, new.bars, old.hash IS NOT DISTINCT FROM new.hash "
                f"FROM ({sums} {self._old}) AS old, ({sums} {self._new}) AS new"
            )
            await connection.execute(f"ANALYZE {self._new}")
        old, new, same = row
        if (old, True) == (new, same):
            return

        async def drop() -> None:
            async with transaction(connection, self._table):
                for statement in self._drop_sql():
                    await connection.execute(statement)

        await attempt(drop)
        raise StoreError(
            f"ohlcv has {old:,} bars and the partitioned table {new:,}, or they differ in a value: somebody wrote without firing "
            "triggers (session_replication_role = replica, or a subscription). Nothing was changed; end that, then run this again"
        )

    async def _wait_for_snapshots(self) -> None:
        """Wait until no transaction has a snapshot that is older than the last batch.

        Such a transaction would find the new table under the name ohlcv, without the bars that were copied later than its
        snapshot. CREATE INDEX CONCURRENTLY waits for the same reason; nobody waits for it.
        """
        # another process may do the same, and one of both may have to try again
        index = f"{_MOVE}_{secrets.token_hex(4)}"

        async def wait() -> None:
            await self._connection.execute(f"DROP INDEX IF EXISTS {self._table.schema}.{index}")
            await self._connection.execute(f"CREATE INDEX CONCURRENTLY {index} ON {self._move} (copied)")

        await attempt(wait)

    async def _exchange(self) -> None:
        """Give the new table the name, the rights and the sequence of the old one, and drop the old one."""
        connection, schema, table = self._connection, self._table.schema, self._table
        async with transaction(connection, table):
            await connection.execute(f"LOCK TABLE {self._old} IN ACCESS EXCLUSIVE MODE")
            if not await self._is_left():
                return
            old, new = [
                await connection.fetchval("SELECT pg_get_serial_sequence($1, 'id')", name) for name in (self._old, self._new)
            ]
            await connection.execute(f"SELECT setval('{new}', last_value, is_called) FROM {old}")
            for kind, before, after in (("TABLE", self._old, self._new), ("SEQUENCE", old, new)):
                revokes = await connection.fetch(_REVOKES.format(kind=kind), after)
                grants = await connection.fetch(_GRANTS.format(kind=kind), before)
                for row in (*revokes, *grants):
                    await connection.execute(row[0].format(new=after))
            has_view = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{schema}.{_VIEW}")
            for statement in (
                f"ALTER TABLE {self._old} RENAME TO {_OLD}",
                f"ALTER TABLE {self._new} RENAME TO ohlcv",
                *(self._view_sql() if has_view else ()),
                f"DROP TABLE {schema}.{_OLD}, {self._move}",
                f"DROP FUNCTION {self._mirror}()",
                f"ALTER TABLE {self._old} RENAME CONSTRAINT {_NEW}_pk TO {_PRIMARY_KEY}",
                f"ALTER SEQUENCE {new} RENAME TO {_take_name(old)}",
            ):
                await connection.execute(statement)

    def _view_sql(self) -> list[str]:
        """Return the statements that let the view read the new table; they keep its rights."""
        create, invoker = create_view_sql(Base.metadata.tables["ohlcv"], "postgresql")
        view = f"{self._table.schema}.{_VIEW}"
        create = create.replace(f"CREATE VIEW {_VIEW}", f"CREATE OR REPLACE VIEW {view}").replace(
            " FROM ohlcv", f" FROM {self._old}"
        )
        return [create, invoker.replace(f"ALTER VIEW {_VIEW}", f"ALTER VIEW {view}")]


def _take_name(qualified: str) -> str:
    """Return the last name, as SQL, of a qualified name."""
    return qualified[qualified.rindex('."') + 1 :] if qualified.endswith('"') else qualified.rpartition(".")[2]


async def move_bars(connection: asyncpg.Connection, by: str, ahead: int, progress: Progress) -> None:
    """Move the bars of ohlcv into a partitioned table; see `Move`."""
    await Move(connection, await find_table(connection), by, ahead, progress).run()
