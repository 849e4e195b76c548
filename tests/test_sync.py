"""The blocking façade has every public method, its stub is the generator's, and Ctrl-C, a fork or an exit does it no harm."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

import iftb_store
from iftb_store import DatabaseManager, InvalidValueError, StoreError, sync
from iftb_store.abilities import SupportsBackup
from iftb_store.protocols import Session
from iftb_store.repositories.base import Repository
from iftb_store.sync import SyncStore, open_store
from iftb_store.testing.samples import bar, full_trade, hourly
from tests.support.sync_stub import STUB, Stub, normalise

_CLASSES: dict[type[Any], type[Any]] = {
    DatabaseManager: SyncStore,
    Session: sync.SyncSession,
    **{getattr(iftb_store, name): getattr(sync, f"Sync{name}", object) for name in iftb_store.__all__ if "Repository" in name},
}


def _public(source: type[Any]) -> set[str]:
    return {name for name in dir(source) if not name.startswith("_")}


def _run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a new process."""
    command = [sys.executable, "-c", textwrap.dedent(code), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def _repositories(store: SyncStore) -> list[Any]:
    return [getattr(store, name) for name in ("ohlcv", "trades", "positions", "events", "fills", "ledger", "balances")]


@pytest.mark.parametrize("source", _CLASSES, ids=lambda source: source.__name__)
def test_every_public_name_of_an_async_class_is_in_the_facade(source: type[Any]) -> None:
    # blocking code cannot use an AsyncEngine, and needs no backend
    assert _public(source) - _public(_CLASSES[source]) <= {"engine", "iftb_store_backend"}


def test_the_facade_has_every_repository() -> None:
    assert {source for source in _CLASSES if issubclass(source, Repository)} == {
        type(repository._target) for repository in _repositories(SyncStore("sqlite:///:memory:"))
    }


def test_every_async_function_is_in_the_facade() -> None:
    functions = [name for name in iftb_store.__all__ if inspect.iscoroutinefunction(getattr(iftb_store, name))]
    assert functions
    assert [name for name in functions if not callable(getattr(sync, name, None))] == []


def test_signatures_are_those_of_the_async_classes() -> None:
    for source, blocking in _CLASSES.items():
        for name in _public(source) & _public(blocking):
            if inspect.isfunction(member := getattr(source, name)):
                assert inspect.signature(getattr(blocking, name)).parameters == inspect.signature(member).parameters, name
                assert not inspect.iscoroutinefunction(getattr(blocking, name))


def test_docstrings_show_no_await() -> None:
    for blocking in _CLASSES.values():
        for name in _public(blocking):
            text = inspect.getdoc(inspect.getattr_static(blocking, name)) or ""
            assert text, name
            assert not {"await", "async"} & set(text.replace("`", " ").split()), name


def test_the_stub_is_what_the_generator_writes() -> None:
    assert normalise(STUB.read_text()) == normalise(str(Stub())), "write it anew with `nox -s stub`"


def test_the_functions_of_the_commands_block(url: str, tmp_path: Path) -> None:
    with open_store(url) as db, open_store(f"sqlite:///{tmp_path / 'copy.db'}") as other:
        db.migrate()
        db.ohlcv.insert_many(hourly(30))
        db.trades.insert(full_trade())
        assert sum(part.inserted for part in sync.copy(db, other).parts) == 31
        assert sync.verify(db, other).equal
        path = tmp_path / "bars.csv"
        assert sync.export_table(db, path).rows == 30
        assert [file.rows for file in sync.import_files(other, path).files] == [30]
        sync.backup(other, tmp_path / "bot.backup")
        assert sync.restore(tmp_path / "bot.backup", db).parts
        assert [finding for finding in sync.examine(db) if finding.severity == "error"] == []


def test_an_ability_s_methods_block(sqlite_tables_url: str, tmp_path: Path) -> None:
    with open_store(sqlite_tables_url) as db:
        db.ability(SupportsBackup).backup(str(tmp_path / "bot.backup"), lambda done, total: None)
        with open_store(f"sqlite:///{tmp_path / 'bot.backup'}") as backup:
            assert backup.ohlcv.list_series() == []


def test_a_call_past_the_own_session_s_lock_is_refused_at_once(sqlite_tables_url: str) -> None:
    with open_store(sqlite_tables_url) as db, db.get_session() as session:
        session.ohlcv.insert_many([bar()])
        with pytest.raises(OperationalError, match="write in that session, or commit it first"):
            db.events.log_event("tick", "info", "past the session")


def test_a_progress_callback_that_calls_the_store_is_refused(sqlite_tables_url: str, tmp_path: Path) -> None:
    with open_store(sqlite_tables_url) as db:
        db.ohlcv.insert_many([bar()])
        with pytest.raises(StoreError, match="would wait forever"):
            sync.export_table(db, tmp_path / "bars.csv", progress=lambda *_: db.migrate())
        assert db.ohlcv.list_series()


async def _log_later(session: Any) -> None:
    session.events.log_event("tick", "info", "stored by no one")


def _log_and_return_an_awaitable(session: Any) -> Any:
    session.events.log_event("tick", "info", "rolled back")
    return _log_later(session)


@pytest.mark.parametrize("work", [_log_later, _log_and_return_an_awaitable, lambda session: _log_later(session)])
@pytest.mark.filterwarnings("error")
def test_run_refuses_async_work_and_stores_nothing(url: str, work: Any) -> None:
    with open_store(url) as db:
        db.migrate()
        with pytest.raises(InvalidValueError, match="work must be a plain function in the blocking façade"):
            db.run(work)
        assert db.events.get_recent_events() == []


def test_run_refuses_what_is_no_function(sqlite_tables_url: str) -> None:
    work: Any = None
    with open_store(sqlite_tables_url) as db, pytest.raises(InvalidValueError, match="function that takes a session, not None"):
        db.run(work)


def test_run_raises_its_work_s_stop_iteration_and_stores_nothing(url: str) -> None:
    stop = StopIteration("no more")

    def work(session: Any) -> None:
        session.events.log_event("tick", "info", "rolled back")
        raise stop

    with open_store(url) as db:
        db.migrate()
        with pytest.raises(StopIteration) as raised:
            db.run(work)
        assert raised.value is stop
        assert db.events.get_recent_events() == []


def test_run_keeps_an_error_that_its_work_made_of_a_stop_iteration(sqlite_tables_url: str) -> None:
    def work(session: Any) -> None:
        raise RuntimeError("no bars") from StopIteration()

    with open_store(sqlite_tables_url) as db, pytest.raises(RuntimeError, match="no bars"):
        db.run(work)


def test_a_store_is_not_pickled_and_shows_no_password() -> None:
    store = SyncStore("postgresql://bot:hunter2@localhost/bot")
    assert repr(store) == "SyncStore('postgresql://bot:***@localhost/bot')"
    with pytest.raises(StoreError, match="a SyncStore cannot be pickled or copied"):
        pickle.dumps(store)


def test_open_store_refuses_what_the_manager_refuses() -> None:
    with pytest.raises(InvalidValueError, match="pool_size"):
        open_store("sqlite:///:memory:", pool_size=0)


def test_ctrl_c_cancels_the_running_call_and_the_store_stays_usable(sqlite_tables_url: str) -> None:
    done = _run(
        """
        import os, signal, sqlite3, sys, threading, time
        from iftb_store.sync import open_store

        with open_store(sys.argv[1]) as db:
            writer = sqlite3.connect(sys.argv[1].removeprefix("sqlite:///"), isolation_level=None)
            writer.execute("BEGIN IMMEDIATE")
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            began = time.monotonic()
            try:
                db.events.log_event("tick", "info", "waits for the other writer")
            except KeyboardInterrupt:
                print("interrupted", time.monotonic() - began < 20)
            writer.execute("ROLLBACK")
            db.events.log_event("tick", "info", "afterwards")
            print([event.message for event in db.events.get_recent_events()], db.in_use)
        """,
        sqlite_tables_url,
    )
    assert (done.stdout, done.stderr) == ("interrupted True\n['afterwards'] 0\n", "")


def test_ctrl_c_while_a_loop_reads_leaves_the_store_usable(sqlite_tables_url: str) -> None:
    done = _run(
        """
        import os, random, signal, sys, threading, time
        from iftb_store.sync import open_store

        armed = False

        def raise_once(*_):
            # an interrupt outside the block below would end the program
            global armed
            if armed:
                armed = False
                raise KeyboardInterrupt

        def interrupt():
            for _ in range(40):
                time.sleep(random.uniform(0, 0.02))
                os.kill(os.getpid(), signal.SIGINT)
            finished.set()

        finished = threading.Event()
        signal.signal(signal.SIGINT, raise_once)
        with open_store(sys.argv[1]) as db:
            thread = threading.Thread(target=interrupt)
            while not finished.is_set():
                try:
                    armed = True
                    if thread.ident is None:
                        thread.start()
                    while not finished.is_set():
                        with db.get_session() as session:
                            session.events.log_event("tick", "info", "counted")
                    armed = False
                except KeyboardInterrupt:
                    pass
            db.events.log_event("tick", "info", "last")
            print(db.events.get_recent_events()[0].message, db.in_use)
        """,
        sqlite_tables_url,
    )
    assert (done.stdout, done.stderr) == ("last 0\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_refused_at_once_and_may_open_its_own(url: str) -> None:
    done = _run(
        """
        import os, sys
        from iftb_store import NotConnectedError
        from iftb_store.sync import open_store

        db = open_store(sys.argv[1])
        if not sys.argv[1].startswith("duckdb"):
            db.migrate()
        child = os.fork()
        if not child:
            for call in (db.status, db.disconnect, db.get_session, db.connect):
                try:
                    call()
                except NotConnectedError as error:
                    print("cannot be used in its fork" in str(error), flush=True)
            if not sys.argv[1].startswith("duckdb"):
                with open_store(sys.argv[1]) as own:
                    print(own.ohlcv.list_series(), flush=True)
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        db.status()
        db.disconnect()
        """,
        url,
    )
    own = [] if url.startswith("duckdb") else ["[]"]
    assert (done.stdout.split(), done.stderr) == (["True"] * 4 + own + ["7"], "")


def test_a_store_left_open_with_a_session_does_not_keep_the_interpreter(url: str) -> None:
    done = _run(
        """
        import sys
        from iftb_store.sync import open_store

        db = open_store(sys.argv[1])
        db.migrate()
        session = db.get_session()
        session.__enter__().events.log_event("tick", "info", "not committed")
        stream = db.events.stream_arrow()
        print(list(stream))
        """,
        url,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)
    with open_store(url) as db:
        assert db.events.get_recent_events() == []


def test_a_thread_that_outlives_the_main_thread_may_finish_its_calls(sqlite_tables_url: str) -> None:
    done = _run(
        """
        import sys, threading, time
        from iftb_store.sync import open_store

        def work():
            with open_store(sys.argv[1]) as db:
                time.sleep(0.5)
                db.events.log_event("tick", "info", "after the main thread")
                print(len(db.events.get_recent_events()))

        threading.Thread(target=work).start()
        """,
        sqlite_tables_url,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_thread_may_make_its_first_call_after_the_main_thread_s_end(sqlite_tables_url: str) -> None:
    done = _run(
        """
        import sys, threading, time
        from iftb_store.sync import open_store

        db = open_store(sys.argv[1])

        def work():
            threading.main_thread().join()
            time.sleep(0.5)
            db.events.log_event("tick", "info", "after the main thread")
            print(len(db.events.get_recent_events()))

        threading.Thread(target=work).start()
        """,
        sqlite_tables_url,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_disconnect_at_exit_does_nothing(sqlite_tables_url: str) -> None:
    done = _run(
        """
        import atexit, sys
        from iftb_store.sync import open_store

        db = open_store(sys.argv[1])
        db.events.log_event("tick", "info", "stored")
        atexit.register(db.disconnect)
        """,
        sqlite_tables_url,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
