"""An executor that runs functions where they are called: for tests, for debuggers, for machines with one core."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

from tidemill.compute.executor import ExecutorClosed, check_importable, map_ordered
from tidemill.core.errors import Invalid

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class InlineExecutor:
    """Runs each function before submit returns. Refuses what a pool would refuse, so that changing the executor changes nothing."""

    workers = 1

    def __init__(self) -> None:
        self._closed = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        check_importable(fn)
        if self._closed:
            raise ExecutorClosed
        future: Future[R] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # the caller gets it from the future
            future.set_exception(error)
        return future

    def map(self, fn: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        check_importable(fn)
        return map_ordered(lambda item: self.submit(fn, item), items, ahead=1)

    def close(self) -> None:
        self._closed = True


def open_inline(rest: str) -> InlineExecutor:
    """Open `inline`."""
    if rest:
        raise Invalid(f"executor 'inline:{rest}' was not understood; expected inline")
    return InlineExecutor()
