"""The time of `import iftb_store` beside `import sqlmodel`, each in a new Python process, in turns."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.results import OURS, Row

_TARGET = 1.3
_ROUNDS = 3
_CODE = "import time; started = time.perf_counter(); import {}; print(time.perf_counter() - started)"


def measure(rounds: int) -> Row:
    """Return the row; without the interpreter's start, which would improve our ratio."""
    samples: dict[str, list[float]] = {OURS: [], "sqlmodel": []}
    for turn in range(-1, _ROUNDS * rounds):
        for name, module in ((OURS, "iftb_store"), ("sqlmodel", "sqlmodel")):
            seconds = _time_import(module)
            if turn >= 0:
                samples[name].append(seconds)
    return Row("import iftb_store", "-", 1, samples, "sqlmodel", _TARGET, "reference: import sqlmodel")


def _time_import(module: str) -> float:
    done = subprocess.run([sys.executable, "-c", _CODE.format(module)], capture_output=True, text=True, check=True)
    return float(done.stdout)
