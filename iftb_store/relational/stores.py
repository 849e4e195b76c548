"""The stores of a session on any SQL engine: the objects that read and write its rows."""

from __future__ import annotations

from iftb_store.relational.bars import RelationalBars
from iftb_store.relational.coverage import RelationalCoverage
from iftb_store.relational.driver import Driver
from iftb_store.relational.lookups import RelationalLookups
from iftb_store.relational.records import RelationalRecords


class RelationalStores:
    """The stores of one session, the same class for all SQL engines; see `iftb_store.protocols.Stores`."""

    def __init__(self, driver: Driver) -> None:
        self.lookups = RelationalLookups(driver)
        self.read_rows = driver.read_rows
        self.write_rows = driver.write_rows
        self.delete_rows = driver.delete_rows
        self.bars = RelationalBars(driver)
        self.records = RelationalRecords(driver)
        self.coverage = RelationalCoverage(driver)
