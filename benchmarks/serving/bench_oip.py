"""Open Inference requests to one worker on one core: Tidemill with checks, routing and journal, beside the bare floor and FastAPI."""

import json
import os
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Options, Report, in_turns, options, seconds
from benchmarks.serving import trees
from tests.services import Ready, free_port, running
from tests.serving.plant import Plant

from tidemill.core.codec import encode
from tidemill.serving.config import VariantConfig
from tidemill.store.trees import put_tree

HERE = Path(__file__).parent
FLOOR, BY_HAND, OURS = "the bare protocol", "FastAPI by hand", "tidemill"
CONNECTIONS, MANY = 16, 64


class Target:
    """A server under load."""

    def __init__(self, port: int, path: str, pid: int, first_s: float) -> None:
        self.port, self.path, self.pid, self.first_s = port, path, pid, first_s

    def memory_mb(self) -> float:
        return float(psutil.Process(self.pid).memory_info().rss) / 1e6

    def scores(self, body: bytes) -> list[float]:
        """Return the scores that it answers once."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{self.path}", body, {"Content-Type": "application/json"})
        found: list[float] = json.loads(urllib.request.urlopen(request, timeout=30).read())["outputs"][0]["data"]
        return found


@contextmanager
def script(name: str, path: str, model: Path) -> Iterator[Target]:
    """Run a server of this folder on the servers' core."""
    port = free_port()
    command = trees.on_core(trees.SERVER_CORE, [sys.executable, str(HERE / name), str(model), str(port)])
    begin = perf_counter()
    folder = model.parent / name
    folder.mkdir()
    with running(command, folder, ready=Ready(port)) as process:
        yield Target(port, path, process.pid, perf_counter() - begin)


@contextmanager
def worker(home: Path, model: bytes, output: str) -> Iterator[Target]:
    """Run one worker on the servers' core."""
    plant = Plant(home)
    bundle = put_tree(plant.objects, {"model.onnx": model, "model.json": encode(trees.spec(output))})
    plant.publish(plant.endpoint(VariantConfig(name="champion", model="trees", version=1, bundle=bundle), name="trees"))
    begin = perf_counter()
    with plant.worker() as caller:
        pid = caller.process.pid
        for thread in Path(f"/proc/{pid}/task").iterdir() if hasattr(os, "sched_setaffinity") else ():
            os.sched_setaffinity(int(thread.name), {int(trees.SERVER_CORE)})
        yield Target(caller.port, "/v2/models/trees/infer", pid, perf_counter() - begin)


def measure(report: Report, told: Options, what: str, body: bytes, targets: dict[str, Target], *, connections: int) -> None:
    """Load the servers in turns; add a line each for rate, p50 and p99."""
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in targets}

    def load(name: str) -> float:
        found[name].append(
            trees.ask(targets[name].port, targets[name].path, body, connections=connections, for_s=0.1 if told.quick else 3.0)
        )
        return 0.0

    in_turns(told.rounds(4), {name: lambda name=name: load(name) for name in targets})
    for place, (figure, unit) in enumerate((("requests", "req/s"), ("p50", "ms"), ("p99", "ms"))):
        for name, values in found.items():
            against = f"{what}, {FLOOR}, {figure}" if name != FLOOR else None
            report.add(f"{what}, {name}, {figure}", unit, [value[place] for value in values], against=against)


def one_thread() -> onnxruntime.SessionOptions:
    """Return the options that all servers run with."""
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = made.inter_op_num_threads = 1
    return made


def bare(told: Options, session: onnxruntime.InferenceSession, numbers: np.ndarray) -> list[float]:
    """Return the microseconds that the model alone takes."""
    calls = told.size(3000, 10)
    return [seconds(lambda: [session.run(None, {"x": numbers}) for _ in range(calls)]) / calls * 1e6 for _ in range(told.rounds(4))]


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    report = Report(
        "open inference",
        f"one server process on one core, wrk on the other; 200 trees of LightGBM over {len(trees.COLUMNS)} numbers, ONNX Runtime under "
        "all; ours checks each value, gives ids, chooses a variant, writes the journal before it answers and counts; the others do not",
        ("onnxruntime", "uvloop", "httptools", "msgspec", "fastapi", "uvicorn"),
    )
    model, output = trees.model(trees=told.size(200, 5))
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        file = folder / "model.onnx"
        file.write_bytes(model)
        targets = {
            FLOOR: stack.enter_context(script("bare.py", "/", file)),
            BY_HAND: stack.enter_context(script("fastapi_by_hand.py", "/infer", file)),
            OURS: stack.enter_context(worker(folder / "home", model, output)),
        }
        session = onnxruntime.InferenceSession(model, one_thread(), providers=["CPUExecutionProvider"])
        for count in (1, 32):
            numbers, body = trees.rows(count), trees.open_inference(count)
            expected = session.run(None, {"x": numbers})[0].ravel()
            for target in targets.values():
                assert np.allclose(target.scores(body), expected, atol=1e-4), "the servers do not answer alike"
            report.add(f"{count} row{'s' if count > 1 else ''}, the bare model", "us", bare(told, session, numbers))
        measure(report, told, "1 row", trees.open_inference(1), targets, connections=CONNECTIONS)
        measure(report, told, f"1 row, {MANY} connections", trees.open_inference(1), targets, connections=MANY)
        measure(report, told, "32 rows", trees.open_inference(32), targets, connections=CONNECTIONS)
        for each, target in targets.items():
            report.add(f"memory after it, {each}", "MB", [target.memory_mb()])
            report.add(f"started, first answer, {each}", "s", [target.first_s])
    report.show(told)


if __name__ == "__main__":
    main()
