"""A data plane for tests: bundles with small real models, configs, and real worker processes on free ports."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.services import end
from tidemill.core.clock import wait_until
from tidemill.core.codec import encode
from tidemill.core.ids import Digest
from tidemill.core.signature import Column, ModelSpec, Output, Signature
from tidemill.core.values import replace
from tidemill.features.online import ViewPlan
from tidemill.features.views import Aggregation, Feature, FeatureView
from tidemill.serving.config import (
    EndpointConfig,
    RoutePolicy,
    ServingConfig,
    VariantConfig,
    WorkerState,
    read_states,
    save,
)
from tidemill.serving.runtimes.conformance import example_spec
from tidemill.store.table import open_store
from tidemill.store.trees import put_tree

NOW = datetime(2013, 6, 1, 12, tzinfo=UTC)
PYTHON = "from time import sleep\n\ndef predict(columns):\n    {body}\n"


def example_onnx(*, offset: float = 0.0) -> bytes:
    """Return the example model of the runtimes' suite: clip(0.1 a + 0.01 b + offset, 0, 1); 0.5 where a is missing; NaN where b is 99."""
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["linear"]),
        helper.make_node("Add", ["linear", "offset"], ["moved"]),
        helper.make_node("Clip", ["moved", "zero", "one"], ["clipped"]),
        helper.make_node("IsNaN", ["moved"], ["missing"]),
        helper.make_node("Where", ["missing", "half", "clipped"], ["filled"]),
        helper.make_node("Gather", ["x", "second"], ["b"], axis=1),
        helper.make_node("Equal", ["b", "cursed"], ["broken"]),
        helper.make_node("Where", ["broken", "nan", "filled"], ["score"]),
    ]
    floats = {"offset": [offset], "half": [0.5], "cursed": [99.0], "nan": [np.nan]}
    constants = [numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in floats.items()]
    constants += [numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in (("zero", 0.0), ("one", 1.0))]
    constants.append(numpy_helper.from_array(np.array([[0.1], [0.01]], dtype=np.float32), "weights"))
    constants.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "second"))
    graph = helper.make_graph(
        nodes, "example",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


WEIGHTS = [[1.0, 0.0, -1.0], [0.0, 0.5, 0.1]]
KINDS_TOLD = ("calm", "windy", "storm")
SEVERAL = (
    Output(name="label", kind="string"),
    Output(name="probabilities", kind="float", width=3),
    Output(name="best", kind="long"),
    Output(name="sure", kind="boolean", width=1, source="certain"),
)


def several_onnx() -> bytes:
    """Return a model that tells one of three kinds of weather: softmax of [a, b] by WEIGHTS, the likeliest as number and text, if it is."""
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["told"]),
        helper.make_node("Softmax", ["told"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["told"], ["best"], axis=1, keepdims=0),
        helper.make_node("Gather", ["names", "best"], ["label"], axis=0),
        helper.make_node("ReduceMax", ["probabilities"], ["most"], axes=[1], keepdims=1),
        helper.make_node("Greater", ["most", "half"], ["certain"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(WEIGHTS, dtype=np.float32), "weights"),
        numpy_helper.from_array(np.array(0.5, dtype=np.float32), "half"),
        helper.make_tensor("names", TensorProto.STRING, [3], [name.encode() for name in KINDS_TOLD]),
    ]
    graph = helper.make_graph(
        nodes, "several",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [
            helper.make_tensor_value_info("label", TensorProto.STRING, ["n"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("best", TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("certain", TensorProto.BOOL, ["n", 1]),
        ],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def several_spec(*others: Output, threshold: float | None = None) -> ModelSpec:
    """Return the spec of that model: the score is how likely it is windy."""
    spec = replace(onnx_spec(), output="probabilities", output_index=1, threshold=threshold)
    return replace(spec, others=others or SEVERAL)


def onnx_spec() -> ModelSpec:
    return example_spec("onnx", "model.onnx")


def python_spec(*, inputs: tuple[Column, ...] | None = None) -> ModelSpec:
    spec = example_spec("python", "model.py:predict")
    if inputs is None:
        return spec
    names = tuple(column.name for column in inputs)
    return replace(spec, signature=Signature(inputs=inputs, outputs=spec.signature.outputs), tensors={"x": names}, request_columns=())


def landed_view(*, name: str = "landed", project: str = "default", column: str = "delay") -> ViewPlan:
    """Return a view of two features by carrier: flights and mean delay (or another column) of the last two hours."""
    view = FeatureView(
        name=name, entity=("carrier",), source="flights", event_timestamp="landed_at", event_key="flight",
        features=(
            Feature(name="flights_2h", aggregation=Aggregation(function="count", window=timedelta(hours=2))),
            Feature(name="delay_2h", aggregation=Aggregation(function="mean", column=column, window=timedelta(hours=2))),
        ),
    )  # fmt: skip
    return ViewPlan(
        project=project,
        view=view,
        version=1,
        namespace=f"{project}/{name}/1",
        key_kinds=("string",),
        event_key_kind="string",
        wanted=("flights_2h", "delay_2h"),
    )


class Plant:
    """A home with a data plane."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home, self.state = home, home / ".tidemill"
        self.state.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        (home / "tidemill.toml").write_text(f"[settings]\n{lines}")
        self.objects = open_store("file:objects", cache=home / "cache", base=self.state)
        self.generation = 0

    def bundle(self, *, spec: ModelSpec | None = None, offset: float = 0.0, body: str | None = None) -> Digest:
        """Store a bundle: the example in ONNX, or a Python function of that body."""
        if body is not None:
            spec = spec or python_spec()
            files = {"model.py": PYTHON.format(body=body).encode()}
        else:
            spec = spec or onnx_spec()
            files = {"model.onnx": several_onnx() if spec.others else example_onnx(offset=offset)}
        return put_tree(self.objects, {**files, "model.json": encode(spec)})

    def variant(self, name: str = "champion", *, version: int = 1, **bundle: Any) -> VariantConfig:
        return VariantConfig(name=name, model="example", version=version, bundle=self.bundle(**bundle))

    def endpoint(
        self, *variants: VariantConfig, name: str = "delay", shares: dict[str, float] | None = None, **more: Any
    ) -> EndpointConfig:
        variants = variants or (self.variant(),)
        route = RoutePolicy(shares=shares or {variants[0].name: 1.0}, sticky_by=more.pop("sticky_by", None))
        return EndpointConfig(name=name, variants=variants, route=route, **more)

    def publish(self, *endpoints: EndpointConfig, **more: Any) -> int:
        self.generation += 1
        save(self.state, ServingConfig(generation=self.generation, published_at=NOW, endpoints=endpoints, **more))
        return self.generation

    def wait(self, generation: int, *, index: int = 0) -> WorkerState:
        """Wait until a worker serves a generation."""
        seen: list[WorkerState] = []

        def there() -> bool:
            state = read_states(self.state).get(index)
            if state is not None and state.generation >= generation:
                seen.append(state)
            return bool(seen)

        assert wait_until(there, timeout_s=20), f"no worker follows generation {generation}: {read_states(self.state)}"
        return seen[-1]

    @contextmanager
    def worker(self, *, index: int = 0, listener: socket.socket | None = None, ready: bool = True):
        """Run a worker process; yield a `Caller` of it."""
        command = [sys.executable, "-m", "tidemill.serving.worker", "--home", str(self.home), "--index", str(index)]
        fds: tuple[int, ...] = ()
        if listener is not None:
            command += ["--fd", str(listener.fileno())]
            fds = (listener.fileno(),)
        else:
            command += ["--host", "127.0.0.1", "--port", "0"]
        log = self.home / f"worker-{index}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, pass_fds=fds)
        try:
            alive = wait_until(lambda: process.poll() is not None or self._mine(index, process.pid), timeout_s=20)
            assert alive, log.read_text()
            assert process.poll() is None, log.read_text()
            state = read_states(self.state)[index]
            assert state.ready or not ready, log.read_text()
            caller = Caller(state.port, process, log)
            try:
                yield caller
            finally:
                caller.close()
        finally:
            end(process)

    def _mine(self, index: int, pid: int) -> bool:
        state = read_states(self.state).get(index)
        return state is not None and state.pid == pid


class Answer:
    """An HTTP answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """Calls one worker over a kept connection."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port, self.process, self.log = port, process, log
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        self.send(method, path, body, headers)
        return self.receive()

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        self._connection.request(method, path, data, headers or {})

    def receive(self) -> Answer:
        answer = self._connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.call("POST", path, body, headers)

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def predict(self, *rows: dict[str, Any], endpoint: str = "delay", **more: Any) -> Any:
        answer = self.post(f"/predict/{endpoint}", {"rows": list(rows), **more})
        assert answer.status == 200, answer.body
        return answer.json()

    def close(self) -> None:
        self._connection.close()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def row(a: float | None = 1.0, b: int = 1) -> dict[str, Any]:
    return {"a": a, "b": b}


def now_s() -> float:
    return time.monotonic()
