"""A model in a process of its own may do what it likes to itself: callers are told in time, and the next one is answered."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.serving.plant import PYTHON, Plant, python_spec, row
from tidemill.core.clock import wait_until
from tidemill.core.errors import Invalid
from tidemill.core.process import lives
from tidemill.core.signature import Column, ModelSpec, Signature
from tidemill.core.values import replace
from tidemill.serving.block import Block
from tidemill.serving.config import read_states
from tidemill.serving.runtimes.isolated import IsolatedRuntime
from tidemill.serving.runtimes.runtime import ModelFailed

pytestmark = pytest.mark.slow

CRASHES = {
    "exit": ("__import__('os')._exit(3)", r"its process ended \(exit code 3\)"),
    "segfault": ("__import__('ctypes').string_at(0)", r"its process ended \(SIGSEGV\)"),
    "abort": ("__import__('os').abort()", r"its process ended \(SIGABRT\)"),
    "killed": ("__import__('os').kill(__import__('os').getpid(), 9)", r"its process ended \(SIGKILL\)"),
    "hang": ("sleep(60)", "it gave no answer in 1 s"),
    "deaf hang": ("__import__('signal').pthread_sigmask(0, range(1, 64)) or sleep(60)", "it gave no answer in 1 s"),
}


def isolated(folder: Path, body: str, *, spec: ModelSpec | None = None, **named) -> IsolatedRuntime:
    (folder / "model.py").write_text(PYTHON.format(body=body))
    spec = spec or python_spec()
    return IsolatedRuntime(folder, spec, model="example@1", **{"deadline_s": 1.0, **named})


def ask(runtime: IsolatedRuntime, a: float = 1.0) -> float:
    return float(runtime.run({"a": [a], "b": [1]}, 1)[0])


@pytest.mark.parametrize("name", CRASHES)
def test_a_process_that_dies_or_hangs_is_replaced(tmp_path: Path, name: str) -> None:
    body, says = CRASHES[name]
    runtime = isolated(tmp_path, f"{body} if columns['a'][0] == 13 else None; return columns['a']", deadline_s=1.0)
    first = runtime.pid
    assert ask(runtime) == 1.0
    began = time.monotonic()
    with pytest.raises(ModelFailed, match=says):
        ask(runtime, 13.0)
    assert time.monotonic() - began < 3
    assert not lives(first)
    assert wait_until(lambda: answers(runtime), timeout_s=20), "the next process answers"
    assert runtime.pid not in (first, None)


def answers(runtime: IsolatedRuntime) -> bool:
    try:
        return ask(runtime, 2.0) == 2.0
    except ModelFailed:
        return False


def test_who_comes_next_waits_for_the_new_process(tmp_path: Path) -> None:
    runtime = isolated(tmp_path, "__import__('os')._exit(1) if columns['a'][0] == 13 else None; return columns['a']", deadline_s=20.0)
    with pytest.raises(ModelFailed):
        ask(runtime, 13.0)
    assert ask(runtime, 2.0) == 2.0


def test_one_that_dies_again_and_again_is_started_more_and_more_seldom(tmp_path: Path) -> None:
    runtime = isolated(tmp_path, "__import__('os')._exit(1)", deadline_s=20.0)
    for _ in range(3):
        with pytest.raises(ModelFailed, match="its process ended"):
            ask(runtime)
    began = time.monotonic()
    with pytest.raises(ModelFailed, match="its process ended 3 times in a row; it is started again in a while"):
        ask(runtime)
    assert time.monotonic() - began < 0.5


def test_a_process_that_grows_is_replaced_and_nobody_waits(tmp_path: Path) -> None:
    body = "globals().setdefault('kept', []).append(b'x' * (20 << 20)) if columns['a'][0] == 13 else None; return columns['a']"
    runtime = isolated(tmp_path, body, deadline_s=20.0, growth_bytes=50 << 20)
    first = runtime.pid
    for _ in range(5):
        assert ask(runtime, 13.0) == 13.0
    assert wait_until(lambda: ask(runtime) == 1.0 and runtime.pid != first, timeout_s=20)
    assert not lives(first)


def test_a_failure_of_the_model_does_not_cost_its_process(tmp_path: Path) -> None:
    runtime = isolated(tmp_path, "raise KeyError('no such carrier')")
    first = runtime.pid
    with pytest.raises(ModelFailed, match="KeyError: 'no such carrier'; the request is fine"):
        ask(runtime)
    assert runtime.pid == first


def test_other_threads_are_told_by_their_deadline(tmp_path: Path) -> None:
    runtime = isolated(tmp_path, "sleep(60) if columns['a'][0] == 13 else None; return columns['a']", deadline_s=1.0)
    told: list[float] = []

    def work(a: float) -> None:
        began = time.monotonic()
        with pytest.raises(ModelFailed):
            ask(runtime, a)
        told.append(time.monotonic() - began)

    threads = [threading.Thread(target=work, args=(13.0,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 4
    assert max(told) < 6


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os\nos._exit(3)", r"ended its process while it was loaded \(exit code 3\)"),
        ("import no_such_library", "cannot be loaded: ModuleNotFoundError"),
        ("predict = 3", "is not a function"),
    ],
)
def test_what_happens_while_it_is_loaded_is_told(tmp_path: Path, code: str, says: str) -> None:
    (tmp_path / "model.py").write_text(code)
    with pytest.raises(Invalid, match=says):
        IsolatedRuntime(tmp_path, python_spec(), model="example@1", deadline_s=1.0)


def test_a_process_goes_with_its_runtime(tmp_path: Path) -> None:
    runtime = isolated(tmp_path, "return columns['a']")
    pid = runtime.pid
    assert lives(pid)
    del runtime
    assert wait_until(lambda: not lives(pid), timeout_s=5)


def test_text_whole_numbers_and_blocks_arrive_as_they_were(tmp_path: Path) -> None:
    inputs = (Column(name="a", kind="double"), Column(name="t", kind="string"), Column(name="b", kind="boolean"))
    spec = replace(python_spec(), signature=Signature(inputs=inputs, outputs=()), tensors={"x": ("a", "t", "b")}, request_columns=())
    body = "return [a + 10 * (t is None) + 100 * (t == 'ä') + 1000 * b for a, t, b in zip(*map(columns.get, 'atb'))]"
    runtime = isolated(tmp_path, body, spec=spec)
    assert runtime.run({"a": [1.0, 2, 3], "t": ["x", None, "ä"], "b": [True, False, False]}, 3).tolist() == [1001.0, 12.0, 103.0]
    with pytest.raises(ModelFailed, match="a column holds what is no number"):
        runtime.run({"a": ["one"], "t": ["x"], "b": [True]}, 1)
    numbers = isolated(tmp_path, "return columns['a'] + columns['b']")
    for kind in (np.float32, np.float64):
        assert numbers.run(Block(("a", "b"), np.array([[1, 2], [3, 4]], dtype=kind)), 2).tolist() == [3.0, 7.0]


def test_a_large_batch_goes_through(tmp_path: Path) -> None:
    runtime = isolated(tmp_path, "return columns['a'] * 2", deadline_s=20.0)
    values = np.arange(500_000, dtype=np.float64)
    np.testing.assert_array_equal(runtime.run({"a": values, "b": values}, len(values)), values * 2)


def test_one_model_that_crashes_or_hangs_leaves_the_worker_and_the_others(make_plant) -> None:
    plant: Plant = make_plant(model_deadline_s=1)
    bad = "__import__('os')._exit(1) if columns['a'][0] == 13 else sleep(60) if columns['a'][0] == 14 else None; return columns['a']"
    plant.publish(plant.endpoint(), plant.endpoint(plant.variant(body=bad), name="bad"))
    with plant.worker() as caller:
        assert caller.predict(row(a=0.5), endpoint="bad")["predictions"][0]["score"] == 0.5
        for a, says in ((13.0, "its process ended (exit code 1)"), (14.0, "it gave no answer in 1 s")):
            answer = caller.post("/predict/bad", {"rows": [row(a=a)]})
            assert answer.status == 500
            assert says in answer.body.decode()
            assert caller.predict(row())["predictions"][0]["score"] == pytest.approx(0.11)
            assert wait_until(lambda: caller.post("/predict/bad", {"rows": [row(a=0.5)]}).status == 200, timeout_s=20)
        assert caller.process.poll() is None


def test_processes_of_models_end_with_a_worker_that_is_killed(plant: Plant, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    plant.publish(
        plant.endpoint(plant.variant(body=f"open({str(note)!r}, 'w').write(str(__import__('os').getpid())); return columns['a']"))
    )
    with plant.worker() as caller:
        caller.predict(row())
        pid = int(note.read_text())
        assert lives(pid)
        assert read_states(plant.state)[0].pid == caller.process.pid
        caller.kill()
        assert wait_until(lambda: not lives(pid), timeout_s=10)


def test_control_c_of_a_terminal_is_for_the_worker_to_decide(tmp_path: Path) -> None:
    runtime = isolated(tmp_path, "return columns['a']")
    assert ask(runtime) == 1.0
    os.kill(runtime.pid, signal.SIGINT)
    assert ask(runtime) == 1.0
