"""The sizes and rounds of the full run and of the quick run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Sizes and rounds.

    Attributes:
        sizes: numbers of bars written and read in one call.
        table: number of bars, and of trades, in the tables that are queried.
        rounds: samples of each contender.
        small_rounds: samples if at most 1,000 bars are moved.
        calls: calls in one sample if one call takes about a millisecond.
        naive: the most bars that the naive path writes or reads in one sample.
        growth: two sizes whose times per row are compared, on PostgreSQL and SQLite.
        growth_rounds: samples of each growth size.
        load: bars that DuckDB loads under ``memory_limit``, in batches of ``load_batch``.
    """

    sizes: tuple[int, ...]
    table: int
    rounds: int
    small_rounds: int
    calls: int
    naive: int
    growth: tuple[int, int]
    growth_rounds: int
    load: int
    load_batch: int
    memory_limit: str

    def rounds_for(self, size: int) -> int:
        """Return the number of rounds for a size: more if a round is short."""
        return self.small_rounds if size <= 1_000 else self.rounds


FULL = Plan(
    sizes=(100, 10_000, 100_000, 1_000_000),
    table=1_000_000,
    rounds=5,
    small_rounds=15,
    calls=50,
    naive=20_000,
    growth=(100_000, 5_000_000),
    growth_rounds=5,
    load=20_000_000,
    load_batch=1_000_000,
    memory_limit="2GiB",
)
QUICK = Plan(
    sizes=(100, 5_000, 20_000),
    table=30_000,
    rounds=3,
    small_rounds=4,
    calls=10,
    naive=1_000,
    growth=(5_000, 30_000),
    growth_rounds=2,
    load=300_000,
    load_batch=100_000,
    memory_limit="256MiB",
)
