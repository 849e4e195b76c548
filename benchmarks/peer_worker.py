"""Runs in a peer's environment: writes and reads the benchmark's bars with the peer, one job per line of its input."""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from benchmarks.series import EXCHANGE, SYMBOL, TIMEFRAME, RawBar, raw_bars


class FloatBar(NamedTuple):
    """A bar as returned by the stores that have no class for bars."""

    timestamp: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float
    trades_count: int


class Jobs(NamedTuple):
    """A peer's two jobs, and the untimed preparation of each write, which returns the objects to write."""

    prepare: Callable[[], list[Any]]
    write: Callable[[list[Any]], object]
    read: Callable[[], object]


def _floats(raw: RawBar) -> FloatBar:
    prices = (raw.open / 100, raw.high / 100, raw.low / 100, raw.close / 100)
    return FloatBar(raw.timestamp, *prices, raw.volume / 100_000, raw.quote_volume / 100_000_000, raw.trades_count)


def vnpy(module: str, raw: list[RawBar], url: str) -> Jobs:
    """vn.py's stores: save_bar_data and load_bar_data."""
    # importing the store reads its settings
    settings = importlib.import_module("vnpy.trader.setting").SETTINGS
    settings["database.database"] = "bars.db"
    settings["database.timezone"] = "UTC"
    if module == "vnpy_postgresql":
        parts = urlsplit(url)
        host = parts.hostname or parse_qs(parts.query)["host"][0]
        settings |= {"database.database": "peers", "database.host": host, "database.port": parts.port or 5432}
        settings |= {"database.user": parts.username or "postgres", "database.password": parts.password or ""}
    store = importlib.import_module(module).Database()
    constants = importlib.import_module("vnpy.trader.constant")
    exchange, interval = constants.Exchange.LOCAL, constants.Interval.MINUTE
    bar_data = importlib.import_module("vnpy.trader.object").BarData

    def prepare() -> list[Any]:
        store.delete_bar_data(SYMBOL, exchange, interval)
        # saving modifies the objects, so each write needs new ones
        return [
            bar_data(
                gateway_name="DB", symbol=SYMBOL, exchange=exchange, datetime=bar.timestamp, interval=interval,
                volume=bar.volume, turnover=bar.quote_volume, open_price=bar.open, high_price=bar.high, low_price=bar.low,
                close_price=bar.close,
            )
            for bar in map(_floats, raw)
        ]  # fmt: skip

    return Jobs(
        prepare,
        store.save_bar_data,
        lambda: store.load_bar_data(SYMBOL, exchange, interval, raw[0].timestamp, raw[-1].timestamp),
    )


def arcticdb(raw: list[RawBar]) -> Jobs:
    """ArcticDB on LMDB: a DataFrame by time."""
    library = (
        importlib.import_module("arcticdb").Arctic(f"lmdb://{Path.cwd() / 'lmdb'}").get_library("bars", create_if_missing=True)
    )
    name = f"{EXCHANGE}-{SYMBOL}-{TIMEFRAME}"

    def prepare() -> list[Any]:
        if library.has_symbol(name):
            library.delete(name)
        return list(map(_floats, raw))

    return Jobs(
        prepare,
        lambda bars: library.write(name, _frame(bars).set_index("timestamp")),
        lambda: _objects(library.read(name).data.reset_index()),
    )


def feather(raw: list[RawBar]) -> Jobs:
    """A DataFrame in a feather file."""
    pandas = importlib.import_module("pandas")
    path = Path.cwd() / "bars.feather"

    def prepare() -> list[Any]:
        path.unlink(missing_ok=True)
        return list(map(_floats, raw))

    return Jobs(prepare, lambda bars: _frame(bars).to_feather(path), lambda: _objects(pandas.read_feather(path)))


def _frame(bars: list[FloatBar]) -> Any:
    return importlib.import_module("pandas").DataFrame.from_records(bars, columns=FloatBar._fields)


def _objects(frame: Any) -> list[FloatBar]:
    times, *columns = (frame[name] for name in FloatBar._fields)
    return list(map(FloatBar, times.dt.to_pydatetime().tolist(), *(column.tolist() for column in columns)))


def main() -> None:
    """Print the peer's version, then the seconds of each requested job."""
    kind, package, rows, url = sys.argv[1:]
    raw = list(raw_bars(int(rows)))
    jobs = {"arcticdb": arcticdb, "feather": feather}[kind](raw) if not kind.startswith("vnpy") else vnpy(kind, raw, url)
    _answer(version(package))
    for line in sys.stdin:
        written = jobs.prepare() if line.strip() == "write" else []
        gc.collect()
        started = perf_counter()
        done = jobs.write(written) if written else jobs.read()
        seconds = perf_counter() - started
        del done
        _answer(seconds)


def _answer(answer: str | float) -> None:
    sys.stdout.write(json.dumps({"answer": answer}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
