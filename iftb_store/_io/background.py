"""Runs async functions for blocking code, also in notebooks, in the event loop of a background thread."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from inspect import isawaitable
from queue import SimpleQueue
from typing import Any, TypeVar

from iftb_store._io.turns import check_process
from iftb_store.errors import NotConnectedError, StoreError

T = TypeVar("T")

# seconds that the stores that are still open at the interpreter's exit have to close
_LAST_WAIT = 10.0


class _Work:
    """A function that the loop sends to a calling thread, and the outcome after the thread has run the function."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.result: Any = None
        self.error: Exception | None = None

    def run(self) -> _Work:
        """Run the function and store the result or the error in this object."""
        try:
            self.result = self.function()
        except Exception as error:
            # any error of the function is raised again by the caller
            self.error = error
        return self


class _Call:
    """A function that a thread runs in the loop; the thread waits at ``inbox`` for work to do and for the outcome."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.inbox: SimpleQueue[_Work | tuple[Any, BaseException | None]] = SimpleQueue()
        self.accepted = self.cancelled = self.finished = False

    def finish(self, result: Any, error: BaseException | None) -> None:
        """Put the outcome into the inbox, where the calling thread waits for it."""
        self.finished = True
        self.inbox.put((result, error))


class _Caller:
    """Runs the calls of one thread in the loop, one after the other, all in one task.

    As all calls of a thread run in the same task, a session can detect a call that would wait forever for its own thread.
    """

    def __init__(self) -> None:
        self._requests: asyncio.Queue[_Call | _Work | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        # the call that runs now is the last one; the calls before it wait for the calling thread's work
        self._running: list[_Call] = []
        self._has_ended = False

    def accept(self, request: _Call | _Work | None) -> None:
        """Queue a call to run, a `_Work` that the thread has finished, or None to end the task after the calls queued before."""
        if isinstance(request, _Call):
            request.accepted = True
            if self._has_ended:
                request.finish(None, asyncio.CancelledError())
                return
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run_calls())
        self._requests.put_nowait(request)

    def cancel(self, call: _Call) -> None:
        """Cancel a call; the inbox of the call gets an outcome as soon as the call has ended."""
        if call.finished or not call.accepted:
            call.finish(None, asyncio.CancelledError())
            return
        call.cancelled = True
        if call in self._running and self._task is not None:
            self._task.cancel()

    def end(self) -> None:
        """Cancel all calls and end the task."""
        self._has_ended = True
        for call in self._running:
            call.cancelled = True
        while not self._requests.empty():
            request = self._requests.get_nowait()
            if isinstance(request, _Call):
                request.finish(None, asyncio.CancelledError())
        if self._task is not None:
            self._task.cancel()

    async def ask(self, function: Callable[[], Any]) -> Any:
        """Send a function to the calling thread, wait until the thread has run it, and return the result.

        The thread can run it, because it only waits for the current call. If the function itself makes a call, this method
        runs that nested call while it waits.
        """
        call, work = self._running[-1], _Work(function)
        call.inbox.put(work)
        while (request := await self._requests.get()) is not work:
            if isinstance(request, _Call):
                await self._run(request)
            if call.cancelled:
                raise asyncio.CancelledError
        if work.error is not None:
            raise work.error
        return work.result

    async def _run_calls(self) -> None:
        while not self._has_ended and (request := await self._requests.get()) is not None:
            if isinstance(request, _Call):
                await self._run(request)

    async def _run(self, call: _Call) -> None:
        result: Any = None
        error: BaseException | None = None
        if call.cancelled:
            error = asyncio.CancelledError()
        else:
            self._running.append(call)
            try:
                result = call.function()
                if isawaitable(result):
                    result = await result
            except BaseException as raised:
                # any error, a KeyboardInterrupt too, is raised again in the caller's thread
                result, error = None, raised
            finally:
                self._running.pop()
                while self._task is not None and self._task.cancelling():
                    self._task.uncancel()
        call.finish(result, error)


class BackgroundLoop:
    """An event loop in a daemon thread; when the interpreter exits, the loop ends after all non-daemon threads.

    Several threads may call at once. The calls of one thread run in one task, as if a coroutine awaited them.
    """

    def __init__(self) -> None:
        #: Async functions that are called at exit, when all non-daemon threads have ended.
        self.at_exit: set[Callable[[], Awaitable[None]]] = set()
        self._process = os.getpid()
        self._local = threading.local()
        self._callers: weakref.WeakSet[_Caller] = weakref.WeakSet()
        self._posting = threading.Lock()
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="iftb-store", daemon=True)
        self._thread.start()
        # a daemon thread would be stopped before it could close anything
        self._closing = threading.Thread(target=self._close_at_exit, name="iftb-store at exit", daemon=False)
        self._closing.start()

    @property
    def is_closed(self) -> bool:
        """Whether the interpreter is exiting and all stores are closed."""
        return self._is_closed

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run an async or plain function in the loop, wait for its end, and return its result or raise its error.

        Ctrl-C, or another exception that stops this thread, cancels the function and waits for its end.

        Raises:
            NotConnectedError: in a forked process, or at the exit of the interpreter.
            StoreError: if called in the loop's thread, which would wait for itself.
        """
        check_process(self._process, "the store")
        if threading.current_thread() is self._thread:
            raise StoreError(
                "a blocking call inside a progress callback, which runs in the store's own thread, would wait forever; "
                "call the store outside the callback"
            )
        caller, call = self._find_caller(), _Call(partial(function, *args, **kwargs))
        try:
            self._post(caller.accept, call)
            while isinstance(message := call.inbox.get(), _Work):
                self._post(caller.accept, message.run())
        except NotConnectedError:
            raise
        except BaseException:
            # e.g. a KeyboardInterrupt while the caller waits
            self._cancel(caller, call)
            raise
        result, error = message
        if error is None:
            return result
        try:
            raise error
        finally:
            # the error's traceback refers to this frame
            del error, message, call

    def make_async(self, function: Callable[..., T]) -> Callable[..., Awaitable[T]]:
        """Return an async function that runs ``function`` in the current thread; await it only during a call of this thread."""
        caller = self._find_caller()

        async def run_in_caller(*args: Any) -> T:
            result: T = await caller.ask(partial(function, *args))
            return result

        return run_in_caller

    def _find_caller(self) -> _Caller:
        caller: _Caller | None = getattr(self._local, "caller", None)
        if caller is None:
            self._local.caller = caller = _Caller()
            with self._posting:
                self._callers.add(caller)
            weakref.finalize(threading.current_thread(), self._forget, caller).atexit = False
        return caller

    def _forget(self, caller: _Caller) -> None:
        # runs in any thread, also within a garbage collection, so it must not take a lock
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(caller.accept, None)

    def _post(self, function: Callable[[Any], None], what: object) -> None:
        with self._posting:
            if self._is_closed:
                raise NotConnectedError("the interpreter is exiting, and has closed all stores")
            self._loop.call_soon_threadsafe(function, what)

    def _cancel(self, caller: _Caller, call: _Call) -> None:
        with suppress(NotConnectedError):
            self._post(caller.cancel, call)
            while isinstance(call.inbox.get(), _Work):
                pass

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _close_at_exit(self) -> None:
        # a thread may make its first call after the main thread's end
        threading.main_thread().join()
        while thread := self._find_other():
            thread.join()
        closing = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        with suppress(TimeoutError):
            closing.result(_LAST_WAIT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LAST_WAIT)
        if not self._thread.is_alive():
            self._loop.close()

    def _find_other(self) -> threading.Thread | None:
        """Return a running non-daemon thread, for which the interpreter waits at exit, or None; the closing thread is skipped."""
        others = (thread for thread in threading.enumerate() if thread is not self._closing)
        return next((thread for thread in others if thread.is_alive() and not thread.daemon), None)

    async def _close(self) -> None:
        with self._posting:
            self._is_closed = True
        for close in list(self.at_exit):
            # at the exit of the interpreter nobody could handle an error
            with suppress(Exception):
                await close()
        for caller in list(self._callers):
            caller.end()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


_shared: BackgroundLoop | None = None
_sharing = threading.Lock()


def get_background_loop() -> BackgroundLoop:
    """Return the background loop of this process; the first call starts it."""
    global _shared
    with _sharing:
        if _shared is None:
            _shared = BackgroundLoop()
        return _shared


def run_blocking(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run an async function as `asyncio.run` does, even in a thread whose event loop is running, e.g. in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(function())
    result: T = get_background_loop().call(function)
    return result


def _forget_loop() -> None:
    """Forget the loop after a fork: the child process has no copy of the thread in which the loop runs."""
    global _shared, _sharing
    _shared, _sharing = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loop)
