"""What every executor must do, as tests. A test class inherits `ExecutorConformance` and gives it a name of the table."""

import os
import threading
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from tidemill.compute.executor import Executor, open_executor
from tidemill.core.clock import wait_until
from tidemill.core.errors import Conflict, Invalid, NotFound, Unavailable


class Ebb(NotFound):
    """An error whose class takes other arguments than its sentence."""

    def __init__(self, depth: int, *, place: str) -> None:
        self.depth, self.place = depth, place
        super().__init__(f"only {depth} m of water at {place}")


def square(number: int) -> int:
    return number * number


def add(left: int, right: int = 10) -> int:
    return left + right


def slow_when_even(number: int) -> int:
    """Let the items that come first finish last."""
    if number % 2 == 0:
        wait_until(lambda: False, timeout_s=0.05)
    return number


def run_aground(number: int) -> int:
    if number == 3:
        raise Ebb(number, place="the gate")
    return number


def raise_local(_: int) -> int:
    class Hidden(Conflict):
        """A class that no other process can import."""

    raise Hidden("from inside a function")


def return_lock(_: int) -> Any:
    return threading.Lock()


def note_down(folder: str) -> None:
    (Path(folder) / f"{os.getpid()}-{os.urandom(4).hex()}").touch()


def die(_: int) -> None:
    os._exit(9)


class ExecutorConformance:
    """The law of `Executor`. Give it the fixture executor_name; in_process is true when functions run in the caller's process."""

    in_process = False

    @pytest.fixture
    def executor_name(self) -> str:
        pytest.fail("a conformance test gives the fixture executor_name")

    @pytest.fixture
    def executor(self, executor_name: str) -> Iterator[Executor]:
        executor = open_executor(executor_name)
        yield executor
        executor.close()

    def test_submit_gives_the_result(self, executor: Executor) -> None:
        assert executor.workers >= 1
        assert executor.submit(square, 7).result(60) == 49
        assert executor.submit(add, 1, right=2).result(60) == 3

    def test_map_keeps_the_order_of_the_items(self, executor: Executor) -> None:
        assert list(executor.map(slow_when_even, range(12))) == list(range(12))
        assert list(executor.map(square, [])) == []

    def test_map_takes_items_as_it_goes(self, executor: Executor) -> None:
        results = executor.map(square, count())
        assert list(islice(results, 20)) == [number * number for number in range(20)]

    def test_an_exception_comes_back_as_itself(self, executor: Executor) -> None:
        with pytest.raises(Ebb, match="only 3 m of water at the gate") as caught:
            executor.submit(run_aground, 3).result(60)
        assert (caught.value.depth, caught.value.place) == (3, "the gate")
        results = executor.map(run_aground, range(100))
        assert list(islice(results, 3)) == [0, 1, 2]
        with pytest.raises(Ebb, match="only 3 m"):
            next(results)
        assert executor.submit(square, 2).result(60) == 4

    def test_an_exception_of_a_hidden_class_comes_as_its_relative(self, executor: Executor) -> None:
        with pytest.raises(Conflict, match="from inside a function"):
            executor.submit(raise_local, 0).result(60)

    def test_a_function_without_a_name_is_refused_at_once(self, executor: Executor) -> None:
        def nested() -> None: ...

        with pytest.raises(Invalid, match=r"is a lambda and cannot be sent .* move it to the top level of a module"):
            executor.submit(lambda: 1)
        with pytest.raises(Invalid, match="defined inside another function"):
            executor.submit(nested)
        with pytest.raises(Invalid, match="is a lambda"):
            executor.map(lambda item: item, [1])

    def test_what_does_not_pickle_is_refused(self, executor: Executor) -> None:
        if self.in_process:
            pytest.skip("nothing is pickled")
        with pytest.raises(Invalid, match="an argument of square cannot be sent to a worker"):
            executor.submit(square, threading.Lock())  # type: ignore[arg-type]
        with pytest.raises(Invalid, match="the result of return_lock cannot be sent back"):
            executor.submit(return_lock, 0).result(60)

    def test_what_has_not_begun_is_not_begun_when_nobody_listens(self, executor: Executor, tmp_path: Path) -> None:
        results = executor.map(note_down, [str(tmp_path)] * 10_000)
        next(results)
        results.close()  # type: ignore[attr-defined]  # a generator
        executor.submit(square, 1).result(60)
        assert len(list(tmp_path.iterdir())) < 200

    def test_a_worker_that_dies_is_replaced(self, executor: Executor) -> None:
        if self.in_process:
            pytest.skip("there is no worker")
        with pytest.raises(Unavailable, match="a worker process died while it ran die"):
            executor.submit(die, 0).result(60)
        assert executor.submit(square, 3).result(60) == 9

    def test_after_close_nothing_runs(self, executor_name: str) -> None:
        executor = open_executor(executor_name)
        executor.submit(square, 1).result(60)
        executor.close()
        executor.close()
        with pytest.raises(Unavailable, match="the executor was closed"):
            executor.submit(square, 1)
