"""How often each fault strikes in `nox -s tests`, `nox -s full` and `nox -s soak`; defined only here."""

from __future__ import annotations

import math
import os

SOAK = os.environ.get("IFTB_STORE_SOAK") == "1"
FULL = SOAK or os.environ.get("IFTB_STORE_FULL") == "1"
_SCALE = float(os.environ.get("IFTB_STORE_SOAK_SCALE", "1"))

# `nox -s tests` runs so many times fewer rounds than `nox -s full`
_SHORTER = 10

_ROUNDS = {
    "writer killed": (20, 500),
    "lake writer killed": (100, 500),
    "copy killed": (5, 100),
    "fill killed": (20, 200),
    "server killed": (10, 100),
    "backends terminated": (10, 100),
    "server silent": (10, 100),
    "server stopped": (1, 10),
    "connection refused": (10, 100),
    "server full": (10, 100),
    "task cancelled": (200, 5_000),
    "tasks share a session": (60, 5_000),
    "loop closed": (20, 5_000),
    "process forked": (5, 500),
    "many writers": (2, 50),
    "disk full": (2, 50),
    "caught error": (2, 100),
    "damaged file": (30, 1_000),
    "hostile database": (21, 600),
    "damaged dump": (400, 20_000),
    "damaged export": (340, 10_000),
    "damaged real dump": (6, 200),
    "damaged dump imported": (15, 500),
    "hostile file": (60, 600),
    "hostile line": (200, 20_000),
    "hostile url": (300, 100_000),
    "random programme": (200, 5_000),
}


def rounds(fault: str) -> int:
    """Return the number of rounds; IFTB_STORE_SOAK_SCALE shortens (0.1) or lengthens a soak."""
    full, soak = _ROUNDS[fault]
    if SOAK:
        return max(1, round(soak * _SCALE))
    # a single blow may fall into no running work
    return full if FULL or full == 1 else max(2, math.ceil(full / _SHORTER))
