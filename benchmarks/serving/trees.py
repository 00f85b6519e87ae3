"""The workload of the serving benchmarks: 200 trees of LightGBM over 30 numbers in ONNX, and requests for it."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.serving.client import drive, request

from tidemill.core.signature import Column, ModelSpec, Signature

COLUMNS = tuple(f"f{number}" for number in range(30))
SERVER_CORE, CLIENT_CORE = "0", "1"


def model(*, trees: int = 200) -> tuple[bytes, str]:
    """Return the model file and the name of its output."""
    import lightgbm
    import onnx
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    rows, target = examples()
    options = {"objective": "regression", "num_leaves": 31, "verbose": -1, "num_threads": 1, "deterministic": True}
    booster = lightgbm.train(options, lightgbm.Dataset(rows, target), trees)
    converted: onnx.ModelProto = convert_lightgbm(booster, initial_types=[("x", FloatTensorType([None, len(COLUMNS)]))], target_opset=15)
    return converted.SerializeToString(), converted.graph.output[0].name


def sklearn_model(*, trees: int = 200) -> Any:
    """Return a model of as many trees of scikit-learn's own, of the same rows."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(max_iter=trees, max_leaf_nodes=31, early_stopping=False).fit(*examples())


def examples() -> tuple[np.ndarray, np.ndarray]:
    """Return rows to learn from, and what came true of them."""
    random = np.random.default_rng(1)
    rows = random.normal(size=(5000, len(COLUMNS))).astype(np.float32)
    return rows, rows[:, 0] + rows[:, 1] * rows[:, 2] + random.normal(size=len(rows))


def spec(output: str) -> ModelSpec:
    """Return what goes with the model file."""
    signature = Signature(
        inputs=tuple(Column(name=name, kind="double") for name in COLUMNS), outputs=(Column(name="score", kind="double"),)
    )
    return ModelSpec(
        runtime="onnx", file="model.onnx", signature=signature, tensors={"x": COLUMNS}, output=output, request_columns=COLUMNS
    )  # fmt: skip


def rows(count: int) -> np.ndarray:
    """Return rows to ask about, float32 [count, 30]."""
    return np.random.default_rng(2).normal(size=(count, len(COLUMNS))).astype(np.float32)


def open_inference(count: int) -> bytes:
    """Return the JSON of an Open Inference request."""
    values = [float(f"{value:.6g}") for value in rows(count).ravel()]
    return json.dumps({"inputs": [{"name": "x", "shape": [count, len(COLUMNS)], "datatype": "FP32", "data": values}]}).encode()


def on_core(core: str, command: list[str]) -> list[str]:
    """Return a command that keeps to one core, where that can be had."""
    return ["taskset", "-c", core, *command] if shutil.which("taskset") else command


def ask(port: int, path: str, body: bytes, *, connections: int, for_s: float, headers: dict[str, str] | None = None) -> tuple[float, ...]:
    """Ask over and over from the other core; return requests a second, and p50 and p99 in milliseconds.

    By wrk where it is installed: a client in Python would be the slower side of the two.
    """
    if shutil.which("wrk") is None:
        return drive(port, request(path, body), connections=connections, for_s=for_s)
    with tempfile.TemporaryDirectory() as name:
        place, script = Path(name) / "body", Path(name) / "ask.lua"
        place.write_bytes(body)
        told = "".join(
            f'wrk.headers["{key}"] = "{value}"\n' for key, value in ({"Content-Type": "application/json"} | (headers or {})).items()
        )
        script.write_text(f'wrk.method = "POST"\n{told}wrk.body = io.open("{place}", "rb"):read("*a")\n')
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(for_s))}s", "--latency", "-s", str(script)]
        done = subprocess.run(
            on_core(CLIENT_CORE, [*command, f"http://127.0.0.1:{port}{path}"]), capture_output=True, text=True, check=True
        )
    if "Non-2xx" in done.stdout:
        raise SystemExit(f"the server refused: {done.stdout}")
    found = {
        name: re.search(pattern, done.stdout)
        for name, pattern in (("rate", r"Requests/sec: *([\d.]+)"), ("p50", r"50% +(\S+)"), ("p99", r"99% +(\S+)"))
    }
    return float(_of(found["rate"])), _ms(_of(found["p50"])), _ms(_of(found["p99"]))


def _of(match: re.Match[str] | None) -> str:
    if match is None:
        sys.exit("wrk said something that is not understood")
    return match[1]


def _ms(text: str) -> float:
    number = re.match(r"([\d.]+)(us|ms|s)", text)
    assert number is not None, text
    return float(number[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[number[2]]
