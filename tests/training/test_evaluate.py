"""The questions asked of a candidate: each passes where it should, and fails where it should."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.training import worlds
from tidemill.core.errors import Invalid
from tidemill.core.ids import Digest
from tidemill.core.values import replace
from tidemill.store.objects import ObjectStore
from tidemill.store.table import open_store
from tidemill.training.bundle import model_spec, write_bundle
from tidemill.training.evaluate import (
    budget_checks,
    calibration_check,
    champion_check,
    parity_check,
    quality_check,
    score_bundle,
    slices_check,
)
from tidemill.training.export import to_onnx
from tidemill.training.model import TrainedModel, score, train
from tidemill.training.splits import split_by_time
from tidemill.training.trees import TreeParams

ROWS = 3000


def world(seed: int = 0, *, skill: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that are right about them to a degree."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1, 1.5, ROWS)
    said = skill * odds + (1 - skill) * rng.normal(-1, 1.5, ROWS)
    return rng.random(ROWS) < 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-said))


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    before, after = split_by_time(worlds.flights(1200), timestamp="at", last=timedelta(hours=300))
    params = TreeParams(rounds=10, min_data_in_leaf=20)
    return train(before, after, label="late", numeric=worlds.NUMERIC, categorical=worlds.CATEGORICAL, params=params)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store("file:objects", cache=tmp_path / "cache", base=tmp_path)


@pytest.fixture
def bundle(store: ObjectStore, model: TrainedModel) -> Digest:
    return write_bundle(store, to_onnx(model), model_spec(model.encoding))


def test_a_stored_bundle_scores_as_the_model_does(store: ObjectStore, bundle: Digest, model: TrainedModel) -> None:
    fresh = worlds.flights(300, seed=5)
    np.testing.assert_allclose(score_bundle(store, bundle, fresh), score(model, fresh), atol=1e-6)


def test_a_bundle_of_another_runtime_is_not_scored_here(store: ObjectStore, bundle: Digest, model: TrainedModel) -> None:
    spec = replace(model_spec(model.encoding), runtime="lightgbm", file="model.txt")
    with pytest.raises(Invalid, match="is of runtime 'lightgbm', and only ONNX is scored here; score it with the model itself"):
        score_bundle(store, write_bundle(store, b"tree", spec), worlds.flights(3))


def test_quality_is_asked_of_the_lower_bound() -> None:
    labels, scores = world()
    found = quality_check(labels, scores, auc_min=0.7)
    assert found.verdict == "pass"
    between = (found.evidence.values["auc"] + found.evidence.values["auc_low"]) / 2
    assert quality_check(labels, scores, auc_min=between).verdict == "fail"


def test_a_candidate_is_held_against_the_champion_on_the_same_rows() -> None:
    labels, champion = world()
    noise = np.random.default_rng(1).normal(0, 1, ROWS)
    slightly, much = (1 / (1 + np.exp(-(np.log(champion / (1 - champion)) + size * noise))) for size in (0.1, 3))
    assert champion_check(labels, slightly, champion, margin=0.01).verdict == "pass"
    assert champion_check(labels, much, champion, margin=0.01).verdict == "fail"
    assert champion_check(labels, champion, much, margin=0.01).verdict == "pass"
    few = slice(0, 60)
    assert champion_check(labels[few], slightly[few], champion[few], margin=0.0001).verdict == "warn"


def test_probabilities_that_boast_are_warned_of() -> None:
    labels, scores = world()
    assert calibration_check(labels, scores, error_max=0.05).verdict == "pass"
    boastful = calibration_check(labels, scores**3, error_max=0.05)
    assert boastful.verdict == "warn"
    assert sum(row[2] for row in boastful.evidence.tables[0].rows) == ROWS


def test_a_slice_that_is_ranked_badly_is_named() -> None:
    labels, scores = world()
    carrier = np.array(["AA", "B6", "UA"])[np.arange(ROWS) % 3]
    table = pa.table({"carrier": carrier})
    assert slices_check(table, labels, scores, by=("carrier",), drop_max=0.1).verdict == "pass"
    spoilt = np.where(carrier == "B6", np.random.default_rng(0).random(ROWS), scores)
    found = slices_check(table, labels, spoilt, by=("carrier",), drop_max=0.1)
    assert found.verdict == "fail"
    assert "carrier B6" in found.summary
    assert len(found.evidence.tables[0].rows) == 3


def test_small_slices_do_not_count() -> None:
    labels, scores = world()
    table = pa.table({"carrier": ["AA"] * (ROWS - 100) + ["HA"] * 100})
    assert [row[1] for row in slices_check(table, labels, scores, by=("carrier",), drop_max=0.1).evidence.tables[0].rows] == ["AA"]


def test_budgets_are_measured_on_one_row(store: ObjectStore, bundle: Digest) -> None:
    table = worlds.flights(10)
    assert [check.verdict for check in budget_checks(store, bundle, table, p99_ms_max=1000, size_bytes_max=10**7)] == ["pass", "pass"]
    assert [check.verdict for check in budget_checks(store, bundle, table, p99_ms_max=1e-6, size_bytes_max=10)] == ["fail", "fail"]


def test_parity_is_a_bound() -> None:
    assert parity_check(1e-7, 10, bound=1e-5).verdict == "pass"
    assert parity_check(1e-4, 10, bound=1e-5).verdict == "fail"
