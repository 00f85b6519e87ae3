"""One worker on one core and two on two: how the data plane grows with its cores."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Options, Report, in_turns, options
from benchmarks.serving import trees
from tests.serving.plant import Plant

from tidemill.core.clock import wait_until
from tidemill.core.codec import encode
from tidemill.serving.config import VariantConfig, read_states
from tidemill.store.trees import put_tree

CONNECTIONS = 16
PATH = "/v2/models/trees/infer"


@contextmanager
def workers(home: Path, model: bytes, output: str, count: int) -> Iterator[int]:
    """Run workers on one port, each on a core of its own; yield the port."""
    plant = Plant(home, serve_workers=count)
    bundle = put_tree(plant.objects, {"model.onnx": model, "model.json": encode(trees.spec(output))})
    plant.publish(plant.endpoint(VariantConfig(name="champion", model="trees", version=1, bundle=bundle), name="trees"))
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        for index in range(count):
            caller = stack.enter_context(plant.worker(index=index, listener=listener))
            for thread in Path(f"/proc/{caller.process.pid}/task").iterdir() if hasattr(os, "sched_setaffinity") else ():
                os.sched_setaffinity(int(thread.name), {index})
        yield listener.getsockname()[1]


def memory_mb(home: Path, models: list[tuple[bytes, str]], *, count: int) -> dict[str, float]:
    """Return what so many workers take with so many models, each by itself and forked by one parent: the sum of PSS, which counts a page
    that several share once.
    """
    plant, found = Plant(home), {}
    (plant.state / "logs").mkdir(parents=True, exist_ok=True)
    endpoints = []
    for number, (model, output) in enumerate(models):
        bundle = put_tree(plant.objects, {"model.onnx": model, "model.json": encode(trees.spec(output))})
        endpoints.append(plant.endpoint(VariantConfig(name="champion", model=f"m{number}", version=1, bundle=bundle), name=f"m{number}"))
    plant.publish(*endpoints)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        callers = [stack.enter_context(plant.worker(index=index, listener=listener)) for index in range(count)]
        found["by themselves"] = _pss_mb([caller.process.pid for caller in callers])
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        fd = listener.fileno()
        command = [sys.executable, "-m", "tidemill.serving.nursery", "--home", str(home), "--workers", str(count), "--fd", str(fd)]
        parent = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(fd,))
        try:
            assert wait_until(lambda: len(read_states(plant.state)) == count, timeout_s=120)
            found["forked, their parent included"] = _pss_mb([parent.pid, *(state.pid for state in read_states(plant.state).values())])
        finally:
            parent.communicate()
    return found


def _pss_mb(pids: list[int]) -> float:
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")]
    return sum(int(line.split()[1]) for line in lines) / 1e3


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
        if Path("/proc/self/smaps_rollup").exists():
            models = [trees.model(trees=told.size(200, 5) + number) for number in range(told.size(50, 2))]
            for count in (2, 4)[: told.size(2, 1)]:
                taken = memory_mb(Path(name) / f"memory-{count}", models, count=count)
                first, *_ = taken
                for how, size_mb in taken.items():
                    what = f"memory of {count} workers with {len(models)} models"
                    report.add(f"{what}, {how}", "MB", [size_mb], against=f"{what}, {first}" if how != first else None)
    report.note("with 1 row the load itself takes about half a core, which two workers on two cores do not have")
    report.show(told)


if __name__ == "__main__":
    main()
