"""The ONNX file says what Python says, bit for bit the same file each time, on rows that lie on thresholds too."""

from datetime import timedelta

import numpy as np
import onnx
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tests.training import worlds
from tidemill.core.errors import Invalid
from tidemill.training.calibrate import Calibration, calibrated
from tidemill.training.encoding import encode, fit_encoding, labels
from tidemill.training.export import PARITY_BOUND, check_parity, estimator_to_onnx, feeds, run_onnx, to_onnx
from tidemill.training.model import TrainedModel, score, train
from tidemill.training.splits import split_by_time
from tidemill.training.trees import TreeParams


def fit(table: pa.Table, *, numeric: tuple[str, ...] = worlds.NUMERIC, categorical: tuple[str, ...] = worlds.CATEGORICAL) -> TrainedModel:
    before, after = split_by_time(table, timestamp="at", last=timedelta(hours=table.num_rows // 4))
    return train(before, after, label="late", numeric=numeric, categorical=categorical, params=TreeParams(rounds=20, min_data_in_leaf=20))


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return fit(worlds.flights(2000))


def test_the_file_agrees_with_python_on_fresh_rows(model: TrainedModel) -> None:
    fresh = worlds.flights(2000, seed=9)
    parity = check_parity(to_onnx(model), model.encoding, fresh, score(model, fresh))
    assert parity.rows == 2000
    assert parity.holds
    assert parity.mean <= parity.largest < 1e-6 < parity.bound == PARITY_BOUND


@pytest.mark.slow
def test_rows_on_and_beside_every_threshold_reach_the_same_leaf(model: TrainedModel) -> None:
    graph = onnx.load_from_string(to_onnx(model)).graph
    (trees,) = [node for node in graph.node if node.op_type == "TreeEnsembleRegressor"]
    found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in trees.attribute}
    splits = {
        (feature, np.float32(value))
        for feature, value, mode in zip(found["nodes_featureids"], found["nodes_values"], found["nodes_modes"], strict=True)
        if mode == b"BRANCH_LEQ" and feature < len(worlds.NUMERIC)
    }
    base = worlds.flights(1).to_pylist()[0]
    rows = [
        {**base, "hour": 12.0, worlds.NUMERIC[feature]: float(beside)}
        for feature, value in splits
        for beside in (np.nextafter(value, np.float32(-np.inf)), value, np.nextafter(value, np.float32(np.inf)))
    ]
    table = pa.Table.from_pylist(rows)
    assert len(rows) > 100
    assert check_parity(to_onnx(model), model.encoding, table, score(model, table)).holds


@pytest.mark.slow
@given(
    wind=st.one_of(st.none(), st.floats(allow_nan=False, width=32)),
    hour=st.one_of(st.none(), st.integers(0, 23)),
    rain=st.one_of(st.none(), st.floats(-1, 5, width=32)),
    carrier=st.sampled_from(["AA", "ZZ", "", None]),
    dest=st.sampled_from(["D01", None, "nowhere"]),
)
def test_missing_strange_and_huge_values_are_scored_alike(
    model: TrainedModel, wind: float | None, hour: int | None, rain: float | None, carrier: str | None, dest: str | None
) -> None:
    row = pa.table(
        {
            "wind": pa.array([wind], pa.float64()),
            "hour": pa.array([hour], pa.float64()),
            "rain": pa.array([rain], pa.float64()),
            "carrier": pa.array([carrier], pa.string()),
            "dest": pa.array([dest], pa.string()),
        }
    )
    assert check_parity(to_onnx(model), model.encoding, row, score(model, row)).holds


def test_equal_models_give_equal_bytes(model: TrainedModel) -> None:
    assert to_onnx(fit(worlds.flights(2000))) == to_onnx(model)


def test_the_file_names_its_tensors_and_nothing_of_the_day(model: TrainedModel) -> None:
    made = onnx.load_from_string(to_onnx(model))
    assert [(each.name, each.type.tensor_type.elem_type) for each in made.graph.input] == [
        ("numeric", onnx.TensorProto.FLOAT),
        ("categorical", onnx.TensorProto.STRING),
    ]
    assert [each.name for each in made.graph.output] == ["probability"]
    assert (made.producer_name, made.producer_version, made.doc_string) == ("tidemill", "", "")


@pytest.mark.parametrize(("numeric", "categorical"), [(worlds.NUMERIC, ()), ((), worlds.CATEGORICAL)])
def test_a_model_may_have_columns_of_one_kind_only(numeric: tuple[str, ...], categorical: tuple[str, ...]) -> None:
    table = worlds.flights(800)
    made = fit(table, numeric=numeric, categorical=categorical)
    assert set(feeds(made.encoding, table)) == ({"numeric"} if numeric else {"categorical"})
    assert check_parity(to_onnx(made), made.encoding, table, score(made, table)).holds


def test_trees_without_a_split_are_a_file_too() -> None:
    table = worlds.flights(60)  # fewer rows than two leaves need
    made = fit(table)
    assert check_parity(to_onnx(made), made.encoding, table, score(made, table)).holds


@pytest.mark.slow
@pytest.mark.parametrize("calibration", [None, Calibration(slope=0.5, intercept=-0.3)])
def test_a_scikit_learn_pipeline_is_written_the_same_way(calibration: Calibration | None) -> None:
    table = worlds.flights(1000)
    encoding = fit_encoding(table, numeric=worlds.NUMERIC, categorical=worlds.CATEGORICAL)
    estimator = make_pipeline(SimpleImputer(), LogisticRegression(max_iter=1000)).fit(encode(encoding, table), labels(table, "late"))
    own = estimator.predict_proba(encode(encoding, table))[:, 1].astype(np.float64)
    expected = own if calibration is None else calibrated(calibration, np.log(own / (1 - own)))
    data = estimator_to_onnx(estimator, encoding, calibration)
    assert check_parity(data, encoding, table, expected).holds
    assert estimator_to_onnx(estimator, encoding, calibration) == data


def test_what_has_no_form_in_onnx_is_refused() -> None:
    class Oracle:
        pass

    with pytest.raises(Invalid, match="Oracle cannot be written as ONNX"):
        estimator_to_onnx(Oracle(), fit_encoding(worlds.flights(5), numeric=("wind",)))


def test_a_file_that_says_something_else_is_caught(model: TrainedModel) -> None:
    table = worlds.flights(100)
    wrong = check_parity(to_onnx(model), model.encoding, table, score(model, table) + 1e-3)
    assert not wrong.holds
    assert wrong.largest == pytest.approx(1e-3, rel=1e-2)
    with pytest.raises(Invalid, match="no rows"):
        check_parity(to_onnx(model), model.encoding, table.slice(0, 0), np.empty(0))
    assert run_onnx(to_onnx(model), model.encoding, table).shape == (100,)
