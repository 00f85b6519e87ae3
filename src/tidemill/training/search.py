"""Search params of boosted trees: rows encoded and binned once, thinned, and trials that fall behind ended early."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.core.codec import plain
from tidemill.stats.scores import auc
from tidemill.training.encoding import Matrix, encode, fit_encoding, labels
from tidemill.training.trees import Margins, TreeData, TreeParams, fit_trees
from tidemill.training.tune import Report, Space, Trial, Tuning, tune

LOOK_EVERY = 20


def tune_trees(
    table: pa.Table,
    watched: pa.Table,
    space: Space,
    *,
    label: str,
    numeric: Sequence[str],
    categorical: Sequence[str] = (),
    trials: int,
    seed: int,
    first: TreeParams | None = None,
    rows_max: int = 40_000,
    on_trial: Callable[[Trial], None] | None = None,
) -> Tuning:
    """Look for the params under which trees fitted to table rank the rows of watched best (area under the ROC curve).

    space: ranges of fields of TreeParams; others stay as in first, which is tried first. Of more than rows_max rows every n-th is
    taken, from both tables: the order of params hardly depends on more, the time does. Every 20 rounds a trial is held against
    the median of earlier ones. The same rows, space and seed give the same trials. Raises Invalid as `train` does.
    """
    start = first or TreeParams()
    fit, seen = _thinned(table, rows_max), _thinned(watched, rows_max)
    encoding = fit_encoding(fit, numeric=numeric, categorical=categorical)
    data = TreeData(encode(encoding, fit), labels(fit, label), columns=encoding.columns)
    matrix, truth = encode(encoding, seen), labels(seen, label)

    def objective(params: dict[str, Any], report: Report) -> float:
        values: dict[int, float] = {}

        def watch(rounds: int, predict: Callable[[Matrix], Margins]) -> None:
            values[rounds] = auc(truth, predict(matrix))
            report(rounds, values[rounds])

        chosen = TreeParams(**{**plain(start), **params})
        fit_trees(data, chosen, seed=seed, every=min(LOOK_EVERY, chosen.rounds), watch=watch)
        return values[max(values)]

    return tune(objective, space, trials=trials, seed=seed, first={name: plain(start)[name] for name in space}, on_trial=on_trial)


def best_params(found: Tuning, *, first: TreeParams | None = None) -> TreeParams:
    """Return the params of a search's best trial; fields that were not searched are those of first."""
    return TreeParams(**{**plain(first or TreeParams()), **found.best.params})


def _thinned(table: pa.Table, rows_max: int) -> pa.Table:
    step = -(-table.num_rows // rows_max)
    if step <= 1:
        return table
    places: Any = pa.array(np.arange(0, table.num_rows, step))
    return table.take(places)
