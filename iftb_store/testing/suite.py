"""The one class that a backend's author subclasses: every part of the conformance suite together."""

from __future__ import annotations

from iftb_store.testing.app_sessions import AppSessionTests
from iftb_store.testing.arrow import OtherTablesAsArrowTests, ReadArrowTests
from iftb_store.testing.arrow_writes import WriteArrowTests
from iftb_store.testing.backups import BackupTests
from iftb_store.testing.bars import BarTests
from iftb_store.testing.bulk import BulkTests
from iftb_store.testing.concurrency import ConcurrencyTests
from iftb_store.testing.events import EventTests
from iftb_store.testing.gaps import GapTests
from iftb_store.testing.hostile import HostileTests
from iftb_store.testing.interrupting import InterruptTests
from iftb_store.testing.lifecycle import LifecycleTests
from iftb_store.testing.places import PlaceTests
from iftb_store.testing.positions import PositionTests
from iftb_store.testing.properties import PropertyTests
from iftb_store.testing.resampling import ResampleTests
from iftb_store.testing.running import RunningTests
from iftb_store.testing.series import SeriesTests, UpsertReportTests
from iftb_store.testing.sessions import SessionTests
from iftb_store.testing.statistics import StatisticsTests
from iftb_store.testing.streams import SnapshotTests, StreamTests
from iftb_store.testing.tasks import TaskTests
from iftb_store.testing.trades import TradeTests
from iftb_store.testing.values import ValueTests
from iftb_store.testing.whole_rows import WholeRowTests


class BackendConformance(
    BarTests,
    BulkTests,
    GapTests,
    ReadArrowTests,
    WriteArrowTests,
    OtherTablesAsArrowTests,
    WholeRowTests,
    SeriesTests,
    UpsertReportTests,
    ResampleTests,
    StreamTests,
    SnapshotTests,
    TradeTests,
    StatisticsTests,
    PositionTests,
    EventTests,
    ValueTests,
    SessionTests,
    RunningTests,
    ConcurrencyTests,
    TaskTests,
    InterruptTests,
    PlaceTests,
    AppSessionTests,
    LifecycleTests,
    BackupTests,
    PropertyTests,
    HostileTests,
):
    """What every backend must do.

    A subclass supplies the fixture ``url``: the URL of a fresh, empty database, another one for every test, which two
    managers can open at the same time. A backend without the capability MIGRATIONS overrides ``make_tables`` too, unless
    it needs no tables. Where the user of ``url`` may not change the schema, ``make_tables`` and ``migrate`` do it as another.
    """
