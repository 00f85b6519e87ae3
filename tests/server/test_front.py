"""MLflow's brief calls over a real socket: answered in their order and at the desk, each whole, and on disk when it is answered."""

import json
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from tests.server.conftest import Served
from tidemill.govern.workspace import open_workspace
from tidemill.tracking.points import Points
from tidemill.tracking.runs import metric_history, read_run

pytestmark = pytest.mark.slow
API = "/api/2.0/mlflow/runs/"


class Line:
    """One connection, byte by byte."""

    def __init__(self, served: Served) -> None:
        self.socket = socket.create_connection(("127.0.0.1", served.socket.getsockname()[1]), timeout=30)
        self._read = b""

    def ask(self, path: str, told: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        """Send a call and return its answer."""
        self.socket.sendall(packet(path, told, **headers))
        return self.answer()

    def answer(self) -> tuple[int, dict[str, Any]]:
        """Return status and body of the next answer."""
        head, _, rest = self._until(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:])
        while len(rest) < int(fields["content-length"]):
            rest += self._more()
        body, self._read = rest[: int(fields["content-length"])], rest[int(fields["content-length"]) :]
        self.fields = fields
        return int(head.split()[1]), json.loads(body) if body.startswith(b"{") else {"text": body.decode()}

    def is_over(self) -> bool:
        """Return whether the server has closed the connection, once it did anything."""
        return self.socket.recv(1) == b""

    def _until(self, end: bytes) -> tuple[bytes, bytes, bytes]:
        while end not in self._read:
            self._read += self._more()
        return self._read.partition(end)

    def _more(self) -> bytes:
        piece = self.socket.recv(65536)
        assert piece, "the server hung up"
        return piece


def packet(path: str, told: Any, **headers: str) -> bytes:
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    named = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def point(run: str, step: int, key: str = "loss") -> dict[str, Any]:
    return {"run_id": run, "key": key, "value": step / 7, "timestamp": 1_700_000_000_000 + step, "step": step}


@pytest.fixture
def connect(served: Served) -> Iterator[Callable[[], Line]]:
    """Opens connections, which end with the test."""
    made: list[Line] = []

    def new() -> Line:
        made.append(Line(served))
        return made[-1]

    yield new
    for line in made:
        line.socket.close()


@pytest.fixture
def line(connect: Callable[[], Line]) -> Line:
    return connect()


@pytest.fixture
def run(line: Line) -> str:
    status, told = line.ask(API + "create", {"experiment_id": "0", "run_name": "x"})
    assert status == 200
    return str(told["run"]["info"]["run_id"])


def history(served: Served, run: str, key: str = "loss") -> Points:
    with open_workspace(served.home) as ws:
        return metric_history(ws, run, key)


def test_calls_in_one_packet_are_answered_in_their_order(line: Line, run: str) -> None:
    health = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    wrong = packet(API + "log-metric", {"run_id": "none", "key": "a", "value": 1, "timestamp": 1})
    tag = packet(API + "set-tag", {"run_id": run, "key": "a", "value": "b"})
    line.socket.sendall(packet(API + "log-metric", point(run, 1)) + health + wrong + tag + health)
    answers = [line.answer() for _ in range(5)]
    assert [status for status, _ in answers] == [200, 200, 404, 200, 200]
    assert [told.get("text", told.get("error_code")) for _, told in answers] == [None, "OK", "RESOURCE_DOES_NOT_EXIST", None, "OK"]


def test_a_call_may_come_byte_by_byte(line: Line, run: str) -> None:
    for byte in packet(API + "log-metric", point(run, 1)):
        line.socket.sendall(bytes([byte]))
    assert line.answer() == (200, {})
    assert set(line.fields) == {"date", "content-type", "content-length"}


def test_what_is_wrong_is_told_as_everywhere(line: Line, run: str) -> None:
    for body, code in (
        (b"{", "INVALID_PARAMETER_VALUE"),
        ({"key": "a", "value": 1, "timestamp": 1}, "INVALID_PARAMETER_VALUE"),
        (point("none", 1), "RESOURCE_DOES_NOT_EXIST"),
    ):
        assert line.ask(API + "log-metric", body)[1]["error_code"] == code
    assert line.ask(API + "log-metric", point(run, 1), content_type="text/plain")[1]["error_code"] == "INVALID_PARAMETER_VALUE"
    assert line.ask(API + "log-metric", point(run, 1), origin="https://evil.example")[0] == 403
    assert line.ask(API + "log-metric", point(run, 1), x_mlflow_workspace="none")[0] == 404
    assert line.ask(API + "log-metric", point(run, 1)) == (200, {})


def test_a_caller_that_wants_to_end_is_left(served: Served, connect: Callable[[], Line], line: Line, run: str) -> None:
    assert line.ask(API + "log-metric", point(run, 1), connection="close") == (200, {})
    assert line.is_over()
    hasty = connect()
    hasty.socket.sendall(packet(API + "log-metric", point(run, 2)))
    hasty.socket.close()
    half = connect()
    half.socket.sendall(packet(API + "log-metric", point(run, 3))[:-5])
    half.socket.close()
    again = connect()
    assert again.ask(API + "log-metric", point(run, 4)) == (200, {})
    assert {1, 4} <= set(history(served, run).steps.tolist()) <= {1, 2, 4}


def test_many_callers_at_once_lose_nothing_and_each_has_its_own_answer(served: Served, connect: Callable[[], Line], run: str) -> None:
    barrier = Barrier(16)

    def act(caller: int) -> list[int]:
        mine = connect()
        barrier.wait()
        statuses = [
            mine.ask(API + "log-metric", point("none" if step % 5 == caller % 5 else run, caller * 100 + step)) for step in range(50)
        ]
        return [status for status, _ in statuses]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(act, range(16)))
    assert answers == [[404 if step % 5 == caller % 5 else 200 for step in range(50)] for caller in range(16)]
    wanted = {caller * 100 + step for caller in range(16) for step in range(50) if step % 5 != caller % 5}
    assert sorted(history(served, run).steps.tolist()) == sorted(wanted)


def test_what_was_answered_is_there_after_a_kill(served: Served, connect: Callable[[], Line], run: str) -> None:
    def act(caller: int) -> list[int]:
        mine, answered = connect(), []
        try:
            for step in range(caller * 10_000, caller * 10_000 + 5000):
                if mine.ask(API + "log-metric", point(run, step))[0] == 200:
                    answered.append(step)
                if caller == 0 and len(answered) == 60:
                    served.process.send_signal(signal.SIGKILL)
        except (AssertionError, OSError):
            pass
        return answered

    with ThreadPoolExecutor(4) as pool:
        answered = {step for steps in pool.map(act, range(4)) for step in steps}
    assert len(answered) >= 60
    assert answered <= set(history(served, run).steps.tolist())


def test_a_large_batch_goes_the_same_way(served: Served, line: Line, run: str) -> None:
    points = [{name: value for name, value in point(run, step).items() if name != "run_id"} for step in range(1000)]
    params = [{"key": "text", "value": "x" * 200_000}]
    assert line.ask(API + "log-batch", {"run_id": run, "metrics": points}) == (200, {})
    assert line.ask(API + "log-batch", {"run_id": run, "metrics": points[:999], "params": params}) == (200, {})
    assert len(history(served, run)) == 1999
    with open_workspace(served.home) as ws:
        assert len(read_run(ws, run).params["text"]) == 6000


def test_a_database_that_is_busy_holds_nobody_else_up(served: Served, connect: Callable[[], Line], line: Line, run: str) -> None:
    database = sqlite3.connect(served.home / ".tidemill" / "catalog.db", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    line.socket.sendall(packet(API + "log-metric", point(run, 1)))
    other = connect()
    for _ in range(3):
        other.socket.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert other.answer()[0] == 200
    line.socket.settimeout(0.1)
    with pytest.raises(TimeoutError):
        line.answer()
    database.execute("ROLLBACK")
    database.close()
    line.socket.settimeout(30)
    assert line.answer() == (200, {})
    assert history(served, run).steps.tolist() == [1]


def test_calls_under_way_are_answered_before_it_ends(served: Served, connect: Callable[[], Line], line: Line, run: str) -> None:
    database = sqlite3.connect(served.home / ".tidemill" / "catalog.db", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    line.socket.sendall(packet(API + "log-metric", point(run, 1)))
    other = connect()
    other.socket.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    assert other.answer()[0] == 200  # the call before it has been read by now
    served.process.send_signal(signal.SIGTERM)
    assert other.is_over()
    database.execute("ROLLBACK")
    database.close()
    assert line.answer() == (200, {})
    assert line.fields["connection"] == "close"
    assert served.process.wait(timeout=15) == 0
