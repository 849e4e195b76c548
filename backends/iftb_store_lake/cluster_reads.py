"""Reads a lake on a cluster, with Spark's SQL: queries over many series and digests of days."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import aclosing
from datetime import datetime
from typing import Any

import pyarrow as pa

from iftb_store.abilities import Edges
from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.columnar import SeriesDialect, many_buckets_sql, many_gaps_sql, read_many_buckets, series_sql, to_gaps
from iftb_store.errors import explain_unreadable
from iftb_store.models import Series
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter
from iftb_store.schema.types import from_epoch_us, to_epoch_us
from iftb_store_lake.cluster import Cluster

_SPARK = SeriesDialect(
    microseconds="unix_micros({})",
    month="(year(timestamp_micros({0})) * 12 + month(timestamp_micros({0})))",
    divided="div",
    first="min_by({}, moment)",
    last="max_by({}, moment)",
    # Spark's sum of DECIMAL(38,18) overflows, and Sail's wraps
    whole="sum(CASE WHEN {0} >= 0 THEN floor({0}) ELSE ceil({0}) END)",
    rest="sum({} % 1)",
    count="sum(CAST({} AS DECIMAL(20, 0)))",
)
_VALUES = tuple(name for name in BARS.compared if name not in BARS.key)
_DAYS = Buckets("1s", "1d")
# rows converted at once
_SLICE = 10_000


class ClusterReads:
    """Reads one version of a lake on a cluster, without the session's uncommitted writes."""

    def __init__(self, cluster: Cluster, executor: Executor, version: int) -> None:
        self._cluster = cluster
        self._executor = executor
        self._table = cluster.table(version)

    async def list_series(self) -> list[Series]:
        """Return every stored series; see `iftb_store.protocols.BarStore.list_series`."""
        rows = await self._read(self._cluster.query(series_sql(_SPARK, self._table), {}))
        with explain_unreadable(BARS.name):
            return [
                Series(exchange, symbol, timeframe, from_epoch_us(first), from_epoch_us(last), count, missing)
                for exchange, symbol, timeframe, first, last, count, missing in rows
            ]

    async def stream_gaps(self, window: RowFilter, edges: Mapping[str, Edges]) -> AsyncGenerator[pa.Table]:
        """Yield the gaps of many series; see `iftb_store.abilities.SupportsManySeries`."""
        bound = _Parameters()
        chosen, inside = _conditions(window, bound)
        bounds = {name: (bound.microseconds(before), bound.microseconds(after)) for name, (before, after) in edges.items()}
        sql = many_gaps_sql(_SPARK, self._table, chosen, inside, bounds)
        async with aclosing(self._cluster.stream(self._executor, self._cluster.query(sql, bound.values))) as parts:
            async for part in parts:
                if part.num_rows:
                    yield to_gaps(part)

    async def stream_buckets(self, window: RowFilter, buckets: Buckets) -> AsyncGenerator[list[tuple[str, str, Bucket]]]:
        """Yield the buckets of many series; see `iftb_store.abilities.SupportsManySeries`."""
        bound = _Parameters()
        chosen, inside = _conditions(window, bound)
        sql = many_buckets_sql(_SPARK, self._table, [*chosen, *inside], buckets)
        async with aclosing(self._cluster.stream(self._executor, self._cluster.query(sql, bound.values))) as parts:
            async for part in parts:
                for first in range(0, part.num_rows, _SLICE):
                    yield await asyncio.to_thread(read_many_buckets, part.slice(first, _SLICE))

    async def digest_days(self, series: RowFilter) -> list[tuple[int, int, bytes]]:
        """Return the digests of a series' days; see `iftb_store.abilities.SupportsDigests`."""
        bound = _Parameters()
        chosen, inside = _conditions(series, bound)
        number = _DAYS.sql("moment", month="", divided=_SPARK.divided)
        rows = f"SELECT unix_micros(timestamp) AS moment, {', '.join(_VALUES)} FROM {self._table}"
        rows += f" WHERE {' AND '.join((*chosen, *inside))}"
        plan = self._cluster.apply(
            self._cluster.query(f"SELECT {number} AS day, * FROM ({rows}) AS bars", bound.values),
            ["day"],
            ["day", "moment", *_VALUES],
            _make_digest([series.equal[name] for name in BARS.compared if name in SERIES]),
            {"day": "long", "bars": "long", "digest": "binary"},
        )
        return sorted(await self._read(plan))

    async def _read(self, plan: Any) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        async with aclosing(self._cluster.stream(self._executor, plan)) as parts:
            return [row async for part in parts for row in zip(*map(_to_list, part.columns), strict=True)]


class _Parameters:
    """The parameters of a query, by name."""

    def __init__(self) -> None:
        self.values = dict[str, str | int]()

    def bound(self, value: str | int) -> str:
        """Add a parameter and return the SQL that refers to it."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f":{name}"

    def microseconds(self, moment: datetime | None) -> str | None:
        """Add a time as microseconds and return the SQL that refers to it; None for None."""
        return None if moment is None else self.bound(to_epoch_us(moment))


def _conditions(window: RowFilter, parameters: _Parameters) -> tuple[list[str], list[str]]:
    """Return the SQL conditions that select series, and those of the time window."""
    chosen = [f"{name} = {parameters.bound(value)}" for name, value in window.equal.items()]
    inside = [f"timestamp {sign} timestamp_micros({parameters.bound(to_epoch_us(moment))})" for _, sign, moment in window.bounds]
    return chosen, inside


def _to_list(column: Any) -> list[Any]:
    found: list[Any] = column.to_pylist()
    return found


def _make_digest(names: list[str]) -> Callable[[Any], Any]:
    """Return a function that computes the digest of the bars of one day, as `iftb_store.transfer.digests` does.

    The function runs on the cluster, where this package is not installed.
    """
    prefix = b"".join(b"\1" + len(name.encode()).to_bytes(8, "little") + name.encode() for name in names)

    def digest_day(rows: Any) -> Any:
        from hashlib import blake2b

        import pyarrow as pa
        import pyarrow.compute as pc

        rows = rows.sort_by("moment").combine_chunks()
        present, absent = (pa.scalar(mark, pa.large_binary()) for mark in (b"\1", b"\0"))
        pieces: list[Any] = [pa.scalar(prefix, pa.large_binary())]
        for name in rows.column_names[1:]:
            column: Any = pa.concat_arrays(rows[name].chunks)
            width = 16 if pa.types.is_decimal(column.type) else 8
            raw: Any = pa.Array.from_buffers(pa.binary(width), len(column), column.buffers(), offset=column.offset)
            pieces.append(pc.if_else(pc.is_valid(column), present, absent))
            pieces.append(raw.cast(pa.large_binary()))
        separator = pa.scalar(b"", pa.large_binary())
        joined: Any = pc.binary_join_element_wise(*pieces, separator, null_handling="replace", null_replacement="")
        digest = blake2b(b"".join(joined.to_pylist()), digest_size=16).digest()
        columns = [rows["day"].slice(0, 1), pa.array([len(joined)], pa.int64()), pa.array([digest], pa.binary())]
        return pa.table(columns, names=["day", "bars", "digest"])

    return digest_day
