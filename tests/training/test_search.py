"""The search over trees: the same each time, better than where it began, unknown params named."""

from datetime import timedelta

import pytest

from tests.training import worlds
from tidemill.core.values import replace
from tidemill.training.search import best_params, tune_trees
from tidemill.training.splits import split_by_time
from tidemill.training.trees import TreeParams
from tidemill.training.tune import Real, Trial, Tuning, Whole

SPACE = {"rounds": Whole(low=20, high=60), "learning_rate": Real(low=0.01, high=0.3, log=True)}
FIRST = TreeParams(rounds=20, learning_rate=0.01, min_data_in_leaf=20)


def search(*, seed: int = 0, trials: int = 5, rows_max: int = 40_000, told: list[Trial] | None = None, first: TreeParams = FIRST) -> Tuning:
    before, after = split_by_time(worlds.flights(1200), timestamp="at", last=timedelta(hours=300))
    return tune_trees(
        before, after, SPACE, label="late", numeric=worlds.NUMERIC, categorical=worlds.CATEGORICAL, trials=trials, seed=seed, first=first,
        rows_max=rows_max, on_trial=told.append if told is not None else None,
    )  # fmt: skip


@pytest.mark.slow
def test_it_begins_with_the_params_in_use_and_never_ends_worse() -> None:
    told: list[Trial] = []
    found = search(told=told)
    assert tuple(told) == found.trials
    assert found.trials[0].params == {"rounds": 20, "learning_rate": 0.01}
    assert found.trials[0].value is not None
    assert found.best.value is not None
    assert found.best.value >= found.trials[0].value
    assert best_params(found, first=FIRST) == replace(FIRST, **found.best.params)
    assert best_params(found, first=FIRST).min_data_in_leaf == 20


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials_and_thinning_others() -> None:
    assert search() == search()
    assert search(rows_max=400) != search()


def test_the_value_is_that_of_all_rounds() -> None:
    found = search(trials=1, first=replace(FIRST, rounds=47))
    assert list(found.best.values) == [20, 40, 47]
    assert found.best.values[47] == found.best.value
