"""What the real MLflow logs is served: by its own runtime where its format is data, by MLflow itself in a process of its own else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.plant import Plant, example_onnx
from tests.serving.runtimes.native import lightgbm_text, xgboost_json
from tidemill.core.errors import Invalid
from tidemill.core.signature import ModelSpec
from tidemill.registry.served import NoForm
from tidemill.serving.config import VariantConfig
from tidemill.serving.runtimes.conformance import RuntimeConformance, example_spec
from tidemill.serving.runtimes.runtime import ModelFailed, Runtime, RuntimeRefused, load_runtime, read_spec
from tidemill.store.trees import put_tree

mlflow = pytest.importorskip("mlflow")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROWS = {"a": [1.0, 2.0, 30.0], "b": [1.0, 2.0, 3.0]}
SCORES = [0.11, 0.22, 1.0]
FUNCTION = """
import mlflow
import numpy as np

class Example(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        a, b = model_input["a"].to_numpy(float), model_input["b"].to_numpy(float)
        score = np.where(np.isnan(a), 0.5, np.clip(0.1 * a + 0.01 * b, 0, 1))
        return np.where(b == 99, np.nan, score)

mlflow.models.set_model(Example())
"""

FRAME = """
import mlflow
import pandas as pd

class Frame(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        a = model_input["a"]
        score = 0.1 * a + 0.01 * model_input["b"]
        return pd.DataFrame({"kind": ["many" if value > 10 else "few" for value in a], "score": score, "rank": range(1, len(a) + 1)})

mlflow.models.set_model(Frame())
"""


def signature(kind: str = "double"):
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(inputs=Schema([ColSpec("double", "a"), ColSpec(kind, "b")]), outputs=Schema([ColSpec("double")]))


def tensors(name: str | None = None, *, width: int = 2):
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    return ModelSignature(inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, width), name)]))


def served(folder: Path, *, trusted: tuple[str, ...] = ("lightgbm", "mlflow", "onnx", "sklearn", "xgboost")) -> tuple[ModelSpec, Runtime]:
    spec = read_spec(folder)
    return spec, load_runtime(folder, spec, trusted=trusted, model="theirs@1", deadline_s=60)


def save(flavor: str, folder: Path, **named) -> Path:
    named = {"pip_requirements": [flavor], **named}
    getattr(mlflow, flavor).save_model(path=str(folder / "model"), **named)
    return folder / "model"


def save_function(folder: Path, **named) -> Path:
    (folder / "code.py").write_text(FUNCTION)
    named = {"signature": signature(), **named}
    return save("pyfunc", folder, python_model=str(folder / "code.py"), pip_requirements=["numpy"], **named)


class TestMlflow(RuntimeConformance):
    @pytest.fixture
    def spec(self) -> ModelSpec:
        return example_spec("mlflow", "MLmodel")

    @pytest.fixture(scope="class")
    @classmethod
    def saved(cls, tmp_path_factory) -> Path:
        return save_function(tmp_path_factory.mktemp("theirs"))

    @pytest.fixture
    def bundle(self, saved: Path) -> Path:
        return saved

    @pytest.fixture(scope="class")
    @classmethod
    def started(cls, saved: Path) -> Runtime:
        """One process for all of them: MLflow takes seconds to import."""
        return load_runtime(saved, example_spec("mlflow", "MLmodel"), trusted=["mlflow"], model="example@1")

    @pytest.fixture
    def runtime(self, started: Runtime) -> Runtime:
        return started


def test_a_function_is_served_by_mlflow_where_it_is_trusted(tmp_path: Path) -> None:
    folder = save_function(tmp_path, signature=signature("long"))
    spec, runtime = served(folder)
    assert (spec.runtime, [(column.name, column.kind) for column in spec.signature.inputs]) == ("mlflow", [("a", "double"), ("b", "long")])
    np.testing.assert_allclose(runtime.run({"a": [1.0, 2.0, 30.0], "b": [1, 2, 3]}, 3), SCORES)
    with pytest.raises(RuntimeRefused, match="does not load models of runtime 'mlflow'"):
        served(folder, trusted=("onnx",))


def test_a_booster_of_lightgbm_is_served_by_lightgbm(tmp_path: Path) -> None:
    import lightgbm

    booster = lightgbm.Booster(model_str=lightgbm_text().decode())
    spec, runtime = served(save("lightgbm", tmp_path, lgb_model=booster, signature=signature()))
    assert (spec.runtime, spec.file) == ("lightgbm", "model.lgb")
    np.testing.assert_allclose(runtime.run(ROWS, 3), SCORES)


def test_a_booster_of_xgboost_is_served_by_xgboost(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    booster = xgboost.Booster()
    booster.load_model(bytearray(xgboost_json()))
    spec, runtime = served(save("xgboost", tmp_path, xgb_model=booster, signature=signature()))
    assert (spec.runtime, spec.file) == ("xgboost", "model.ubj")
    np.testing.assert_allclose(runtime.run(ROWS, 3), SCORES, rtol=1e-6)


@pytest.mark.parametrize("function", ["predict", "predict_proba"])
def test_an_estimator_in_the_skops_format_is_served_by_scikit_learn(tmp_path: Path, function: str) -> None:
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    rows = pd.DataFrame({"a": [0.0, 1, 2, 3], "b": [1.0, 0, 1, 0]})
    estimator = LogisticRegression().fit(rows, [0, 0, 1, 1])
    folder = save(
        "sklearn", tmp_path, sk_model=estimator, signature=signature(), pyfunc_predict_fn=function, serialization_format="skops"
    )  # fmt: skip
    spec, runtime = served(folder)
    assert (spec.runtime, spec.output) == ("sklearn", function)
    found = runtime.run(rows.to_dict("list"), 4)
    expected = getattr(estimator, function)(rows)
    np.testing.assert_allclose(found, expected[:, 1] if expected.ndim == 2 else expected)
    theirs = mlflow.pyfunc.load_model(str(folder)).predict(rows)
    np.testing.assert_allclose(found, theirs[:, 1] if theirs.ndim == 2 else theirs)


def test_a_pickle_is_served_by_mlflow_only(tmp_path: Path) -> None:
    from sklearn.linear_model import Ridge

    estimator = Ridge(alpha=0).fit(np.array([[0.0, 0], [1, 0], [0, 1]]), [0.0, 0.1, 0.01])
    folder = save("sklearn", tmp_path, sk_model=estimator, signature=tensors(), serialization_format="cloudpickle")
    spec, runtime = served(folder)
    assert (spec.runtime, [column.name for column in spec.signature.inputs]) == ("mlflow", ["x0", "x1"])
    np.testing.assert_allclose(runtime.run({"x0": [1.0, 2.0], "x1": [1.0, 2.0]}, 2), [0.11, 0.22], rtol=1e-6)


@pytest.mark.parametrize("named", [True, False])
def test_onnx_is_served_by_onnx_runtime(tmp_path: Path, named: bool) -> None:
    import onnx

    model = onnx.load_model_from_string(example_onnx())
    said = tensors("x") if named else signature()
    spec, runtime = served(save("onnx", tmp_path, onnx_model=model, signature=said, save_as_external_data=False))
    assert (spec.runtime, spec.output) == ("onnx", "score")
    columns = dict(zip(spec.tensors["x"], ROWS.values(), strict=True))
    np.testing.assert_allclose(runtime.run(columns, 3), SCORES, rtol=1e-6)


def test_pytorch_is_served_by_mlflow(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight[:], layer.bias[:] = torch.tensor([[0.1, 0.01]]), 0.0
    folder = save("pytorch", tmp_path, pytorch_model=layer, signature=tensors(), serialization_format="pickle")
    spec, runtime = served(folder)
    assert spec.runtime == "mlflow"
    np.testing.assert_allclose(runtime.run({"x0": [1.0, 2.0], "x1": [1.0, 2.0]}, 2), [0.11, 0.22], rtol=1e-5)


def save_frame(folder: Path) -> Path:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    (folder / "frame.py").write_text(FRAME)
    told = ModelSignature(
        inputs=signature().inputs, outputs=Schema([ColSpec("string", "kind"), ColSpec("double", "score"), ColSpec("long", "rank")])
    )
    return save("pyfunc", folder, python_model=str(folder / "frame.py"), pip_requirements=["numpy"], signature=told)


def test_a_frame_of_several_columns_is_answered(tmp_path: Path) -> None:
    spec, runtime = served(save_frame(tmp_path))
    assert [output.name for output in spec.others] == ["kind", "rank"]
    scores, (kind, rank) = runtime.answer(ROWS, 3)
    np.testing.assert_allclose(scores, [0.11, 0.22, 3.03])
    assert (kind.tolist(), rank.tolist()) == (["few", "few", "many"], [1, 2, 3])
    np.testing.assert_allclose(runtime.run(ROWS, 3), scores)


def test_a_model_that_raises_or_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    folder = save_function(tmp_path)
    _, runtime = served(folder)
    with pytest.raises(ModelFailed, match="its score of row 0 is not a finite number"):
        runtime.run({"a": [1.0], "b": [99.0]}, 1)
    for file in folder.glob("*.py"):
        file.write_text("raise RuntimeError('no')")
    with pytest.raises(Invalid, match=r"the MLflow model theirs@1 cannot be loaded: .*no"):
        served(folder)


def test_a_model_without_a_signature_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoForm, match="its MLmodel has no signature; log it with one"):
        served(save_function(tmp_path, signature=None))


def test_a_worker_answers_what_mlflow_s_own_server_answers(make_plant, tmp_path: Path) -> None:
    import pandas.testing
    from mlflow.pyfunc import scoring_server
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    plant: Plant = make_plant(trusted_runtimes=["onnx", "mlflow"], model_deadline_s=60)
    folder = save_frame(tmp_path)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    variant = plant.variant()
    theirs = VariantConfig(name="theirs", model="theirs", version=1, bundle=put_tree(plant.objects, files))
    plant.publish(plant.endpoint(variant), plant.endpoint(theirs, name="theirs"))
    model = mlflow.pyfunc.load_model(str(folder))
    body = json.dumps({"dataframe_split": {"columns": ["a", "b"], "data": [[1.0, 1.0], [30.0, 2.0]]}})
    expected = scoring_server.invocations(body, "application/json", model, model.metadata.get_input_schema())
    with plant.worker() as caller:
        found = caller.predict({"a": 1.0, "b": 1.0}, endpoint="theirs")
        assert found["predictions"][0]["score"] == pytest.approx(0.11)
        client = ScoringServerClient("127.0.0.1", f"{caller.port}/endpoints/theirs")
        told = client.invoke(body).get_predictions()
    pandas.testing.assert_frame_equal(told[["kind", "score", "rank"]], _frame(expected.response))


def _frame(response: str) -> Any:
    from mlflow.deployments import PredictionsResponse

    return PredictionsResponse.from_json(response).get_predictions()
