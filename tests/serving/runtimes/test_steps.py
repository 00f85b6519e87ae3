"""A model with what stands before and behind it is one model."""

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.serving.plant import Plant, example_onnx
from tidemill.core.codec import encode
from tidemill.core.errors import Invalid
from tidemill.core.signature import Column, ModelSpec, Output, Signature, Step
from tidemill.core.values import replace
from tidemill.serving.block import Block
from tidemill.serving.runtimes.conformance import RuntimeConformance, example_spec
from tidemill.serving.runtimes.runtime import ModelFailed, Runtime, RuntimeRefused, load_runtime
from tidemill.store.trees import put_tree

CODE = """
import os
import numpy as np

def prepare(columns):
    return {"tenth": 0.1 * columns["a"], "rest": 0.01 * columns["b"], "b": columns["b"]}

def finish(columns):
    score = np.where(np.isnan(columns["tenth"]), 0.5, np.clip(columns["tenth"] + columns["rest"], 0, 1))
    return np.where(columns["b"] == 99, np.nan, score)

def minutes(columns):
    return {"a": [float(text.split(":")[0]) for text in columns["clock"]]}

def short(columns):
    return {"tenth": [1.0], "rest": 3}

def process(columns):
    return columns["score"] * 0 + os.getpid()
"""
PREPARE = Step(runtime="python", file="model.py:prepare", tensors={"x": ("a", "b")})
FINISH = Step(runtime="python", file="model.py:finish", tensors={"x": ("tenth", "rest", "b")})
MODEL = Step(runtime="onnx", file="model.onnx", tensors={"x": ("a", "b")}, output="score")


def halved() -> bytes:
    """Return ONNX that halves a score."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "half"], ["y"])],
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.array([0.5], np.float32), "half")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def steps_spec(*steps: Step, inputs: tuple[Column, ...] | None = None) -> ModelSpec:
    spec = example_spec("onnx", "model.py:prepare")
    if inputs is not None:
        names = tuple(column.name for column in inputs)
        spec = replace(spec, signature=Signature(inputs=inputs, outputs=()), tensors={"x": names}, request_columns=names)
    return replace(spec, runtime="steps", steps=steps)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.py").write_text(CODE)
    (folder / "model.onnx").write_bytes(example_onnx())
    (folder / "half.onnx").write_bytes(halved())
    return folder


@pytest.mark.slow
class TestSteps(RuntimeConformance):
    @pytest.fixture
    def bundle(self, bundle: Path) -> Path:
        return bundle

    @pytest.fixture
    def spec(self) -> ModelSpec:
        return steps_spec(PREPARE, FINISH)

    @pytest.fixture
    def runtime(self, bundle: Path, spec: ModelSpec) -> Runtime:
        return load_runtime(bundle, spec, trusted=["python"], model="example@1")

    @pytest.fixture
    def beside(self) -> ModelSpec:
        return replace(steps_spec(PREPARE, replace(FINISH, output="score")), others=(Output(name="again", kind="double", source="score"),))

    def test_a_missing_file_is_corrupt(self, bundle: Path, spec: ModelSpec, tmp_path: Path) -> None:
        super().test_a_missing_file_is_corrupt(bundle, replace(spec, runtime="python", file=PREPARE.file, steps=()), tmp_path)

    def test_a_file_that_is_no_model_is_refused_when_loaded(self, bundle: Path, spec: ModelSpec, tmp_path: Path) -> None:
        (tmp_path / "model.py").write_bytes(b"\x00not a model(")
        with pytest.raises(Invalid, match="example@1"):
            load_runtime(tmp_path, spec, trusted=["python"], model="example@1")

    def test_an_unknown_runtime_is_refused(self, bundle: Path, spec: ModelSpec) -> None:
        with pytest.raises(Invalid, match="model runtime 'abacus' is not known"):
            load_runtime(bundle, steps_spec(replace(PREPARE, runtime="abacus")), trusted=["abacus"], model="example@1")


def test_onnx_before_and_behind_a_model_runs_in_the_worker(bundle: Path) -> None:
    half = Step(runtime="onnx", file="half.onnx", tensors={"x": ("score",)}, output="y")
    runtime = load_runtime(bundle, steps_spec(MODEL, half), trusted=["onnx"], model="example@1")
    np.testing.assert_allclose(runtime.run({"a": [1.0, 30.0], "b": [1, 3]}, 2), [0.055, 0.5], rtol=1e-6)
    np.testing.assert_allclose(runtime.run(Block(("a", "b"), np.array([[1, 1]], np.float32)), 1), [0.055], rtol=1e-6)
    halves = Step(runtime="onnx", file="half.onnx", tensors={"x": ("a",)}, output="y", gives="a")
    runtime = load_runtime(bundle, steps_spec(halves, MODEL), trusted=["onnx"], model="example@1")
    np.testing.assert_allclose(runtime.run({"a": [2.0], "b": [1]}, 1), [0.11], rtol=1e-6)


@pytest.mark.slow
def test_text_becomes_numbers_before_the_model(bundle: Path) -> None:
    inputs = (Column(name="clock", kind="string"), Column(name="b", kind="long"))
    minutes = Step(runtime="python", file="model.py:minutes", tensors={"x": ("clock",)})
    runtime = load_runtime(bundle, steps_spec(minutes, MODEL, inputs=inputs), trusted=["onnx", "python"], model="example@1")
    np.testing.assert_allclose(runtime.run({"clock": ["1:30", "2:00"], "b": [1, 2]}, 2), [0.11, 0.22], rtol=1e-6)


@pytest.mark.slow
def test_every_step_has_to_be_trusted_and_code_puts_all_into_a_process(bundle: Path) -> None:
    process = Step(runtime="python", file="model.py:process", tensors={"x": ("score",)})
    with pytest.raises(RuntimeRefused, match="models of runtime 'python'"):
        load_runtime(bundle, steps_spec(MODEL, process), trusted=["onnx", "steps"], model="example@1")
    runtime = load_runtime(bundle, steps_spec(MODEL, process), trusted=["onnx", "python"], model="example@1")
    assert runtime.run({"a": [1.0], "b": [1]}, 1)[0] not in (0, os.getpid())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ((FINISH, MODEL), r"its step model\.py:finish takes rest, tenth, which no step before it gives"),
        ((replace(PREPARE, file="model.py:short"), FINISH), "gave a column '(tenth|rest)' that is not one value for each of 2 rows"),
        ((PREPARE,), "TypeError"),
    ],
)
def test_steps_that_do_not_go_together_are_a_failure(bundle: Path, steps: tuple[Step, ...], says: str) -> None:
    runtime = load_runtime(bundle, steps_spec(*steps), trusted=["onnx", "python"], model="example@1")
    with pytest.raises(ModelFailed, match=says):
        runtime.run({"a": [1.0, 2.0], "b": [1, 2]}, 2)


def test_steps_belong_to_their_runtime() -> None:
    with pytest.raises(Invalid, match=r"the runtime 'onnx' and 1 steps; steps belong to the runtime 'steps'"):
        replace(example_spec("onnx", "model.onnx"), steps=(MODEL,))
    with pytest.raises(Invalid, match="the runtime 'steps' and 0 steps"):
        steps_spec()


@pytest.mark.slow
def test_a_worker_answers_with_all_steps(plant: Plant, bundle: Path) -> None:
    files = {path.name: path for path in bundle.iterdir()}
    spec = steps_spec(MODEL, Step(runtime="onnx", file="half.onnx", tensors={"x": ("score",)}, output="y"))
    variant = replace(plant.variant(), bundle=put_tree(plant.objects, {**files, "model.json": encode(spec)}))
    plant.publish(plant.endpoint(variant))
    with plant.worker() as caller:
        assert caller.predict({"a": 1.0, "b": 1})["predictions"][0]["score"] == pytest.approx(0.055)
