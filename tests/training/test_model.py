"""Training end to end on a small world: it learns, it is the same each time, it says JSON."""

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from tests.training import worlds
from tidemill.core.codec import decode, encode
from tidemill.core.errors import Invalid
from tidemill.stats.scores import auc, expected_calibration_error
from tidemill.training.encoding import Matrix, fit_encoding, labels
from tidemill.training.encoding import encode as encode_rows
from tidemill.training.model import TrainedModel, score, train
from tidemill.training.splits import split_by_time
from tidemill.training.trees import TreeData, TreeParams, fit_trees, importance

SMALL = TreeParams(rounds=30, min_data_in_leaf=20)


def fit(table: pa.Table, *, seed: int = 0, params: TreeParams = SMALL) -> TrainedModel:
    before, after = split_by_time(table, timestamp="at", last=timedelta(hours=table.num_rows // 4))
    return train(before, after, label="late", numeric=worlds.NUMERIC, categorical=worlds.CATEGORICAL, params=params, seed=seed)


@pytest.mark.slow
def test_it_learns_what_makes_flights_late_and_says_so_honestly() -> None:
    model = fit(worlds.flights())
    fresh = worlds.flights(seed=1)
    labels = fresh["late"].to_numpy()
    assert auc(labels, score(model, fresh)) > 0.7
    assert expected_calibration_error(labels, score(model, fresh)) < 0.05
    assert set(list(importance(model.trees))[:3]) == {"wind", "hour", "carrier"}
    assert sum(importance(model.trees).values()) == pytest.approx(1)


@pytest.mark.slow
def test_the_same_rows_and_seed_give_an_equal_model() -> None:
    assert fit(worlds.flights()) == fit(worlds.flights())
    assert fit(worlds.flights()) != fit(worlds.flights(), seed=1)


def test_a_model_passes_between_steps_as_json() -> None:
    table = worlds.flights(400)
    model = fit(table)
    again = decode(encode(model), TrainedModel)
    assert again == model
    np.testing.assert_array_equal(score(again, table), score(model, table))


def test_rows_are_binned_once_for_many_fits() -> None:
    table = worlds.flights(500)
    encoding = fit_encoding(table, numeric=worlds.NUMERIC)
    matrix, late = encode_rows(encoding, table), labels(table, "late")
    shared = TreeData(matrix, late, columns=encoding.columns)
    for params in (TreeParams(rounds=5, min_data_in_leaf=50), TreeParams(rounds=5, min_data_in_leaf=5, num_leaves=31)):
        alone = TreeData(matrix, late, columns=encoding.columns)
        assert fit_trees(shared, params, seed=3) == fit_trees(alone, params, seed=3)


def test_who_watches_a_fit_may_end_it() -> None:
    class Enough(Exception):
        pass

    seen: list[int] = []

    def watch(rounds: int, predict: Callable[[Matrix], np.ndarray]) -> None:
        assert predict(matrix[:7]).shape == (7,)
        seen.append(rounds)
        if rounds == 4:
            raise Enough

    table = worlds.flights(300)
    encoding = fit_encoding(table, numeric=worlds.NUMERIC)
    matrix = encode_rows(encoding, table)
    data = TreeData(matrix, labels(table, "late"), columns=encoding.columns)
    with pytest.raises(Enough):
        fit_trees(data, TreeParams(rounds=10, min_data_in_leaf=10), seed=0, every=2, watch=watch)
    assert seen == [2, 4]


def test_one_outcome_only_is_refused() -> None:
    table = worlds.flights(200)
    always = table.set_column(table.column_names.index("late"), "late", pa.array([True] * 200))
    with pytest.raises(Invalid, match="all 150 labels are True"):
        fit(always)


def test_rows_without_an_outcome_are_refused() -> None:
    table = worlds.flights(200)
    unknown = table.set_column(table.column_names.index("late"), "late", pa.array([None] * 200, pa.bool_()))
    with pytest.raises(Invalid, match="leave such rows out"):
        fit(unknown)
