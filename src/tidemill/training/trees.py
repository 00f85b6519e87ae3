"""Boosted trees: fit them with LightGBM, always the same ones for the same rows and seed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.core.values import Value
from tidemill.training.encoding import Matrix

Margins = NDArray[np.float64]
# LightGBM's threads spin while they wait for one another: on two busy cores two of them took 4 to 23 s where one took 1.5 to 3.5 s, and
# on two idle ones 1.0 s where one took 1.1 s (115,000 rows, 46 columns, 100 rounds). The trees are the same.
THREADS = 0  # all cores; a process that shares them wants OMP_WAIT_POLICY=PASSIVE, or waiting threads spin


class TreeParams(Value, frozen=True, kw_only=True):
    """What is chosen about boosted trees; the names are LightGBM's."""

    rounds: int = 100
    learning_rate: float = 0.1
    num_leaves: int = 15
    min_data_in_leaf: int = 200
    lambda_l2: float = 5.0
    feature_fraction: float = 0.6
    bagging_fraction: float = 0.8


class Trees(Value, frozen=True, kw_only=True):
    """Fitted trees in LightGBM's text form, which is all that is needed to score, to inspect and to export them."""

    text: str
    columns: tuple[str, ...]


class TreeData:
    """Rows binned once, for any number of fits."""

    def __init__(self, matrix: Matrix, labels: NDArray[np.bool_], *, columns: Sequence[str]) -> None:
        if labels.all() or not labels.any():
            raise Invalid(f"all {labels.size} labels are {bool(labels.size and labels[0])}; expected both outcomes to learn from")
        lightgbm = _lightgbm()
        self.columns = tuple(columns)
        # Plain names: LightGBM refuses some characters that ours may have.
        names = [f"f{place}" for place in range(len(columns))]
        options = {"feature_pre_filter": False, "deterministic": True, "force_row_wise": True, "num_threads": THREADS, "verbose": -1}
        self.dataset: Any = lightgbm.Dataset(
            matrix, label=labels.astype(np.float32), feature_name=names, params=options, free_raw_data=False
        )


def fit_trees(
    data: TreeData,
    params: TreeParams,
    *,
    seed: int,
    every: int = 20,
    watch: Callable[[int, Callable[[Matrix], Margins]], None] | None = None,
) -> Trees:
    """Fit trees to a binary label. The same data, params and seed give the same text, byte for byte.

    watch gets the number of rounds and a function from rows to log odds by the trees so far, after every `every` rounds and the
    last; what it raises ends the fit.
    """
    lightgbm = _lightgbm()
    options = {
        "objective": "binary",
        "learning_rate": params.learning_rate,
        "num_leaves": params.num_leaves,
        "min_data_in_leaf": params.min_data_in_leaf,
        "lambda_l2": params.lambda_l2,
        "feature_fraction": params.feature_fraction,
        "bagging_fraction": params.bagging_fraction,
        "bagging_freq": 1,
        "feature_pre_filter": False,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": THREADS,
        "seed": seed,
        "verbose": -1,
    }
    callbacks = []
    if watch is not None:
        look = watch

        def follow(env: Any) -> None:
            if (env.iteration + 1) % every == 0 or env.iteration + 1 == params.rounds:
                look(env.iteration + 1, lambda matrix: env.model.predict(matrix, raw_score=True, num_threads=THREADS))

        callbacks.append(follow)
    booster = lightgbm.train(options, data.dataset, num_boost_round=params.rounds, callbacks=callbacks)
    return Trees(text=booster.model_to_string(), columns=data.columns)


def margins(trees: Trees, matrix: Matrix) -> Margins:
    """Return the log odds that the trees give each row, before calibration."""
    found: Margins = booster_of(trees).predict(matrix, raw_score=True, num_threads=THREADS)
    return found


def importance(trees: Trees) -> dict[str, float]:
    """Return each column's share of the total gain of all splits, greatest first."""
    gains = np.asarray(booster_of(trees).feature_importance("gain"), dtype=np.float64)
    shares = gains / gains.sum() if gains.sum() > 0 else gains
    return {trees.columns[place]: float(shares[place]) for place in np.argsort(-shares, kind="stable")}


def booster_of(trees: Trees) -> Any:
    """Return LightGBM's own object."""
    return _lightgbm().Booster(model_str=trees.text)


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise ExtraMissing("lightgbm", "ml") from error
    return lightgbm
