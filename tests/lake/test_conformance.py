"""The parts of the conformance suite that depend on the store's commits, on a lake in a bucket."""

from __future__ import annotations

from uuid import uuid4

import pytest

from iftb_store.testing.arrow import ReadArrowTests
from iftb_store.testing.arrow_writes import WriteArrowTests
from iftb_store.testing.bulk import BulkTests
from iftb_store.testing.concurrency import ConcurrencyTests
from iftb_store.testing.failures import ConnectFailureTests, DeadlockTests
from iftb_store.testing.running import RunningTests
from iftb_store.testing.series import SeriesTests, UpsertReportTests
from iftb_store.testing.sessions import SessionTests
from iftb_store.testing.snapshots import SnapshotReadTests
from iftb_store.testing.streams import SnapshotTests, StreamTests
from iftb_store.testing.transfers import TransferTests
from tests.lake.conftest import KEYS, find_port


class TestLakeOnS3(
    SeriesTests,
    UpsertReportTests,
    BulkTests,
    SessionTests,
    ConcurrencyTests,
    RunningTests,
    ReadArrowTests,
    WriteArrowTests,
    StreamTests,
    SnapshotTests,
    SnapshotReadTests,
    ConnectFailureTests,
    DeadlockTests,
    TransferTests,
):
    """What the object store could break."""

    @pytest.fixture
    def url(self, s3_url: str) -> str:
        return s3_url

    @pytest.fixture
    def second_url(self, s3_endpoint: str) -> str:
        return f"delta+s3://{KEYS}@lake/{uuid4().hex}?endpoint={s3_endpoint}"

    @pytest.fixture
    def unreachable_url(self) -> str:
        return f"delta+s3://{KEYS}@lake/far?endpoint=http://127.0.0.1:{find_port()}&connect_timeout=0.5&request_timeout=1"
