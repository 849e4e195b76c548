"""BackendConformance, the class with all parts of the conformance suite, which the author of a backend subclasses."""

from __future__ import annotations

from typing import Any

from iftb_store.testing.accounts import RecordAccountTests
from iftb_store.testing.app_sessions import AppSessionTests
from iftb_store.testing.applied_fills import AppliedFillTests
from iftb_store.testing.arrow import OtherTablesAsArrowTests, ReadArrowTests
from iftb_store.testing.arrow_writes import WriteArrowTests
from iftb_store.testing.backups import BackupTests
from iftb_store.testing.balances import BalanceTests
from iftb_store.testing.bars import BarTests
from iftb_store.testing.blocking import BlockingTests
from iftb_store.testing.bulk import BulkTests
from iftb_store.testing.concurrency import ConcurrencyTests
from iftb_store.testing.digest_rows import DigestRowTests
from iftb_store.testing.events import EventTests
from iftb_store.testing.exchanges import ExchangeTests, RecordExchangeTests
from iftb_store.testing.failures import FailureTests
from iftb_store.testing.fills import FillTests
from iftb_store.testing.gaps import GapTests
from iftb_store.testing.hostile import HostileTests
from iftb_store.testing.interrupting import InterruptTests
from iftb_store.testing.ledger import LedgerTests
from iftb_store.testing.lifecycle import LifecycleTests
from iftb_store.testing.maintenance import PruneTests, RollupTests
from iftb_store.testing.many_series import ManySeriesTests
from iftb_store.testing.misuse import MisuseTests
from iftb_store.testing.performance import PerformanceTests
from iftb_store.testing.places import PlaceTests
from iftb_store.testing.positions import PositionTests
from iftb_store.testing.properties import PropertyTests
from iftb_store.testing.record_reads import RecordReadTests
from iftb_store.testing.resampling import ResampleTests
from iftb_store.testing.running import RunningTests
from iftb_store.testing.series import SeriesTests, UpsertReportTests
from iftb_store.testing.sessions import SessionTests
from iftb_store.testing.snapshots import SnapshotReadTests
from iftb_store.testing.statistics import StatisticsTests
from iftb_store.testing.streams import SnapshotTests, StreamTests
from iftb_store.testing.tasks import TaskTests
from iftb_store.testing.tool_values import ToolValueTests
from iftb_store.testing.trades import TradeTests
from iftb_store.testing.transfers import TransferTests
from iftb_store.testing.values import ValueTests
from iftb_store.testing.views import ViewTests
from iftb_store.testing.whole_rows import WholeRowTests


class BackendConformance(
    ValueTests,
    BarTests,
    SeriesTests,
    UpsertReportTests,
    GapTests,
    ResampleTests,
    ManySeriesTests,
    BulkTests,
    TradeTests,
    StatisticsTests,
    PerformanceTests,
    PositionTests,
    EventTests,
    FillTests,
    AppliedFillTests,
    LedgerTests,
    BalanceTests,
    RecordReadTests,
    RecordAccountTests,
    ExchangeTests,
    RecordExchangeTests,
    SessionTests,
    AppSessionTests,
    LifecycleTests,
    BlockingTests,
    ReadArrowTests,
    WriteArrowTests,
    OtherTablesAsArrowTests,
    ToolValueTests,
    StreamTests,
    SnapshotTests,
    SnapshotReadTests,
    RunningTests,
    ConcurrencyTests,
    FailureTests,
    TaskTests,
    InterruptTests,
    MisuseTests,
    PlaceTests,
    WholeRowTests,
    DigestRowTests,
    ViewTests,
    TransferTests,
    PruneTests,
    RollupTests,
    BackupTests,
    HostileTests,
    PropertyTests,
):
    """All tests that a backend must pass.

    pytest runs the tests in the order of the bases, so that the parts of a backend that an author usually writes first are tested
    first. A subclass overrides the fixture ``url``: the URL of a new, empty database for each test, which two managers can
    open at the same time. If the backend lacks the capability MIGRATIONS and needs tables, the subclass also overrides
    ``make_tables``. If the database user of ``url`` may not change the schema, it overrides ``make_tables`` and ``migrate``,
    to use another user. A test that takes longer than ``time_limit`` seconds fails.

    Some tests need more than a database: a way to lose a connection, a short lock timeout, a URL that cannot be connected to, or
    a second database. The optional fixtures ``lose_connection``, ``impatient_url``, ``unreachable_url`` and ``second_url`` of
    `iftb_store.testing.fixtures.SuiteFixtures` supply these; without a fixture, the tests use a default or are skipped.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Copy the tests of all parts into the subclass itself, because pytest runs inherited tests of the last base first."""
        super().__init_subclass__(**options)
        for part in cls.__mro__:
            for name in vars(part):
                if name.startswith("test_") and name not in vars(cls):
                    setattr(cls, name, getattr(cls, name))
