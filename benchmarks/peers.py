"""Other stores of bars beside ours, on the same bars, each installed from PyPI into a separate environment."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any, NamedTuple

import asyncpg
import typer

from benchmarks.duckdb import DuckDB
from benchmarks.engine import Engine
from benchmarks.objects import bars
from benchmarks.postgres import URL_VARIABLE, Postgres, postgres_server
from benchmarks.series import SYMBOL, TIMEFRAME
from benchmarks.show import table_of, terminal
from benchmarks.sqlite import SQLite
from iftb_store import OHLCVBar, OHLCVRepository

_ROOT = Path(__file__).parent.parent
_INSTALL_SECONDS = 900
_FLOATS = "no: floats"
_NAIVE_TIME = "no: stored without, read as the machine's"


class Peer(NamedTuple):
    """Another project's store.

    Attributes:
        name: its name in the table.
        kind: the worker's name for it.
        packages: the packages that pip installs; the version of the first one is shown.
        decimals: whether the Decimal that goes in comes out.
        zone: whether an aware time comes back aware.
        note: other differences.
    """

    name: str
    kind: str
    packages: tuple[str, ...]
    decimals: str
    zone: str
    note: str


PEERS = (
    Peer(
        "vnpy_sqlite", "vnpy_sqlite", ("vnpy_sqlite", "vnpy"), _FLOATS, _NAIVE_TIME,
        "save_bar_data (an upsert), load_bar_data; synchronous",
    ),
    Peer(
        "vnpy_postgresql", "vnpy_postgresql", ("vnpy_postgresql", "vnpy", "psycopg2-binary"), _FLOATS,
        _NAIVE_TIME, "save_bar_data (an upsert), load_bar_data; synchronous",
    ),
    Peer(
        "ArcticDB on LMDB", "arcticdb", ("arcticdb", "pandas"), _FLOATS, "yes",
        "objects to a DataFrame and back; whole series, no key; LMDB syncs as ArcticDB sets it",
    ),
    Peer(
        "pandas feather", "feather", ("pandas", "pyarrow"), _FLOATS, "yes",
        "objects to a DataFrame and back; one file, no key, no transaction, no fsync",
    ),
)  # fmt: skip
OURS: tuple[type[Engine], ...] = (Postgres, SQLite, DuckDB)


async def measure(rows: int, rounds: int) -> list[dict[str, Any]]:
    """Return one line for each of our engines and each peer; all take turns."""
    with tempfile.TemporaryDirectory(prefix="iftb-bench-") as folder:
        Path(folder).chmod(0o755)
        async with _server(Path(folder)) as url:
            workers: dict[str, Worker | str] = {peer.name: await _start(peer, Path(folder), rows, url) for peer in PEERS}
            times = await _turns(Path(folder), {n: w for n, w in workers.items() if isinstance(w, Worker)}, rows, rounds)
            for worker in workers.values():
                if isinstance(worker, Worker):
                    worker.stop()
    lines = [
        _line(f"iftb-store, {engine.name}", "", times[engine.name], rows, "yes", "yes", "insert_many, get_range")
        for engine in OURS
    ]
    for peer in PEERS:
        worker = workers[peer.name]
        if isinstance(worker, Worker):
            lines.append(_line(peer.name, worker.version, times[peer.name], rows, peer.decimals, peer.zone, peer.note))
        else:
            lines.append(_line(peer.name, "", {}, rows, peer.decimals, peer.zone, worker))
    return lines


def _line(
    name: str, version: str, times: Mapping[str, list[float]], rows: int, decimals: str, zone: str, note: str
) -> dict[str, Any]:
    each = {f"{job} µs/row": round(median(times[job]) / rows * 1e6, 2) if times else None for job in ("write", "read")}
    return {
        "store": name,
        "version": version,
        "bars": rows,
        **each,
        "decimals kept": decimals,
        "time zone kept": zone,
        "note": note,
    }


class Worker:
    """A peer in a separate process: it runs one job for each line that it receives and returns the seconds."""

    def __init__(self, python: Path, peer: Peer, folder: Path, rows: int, url: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), "HOME": str(folder), "QT_QPA_PLATFORM": "offscreen"}
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.peer_worker", peer.kind, peer.packages[0], str(rows), url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment,
        )  # fmt: skip
        self.version = str(self._answer())

    def seconds(self, job: str) -> float:
        """Run one job, write or read."""
        if self._process.stdin is None:
            raise RuntimeError("the worker was started without a pipe")
        self._process.stdin.write(f"{job}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> Any:
        for line in self._process.stdout or ():
            # libraries print to stdout, too
            with suppress(json.JSONDecodeError, TypeError, KeyError):
                return json.loads(line)["answer"]
        _, error = self._process.communicate()
        raise RuntimeError((error.strip().splitlines() or ["the worker ended without a message"])[-1])


async def _start(peer: Peer, folder: Path, rows: int, url: str) -> Worker | str:
    """Install and start a peer; return the reason if that fails."""
    home = folder / peer.kind
    home.mkdir()
    try:
        python = _install(peer, home / "env")
        return Worker(python, peer, home, rows, url)
    except subprocess.CalledProcessError as error:
        return f"does not install: {(error.stderr.strip().splitlines() or ['pip failed'])[-1]}"
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"


def _install(peer: Peer, home: Path) -> Path:
    venv.create(home, with_pip=True)
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", *peer.packages]
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=_INSTALL_SECONDS)
    return python


async def _turns(folder: Path, workers: Mapping[str, Worker], rows: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Run the writes and reads of our engines and the peers in turns, after one round to warm up."""
    whole = bars(rows)
    times: dict[str, dict[str, list[float]]] = {
        name: {"write": [], "read": []} for name in (*(engine.name for engine in OURS), *workers)
    }
    for turn in range(-1, rounds):
        for kind in OURS:
            home = folder / f"{kind.name}{turn}"
            home.mkdir()
            for job, seconds in (await _ours(kind(), home, whole)).items():
                times[kind.name][job] += [seconds] * (turn >= 0)
        for name, worker in workers.items():
            for job in ("write", "read"):
                seconds = worker.seconds(job)
                times[name][job] += [seconds] * (turn >= 0)
    return times


async def _ours(engine: Engine, home: Path, whole: list[OHLCVBar]) -> dict[str, float]:
    times = {}
    async with engine.opened(home):
        repository = OHLCVRepository(engine.db)
        gc.collect()
        started = perf_counter()
        await repository.insert_many(whole)
        times["write"] = perf_counter() - started
        gc.collect()
        started = perf_counter()
        read = await repository.get_range(SYMBOL, TIMEFRAME, whole[0].timestamp, whole[-1].timestamp)
        times["read"] = perf_counter() - started
        del read
    return times


@asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[str]:
    """Yield the URL of a server for our engine and vnpy_postgresql: the named server, or one started for this part."""
    given = os.environ.get(URL_VARIABLE)
    if given:
        yield given
        return
    server = postgres_server(folder)
    os.environ[URL_VARIABLE] = server.get_uri()
    try:
        connection = await asyncpg.connect(server.get_uri())
        await connection.execute("CREATE DATABASE peers")
        await connection.close()
        yield server.get_uri()
    finally:
        del os.environ[URL_VARIABLE]
        server.cleanup()


def main(
    rows: Annotated[int, typer.Option(help="Bars to write and read.")] = 100_000,
    rounds: Annotated[int, typer.Option(help="Samples of each.")] = 5,
) -> None:
    """Time other stores of bars beside ours."""
    terminal().print(table_of("Peers, the same bars", asyncio.run(measure(rows, rounds))))


if __name__ == "__main__":
    typer.run(main)
