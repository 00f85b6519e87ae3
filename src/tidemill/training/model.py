"""A trained model: encoding, trees and calibration in one value, from which scores and the portable file come."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.core.values import Value
from tidemill.training.calibrate import Calibration, calibrated, fit_calibration
from tidemill.training.encoding import Encoding, encode, fit_encoding, labels
from tidemill.training.trees import TreeData, TreeParams, Trees, fit_trees, margins


class TrainedModel(Value, frozen=True, kw_only=True):
    """A classifier of two outcomes. It says JSON, so it can pass between steps."""

    encoding: Encoding
    trees: Trees
    calibration: Calibration = Calibration()
    params: TreeParams
    seed: int


def train(
    table: pa.Table,
    held_out: pa.Table,
    *,
    label: str,
    numeric: Sequence[str],
    categorical: Sequence[str] = (),
    params: TreeParams | None = None,
    seed: int = 0,
) -> TrainedModel:
    """Fit trees to table and calibrate them on held_out, whose rows they have not seen.

    The same rows, params and seed give an equal model. Raises Invalid for a missing or ill-typed column, or when an outcome is missing.
    """
    chosen = params or TreeParams()
    encoding = fit_encoding(table, numeric=numeric, categorical=categorical)
    data = TreeData(encode(encoding, table), labels(table, label), columns=encoding.columns)
    trees = fit_trees(data, chosen, seed=seed)
    calibration = fit_calibration(margins(trees, encode(encoding, held_out)), labels(held_out, label))
    return TrainedModel(encoding=encoding, trees=trees, calibration=calibration, params=chosen, seed=seed)


def score(model: TrainedModel, table: pa.Table) -> NDArray[np.float64]:
    """Return the probability of the positive outcome for each row."""
    return calibrated(model.calibration, margins(model.trees, encode(model.encoding, table)))
