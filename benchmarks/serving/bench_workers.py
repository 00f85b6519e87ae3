"""One worker on one core and two on two: how the data plane grows with its cores."""

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Options, Report, in_turns, options
from benchmarks.serving import trees
from tests.serving.plant import Plant

from tidemill.core.codec import encode
from tidemill.serving.config import VariantConfig
from tidemill.store.trees import put_tree

CONNECTIONS = 16
PATH = "/v2/models/trees/infer"


@contextmanager
def workers(home: Path, model: bytes, output: str, count: int) -> Iterator[int]:
    """Run workers on one port, each on a core of its own; yield the port."""
    plant = Plant(home)
    bundle = put_tree(plant.objects, {"model.onnx": model, "model.json": encode(trees.spec(output))})
    plant.publish(plant.endpoint(VariantConfig(name="champion", model="trees", version=1, bundle=bundle), name="trees"))
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        for index in range(count):
            caller = stack.enter_context(plant.worker(index=index, listener=listener))
            for thread in Path(f"/proc/{caller.process.pid}/task").iterdir() if hasattr(os, "sched_setaffinity") else ():
                os.sched_setaffinity(int(thread.name), {index})
        yield listener.getsockname()[1]


def measure(report: Report, told: Options, what: str, body: bytes, ports: dict[int, int]) -> None:
    """Load one worker and two in turns."""
    found: dict[str, list[float]] = {f"{what}, {count} worker{'s' if count > 1 else ''}": [] for count in ports}

    def load(name: str, port: int) -> float:
        rate, *_ = trees.ask(port, PATH, body, connections=CONNECTIONS, for_s=0.1 if told.quick else 3.0)
        found[name].append(rate)
        return 0.0

    in_turns(
        told.rounds(4), {name: lambda name=name, port=port: load(name, port) for name, port in zip(found, ports.values(), strict=True)}
    )
    one, *_ = found
    for name, rates in found.items():
        report.add(name, "req/s", rates, against=one if name != one else None)


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    report = Report(
        "workers",
        "Open Inference requests to one worker on one core, and to two on two cores of the same port; wrk takes what it needs of the "
        "second core in both cases; 200 trees of LightGBM, journal, checks and routing on",
        ("onnxruntime", "uvloop"),
    )
    model, output = trees.model(trees=told.size(200, 5))
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name, ExitStack() as stack:
        ports = {count: stack.enter_context(workers(Path(name) / str(count), model, output, count)) for count in (1, 2)}
        for rows in (1, 32, told.size(512, 64)):
            measure(report, told, f"{rows} row{'s' if rows > 1 else ''}", trees.open_inference(rows), ports)
    report.note("with 1 row the load itself takes about half a core, which two workers on two cores do not have")
    report.show(told)


if __name__ == "__main__":
    main()
