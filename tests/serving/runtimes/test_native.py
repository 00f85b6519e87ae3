"""The runtimes of libraries keep the law, refuse what they cannot read, and never build what a file names."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.serving.plant import Plant
from tests.serving.runtimes.native import lightgbm_text, sklearn_tree, xgboost_json
from tidemill.core.codec import encode
from tidemill.core.errors import Invalid
from tidemill.core.signature import Column, ModelSpec, Signature
from tidemill.core.values import replace
from tidemill.serving.block import Block
from tidemill.serving.runtimes.conformance import RuntimeConformance, example_spec
from tidemill.serving.runtimes.runtime import ModelFailed, Runtime, load_runtime, read_spec
from tidemill.store.trees import put_tree

skops = pytest.importorskip("skops.io")
FRAME = ("a", "b")


def loaded(folder: Path, data: bytes, spec: ModelSpec) -> Runtime:
    (folder / spec.file).write_bytes(data)
    return load_runtime(folder, spec, trusted=[spec.runtime], model="example@1")


class NativeConformance(RuntimeConformance):
    """What all runtimes of one matrix do besides."""

    @pytest.mark.parametrize("kind", [np.float32, np.float64])
    def test_a_block_goes_through_as_it_is(self, runtime: Runtime, kind) -> None:
        rows = np.array([[1, 1], [2, 2], [np.nan, 7]], dtype=kind)
        np.testing.assert_allclose(runtime.run(Block(FRAME, rows), 3), [0.11, 0.22, 0.5], atol=1e-6)
        turned = Block(("b", "a"), rows[:, ::-1])
        np.testing.assert_allclose(runtime.run(turned, 3), [0.11, 0.22, 0.5], atol=1e-6)

    def test_a_model_of_other_columns_is_refused_when_loaded(self, bundle: Path, spec: ModelSpec) -> None:
        with pytest.raises(Invalid, match=r"model example@1 (takes 2 columns, its model.json feeds it 1|was fitted on)"):
            load_runtime(bundle, replace(spec, tensors={"x": ("a",)}), trusted=[spec.runtime], model="example@1")

    def test_one_score_a_row_has_no_columns_to_choose_from(self, bundle: Path, spec: ModelSpec) -> None:
        runtime = load_runtime(bundle, replace(spec, output_index=1), trusted=[spec.runtime], model="example@1")
        assert runtime.run({"a": [1.0], "b": [1]}, 1).shape == (1,)


class MatrixConformance(NativeConformance):
    """What runtimes do that take nothing but numbers."""

    def test_text_is_refused_when_loaded(self, bundle: Path, spec: ModelSpec) -> None:
        inputs = (Column(name="a", kind="double"), Column(name="b", kind="string"))
        with pytest.raises(Invalid, match=r"takes numbers only, its model\.json feeds it the text of b; register it as ONNX"):
            load_runtime(
                bundle,
                replace(spec, signature=Signature(inputs=inputs, outputs=())),
                trusted=[spec.runtime],
                model="example@1",
            )

    def test_two_tensors_are_refused_when_loaded(self, bundle: Path, spec: ModelSpec) -> None:
        with pytest.raises(Invalid, match=r"takes one matrix, its model\.json fills 2 tensors"):
            load_runtime(bundle, replace(spec, tensors={"x": ("a",), "y": ("b",)}), trusted=[spec.runtime], model="example@1")

    def test_what_is_no_number_is_a_failure(self, runtime: Runtime) -> None:
        with pytest.raises(ModelFailed, match="a column holds what is no number"):
            runtime.run({"a": ["one"], "b": [1]}, 1)


class TestLightgbm(MatrixConformance):
    @pytest.fixture
    def spec(self) -> ModelSpec:
        return example_spec("lightgbm", "model.txt")

    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir()
        (folder / "model.txt").write_bytes(lightgbm_text())
        return folder

    def test_categories_of_pandas_are_refused(self, tmp_path: Path, spec: ModelSpec) -> None:
        text = lightgbm_text().replace(b"pandas_categorical:null", b'pandas_categorical:[["x", "y"]]')
        with pytest.raises(Invalid, match="fitted on categories of pandas, whose codes are not the server's"):
            loaded(tmp_path, text, spec)

    def test_a_file_outside_of_the_bundle_is_not_read(self, tmp_path: Path, bundle: Path, spec: ModelSpec) -> None:
        (tmp_path / "model.txt").write_bytes(lightgbm_text())
        for file in ("../model.txt", str(tmp_path / "model.txt")):
            with pytest.raises(Invalid, match="which is outside of its bundle"):
                load_runtime(bundle, replace(spec, file=file), trusted=["lightgbm"], model="example@1")


class TestXgboost(MatrixConformance):
    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("xgboost")

    @pytest.fixture
    def spec(self) -> ModelSpec:
        return example_spec("xgboost", "booster.json")

    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir()
        (folder / "booster.json").write_bytes(xgboost_json())
        return folder

    def test_ubjson_is_the_same_model(self, tmp_path: Path, spec: ModelSpec) -> None:
        import xgboost

        booster = xgboost.Booster()
        booster.load_model(bytearray(xgboost_json()))
        runtime = loaded(tmp_path, bytes(booster.save_raw("ubj")), replace(spec, file="model.ubj"))
        np.testing.assert_allclose(runtime.run({"a": [1.0], "b": [1]}, 1), [0.11], atol=1e-6)

    def test_rounds_after_the_best_are_not_guessed_about(self, tmp_path: Path, spec: ModelSpec) -> None:
        import xgboost

        booster = xgboost.Booster()
        booster.load_model(bytearray(xgboost_json()))
        booster.set_attr(best_iteration="0")
        with pytest.raises(Invalid, match="has 2 rounds, of which early stopping chose 1; save what is to answer"):
            loaded(tmp_path, bytes(booster.save_raw("json")), spec)


class TestSklearn(MatrixConformance):
    @pytest.fixture
    def spec(self) -> ModelSpec:
        return replace(example_spec("sklearn", "model.skops"), output="predict")

    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir()
        (folder / "model.skops").write_bytes(skops.dumps(sklearn_tree()))
        return folder

    def test_a_method_that_it_lacks_is_refused(self, bundle: Path, spec: ModelSpec) -> None:
        for output in ("predict_proba", "fit"):
            with pytest.raises(Invalid, match=rf"has no method '{output}' \(it has: predict\)"):
                load_runtime(bundle, replace(spec, output=output), trusted=["sklearn"], model="example@1")

    def test_a_pickle_is_never_opened(self, tmp_path: Path, spec: ModelSpec) -> None:
        with pytest.raises(Invalid, match="is not in the skops format"):
            loaded(tmp_path, pickle.dumps(Trap()), spec)

    def test_what_is_not_of_scikit_learn_is_never_built(self, tmp_path: Path, spec: ModelSpec) -> None:
        with pytest.raises(Invalid, match=r"holds what is not scikit-learn's: tests\.serving\.runtimes\.test_native\.Trap; register it"):
            loaded(tmp_path, skops.dumps(Trap()), spec)
        assert not Trap.built

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["hist", "neighbours", "forest", "pipeline", "boosting", "calibrated"])
    def test_common_models_are_loaded(self, tmp_path: Path, spec: ModelSpec, name: str) -> None:
        estimator, rows = common(name)
        runtime = loaded(tmp_path, skops.dumps(estimator), replace(spec, output="predict_proba", output_index=1))
        found = runtime.run({"a": rows[:, 0].tolist(), "b": rows[:, 1].tolist()}, len(rows))
        np.testing.assert_allclose(found, estimator.predict_proba(rows)[:, 1], atol=1e-9)


class TestSklearnOfFrames(NativeConformance):
    """An estimator that was fitted on a frame sees a frame."""

    @pytest.fixture
    def spec(self) -> ModelSpec:
        return replace(example_spec("sklearn", "model.skops"), output="predict")

    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Path:
        pytest.importorskip("pandas")
        folder = tmp_path / "bundle"
        folder.mkdir()
        (folder / "model.skops").write_bytes(skops.dumps(sklearn_tree(names=["a", "b"])))
        return folder

    def test_text_goes_into_a_pipeline(self, tmp_path: Path, spec: ModelSpec) -> None:
        import pandas as pd
        from sklearn.compose import make_column_transformer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder

        frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": ["x", "y", "x", "y"]}).astype({"b": object})
        encoder = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["b"]), remainder="passthrough")
        pipeline = make_pipeline(encoder, LogisticRegression()).fit(frame, [0, 1, 0, 1])
        inputs = (Column(name="a", kind="double"), Column(name="b", kind="string"))
        mixed = replace(
            spec, signature=Signature(inputs=inputs, outputs=()), tensors={"a": ("a",), "b": ("b",)},
            output="predict_proba", output_index=1,
        )  # fmt: skip
        runtime = loaded(tmp_path, skops.dumps(pipeline), mixed)
        found = runtime.run({"a": [1.0, 2.0, 9.0], "b": ["x", "y", "never seen"]}, 3)
        expected = pipeline.predict_proba(pd.DataFrame({"a": [1.0, 2.0, 9.0], "b": ["x", "y", "never seen"]}))[:, 1]
        np.testing.assert_allclose(found, expected)


def test_an_mlmodel_that_names_a_file_outside_of_its_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (tmp_path / "model.txt").write_bytes(lightgbm_text())
    inputs = '[{"type": "double", "name": "a"}, {"type": "double", "name": "b"}]'
    for flavor, file in (("lightgbm", "../model.txt"), ("onnx", str(tmp_path / "model.txt"))):
        (folder / "MLmodel").write_text(f"flavors: {{{flavor}: {{data: {file}}}}}\nsignature: {{inputs: '{inputs}'}}\n")
        with pytest.raises(Invalid, match="which is outside of its bundle"):
            load_runtime(folder, read_spec(folder), trusted=["lightgbm", "onnx"], model="theirs@1")


@pytest.mark.slow
def test_a_worker_answers_with_each_of_them(make_plant) -> None:
    pytest.importorskip("xgboost")
    plant: Plant = make_plant(trusted_runtimes=["lightgbm", "onnx", "xgboost"])
    files = {"lightgbm": ("model.txt", lightgbm_text()), "xgboost": ("booster.json", xgboost_json())}
    endpoints = [plant.endpoint()]
    for runtime, (file, data) in files.items():
        bundle = put_tree(plant.objects, {file: data, "model.json": encode(example_spec(runtime, file))})
        endpoints.append(plant.endpoint(replace(plant.variant(), bundle=bundle), name=runtime))
    plant.publish(*endpoints)
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 1, 2, 2]}
    with plant.worker() as caller:
        for name in ("delay", *files):
            assert caller.predict({"a": 30.0, "b": 3}, endpoint=name)["predictions"][0]["score"] == pytest.approx(1.0)
            found = caller.post(f"/v2/models/{name}/infer", {"inputs": [tensor]}).json()
            assert found["outputs"][0]["data"] == pytest.approx([0.11, 0.22])


class Trap:
    """Would tell if anything built it."""

    built: list[str] = []  # noqa: RUF012

    def __reduce__(self):
        return Trap.spring, ()

    def __getstate__(self):
        return {"a": 1}

    def __setstate__(self, state) -> None:
        self.built.append("state")

    @classmethod
    def spring(cls) -> str:
        cls.built.append("called")
        return "x"


def common(name: str):
    """Return a fitted classifier that people have, and rows for it."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    rows = np.random.default_rng(3).normal(size=(60, 2))
    models = {
        "hist": HistGradientBoostingClassifier(max_iter=5),
        "neighbours": KNeighborsClassifier(),
        "forest": RandomForestClassifier(5, random_state=0, n_jobs=-1),
        "pipeline": make_pipeline(StandardScaler(), LogisticRegression()),
        "boosting": GradientBoostingClassifier(n_estimators=5),
        "calibrated": CalibratedClassifierCV(SVC()),
    }
    return models[name].fit(rows, rows.sum(axis=1) > 0), rows
