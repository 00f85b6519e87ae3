"""Predictions over HTTP by one worker, beside a server written by hand on Starlette and uvicorn, and beside the bare model."""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.flights import FEATURES, NOW, fill, read_plan, rows
from benchmarks.measure import Options, Report, in_turns, options, seconds
from benchmarks.serving.client import drive, once, request
from tests.services import Ready, free_port, running
from tests.serving.plant import Plant

from tidemill.core.codec import encode
from tidemill.core.signature import Column, ModelSpec, Signature
from tidemill.features.online import FeatureReader, ReadPlan
from tidemill.serving.config import EndpointConfig
from tidemill.store.table import open_online
from tidemill.store.trees import put_tree

CONNECTIONS, HIDDEN = 8, 32
PLAIN = tuple(f"f{number}" for number in range(12))
BY_HAND, OURS = "by hand (Starlette, uvicorn)", "tidemill"


def network(inputs: int) -> bytes:
    """Return a network of one hidden layer in ONNX; what is missing counts as nought."""
    random = np.random.default_rng(1)
    weights = {"w1": random.normal(0, 0.05, (inputs, HIDDEN)), "w2": random.normal(0, 0.3, (HIDDEN, 1)), "nought": np.zeros(1)}
    nodes = [
        helper.make_node("IsNaN", ["x"], ["missing"]),
        helper.make_node("Where", ["missing", "nought", "x"], ["filled"]),
        helper.make_node("MatMul", ["filled", "w1"], ["linear"]),
        helper.make_node("Tanh", ["linear"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["out"]),
        helper.make_node("Sigmoid", ["out"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes, "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )  # fmt: skip
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    onnx.checker.check_model(onnx.load_from_string(made))
    return made


def spec(columns: tuple[str, ...], brought: tuple[str, ...]) -> ModelSpec:
    """Return what goes with a network of these columns, of which callers bring some."""
    signature = Signature(
        inputs=tuple(Column(name=name, kind="double", required=False) for name in columns), outputs=(Column(name="score", kind="double"),)
    )
    return ModelSpec(
        runtime="onnx", file="model.onnx", tensors={"x": columns}, output="score", threshold=0.5,
        signature=signature, request_columns=brought,
    )  # fmt: skip


def endpoint(plant: Plant, name: str, columns: tuple[str, ...], brought: tuple[str, ...], plan: ReadPlan | None = None) -> EndpointConfig:
    """Store a bundle and return an endpoint over it."""
    bundle = put_tree(plant.objects, {"model.onnx": network(len(columns)), "model.json": encode(spec(columns, brought))})
    variant = plant.variant()
    champion = type(variant)(name="champion", model=name, version=1, bundle=bundle)
    return plant.endpoint(champion, name=name, features=plan)


@contextmanager
def worker(home: Path, **settings: Any) -> Iterator[int]:
    """Run one worker with both endpoints; yield its port."""
    plant = Plant(home, **settings)
    online = open_online("lmdb:online", base=plant.state)
    fill(online)
    online.close()
    keys = ("origin", "carrier", "tailnum")
    generation = plant.publish(endpoint(plant, "plain", PLAIN, PLAIN), endpoint(plant, "flights", FEATURES, keys, read_plan()))
    with plant.worker() as caller:
        plant.wait(generation)
        yield caller.port


@contextmanager
def by_hand(folder: Path, columns: tuple[str, ...]) -> Iterator[int]:
    """Run the server written by hand; yield its port."""
    folder.mkdir()
    port = free_port()
    (folder / "model.onnx").write_bytes(network(len(columns)))
    script = Path(__file__).with_name("by_hand.py")
    with running([sys.executable, str(script), str(folder / "model.onnx"), str(port), ",".join(columns)], folder, ready=Ready(port)):
        yield port


def scores(body: bytes) -> list[float]:
    """Return the scores of an answer of either server."""
    return [prediction["score"] for prediction in json.loads(body)["predictions"]]


def body(asked: list[dict[str, Any]]) -> bytes:
    """Return a request's body."""
    return json.dumps({"rows": asked}).encode()


def measure(report: Report, told: Options, title: str, targets: dict[str, tuple[int, bytes]]) -> None:
    """Drive servers in turns and add three lines each. The first of targets is the peer."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in targets}

    def load(name: str) -> float:
        port, asked = targets[name]
        drive(port, asked, connections=CONNECTIONS, for_s=0.05 if told.quick else 0.3)  # warm
        found[name].append(drive(port, asked, connections=CONNECTIONS, for_s=0.1 if told.quick else 2.0))
        return 0.0

    in_turns(told.rounds(4), {name: lambda name=name: load(name) for name in targets})
    peer = next(iter(targets))
    for place, (what, unit) in enumerate((("requests", "req/s"), ("p50", "ms"), ("p99", "ms"))):
        for name, values in found.items():
            against = None if name == peer else f"{title}, {peer}, {what}"
            report.add(f"{title}, {name}, {what}", unit, [value[place] for value in values], against=against)


def bare(report: Report, told: Options, columns: tuple[str, ...], numbers: np.ndarray, name: str) -> list[float]:
    """Add what the model alone takes; return its scores."""
    session = onnxruntime.InferenceSession(network(len(columns)), providers=["CPUExecutionProvider"])
    calls = told.size(5000, 20)

    def run() -> list[float]:
        return session.run(["score"], {"x": numbers})[0][:, 0].tolist()

    spent = in_turns(told.rounds(4), {name: lambda: calls / seconds(lambda: [run() for _ in range(calls)])})
    report.add(name, "calls/s", spent[name])
    return run()


def same(*answers: list[float]) -> None:
    """All servers must answer alike before they are measured."""
    assert all(np.allclose(answer, answers[0], atol=1e-6) for answer in answers), "the servers do not answer alike"


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    report = Report(
        "serving",
        f"one server process and one client process, {CONNECTIONS} kept connections, each asks again once it is answered; "
        f"a network of {HIDDEN} hidden units in ONNX; 1 row of {len(PLAIN)} numbers, and 13 rows of {len(FEATURES)} features; "
        "ours checks rows and journals each prediction before it answers, the one by hand does neither",
        ("onnxruntime", "uvloop", "httptools", "starlette", "uvicorn"),
    )
    random = Random(1)
    one = [{name: random.uniform(-1, 1) for name in PLAIN}]
    departures = rows(13)
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        ours = stack.enter_context(worker(folder / "home"))
        flushed = stack.enter_context(worker(folder / "flushed", journal_sync="disk"))
        hand = stack.enter_context(by_hand(folder / "plain", PLAIN))
        wide = stack.enter_context(by_hand(folder / "wide", FEATURES))
        online = open_online("lmdb:online", base=folder / "home" / ".tidemill")
        looked_up = FeatureReader(read_plan(), online).read({key: [row[key] for row in departures] for key in departures[0]}, NOW)
        online.close()
        filled = [{key: float(np.nan_to_num(looked_up[key][place])) for key in FEATURES} for place in range(13)]

        ask_plain, ask_hand = request("/predict/plain", body(one)), request("/predict", body(one))
        numbers = np.array([[row[key] for key in PLAIN] for row in one], dtype=np.float32)
        alone = bare(report, told, PLAIN, numbers, "the bare model, 1 row")
        same(*(scores(once(port, asked)) for port, asked in ((ours, ask_plain), (flushed, ask_plain), (hand, ask_hand))), alone)
        targets: dict[str, tuple[int, bytes]] = {BY_HAND: (hand, ask_hand), OURS: (ours, ask_plain)}
        measure(report, told, "1 row", targets | {f"{OURS}, journal flushed to disk": (flushed, ask_plain)})

        at = {"rows": departures, "at": NOW.isoformat()}
        ask_flights, ask_wide = request("/predict/flights", json.dumps(at).encode()), request("/predict", body(filled))
        numbers = np.array([[row[key] for key in FEATURES] for row in filled], dtype=np.float32)
        alone = bare(report, told, FEATURES, numbers, "the bare model, 13 rows")
        same(scores(once(ours, ask_flights)), scores(once(wide, ask_wide)), alone)
        measure(
            report, told, "13 rows", {f"{BY_HAND}, features sent": (wide, ask_wide), f"{OURS}, features looked up": (ours, ask_flights)}
        )
    report.show(told)


if __name__ == "__main__":
    main()
