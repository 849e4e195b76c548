"""What the tests of the commands share."""

from __future__ import annotations

import asyncio

import json

import os

import re

import subprocess

import sys

import zipfile

from dataclasses import replace

from datetime import UTC, datetime, timedelta

from decimal import Decimal

from pathlib import Path

import pytest

from sqlalchemy import func, make_url, select

from iftb_store import (
    DatabaseManager,
    OHLCVBar,
    OHLCVRepository,
    Position,
    PositionRepository,
    SystemEventRepository,
    Trade,
    TradeRepository,
    __version__,
)

from iftb_store.cli import main

from iftb_store.schema.tables import Base

from tests.conftest import Run

from tests.cli.stores import START, MINUTE, line, write_dump, bar, store_bars


@pytest.fixture
def stored(sqlite_url: str) -> str:
    """URL of a migrated SQLite file without rows."""
    assert main(["migrate", sqlite_url]) == 0
    return sqlite_url

