"""Fitted models become bundles: ONNX when it says the same, else the library's own file, with the figures and the reason."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tidemill.core.codec import decode
from tidemill.core.errors import Invalid
from tidemill.core.signature import SPEC_FILE, ModelSpec
from tidemill.serving.runtimes.runtime import load_runtime, read_spec
from tidemill.store.table import open_store
from tidemill.store.trees import read_tree
from tidemill.training.fitted import EXPORT_FILE, Bundled, Export, bundle_model, save_bundle, save_model, store_model, wrap_model
from tidemill.training.sample import read_sample

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(5)
ROWS = RNG.normal(size=(400, 4)).astype(np.float32).astype(np.float64)
LATE = (ROWS @ [1.0, -2.0, 0.5, 0.0] + RNG.normal(size=400)) > 0
DELAY = ROWS @ [10.0, -20.0, 5.0, 0.0]
NAMES = ("wind", "rain", "hour", "load")
COLUMNS = {name: ROWS[:, place].tolist() for place, name in enumerate(NAMES)}


def served(made: Bundled, folder: Path, columns=None) -> np.ndarray:
    """Return what the runtime of a bundle answers."""
    for name, data in made.files.items():
        (folder / name).write_bytes(data)
    spec = read_spec(folder)
    assert spec == made.spec
    columns = COLUMNS if columns is None else columns
    return load_runtime(folder, spec, trusted=[spec.runtime], model="delay@1").run(columns, len(next(iter(columns.values()))))


def lightgbm_model(**params):
    import lightgbm

    label = DELAY if params.get("objective") == "regression" else LATE
    return lightgbm.train(
        {"objective": "binary", "verbose": -1, "num_threads": 1, **params}, lightgbm.Dataset(ROWS, label), num_boost_round=20
    )


@pytest.mark.parametrize("objective", ["binary", "regression"])
def test_lightgbm_goes_out_as_onnx(tmp_path: Path, objective: str) -> None:
    booster = lightgbm_model(objective=objective)
    made = bundle_model(booster, ROWS, columns=NAMES, threshold=0.5)
    assert (made.spec.runtime, made.export.why) == ("onnx", "")
    assert made.export.parity is not None
    assert made.export.parity.rows == 400
    assert made.export.parity.holds
    assert made.spec.request_columns == NAMES
    np.testing.assert_allclose(served(made, tmp_path), booster.predict(ROWS), rtol=1e-5)


def test_an_estimator_of_lightgbm_is_its_booster(tmp_path: Path) -> None:
    import lightgbm

    estimator = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(ROWS, LATE)
    made = bundle_model(estimator, ROWS, columns=NAMES)
    assert made.spec.signature.outputs[0].high == 1.0
    np.testing.assert_allclose(served(made, tmp_path), estimator.booster_.predict(ROWS), atol=1e-6)


def test_several_outcomes_keep_the_text_of_lightgbm(tmp_path: Path) -> None:
    import lightgbm

    classes = RNG.integers(0, 3, 400)
    params = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(params, lightgbm.Dataset(ROWS, classes), num_boost_round=5)
    with pytest.raises(Invalid, match="tells 3 outcomes; say which is the score: output_index"):
        bundle_model(booster, ROWS)
    made = bundle_model(booster, ROWS, columns=NAMES, output_index=2)
    assert (made.spec.runtime, made.export.parity) == ("lightgbm", None)
    assert made.export.why == "only LightGBM models of one score a row are written as ONNX"
    np.testing.assert_allclose(served(made, tmp_path), booster.predict(ROWS)[:, 2])


def test_figures_and_reason_are_kept_when_onnx_says_something_else(tmp_path: Path) -> None:
    rows = np.repeat([[1.0], [1.0 + 1e-9]], 50, axis=0)  # float32 cannot tell them apart
    import lightgbm

    params = {"objective": "binary", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 1, "min_data_in_bin": 1}
    booster = lightgbm.train(params, lightgbm.Dataset(rows, rows[:, 0] > 1), num_boost_round=5)
    made = bundle_model(booster, rows, columns=["fine"])
    export = decode(made.files[EXPORT_FILE], Export)
    assert export == made.export
    assert export.runtime == "lightgbm"
    assert export.parity is not None
    assert not export.parity.holds
    assert export.why.startswith("as ONNX its scores differ by up to 0.")
    assert "on 100 rows, 1e-05 is allowed" in export.why
    np.testing.assert_allclose(served(made, tmp_path, {"fine": rows[:, 0]}), booster.predict(rows))


@pytest.mark.parametrize("form", ["booster", "classifier", "regressor"])
def test_xgboost_goes_out_with_the_scores_of_its_library(tmp_path: Path, form: str) -> None:
    xgboost = pytest.importorskip("xgboost")
    if form == "booster":
        model = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(ROWS, LATE), num_boost_round=10)
        expected = model.inplace_predict(ROWS)
    elif form == "classifier":
        model = xgboost.XGBClassifier(n_estimators=10, n_jobs=1).fit(ROWS, LATE)
        expected = model.predict_proba(ROWS)[:, 1]
    else:
        model = xgboost.XGBRegressor(n_estimators=10, n_jobs=1).fit(ROWS, DELAY)
        expected = model.predict(ROWS)
    made = bundle_model(model, ROWS, columns=NAMES)
    assert made.spec.runtime == "onnx" or made.export.why
    np.testing.assert_allclose(served(made, tmp_path), expected, rtol=1e-4, atol=1e-5)


def test_early_stopping_of_xgboost_counts(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    noise = RNG.integers(0, 2, 400)
    model = xgboost.XGBClassifier(n_estimators=50, n_jobs=1, early_stopping_rounds=2)
    model.fit(ROWS[:200], noise[:200], eval_set=[(ROWS[200:], noise[200:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    made = bundle_model(model, ROWS, columns=NAMES)
    np.testing.assert_allclose(served(made, tmp_path), model.predict_proba(ROWS)[:, 1], atol=1e-5)


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(10, random_state=0),
        HistGradientBoostingClassifier(max_iter=10),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_classifiers_of_scikit_learn_tell_a_probability(tmp_path: Path, estimator) -> None:
    pytest.importorskip("skops")
    made = bundle_model(estimator.fit(ROWS, LATE), ROWS, columns=NAMES)
    assert made.spec.runtime == "onnx" or made.export.why
    np.testing.assert_allclose(served(made, tmp_path), estimator.predict_proba(ROWS)[:, 1], atol=1e-5)


@pytest.mark.parametrize("estimator", [Ridge(), GradientBoostingRegressor(n_estimators=10)], ids=lambda one: type(one).__name__)
def test_regressors_of_scikit_learn_tell_their_prediction(tmp_path: Path, estimator) -> None:
    pytest.importorskip("skops")
    made = bundle_model(estimator.fit(ROWS, DELAY), ROWS, columns=NAMES)
    assert made.spec.signature.outputs[0].high is None
    np.testing.assert_allclose(served(made, tmp_path), estimator.predict(ROWS), rtol=1e-4, atol=1e-4)


KINDS = np.where(DELAY > 15, "late", np.where(DELAY < -15, "early", "on time"))
SEVERAL = np.column_stack([DELAY, -2 * DELAY])


@pytest.mark.parametrize(
    ("estimator", "target", "runtime"),
    [
        (LogisticRegression(max_iter=500), KINDS, "onnx"),
        (LogisticRegression(max_iter=500), LATE + 1, "onnx"),
        (Ridge(), SEVERAL, "onnx"),
        (HistGradientBoostingClassifier(max_iter=5), KINDS, "sklearn"),
    ],
    ids=["three texts in ONNX", "one and two", "two numbers", "three texts in skops"],
)
def test_what_scikit_learn_tells_beside_the_score_is_declared_and_answered(tmp_path: Path, monkeypatch, estimator, target, runtime) -> None:
    pytest.importorskip("skops")
    model = estimator.fit(ROWS, target)
    if runtime == "sklearn":
        monkeypatch.setattr("skl2onnx.convert_sklearn", lambda *_, **__: 1 / 0)
    made = bundle_model(model, ROWS, columns=NAMES, output_index=1)
    assert made.spec.runtime == runtime, made.export.why
    for name, data in made.files.items():
        (tmp_path / name).write_bytes(data)
    scores, others = load_runtime(tmp_path, made.spec, trusted=[runtime], model="delay@1").answer(COLUMNS, len(ROWS))
    found = dict(zip((output.name for output in made.spec.others), others, strict=True))
    if target is SEVERAL:
        assert list(found) == ["predictions"]
        np.testing.assert_allclose(found["predictions"], model.predict(ROWS), rtol=1e-4, atol=1e-3)
        return
    assert list(found) == ["label", "probabilities"]
    assert found["label"].tolist() == model.predict(ROWS).tolist()
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(ROWS), atol=1e-5)
    np.testing.assert_allclose(scores, model.predict_proba(ROWS)[:, 1], atol=1e-5)


def test_two_outcomes_that_are_numbered_say_all_by_their_score() -> None:
    for label in (LATE, LATE.astype(int)):
        assert bundle_model(LogisticRegression().fit(ROWS, label), ROWS, columns=NAMES).spec.others == ()


def test_all_outcomes_of_trees_are_answered(tmp_path: Path) -> None:
    import lightgbm

    xgboost = pytest.importorskip("xgboost")
    classes = RNG.integers(0, 3, 400)
    forest = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=1).fit(ROWS, classes)
    boosted = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(ROWS, classes)
    for number, model in enumerate((forest, boosted)):
        made = bundle_model(model, ROWS, columns=NAMES, output_index=2)
        folder = tmp_path / str(number)
        save_bundle(made, folder)
        scores, (told,) = load_runtime(folder, made.spec, trusted=[made.spec.runtime], model="delay@1").answer(COLUMNS, len(ROWS))
        np.testing.assert_allclose(told, model.predict_proba(ROWS), atol=1e-5)
        np.testing.assert_array_equal(scores, told[:, 2].astype(np.float64))


def test_onnx_that_tells_other_labels_is_not_taken(monkeypatch) -> None:
    pytest.importorskip("skops")
    model = LogisticRegression(max_iter=500).fit(ROWS, KINDS)
    monkeypatch.setattr(type(model), "predict", lambda self, rows: np.full(len(rows), "never"))
    made = bundle_model(model, ROWS, columns=NAMES, output_index=1)
    assert (made.spec.runtime, made.export.why) == ("sklearn", "as ONNX 400 of its 400 label are others")


def test_text_goes_into_onnx_with_its_encoder(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"wind": ROWS[:, 0], "carrier": np.where(LATE, "EV", "UA").astype(object)})
    encoder = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["carrier"]), (StandardScaler(), ["wind"]))
    model = make_pipeline(encoder, LogisticRegression()).fit(frame, LATE)
    made = bundle_model(model, frame, feature_service="delay@1", features=["wind"])
    assert (made.spec.runtime, made.spec.request_columns) == ("onnx", ("carrier",))
    assert [(column.name, column.kind, column.required) for column in made.spec.signature.inputs] == [
        ("wind", "double", False),
        ("carrier", "string", True),
    ]
    columns = {"wind": [1.0, 2.0], "carrier": ["EV", "never seen"]}
    np.testing.assert_allclose(served(made, tmp_path, columns), model.predict_proba(pd.DataFrame(columns))[:, 1], atol=1e-5)


def test_what_is_no_fitted_model_is_refused() -> None:
    with pytest.raises(Invalid, match=r"a builtins\.dict is no fitted model of lightgbm, sklearn, torch, xgboost; write it as ONNX"):
        bundle_model({}, ROWS)
    with pytest.raises(Invalid, match="StandardScaler gives no score; expected a classifier or a regressor"):
        bundle_model(StandardScaler().fit(ROWS), ROWS)


def test_a_bundle_is_written_to_a_folder_or_stored(tmp_path: Path) -> None:
    booster = lightgbm_model()
    export = save_model(booster, tmp_path / "model", ROWS, columns=NAMES)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["export.json", "model.json", "model.onnx"]
    store = open_store("file:objects", cache=tmp_path / "cache", base=tmp_path)
    digest = store_model(store, booster, ROWS, columns=NAMES)
    assert store_model(store, booster, ROWS, columns=NAMES) == digest, "equal models are one bundle"
    files = {entry.path: store.get(entry.digest) for entry in read_tree(store, digest).entries}
    assert decode(files[EXPORT_FILE], Export) == export
    assert decode(files[SPEC_FILE], ModelSpec).runtime == "onnx"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.zeros(3), r"an array of shape \(3,\); expected \[rows, columns\]"),
        (np.zeros((0, 3)), "it has none; give some rows"),
        ({"a": ["x", 1]}, "column 'a' of the sample holds text and 1; expected one of both"),
        ({"a": [object()]}, "column 'a' of the sample is neither numbers nor text"),
    ],
)
def test_a_sample_that_is_none_is_refused(rows, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        read_sample(rows)


def test_a_sample_is_read_from_any_frame() -> None:
    pyarrow, pd = pytest.importorskip("pyarrow"), pytest.importorskip("pandas")
    columns = {"a": [1, None, 3], "b": ["x", None, "z"], "c": [True, False, None]}
    for frame in (columns, pyarrow.table(columns), pd.DataFrame(columns)):
        found = read_sample(frame)
        assert (found.names, found.texts, found.rows) == (("a", "b", "c"), ("b",), 3)
        np.testing.assert_array_equal(found.columns["a"], [1, np.nan, 3])
        assert found.columns["b"].tolist() == ["x", None, "z"]
        np.testing.assert_array_equal(found.columns["c"], [1, 0, np.nan])


AROUND = """
def prepare(columns):
    return {"wind": [float(text.removesuffix(" kn")) for text in columns["told"]], **{n: columns[n] for n in ("rain", "hour", "load")}}

def doubled(columns):
    return columns["score"] * 2
"""


def test_functions_stand_before_and_behind_a_model(tmp_path: Path) -> None:
    (tmp_path / "around.py").write_text(AROUND)
    booster = lightgbm_model(objective="regression")
    plain = bundle_model(booster, ROWS, columns=NAMES, features=("load",), feature_service="delay@1")
    told = {"told": [f"{value} kn" for value in ROWS[:, 0]], **{name: COLUMNS[name] for name in NAMES[1:]}}
    made = wrap_model(plain, tmp_path / "around.py", before="prepare", after="doubled", sample=told)
    assert (made.spec.runtime, made.spec.request_columns) == ("steps", ("told", "rain", "hour"))
    folder = tmp_path / "bundle"
    save_bundle(made, folder)
    runtime = load_runtime(folder, read_spec(folder), trusted=["onnx", "python"], model="delay@1")
    np.testing.assert_allclose(runtime.run(told, 400), 2 * booster.predict(ROWS), rtol=1e-5)
    after = wrap_model(plain, tmp_path / "around.py", after="doubled").spec
    assert (after.request_columns, after.signature.inputs) == (plain.spec.request_columns, plain.spec.signature.inputs)
    with pytest.raises(Invalid, match="nothing is put around the model"):
        wrap_model(plain, tmp_path / "around.py")
