"""What Tidemill adds to one call of MLflow's API before the service is reached: routing, access, decoding, the way to a thread and back."""

import asyncio
import socket
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Report, in_turns, options
from benchmarks.tracking import servers

from tidemill.govern.workspace import init_workspace
from tidemill.server.access import Access, BrowserGuard
from tidemill.server.mlflow.app import MlflowApp
from tidemill.server.mlflow.batches import LogMetric
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.wire import DONE

BODY = b'{"run_id":"%s","key":"loss","value":0.5,"timestamp":1700000000000,"step":3}'
INFO, LOG = "/api/3.0/mlflow/server-info", "/api/2.0/mlflow/runs/log-metric"
BARE, TRIP, COMMIT, ALONE = (
    "a server that does nothing",
    "server-info, round trip",
    "log-metric, committed",
    "the app around an empty handler",
)


class Caller:
    """One connection, asked without a client library: the library would be most of what is measured."""

    def __init__(self, url: str, method: str, path: str, body: bytes) -> None:
        place = urlsplit(url)
        self._socket = socket.create_connection((place.hostname, place.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"{method} {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body

    def typical(self, count: int) -> float:
        """Return the median of some calls, in microseconds."""
        return median(self._once() for _ in range(count)) * 1e6

    def _once(self) -> float:
        begin = perf_counter()
        self._socket.sendall(self._request)
        answer = self._socket.recv(65536)
        while not _whole(answer):
            answer += self._socket.recv(65536)
        taken = perf_counter() - begin
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(answer[:500])
        return taken


def _whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    return len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 1)


def alone(folder: Path, count: int) -> float:
    """Return the median of calls of the app itself, without a socket, in microseconds."""
    ws = init_workspace(folder)
    endpoint = Endpoint("POST", "/mlflow/runs/log-metric", LogMetric, lambda ws, request: DONE)
    guard = BrowserGuard(hosts=(), check_hosts=True)
    app = MlflowApp(asyncio.sleep, access=Access(ws), guard=guard, endpoints=[endpoint], streams=[])  # type: ignore[arg-type]
    body = BODY % (b"0" * 32)
    headers = [(b"host", b"127.0.0.1:5000"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {"type": "http", "method": "POST", "path": LOG, "query_string": b"", "headers": headers}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def calls() -> list[float]:
        found = []
        for _ in range(count):
            begin = perf_counter()
            await app(dict(scope), receive, send)
            found.append(perf_counter() - begin)
        return found

    import uvloop  # as the server has it

    found = uvloop.run(calls())
    assert sent[0]["status"] == 200, sent[:2]
    ws.close()
    return median(found[count // 10 :]) * 1e6


if __name__ == "__main__":
    told = options(__doc__)
    count = told.size(3000, 20)
    report = Report(
        "calls of the MLflow API", f"medians of {count:,} calls one after the other on one connection", ("uvicorn", "uvloop", "msgspec")
    )
    with ExitStack() as stack:
        ours, nothing = stack.enter_context(servers.tidemill()), stack.enter_context(servers.empty())
        run = requests.post(ours.url + "/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}, timeout=30).json()["run"]["info"][
            "run_id"
        ]
        bare, trip = Caller(nothing.url, "GET", INFO, b""), Caller(ours.url, "GET", INFO, b"")
        commit = Caller(ours.url, "POST", LOG, BODY % run.encode())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        names = iter(range(1000))
        found = in_turns(
            told.rounds(7),
            {
                BARE: lambda: bare.typical(count),
                TRIP: lambda: trip.typical(count),
                COMMIT: lambda: commit.typical(count // 5),
                ALONE: lambda: alone(Path(folder) / str(next(names)), count),
            },
        )
    for what, values in found.items():
        report.add(what, "µs", values, against=None if what in (BARE, ALONE) else BARE)
    report.note("what the first two differ by is what comes before the service, the thread there and back included")
    report.show(told)
