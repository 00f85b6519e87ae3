"""An executor over warm processes of this machine."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ParamSpec, TypeVar

from tidemill.compute.executor import ExecutorClosed, WorkerDied, check_importable, map_ordered, pickled
from tidemill.compute.outcome import Outcome, run
from tidemill.core.errors import Invalid

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class LocalExecutor:
    """A pool of spawned processes that are kept for the next call.

    Spawned, not forked: a fork copies locks that other threads hold, and LMDB, Ray, onnxruntime and SQLite connections do not
    outlive one. A pool that lost a process is replaced at the next call.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._guard = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._closed = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        check_importable(fn)
        arguments = pickled((args, kwargs), f"an argument of {fn.__qualname__}")
        pool = self._open_pool()
        try:
            inner = pool.submit(run, fn, arguments)
        except BrokenProcessPool:  # it broke between two calls
            self._forget(pool)
            pool = self._open_pool()
            inner = pool.submit(run, fn, arguments)
        return self._outcome_of(inner, pool, fn.__qualname__)

    def map(self, fn: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        check_importable(fn)
        return map_ordered(lambda item: self.submit(fn, item), items, ahead=4 * self.workers)

    def close(self) -> None:
        with self._guard:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _open_pool(self) -> ProcessPoolExecutor:
        with self._guard:
            if self._closed:
                raise ExecutorClosed
            if self._pool is None:
                self._pool = ProcessPoolExecutor(self.workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
            return self._pool

    def _forget(self, broken: ProcessPoolExecutor) -> None:
        with self._guard:  # a broken pool ends its processes by itself; another thread may have put a good one in its place
            if self._pool is broken:
                self._pool = None

    def _outcome_of(self, inner: "Future[Outcome]", pool: ProcessPoolExecutor, function: str) -> "Future[Any]":
        outer = _Relay(inner)

        def settle(done: "Future[Outcome]") -> None:
            if done.cancelled() or not outer.set_running_or_notify_cancel():
                outer.cancel()
                return
            try:
                outer.set_result(done.result().value())
            except BrokenProcessPool as error:
                died = WorkerDied(function)
                died.__cause__ = error
                self._forget(pool)
                outer.set_exception(died)
            except Exception as error:  # noqa: BLE001  # the caller gets it from the future
                outer.set_exception(error)

        inner.add_done_callback(settle)
        return outer


class _Relay(Future[Any]):
    """The future that the caller holds; cancelling it cancels the call in the pool if that has not begun."""

    def __init__(self, inner: "Future[Outcome]") -> None:
        super().__init__()
        self._inner = inner

    def cancel(self) -> bool:
        return (self._inner.cancelled() or self._inner.cancel()) and super().cancel()

    def running(self) -> bool:
        return self._inner.running()


def _start_worker() -> None:
    # Control-C reaches every process of a terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    # Workers hold both ends of the pool's queue, so that a killed parent would leave them waiting for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_local(rest: str) -> LocalExecutor:
    """Open `local` (a process a core) or `local:N`."""
    if not rest:
        return LocalExecutor(usable_cores())
    if not rest.isdecimal() or int(rest) < 1:
        raise Invalid(f"executor 'local:{rest}' was not understood; expected local:N with N processes, at least 1")
    return LocalExecutor(int(rest))
