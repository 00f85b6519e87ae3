"""What an executor is, and the table of those there are."""

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from importlib import import_module
from typing import Any, ParamSpec, Protocol, TypeVar

from tidemill.core.errors import Invalid, Unavailable
from tidemill.core.settings import nearest

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

# Members are loaded when chosen; they never import this table's members.
EXECUTORS = {
    "inline": "tidemill.compute.inline:open_inline",
    "local": "tidemill.compute.local:open_local",
    "ray": "tidemill.compute.ray:open_ray",
}


class Executor(Protocol):
    """Runs functions, perhaps in other processes or on other machines. The law for every implementation:

    - Every method may be called from several threads.
    - A function is handed over by its name, so that it must stand at the top level of a module that the other side can import,
      and arguments and results must pickle; Invalid says so at once, before anything runs.
    - An exception comes back as itself, of its own class with its own attributes, with a note of where it was raised.
    - map yields in the order of the items, whatever finishes first; it takes items as it goes, so that they may be endless. When an
      item fails, or the caller stops listening, what has not begun is not begun.
    - A worker that dies makes the calls it had Unavailable; later calls find a new worker.
    - After close, which waits for what has begun, no process that the executor started is left, and submit is Unavailable.
    """

    @property
    def workers(self) -> int:
        """How many functions run at once."""
        ...

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        """Start a function and return the future of its result."""
        ...

    def map(self, fn: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield fn of each item, in order."""
        ...

    def close(self) -> None:
        """End the workers. May be called again."""
        ...


class ExecutorClosed(Unavailable):
    """The executor was closed."""

    def __init__(self) -> None:
        super().__init__("the executor was closed; open another with open_executor")


class WorkerDied(Unavailable):
    """A worker process ended while it ran a function."""

    def __init__(self, function: str) -> None:
        self.function = function
        super().__init__(f"a worker process died while it ran {function} (killed, or out of memory); run it again, with less at once")


def open_executor(name: str) -> Executor:
    """Open `inline`, `local` (a process a core), `local:N`, `ray` (a local one) or `ray:ADDRESS`. Raises Invalid, Unavailable."""
    kind, _, rest = name.partition(":")
    if kind not in EXECUTORS:
        raise Invalid(f"executor {name!r} is not known; {nearest(kind, list(EXECUTORS))}")
    module, _, attribute = EXECUTORS[kind].partition(":")
    executor: Executor = getattr(import_module(module), attribute)(rest)
    return executor


def check_importable(fn: Callable[..., Any]) -> None:
    """Raise Invalid when a function cannot be found by its name on the other side."""
    name = getattr(fn, "__qualname__", repr(fn))
    if "<" in name:
        what = "a lambda" if name.endswith("<lambda>") else "defined inside another function"
        raise Invalid(f"function {name} is {what} and cannot be sent to a worker; move it to the top level of a module")
    try:
        pickle.dumps(fn)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise Invalid(f"function {name} cannot be sent to a worker ({error}); expected one at the top level of a module") from error


def pickled(value: Any, what: str) -> bytes:
    """Return the pickle of arguments. Raises Invalid."""
    try:
        return pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise Invalid(f"{what} cannot be sent to a worker ({error}); pass plain data, values or paths instead") from error


def map_ordered(submit: Callable[[T], "Future[R]"], items: Iterable[T], *, ahead: int) -> Iterator[R]:
    """Yield results in the order of the items, with at most ahead of them under way."""
    running: deque[Future[R]] = deque()
    try:
        for item in items:
            running.append(submit(item))
            if len(running) >= ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()
