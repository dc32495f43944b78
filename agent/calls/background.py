"""One event loop in a thread of its own, where every model call runs.

Callers need no loop of their own: scripts, threads and notebooks, whose loop is busy already, all submit to this one.
"""

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

T = TypeVar("T")
_THREAD: Final = "model calls"
_PATIENCE_SECONDS: Final = 2.0  # for calls to end, or a connection to close

_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}  # by process: a fork has the parent's objects and not its threads


def submit(work: Coroutine[Any, Any, T]) -> "Future[T]":
    """Start a coroutine on the loop and return its future."""
    return asyncio.run_coroutine_threadsafe(work, _loop())


def close_with(owner: object, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close a connection on the loop when its owner is no longer used, or at the program's end."""
    weakref.finalize(owner, lambda: finish(close()))


def finish(work: Coroutine[Any, Any, None]) -> None:
    """Run what brings something to its end, and wait a little for it; made for finalizers, which run in any thread."""
    ending = submit(work)
    if threading.current_thread().name != _THREAD:  # the loop's own thread cannot wait for itself
        with contextlib.suppress(TimeoutError):
            ending.result(_PATIENCE_SECONDS)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop and return its result."""
    future = submit(work)
    try:
        return future.result()
    except BaseException:  # Ctrl-C in the caller ends the work as well
        future.cancel()
        raise


def _loop() -> asyncio.AbstractEventLoop:
    with _lock:
        loop = _loops.get(os.getpid())
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name=_THREAD, daemon=True).start()
        return loop
