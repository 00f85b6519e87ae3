"""Where the microseconds of an Open Inference request go: the path of a worker in one process, without sockets."""

import asyncio
import gc
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import thread_time
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Options, Report, options
from benchmarks.serving import trees
from tests.serving.plant import Plant

from tidemill.core.clock import SystemClock, elapsed
from tidemill.core.codec import encode
from tidemill.serving.background import Commit
from tidemill.serving.config import VariantConfig, load
from tidemill.serving.http import Connection, HttpServer, Limits, Reply, Request
from tidemill.serving.journal import EndpointJournal
from tidemill.serving.metrics import Metrics
from tidemill.serving.models import Models
from tidemill.serving.oip.routes import OipRoutes, target_of
from tidemill.serving.predict import Ask, Endpoint
from tidemill.serving.routes import Routes
from tidemill.serving.turns import Turns
from tidemill.serving.world import Builder, World
from tidemill.store.trees import put_tree

PATH = b"/v2/models/trees/infer"
HEAD = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Wire:
    """A transport that sends nothing."""

    def __init__(self) -> None:
        self.told = b""

    def write(self, data: bytes) -> None:
        self.told = data


class Parts:
    """The parts of a worker."""

    def __init__(self, home: Path, model: bytes, output: str) -> None:
        plant = Plant(home)
        bundle = put_tree(plant.objects, {"model.onnx": model, "model.json": encode(trees.spec(output))})
        plant.publish(plant.endpoint(VariantConfig(name="champion", model="trees", version=1, bundle=bundle), name="trees"))
        config = load(plant.state)
        assert config is not None
        metrics, clock, loop = Metrics(home, 0), SystemClock(), asyncio.get_running_loop()
        models = Models(lambda: plant.objects, home / "bundles", trusted=["onnx"], deadline_s=10, crumbs=home / "crumbs")
        self.journal = EndpointJournal(plant.state, "trees", "0")
        builder = Builder(models, clock=clock, metrics=metrics, online=_none, journal=lambda _: self.journal, together_s=1e-3)
        self.endpoint: Endpoint = builder.endpoint(config.endpoints[0])
        commit = Commit(loop, metrics, to_disk=False)
        turns = Turns(loop, commit, waiting_limit=100, deadline_s=10)
        self.routes = Routes(
            clock=clock, metrics=metrics, labels_journal=self.journal.predictions, shadow=_none, held=commit, turns=turns, exposition=_none
        )  # fmt: skip
        self.routes.world = World(config, {"trees": self.endpoint}, {}, away={}, wait=_none)
        self.http = HttpServer(self.routes, self.routes.refuse, Limits(body_bytes=1 << 24))

    def connections(self, count: int) -> list[tuple[Connection, Wire]]:
        """Return so many callers."""
        found = [(self.http.connect(), Wire()) for _ in range(count)]
        for connection, wire in found:
            connection.connection_made(wire)  # type: ignore[arg-type]  # what the path asks of one
        return found


def _none(*_: Any, **__: Any) -> Any:
    return None


async def measure(report: Report, told: Options, path: Parts, rows: int, callers: int) -> None:
    """Add what requests of so many rows cost, where so many come at once."""
    body = trees.open_inference(rows)
    data = HEAD % (PATH, len(body)) + body
    connections, rounds, repeats = path.connections(callers), told.rounds(25), told.size(max(2, 400 // rows // callers), 1)
    request, target, oip, runtime = Request(b"POST", PATH, {}, body, elapsed()), target_of(PATH), OipRoutes(), path.endpoint.main.runtime

    async def turn() -> None:
        for connection, _ in connections:
            connection.data_received(data)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def whole() -> float:
        begin = thread_time()
        for _ in range(repeats):
            await turn()
        return (thread_time() - begin) / repeats / callers * 1e6

    def each(act: Callable[[], Any], share: int = 1) -> list[float]:
        found = []
        for _ in range(rounds):
            begin = thread_time()
            for _ in range(repeats * callers):
                act()
            found.append((thread_time() - begin) / repeats / callers / share * 1e6)
        return found

    for _ in range(told.size(200, 2)):
        await turn()
    assert connections[0][1].told.startswith(b"HTTP/1.1 200 OK"), connections[0][1].told
    total = [await whole() for _ in range(rounds)]
    callers_of, connections = connections, []
    empty = [await whole() for _ in range(rounds)]
    connections = callers_of
    what = f"{rows} row{'s' if rows > 1 else ''}, {callers} at once"
    at_once = max(1, min(callers, path.endpoint.pace.most(rows) // rows))
    inference = oip.decode(path.endpoint, target, request)
    asks = [Ask(inference.rows, request.started, "", _none, _none) for _ in range(at_once)]
    work = path.endpoint.begin(asks)
    path.endpoint.run(work)
    answered = path.endpoint.finish(work)[0]
    fixed, handle = Reply(200, b"{}"), path.http.handle

    def http() -> None:
        for connection, _ in connections:
            connection.data_received(data)

    path.http.handle = lambda _: fixed
    parts = {
        "HTTP (callbacks of httptools, answer in its place)": each(http, callers),
        "JSON to numbers, checked": each(lambda: oip.decode(path.endpoint, target, request)),
        f"features, variant, ids ({at_once} requests at once)": each(lambda: path.endpoint.begin(asks), at_once),
        "the model": each(lambda: runtime.run(work.columns, len(work.ids)), at_once),
        "record, checksum, metrics, journal written": each(
            lambda: path.journal.predictions.flush() if path.endpoint.finish(work) else 0, at_once
        ),
        "answer as JSON": each(lambda: oip.answer(path.endpoint, inference, answered)),
    }
    path.http.handle = handle
    parts["two turns of the event loop"] = empty
    report.add(f"{what}: whole", "us", total)
    for name, values in parts.items():
        report.add(f"{what}: {name}", "us", values, against=f"{what}: whole")
    rest = median(total) - sum(median(values) for values in parts.values())
    report.note(
        f"{what}: {rest:.1f} us stand between these; each of them was measured over and over, so with warm caches, the whole was not"
    )


async def run(told: Options) -> None:
    """Measure and print."""
    report = Report(
        "path of a request",
        "200 trees of LightGBM over 30 numbers as ONNX; requests that come at once are given to the protocol as bytes, and its answers are "
        "bytes; CPU time of one thread",
        ("onnxruntime", "httptools", "msgspec", "numpy"),
    )
    model, output = trees.model(trees=told.size(200, 5))
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        path = Parts(Path(name) / "home", model, output)
        gc.collect()
        gc.freeze()
        for rows, callers in ((1, 1), (1, 16), (32, 16)):
            await measure(report, told, path, rows, callers)
        path.journal.close()
    report.show(told)


if __name__ == "__main__":
    uvloop.run(run(options(__doc__)))
