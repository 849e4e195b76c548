"""The parts of the conformance suite that depend most on the server connection, behind PgBouncer in both modes."""

from __future__ import annotations

import pytest

from iftb_store.testing.arrow import OtherTablesAsArrowTests, ReadArrowTests
from iftb_store.testing.bulk import BulkTests
from iftb_store.testing.concurrency import ConcurrencyTests
from iftb_store.testing.running import RunningTests
from iftb_store.testing.sessions import SessionTests
from iftb_store.testing.streams import SnapshotTests, StreamTests
from iftb_store.testing.trades import TradeTests
from iftb_store.testing.whole_rows import WholeRowTests


class PooledConformance(
    BulkTests,
    TradeTests,
    SessionTests,
    RunningTests,
    ConcurrencyTests,
    StreamTests,
    SnapshotTests,
    ReadArrowTests,
    OtherTablesAsArrowTests,
    WholeRowTests,
):
    """What a pooler could break: transactions, COPY and its staging table, reads outside a transaction."""


class TestSessionMode(PooledConformance):
    @pytest.fixture
    def url(self, session_url: str) -> str:
        return session_url


class TestTransactionMode(PooledConformance):
    @pytest.fixture
    def url(self, transaction_url: str) -> str:
        return transaction_url
