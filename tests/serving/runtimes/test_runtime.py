"""Every runtime keeps the law, and what only one of them can do."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.serving.plant import PYTHON, example_onnx, onnx_spec, python_spec
from tidemill.core.errors import Invalid
from tidemill.core.signature import Column, ModelSpec, Signature
from tidemill.core.values import replace
from tidemill.serving.runtimes.conformance import RuntimeConformance
from tidemill.serving.runtimes.runtime import ModelFailed, load_runtime

NUMPY = """
import numpy as np

def predict(columns):
    a, b = columns["a"], columns["b"]
    score = np.where(np.isnan(a), 0.5, np.clip(0.1 * a + 0.01 * b, 0, 1))
    return np.where(b == 99, np.nan, score)
"""


class TestOnnx(RuntimeConformance):
    width = 1

    @pytest.fixture
    def spec(self) -> ModelSpec:
        return onnx_spec()

    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(example_onnx())
        return folder

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"tensors": {"y": ("a", "b")}}, "takes the tensors x, its model.json fills y"),
            ({"tensors": {"x": ("a",)}}, "model.json fills it with 1 columns"),
            ({"output": "probability"}, r"no output 'probability' \(it has: score\)"),
        ],
    )
    def test_a_spec_that_does_not_fit_the_file_is_refused_when_loaded(self, bundle: Path, spec: ModelSpec, change, says: str) -> None:
        with pytest.raises(Invalid, match=says):
            load_runtime(bundle, replace(spec, **change), trusted=["onnx"], model="example@1")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"kind": "long"}, "its output 'again' is of type float32; its spec declares long"),
            ({"kind": "string"}, "its output 'again' holds what is no text"),
            ({"width": None}, r"its output 'again' has the shape \[1, 1\]; its spec declares \[1\]"),
        ],
    )
    def test_an_output_of_another_kind_is_a_failure(self, bundle: Path, beside: ModelSpec, change, says: str) -> None:
        runtime = load_runtime(bundle, replace(beside, others=(replace(beside.others[0], **change),)), trusted=["onnx"], model="example@1")
        with pytest.raises(ModelFailed, match=says):
            runtime.answer({"a": [1.0], "b": [1]}, 1)

    def test_an_output_column_that_is_not_there_is_a_failure(self, bundle: Path, spec: ModelSpec) -> None:
        runtime = load_runtime(bundle, replace(spec, output_index=1), trusted=["onnx"], model="example@1")
        with pytest.raises(ModelFailed, match="has 1 columns, none at 1"):
            runtime.run({"a": [1.0], "b": [1]}, 1)


@pytest.mark.slow
class TestPython(RuntimeConformance):
    @pytest.fixture
    def spec(self) -> ModelSpec:
        return python_spec()

    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir()
        (folder / "model.py").write_text(NUMPY)
        return folder

    def test_a_function_that_raises_is_a_failure(self, tmp_path: Path, spec: ModelSpec) -> None:
        (tmp_path / "model.py").write_text(PYTHON.format(body="raise KeyError('no such carrier')"))
        runtime = load_runtime(tmp_path, spec, trusted=["python"], model="example@1")
        with pytest.raises(ModelFailed, match="KeyError: 'no such carrier'; the request is fine"):
            runtime.run({"a": [1.0], "b": [1]}, 1)

    def test_a_wrong_number_of_scores_is_a_failure(self, tmp_path: Path, spec: ModelSpec) -> None:
        (tmp_path / "model.py").write_text(PYTHON.format(body="return [0.1]"))
        runtime = load_runtime(tmp_path, spec, trusted=["python"], model="example@1")
        with pytest.raises(ModelFailed, match=r"an answer of shape \(1,\) for 2 rows"):
            runtime.run({"a": [1.0, 2.0], "b": [1, 2]}, 2)

    def test_a_function_of_an_installed_module_may_be_named(self, tmp_path: Path, spec: ModelSpec) -> None:
        runtime = load_runtime(tmp_path, replace(spec, file="tests.serving.runtimes.test_runtime:zeros"), trusted=["python"], model="m@1")
        assert runtime.run({"a": [1.0], "b": [1]}, 1).tolist() == [0.0]

    @pytest.mark.parametrize(("file", "says"), [("model.py", "expected FILE.py:FUNCTION"), ("json:nothing", "cannot be loaded")])
    def test_a_name_that_is_no_function_is_refused(self, tmp_path: Path, spec: ModelSpec, file: str, says: str) -> None:
        with pytest.raises(Invalid, match=says):
            load_runtime(tmp_path, replace(spec, file=file), trusted=["python"], model="m@1")


def zeros(columns):
    return np.zeros(len(columns["a"]))


def test_text_whole_numbers_and_truth_have_tensors_of_their_own(tmp_path: Path) -> None:
    kinds = {"text": TensorProto.STRING, "whole": TensorProto.INT64, "truth": TensorProto.BOOL}
    nodes = [
        helper.make_node("Identity", ["text"], ["same"]),
        helper.make_node("Cast", ["whole"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["truth"], ["bit"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "bit"], ["score"]),
    ]
    inputs = [helper.make_tensor_value_info(name, kind, ["n"] if name == "text" else ["n", 1]) for name, kind in kinds.items()]
    outputs = [
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1]),
        helper.make_tensor_value_info("same", TensorProto.STRING, ["n"]),
    ]
    graph = helper.make_graph(nodes, "kinds", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    columns = (Column(name="t", kind="string"), Column(name="w", kind="long"), Column(name="b", kind="boolean"))
    spec = ModelSpec(
        runtime="onnx", file="model.onnx", signature=Signature(inputs=columns, outputs=()), output="score",
        tensors={"text": ("t",), "whole": ("w",), "truth": ("b",)},
    )  # fmt: skip
    runtime = load_runtime(tmp_path, spec, trusted=["onnx"], model="kinds@1")
    assert runtime.run({"t": ["x", None], "w": [3, 4], "b": [True, False]}, 2).tolist() == [3.0, 0.0]
    with pytest.raises(ModelFailed, match="column 'w' does not fit its tensor of int64"):
        runtime.run({"t": ["x"], "w": [None], "b": [True]}, 1)
    with pytest.raises(ModelFailed, match="missing value has no place"):
        runtime.run({"t": ["x"], "w": np.array([np.nan]), "b": [True]}, 1)
