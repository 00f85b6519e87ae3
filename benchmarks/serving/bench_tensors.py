"""Binary tensors over HTTP and raw tensors over gRPC to one worker on one core, each beside the same transport with the bare model."""

import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Options, Report, in_turns, options
from benchmarks.serving import grpc_client, trees
from benchmarks.serving.bench_oip import CONNECTIONS, FLOOR, HERE, OURS, script
from tests.services import Ready, free_port, running
from tests.serving.plant import Plant

from tidemill.core.codec import encode
from tidemill.serving.config import VariantConfig, read_states
from tidemill.store.trees import put_tree

Ask = Callable[[float], tuple[float, ...]]


def binary(count: int) -> tuple[bytes, dict[str, str]]:
    """Return the body of a request with binary tensors both ways, and its headers."""
    data = trees.rows(count).tobytes()
    tensor = {"name": "x", "shape": [count, len(trees.COLUMNS)], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "score", "parameters": {"binary_data": True}}]}).encode()
    return head + data, {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}


def by_http(port: int, path: str, count: int) -> list[float]:
    """Return the scores of one request with binary tensors."""
    body, headers = binary(count)
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers), timeout=30) as answer:
        raw = answer.read()[int(answer.headers["inference-header-content-length"]) :]
    return np.frombuffer(raw, "<f8").tolist()


@contextmanager
def worker(home: Path, model: bytes, output: str) -> Iterator[tuple[int, int]]:
    """Run one worker on the servers' core; yield its ports, HTTP and gRPC."""
    plant = Plant(home, grpc_port=0)
    bundle = put_tree(plant.objects, {"model.onnx": model, "model.json": encode(trees.spec(output))})
    plant.publish(plant.endpoint(VariantConfig(name="champion", model="trees", version=1, bundle=bundle), name="trees"))
    with plant.worker() as caller:
        subprocess.run(["taskset", "-a", "-p", "-c", trees.SERVER_CORE, str(caller.process.pid)], capture_output=True, check=False)
        grpc_port = read_states(plant.state)[0].grpc_port
        assert grpc_port is not None, "the plant was told to have one"
        yield caller.port, grpc_port


@contextmanager
def bare_grpc(model: Path) -> Iterator[int]:
    """Run the floor under gRPC on the servers' core; yield its port."""
    port = free_port()
    command = trees.on_core(trees.SERVER_CORE, [sys.executable, str(HERE / "grpc_bare.py"), str(model), str(port)])
    folder = model.parent / "grpc"
    folder.mkdir()
    with running(command, folder, ready=Ready(port)):
        yield port


def ask_grpc(port: int, count: int, for_s: float) -> tuple[float, ...]:
    """Ask over and over from the other core, in a process of its own."""
    command = [sys.executable, str(HERE / "grpc_client.py"), f"127.0.0.1:{port}", "trees", str(count), str(CONNECTIONS), str(for_s)]
    told = subprocess.run(trees.on_core(trees.CLIENT_CORE, command), capture_output=True, text=True, check=True).stdout
    return tuple(float(word.replace(",", "")) for word in told.replace("p50 ", "").replace("p99 ", "").split() if word[0].isdigit())


def measure(report: Report, told: Options, what: str, asks: dict[str, Ask]) -> None:
    """Load the servers in turns; add a line each for rate and p50."""
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in asks}

    def load(name: str) -> float:
        found[name].append(asks[name](0.2 if told.quick else 3.0))
        return 0.0

    in_turns(told.rounds(4), {name: partial(load, name) for name in asks})
    for place, (figure, unit) in enumerate((("requests", "req/s"), ("p50", "ms"))):
        for name, values in found.items():
            against = f"{what}, {FLOOR}, {figure}" if name != FLOOR else None
            report.add(f"{what}, {name}, {figure}", unit, [value[place] for value in values], against=against)


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    report = Report(
        "tensors",
        f"one server process on one core, {CONNECTIONS} connections from the other: wrk for HTTP, frames by hand for gRPC; 200 trees of "
        f"LightGBM over {len(trees.COLUMNS)} numbers in ONNX Runtime; ours checks, routes, gives ids, journals, counts; the floor does not",
        ("onnxruntime", "uvloop", "grpcio"),
    )
    model, output = trees.model(trees=told.size(200, 5))
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        file = folder / "model.onnx"
        file.write_bytes(model)
        floor = stack.enter_context(script("bare.py", "/", file))
        floor_grpc = stack.enter_context(bare_grpc(file))
        http_port, grpc_port = stack.enter_context(worker(folder / "home", model, output))
        places = {FLOOR: (floor.port, "/"), OURS: (http_port, "/v2/models/trees/infer")}
        for count in (1, 32):
            rows = f"{count} row{'s' if count > 1 else ''}"
            expected = by_http(*places[FLOOR], count)
            assert np.allclose(by_http(*places[OURS], count), expected), "the servers do not answer alike over HTTP"
            body, headers = binary(count)
            asks: dict[str, Ask] = {each: partial(_wrk, port, path, body, headers) for each, (port, path) in places.items()}
            measure(report, told, f"binary tensors, {rows}", asks)
            call = grpc_client.call_of("ModelInfer", grpc_client.infer("trees", count))
            for port in (floor_grpc, grpc_port):
                assert np.allclose(grpc_client.once(("127.0.0.1", port), *call), expected), "the servers do not answer alike over gRPC"
            measure(report, told, f"gRPC, {rows}", {FLOOR: partial(ask_grpc, floor_grpc, count), OURS: partial(ask_grpc, grpc_port, count)})
    report.show(told)


def _wrk(port: int, path: str, body: bytes, headers: dict[str, str], for_s: float) -> tuple[float, ...]:
    return trees.ask(port, path, body, connections=CONNECTIONS, for_s=for_s, headers=headers)


if __name__ == "__main__":
    main()
