"""An executor on Ray: a local one that is started and ended here, or a cluster by its address."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

from tidemill.compute.executor import ExecutorClosed, WorkerDied, check_importable, map_ordered, pickled
from tidemill.compute.outcome import Outcome, run
from tidemill.core.errors import ExtraMissing, Unavailable

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class RayExecutor:
    """Runs each call as a Ray task. A Ray that runs in this process already is used and left running."""

    def __init__(self, address: str | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise ExtraMissing("ray", "ray") from error
        self._ray: Any = ray
        self._closed = False
        self._started = not ray.is_initialized()
        if self._started:
            try:
                ray.init(address=address, include_dashboard=False, log_to_driver=False, configure_logging=False)
            except (ConnectionError, ValueError, RuntimeError, OSError) as error:
                raise Unavailable(f"Ray at {address or 'this machine'} does not answer ({error}); check that it runs") from error
        # No retry by Ray itself: whether a call may run twice is for the caller to say, as with every executor.
        self._run = ray.remote(max_retries=0)(run)

    @property
    def workers(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        check_importable(fn)
        arguments = pickled((args, kwargs), f"an argument of {fn.__qualname__}")
        if self._closed:
            raise ExecutorClosed
        reference = self._run.remote(fn, arguments)
        outer = _Relay(self._ray, reference)

        def settle(done: "Future[Outcome]") -> None:
            if not outer.set_running_or_notify_cancel():
                return
            try:
                outer.set_result(done.result().value())
            except self._ray.exceptions.RayError as error:
                died = WorkerDied(fn.__qualname__)
                died.__cause__ = error
                outer.set_exception(died)
            except Exception as error:  # noqa: BLE001  # the caller gets it from the future
                outer.set_exception(error)

        reference.future().add_done_callback(settle)
        return outer

    def map(self, fn: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        check_importable(fn)
        return map_ordered(lambda item: self.submit(fn, item), items, ahead=4 * self.workers)

    def close(self) -> None:
        if not self._closed and self._started:
            self._ray.shutdown()
        self._closed = True


class _Relay(Future[Any]):
    """The future that the caller holds; cancelling it cancels the task in Ray."""

    def __init__(self, ray: Any, reference: Any) -> None:
        super().__init__()
        self._ray, self._reference = ray, reference

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled:
            self._ray.cancel(self._reference)
        return cancelled


def open_ray(rest: str) -> RayExecutor:
    """Open `ray` (started here, on this machine's cores) or `ray:ADDRESS`."""
    return RayExecutor(rest or None)
