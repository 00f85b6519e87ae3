"""What an MLmodel comes to when it is served; what has no form here is said."""

from typing import Any

import pytest

from tests.serving.plant import example_onnx, several_onnx
from tidemill.core.signature import ModelSpec, Output
from tidemill.registry.mlmodel import MLmodel, MLmodelSignature
from tidemill.registry.served import NoForm, served_spec

A, B = {"type": "double", "name": "a"}, {"type": "long", "name": "b", "required": False}
FUNCTION: dict[str, Any] = {"python_function": {"loader_module": "mlflow.sklearn", "predict_fn": "predict"}}


def tensor(*shape: int, dtype: str = "float32", **named: str) -> dict[str, Any]:
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}, **named}


def spec(flavors: dict[str, Any], *inputs: dict[str, Any], files: dict[str, bytes] | None = None) -> ModelSpec:
    return served_spec(MLmodel(flavors=flavors, signature=MLmodelSignature(inputs=inputs or (A, B))), (files or {}).__getitem__)


@pytest.mark.parametrize(
    ("flavors", "runtime", "file", "output"),
    [
        ({"lightgbm": {"data": "model.lgb"}}, "lightgbm", "model.lgb", "score"),
        ({"lightgbm": {"data": "model.pkl", "model_class": "lightgbm.sklearn.LGBMClassifier"}}, "mlflow", "MLmodel", "predict"),
        ({"xgboost": {"data": "model.ubj", "model_class": "xgboost.sklearn.XGBClassifier"}}, "xgboost", "model.ubj", "score"),
        ({"xgboost": {"data": "model.xgb"}}, "mlflow", "MLmodel", "predict"),
        ({"sklearn": {"pickled_model": "m.skops", "serialization_format": "skops"}}, "sklearn", "m.skops", "predict"),
        ({"sklearn": {"pickled_model": "m.pkl", "serialization_format": "cloudpickle"}}, "mlflow", "MLmodel", "predict"),
        ({"sklearn": {"pickled_model": "m.pkl"}}, "mlflow", "MLmodel", "predict"),
        ({"pytorch": {"model_data": "data"}}, "mlflow", "MLmodel", "predict"),
    ],
)
def test_data_goes_to_its_own_runtime_and_all_else_to_mlflow(flavors, runtime: str, file: str, output: str) -> None:
    found = spec({**FUNCTION, **flavors})
    assert (found.runtime, found.file, found.output) == (runtime, file, output)
    assert found.tensors == {"x": ("a", "b")}
    assert [(column.name, column.kind, column.required) for column in found.signature.inputs] == [
        ("a", "double", True),
        ("b", "long", False),
    ]


def test_a_tensor_has_columns_with_made_up_names() -> None:
    assert spec(FUNCTION, tensor(-1, 3)).tensors == {"x": ("x0", "x1", "x2")}
    assert spec(FUNCTION, tensor(-1, name="wind"), tensor(-1, 2, name="rest")).tensors == {"wind": ("wind",), "rest": ("rest0", "rest1")}


def test_onnx_is_fed_by_the_names_of_its_file() -> None:
    flavors = {**FUNCTION, "onnx": {"data": "model.onnx"}}
    found = spec(flavors, A, {"type": "double", "name": "b"}, files={"model.onnx": example_onnx()})
    assert (found.tensors, found.output) == ({"x": ("a", "b")}, "score")
    assert spec(flavors, tensor(-1, 2, name="x"), files={"model.onnx": example_onnx()}).tensors == {"x": ("x0", "x1")}


def said(*outputs: dict[str, Any], flavors: dict[str, Any] | None = None) -> ModelSpec:
    signature = MLmodelSignature(inputs=(A, B), outputs=outputs)
    return served_spec(MLmodel(flavors={**FUNCTION, **(flavors or {})}, signature=signature), {}.__getitem__)


def test_what_the_signature_says_beside_the_score_is_declared() -> None:
    frame = said({"type": "string", "name": "kind"}, {"type": "long", "name": "minutes"}, {"type": "double", "name": "sure"})
    assert (frame.output, frame.score_name) == ("minutes", "minutes")
    assert frame.others == (Output(name="kind", kind="string"), Output(name="sure", kind="double"))
    arrays = said(tensor(-1, 3, name="told", dtype="float64"), tensor(-1, name="best", dtype="int64"))
    assert (arrays.output, arrays.score_name) == ("best", "best")
    assert arrays.others == (Output(name="told", kind="double", width=3),)
    wide = said(tensor(-1, 3, name="told"), tensor(-1, 2, name="rest"))
    assert (wide.output, wide.score_name, [each.name for each in wide.others]) == ("told", "score", ["told", "rest"])
    assert said(tensor(-1, 3)).others == (Output(name="predictions", kind="float", width=3, source="predict"),)
    for alone in (tensor(-1), tensor(-1, 1), tensor(-1, 28, 28), {"type": "double"}, {"type": "double", "name": "y"}):
        assert (said(alone).others, said(alone).score_name) == ((), "score")


def test_an_estimator_of_text_tells_a_probability_and_its_label() -> None:
    flavor = {"sklearn": {"pickled_model": "m.skops", "serialization_format": "skops"}}
    found = said({"type": "string"}, flavors=flavor)
    assert (found.output, found.output_index) == ("predict_proba", 1)
    assert found.others == (Output(name="label", kind="string", source="predict"),)


def test_every_output_of_an_onnx_file_is_declared() -> None:
    flavors = {**FUNCTION, "onnx": {"data": "m.onnx"}}
    found = spec(flavors, A, {"type": "double", "name": "b"}, files={"m.onnx": several_onnx()})
    assert (found.output, found.output_index) == ("probabilities", 1)
    assert [(each.asked, each.kind, each.width) for each in found.others] == [
        ("label", "string", None), ("probabilities", "float", 3), ("best", "long", None), ("certain", "boolean", 1),
    ]  # fmt: skip
    assert spec(flavors, A, {"type": "double", "name": "b"}, files={"m.onnx": example_onnx()}).others == ()


@pytest.mark.parametrize(
    ("flavors", "inputs", "says"),
    [
        ({"spacy": {}}, (A,), r"it has no flavor python_function \(it has: spacy\)"),
        (FUNCTION, ({"type": "datetime", "name": "t"},), "its column 't' is of type datetime; only numbers, text and booleans"),
        (FUNCTION, (tensor(-1, 28, 28),), r"its tensor 'x' is float32 of shape \[-1, 28, 28\]; only rows of so many"),
        (FUNCTION, (tensor(-1, -1),), r"its tensor 'x' is float32 of shape \[-1, -1\]"),
        (FUNCTION, (tensor(-1, 2, dtype="complex64"),), "its tensor 'x' is complex64"),
        ({"onnx": {"data": "m.onnx"}}, (A,), "its ONNX file cannot be run"),
    ],
)
def test_what_has_no_form_here_is_said(flavors, inputs, says: str) -> None:
    with pytest.raises(NoForm, match=says):
        spec(flavors, *inputs, files={"m.onnx": b"no"})


def test_a_model_without_a_signature_is_refused() -> None:
    with pytest.raises(NoForm, match="its MLmodel has no signature"):
        served_spec(MLmodel(flavors=FUNCTION), {}.__getitem__)
