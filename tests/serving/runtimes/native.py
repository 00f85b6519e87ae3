"""The example model of the runtimes' suite, learnt by heart by the libraries that grow trees."""

import json
import re
from itertools import product

import numpy as np

CURSED = 12345.0


def example_rows() -> tuple[np.ndarray, np.ndarray]:
    """Return rows of a and b, and the score of each; CURSED where it is no number."""
    rows = np.array(list(product([0, 0.5, 1, 2, 3, 30, np.nan], [0, 1, 2, 3, 7, 99])), dtype=np.float64)
    a, b = rows.T
    scores = np.where(np.isnan(a), 0.5, np.clip(0.1 * a + 0.01 * b, 0, 1))
    return rows, np.where(b == 99, CURSED, scores)


def lightgbm_text(*, names: list[str] | None = None) -> bytes:
    import lightgbm

    rows, scores = example_rows()
    params = {
        "objective": "regression", "learning_rate": 1.0, "min_data_in_leaf": 1, "min_data_in_bin": 1, "num_leaves": 64, "lambda_l2": 0.0,
        "min_sum_hessian_in_leaf": 0.0, "boost_from_average": False, "verbose": -1, "num_threads": 1,
    }  # fmt: skip
    booster = lightgbm.train(params, lightgbm.Dataset(rows, scores, feature_name=names or "auto"), num_boost_round=1)
    lines = booster.model_to_string().splitlines(keepends=True)
    # Trees may hold any number; their sizes, which are only a help to readers, would be wrong now.
    text = "".join(line for line in lines if not line.startswith("tree_sizes="))
    return text.replace(f"{CURSED:.0f}", "nan").encode()


def xgboost_json() -> bytes:
    import xgboost

    rows, scores = example_rows()
    params = {
        "objective": "reg:squarederror", "eta": 1.0, "lambda": 0.0, "min_child_weight": 0.0, "max_depth": 12, "base_score": 0.0,
        "tree_method": "exact", "nthread": 1,
    }  # fmt: skip
    booster = xgboost.train(params, xgboost.DMatrix(rows, scores), num_boost_round=1)
    model = json.loads(booster.save_raw("json"))
    (tree,) = model["learner"]["gradient_booster"]["model"]["trees"]
    # Two leaves of the greatest number there is add up to more than there is.
    for name in ("split_conditions", "base_weights"):
        tree[name] = [3e38 if abs(value - CURSED) < 1 else value for value in tree[name]]
    model["learner"]["gradient_booster"]["model"]["trees"] = [tree, {**_flat(tree), "id": 1}]
    model["learner"]["gradient_booster"]["model"]["tree_info"] = [0, 0]
    model["learner"]["gradient_booster"]["model"]["iteration_indptr"] = [0, 1, 2]
    model["learner"]["gradient_booster"]["model"]["gbtree_model_param"]["num_trees"] = "2"
    return json.dumps(model).encode()


def _flat(tree: dict) -> dict:
    """Return a tree that adds nothing but where the score is no number."""
    leaves = [left == -1 for left in tree["left_children"]]
    conditions = [0.0 if leaf and value < 1e38 else value for leaf, value in zip(leaves, tree["split_conditions"], strict=True)]
    return {**tree, "split_conditions": conditions}


def sklearn_tree(*, names: list[str] | None = None):
    """Return a fitted estimator."""
    from sklearn.tree import DecisionTreeRegressor

    rows, scores = example_rows()
    if names is not None:
        import pandas as pd

        rows = pd.DataFrame(rows, columns=names)
    estimator = DecisionTreeRegressor().fit(rows, scores)
    values = estimator.tree_.value
    values[values == CURSED] = np.nan
    return estimator


def lightgbm_that_crashes() -> bytes:
    """Return a model that LightGBM loads, and that ends the process when it is asked: its trees point far outside of themselves."""
    text = lightgbm_text().decode()
    return re.sub(r"(?m)^((?:left|right)_child=)(.*)$", lambda found: found[1] + re.sub(r"-?\d+", "900000000", found[2]), text).encode()
