"""Measures whether the time a row and the memory stay the same as a store grows, for every bulk path on every engine.

`python -m benchmarks.growth`: 100,000 and 1,000,000 bars of one series; `--quick`: 20,000 and 200,000. In every round each path
runs once at both sizes, each time in a separate process (`benchmarks.growth_paths`) on new databases.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks.growth_paths import PATHS, Place
from benchmarks.postgres import postgres_databases
from benchmarks.show import TITLES, table_of, terminal, verdict
from iftb_store.url import bound_memory

ENGINES = {"postgresql": "PostgreSQL", "sqlite": "SQLite", "duckdb": "DuckDB"}
#: The greatest ratio of the larger size to the smaller one: of the time a row, and of the peak memory.
LIMIT = 1.3
_SMALL, _LARGE, _QUICK_SMALL, _QUICK_LARGE = 100_000, 1_000_000, 20_000, 200_000
_WARM = 1_000

#: Microseconds a row and peak MiB of one run of a path.
Sample = tuple[float, float]
#: Returns the URL of a new database.
CreateDatabase = Callable[[], str]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A fifth of the rows.")] = False,
    engine: Annotated[list[str] | None, typer.Option(help=f"Only this engine, of {', '.join(ENGINES)}; repeatable.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each path at each size; the table has the medians.")] = 3,
    path: Annotated[Path, typer.Option("--json", help="Write the figures into this file.")] = Path("growth.json"),
) -> None:
    """Measure every bulk path at two sizes a factor of 10 apart."""
    sizes = (_QUICK_SMALL, _QUICK_LARGE) if quick else (_SMALL, _LARGE)
    lines = measure(engine or list(ENGINES), sizes, rounds)
    path.write_text(json.dumps(lines, indent=2) + "\n")
    terminal().print(table_of(TITLES["growth"], lines))


def measure(engines: Sequence[str], sizes: tuple[int, int], rounds: int) -> list[dict[str, Any]]:
    """Return one line for each path of each engine, with the figures of both sizes and their ratio."""
    lines = []
    for engine in engines:
        found: dict[tuple[str, int], list[Sample]] = {}
        for _ in range(rounds):
            for rows in sizes:
                for name, sample in _run_paths(engine, rows):
                    found.setdefault((name, rows), []).append(sample)
        lines += [_line(ENGINES[engine], name, sizes, *(found[name, rows] for rows in sizes)) for name in PATHS]
    return lines


def _line(engine: str, name: str, sizes: tuple[int, int], small: list[Sample], large: list[Sample]) -> dict[str, Any]:
    (little, low), (much, high) = (tuple(map(median, zip(*samples, strict=True))) for samples in (small, large))
    return {
        "engine": engine,
        "path": name,
        f"µs/row at {sizes[0]:,}": round(little, 2),
        f"µs/row at {sizes[1]:,}": round(much, 2),
        "ratio": round(much / little, 2),
        f"peak MiB at {sizes[0]:,}": round(low),
        f"peak MiB at {sizes[1]:,}": round(high),
        "memory": round(high / low, 2),
        f"both ≤ {LIMIT}": verdict(much / little <= LIMIT and high / low <= LIMIT),
    }


def _run_paths(engine: str, rows: int) -> Iterator[tuple[str, Sample]]:
    """Run each path once with a number of rows; yield its name and its figures."""
    with TemporaryDirectory(prefix="iftb-growth-") as name, _databases(engine, Path(name)) as create:
        places = [_Places(create, Path(name, f"{size}.parquet"), size) for size in (_WARM, rows)]
        for path in PATHS:
            found = _run(path, *(place.of(path) for place in places))
            yield path, (found["seconds"] / rows * 1e6, found["peak"])


class _Places:
    """The databases of one size: the source, which `insert_many` fills, and the destination of the last path that writes."""

    def __init__(self, create: CreateDatabase, file: Path, rows: int) -> None:
        self._create, self._file, self._rows = create, str(file), rows
        self._source = self._last = create()

    def of(self, path: str) -> Place:
        """Return the place of a path; one that writes gets a new destination, except the first, which fills the source."""
        if path in ("write_arrow", "import", "copy"):
            self._last = self._create()
        # as in the commands: without limits, the engine's own cache grows with the store
        source, last = (bound_memory(url).render_as_string(hide_password=False) for url in (self._source, self._last))
        return Place(source, last, self._file, self._rows)


def _run(path: str, warm: Place, place: Place) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.growth_paths", path, warm.text(), place.text()]
    found: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


@contextmanager
def _databases(engine: str, folder: Path) -> Iterator[CreateDatabase]:
    if engine == "postgresql":
        with postgres_databases(folder) as create:
            yield create
    else:
        numbers = count(1)
        yield lambda: f"{engine}:///{folder / f'{next(numbers)}.{engine}'}"


if __name__ == "__main__":
    typer.run(main)
