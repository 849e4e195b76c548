"""The conformance suite catches each fault of the sabotaged backends by a test that names the rule, and passes them without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

_HERE = Path(__file__).parent
_SOUND = "test_connecting_twice_is_harmless"


class Sabotage(NamedTuple):
    """A fault, the test that catches it, words of the rule that the test names, and the engine that has the fault."""

    fault: str
    test: str
    rule: str
    engine: str = "sqlite"


_SABOTAGES = [
    Sabotage("rounds a decimal", "test_a_trades_decimals_come_back_exactly", "must be read back exactly"),
    Sabotage("drops tzinfo", "test_a_trades_times_come_back_in_utc", "an aware datetime in UTC"),
    Sabotage("swallows a duplicate", "test_a_bar_stored_already_is_an_integrity_error", "must raise IntegrityError"),
    Sabotage("commits on error", "test_an_exception_rolls_everything_back", "must roll back everything"),
    Sabotage("forgets isolation", "test_no_update_is_lost_under_isolation", "no update may be lost"),
    Sabotage("moves created_at", "test_upsert_keeps_id_and_created_at_of_a_stored_bar", "must keep its id"),
    Sabotage("orders ties oldest first", "test_events_of_one_time_come_newest_id_first", "by id, greatest first"),
    Sabotage("leaves out the end", "test_get_range_includes_both_ends", "include the bars at its start and its end"),
    Sabotage("loses a row", "test_insert_many_stores_every_bar_of_a_batch", "must store every bar"),
    Sabotage("sums floats", "test_sums_keep_the_last_place_beside_the_largest_number", "sums must be exact"),
    Sabotage("reopens a position", "test_a_closed_position_is_not_changed_by_a_stale_object", "must not be opened again"),
    Sabotage("ignores the account", "test_an_account_sees_its_own_trades_only", "must see its own rows only"),
    Sabotage("loses a fee", "test_sixteen_tasks_that_apply_at_once_lose_no_fee", "no fill may be lost"),
    Sabotage(
        "applies all but the last fill",
        "test_fills_recorded_and_applied_in_calls_of_their_own_are_not_lost",
        "no fill may be lost",
    ),
    Sabotage("stores a fill twice", "test_a_fill_recorded_twice_is_stored_once", "must be stored once"),
    Sabotage(
        "ignores the account of fills",
        "test_a_repository_of_an_account_reads_and_writes_its_fills",
        "must see its own rows only",
    ),
    Sabotage("keeps a connection", "test_a_clean_exit_commits", "must give its connection back"),
    Sabotage(
        "deletes all but the end",
        "test_delete_range_deletes_both_ends_and_returns_the_count",
        "include the bars at its start and its end",
    ),
    Sabotage("ends a stream early", "test_lists_are_as_long_as_asked_for_and_hold_every_bar_once", "return every bar once"),
    Sabotage("begins weeks on Sunday", "test_weeks_begin_on_monday", "from Monday to Sunday"),
    Sabotage("begins days at one", "test_buckets_are_counted_from_1970", "counted from 1970-01-01"),
    Sabotage("miscounts the missing", "test_bars_are_missing_between_the_first_and_the_last", "missing bars of all gaps"),
    Sabotage(
        "reports all as updated",
        "test_inserted_updated_and_unchanged_bars_are_counted_separately",
        "must count inserted, updated",
    ),
    Sabotage("mixes two states", "test_a_read_never_mixes_two_states_of_the_database", "one committed state"),
    Sabotage("locks for the status", "test_what_only_reads_works_while_a_session_writes", "must take no write lock"),
    Sabotage("locks for a snapshot", "test_a_writer_does_not_wait_for_a_session_that_reads", "must take no write lock"),
    Sabotage("takes two databases for one", "test_two_databases_have_two_identities", "must have different identities"),
    Sabotage("shows a password", "test_a_connect_that_fails_shows_no_password", "may show the password"),
    Sabotage(
        "raises the driver's error of a failed connect",
        "test_a_connect_that_fails_is_an_operational_error",
        "must raise OperationalError, not an exception of the driver",
    ),
    Sabotage(
        "raises the driver's error of a lost connection",
        "test_a_call_after_a_lost_connection_is_an_operational_error",
        "must raise OperationalError, not an exception of the driver",
    ),
    Sabotage(
        "reconnects in silence",
        "test_a_session_that_lost_its_connection_commits_nothing_in_silence",
        "must store none of its writes, including later ones",
    ),
    Sabotage("calls a lock timeout final", "test_a_lock_timeout_is_a_transient_error", "must raise TransientError"),
    Sabotage("allows write skew", "test_serializable_transactions_do_what_some_order_of_them_does", "write skew", "postgresql"),
    Sabotage("commits half after a deadlock", "test_a_deadlock_never_stores_half_a_session", "stored completely", "postgresql"),
]
# the comparison with the model catches these too
_BY_THE_MODEL = [
    Sabotage("begins weeks on Sunday", "test_the_model", "bars.resample"),
    Sabotage("miscounts the missing", "test_the_model", "bars.list_series"),
    Sabotage("deletes all but the end", "test_the_model", "bars."),
    Sabotage("ends a stream early", "test_the_model", "bars.stream_range"),
    Sabotage("reports all as updated", "test_the_model", "bars.upsert_many"),
    Sabotage("ignores the account", "test_the_model", "trades."),
    Sabotage("loses a fee", "test_the_model", "trades."),
    Sabotage("stores a fill twice", "test_the_model", "fills."),
]
# what an engine may do that is serializable by locks: a writer waits for the session that has read
_OF_LOCKING = [
    "test_serializable_transactions_do_what_some_order_of_them_does",
    "test_what_raw_sql_has_read_under_isolation_does_not_change",
    "test_a_caught_transient_error_that_took_the_transaction_makes_run_run_again",
    "test_no_update_is_lost_under_isolation",
]


def run_suite(classes: list[tuple[str, str, list[str]]], postgres: str, folder: Path) -> dict[tuple[str, str], list[str | None]]:
    """Run tests on sabotaged backends, each given by its fault, its engine and the names of the tests, in another process.

    Returns:
        The messages of the failures and skips by (fault, test), one for each parameter of the test; None where it passed.
    """
    path = os.pathsep.join(filter(None, [str(_HERE / "sabotage"), os.environ.get("PYTHONPATH")]))
    report = folder / "report.xml"
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "sabotage/conformance.py", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"],
        cwd=_HERE,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "IFTB_STORE_SABOTAGES": json.dumps(classes),
            "IFTB_STORE_SABOTAGE_POSTGRES": postgres,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), ended.stdout + ended.stderr
    found: dict[tuple[str, str], list[str | None]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        fault = case.attrib["classname"].partition("Test ")[2].rpartition(" on ")[0]
        key = fault, case.attrib["name"].partition("[")[0]
        # a test that is skipped has neither passed nor caught anything
        outcomes = [part.attrib["message"] for part in case if part.tag in ("failure", "error", "skipped")]
        found.setdefault(key, []).append("\n".join(outcomes) or None)
    return found


def is_caught(sabotage: Sabotage, found: dict[tuple[str, str], list[str | None]]) -> bool:
    """Return whether a test has failed, and each of its failures names the rule and is not a bare assertion or a time limit."""
    failures = [message for message in found.get((sabotage.fault, sabotage.test), []) if message is not None]
    return failures != [] and all(
        sabotage.rule in message and not message.startswith("assert ") and "Timeout (>" not in message for message in failures
    )


def find_uncaught(
    sabotages: list[Sabotage], found: dict[tuple[str, str], list[str | None]]
) -> dict[str, list[str | None] | None]:
    """Return what the tests said of the faults that they did not catch, or caught without naming the rule."""
    return {one.fault: found.get((one.fault, one.test)) for one in sabotages if not is_caught(one, found)}


def test_the_suite_names_the_rule_that_each_sabotaged_backend_breaks(postgres_url: str, tmp_path: Path) -> None:
    found = run_suite([(one.fault, one.engine, [_SOUND, one.test]) for one in _SABOTAGES], postgres_url, tmp_path)
    assert find_uncaught(_SABOTAGES, found) == {}
    # a fault breaks its own rule, not the backend as a whole
    unusable = [fault for (fault, test), outcomes in found.items() if test == _SOUND and any(outcomes)]
    assert unusable == ["keeps a connection"]
    assert len({one.fault for one in _SABOTAGES}) >= 24


@pytest.mark.full
def test_the_comparison_with_the_model_catches_faulty_answers(postgres_url: str, tmp_path: Path) -> None:
    found = run_suite([(one.fault, one.engine, [one.test]) for one in _BY_THE_MODEL], postgres_url, tmp_path)
    assert find_uncaught(_BY_THE_MODEL, found) == {}


@pytest.mark.full
def test_the_same_tests_pass_the_same_backends_without_a_fault(postgres_url: str, tmp_path: Path) -> None:
    # the whole suite and the comparison with the model pass the backends that they wrap: test_conformance.py, test_model.py
    engines = {one.engine: sorted({other.test for other in _SABOTAGES if other.engine == one.engine}) for one in _SABOTAGES}
    honest = [("none", engine, tests) for engine, tests in engines.items()]
    honest.append(("is serializable by locks", "postgresql", _OF_LOCKING))
    found = run_suite(honest, postgres_url, tmp_path)
    assert {key: outcomes for key, outcomes in found.items() if any(outcomes)} == {}
    assert {test for _, test in found} == {one.test for one in _SABOTAGES} | {*_OF_LOCKING}
